"""Compaction: write the records that are still needed into the log's next generation, and swap it in by one rename.

Kept are 50 versions of every key, each key's newest version even if it is a tombstone (so that a version number never
comes back), the newest ``RECENT_COUNT`` changes whatever they are (so that a watcher a bit behind misses none), the epoch
of every session, the rules, and every record of a kind that is not known here.

Runs under the shard lock. Until the rename nothing has happened; after it, the old file lives on for who has it open.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

from coordinator.config import COMPACT_ABOVE_BYTES, RECENT_COUNT, RECENT_LIMIT_BYTES
from coordinator.context import codec, log
from coordinator.context.codec import ENTRY, FENCE, RULE, Header, Record
from coordinator.context.index import Index
from coordinator.context.log import Scan
from coordinator.errors import StorageError
from coordinator.system import failpoints, files

_WRITE_BYTES = 1 << 20


def is_due(index: Index, end: int, not_before_bytes: int) -> bool:
    """Tell whether the log is mostly dead and big enough to bother."""
    # What is kept for late watchers may be dead as well and must not count, or compaction would follow compaction.
    return (
        end > max(COMPACT_ABOVE_BYTES, not_before_bytes)
        and (index.dead_bytes - RECENT_LIMIT_BYTES) * 2 > end - RECENT_LIMIT_BYTES
    )


def compact(fd: int, header: Header, index: Index, end: int, path: Path) -> Header:
    """Replace the log at ``path`` by its next generation and return that one's header. Raises ``StorageError``."""
    recent_above = index.find_recent(RECENT_COUNT, RECENT_LIMIT_BYTES)
    next_header = dataclasses.replace(header, generation=header.generation + 1, floor=max(index.floor, recent_above))
    kept = index.list_kept_offsets()

    def iter_kept() -> Iterator[Record]:
        yield from iter_standing(index)
        scan = Scan(end=codec.HEADER_BYTES, checksum=0)
        for placed in log.iter_records(fd, header, scan, end, path):
            record = placed.record
            if record.kind == ENTRY:
                if placed.offset in kept or record.revision > recent_above:
                    yield record
            elif record.kind not in (FENCE, RULE):
                yield record
        if scan.end != end:
            raise log.damaged(path, scan.reason or "truncated", f"is damaged at {scan.end} of {end}")

    write_generation(path, next_header, iter_kept())
    return next_header


def iter_standing(index: Index) -> Iterator[Record]:
    """Yield what holds regardless of history: the epochs and the rules."""
    for session, epoch in sorted(index.epochs.items()):
        yield Record(kind=FENCE, session=session, epoch=epoch)
    for prefix, name in sorted(index.rules.items()):
        yield Record(kind=RULE, key=prefix, value=name.encode("utf-8"))


def write_generation(path: Path, header: Header, records: Iterator[Record]) -> None:
    """Let ``path`` be a log of exactly these records: written and flushed aside, then swapped in. Raises ``StorageError``."""
    remove_leftovers(path)
    temporary = path.with_name(files.name_temporary(path.name))
    try:
        failpoints.hit("compaction.open")
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            buffer = bytearray(codec.encode_header(header))
            offset, previous = len(buffer), 0
            for record in records:
                data, previous = codec.encode_record(record, salt=header.salt, offset=offset, previous=previous)
                buffer += data
                offset += len(data)
                if len(buffer) >= _WRITE_BYTES:
                    files.write_all(fd, bytes(buffer))
                    buffer.clear()
            files.write_all(fd, bytes(buffer))
            failpoints.hit("compaction.flush")
            files.sync_file(fd)
        finally:
            os.close(fd)
        failpoints.hit("compaction.rename")
        os.replace(temporary, path)
    except OSError as error:
        files.remove_quietly(temporary)
        if isinstance(error, StorageError):
            raise
        raise StorageError.from_os(error, "compact", path) from error
    failpoints.hit("compaction.renamed")
    files.sync_directory(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed compaction left beside the log. Call it under the shard lock: nobody else writes such a file."""
    beginning = f".{path.name}{files.TEMPORARY_MARK}"
    for name in os.listdir(path.parent):
        if name.startswith(beginning):
            files.remove_quietly(path.parent / name)
