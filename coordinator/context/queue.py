"""A queue before a lock: who waits sleeps, the one that has waited longest is woken first, and nobody polls.

The lock is the kernel's and goes away with its holder; the queue is one number of the context's bell. A sleeper that was
woken and died before it took the lock is noticed after a moment.
"""

from __future__ import annotations

import time
from pathlib import Path

from coordinator.system.locks import LockFile
from coordinator.system.wakeup import Bell, Nap

_NAP = Nap(0.01)


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
        LockFile.release(self)
        self._bell.wake(self._word, 1)
