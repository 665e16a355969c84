"""The usual commit, written out in one piece: what ``Shard`` does step by step, where nothing is out of the ordinary.

With many writers every commit begins with cold caches, and most of its time goes into fetching code: in this form it costs a
fraction of the processor, measured with 16 and 64 writers. Whatever is not usual - a page that is not sound, a key that was
not looked up before, no room, a refusal, an error - is left to the careful way before anything is touched, so that there is
one place for each of them, and it is not here.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from coordinator.config import HISTORY_LIMIT
from coordinator.context.codec import CHECKED_FROM, ENTRY, RECORD_BYTES, RECORD_HEAD, RECORD_MARK, SEEDED_RECORD, Placed, Record
from coordinator.context.control import (
    BEGINNING,
    BEGUN,
    BEGUN_AT,
    CHECKSUM,
    FLUSHING_AT,
    PUBLISHED_AT,
    READ_BYTES,
    STATE,
    STATE_BYTES,
    WRITTEN,
    WRITTEN_AT,
    ControlPage,
)
from coordinator.context.flush import Ticket
from coordinator.context.generation import Generation
from coordinator.context.route import KEPT_BYTES, Known, Route
from coordinator.context.table import ADDRESS, SLOT, TOMBSTONE
from coordinator.errors import CrewkeepError, StorageError, VersionConflict
from coordinator.system import failpoints

#: What the new value is, or what makes it of the newest record (``None``: there is none); it returns ``None`` to delete.
Make = bytes | Callable[[Record | None], bytes | None]
#: Of the page: which flush began last, which is over, and how far the log is durable.
_FLUSHES = struct.Struct("<Q16xQ16xQ")
#: Makes a named tuple of a tuple: its own constructor is a function of Python's.
_new: Any = tuple.__new__
_IDENTITY = slice(PUBLISHED_AT, PUBLISHED_AT + 16)


class Pending(NamedTuple):
    """What was appended, or why it was refused, and what has to be durable before anybody is told."""

    record: Record | None
    refusal: CrewkeepError | None
    ticket: Ticket
    #: What the log is written up to, as it stands in the page.
    state: bytes
    generation: Generation
    page: ControlPage


def append_usual(route: Route, make: Make, expected_version: int | None) -> Pending | None:
    """Append the next version of a key and let the table lead to it; ``None``: nothing was done, take the careful way.

    Raises ``Busy`` or ``StorageError``: nothing was written.
    """
    shard, known = route.shard, route.known
    page, generation = shard.page, shard.generation
    if known is None or page is None or generation is None or failpoints.armed or not page.is_writable:
        return None
    table, place, slot, newest = known
    standing, identity, is_durable = generation.known_standing, generation.identity_bytes, generation.is_durable
    if generation.table is not table or standing is not route.standing:
        return None
    page_fd, lock = page.fd, shard.lock
    if not lock.try_acquire():
        shard.wait_for_lock()  # 1. nobody else writes here
    try:
        try:
            # 2. what to build on
            data = os.pread(page_fd, READ_BYTES, 0)
            written = data[WRITTEN]
            if data[BEGINNING] != page.calm or data[BEGUN] != written or data[_IDENTITY] != identity or written[:16] != identity:
                return None
            number, cuts, start, revision, standing_at, kept_bytes, previous, previous_length = STATE.unpack_from(written)
            if standing_at != standing.at or not (is_durable or shard.is_in_place()):
                return None
            if os.pread(table.fd, SLOT.size, place) != slot:
                known = route.find_written(generation)  # another has written it
                if known is None:
                    return None
                _, _, slot, newest = known
            # 3. refuse: version
            record, before, length_before, _, _, _, _ = newest
            _, _, _, deleted, _, version, _, _, _, _, _, _ = record
            if expected_version is not None and expected_version != (0 if deleted else version):
                return None
            value = make if isinstance(make, bytes) else make(None if deleted else record)
            if value is None:
                return None
            # 4. every byte into the log
            epoch, texts, now_s = route.epoch, route.texts, shard.wall_s()
            begun, over, flushed = _FLUSHES.unpack_from(data, FLUSHING_AT) if is_durable else (0, 0, 0)
            length = RECORD_BYTES + len(texts) + len(value)
            end, revision, version = start + length, revision + 1, version + 1
            if os.lseek(generation.fd, 0, os.SEEK_END) < end:
                return None  # not written ahead so far, or cut
            links, sizes = (start, length, previous, previous_length), route.sizes
            head = SEEDED_RECORD.pack(*links, ENTRY, 0, *sizes, len(value), revision, version, epoch, now_s, before, flushed)
            body = head + texts + value
            checksum = zlib.crc32(body, generation.seed)
            if os.pwrite(generation.fd, RECORD_HEAD.pack(RECORD_MARK, checksum) + body[CHECKED_FROM:], start) != length:
                return None
        except (OSError, VersionConflict):
            return None  # the careful way meets it again, and says what it is
        kept_bytes += length if version <= HISTORY_LIMIT else length - length_before
        state = STATE.pack(number, cuts, end, revision, standing_at, kept_bytes if kept_bytes > 0 else 0, checksum, length)
        state += CHECKSUM.pack(zlib.crc32(state))
        word, tag = SLOT.unpack(slot)
        slot = SLOT.pack(word & ~ADDRESS & ~TOMBSTONE | start, tag)
        try:
            is_whole = os.pwrite(page_fd, state, BEGUN_AT) == STATE_BYTES  # 5. announced
            is_whole &= os.pwrite(table.fd, slot[:8], place) == 8  # 6. the table leads to it
            is_whole &= os.pwrite(page_fd, state, WRITTEN_AT) == STATE_BYTES
            if not is_durable:
                is_whole &= os.pwrite(page_fd, state, PUBLISHED_AT) == STATE_BYTES  # 7. visible to everybody
            if not is_whole:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            shard.appender.take_back(page, generation)
            raise StorageError.from_os(error, "write", shard.path) from error
        done = _new(
            Record, (ENTRY, route.key, value, False, revision, version, epoch, now_s, route.session, route.name, 0, before)
        )
        newest = _new(Placed, (done, start, length, checksum, previous, previous_length, flushed))
        route.known = _new(Known, (table, place, slot, newest)) if length <= KEPT_BYTES else None
    finally:
        lock.release()
    ticket = _new(Ticket, (number, cuts, start, start, end, checksum, begun != over))
    pending: Pending = _new(Pending, (done, None, ticket, state, generation, page))
    return pending
