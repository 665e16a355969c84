"""Replaying a log: record after record, with every invariant of their order, into the table and the state they lead to. Pure.

Invariants, asserted by ``apply`` on every record:
  - above the floor, revisions rise by exactly one; at or below it (compaction has dropped some) they rise
  - above the floor, a key's versions rise by exactly one, or to that of an entry that was brought back; a tombstone counts as
    a write
  - an entry leads back to the key's version before it, a fence or rule to the fence or rule before it
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from coordinator.config import HISTORY_LIMIT
from coordinator.context.codec import ENTRY, FENCE, HEADER_BYTES, REINSTATED, RULE, Placed
from coordinator.context.control import State
from coordinator.context.table import DictTable, Table, make_tag, make_word


class Newest(NamedTuple):
    """The newest version of a key."""

    version: int
    offset: int
    length: int
    #: The oldest version that the log has of the key: compaction has dropped those before it, and they drop no more.
    oldest: int


class Replay:
    """What the records so far lead to."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        #: The highest revision, at least the floor.
        self.revision = floor
        self.table = DictTable()
        self.newest: dict[str, Newest] = {}
        self.standing = 0
        self.kept_bytes = 0
        self._last_kept = 0

    def find_newest(self, key: str) -> Newest | None:
        """Return the newest version of a key so far."""
        return self.newest.get(key)

    def store_newest(self, key: str, newest: Newest, before: int, *, deleted: bool) -> None:
        """Let the table lead to the newest version of a key in place of the one before it, if there is one."""
        self.table.put(make_tag(key), before, make_word(key, newest.offset, deleted=deleted))
        self.newest[key] = newest

    def apply(self, placed: Placed) -> str | None:
        """Take the next record in; return ``None``, or the invariant that it breaks."""
        record = placed.record
        if record.kind == ENTRY:
            return self._apply_entry(placed)
        if record.kind in (FENCE, RULE):
            if record.before != self.standing:
                return f"the fence or rule at {placed.offset} leads to {record.before}, not to {self.standing}"
            self.standing = placed.offset
        # Other kinds are of a newer crewkeep: left untouched, and kept by compaction.
        self.kept_bytes += placed.length
        return None

    def _apply_entry(self, placed: Placed) -> str | None:
        record = placed.record
        before = self.find_newest(record.key)
        version = before.version if before else 0
        if record.before != (before.offset if before else 0):
            return f"version {record.version} of {record.key!r} leads to {record.before}"
        if record.revision > self.floor:
            if record.revision != self.revision + 1:
                return f"revision {record.revision} follows {self.revision}"
            # The first that is kept of a key may have had older ones, if compaction has dropped any at all.
            is_gap_possible = not before if self.floor else False
            is_gap_possible |= record.flags & REINSTATED != 0 and record.version > version
            if record.version != version + 1 and not is_gap_possible:
                return f"version {record.version} of {record.key!r} follows {version}"
            self.revision = record.revision
        else:
            if record.revision <= self._last_kept:
                return f"revision {record.revision} follows {self._last_kept}"
            if record.version <= version:
                return f"version {record.version} of {record.key!r} follows {version}"
            self._last_kept = record.revision
        oldest = before.oldest if before else record.version
        count = record.version - oldest + 1
        self.kept_bytes = count_kept(self.kept_bytes, placed.length, count, before.length if before else 0)
        newest = Newest(record.version, placed.offset, placed.length, oldest)
        self.store_newest(record.key, newest, before.offset if before else 0, deleted=record.deleted)
        return None

    def state(self, generation: int, cuts: int, last: Placed | None, start: State | None = None) -> State:
        """Return the state that the log is in behind its last record, or at ``start`` if there was none since."""
        if last is not None:
            end, checksum, length = last.end, last.checksum, last.length
        elif start is not None:
            end, checksum, length = start.end, start.checksum, start.length
        else:
            end, checksum, length = HEADER_BYTES, 0, 0
        return State(generation, cuts, end, self.revision, self.standing, self.kept_bytes, checksum, length)


class ContinuedReplay(Replay):
    """A replay that goes on from a state whose table is on disk."""

    def __init__(self, floor: int, state: State, table: Table, read: Callable[[int], Placed]) -> None:
        """``read`` returns the record at a place."""
        super().__init__(floor)
        self.revision, self.standing, self.kept_bytes = state.revision, state.standing, state.kept_bytes
        self._last_kept = state.revision
        self._table, self._read = table, read

    def find_newest(self, key: str) -> Newest | None:
        for slot in self._table.find(make_tag(key), anew=True):
            placed = self._read(slot.address)
            if placed.record.key == key:
                return Newest(placed.record.version, placed.offset, placed.length, 1)
        return None

    def store_newest(self, key: str, newest: Newest, before: int, *, deleted: bool) -> None:
        self._table.put(make_tag(key), before, make_word(key, newest.offset, deleted=deleted))


def count_kept(kept_bytes: int, length: int, version: int, length_before: int) -> int:
    """Return about how many bytes are still needed once a key's ``version``-th one, of that length, stands in the log.

    The version that history drops for it is taken to be as long as the one before it.
    """
    return max(0, kept_bytes + length - (length_before if version > HISTORY_LIMIT else 0))
