"""A shard's control page: how much of its log is durable, in one word that every process can look up in a microsecond.

The page is a cache, bound to one boot of the machine. When it is void - another boot, never written, damaged, or its
writer died in the middle of a publication - whoever notices takes the shard lock and rebuilds it from the log.

The word of an earlier boot is still good for one thing: it was published after the flush, so a durable log that is
shorter now has lost acknowledged writes.

Read and written with ``pread`` and ``pwrite`` rather than mapped: half a microsecond dearer, but a page that somebody
truncates is then a void page, where a mapped one would be a SIGBUS.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from coordinator.digests import blake2b
from coordinator.errors import StorageError
from coordinator.system import failpoints, files, processes

PAGE_BYTES = 4096
_MAGIC = b"CKEEPCTL"
_MASK = 0x5A5A_C3C3_A5A5_3C3C
#: magic, hash of the boot id | word, the word masked, revision | pid of the lock's holder
_BINDING, _WORD, _HOLDER = struct.Struct("<8s16s"), struct.Struct("<QQQ"), struct.Struct("<Q")
_WORD_AT, _HOLDER_AT = 64, 128
#: Looks before two words that do not belong together are taken for what a dead writer left. Arbitrary.
_LOOKS = 100
_END_BITS = 40


class ControlPage:
    """The page, open. Closed when the last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        """Open the page, creating it where it is missing; on a read-only file system only to read. Raises ``StorageError``."""
        self.path = path
        self._fd = -1
        try:
            self._fd, self.is_writable = files.open_for_update(path, os.O_CREAT, "control.open")
            size = os.fstat(self._fd).st_size
            if size < PAGE_BYTES and self.is_writable:
                # Written, not truncated to length: a publication must not meet a full disk.
                os.pwrite(self._fd, bytes(PAGE_BYTES - size), size)
        except OSError as error:
            raise StorageError.from_os(error, "open", path) from error
        self._boot = blake2b(processes.boot_id().encode(), digest_size=16).digest()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def is_removed(self) -> bool:
        """Tell whether somebody deleted the file: what is published here reaches nobody any more."""
        return os.fstat(self._fd).st_nlink == 0

    def is_of_this_boot(self) -> bool:
        """Tell whether the page was written since the machine started."""
        return self._read(0, _BINDING.size) == _BINDING.pack(_MAGIC, self._boot)

    def read(self) -> int | None:
        """Return the published word (see ``split``), ``None`` if there is none that holds."""
        for _ in range(_LOOKS):
            word, check = _read_pair(self._read(_WORD_AT, 16))
            if word ^ _MASK == check:
                return word
        return None

    def read_revision(self) -> int:
        """Return the revision published last. A hint; only repair uses it."""
        data = self._read(_WORD_AT, _WORD.size)
        return int(_WORD.unpack(data)[2]) if len(data) == _WORD.size else 0

    def publish(self, generation: int, end: int, revision: int) -> None:
        """Let everybody see the log of that generation up to ``end``. Call it under the shard lock, after the flush."""
        assert end < 1 << _END_BITS, "a log is compacted long before a terabyte"
        word = generation << _END_BITS | end
        self._write(_WORD.pack(word, word ^ _MASK, revision), _WORD_AT)

    def bind(self) -> None:
        """Say that the page is of this boot. Call it after ``publish``."""
        self._write(_BINDING.pack(_MAGIC, self._boot), 0)

    def set_holder(self, pid: int) -> None:
        """Note who holds the shard lock (0: nobody), for the message of those who wait in vain."""
        try:
            os.pwrite(self._fd, _HOLDER.pack(pid), _HOLDER_AT)
        except OSError:
            return  # a note only

    def read_holder(self) -> int:
        """Return the pid of who took the shard lock last, 0 if it was given back."""
        data = self._read(_HOLDER_AT, _HOLDER.size)
        pid = int(_HOLDER.unpack(data)[0]) if len(data) == _HOLDER.size else 0
        return pid if pid < 1 << 31 else 0

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self._fd, length, offset)
        except OSError as error:
            raise StorageError.from_os(error, "read", self.path) from error

    def _write(self, data: bytes, offset: int) -> None:
        try:
            failpoints.hit("control.write")
            os.pwrite(self._fd, data, offset)
        except OSError as error:
            raise StorageError.from_os(error, "write", self.path) from error


def split(word: int) -> tuple[int, int]:
    """Return the generation and the end of the log that a published word says."""
    return word >> _END_BITS, word & ((1 << _END_BITS) - 1)


def _read_pair(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")
