"""A bell: numbers in a small shared file that processes wait on and ring, each number for somebody else's interest.

Ringing adds one to a number and wakes every waiter of every process that waits for it. On Linux the numbers are futexes in a
mapped page, and one system call (FUTEX_WAKE_OP) does both, so that no ring is lost between two ringers. A waiter says which
number it has seen: if another is there already it returns at once, so nothing is lost between looking and waiting either.

Invariants:
  - the mapped page is never touched by our own code: the number is read with ``pread`` and raised by the kernel, so a
    file that somebody truncated costs an error code and is mended, where a mapped read would be SIGBUS
  - a bell carries no data and survives nothing: it may ring for no reason, and what it announces must be looked up
Fallbacks: without futexes (macOS, unknown processors), or when the file may only be read, a waiter looks again and
again, at last every 10 ms.
Not promised: the number's width beyond 32 bits; only whether it differs has a meaning.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from coordinator.errors import StorageError

#: So many numbers has a bell.
WORDS = 1024
#: The fallback looks so often, more often at first.
_FIRST_POLL_S, _POLL_S = 0.0005, 0.01
_PAGE_BYTES = 4096
_FOUR = struct.Struct("=4I")
_WAIT, _WAKE_OP = 0, 5
#: FUTEX_OP_ADD of 1, comparison "== 0": encoded as <linux/futex.h> says.
_ADD_ONE = (1 << 28) | (0 << 24) | (1 << 12) | 0
EVERYBODY = 0x7FFFFFFF
#: What a futex call may say without anything being wrong.
_USUAL = frozenset((errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT))
#: So often at most a ringer looks whether the bell is still the file that others wait for. Arbitrary.
_LOOK_EVERY_S = 0.1
#: The number of the system call, by processor; 64-bit processes only (32-bit ones have two futex calls).
_FUTEX_CALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238, "loongarch64": 98}


class Bell:
    """A handle on the bell at a path. Any thread may use it."""

    #: ``futex`` or ``poll``: how ``wait`` waits.
    mode: str

    def __init__(self, path: Path) -> None:
        """Open the bell, making its file if it is missing. Raises ``StorageError``."""
        self._path = path
        self._guard = threading.Lock()
        self._closed = False
        #: Numbers that threads of this process wait for at present, each as often as there are such threads.
        self._waiting: list[int] = []
        self._next_look_s = 0.0
        self._fd = -1
        self._page: _Page | None = None
        self._open()

    def reopen(self) -> None:
        """Begin anew in a forked child, where no thread is inside a call any more."""
        self._guard, self._waiting = threading.Lock(), []
        if not self._closed:
            self._mend()

    def value(self, word: int = 0) -> int:
        """Return a number as it is now."""
        try:
            data = os.pread(self._fd, 4, 4 * word) if self._fd >= 0 else b""
        except OSError:
            data = b""
        return int.from_bytes(data, sys.byteorder) if len(data) == 4 else 0

    def values(self, word: int) -> tuple[int, ...]:
        """Return this number and the three that stand behind it, as they are now."""
        try:
            return _FOUR.unpack(os.pread(self._fd, _FOUR.size, 4 * word))
        except (OSError, struct.error):
            return (0, 0, 0, 0)

    def ring(self, *words: int) -> None:
        """Raise numbers by one (the first if none is named) and wake everybody who waits for them.

        Never blocks, never fails: who misses it looks by itself.
        """
        if self._closed:
            return
        if (now_s := time.monotonic()) >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_EVERY_S
            if not self._is_whole():
                self._mend()
        for word in words or (0,):
            self.wake(word, EVERYBODY)

    def wake(self, word: int, waiters: int) -> int:
        """Raise a number by one and wake so many of those who wait for it, without a look whether the file is still whole.

        Returns how many were woken, where that is known.
        """
        page = self._page  # keeps the mapping alive for the length of the call
        if page is not None:
            address = page.find(word)
            woken: int = _wake(_CALL, address, _WAKE_OP, waiters, None, address, _ADD_ONE)
            if woken >= 0:
                return woken
        if not self._closed:
            self._raise_by_hand(word)
        return 0

    def doze(self, seen: int, word: int, nap: Nap) -> bool:
        """Wait until the number differs from ``seen``, or about so long, or for no reason; tell whether it was shorter."""
        page = self._page
        if page is None:
            time.sleep(_FIRST_POLL_S)
            return False
        if _wait(_CALL, page.find(word), _WAIT, seen, nap.pointer, None, 0) >= 0:
            return True
        number = ctypes.get_errno()
        if number not in _USUAL:
            self._mend()  # the page is gone below us
            time.sleep(_FIRST_POLL_S)
        return number != errno.ETIMEDOUT

    def wait(self, seen: int, timeout_s: float, word: int = 0) -> int:
        """Wait until the number differs from ``seen``, at most ``timeout_s``; return it. Closing ends the wait."""
        deadline_s = time.monotonic() + timeout_s
        with self._guard:
            if self._closed:
                return seen
            self._waiting.append(word)
        try:
            return self._wait(seen, deadline_s, word)
        finally:
            with self._guard:
                self._waiting.remove(word)
                self._let_go()

    def close(self) -> None:
        """End the waits on this handle and let go of the file. Closing twice is allowed."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
            if self._page is not None:
                # A ring, since a waiter cannot be woken alone; to others it means nothing, as any ring may.
                for word in self._waiting:
                    self.wake(word, EVERYBODY)
            self._let_go()

    def _let_go(self) -> None:
        """Close the file after the last waiter, whose descriptor must not become somebody else's meanwhile."""
        if self._closed and not self._waiting and self._fd >= 0:
            os.close(self._fd)
            self._fd, self._page = -1, None

    def _wait(self, seen: int, deadline_s: float, word: int) -> int:
        if not self._is_whole():
            self._mend()
        pause_s = _FIRST_POLL_S
        while not self._closed:
            value = self.value(word)
            rest_s = deadline_s - time.monotonic()
            if value != seen or rest_s <= 0:
                return value
            if self._page is None:
                time.sleep(min(rest_s, pause_s))
                pause_s = min(pause_s * 2, _POLL_S)
            else:
                self.doze(seen, word, Nap(rest_s))
        return seen

    def _open(self) -> None:
        try:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                writable = True
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                    raise
                fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                writable = False
            try:
                if writable and (size := os.fstat(fd).st_size) < _PAGE_BYTES:
                    # Written, not truncated to length: a hole on a full disk could not be raised by the kernel.
                    os.pwrite(fd, bytes(_PAGE_BYTES - size), size)
                page = _Page(fd) if writable and _CALL is not None else None
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise StorageError.from_os(error, "open the bell", self._path) from error
        before, self._fd, self._page = self._fd, fd, page
        self.mode = "poll" if page is None else "futex"
        self._writable = writable
        if before >= 0:
            os.dup2(fd, before, inheritable=False)  # another thread may be reading it: its number must not go away
            os.close(fd)
            self._fd = before

    def _mend(self) -> None:
        """Follow a file that was replaced, and make one whole that was truncated; if neither can be, go on without."""
        with self._guard:
            if self._closed:
                return
            try:
                if not self._is_whole():
                    self._open()
            except OSError:
                return

    def _is_whole(self) -> bool:
        try:
            status = os.fstat(self._fd)
        except OSError:
            return False
        return status.st_nlink > 0 and (status.st_size >= _PAGE_BYTES or not self._writable)

    def _raise_by_hand(self, word: int) -> None:
        """The fallback without futexes: the file's lock keeps two ringers apart."""
        if not self._writable:
            return
        try:
            lock = os.open(self._path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            number = (int.from_bytes(os.pread(lock, 4, 4 * word), sys.byteorder) + 1) & 0xFFFFFFFF
            os.pwrite(lock, number.to_bytes(4, sys.byteorder), 4 * word)
        except OSError:
            return
        finally:
            os.close(lock)


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class Nap:
    """How long to doze at most."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.pointer = ctypes.byref(_Timespec(int(seconds), int(seconds % 1 * 1e9)))


class _Page:
    """The mapped page. It is unmapped when the last reference goes: whoever uses an address of it keeps one."""

    def __init__(self, fd: int) -> None:
        self._bytes = (ctypes.c_char * _PAGE_BYTES).from_buffer(mmap.mmap(fd, _PAGE_BYTES))
        self._address = ctypes.addressof(self._bytes)
        #: Of numbers that were used. Made once, so that a call costs half a microsecond less.
        self._addresses: dict[int, ctypes.c_void_p] = {}

    def find(self, word: int) -> ctypes.c_void_p:
        """Return where the number is."""
        address = self._addresses.get(word)
        if address is None:
            address = self._addresses[word] = ctypes.c_void_p(self._address + 4 * word)
        return address


def _find_futex_call(machine: str) -> int | None:
    """Return the number of the futex call, ``None`` where it is not known."""
    if sys.platform != "linux" or sys.maxsize < 2**32:
        return None
    return _FUTEX_CALLS.get(machine)


def _find_syscall(library: ctypes.CDLL) -> Callable[..., int]:
    """Return the C library's ``syscall``. Whoever calls it gives addresses as such and only small numbers as numbers."""
    library.syscall.restype = ctypes.c_long
    return library.syscall


_CALL = _find_futex_call(os.uname().machine)
#: Waking does not wait, so it need not let other threads run meanwhile, nor is it asked what went wrong.
_wake = _find_syscall(ctypes.PyDLL(None))
_wait = _find_syscall(ctypes.CDLL(None, use_errno=True))
