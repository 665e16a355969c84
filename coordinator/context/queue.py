"""A queue before a lock: who waits sleeps, the one that has waited longest is woken first, and nobody polls.

The lock is the kernel's and goes away with its holder; the queue is one number of the context's bell. A sleeper that was
woken and died before it took the lock is noticed after a moment.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from coordinator.errors import StorageError
from coordinator.system.locks import LockFile
from coordinator.system.wakeup import Bell, Nap

_NAP = Nap(0.01)
#: Who wakes by itself is at the queue's end again.
_LONG_NAP = Nap(0.03)
_WANTED_BYTES = 8


class QueuedLock(LockFile):
    """A lock file with a queue. Any thread may use it, one holds it."""

    def __init__(self, path: Path, bell: Bell, word: int, *, may_go: bool = True) -> None:
        """``word`` is the number of the bell that belongs to this queue alone; ``may_go`` as for ``LockFile``."""
        super().__init__(path, may_go=may_go)
        self._bell, self._word = bell, word

    def acquire(self, timeout_s: float) -> bool:
        """Take the lock; tell whether it came within ``timeout_s``. Raises ``StorageError``."""
        deadline_s = time.monotonic() + timeout_s
        while True:
            seen = self._bell.value(self._word)
            if self.try_acquire():
                return True
            if time.monotonic() >= deadline_s:
                return False
            self._bell.doze(seen, self._word, _NAP)

    def release(self) -> None:
        """Let the next one have it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # as in every lock file; with each call that is spared a commit is faster
        finally:
            self._mine.release()
        self._bell.wake(self._word, 1)


class FairLock(QueuedLock):
    """A queue that nobody overtakes: who comes while others wait goes behind them, also if the lock is free at that moment.

    The file says what the one waits for that came last. It is a hint: where it is wrong, somebody waits a moment for nothing,
    or is overtaken once.
    """

    def acquire(self, timeout_s: float, what: bytes = b"?") -> bool:
        """Take the lock; tell whether it came within ``timeout_s``. ``what`` is what others are told that it is wanted for."""
        deadline_s = time.monotonic() + timeout_s
        seen = self._bell.value(self._word)
        if not self.find_wanted() and self.try_acquire():
            return True
        while time.monotonic() < deadline_s:
            self._note_wanted(what)
            self._bell.doze(seen, self._word, _LONG_NAP)
            seen = self._bell.value(self._word)
            if self.try_acquire():
                return True
        return False

    def release(self) -> None:
        LockFile.release(self)
        if not self._bell.wake(self._word, 1) and self.find_wanted():
            self._note_wanted(b"")
            self._bell.wake(self._word, 1)  # who came in between believed it and sleeps

    def find_wanted(self) -> bytes:
        """Return what somebody waits for, nothing if nobody does."""
        try:
            return os.pread(self.open(), _WANTED_BYTES, 0).rstrip(b"\0")
        except (OSError, StorageError):
            return b""

    def _note_wanted(self, what: bytes) -> None:
        try:
            os.pwrite(self.open(), what.ljust(_WANTED_BYTES, b"\0"), 0)
        except (OSError, StorageError):
            return  # it is a hint
