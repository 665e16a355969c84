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
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.errors import Busy, StorageError
from coordinator.system import failpoints

#: A holder that takes the lock again at once leaves it free for some 20 us in 200: with long pauses a waiter would starve.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0002, 0.002


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
