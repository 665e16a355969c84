"""Appending to a shard's log and letting its table lead there: what the holder of the shard lock does, step by step.

Every step leaves what a successor can finish or write over. A step that fails takes back the ones before it, or has page and
table made anew; what was written is never found then.
"""

from __future__ import annotations

import os
from pathlib import Path

from coordinator.context import log
from coordinator.context.codec import ENTRY, Placed, Record, encode_record
from coordinator.context.control import ControlPage, State
from coordinator.context.generation import Generation
from coordinator.context.log import Scan
from coordinator.context.replay import count_kept
from coordinator.context.table import Slot, Table, make_tag, make_word
from coordinator.errors import StorageError
from coordinator.system import failpoints

#: The log is written ahead with zeros in steps: as much as there is, within these bounds.
_LEAST_AHEAD_BYTES, _MOST_AHEAD_BYTES = 1 << 14, 1 << 20
_ZEROS = bytes(1 << 16)


class Appender:
    """The appending to one shard by this process. Only who holds the shard lock may use it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        #: How far the log is written ahead.
        self.size = 0
        self._flushed = 0
        #: The record appended last.
        self.last: Placed | None = None

    def note(self, size_bytes: int, flushed: int) -> None:
        """Take note of the log's size, and of how much of it is durable."""
        self.size, self._flushed = size_bytes, flushed

    def make_room(self, page: ControlPage, generation: Generation, record: Record, slot: Slot | None) -> int:
        """Return where in the table the record's slot is or will be."""
        if record.kind != ENTRY:
            return 0
        if slot is not None:
            return slot.position
        tag, table = make_tag(record.key), _get_table(generation)
        while (position := table.find_room(tag)) is None:
            page.set_changing(True)
            if failpoints.armed:
                failpoints.hit("table.split")
            table.split(tag)
            page.set_changing(False)
        return position

    def append(self, generation: Generation, state: State, records: list[Record], newest: Placed | None) -> State:
        """Write the records behind ``state``, the newest version of their key being ``newest``; return the state behind them."""
        header, start = generation.header, state.end
        parts: list[bytes] = []
        for record in records:
            if record.kind != ENTRY:
                record = record._replace(before=state.standing)
            data, checksum = encode_record(
                record,
                seed=header.seed,
                offset=state.end,
                previous=state.checksum,
                previous_length=state.length,
                flushed=self._flushed,
            )
            is_entry = record.kind == ENTRY
            self.last = Placed(record, state.end, len(data), checksum, state.checksum, state.length, self._flushed)
            state = State(
                state.generation,
                state.cuts,
                state.end + len(data),
                record.revision if is_entry else state.revision,
                state.standing if is_entry else state.end,
                count_kept(state.kept_bytes, len(data), record.version, newest.length if is_entry and newest else 0),
                checksum,
                len(data),
            )
            parts.append(data)
        data = b"".join(parts) if len(parts) > 1 else parts[0]
        try:
            self._write_ahead(generation.fd, state.end)
            if failpoints.armed:
                failpoints.hit("shard.append")
            done = 0
            while done < len(data):
                if failpoints.armed:
                    failpoints.hit("shard.write")
                done += os.pwrite(generation.fd, data[done:], start + done)
        except OSError as error:
            self._erase(generation.fd, start)
            raise StorageError.from_os(error, "write", self.path) from error
        return state

    def index(self, page: ControlPage, generation: Generation, before: State, after: State, record: Record, position: int) -> int:
        """Announce the record, let the table lead to it, and say so: a successor finishes what we leave undone.

        Returns the word that the slot at ``position`` has now.
        """
        word = 0
        try:
            page.begin(after)
            if record.kind == ENTRY:
                if failpoints.armed:
                    failpoints.hit("shard.index")
                offset = after.end - after.length
                word = make_word(record.key, offset, deleted=record.deleted)
                _get_table(generation).store(position, make_tag(record.key), word)
            if failpoints.armed:
                failpoints.hit("shard.settle")
            page.settle(after)
        except StorageError:
            self.take_back(page, generation)
            raise
        return word

    def finish(self, page: ControlPage, generation: Generation, state: State, begun: State) -> bool:
        """Index what a killed writer announced; tell whether it was possible."""
        if failpoints.armed:
            failpoints.hit("shard.finish")
        table = _get_table(generation)
        scan = Scan(end=state.end, checksum=state.checksum, length=state.length)
        for placed in log.iter_records(generation.fd, generation.header, scan, begun.end, self.path):
            record = placed.record
            if record.kind == ENTRY:
                slot, _ = generation.find_slot(record.key, begun)
                position = self.make_room(page, generation, record, slot)
                table.store(position, make_tag(record.key), make_word(record.key, placed.offset, deleted=record.deleted))
        if scan.end != begun.end:
            return False
        page.settle(begun)
        return True

    def _write_ahead(self, fd: int, end: int) -> None:
        """Have zeros where the record goes: overwriting them needs no change of the file's size at each flush."""
        if end <= self.size:
            return
        size = log.measure(fd, self.path)
        length = (end + min(max(end, _LEAST_AHEAD_BYTES), _MOST_AHEAD_BYTES) | 4095) + 1 - size
        if failpoints.armed:
            failpoints.hit("shard.ahead")
        while length > 0:
            done = os.pwrite(fd, _ZEROS if length >= len(_ZEROS) else _ZEROS[:length], size)
            size, length = size + done, length - done
        self.size = size

    def take_back(self, page: ControlPage, generation: Generation) -> None:
        """After a failure on the way: let nobody find the record, whatever of it was written."""
        written = None
        try:
            written = page.read_written()
            page.void()
        except StorageError:
            pass
        if written is not None:
            self._erase(generation.fd, written.end)

    def _erase(self, fd: int, offset: int) -> None:
        try:
            if os.lseek(fd, 0, os.SEEK_END) > offset:
                os.pwrite(fd, bytes(8), offset)
        except OSError:
            return  # the next writer writes over it


def _get_table(generation: Generation) -> Table:
    table = generation.table
    assert isinstance(table, Table), "what can be written has a table on disk"
    return table
