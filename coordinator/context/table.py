"""The index of a shard that all processes share: from a key's hash to where its newest record stands in the log.

An extendible hash table in a file. A directory leads from the low bits of a hash to a bucket, one page of up to 255 slots;
a full bucket is split in two, so that growth is a matter of two pages however many keys there are. Slots never move within
their bucket, and a bucket says for which hashes it is, so readers need no lock:
  - one that followed an old directory meets a bucket that is not for its hash, and reads the directory anew
  - a split narrows the old bucket's claim before it takes slots away, so one that finds nothing looks at the claim again
  - a slot is one word, and whatever a reader finds there must still prove itself in the log
Only the holder of the shard lock writes. The file is a cache like the control page: never flushed, made anew from the log
after a reboot, and when somebody died in the middle of a split.

A slot's word also says whether the newest version is a tombstone and to which top directory of keys it belongs, so that
listing the keys below a prefix reads little more than those.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from coordinator.context.codec import Header
from coordinator.digests import blake2b
from coordinator.errors import StorageError
from coordinator.system import failpoints, files

INDEX_NAME = "index"
_MAGIC = b"CKEEPIX3"
#: magic, context id, generation, cuts, shard
_HEAD = struct.Struct("<8s16sQQI")
_CHECKSUM, _DEPTH, _CLAIM, SLOT, _WORD = (struct.Struct(form) for form in ("<I", "<QQ", "<Q", "<QQ", "<Q"))
_DEPTH_AT = 64
_PAGE_BYTES = 4096
#: The directory has room for so many bits; a shard of eleven million keys.
_DEPTH_LIMIT = 16
_DIRECTORY_AT = _PAGE_BYTES
_BUCKETS_AT = _DIRECTORY_AT + (4 << _DEPTH_LIMIT)
#: A slot is a word and then the hash: half written, it is of no hash, and nobody's.
_SLOT_BYTES, _FIRST_SLOT = 16, 16
_SLOTS = (_PAGE_BYTES - _FIRST_SLOT) // _SLOT_BYTES
_EMPTY = bytes(_SLOT_BYTES)
#: A new table is made so full that it need not be split at once.
_FILL = _SLOTS * 2 // 3
_DEPTH_MASK = 0x5A5A_C3C3_A5A5_3C3C
#: So that zeros, where a file was cut and grew again, are no bucket of nothing.
_CLAIM_MASK = 0x3C5A_A5C3_0000_0000
#: Places of slots that a process remembers. Arbitrary; a quarter of a megabyte.
_PLACES = 2048
#: Looks before a table that does not lead anywhere is taken for damage. Arbitrary.
_LOOKS = 100

_ADDRESS_BITS = 40
ADDRESS = (1 << _ADDRESS_BITS) - 1
TOMBSTONE = 1 << _ADDRESS_BITS
_TOP_SHIFT = 48
#: Where the tops of a bucket's slots stand, in halves of four bytes.
_TOP_AT, _TOP_STEP = (_FIRST_SLOT + 6) // 2, _SLOT_BYTES // 2


class Slot(NamedTuple):
    """A slot of the table: where it stands in the file, and its word."""

    position: int
    word: int

    @property
    def address(self) -> int:
        """Where the record stands in the log."""
        return self.word & ADDRESS

    @property
    def is_tombstone(self) -> bool:
        return self.word & TOMBSTONE != 0


class Image(NamedTuple):
    """The content of a table."""

    directory: bytes
    buckets: bytes

    def write(self, path: Path, header: Header, cuts: int) -> None:
        """Make the file of a table that holds this, whole or not at all. Raises ``StorageError``."""
        head = _encode_head(header, cuts).ljust(_DEPTH_AT, b"\0") + _encode_depth((len(self.directory) // 4).bit_length() - 1)
        _write_parts(path, [(0, head), (_DIRECTORY_AT, self.directory), (_BUCKETS_AT, self.buckets)])


class Lookup(Protocol):
    """What a reader needs of a table."""

    def find(self, tag: int, *, anew: bool = False) -> list[Slot]: ...
    def iter_words(self, prefix: str = "") -> Iterator[int]: ...


class TableVoid(Exception):
    """The table cannot be used and must be made anew from the log."""


def make_tag(key: str) -> int:
    """Return the hash under which a key is found. Never 0, which is an empty slot."""
    return int.from_bytes(blake2b(key.encode("utf-8"), digest_size=8).digest(), "little") or 1


def make_word(key: str, address: int, *, deleted: bool) -> int:
    """Return the word of a slot that leads to the record at ``address``."""
    assert address <= ADDRESS, "a log is compacted long before a terabyte"
    return address | (TOMBSTONE if deleted else 0) | _make_top(key) << _TOP_SHIFT


def _make_top(key: str) -> int:
    top, slash, _ = key.partition("/")
    return zlib.crc32(top.encode("utf-8")) & 0xFFFF if slash else 0


class Table:
    """The table in a file, open. Closed when the last reader lets go of it."""

    def __init__(self, path: Path, header: Header, cuts: int, *, to_write: bool = True) -> None:
        """Open the table of that generation and count of cuts. Raises ``TableVoid`` or ``StorageError``."""
        self.path = path
        self.fd = -1
        try:
            if failpoints.armed:
                failpoints.hit("table.open")
            flags = os.O_RDWR if to_write else os.O_RDONLY
            self.fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as error:
            raise TableVoid(f"{path} is missing") from error
        except OSError as error:
            raise StorageError.from_os(error, "open", path) from error
        if self._read(0, len(_encode_head(header, cuts))) != _encode_head(header, cuts):
            raise TableVoid(f"{path} is not of generation {header.generation}")
        self._mask, self._directory = 0, b""
        #: Where the slots stand that were found last, by hash. A slot moves only in a split, which leaves its place empty.
        self.places: dict[int, int] = {}
        self._load_directory()

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    # reading

    def find(self, tag: int, *, anew: bool = False) -> list[Slot]:
        """Return the slots of that hash: none, one, or very rarely more. Raises ``TableVoid`` or ``StorageError``.

        ``anew`` disregards where the hash was found before, which may be the place of another key of the same hash.
        """
        place = None if anew else self.places.get(tag)
        if place is not None:
            word, known = SLOT.unpack(self.read_slot(place))
            if known == tag:
                return [Slot(place, word)]
        position, page = self._find_bucket(tag)
        while True:
            found = _find_slots(position, page, tag)
            # Finding nothing counts only if the bucket was for this hash all the time.
            if len(found) == 1:
                if len(self.places) >= _PLACES:
                    self.places = {}
                self.places[tag] = found[0].position
            if found or self._read(position, 8) == page[:8]:
                return found
            position, page = self._find_bucket(tag)

    def read_slot(self, place: int) -> bytes:
        """Return the slot there as it stands in the file; zeros where there is none."""
        return self._read(place, _SLOT_BYTES).ljust(_SLOT_BYTES, b"\0")

    def iter_words(self, prefix: str = "") -> Iterator[int]:
        """Yield the words of all slots whose keys may begin with ``prefix``, in no order.

        A split meanwhile may let some be yielded twice, and none be missed.
        """
        seen: set[int] = set()
        while unseen := {bucket for (bucket,) in _CHECKSUM.iter_unpack(self._directory)} - seen:
            for bucket in sorted(unseen):
                page = self._read(_BUCKETS_AT + bucket * _PAGE_BYTES, _PAGE_BYTES)
                depth, pattern = _decode_claim(page)
                if depth > _DEPTH_LIMIT or pattern >> depth:
                    raise TableVoid(f"bucket {bucket} of {self.path} is none")
                if "/" not in prefix:
                    yield from (word for word, tag in SLOT.iter_unpack(page[_FIRST_SLOT:]) if tag)
                    continue
                top = _make_top(prefix)
                for index, found in enumerate(memoryview(page).cast("H")[_TOP_AT::_TOP_STEP].tolist()):
                    if found == top:
                        word, tag = SLOT.unpack_from(page, _FIRST_SLOT + index * _SLOT_BYTES)
                        if tag:
                            yield word
            seen |= unseen
            self._load_directory()

    # writing, under the shard lock

    def find_room(self, tag: int) -> int | None:
        """Return the position of an empty slot for that hash, ``None`` if its bucket must be split first."""
        position, page = self._find_bucket(tag)
        at = page.find(_EMPTY, _FIRST_SLOT)
        while at >= 0 and (at - _FIRST_SLOT) % _SLOT_BYTES:
            at = page.find(_EMPTY, at + 1)
        return position + at if at >= 0 else None

    def split(self, tag: int) -> None:
        """Split the bucket of that hash. Death in the middle leaves the table void; say so before. Raises ``StorageError``."""
        position, page = self._find_bucket(tag)
        depth, pattern = _decode_claim(page)
        if 1 << depth > self._mask:
            self._double(depth)
        moved_bit = 1 << depth
        stays, moves = bytearray(_PAGE_BYTES), bytearray(_PAGE_BYTES)
        stays[:8], moves[:8] = _encode_claim(depth + 1, pattern), _encode_claim(depth + 1, pattern | moved_bit)
        for at in range(_FIRST_SLOT, _PAGE_BYTES, _SLOT_BYTES):
            (found,) = _CLAIM.unpack_from(page, at + 8)
            target = moves if found & moved_bit else stays
            target[at : at + _SLOT_BYTES] = page[at : at + _SLOT_BYTES]
        bucket = self._count_buckets()
        self._write(bytes(moves), _BUCKETS_AT + bucket * _PAGE_BYTES)
        for index in range(pattern | moved_bit, self._mask + 1, moved_bit << 1):
            self._write(_CHECKSUM.pack(bucket), _DIRECTORY_AT + 4 * index)
        self._write(bytes(stays[:8]), position)  # the claim first: see above
        self._write(bytes(stays), position)
        self._load_directory()

    def put(self, tag: int, before: int, word: int) -> None:
        """Let the hash lead to ``word``, in place of the word that leads to ``before`` if there is one."""
        position = next((slot.position for slot in self.find(tag, anew=True) if before and slot.address == before), None)
        while position is None and (position := self.find_room(tag)) is None:
            self.split(tag)
        self.store(position, tag, word)

    def read_whole(self) -> Image:
        """Return all of the table. Call it under the shard lock."""
        self._load_directory()
        return Image(self._directory, self._read(_BUCKETS_AT, self._count_buckets() * _PAGE_BYTES))

    def store(self, position: int, tag: int, word: int) -> None:
        """Let the slot at ``position`` be of that hash and lead there. Raises ``StorageError``."""
        self._write(SLOT.pack(word, tag), position)

    def _double(self, depth: int) -> None:
        if depth + 1 > _DEPTH_LIMIT:
            raise StorageError.from_os(_no_room(), "index", self.path)
        self._write(self._directory, _DIRECTORY_AT + len(self._directory))
        self._write(_encode_depth(depth + 1), _DEPTH_AT)
        self._load_directory()

    def _count_buckets(self) -> int:
        try:
            size = os.lseek(self.fd, 0, os.SEEK_END)
        except OSError as error:
            raise StorageError.from_os(error, "look at", self.path) from error
        return (size - _BUCKETS_AT + _PAGE_BYTES - 1) // _PAGE_BYTES

    def _find_bucket(self, tag: int) -> tuple[int, bytes]:
        for _ in range(_LOOKS):
            (bucket,) = _CHECKSUM.unpack_from(self._directory, (tag & self._mask) * 4)
            position = _BUCKETS_AT + bucket * _PAGE_BYTES
            page = self._read(position, _PAGE_BYTES)
            depth, pattern = _decode_claim(page)
            if depth <= _DEPTH_LIMIT and tag & ((1 << depth) - 1) == pattern:
                return position, page
            self._load_directory()
        raise TableVoid(f"{self.path} leads nowhere")

    def _load_directory(self) -> None:
        for _ in range(_LOOKS):
            data = self._read(_DEPTH_AT, _DEPTH.size)
            if len(data) < _DEPTH.size:
                break
            depth, check = _DEPTH.unpack(data)
            if depth ^ _DEPTH_MASK == check and depth <= _DEPTH_LIMIT:
                directory = self._read(_DIRECTORY_AT, 4 << depth)
                if len(directory) == 4 << depth:
                    # Never a mask that is larger than the directory, whichever a reader sees first.
                    self._mask = min(self._mask, (1 << depth) - 1)
                    self._directory = directory
                    self._mask = (1 << depth) - 1
                    return
        raise TableVoid(f"{self.path} has no directory")

    def _read(self, offset: int, length: int) -> bytes:
        try:
            if failpoints.armed:
                failpoints.hit("table.read")
            return os.pread(self.fd, length, offset)
        except OSError as error:
            raise StorageError.from_os(error, "read", self.path) from error

    def _write(self, data: bytes, offset: int) -> None:
        try:
            if failpoints.armed:
                failpoints.hit("table.write")
            files.write_all_at(self.fd, data, offset)
        except OSError as error:
            raise StorageError.from_os(error, "write", self.path) from error


class DictTable:
    """A table in memory: while one is made anew from the log, and where none can be written."""

    def __init__(self) -> None:
        self._words: dict[int, list[int]] = {}

    def find(self, tag: int, *, anew: bool = False) -> list[Slot]:
        return [Slot(-1, word) for word in self._words.get(tag, ())]

    def iter_words(self, prefix: str = "") -> Iterator[int]:
        for words in self._words.values():
            yield from words

    def put(self, tag: int, before: int, word: int) -> None:
        """Let the hash lead to ``word``, in place of the word that leads to ``before`` if there is one."""
        words = self._words.setdefault(tag, [])
        for index, known in enumerate(words):
            if before and known & ADDRESS == before:
                words[index] = word
                return
        words.append(word)

    def __len__(self) -> int:
        return sum(map(len, self._words.values()))

    def write(self, path: Path, header: Header, cuts: int) -> None:
        """Make the file of a table that holds all this, whole or not at all. Raises ``StorageError``."""
        _write_parts(path, _build(self._words, header, cuts))


def _write_parts(path: Path, parts: Iterable[tuple[int, bytes]]) -> None:
    """Let ``path`` hold these parts at their offsets, with holes between them; not flushed, but whole or not at all."""
    temporary = path.with_name(files.name_temporary(path.name))
    try:
        if failpoints.armed:
            failpoints.hit("table.make")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            for offset, data in parts:
                files.write_all_at(fd, data, offset)
        finally:
            os.close(fd)
        os.replace(temporary, path)
    except OSError as error:
        files.remove_quietly(temporary)
        raise StorageError.from_os(error, "index", path) from error


def _build(words: dict[int, list[int]], header: Header, cuts: int) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of a table's file with their offsets; what is between them is a hole."""
    count, depth = sum(map(len, words.values())), 0
    while count > _FILL << depth:
        depth += 1
    while True:
        if depth > _DEPTH_LIMIT:
            raise _no_room()
        buckets = [bytearray(_encode_claim(depth, pattern).ljust(_FIRST_SLOT, b"\0")) for pattern in range(1 << depth)]
        mask = (1 << depth) - 1
        for tag, found in words.items():
            bucket = buckets[tag & mask]
            for word in found:
                bucket += SLOT.pack(word, tag)
        if all(len(bucket) <= _PAGE_BYTES for bucket in buckets):
            break
        depth += 1  # bad luck with the hashes
    yield 0, _encode_head(header, cuts).ljust(_DEPTH_AT, b"\0") + _encode_depth(depth)
    yield _DIRECTORY_AT, b"".join(_CHECKSUM.pack(bucket) for bucket in range(1 << depth))
    yield _BUCKETS_AT, b"".join(bucket.ljust(_PAGE_BYTES, b"\0") for bucket in buckets)


def _no_room() -> OSError:
    return OSError(errno.ENOSPC, "a shard has no room for more keys")


def _find_slots(position: int, page: bytes, tag: int) -> list[Slot]:
    wanted, found = _WORD.pack(tag), []
    at = page.find(wanted, _FIRST_SLOT)
    while at >= 0:
        if (at - _FIRST_SLOT) % _SLOT_BYTES == 8:
            found.append(Slot(position + at - 8, _WORD.unpack_from(page, at - 8)[0]))
        at = page.find(wanted, at + 1)
    return found


def _encode_head(header: Header, cuts: int) -> bytes:
    data = _HEAD.pack(_MAGIC, header.context_id, header.generation, cuts, header.shard)
    return data + _CHECKSUM.pack(zlib.crc32(data))


def _encode_depth(depth: int) -> bytes:
    return _DEPTH.pack(depth, depth ^ _DEPTH_MASK)


def _encode_claim(depth: int, pattern: int) -> bytes:
    return _CLAIM.pack((depth | pattern << 8) ^ _CLAIM_MASK)


def _decode_claim(page: bytes) -> tuple[int, int]:
    """Return depth and pattern of a bucket; a depth above the limit if it is none."""
    if len(page) != _PAGE_BYTES:
        return _DEPTH_LIMIT + 1, 0
    (claim,) = _CLAIM.unpack_from(page)
    claim ^= _CLAIM_MASK
    return claim & 0xFF, claim >> 8


def iter_addresses(words: Iterable[int]) -> Iterator[int]:
    """Return where the records stand that these words lead to."""
    return (word & ADDRESS for word in words)
