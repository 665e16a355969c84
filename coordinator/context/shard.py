"""One shard: a complete store for its share of the keys.

A log of records, a table that leads from a key to its newest record, and a control page that says how far the log is written
and how far it is durable. Readers take no lock: they load what is published and look things up as of that. A writer holds
the shard lock from comparing the version to indexing the record, and not while it is flushed; ``_append_carefully`` and
``finish`` read as the order of its steps, which is the durability argument.

Invariants:
  - nothing above the published state is acknowledged, watched, returned, or a reason to refuse a write
  - below the written state the log is whole, immutable and indexed; below the published one (durable mode) it is flushed
  - the file called ``log`` is always the newest generation; compaction swaps it by one rename
  - what a killed writer left behind the written state is either finished by the next one (its record was whole and had been
    announced) or written over

Not promised: order between shards; anything about files deleted underneath open handles.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from coordinator.config import LOCK_TIMEOUT_S, UPKEEP_TIMEOUT_S
from coordinator.context import compaction, log
from coordinator.context.codec import ENTRY, FENCE, REINSTATED, RULE, WROTE, Header, Placed, Record
from coordinator.context.commit import Make, Pending, append_usual
from coordinator.context.control import ControlPage, State
from coordinator.context.flush import LEAD_NAME, PUBLISH_NAME, Doubt, FlushFailed, Ticket, make_ticket
from coordinator.context.generation import Generation, Standing
from coordinator.context.log import Scan, damaged
from coordinator.context.model import WriterLike
from coordinator.context.open_shard import LOCK_NAME, OpenShard
from coordinator.context.queue import QueuedLock
from coordinator.context.route import Route
from coordinator.context.table import INDEX_NAME, Slot, Table, TableVoid
from coordinator.context.upkeep import Upkeep
from coordinator.errors import CrewkeepError, Damaged, NotFound, RevisionCompacted, StorageError, Superseded, VersionConflict
from coordinator.system import failpoints, files
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.wakeup import Bell

_T = TypeVar("_T")
#: What is to be written, the slot of its key as it is, and the key's newest version.
Decision = tuple[list[Record], Slot | None, Placed | None]
TURN_NAME = "turn"
#: Everything in a shard's directory that is a lock.
LOCK_NAMES = (LOCK_NAME, TURN_NAME, PUBLISH_NAME, LEAD_NAME, compaction.COMPACTION_NAME)
#: Times that a table is made anew for one question, before it is given up. Arbitrary.
_REMAKES = 20
#: Where changes were read last, remembered so many times.
_CURSORS = 64


class Shard(OpenShard):
    """One shard, open in this process; any number of threads may use it."""

    def __init__(
        self,
        directory: Path,
        number: int,
        header: Header,
        bell: Bell,
        *,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        clock: Clock = SYSTEM,
    ) -> None:
        """Nothing is opened before it is needed. ``header`` says what every log of this context must say of itself.

        ``bell`` is the whole context's.
        """
        super().__init__(directory, number, header, bell, lock_timeout_s=lock_timeout_s, clock=clock)
        #: The failure to flush after which this handle writes no more.
        self._failed: OSError | None = None
        self._cursors: dict[tuple[int, int, int], Scan] = {}
        self.upkeep = Upkeep(self)

    def close(self) -> None:
        """Let go of everything, once upkeep that is under way is done; it is given up after a moment."""
        self.upkeep.wait(UPKEEP_TIMEOUT_S)
        super().close()

    # reading

    def get(self, route: Route) -> Record | None:
        """Return the newest version of a key, a tombstone included."""
        page = self.page

        def find(generation: Generation, state: State) -> Record | None:
            placed = self._find(route, generation, state)
            record = None if placed is None else placed.record
            if page is not None and isinstance(generation.table, Table):
                route.show(page.encode(state), record)
            return record

        return self._ask(find)

    def _find(self, route: Route, generation: Generation, state: State) -> Placed | None:
        known = route.find_written(generation)
        if known is not None and known.newest.end <= state.end:
            return known.newest
        slot, placed = generation.find_slot(route.key, state, route.tag)
        if slot is not None and placed is not None and placed.offset == slot.address:
            route.learn(generation.table, slot, placed)
        return placed

    def list_history(self, key: str) -> list[Record]:
        """Return the kept versions of a key, newest first."""
        return self._ask(lambda generation, state: list(generation.iter_versions(key, state)))

    def get_version(self, key: str, version: int) -> Record | None:
        """Return that version, if it is kept."""

        def find(generation: Generation, state: State) -> Record | None:
            return next((record for record in generation.iter_versions(key, state) if record.version <= version), None)

        record = self._ask(find)
        return record if record is not None and record.version == version else None

    def read_changes(self, prefix: str, after: int, limit: int) -> tuple[list[Record], int]:
        """Return the changes above revision ``after`` in order, and the last revision looked at.

        Raises ``RevisionCompacted`` where some of them are not kept, or ``after`` was never reached.
        """
        generation, state = self.look()
        if after == state.revision:
            return [], after
        floor = generation.header.floor
        if not floor <= after < state.revision:
            why = f"changes up to {floor} are not kept" if after < floor else f"it is at {state.revision}"
            raise RevisionCompacted(
                f"cannot go on from revision {after} of shard {self.number}: {why}",
                hint="take a snapshot and watch on from its revisions",
                shard=self.number,
                revision=after,
                oldest=floor,
            )
        if limit <= 0:
            return [], after
        cursor = self._cursors.get((*generation.identity, after))
        found, position, scan = generation.list_changes(prefix, after, limit, state, cursor)
        if len(self._cursors) >= _CURSORS:
            self._cursors = {}
        self._cursors[(*generation.identity, position)] = scan
        return found, position

    def standing(self) -> Standing:
        """Return who is fenced, who has written and which rules hold."""
        page, generation = self.page, self.generation
        if page is not None and generation is not None:
            state = page.read_published()
            if state is not None and state.standing == generation.known_standing.at and state[:2] == generation.identity:
                return generation.known_standing
        return self._ask(lambda generation, state: generation.standing(state))

    def list_keys(self, prefix: str) -> list[str]:
        """Return the keys below ``prefix`` that are present, in no order."""
        return self._ask(lambda generation, state: [record.key for record in generation.iter_newest(prefix, state)])

    def _ask(self, question: Callable[[Generation, State], _T]) -> _T:
        """Ask as of what is published; where the table turns out to be void, have it made anew and ask again."""
        for _ in range(_REMAKES):
            generation, state = self.look()
            try:
                return question(generation, state)
            except TableVoid:
                self.forget(generation)
        raise self._void()

    def _void(self) -> Damaged:
        return damaged(self.directory / INDEX_NAME, "wrong-order", "leads nowhere, however often it is made anew")

    # writing

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep everybody from writing, with everything that is written published."""
        with self.alone() as page:
            generation, state = self.prepare(page)
            if generation.header.durable:
                self.make_durable(state, generation, page)
            yield

    def commit(self, route: Route, make: Make, expected_version: int | None, turn: QueuedLock | None = None) -> Record:
        """Write the next version of a key; when this returns, it and all before it are durable and visible to everybody.

        ``expected_version=None`` takes any version. A function ``make`` runs under the shard lock, perhaps twice, and must be
        quick; what it may raise is ``VersionConflict``. ``turn`` is given back once the next one can build on the record.
        Raises ``VersionConflict``, ``Superseded`` or ``NotFound`` if it is refused, once what it is refused for is durable;
        ``Busy``, ``StorageError`` or ``Damaged``: nothing was written.
        """
        try:
            pending = append_usual(route, make, expected_version) if self._failed is None else None
            if pending is None:
                with self.alone() as page:
                    pending = self._append_carefully(page, partial(self._decide, route, make, expected_version), route)
        finally:
            if turn is not None:
                turn.release()
        record = self.finish(pending, route.words)
        assert record is not None, "what was not refused was appended"
        return record

    def _decide(self, route: Route, make: Make, expected_version: int | None, generation: Generation, state: State) -> Decision:
        key, writer, standing = route.key, route.writer, generation.standing(state)
        _check_epoch(standing, writer)
        slot, newest = generation.find_slot(key, state, route.tag)
        met = None if newest is None or newest.record.deleted else newest.record
        version = met.version if met is not None else 0
        if expected_version is not None and expected_version != version:
            raise VersionConflict(key, expected_version, version)
        value = make if isinstance(make, bytes) else make(met)
        if value is None and met is None:
            raise NotFound(f"there is no key {key!r}", hint="`crewkeep context ls` lists the keys", key=key)
        record = Record(
            ENTRY,
            key,
            value or b"",
            value is None,
            state.revision + 1,
            (newest.record.version if newest is not None else 0) + 1,
            route.epoch,
            self.wall_s(),
            route.session,
            route.name,
            0,
            newest.offset if newest is not None else 0,
        )
        if writer is None or standing.writers.get(writer.session, 0) >= writer.epoch:
            return [record], slot, newest
        # A write proves its epoch as well as a fence does.
        proof = Record(kind=FENCE, session=writer.session, epoch=writer.epoch, at=record.at, flags=WROTE)
        return [proof, record], slot, newest

    def finish(self, pending: Pending, words: tuple[int, ...] = ()) -> Record | None:
        """Return what was appended last, once it and all before it are durable and visible to everybody, or raise its refusal.

        ``words`` are the numbers of the bell that it rings.
        """
        record, refusal, ticket, state, generation, page = pending
        is_rung = False
        if generation.header.durable:
            try:
                is_rung = self.flush.wait(ticket, generation, page)
            except (Doubt, FlushFailed) as reason:
                self.settle(reason, ticket)
        if refusal is not None:
            raise refusal
        if words and not is_rung:
            self.bell.ring(*words)
        if ticket.end >= generation.upkeep_at:
            self.upkeep.after_commit(generation, page.decode(state))
        return record

    def reinstate(self, route: Route, record: Record) -> bool:
        """Write a record again at the version it had, unless its key has that version or a newer one; tell whether it had not."""

        def decide(generation: Generation, state: State) -> Decision:
            _check_epoch(generation.standing(state), route.writer)
            slot, newest = generation.find_slot(route.key, state, route.tag)
            if newest is not None and newest.record.version >= record.version:
                return [], None, None
            before = newest.offset if newest is not None else 0
            return [record._replace(revision=state.revision + 1, before=before, flags=REINSTATED)], slot, newest

        with self.alone() as page:
            pending = self._append_carefully(page, decide)
        return self.finish(pending, route.words) is not None

    def find_written(self, route: Route) -> Record | None:
        """Return the newest version of a key in the log, durable or not. Only to make the next version of it."""
        generation = self.generation
        known = route.find_written(generation) if generation is not None and not failpoints.armed else None
        if known is not None:
            return known.newest.record

        def find(generation: Generation, state: State) -> Record | None:
            written = self.page.read_written() if self.page is not None else None
            placed = self._find(route, generation, written if written is not None and written[:2] == state[:2] else state)
            return None if placed is None else placed.record

        return self._ask(find)

    def fence(self, session: str, epoch: int) -> None:
        """Refuse writes of ``session`` below ``epoch`` from now on."""

        def decide(generation: Generation, state: State) -> Decision:
            if generation.standing(state).epochs.get(session, 0) >= epoch:
                return [], None, None
            return [Record(kind=FENCE, session=session, epoch=epoch, at=self.wall_s())], None, None

        self._commit(decide)

    def set_rule(self, prefix: str, name: str) -> None:
        """Let the merge rule ``name`` hold for keys that begin with ``prefix``."""

        def decide(generation: Generation, state: State) -> Decision:
            if generation.standing(state).rules.get(prefix) == name:
                return [], None, None
            return [Record(kind=RULE, key=prefix, value=name.encode("utf-8"), at=self.wall_s())], None, None

        self._commit(decide)

    def _commit(self, decide: Callable[[Generation, State], Decision]) -> None:
        with self.alone() as page:
            pending = self._append_carefully(page, decide)
        self.finish(pending)  # also where another has just appended it: it must be durable

    def _append_carefully(
        self, page: ControlPage, decide: Callable[[Generation, State], Decision], route: Route | None = None
    ) -> Pending:
        """Append what ``decide`` decides on. Call it under the shard lock: 1. nobody else writes here."""
        if self._failed is not None:
            raise self._describe_failure(self._failed)
        refusal: CrewkeepError | None = None
        records: list[Record] = []
        position = 0
        generation, state = self.prepare(page)  # 2. what to build on, with whatever a killed writer began finished
        for _ in range(_REMAKES):
            try:
                records, slot, newest = decide(generation, state)  # 3. refuse: epoch, version
                if records:
                    position = self.appender.make_room(page, generation, records[-1], slot)  # 4. room in the table
                break
            except (VersionConflict, Superseded, NotFound) as error:
                refusal = error
                break
            except TableVoid:  # somebody harmed it below us
                generation, state = self._remake(page)
        else:
            raise self._void()
        start = state.end
        if records:
            after = self.appender.append(generation, state, records, newest)  # 5. every byte into the log
            word = self.appender.index(page, generation, state, after, records[-1], position)  # 6. the table leads to it
            state = after
            if route is not None and self.appender.last is not None:
                route.learn(generation.table, Slot(position, word), self.appender.last)
                route.standing = generation.standing(state)  # it has just been permitted by it
        if not generation.header.durable:
            page.publish(state)  # 7. visible to everybody; in durable mode by the flush that ``finish`` waits for
        record = records[-1] if records else None
        return Pending(record, refusal, make_ticket(state, start), page.encode(state), generation, page)

    def make_durable(self, state: State, generation: Generation, page: ControlPage) -> None:
        """Return when the log is durable and published up to ``state``. Raises ``StorageError``, ``Busy`` or ``Damaged``."""
        if generation.header.durable:
            ticket = make_ticket(state)
            try:
                self.flush.wait(ticket, generation, page)
            except (Doubt, FlushFailed) as reason:
                self.settle(reason, ticket)
            return
        try:
            files.sync_data(generation.fd)
        except OSError as error:
            raise self._describe_failure(error) from error

    def settle(self, reason: Doubt | FlushFailed, ticket: Ticket) -> None:
        """Return if a record is durable in spite of that. Raises ``StorageError``, ``Busy`` or ``Damaged``."""
        if isinstance(reason, Doubt):
            self._settle_doubt(ticket)
            return
        error = reason.__cause__
        assert isinstance(error, OSError)
        described = self._describe_failure(error)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            # The disk may have harmed what shares a block with it as well: this handle never tries again.
            self._failed = error
        raise described from error

    def _settle_doubt(self, ticket: Ticket) -> None:
        """The log was cut or its page made anew while we waited: tell from the log itself whether the record is there."""
        with self.alone() as page:
            generation, state = self.prepare(page)
            if generation.header.generation > ticket.generation:
                return  # the next generation was made with everything, and flushed
            placed = (
                log.find_record(generation.fd, generation.header, ticket.offset, self.path) if ticket.end <= state.end else None
            )
        if placed is None or (placed.end, placed.checksum) != (ticket.end, ticket.checksum):
            raise StorageError(
                f"the write to {self.path} was given up: another process could not make it durable",
                hint="nothing was written; try again",
                path=str(self.path),
                errno=errno.EIO,
                cause="EIO",
            )
        self.make_durable(state, generation, page)

    def _describe_failure(self, failed: OSError) -> StorageError:
        error = StorageError.from_os(failed, "make durable", self.path)
        error.hint += "; then open the context again to go on writing"
        return error


def _check_epoch(standing: Standing, writer: WriterLike | None) -> None:
    """Refuse the writer whose session has a newer incarnation. A place of its own, so that a test can plant it out."""
    if writer is not None and (newest := standing.epochs.get(writer.session, 0)) > writer.epoch:
        raise Superseded(writer.session, writer.epoch, newest)
