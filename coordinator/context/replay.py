"""Replaying a log: record after record, with every invariant of their order, into the table and the state they lead to. Pure.

Invariants, asserted by ``apply`` on every record:
  - above the floor, revisions rise by exactly one; at or below it (compaction has dropped some) they rise
  - above the floor, a key's versions rise by exactly one; a tombstone counts as a write
  - an entry leads back to the key's version before it, a fence or rule to the fence or rule before it
"""

from __future__ import annotations

from typing import NamedTuple

from coordinator.config import HISTORY_LIMIT
from coordinator.context.codec import ENTRY, FENCE, HEADER_BYTES, RULE, Placed
from coordinator.context.control import State
from coordinator.context.table import DictTable, make_tag, make_word


class Newest(NamedTuple):
    """The newest version of a key."""

    version: int
    offset: int
    length: int


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
        before = self.newest.get(record.key)
        version = before.version if before else 0
        if record.before != (before.offset if before else 0):
            return f"version {record.version} of {record.key!r} leads to {record.before}"
        if record.revision > self.floor:
            if record.revision != self.revision + 1:
                return f"revision {record.revision} follows {self.revision}"
            # The first that is kept of a key may have had older ones, if compaction has dropped any at all.
            if record.version != version + 1 and (before or not self.floor):
                return f"version {record.version} of {record.key!r} follows {version}"
            self.revision = record.revision
        else:
            if record.revision <= self._last_kept:
                return f"revision {record.revision} follows {self._last_kept}"
            if record.version <= version:
                return f"version {record.version} of {record.key!r} follows {version}"
            self._last_kept = record.revision
        self.kept_bytes = count_kept(self.kept_bytes, placed.length, record.version, before.length if before else 0)
        word = make_word(record.key, placed.offset, deleted=record.deleted)
        self.table.put(make_tag(record.key), before.offset if before else 0, word)
        self.newest[record.key] = Newest(record.version, placed.offset, placed.length)
        return None

    def state(self, generation: int, cuts: int, last: Placed | None) -> State:
        """Return the state that the log is in behind its last record."""
        return State(
            generation,
            cuts,
            last.end if last else HEADER_BYTES,
            self.revision,
            self.standing,
            self.kept_bytes,
            last.checksum if last else 0,
            last.length if last else 0,
        )


def count_kept(kept_bytes: int, length: int, version: int, length_before: int) -> int:
    """Return about how many bytes are still needed once a version of that length stands in the log.

    The version that history drops for it is taken to be as long as the one before it.
    """
    return max(0, kept_bytes + length - (length_before if version > HISTORY_LIMIT else 0))
