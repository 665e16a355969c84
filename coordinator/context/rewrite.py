"""Writing a log anew: record after record aside, in chains of their own, then swapped in by one rename.

Whoever rewrites says which records there are; this says how they become a log, and the table that leads into it. Until
``swap_in`` nothing has happened to what is there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.context import codec
from coordinator.context.codec import ENTRY, FENCE, HEADER_BYTES, RULE, Header, Placed, Record
from coordinator.context.control import State
from coordinator.context.log import LOG_NAME
from coordinator.context.replay import Replay
from coordinator.context.table import INDEX_NAME, Table, make_tag, make_word
from coordinator.errors import StorageError
from coordinator.system import failpoints, files

_WRITE_BYTES = 1 << 18


class Rewrite:
    """The next generation of a log while it is written aside, and the table that leads into it."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.header = path, header
        self._log = path.with_name(files.name_temporary(LOG_NAME))
        self._index = path.with_name(files.name_temporary(INDEX_NAME))
        self._replay = Replay(header.floor)
        self._last: Placed | None = None
        self._buffer = bytearray(codec.encode_header(header))
        try:
            failpoints.hit("compaction.open")
            self._fd = os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError.from_os(error, "compact", path) from error

    def close(self) -> None:
        """Let go of everything that was not swapped in."""
        os.close(self._fd)
        files.remove_quietly(self._log)
        files.remove_quietly(self._index)

    def has(self, key: str) -> bool:
        """Tell whether a version of the key was added."""
        return key in self._replay.newest

    def add(self, record: Record) -> Placed:
        """Append a record, in a chain with those before it. Raises ``StorageError``."""
        replay, last = self._replay, self._last
        if record.kind == ENTRY:
            newest = replay.newest.get(record.key)
            record = record._replace(before=newest.offset if newest else 0)
        elif record.kind in (FENCE, RULE):
            record = record._replace(before=replay.standing)
        offset, previous, previous_length = (last.end, last.checksum, last.length) if last else (HEADER_BYTES, 0, 0)
        data, checksum = codec.encode_record(
            record, seed=self.header.seed, offset=offset, previous=previous, previous_length=previous_length, flushed=0
        )
        self._last = placed = Placed(record, offset, len(data), checksum, previous, previous_length, 0)
        broken = replay.apply(placed)
        assert broken is None, broken
        self._buffer += data
        if len(self._buffer) >= _WRITE_BYTES:
            self._write()
        return placed

    def add_to(self, table: Table, record: Record) -> None:
        """Append a record, and let a table on disk that was made before lead to it."""
        placed = self.add(record)
        if record.kind == ENTRY:
            word = make_word(record.key, placed.offset, deleted=record.deleted)
            table.put(make_tag(record.key), placed.record.before, word)

    def make_table(self, cuts: int) -> Table:
        """Write the table that leads to all records so far."""
        self._replay.table.write(self._index, self.header, cuts)
        return Table(self._index, self.header, cuts)

    def flush(self) -> None:
        """Make everything durable that was added. Raises ``StorageError``."""
        self._write()
        try:
            failpoints.hit("compaction.flush")
            files.sync_file(self._fd)
        except OSError as error:
            raise StorageError.from_os(error, "make durable", self.path) from error

    def swap_in(self) -> None:
        """Let this be the log, and the table its index. Raises ``StorageError``, with the old log in place or the new one."""
        try:
            failpoints.hit("compaction.rename")
            os.replace(self._log, self.path)
            failpoints.hit("compaction.renamed")
            files.sync_directory(self.path.parent)
            if self._index.exists():
                os.replace(self._index, self.path.with_name(INDEX_NAME))
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise StorageError.from_os(error, "compact", self.path) from error

    def state(self, cuts: int) -> State:
        """Return the state behind the last record."""
        return self._replay.state(self.header.generation, cuts, self._last)

    def _write(self) -> None:
        try:
            files.write_all(self._fd, bytes(self._buffer))
        except OSError as error:
            raise StorageError.from_os(error, "compact", self.path) from error
        self._buffer.clear()


@contextmanager
def rewriting(path: Path, header: Header) -> Iterator[Rewrite]:
    """Write a log's next generation aside; what is not swapped in by the end is gone."""
    rewrite = Rewrite(path, header)
    try:
        yield rewrite
    finally:
        rewrite.close()


def write_generation(path: Path, header: Header, records: Iterator[Record]) -> None:
    """Let ``path`` be a log of exactly these records, and leave the making of its table to others. Raises ``StorageError``."""
    with rewriting(path, header) as rewrite:
        for record in records:
            rewrite.add(record)
        rewrite.flush()
        rewrite.swap_in()
