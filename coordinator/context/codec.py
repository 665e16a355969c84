"""How a shard's log looks on disk: a header of fixed size, then records, each proving itself and the one before it.

A record's checksum is seeded with the log's salt and the record's own offset, so a record is valid in one place of one
log only; it names the checksum and the length of its predecessor, so none can be missing, doubled or exchanged, and the
log can be walked in both directions. It also says where the key's previous version stands (a key's history is a chain
through the log) and how much of the log was known to be durable when it was written (so that a hole below that is damage,
and a hole above it is what power loss may leave). Pure.

A log begins with ``Header``; behind its last record there may be zeros, written ahead. Little-endian throughout.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from coordinator.digests import blake2b

LOG_FORMAT = 2
LOG_MAGIC = b"CKEEPLOG"

_HEADER = struct.Struct("<8sIIIHHQQ16s")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
#: Begins every record, so that repair can find the next one behind damage.
RECORD_MARK = b"\xa7CKr"
#: mark, checksum, length, previous checksum, previous length, kind, flags, key, session and name lengths, value length,
#: revision, version, epoch, at, before, flushed
RECORD = struct.Struct("<4sIIIIBBHHHIQQQdQQ")
RECORD_HEAD = struct.Struct("<4sI")
CHECKED_FROM = RECORD_HEAD.size
#: The same with the record's offset in place of mark and checksum: what the checksum is made of.
SEEDED_RECORD = struct.Struct("<QIIIBBHHHIQQQdQQ")
RECORD_BYTES = RECORD.size
#: The longest record there can be; a longer one is damage.
RECORD_LIMIT_BYTES = RECORD_BYTES + 3 * 0xFFFF + (1 << 21)

#: One version of a key. Its revision is one more than the one before.
ENTRY = 1
#: ``session`` may not write below ``epoch`` any more.
FENCE = 2
#: The merge rule named by ``value`` holds for keys that begin with ``key``.
RULE = 3
DELETED = 1
#: Of an entry: it was lost and brought back at the version it had; versions before it may be missing.
REINSTATED = 4
#: Of a fence: the incarnation that it names has committed an entry.
WROTE = 2


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a log says about itself."""

    format: int = LOG_FORMAT
    shard: int
    shard_count: int
    #: 1 = durable, 0 = process.
    durable: bool
    #: Rises with each compaction.
    generation: int
    #: The highest revision of which compaction has dropped a record; above it none is missing.
    floor: int
    #: Id of the whole context.
    context_id: bytes

    @cached_property
    def seed(self) -> int:
        """What the checksums of this log begin with: derived, so that a damaged header does not take its records along."""
        own = self.shard.to_bytes(4, "little") + self.generation.to_bytes(8, "little")
        return zlib.crc32(blake2b(own, key=self.context_id, digest_size=8).digest())


class Record(NamedTuple):
    """One record, its value still encoded."""

    kind: int
    key: str = ""
    value: bytes = b""
    deleted: bool = False
    revision: int = 0
    version: int = 0
    epoch: int = 0
    at: float = 0.0
    session: str = ""
    name: str = ""
    #: All flag bits as read, kept for those that a newer crewkeep may have set.
    flags: int = 0
    #: Where the record before it in its chain stands: the key's previous version, or the previous fence or rule; 0: nowhere.
    before: int = 0


class Placed(NamedTuple):
    """A record and where it stands."""

    record: Record
    offset: int
    length: int
    checksum: int
    #: Checksum and length of the record in front of it.
    previous: int
    previous_length: int
    #: Up to here the log was known to be durable when the record was written.
    flushed: int

    @property
    def end(self) -> int:
        return self.offset + self.length


def encode_header(header: Header) -> bytes:
    """Return the ``HEADER_BYTES`` that begin a log."""
    body = _HEADER.pack(
        LOG_MAGIC,
        header.format,
        header.shard,
        header.shard_count,
        int(header.durable),
        0,
        header.generation,
        header.floor,
        header.context_id,
    )
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode_header(data: bytes) -> Header | str:
    """Return the header, or the reason (see ``errors.Damaged``) why it is none."""
    if not data:
        return "empty"
    if len(data) < HEADER_BYTES:
        return "truncated"
    if not data.strip(b"\0"):
        return "zero-filled"
    body, checksum = data[: _HEADER.size], data[_HEADER.size : HEADER_BYTES]
    magic, format, shard, shard_count, durable, _, generation, floor, context_id = _HEADER.unpack(body)
    if magic != LOG_MAGIC:
        return "wrong-shape"
    if _CHECKSUM.unpack(checksum)[0] != zlib.crc32(body):
        return "wrong-digest"
    return Header(
        format=format,
        shard=shard,
        shard_count=shard_count,
        durable=bool(durable),
        generation=generation,
        floor=floor,
        context_id=context_id,
    )


def encode_record(
    record: Record, *, seed: int, offset: int, previous: int, previous_length: int, flushed: int
) -> tuple[bytes, int]:
    """Return the record's bytes for that place, and its checksum."""
    key, session, name = record.key.encode("utf-8"), record.session.encode("utf-8"), record.name.encode("utf-8")
    value = record.value
    length = RECORD_BYTES + len(key) + len(session) + len(name) + len(value)
    assert length <= RECORD_LIMIT_BYTES, "a record is bounded by the limits of its parts"
    head = RECORD.pack(
        RECORD_MARK,
        0,
        length,
        previous,
        previous_length,
        record.kind,
        record.flags | (DELETED if record.deleted else 0),
        len(key),
        len(session),
        len(name),
        len(value),
        record.revision,
        record.version,
        record.epoch,
        record.at,
        record.before,
        flushed,
    )
    data = b"".join((head[CHECKED_FROM:], key, session, name, value))
    checksum = zlib.crc32(data, _seed(seed, offset))
    return RECORD_MARK + _CHECKSUM.pack(checksum) + data, checksum


def measure_record(data: bytes | memoryview) -> int | None:
    """Return the length that a record's first bytes claim, ``None`` if there cannot be such a record."""
    if len(data) < RECORD_BYTES:
        return None
    mark, _, length, _, _, _, _, key, session, name, value, *_ = RECORD.unpack_from(data)
    possible = mark == RECORD_MARK and length == RECORD_BYTES + key + session + name + value and length <= RECORD_LIMIT_BYTES
    return length if possible else None


def read_key(data: bytes, start: int) -> str | None:
    """Return the key of the record there, ``None`` if it is no entry. Raises ``ValueError`` for what is no text."""
    _, _, _, _, _, kind, _, size, *_ = RECORD.unpack_from(data, start)
    return str(data[start + RECORD_BYTES : start + RECORD_BYTES + size], "utf-8") if kind == ENTRY else None


def decode_record(data: bytes | memoryview, *, seed: int, offset: int) -> Placed | None:
    """Return the record that ``data`` begins with and that stands at ``offset``; ``None`` if it does not prove itself.

    Where ``data`` is too short, ``measure_record`` says how much of it there must be.
    """
    if len(data) < RECORD_BYTES:
        return None
    (
        mark,
        checksum,
        length,
        previous,
        previous_length,
        kind,
        flags,
        key_size,
        session_size,
        name_size,
        value_size,
        revision,
        version,
        epoch,
        at,
        before,
        flushed,
    ) = RECORD.unpack_from(data)
    session_start = RECORD_BYTES + key_size
    name_start = session_start + session_size
    value_start = name_start + name_size
    if mark != RECORD_MARK or length != value_start + value_size or length > len(data):
        return None
    if zlib.crc32(memoryview(data)[CHECKED_FROM:length], _seed(seed, offset)) != checksum:
        return None
    try:
        record = Record(
            kind,
            str(data[RECORD_BYTES:session_start], "utf-8"),
            bytes(data[value_start:length]),
            flags & DELETED != 0,
            revision,
            version,
            epoch,
            at,
            str(data[session_start:name_start], "utf-8") if session_size else "",
            str(data[name_start:value_start], "utf-8") if name_size else "",
            flags,
            before,
        )
    except UnicodeDecodeError:
        return None
    return Placed(record, offset, length, checksum, previous, previous_length, flushed)


def _seed(seed: int, offset: int) -> int:
    return zlib.crc32(offset.to_bytes(8, "little"), seed)
