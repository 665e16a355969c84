"""Locks that die with their holder: the kernel's ``flock``, held through one open file.

An ``flock`` goes away with the last descriptor of its open file, so kill -9 frees it. A forked child would keep it:
every lock's descriptor is closed on exec, and nobody here forks without exec while holding one.
Not promised: network file systems.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.errors import Busy, StorageError
from coordinator.system import failpoints

#: A holder that takes the lock again at once leaves it free for some 20 us in 200: with long pauses a waiter would starve.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.002
_TRY = fcntl.LOCK_EX | fcntl.LOCK_NB
#: Looks at a lock without a pause between them.
_YIELDS = 8


@contextmanager
def locked(path: Path, *, timeout_s: float, shared: bool = False) -> Iterator[int]:
    """Hold the lock of ``path`` (created if missing); yields its descriptor. Raises ``Busy`` after ``timeout_s``."""
    fd = open_lock(path)
    try:
        acquire(fd, path, timeout_s=timeout_s, shared=shared)
        yield fd
    finally:
        os.close(fd)


def open_lock(path: Path) -> int:
    """Open the lock file of ``path``, creating it (mode 0600); the caller closes it."""
    try:
        failpoints.hit("locks.open")
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError.from_os(error, "lock", path) from error


def acquire(fd: int, path: Path, *, timeout_s: float, shared: bool = False) -> None:
    """Take the lock on an open lock file. Raises ``Busy`` after ``timeout_s``."""
    deadline_s = time.monotonic() + timeout_s
    pause_s = _FIRST_PAUSE_S
    while not try_acquire(fd, path, shared=shared):
        if time.monotonic() >= deadline_s:
            raise Busy(
                f"{path} has been locked by another process for {timeout_s:g} s",
                hint="try again; `crewkeep doctor` names who holds it",
                path=str(path),
            )
        time.sleep(pause_s * random.uniform(0.5, 1.0))
        pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)


def try_acquire(fd: int, path: Path, *, shared: bool = False) -> bool:
    """Take the lock if it is free; tell whether it was."""
    try:
        failpoints.hit("locks.flock")
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            return False
        raise StorageError.from_os(error, "lock", path) from error
    return True


def release(fd: int) -> None:
    """Give the lock back, keeping the file open."""
    fcntl.flock(fd, fcntl.LOCK_UN)


class LockFile:
    """A lock that is taken often: its file stays open between two holdings. Any thread may use it, one holds it.

    After a fork the child opens the file anew, so that it neither holds nor frees what its parent holds.
    """

    _fd: int

    def __init__(self, path: Path, *, may_go: bool = True) -> None:
        """Nothing is opened before it is needed. ``may_go=False`` leaves it to the caller to see whether it ``is_there``."""
        self.path, self._may_go = path, may_go
        self._reset()
        _LOCK_FILES.add(self)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def open(self) -> int:
        """Return the descriptor of the lock's file, opening it where it is not open. Raises ``StorageError``."""
        if self._fd < 0:
            self._fd = open_lock(self.path)
        return self._fd

    def try_acquire(self) -> bool:
        """Take the lock if it is free at this moment; tell whether it was. Raises ``StorageError``."""
        if not self._mine.acquire(False):
            return False
        try:
            if failpoints.armed:
                failpoints.hit("locks.flock")
            fcntl.flock(self._fd if self._fd >= 0 else self.open(), _TRY)
        except BlockingIOError:
            self._mine.release()
            return False
        except BaseException as error:
            self._mine.release()
            if isinstance(error, OSError) and not isinstance(error, StorageError):
                raise StorageError.from_os(error, "lock", self.path) from error
            raise
        return not self._may_go or self.is_there() or self.try_acquire()

    def is_linked(self) -> bool:
        """Tell whether the lock's file still has a name; where the system does not say, it is taken to have one."""
        try:
            return os.fstat(self._fd).st_nlink > 0
        except OSError:
            return True

    def is_there(self) -> bool:
        """Tell of a lock that is held whether its file is still the one that others open; if not, it is held no more."""
        if self.is_linked():
            return True
        os.close(self._fd)  # somebody removed the file: whoever opens it now locks another one
        self._fd = -1
        self._mine.release()
        return False

    def acquire(self, timeout_s: float) -> bool:
        """Take the lock, waiting up to ``timeout_s``; tell whether it is held now. Raises ``StorageError``."""
        deadline_s, pause_s, looks = 0.0, _FIRST_PAUSE_S, 0
        while not self.try_acquire():
            looks += 1
            now_s = time.monotonic()
            deadline_s = deadline_s or now_s + timeout_s
            if now_s >= deadline_s:
                return False
            if looks <= _YIELDS:
                os.sched_yield()  # most holders are done within microseconds, once they get the processor
            else:
                time.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 1.5, _LONGEST_PAUSE_S)
        return True

    def release(self) -> None:
        """Give the lock back."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # said aloud: a forked child has a copy, and closing ours would not do
        finally:
            self._mine.release()

    def _reset(self) -> None:
        self._mine = threading.Lock()
        self._fd = -1


_LOCK_FILES: weakref.WeakSet[LockFile] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for lock in list(_LOCK_FILES):
        inherited = lock._fd
        lock._reset()
        if inherited >= 0:
            os.close(inherited)


os.register_at_fork(after_in_child=_after_fork_in_child)


@contextmanager
def administrative_lock(path: Path, *, timeout_s: float) -> Iterator[None]:
    """Hold the lock of a rare act of several steps (making a home, installing the unit); never on a hot path.

    It is filelock's, which also knows what to do on a file system without ``flock``. Raises ``Busy`` after ``timeout_s``.
    """
    from filelock import FileLock, Timeout  # 10 ms that only who makes or installs something pays

    try:
        with FileLock(path, timeout=timeout_s, mode=0o600):
            yield
    except Timeout as error:
        raise Busy(f"{path} has been locked by another process for {timeout_s:g} s", hint="try again", path=str(path)) from error
