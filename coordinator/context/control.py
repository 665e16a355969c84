"""A shard's control page: how far its log is written, how far it is durable, in words that every process can look up.

``published`` is what may be shown to anybody; ``written`` is what stands in the log, whole and indexed, perhaps not durable
yet; ``begun`` is ahead of ``written`` only while a record is being indexed. Each of them is a ``State`` with a checksum of
its own. ``begun`` and ``written`` belong to who holds the shard lock, ``published`` to who holds the publication lock.

The page is a cache, bound to one boot of the machine. When it is void - another boot, never written, damaged - whoever
notices takes the shard lock and rebuilds it from the log. The state published in an earlier boot is still good for one
thing: it was published after the flush, so a durable log that is shorter now has lost acknowledged writes.

Read and written with ``pread`` and ``pwrite`` rather than mapped: half a microsecond dearer, but a page that somebody
truncates, or whose sector cannot be read, is then an error, where a mapped one would be a SIGBUS.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

from coordinator.digests import blake2b
from coordinator.errors import StorageError
from coordinator.system import failpoints, files, processes

PAGE_BYTES = 4096
_MAGIC = b"CKEEPCT3"
#: magic, hash of the boot id
_BINDING = struct.Struct("<8s8s")
#: The fields of ``State``, then its checksum.
STATE, CHECKSUM = struct.Struct("<QQQQQQII"), struct.Struct("<I")
#: What a state begins with: of which generation and count of cuts it is.
IDENTITY = struct.Struct("<QQ")
STATE_BYTES = STATE.size + CHECKSUM.size
_CHANGING_AT, SUSPECT_AT, FLUSHING_AT, FLUSHED_AT, PUBLISHED_AT, WRITTEN_AT, BEGUN_AT = 16, 24, 32, 56, 64, 128, 192
PUBLISHED, WRITTEN, BEGUN = (slice(at, at + STATE_BYTES) for at in (PUBLISHED_AT, WRITTEN_AT, BEGUN_AT))
_CHANGING, SUSPECT = (slice(at, at + 8) for at in (_CHANGING_AT, SUSPECT_AT))
#: What a page begins with: its binding and both flags.
BEGINNING = slice(0, FLUSHING_AT)
READ_BYTES = BEGUN_AT + STATE_BYTES
_FLAG, NO_FLAG = struct.Struct("<Q"), bytes(8)
#: Looks before a state that does not prove itself is taken for damage: a writer may be writing it. Arbitrary.
_LOOKS = 100


class State(NamedTuple):
    """A log up to some record."""

    generation: int
    #: Rises whenever records that were written are given up, and the index is made anew.
    cuts: int
    #: The end of the record in the log.
    end: int
    revision: int
    #: Where the newest fence or rule stands; 0: there is none.
    standing: int
    #: About so many bytes are still needed; the rest is for compaction.
    kept_bytes: int
    #: Checksum and length of the record.
    checksum: int
    length: int


class Page(NamedTuple):
    """All of the page, as who holds the shard lock reads it. ``written`` and ``begun`` are ``None`` if they are void."""

    published: State | None
    written: State | None
    begun: State | None
    #: Somebody was in the middle of a change of several steps to the table or the names of the files.
    is_changing: bool
    #: What is written above ``published`` could not be flushed, and must be given up.
    is_suspect: bool


class Progress(NamedTuple):
    """How far a log is; ``None`` where that is not known. ``is_suspect`` as in ``Page``."""

    published: State | None
    written: State | None
    is_suspect: bool


class ControlPage:
    """The page, open. Closed when the last reader lets go of it."""

    def __init__(self, path: Path) -> None:
        """Open the page, creating it where it is missing; on a read-only file system only to read. Raises ``StorageError``."""
        self.path = path
        self.fd = -1
        try:
            self.fd, self.is_writable = files.open_for_update(path, os.O_CREAT, "control.open")
            size = os.fstat(self.fd).st_size
            if size < PAGE_BYTES and self.is_writable:
                # Written, not truncated to length: a publication must not meet a full disk.
                files.write_all_at(self.fd, bytes(PAGE_BYTES - size), size)
        except OSError as error:
            raise StorageError.from_os(error, "open", path) from error
        self._boot = blake2b(processes.boot_id().encode(), digest_size=8).digest()
        self.binding = _BINDING.pack(_MAGIC, self._boot)
        #: How a page of this boot begins when nothing is out of the ordinary.
        self.calm = self.binding + bytes(FLUSHING_AT - _BINDING.size)
        #: The states read and written last, with their bytes: most are read again and again.
        self._known: tuple[bytes, State | None] = (b"", None)
        self._encoded: tuple[bytes, State | None] = (b"", None)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def is_removed(self) -> bool:
        """Tell whether somebody deleted the file: what is published here reaches nobody any more."""
        try:
            return os.fstat(self.fd).st_nlink == 0
        except OSError as error:
            raise StorageError.from_os(error, "look at", self.path) from error

    def is_of_this_boot(self) -> bool:
        """Tell whether the page was written since the machine started."""
        return self._read(0, _BINDING.size) == self.binding

    def read(self) -> bytes:
        """Return the page as it is, whatever it is worth; what is missing is zeros. Raises ``StorageError``."""
        try:
            data = os.pread(self.fd, READ_BYTES, 0)
        except OSError as error:
            raise StorageError.from_os(error, "read", self.path) from error
        return data if len(data) == READ_BYTES else data.ljust(READ_BYTES, b"\0")

    def read_published(self) -> State | None:
        """Return what may be shown, ``None`` if that is not known."""
        for _ in range(_LOOKS):
            if (state := self.decode(self._read(PUBLISHED_AT, STATE_BYTES))) is not None:
                return state
        return None

    def read_all(self) -> Page:
        """Return everything. Call it under the shard lock."""
        for _ in range(_LOOKS):
            data = self.read()
            published = self.decode(data[PUBLISHED])
            if published is not None:
                break  # another may be publishing; the rest is ours
        written = begun = None
        if data.startswith(self.binding):
            raw = data[WRITTEN]
            written = self.decode(raw)
            begun = written if data[BEGUN] == raw else self.decode(data[BEGUN])
        is_suspect = self.is_suspect(data)
        return Page(published, written, begun, data[_CHANGING] != NO_FLAG, is_suspect)

    def read_progress(self) -> Progress:
        """Return how far the log is written and published."""
        for _ in range(_LOOKS):
            data = self.read()
            published, written = self.decode(data[PUBLISHED]), self.decode(data[WRITTEN])
            if published is not None and written is not None:
                break
        return Progress(published, written, self.is_suspect(data))

    def read_written(self) -> State | None:
        """Return what stands in the log and is indexed, ``None`` if that is not known."""
        return self.read_progress().written

    def begin(self, state: State) -> None:
        """Say that the log has that record, and that the index may not lead to it yet."""
        self.write(self.encode(state), BEGUN_AT)

    def settle(self, state: State) -> None:
        """Say that the index leads to it."""
        self.write(self.encode(state), WRITTEN_AT)

    def publish(self, state: State) -> None:
        """Let everybody see the log up to there. Call it under the publication lock, after the flush."""
        self.write(self.encode(state), PUBLISHED_AT)

    def set_changing(self, is_changing: bool) -> None:
        """Say whether the table or a name is being changed in several steps. Call it under the shard lock.

        Whoever takes the lock and finds it said makes page and table anew from the log.
        """
        self.write(_FLAG.pack(is_changing), _CHANGING_AT)

    def set_suspect(self, is_suspect: bool) -> None:
        """Say whether what is written above ``published`` could not be flushed. Call it under the publication lock.

        It holds for this boot only: after the next one, what can be read was on the disk.
        """
        self.write(self._boot if is_suspect else bytes(8), SUSPECT_AT)

    def begin_anew(self, state: State) -> None:
        """Let this be the page of a log that nobody has written to yet."""
        self.begin(state)
        self.settle(state)
        self.publish(state)
        self.bind()

    def bind(self) -> None:
        """Say that the page is of this boot. Call it when the rest of it is right."""
        self.write(self.binding, 0)

    def void(self) -> None:
        """Say that nothing here can be relied on."""
        self.write(bytes(_BINDING.size), 0)

    def is_suspect(self, data: bytes) -> bool:
        """Tell of a page that was read whether what is written above ``published`` must be given up."""
        return data[SUSPECT] == self._boot

    def encode(self, state: State) -> bytes:
        """Return a state as it stands in the page."""
        known = self._encoded
        if known[1] is not state:
            data = STATE.pack(*state)
            known = self._encoded = (data + CHECKSUM.pack(zlib.crc32(data)), state)
        return known[0]

    def decode(self, data: bytes) -> State | None:
        """Return the state that these bytes of the page are, ``None`` if they prove to be none."""
        known, own = self._known, self._encoded
        if data == known[0]:
            return known[1]
        if data == own[0]:
            return own[1]
        if not proves(data):
            return None
        state = State(*STATE.unpack_from(data))
        if not state.end:
            return None  # a state of zeros
        self._known = (data, state)
        return state

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise StorageError.from_os(error, "read", self.path) from error

    def write(self, data: bytes, offset: int) -> None:
        """Write some bytes of the page. Raises ``StorageError``."""
        try:
            if failpoints.armed:
                failpoints.hit("control.write")
            if not self.is_writable:
                raise OSError(errno.EROFS, os.strerror(errno.EROFS))
            if os.pwrite(self.fd, data, offset) != len(data):
                files.write_all_at(self.fd, data, offset)
        except OSError as error:
            raise StorageError.from_os(error, "write", self.path) from error


def proves(data: bytes) -> bool:
    """Tell whether these bytes of a page are a whole state."""
    return len(data) == STATE_BYTES and zlib.crc32(data[: STATE.size]) == CHECKSUM.unpack_from(data, STATE.size)[0]
