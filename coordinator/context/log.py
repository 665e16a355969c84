"""Reading a shard's log: its header, one record at a place, or all records of a stretch. Read-only.

Invariant: what is handed out has proven itself; what has not ends the scan with a word why.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordinator.context import codec
from coordinator.context.codec import Header, Record
from coordinator.errors import Damaged, FormatTooNew, StorageError
from coordinator.system import failpoints, files

_CHUNK_BYTES = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """A record and where it stands."""

    record: Record
    offset: int
    length: int
    checksum: int

    @property
    def end(self) -> int:
        return self.offset + self.length


@dataclass(kw_only=True, slots=True)
class Scan:
    """Where a scan stands: everything before ``end`` has proven itself."""

    end: int
    #: Checksum of the last record before ``end``; 0 at the beginning of a log.
    checksum: int
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


def read_record(fd: int, header: Header, offset: int, length: int, path: Path) -> Record:
    """Return the record at a place where one was found before. Raises ``Damaged`` if it is not there any more."""
    decoded = codec.decode_record(memoryview(read_at(fd, offset, length, path)), salt=header.salt, offset=offset)
    if decoded is None:
        raise damaged(path, "wrong-digest", f"has a damaged record at {offset}")
    return decoded[0]


def iter_records(fd: int, header: Header, scan: Scan, stop: int, path: Path) -> Iterator[Placed]:
    """Yield the records from ``scan.end`` to ``stop``, moving ``scan`` along; at the first that is not whole, say why and end."""
    buffer, buffer_start, salt = memoryview(b""), scan.end, header.salt
    scan.reason = None
    while scan.end < stop:
        rest = buffer[scan.end - buffer_start :]
        length = codec.measure_record(rest)
        if length is None and len(rest) >= codec.RECORD_BYTES:
            scan.reason = "zero-filled" if not bytes(rest).strip(b"\0") else "wrong-digest"
            return
        if length is None or length > len(rest):
            wanted = min(max(_CHUNK_BYTES, length or 0), stop - scan.end)
            if (length or codec.RECORD_BYTES) > stop - scan.end or wanted <= len(rest):
                scan.reason = "truncated"
                return
            buffer, buffer_start = memoryview(read_at(fd, scan.end, wanted, path)), scan.end
            if len(buffer) < (length or codec.RECORD_BYTES):
                scan.reason = "truncated"
                return
            continue
        decoded = codec.decode_record(rest[:length], salt=salt, offset=scan.end)
        if decoded is None:
            scan.reason = "wrong-digest"
            return
        record, checksum, previous = decoded
        if previous != scan.checksum:
            scan.reason = "wrong-order"
            return
        placed = Placed(record=record, offset=scan.end, length=length, checksum=checksum)
        scan.end, scan.checksum = placed.end, checksum
        yield placed


def find_whole_records(fd: int, header: Header, start: int, path: Path) -> Iterator[Placed]:
    """Yield every record from ``start`` on that proves itself, stepping over what does not. Reads it all; for damage only."""
    data = read_at(fd, start, os.fstat(fd).st_size - start, path)
    view, at, salt = memoryview(data), data.find(codec.RECORD_MARK), header.salt
    while at >= 0:
        length = codec.measure_record(view[at : at + codec.RECORD_BYTES])
        decoded = codec.decode_record(view[at : at + length], salt=salt, offset=start + at) if length is not None else None
        if length is not None and decoded is not None:
            yield Placed(record=decoded[0], offset=start + at, length=length, checksum=decoded[1])
        at = data.find(codec.RECORD_MARK, at + (length if length is not None and decoded is not None else 1))


def read_at(fd: int, offset: int, length: int, path: Path) -> bytes:
    """Return up to ``length`` bytes, fewer only at the end of the file. Raises ``StorageError``."""
    parts = []
    try:
        while length > 0:
            failpoints.hit("shard.read")
            part = os.pread(fd, length, offset)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            length -= len(part)
    except OSError as error:
        raise StorageError.from_os(error, "read", path) from error
    return parts[0] if len(parts) == 1 else b"".join(parts)


def damaged(path: Path, reason: str, what: str) -> Damaged:
    """Build the error for a damaged file of a context."""
    return Damaged(
        f"{path} {what}", hint="run `crewkeep context check --repair`; nothing is deleted", path=str(path), reason=reason
    )
