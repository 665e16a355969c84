"""Compaction: write the records that are still needed into the log's next generation, and swap it in by one rename.

Kept are 50 versions of every key, each key's newest version even if it is a tombstone (so that a version number never
comes back), the newest ``RECENT_COUNT`` changes whatever they are (so that a watcher a bit behind misses none), the epoch
of every session, the rules, and every record of a kind that is not known here.

Readers and writers go on meanwhile: what is durable does not change, and what comes in is copied in rounds; the shard lock
is held for the last few records and the swap. Until the rename nothing has happened; after it, the old file lives on for
who has it open. If somebody dies between the rename and the publication, whoever comes next makes page and table anew.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from coordinator.config import COMPACT_ABOVE_BYTES, HISTORY_LIMIT, RECENT_COUNT, RECENT_LIMIT_BYTES
from coordinator.context import log
from coordinator.context.codec import ENTRY, FENCE, RULE, WROTE, Placed, Record
from coordinator.context.control import State
from coordinator.context.generation import Generation, Standing
from coordinator.context.log import Scan
from coordinator.context.rewrite import Rewrite, rewriting

if TYPE_CHECKING:
    from coordinator.context.shard import Shard

COMPACTION_NAME = "compaction"
#: Rounds without the lock, and what may be left for the last one with it. Arbitrary; a millisecond of copying.
_ROUNDS, _LAST_ROUND_BYTES = 5, 1 << 16
#: Keys remembered of which old versions are dropped. Arbitrary; some megabytes.
_GONE_LIMIT = 10_000


def is_due(state: State, not_before_bytes: int) -> bool:
    """Tell whether the log is mostly dead and big enough to bother."""
    # What is kept for late watchers may be dead as well, and is written anew each time: twice as much must be given back, or
    # commits of large values to a few keys would pay for it again and again.
    return state.end > max(COMPACT_ABOVE_BYTES, not_before_bytes, 2 * state.kept_bytes + 3 * RECENT_LIMIT_BYTES)


def compact(shard: Shard) -> None:
    """Replace the log of a shard by its next generation. Call it with the upkeep's lock held.

    Raises ``StorageError``, ``Damaged``, ``Busy`` or ``TableVoid``; then the log is the old one or, whole, the new one.
    """
    generation, state = shard.look()
    if not is_due(state, 0):
        return  # somebody has just done it
    floor = max(generation.header.floor, find_recent(generation, state))
    header = dataclasses.replace(generation.header, generation=generation.header.generation + 1, floor=floor)
    with rewriting(shard.path, header) as rewrite:
        _compact(shard, generation, state, rewrite)


def _compact(shard: Shard, generation: Generation, state: State, rewrite: Rewrite) -> None:
    for record in iter_standing(generation.standing(state)):
        rewrite.add(record)
    scan, gone = Scan(), dict[str, int]()
    for placed in _iter_stretch(generation, scan, state.end):  # 1. what is needed of what is durable
        if _is_needed(placed.record, generation, state, rewrite, gone):
            rewrite.add(placed.record)
    for _ in range(_ROUNDS):  # 2. what came in meanwhile
        _, state = shard.look()
        if state.generation != generation.header.generation or state.end - scan.end < _LAST_ROUND_BYTES:
            break
        for placed in _iter_stretch(generation, scan, state.end):
            rewrite.add(placed.record)
    table = rewrite.make_table(state.cuts)
    rewrite.flush()
    with shard.alone() as page:
        now, written = shard.prepare(page)
        if written[:2] != state[:2] or now.inode != generation.inode:
            return  # repaired or cut meanwhile; another time
        for placed in _iter_stretch(generation, scan, written.end):  # 3. the rest, with nobody writing
            rewrite.add_to(table, placed.record)
        rewrite.flush()
        page.set_changing(True)  # 4. from here on page and table are made anew, unless we come to the end
        rewrite.swap_in()  # 5. the new log is the log
        shard.replace(page, rewrite.state(written.cuts))  # 6. visible
        page.set_changing(False)


def _iter_stretch(generation: Generation, scan: Scan, stop: int) -> Iterator[Placed]:
    yield from log.iter_records(generation.fd, generation.header, scan, stop, generation.path)
    if scan.end != stop:
        raise log.damaged(generation.path, scan.reason or "truncated", f"is damaged at {scan.end} of {stop}")


def _is_needed(record: Record, generation: Generation, state: State, rewrite: Rewrite, gone: dict[str, int]) -> bool:
    """Tell whether the new log takes a record over. ``gone`` remembers by key below which version nothing is needed."""
    if record.kind != ENTRY:
        return record.kind not in (FENCE, RULE)
    if record.revision > rewrite.header.floor or rewrite.has(record.key):  # a key's versions are kept without a gap
        return True
    if record.version < gone.get(record.key, 0):
        return False
    # It counts from the newest version that is written by now, durable or not, which is in the new log before that is swapped
    # in: to step back from it to the newest durable one would take a look for each commit since.
    newest = generation.find_latest(record.key, state)
    if newest is None or newest.record.version - record.version < HISTORY_LIMIT:
        return True
    if len(gone) >= _GONE_LIMIT:
        gone.clear()
    gone[record.key] = newest.record.version - HISTORY_LIMIT + 1
    return False


def find_recent(generation: Generation, state: State) -> int:
    """Return the revision above which the newest changes stand that are kept for watchers."""
    count = size_bytes = 0
    revision = state.revision
    end = Scan(end=state.end, checksum=state.checksum, length=state.length)
    for placed in log.iter_backwards(generation.fd, generation.header, end, generation.path):
        if placed.record.kind != ENTRY:
            continue
        count, size_bytes = count + 1, size_bytes + placed.length
        if count > RECENT_COUNT or size_bytes > RECENT_LIMIT_BYTES or placed.record.revision <= generation.header.floor:
            return revision
        revision = placed.record.revision - 1
    return revision


def iter_standing(standing: Standing) -> Iterator[Record]:
    """Yield what holds regardless of history: the epochs and the rules."""
    for session, epoch in sorted(standing.epochs.items()):
        wrote = standing.writers.get(session, 0)
        if wrote:
            yield Record(kind=FENCE, session=session, epoch=wrote, flags=WROTE)
        if epoch > wrote:
            yield Record(kind=FENCE, session=session, epoch=epoch)
    for prefix, name in sorted(standing.rules.items()):
        yield Record(kind=RULE, key=prefix, value=name.encode("utf-8"))
