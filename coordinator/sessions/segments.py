"""The files of a session's recording: what one record looks like, and how a reader gets past a damaged one.

A record is a newline, the byte 0x1e, the length and the CRC-32 of its body (little-endian, 4 bytes each), and the body as JSON
in UTF-8: an object, or ``[role, at, text]`` for a message that has nothing more. JSON never holds a bare 0x1e, so behind damage
the next record is found (the idea of RFC 7464). Lone surrogates are encoded as if they were characters, so that all text comes
back as it was.

A segment's name tells its epoch, its chain (the files that one writer after another filled) and its place in the chain. Its
first record is its head.
"""

from __future__ import annotations

import json
import os
import re
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from coordinator.config import RECORDED_LIMIT_BYTES
from coordinator.errors import StorageError
from coordinator.system import files

HEAD_KIND, SEGMENT_FORMAT = "segment", 1
MARK = b"\n\x1e"
FRAME = struct.Struct("<2sII")
_NAME = re.compile(r"([0-9]{6,})\.([0-9a-f]{12})\.([0-9]{6,})\.rec")
#: A reader that meets a record half-way looks again so often.
_READ_TRIES = 5
_HEAD_READ_BYTES = 1 << 16

Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """One file of a recording."""

    path: Path
    epoch: int
    chain: str
    #: Counts from 1 within the chain.
    number: int

    @property
    def name(self) -> str:
        return self.path.name


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentHead:
    """What a segment says of itself in its first record."""

    session: str
    epoch: int
    #: Segments of older incarnations: the bytes of each that were acknowledged when this incarnation began to record.
    seals: dict[str, int] = field(default_factory=dict)
    #: Bytes of the session that had been dropped for room by then; at least so many.
    dropped_bytes: int = 0

    def encode(self) -> Body:
        return {
            "kind": HEAD_KIND,
            "format": SEGMENT_FORMAT,
            "session": self.session,
            "epoch": self.epoch,
            "seals": self.seals,
            "dropped_bytes": self.dropped_bytes,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Bytes that hold no whole record."""

    offset_bytes: int
    size_bytes: int
    #: One of the reasons of ``errors.Damaged``.
    reason: str


def name_segment(directory: Path, epoch: int, chain: str, number: int) -> Segment:
    """Return the segment of that place."""
    return Segment(path=directory / f"{epoch:06d}.{chain}.{number:06d}.rec", epoch=epoch, chain=chain, number=number)


def list_segments(directory: Path) -> list[Segment]:
    """Return the segments there are, by epoch, chain and number; none if there is no directory. Raises ``StorageError``."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError.from_os(error, "list", directory) from error
    found = []
    for name in names:
        if match := _NAME.fullmatch(name):
            found.append(Segment(path=directory / name, epoch=int(match[1]), chain=match[2], number=int(match[3])))
    return sorted(found, key=lambda segment: (segment.epoch, segment.chain, segment.number))


def encode_body(body: Body | tuple[str, float, str]) -> bytes:
    """Return the JSON of a record's body, whatever text it holds. Raises ``TypeError`` or ``ValueError`` for what is no JSON."""
    try:
        return orjson.dumps(body)
    except TypeError:  # lone surrogates, integers beyond 64 bits
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "surrogatepass")


def encode_record(body: Body) -> bytes:
    """Return the record's bytes. Raises as ``encode_body``."""
    data = encode_body(body)
    return FRAME.pack(MARK, len(data), zlib.crc32(data)) + data


def decode_body(data: bytes | memoryview) -> Body | None:
    """Return the body, ``None`` if it is no JSON object."""
    try:
        body = orjson.loads(data)
    except ValueError:
        try:
            body = json.loads(bytes(data).decode("utf-8", "surrogatepass"))
        except (ValueError, RecursionError):
            return None
    if isinstance(body, list) and len(body) == 3:
        return {"kind": "message", "role": body[0], "text": body[2], "at": body[1]}
    return body if isinstance(body, dict) else None


def iter_records(data: bytes, *, begin: int = 0) -> Iterator[Body | Gap]:
    """Yield every whole record's body, and the gaps between them, in order. Never raises for the content."""
    view, offset, gap = memoryview(data), begin, -1
    while offset < len(data):
        end = _find_end(data, offset)
        body = decode_body(view[offset + FRAME.size : end]) if end else None
        if body is None:
            if gap < 0:
                gap = offset
            following = data.find(MARK, offset + 1)
            if end or following < 0:
                offset = end or len(data)  # whole, and not to be read: on behind it
            else:
                offset = following
            continue
        if gap >= 0:
            yield _describe_gap(data, gap, offset)
            gap = -1
        yield body
        offset = end
    if gap >= 0:
        yield _describe_gap(data, gap, len(data))


def measure_tail(data: bytes) -> int:
    """Return how many bytes at the end hold no whole record: one that is being written, or was torn."""
    offset = data.rfind(MARK)
    while offset >= 0:
        if end := _find_end(data, offset):
            return len(data) - end
        offset = data.rfind(MARK, 0, offset)
    return len(data)


def read_bytes(segment: Segment, *, limit_bytes: int, sealed_bytes: int | None = None) -> bytes:
    """Return what the segment holds, up to its seal. A record that is just being written is waited for, briefly.

    Raises ``FileNotFoundError`` if it was dropped meanwhile, ``StorageError``, ``Refused``.
    """
    data = b""
    for _ in range(_READ_TRIES):
        data = files.read_bounded(segment.path, limit_bytes)
        if sealed_bytes is not None or (data and measure_tail(data) == 0):
            break
        time.sleep(0)  # let a write in flight finish
    return data if sealed_bytes is None else data[:sealed_bytes]


def read_head(segment: Segment) -> SegmentHead | None:
    """Return a segment's head, ``None`` if that cannot be read."""
    try:
        fd = os.open(segment.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        data = os.pread(fd, _HEAD_READ_BYTES, 0)
    except OSError:
        return None
    finally:
        os.close(fd)
    return decode_head(next(iter_records(data), None))


def decode_head(body: Body | Gap | None) -> SegmentHead | None:
    """Return the head that a segment's first record is, ``None`` if it is none or of a newer format."""
    if not isinstance(body, dict) or body.get("kind") != HEAD_KIND:
        return None
    session, epoch, seals, dropped, format = (body.get(name) for name in ("session", "epoch", "seals", "dropped_bytes", "format"))
    if not (isinstance(session, str) and isinstance(epoch, int) and isinstance(seals, dict) and isinstance(dropped, int)):
        return None
    if not isinstance(format, int) or format > SEGMENT_FORMAT:
        return None
    known = {name: size for name, size in seals.items() if isinstance(size, int)}
    return SegmentHead(session=session, epoch=epoch, seals=known, dropped_bytes=dropped)


def _find_end(data: bytes, offset: int) -> int:
    """Return where the record that begins at ``offset`` ends, 0 if none does."""
    if offset + FRAME.size > len(data):
        return 0
    mark, size, checksum = FRAME.unpack_from(data, offset)
    end = offset + FRAME.size + size
    if mark != MARK or size > 2 * RECORDED_LIMIT_BYTES or end > len(data):
        return 0
    return int(end) if zlib.crc32(memoryview(data)[offset + FRAME.size : end]) == checksum else 0


def _describe_gap(data: bytes, begin: int, end: int) -> Gap:
    lost = data[begin:end]
    if not lost.strip(b"\0"):
        reason = "zero-filled"
    elif end == len(data):
        reason = "truncated"
    else:
        reason = "wrong-digest"
    return Gap(offset_bytes=begin, size_bytes=end - begin, reason=reason)
