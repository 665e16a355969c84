"""One generation of a shard's log as a process has it open: what stands where, as of any state of it. Read-only.

Nothing here is kept up to date: each question is asked as of a ``State``, and what came later is stepped over by the chain
that leads from each record to the one before it. So a reader that holds a published state is shown nothing that a crash
could take back, whatever writers do meanwhile, and nobody replays what others wrote.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from coordinator.config import CHANGES_LIMIT_BYTES, HISTORY_LIMIT
from coordinator.context import log
from coordinator.context.codec import ENTRY, FENCE, RULE, WROTE, Placed, Record
from coordinator.context.control import IDENTITY, State
from coordinator.context.log import Scan
from coordinator.context.table import Lookup, Slot, TableVoid, make_tag
from coordinator.errors import StorageError

_WORD = 0xFFFF_FFFF_FFFF_FFFF
#: Behind the end of every log.
_ANYWHERE = 1 << 62
#: Looks at a slot whose record does not prove itself: it was being written. Arbitrary.
_LOOKS = 100


@dataclass(frozen=True, slots=True)
class Standing:
    """What holds regardless of keys: who is fenced, who has written, which rules there are."""

    #: Where the newest record of it stands.
    at: int
    #: Session to the smallest epoch that may still write.
    epochs: dict[str, int]
    #: Session to the newest epoch that has committed an entry.
    writers: dict[str, int]
    #: Prefix to the name of a merge rule.
    rules: dict[str, str]


class Generation:
    """One generation of the log with the table that leads into it. Closed when the last reader lets go of it."""

    #: What leads to the newest records. A generation is asked once it has one.
    table: Lookup

    def __init__(self, path: Path) -> None:
        """Open the log. Raises ``Damaged``, ``FormatTooNew`` or ``StorageError``."""
        self.path = path
        self.fd = -1
        self.fd, self.header, self.is_writable = log.open_log(path)
        try:
            status = os.fstat(self.fd)
        except OSError as error:
            raise StorageError.from_os(error, "look at", path) from error
        #: Which file it is: the one called ``log`` may be another by now.
        self.inode = (status.st_dev, status.st_ino)
        self.is_durable = self.header.durable
        #: What the checksums of its records begin with.
        self.seed = self.header.seed
        self._identify(-1)
        self.known_standing = Standing(0, {}, {}, {})
        #: From this size of the log on it is to be seen what upkeep is due.
        self.upkeep_at = 0

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def use(self, table: Lookup, cuts: int) -> None:
        """Answer by that table from now on."""
        self.table = table
        self._identify(cuts)

    def _identify(self, cuts: int) -> None:
        #: The generation of the log, and of which count of cuts the table is; also as a state in the page begins with it.
        self.identity = (self.header.generation, cuts)
        self.identity_bytes = IDENTITY.pack(self.header.generation, cuts & _WORD)

    # keys

    def find_newest(self, key: str, state: State) -> Placed | None:
        """Return the newest version of a key as of ``state``, which may be a tombstone."""
        _, placed = self.find_slot(key, state)
        return placed

    def find_latest(self, key: str, state: State) -> Placed | None:
        """Return the newest version of a key that stands in the log by now, durable or not, which is that of ``state`` or newer.

        However much was written since, it takes one look.
        """
        _, placed = self.find_slot(key, state._replace(end=_ANYWHERE))
        return placed

    def find_slot(self, key: str, state: State, tag: int | None = None) -> tuple[Slot | None, Placed | None]:
        """Return the slot of a key as it is now, and the newest version as of ``state``."""
        tag = make_tag(key) if tag is None else tag
        for look in range(_LOOKS):
            is_torn = False
            slots = self.table.find(tag, anew=look > 0)
            for slot in slots:
                placed = self.find(slot.address)
                if placed is None:
                    is_torn = True
                    if look > 1 and slot.address and slot.address < state.end:
                        raise log.damaged(self.path, "wrong-digest", f"has a damaged record at {slot.address}")
                elif placed.record.key == key and placed.record.kind == ENTRY:
                    return slot, self._step_back(placed, state.end)
            if not is_torn and (look or not slots):
                return None, None
        raise TableVoid(f"a slot of {key!r} leads nowhere")

    def iter_versions(self, key: str, state: State) -> Iterator[Record]:
        """Yield the kept versions of a key as of ``state``, newest first."""
        placed = self.find_newest(key, state)
        for _ in range(HISTORY_LIMIT):
            if placed is None:
                return
            yield placed.record
            before = placed.record.before
            placed = self.read(before) if before else None

    def iter_newest(self, prefix: str, state: State) -> Iterator[Record]:
        """Yield the entries below ``prefix`` that are present as of ``state``, in no order."""
        seen = set()
        for word in self.table.iter_words(prefix):
            slot = Slot(-1, word)
            if slot.is_tombstone and slot.address < state.end:
                continue  # a deletion that is newer than the state is not one yet
            placed = self.find(slot.address)
            if placed is None:
                if slot.address and slot.address < state.end:
                    raise log.damaged(self.path, "wrong-digest", f"has a damaged record at {slot.address}")
                # Given up after a flush that failed, with the log cut and the table not made anew yet: its key is not known.
                raise TableVoid(f"a slot leads to {slot.address}, where there is nothing")
            key = placed.record.key
            if key.startswith(prefix) and key not in seen:
                then = self._step_back(placed, state.end)
                if then is not None and not then.record.deleted:
                    seen.add(key)
                    yield then.record

    def read(self, offset: int) -> Placed:
        """Return the record at a place where there must be one. Raises ``Damaged``."""
        return log.read_record(self.fd, self.header, offset, self.path)

    def find(self, address: int) -> Placed | None:
        """Return the record at a place, ``None`` if none there proves itself."""
        return log.find_record(self.fd, self.header, address, self.path) if address else None

    def _step_back(self, placed: Placed | None, end: int) -> Placed | None:
        while placed is not None and placed.offset >= end:
            before = placed.record.before
            placed = self.read(before) if before else None
        return placed

    # changes

    def list_changes(
        self, prefix: str, after: int, limit: int, state: State, cursor: Scan | None
    ) -> tuple[list[Record], int, Scan]:
        """Return the entries below ``prefix`` among up to ``limit`` that follow revision ``after``.

        Also the revision looked at last, and where it ends. ``cursor`` is where ``after`` ends, if that is known.
        """
        found: list[Record] = []
        position, size_bytes, looked = after, 0, 0
        scan = cursor or self.find_revision(after, state)
        last = scan = dataclasses.replace(scan)
        for placed in log.iter_records(self.fd, self.header, scan, state.end, self.path):
            if placed.record.kind == ENTRY and placed.record.revision > after:
                if looked == limit or size_bytes > CHANGES_LIMIT_BYTES:
                    break
                looked, position = looked + 1, placed.record.revision
                if placed.record.key.startswith(prefix):
                    found.append(placed.record)
                    size_bytes += placed.length
            last = dataclasses.replace(scan)
        if scan.reason:
            raise log.damaged(self.path, scan.reason, f"is damaged at {scan.end} of {state.end}")
        return found, position, last

    def find_revision(self, revision: int, state: State) -> Scan:
        """Return where the entry of that revision ends, or the log begins."""
        end = Scan(end=state.end, checksum=state.checksum, length=state.length)
        for placed in log.iter_backwards(self.fd, self.header, end, self.path):
            if placed.record.kind == ENTRY and placed.record.revision <= revision:
                return Scan(end=placed.end, checksum=placed.checksum, length=placed.length)
        return Scan()

    # standing

    def standing(self, state: State) -> Standing:
        """Return what holds as of ``state``."""
        known = self.known_standing
        if known.at == state.standing:
            return known
        newer: list[Record] = []
        at = state.standing
        while at and at != known.at:
            record = self.read(at).record
            newer.append(record)
            at = record.before
        if at != known.at:  # asked of an older state than before
            known = Standing(0, {}, {}, {})
        epochs, writers, rules = dict(known.epochs), dict(known.writers), dict(known.rules)
        for record in reversed(newer):
            if record.kind == RULE:
                rules[record.key] = str(record.value, "utf-8", "replace")
            elif record.kind == FENCE:
                epochs[record.session] = max(record.epoch, epochs.get(record.session, 0))
                if record.flags & WROTE:
                    writers[record.session] = max(record.epoch, writers.get(record.session, 0))
        self.known_standing = found = Standing(state.standing, epochs, writers, rules)
        return found
