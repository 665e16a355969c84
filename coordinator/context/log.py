"""Reading a shard's log: its header, one record at a place, or all records of a stretch, in either direction. Read-only.

Invariant: what is handed out has proven itself; what has not ends the scan with a word why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordinator.context import codec
from coordinator.context.codec import HEADER_BYTES, RECORD_BYTES, Header, Placed
from coordinator.errors import Damaged, FormatTooNew, StorageError
from coordinator.system import failpoints, files

LOG_NAME = "log"
_CHUNK_BYTES = 1 << 18
#: One read is enough for a record up to this size. Most are smaller.
_FIRST_READ_BYTES = 2048


@dataclass(kw_only=True, slots=True)
class Scan:
    """Where a scan stands: everything before ``end`` has proven itself."""

    end: int = HEADER_BYTES
    #: Checksum and length of the last record before ``end``; 0 at the beginning of a log.
    checksum: int = 0
    length: int = 0
    #: Why the scan ended before the end of its stretch; ``None`` if it did not.
    reason: str | None = None


def open_log(path: Path) -> tuple[int, Header, bool]:
    """Open a log, read its header, tell whether it can be written; the caller closes.

    Raises ``Damaged``, ``FormatTooNew`` or ``StorageError``."""
    try:
        fd, is_writable = files.open_for_update(path, 0, "shard.open")
    except FileNotFoundError as error:
        raise damaged(path, "missing", "is missing") from error
    except OSError as error:
        raise StorageError.from_os(error, "open", path) from error
    try:
        header = codec.decode_header(read_at(fd, 0, codec.HEADER_BYTES, path))
        if isinstance(header, str):
            raise damaged(path, header, f"has no whole header ({header})")
        if header.format > codec.LOG_FORMAT:
            raise FormatTooNew(
                f"{path} has format {header.format}; this crewkeep reads up to {codec.LOG_FORMAT}",
                hint="use the newer crewkeep that wrote it",
                path=str(path),
                format=header.format,
                supported=codec.LOG_FORMAT,
            )
    except BaseException:
        os.close(fd)
        raise
    return fd, header, is_writable


def find_record(fd: int, header: Header, offset: int, path: Path) -> Placed | None:
    """Return the record at a place, ``None`` if none there proves itself."""
    data = read_at(fd, offset, _FIRST_READ_BYTES, path)
    length = codec.measure_record(data)
    if length is None:
        return None
    if length > len(data):
        data += read_at(fd, offset + len(data), length - len(data), path)
    return codec.decode_record(data, seed=header.seed, offset=offset)


def read_record(fd: int, header: Header, offset: int, path: Path) -> Placed:
    """Return the record at a place where there must be one. Raises ``Damaged`` if there is none."""
    placed = find_record(fd, header, offset, path)
    if placed is None:
        raise damaged(path, "wrong-digest", f"has a damaged record at {offset}")
    return placed


def iter_records(fd: int, header: Header, scan: Scan, stop: int, path: Path) -> Iterator[Placed]:
    """Yield the records from ``scan.end`` to ``stop``, moving ``scan`` along; at the first that is not whole, say why and end."""
    buffer, start, seed = memoryview(b""), scan.end, header.seed
    scan.reason = None
    while scan.end < stop:
        rest = buffer[scan.end - start :]
        length = codec.measure_record(rest)
        if length is None and len(rest) >= RECORD_BYTES:
            scan.reason = "zero-filled" if not bytes(rest).strip(b"\0") else "wrong-digest"
            return
        if length is None or length > len(rest):
            wanted = min(max(_CHUNK_BYTES, length or 0), stop - scan.end)
            if (length or RECORD_BYTES) > stop - scan.end or wanted <= len(rest):
                scan.reason = "truncated"
                return
            buffer, start = memoryview(read_at(fd, scan.end, wanted, path)), scan.end
            if len(buffer) < (length or RECORD_BYTES):
                scan.reason = "truncated"
                return
            continue
        placed = codec.decode_record(rest[:length], seed=seed, offset=scan.end)
        if placed is None:
            scan.reason = "wrong-digest"
            return
        if (placed.previous, placed.previous_length) != (scan.checksum, scan.length):
            scan.reason = "wrong-order"
            return
        scan.end, scan.checksum, scan.length = placed.end, placed.checksum, placed.length
        yield placed


def iter_keys(fd: int, start: int, end: int) -> Iterator[str]:
    """Yield the keys of the entries between two places that records begin at. They are taken as they are: do not rely on them.

    Raises ``OSError`` or ``ValueError`` where there are no records.
    """
    data, at = b"", start  # what was read begins at ``at``
    while start < end:
        if len(data) < start - at + _FIRST_READ_BYTES and at + len(data) < end:
            data, at = os.pread(fd, min(end - start, _CHUNK_BYTES), start), start
        if (length := codec.measure_record(data[start - at : start - at + RECORD_BYTES])) is None:
            raise ValueError(f"there is no record at {start}")
        if (key := codec.read_key(data, start - at)) is not None:
            yield key
        start += length


def iter_backwards(fd: int, header: Header, scan: Scan, path: Path) -> Iterator[Placed]:
    """Yield the records before ``scan.end``, the last one first. Raises ``Damaged`` where one does not prove itself."""
    end, checksum, length = scan.end, scan.checksum, scan.length
    buffer, start = b"", end
    while end > HEADER_BYTES:
        offset = end - length
        if offset < start:
            first = max(HEADER_BYTES, end - max(_CHUNK_BYTES, length))
            buffer, start = read_at(fd, first, end - first, path), first
        placed = codec.decode_record(buffer[offset - start : end - start], seed=header.seed, offset=offset)
        if placed is None or placed.checksum != checksum or placed.length != length:
            raise damaged(path, "wrong-digest", f"has a damaged record at {offset}")
        yield placed
        end, checksum, length = offset, placed.previous, placed.previous_length


def find_whole_records(fd: int, header: Header, start: int, path: Path) -> Iterator[Placed]:
    """Yield every record from ``start`` on that proves itself, stepping over what does not. Reads it all; for damage only."""
    data = read_at(fd, start, max(0, measure(fd, path) - start), path)
    view, at = memoryview(data), data.find(codec.RECORD_MARK)
    while at >= 0:
        length = codec.measure_record(view[at : at + RECORD_BYTES])
        placed = None
        if length is not None:
            placed = codec.decode_record(view[at : at + length], seed=header.seed, offset=start + at)
        if placed is not None:
            yield placed
        at = data.find(codec.RECORD_MARK, at + (placed.length if placed is not None else 1))


def measure(fd: int, path: Path) -> int:
    """Return the size of an open file without asking for its times: see ``OpenShard``. Raises ``StorageError``."""
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise StorageError.from_os(error, "measure", path) from error


def read_at(fd: int, offset: int, length: int, path: Path) -> bytes:
    """Return up to ``length`` bytes, fewer only at the end of the file. Raises ``StorageError``."""
    try:
        if failpoints.armed:
            failpoints.hit("shard.read")
        data = os.pread(fd, length, offset)
        while len(data) < length:
            if failpoints.armed:
                failpoints.hit("shard.read")
            part = os.pread(fd, length - len(data), offset + len(data))
            if not part:
                break
            data += part
    except OSError as error:
        raise StorageError.from_os(error, "read", path) from error
    return data


def damaged(path: Path, reason: str, what: str) -> Damaged:
    """Build the error for a damaged file of a context."""
    return Damaged(
        f"{path} {what}", hint="run `crewkeep context check --repair`; nothing is deleted", path=str(path), reason=reason
    )
