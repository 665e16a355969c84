"""The first format of a shard's log, read only: how it is told apart, walked, and brought to today's.

It has no chains and no notes of what was durable, its control page has one word, and it was flushed record by record: so at
most one record may be torn at its end. The header and the seed of the checksums are the same as today's.
"""

from __future__ import annotations

import dataclasses
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from coordinator.context import codec, log
from coordinator.context.codec import DELETED, ENTRY, FENCE, HEADER_BYTES, RECORD_MARK, WROTE, Header, Record
from coordinator.context.rewrite import rewriting

FORMAT = 1
#: mark, checksum, length, previous checksum, kind, flags, key, session and name lengths, value length, revision, version,
#: epoch, at
_RECORD = struct.Struct("<4sIIIBBHHHIQQQd")
_CHECKED_FROM = 8
#: Of the control page: where its word stands, twice, the second time with these bits turned.
_WORD, _WORD_AT, _MASK, _END_BITS = struct.Struct("<QQ"), 64, 0x5A5A_C3C3_A5A5_3C3C, 40


def upgrade(path: Path, control: Path) -> None:
    """Replace a log of the first format by one of today's with the same records. Call it under the shard lock.

    Raises ``Damaged`` where an acknowledged record is not whole, or ``StorageError``; then the old log is as it was.
    """
    fd, header, _ = log.open_log(path)
    try:
        records, end, checksum = list[Record](), HEADER_BYTES, 0
        for offset, data, previous, record in find_records(fd, header, path):
            if offset != end or previous != checksum:
                raise log.damaged(path, "wrong-digest", f"is damaged at {end}")
            records.append(record)
            end, checksum = offset + len(data), int.from_bytes(data[4:8], "little")
        if end < _read_bound(control, header.generation):
            raise log.damaged(path, "truncated", f"is whole up to {end} only; more was published")
    finally:
        os.close(fd)
    header = dataclasses.replace(header, format=codec.LOG_FORMAT, generation=header.generation + 1)
    with rewriting(path, header) as rewrite:
        for record in iter_upgraded(records):
            rewrite.add(record)
        rewrite.flush()
        rewrite.swap_in()


def find_records(fd: int, header: Header, path: Path) -> Iterator[tuple[int, bytes, int, Record]]:
    """Yield every record that proves itself: its offset, its bytes, the checksum of the one before it, and what it says."""
    data = log.read_at(fd, 0, log.measure(fd, path), path)
    at = data.find(RECORD_MARK, HEADER_BYTES)
    while at >= 0:
        found = _decode(data, at, header.seed)
        if found is not None:
            yield at, *found
        at = data.find(RECORD_MARK, at + (len(found[0]) if found is not None else 1))


def iter_upgraded(records: list[Record]) -> Iterator[Record]:
    """Yield the records with the fences that tell which incarnations wrote them."""
    writers: dict[str, int] = {}
    for record in records:
        if record.kind == ENTRY and record.session and record.epoch > writers.get(record.session, 0):
            writers[record.session] = record.epoch
            yield Record(kind=FENCE, session=record.session, epoch=record.epoch, at=record.at, flags=WROTE)
        yield record


def _decode(data: bytes, at: int, seed: int) -> tuple[bytes, int, Record] | None:
    if len(data) - at < _RECORD.size:
        return None
    _, checksum, length, previous, kind, flags, key_size, session_size, name_size, value_size, *rest = _RECORD.unpack_from(
        data, at
    )
    revision, version, epoch, moment = rest
    session_start = at + _RECORD.size + key_size
    name_start = session_start + session_size
    value_start = name_start + name_size
    if length != value_start + value_size - at or at + length > len(data):
        return None
    if zlib.crc32(data[at + _CHECKED_FROM : at + length], zlib.crc32(at.to_bytes(8, "little"), seed)) != checksum:
        return None
    try:
        record = Record(
            kind=kind,
            key=str(data[at + _RECORD.size : session_start], "utf-8"),
            value=data[value_start : at + length],
            deleted=flags & DELETED != 0,
            revision=revision,
            version=version,
            epoch=epoch,
            at=moment,
            session=str(data[session_start:name_start], "utf-8"),
            name=str(data[name_start:value_start], "utf-8"),
            flags=flags,
        )
    except UnicodeDecodeError:
        return None
    return data[at : at + length], previous, record


def _read_bound(control: Path, generation: int) -> int:
    """Return up to where the log was published, 0 if that is not known."""
    try:
        with open(control, "rb") as file:
            data = file.read(_WORD_AT + _WORD.size)
    except OSError:
        return 0
    if len(data) < _WORD_AT + _WORD.size:
        return 0
    word, check = _WORD.unpack_from(data, _WORD_AT)
    is_ours = word ^ _MASK == check and word >> _END_BITS == generation
    return word & ((1 << _END_BITS) - 1) if is_ours else 0
