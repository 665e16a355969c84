"""A turn: who updates a key that others update as well queues up here, so that few of them meet, and none starves.

It is a courtesy, not a lock: the versions are compared all the same, and who has waited too long goes on without it.
"""

from __future__ import annotations

import time
from pathlib import Path

from coordinator.system.locks import LockFile
from coordinator.system.wakeup import Bell

#: Somebody who was woken and died before taking the turn is noticed after so long.
_LONGEST_SLEEP_S = 0.01


class Turn:
    """The queue of one shard. Who waits longest is woken first."""

    def __init__(self, path: Path, bell: Bell, word: int) -> None:
        """``word`` is the number of the bell that belongs to this queue alone."""
        self._lock, self._bell, self._word = LockFile(path, may_go=False), bell, word

    def acquire(self, timeout_s: float) -> bool:
        """Take the turn; tell whether it came within ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        while not self._lock.acquire(0):
            seen = self._bell.value(self._word)
            if self._lock.acquire(0):
                return True
            rest_s = deadline_s - time.monotonic()
            if rest_s <= 0:
                return False
            self._bell.wait(seen, min(rest_s, _LONGEST_SLEEP_S), self._word)
        return True

    def release(self) -> None:
        """Let the next one have it."""
        self._lock.release()
        self._bell.ring(self._word, waiters=1)
