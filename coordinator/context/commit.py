"""The usual commit, written out in one piece: what ``Appender`` does step by step, where nothing is out of the ordinary.

With many writers every commit begins with cold caches, and most of its time goes into fetching code: in this form it costs a
third of the processor, measured with 16 and 64 writers. Whatever is not usual - a page that is not sound, a key that was not
looked up before, no room, a refusal, an error - is left to the careful way before anything is touched, so that there is one
place for each of them, and it is not here.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable

from coordinator.context import control
from coordinator.context.codec import CHECKED_FROM, ENTRY, RECORD, RECORD_BYTES, RECORD_MARK, Placed, Record
from coordinator.context.control import ControlPage, State
from coordinator.context.generation import Generation
from coordinator.context.model import WriterLike
from coordinator.context.replay import count_kept
from coordinator.context.table import ADDRESS, SLOT, TOMBSTONE, Table
from coordinator.system import failpoints, files

_WORD, _HEAD = struct.Struct("<Q"), struct.Struct("<4sI")


def append_usual(
    page: ControlPage,
    generation: Generation,
    key: str,
    tag: int,
    make: Callable[[Record | None], bytes | None],
    expected_version: int | None,
    writer: WriterLike | None,
    now_s: float,
    size: int,
) -> tuple[Record, State, State] | None:
    """Append the next version of a key and let the table lead to it; return the record and the states before and after.

    Call it under the shard lock. ``size`` is how far the log is written ahead. ``None``: nothing was done, take the careful
    way. Raises ``OSError`` once the record is announced: take it back.
    """
    table = generation.table
    if failpoints.armed or type(table) is not Table:
        return None
    try:
        # 1. what to build on
        data = os.pread(page.fd, control.READ_BYTES, 0)
        raw = data[control.WRITTEN]
        if len(data) != control.READ_BYTES or not data.startswith(page.binding) or data[control.BEGUN] != raw:
            return None
        if data[control.FLAGS] != control.NO_FLAGS:
            return None
        state = page.decode(raw)
        published = page.decode(data[control.PUBLISHED])
        if state is None or published is None or not state[:2] == published[:2] == generation.identity:
            return None
        if os.lseek(generation.fd, 0, os.SEEK_END) < size:
            return None
        # 2. by what right, and to which version
        standing = generation.known_standing
        if standing.at != state.standing:
            return None
        if writer is not None and not (
            standing.epochs.get(writer.session, 0) <= writer.epoch <= standing.writers.get(writer.session, 0)
        ):
            return None
        place = table.places.get(tag)
        if place is None:
            return None
        word, found = SLOT.unpack(os.pread(table.fd, 16, place))
        placed = generation.find(word & ADDRESS) if found == tag else None
        if placed is None or placed.record.key != key:
            return None
        newest = placed.record
        version = 0 if newest.deleted else newest.version
        if expected_version is not None and expected_version != version:
            return None
        value = make(None if newest.deleted else newest)
        if value is None:
            return None
        # 3. the record
        session, name, epoch = (writer.session, writer.name, writer.epoch) if writer is not None else ("", "", 0)
        record = Record(
            ENTRY, key, value, False, state.revision + 1, newest.version + 1, epoch, now_s, session, name, 0, placed.offset
        )
        texts = key.encode(), session.encode(), name.encode()
        sizes = len(texts[0]), len(texts[1]), len(texts[2]), len(value)
        length, offset, flushed = RECORD_BYTES + sum(sizes), state.end, published.end if generation.header.durable else 0
        if offset + length > size:
            return None
        head = RECORD.pack(
            RECORD_MARK, 0, length, state.checksum, state.length, ENTRY, 0, *sizes, *record[4:8], placed.offset, flushed
        )
        body = b"".join((head[CHECKED_FROM:], *texts, value))
        checksum = zlib.crc32(body, zlib.crc32(offset.to_bytes(8, "little"), generation.header.seed))
        kept = count_kept(state.kept_bytes, length, record.version, placed.length)
        after = State(state.generation, state.cuts, offset + length, record.revision, state.standing, kept, checksum, length)
        if os.pwrite(generation.fd, _HEAD.pack(RECORD_MARK, checksum) + body, offset) != length:
            return None
    except OSError:
        return None  # the careful way meets it again, and says what it is
    # 4. announced, indexed, settled
    data = page.encode(after)
    files.write_all_at(page.fd, data, control.BEGUN_AT)
    files.write_all_at(table.fd, _WORD.pack(word & ~ADDRESS & ~TOMBSTONE | offset), place)
    files.write_all_at(page.fd, data, control.WRITTEN_AT)
    generation.remember(Placed(record, offset, length, checksum, state.checksum, state.length, flushed))
    return record, state, after
