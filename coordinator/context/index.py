"""What a process knows of one shard: where each kept version stands, who is fenced, which rules hold. Pure.

Built by applying the records of the log in order; values stay on disk.

Invariants, asserted by ``apply`` on every record:
  - above the floor, revisions rise by exactly one; at or below it (compaction has dropped some) they rise
  - above the floor, a key's versions rise by exactly one; a tombstone counts as a write
"""

from __future__ import annotations

from array import array
from typing import NamedTuple

from coordinator.config import HISTORY_LIMIT
from coordinator.context.codec import ENTRY, RULE
from coordinator.context.log import Placed


class Slot(NamedTuple):
    """Where one version of a key stands in the log."""

    version: int
    offset: int
    length: int
    deleted: bool


class Index:
    """The index of one generation of a shard's log."""

    def __init__(self, floor: int) -> None:
        self.floor = floor
        #: The highest revision applied, at least the floor.
        self.revision = floor
        #: Session to the smallest epoch that may still write.
        self.epochs: dict[str, int] = {}
        #: Session to the newest epoch of which an entry is kept.
        self.writers: dict[str, int] = {}
        #: Prefix to the name of a merge rule.
        self.rules: dict[str, str] = {}
        #: Bytes of records that history no longer needs.
        self.dead_bytes = 0
        self._last_kept = 0
        self._slots: dict[str, list[Slot]] = {}
        # Places of the revisions floor + 1, floor + 2, ...
        self._offsets, self._lengths = array("Q"), array("I")

    def apply(self, placed: Placed) -> str | None:
        """Take the next record in; return ``None``, or the invariant that it breaks."""
        record = placed.record
        if record.session and record.epoch > self.epochs.get(record.session, 0):
            # A write proves its epoch as well as a fence does.
            self.epochs[record.session] = record.epoch
        if record.kind == ENTRY:
            return self._apply_entry(placed)
        if record.kind == RULE:
            self.rules[record.key] = str(record.value, "utf-8", "replace")
        # Fences are done by now; other kinds are of a newer crewkeep: left untouched, and kept by compaction.
        return None

    def _apply_entry(self, placed: Placed) -> str | None:
        record = placed.record
        slots = self._slots.setdefault(record.key, [])
        before = slots[-1].version if slots else 0
        if record.revision > self.floor:
            if record.revision != self.revision + 1:
                return f"revision {record.revision} follows {self.revision}"
            # The first that is kept of a key may have had older ones, if compaction has dropped any at all.
            if record.version != before + 1 and (before or not self.floor):
                return f"version {record.version} of {record.key!r} follows {before}"
            self.revision = record.revision
            self._offsets.append(placed.offset)
            self._lengths.append(placed.length)
        else:
            if record.revision <= self._last_kept:
                return f"revision {record.revision} follows {self._last_kept}"
            if record.version <= before:
                return f"version {record.version} of {record.key!r} follows {before}"
            self._last_kept = record.revision
        if record.session:
            self.writers[record.session] = max(record.epoch, self.writers.get(record.session, 0))
        slots.append(Slot(record.version, placed.offset, placed.length, record.deleted))
        if len(slots) > HISTORY_LIMIT:
            self.dead_bytes += slots.pop(0).length
        return None

    def find_newest(self, key: str) -> Slot | None:
        """Return the newest version of a key, which may be a tombstone."""
        slots = self._slots.get(key)
        return slots[-1] if slots else None

    def list_versions(self, key: str) -> list[Slot]:
        """Return the kept versions of a key, oldest first."""
        return list(self._slots.get(key, ()))

    def list_newest(self, prefix: str) -> list[tuple[str, Slot]]:
        """Return the keys below ``prefix`` that are present, with their newest version, in no order."""
        return [(key, slots[-1]) for key, slots in self._slots.items() if not slots[-1].deleted and key.startswith(prefix)]

    def list_places(self, after: int, limit: int) -> list[tuple[int, int]]:
        """Return offset and length of up to ``limit`` records of the revisions above ``after``, which is not below the floor."""
        first = after - self.floor
        assert first >= 0, "asked for revisions that are dropped"
        return list(zip(self._offsets[first : first + limit], self._lengths[first : first + limit], strict=True))

    def find_recent(self, limit: int, limit_bytes: int) -> int:
        """Return the revision above which the newest ``limit`` changes stand, fewer if they exceed ``limit_bytes``."""
        count, size_bytes = 0, 0
        while count < min(limit, len(self._lengths)) and size_bytes + self._lengths[-1 - count] <= limit_bytes:
            size_bytes += self._lengths[-1 - count]
            count += 1
        return self.revision - count

    def list_kept_offsets(self) -> set[int]:
        """Return the offsets of all versions that history keeps."""
        return {slot.offset for slots in self._slots.values() for slot in slots}
