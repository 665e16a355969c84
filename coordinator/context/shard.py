"""One shard: a complete store for its share of the keys.

A log of records, a table that leads from a key to its newest record, and a control page that says how far the log is written
and how far it is durable. Readers take no lock: they load what is published and look things up as of that. A writer holds
the shard lock from comparing the version to indexing the record, and not while it is flushed; ``_append_alone`` and ``finish``
read as the order of its steps, which is the durability argument.

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
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeVar

from coordinator.config import LOCK_TIMEOUT_S, UPKEEP_TIMEOUT_S
from coordinator.context import compaction, log, remake
from coordinator.context.codec import ENTRY, FENCE, HEADER_BYTES, RULE, WROTE, Header, Placed, Record, encode_record
from coordinator.context.control import ControlPage, State
from coordinator.context.flush import FLUSH_WORDS, LEAD_NAMES, PUBLISH_NAME, Doubt, FlushFailed, GroupFlush, Ticket
from coordinator.context.generation import Generation, Standing
from coordinator.context.log import LOG_NAME, Scan, damaged
from coordinator.context.model import WriterLike
from coordinator.context.queue import QueuedLock
from coordinator.context.replay import count_kept
from coordinator.context.table import INDEX_NAME, Slot, Table, TableVoid, make_tag, make_word
from coordinator.context.upkeep import Upkeep
from coordinator.context.watch import FLUSH_WORD, LOCK_WORD
from coordinator.errors import (
    Busy,
    CrewkeepError,
    NotFound,
    RevisionCompacted,
    StorageError,
    Superseded,
    VersionConflict,
)
from coordinator.system import failpoints, files
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.lock_holders import find_lock_holders
from coordinator.system.wakeup import Bell

_T = TypeVar("_T")
#: What is to be written, the slot of its key as it is, and the key's newest version.
Decision = tuple[list[Record], Slot | None, Placed | None]
LOCK_NAME, CONTROL_NAME, TURN_NAME = "lock", "control", "turn"
#: Everything in a shard's directory that is a lock.
LOCK_NAMES = (LOCK_NAME, TURN_NAME, PUBLISH_NAME, *LEAD_NAMES, compaction.COMPACTION_NAME)
#: Looks at a log that compaction replaces again and again, before the lock settles it. Arbitrary.
_REOPENS = 20
#: The log is written ahead with zeros in steps: as much as there is, within these bounds.
_LEAST_AHEAD_BYTES, _MOST_AHEAD_BYTES = 1 << 14, 1 << 20
#: Where changes were read last, remembered so many times.
_CURSORS = 64


class Pending(NamedTuple):
    """What was appended, or why it was refused, and the state that has to be durable before anybody is told."""

    records: list[Record]
    refusal: CrewkeepError | None
    state: State
    generation: Generation
    page: ControlPage


class Shard:
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
        self.directory, self.number, self.header = directory, number, header
        self.path = directory / LOG_NAME
        self._lock_timeout_s, self._clock = lock_timeout_s, clock
        self._page: ControlPage | None = None
        self._generation: Generation | None = None
        #: On a read-only file system: what was published there, and how the log was found.
        self._frozen: tuple[State | None, Generation, State] | None = None
        #: The failure to flush after which this handle writes no more.
        self._failed: OSError | None = None
        #: What was last seen of the log's size and of what is durable, under the shard lock.
        self._size, self._flushed = 0, 0
        self._lock = QueuedLock(directory / LOCK_NAME, bell, LOCK_WORD + number)
        self.flush = GroupFlush(directory, bell, FLUSH_WORD + FLUSH_WORDS * number, timeout_s=lock_timeout_s)
        self._opening = threading.Lock()
        self._cursors: dict[tuple[int, int, int], Scan] = {}
        self.upkeep = Upkeep(self)
        _SHARDS.add(self)

    def close(self) -> None:
        """Let go of everything, once upkeep that is under way is done; it is given up after a moment."""
        self.upkeep.wait(UPKEEP_TIMEOUT_S)
        with self._opening:
            self._generation, self._page, self._frozen = None, None, None

    # reading

    def look(self) -> tuple[Generation, State]:
        """Return what is published by now. Raises ``Damaged``, ``StorageError`` or ``Busy``."""
        page, generation = self._page, self._generation
        if page is not None and generation is not None:
            state = page.read_published()
            if state is not None and state[:2] == generation.identity:
                return generation, state
        with self._opening:
            found = self._reopen()
        if found is not None:
            return found
        try:
            with self.alone() as page:
                self.prepare(page)
                generation, state = self._generation, page.read_published()
                assert generation is not None and state is not None, "a shard that was prepared is published"
                return generation, state
        except StorageError as error:
            if error.errno != errno.EROFS:
                raise
        with self._opening:
            page = self._open_page()
            self._frozen = (page.read_published(), *remake.read_frozen(self.path, self.header, page))
            return self._frozen[1:]

    def get(self, key: str) -> Record | None:
        """Return the newest version of a key, a tombstone included."""

        def find(generation: Generation, state: State) -> Record | None:
            placed = generation.find_newest(key, state)
            return None if placed is None else placed.record

        return self._ask(find)

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
        return self._ask(lambda generation, state: generation.standing(state))

    def list_keys(self, prefix: str) -> list[str]:
        """Return the keys below ``prefix`` that are present, in no order."""
        return self._ask(lambda generation, state: [record.key for record in generation.iter_newest(prefix, state)])

    def _ask(self, question: Callable[[Generation, State], _T]) -> _T:
        """Ask as of what is published; where the table turns out to be void, have it made anew and ask again."""
        for _ in range(_REOPENS):
            generation, state = self.look()
            try:
                return question(generation, state)
            except TableVoid:
                self.forget(generation)
        raise damaged(self.directory / INDEX_NAME, "wrong-order", "leads nowhere, however often it is made anew")

    def forget(self, generation: Generation) -> None:
        """Have the table of a generation made anew, unless somebody did so meanwhile."""
        with self.alone() as page:
            if self._generation is generation:
                page.void()
                self._generation = None

    # writing

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep everybody from writing, with everything that is written published."""
        with self.alone() as page:
            generation, state = self.prepare(page)
            if generation.header.durable:
                self.make_durable(state, generation, page)
            yield

    def begin(
        self,
        key: str,
        make: Callable[[Record | None], bytes | None],
        *,
        expected_version: int | None,
        writer: WriterLike | None,
    ) -> Pending:
        """Append the next version of a key: what ``make`` returns for the entry it met, a tombstone for ``None``.

        ``make`` runs under the shard lock and must be quick. ``expected_version=None`` takes any version. ``finish`` makes
        it a commit, or raises what it was refused for. Raises ``Busy``, ``StorageError`` or ``Damaged``: nothing was written.
        """

        tag = make_tag(key)

        def decide(generation: Generation, state: State) -> Decision:
            standing = generation.standing(state)
            _check_epoch(standing, writer)
            slot, newest = generation.find_slot(key, state, tag)
            met = None if newest is None or newest.record.deleted else newest.record
            version = met.version if met is not None else 0
            if expected_version is not None and expected_version != version:
                raise VersionConflict(key, expected_version, version)
            value = make(met)
            if value is None and met is None:
                raise NotFound(f"there is no key {key!r}", hint="`crewkeep context ls` lists the keys", key=key)
            record = Record(
                ENTRY,
                key,
                value or b"",
                value is None,
                state.revision + 1,
                (newest.record.version if newest is not None else 0) + 1,
                writer.epoch if writer is not None else 0,
                self._clock.wall_s(),
                writer.session if writer is not None else "",
                writer.name if writer is not None else "",
                0,
                newest.offset if newest is not None else 0,
            )
            if writer is None or standing.writers.get(writer.session, 0) >= writer.epoch:
                return [record], slot, newest
            # A write proves its epoch as well as a fence does.
            proof = Record(kind=FENCE, session=writer.session, epoch=writer.epoch, at=record.at, flags=WROTE)
            return [proof, record], slot, newest

        return self._append_alone(decide)

    def finish(self, pending: Pending) -> None:
        """Return once what was appended, and all before it, is durable and visible to everybody.

        Raises ``VersionConflict``, ``Superseded`` or ``NotFound`` if it was refused, once what it was refused for is durable;
        ``StorageError`` if it could not be made durable. Then nothing was written.
        """
        if pending.generation.header.durable:
            self.make_durable(pending.state, pending.generation, pending.page)
        if pending.refusal is not None:
            raise pending.refusal
        self.upkeep.after_commit(pending.state)

    def find_written(self, key: str) -> Record | None:
        """Return the newest version of a key in the log, durable or not. Only to make the next version of it."""

        def find(generation: Generation, state: State) -> Record | None:
            written = self._page.read_written() if self._page is not None else None
            placed = generation.find_newest(key, written if written is not None and written[:2] == state[:2] else state)
            return None if placed is None else placed.record

        return self._ask(find)

    def fence(self, session: str, epoch: int) -> None:
        """Refuse writes of ``session`` below ``epoch`` from now on."""

        def decide(generation: Generation, state: State) -> Decision:
            if generation.standing(state).epochs.get(session, 0) >= epoch:
                return [], None, None
            return [Record(kind=FENCE, session=session, epoch=epoch, at=self._clock.wall_s())], None, None

        self._commit(decide)

    def set_rule(self, prefix: str, name: str) -> None:
        """Let the merge rule ``name`` hold for keys that begin with ``prefix``."""

        def decide(generation: Generation, state: State) -> Decision:
            if generation.standing(state).rules.get(prefix) == name:
                return [], None, None
            return [Record(kind=RULE, key=prefix, value=name.encode("utf-8"), at=self._clock.wall_s())], None, None

        self._commit(decide)

    def _commit(self, decide: Callable[[Generation, State], Decision]) -> None:
        self.finish(self._append_alone(decide))  # also where another has just appended it: it must be durable

    def _append_alone(self, decide: Callable[[Generation, State], Decision]) -> Pending:
        refusal: CrewkeepError | None = None
        records: list[Record] = []
        page = self._acquire()  # 1. nobody else writes here
        try:
            generation, state = self.prepare(page)  # 2. what to build on, with whatever a killed writer began finished
            try:
                records, slot, newest = decide(generation, state)  # 3. refuse: epoch, version
            except (VersionConflict, Superseded, NotFound) as error:
                refusal = error
            if records:
                table = generation.table
                assert isinstance(table, Table), "what can be written has a table on disk"
                position = self._make_room(page, table, records[-1], slot)  # 4. room in the table
                after = self._append(generation, state, records, newest)  # 5. every byte into the log
                self._index(page, table, state, after, records[-1], position)  # 6. the table leads to it
                state = after
            if not generation.header.durable:
                page.publish(state)  # 7. visible to everybody; in durable mode by the flush that ``finish`` waits for
        finally:
            self._lock.release()
        return Pending(records, refusal, state, generation, page)

    @contextmanager
    def alone(self) -> Iterator[ControlPage]:
        """Hold the shard lock, against threads and processes. Raises ``Busy`` naming the holder."""
        page = self._acquire()
        try:
            yield page
        finally:
            self._lock.release()

    def _acquire(self) -> ControlPage:
        page = self._page
        if page is None or page.is_removed() or not page.is_writable:
            with self._opening:
                page = self._open_page(to_write=True)
        if not page.is_writable:
            raise remake.read_only(page.path)
        if not self._lock.acquire(self._lock_timeout_s):
            raise self._busy()
        return page

    def _busy(self) -> Busy:
        path = self.directory / LOCK_NAME
        holder = min(find_lock_holders([path]), default=0)
        return Busy(
            f"shard {self.number} of {self.directory.parent} has been locked for {self._lock_timeout_s:g} s"
            + (f" by process {holder}" if holder else ""),
            hint=f"see what process {holder} does; if it is stopped: kill -CONT {holder}" if holder else "try again",
            path=str(path),
            holder=holder or None,
        )

    def prepare(self, page: ControlPage) -> tuple[Generation, State]:
        """Return what to build on, with whatever a killed writer began finished. Call it under the shard lock."""
        if self._failed is not None:
            raise self._describe_failure(self._failed)
        published, state, begun, is_splitting, is_suspect = page.read_all()
        status = self._stat()
        if published is None or state is None or begun is None or is_splitting or is_suspect:
            return self._remake(page)
        if not published[:2] == state[:2] == begun[:2]:
            return self._remake(page)
        generation = self._generation
        if generation is None or generation.identity != state[:2] or not generation.is_writable:
            with self._opening:
                generation = self._open_generation(state)
        if generation is None or (status.st_dev, status.st_ino) != generation.inode:
            return self._remake(page)
        if not generation.is_writable:
            raise remake.read_only(self.path)
        self._size = status.st_size
        self._flushed = published.end if generation.header.durable else 0
        if status.st_size < state.end:
            raise damaged(self.path, "truncated", f"has {status.st_size} bytes where {state.end} were written")
        if begun.end > state.end and not self._finish(page, generation, state, begun):
            return self._remake(page)
        return generation, begun

    def replace(self, page: ControlPage, state: State) -> None:
        """Go on with the log that was swapped in, and publish it. Call it under the shard lock, with all of it durable."""
        try:
            generation = remake.open_generation(self.path, self.header)
            remake.open_table(generation, state.cuts)
        except TableVoid:
            self._remake(page)
            return
        with self._opening:
            self._generation = generation
        page.begin(state)
        self.flush.replace(page, state)

    def _remake(self, page: ControlPage) -> tuple[Generation, State]:
        generation = remake.remake(self.path, self.header, page, self.flush, now_s=self._clock.wall_s())
        with self._opening:
            self._generation, self._frozen = generation, None
        state = page.read_written()
        assert state is not None, "a page that was made anew is whole"
        self._size, self._flushed = os.fstat(generation.fd).st_size, state.end if generation.header.durable else 0
        return generation, state

    def _finish(self, page: ControlPage, generation: Generation, state: State, begun: State) -> bool:
        """Index what a killed writer announced; tell whether it was possible."""
        failpoints.hit("shard.finish")
        table = generation.table
        assert isinstance(table, Table), "what can be written has a table on disk"
        scan = Scan(end=state.end, checksum=state.checksum, length=state.length)
        for placed in log.iter_records(generation.fd, generation.header, scan, begun.end, self.path):
            record = placed.record
            if record.kind == ENTRY:
                slot, _ = generation.find_slot(record.key, begun)
                position = self._make_room(page, table, record, slot)
                table.store(position, make_tag(record.key), make_word(record.key, placed.offset, deleted=record.deleted))
        if scan.end != begun.end:
            return False
        page.settle(begun)
        return True

    def _make_room(self, page: ControlPage, table: Table, record: Record, slot: Slot | None) -> int:
        """Return where in the table the record's slot is or will be."""
        if record.kind != ENTRY:
            return 0
        if slot is not None:
            return slot.position
        tag = make_tag(record.key)
        while (position := table.find_room(tag)) is None:
            page.set_splitting(True)
            failpoints.hit("table.split")
            table.split(tag)
            page.set_splitting(False)
        return position

    def _append(self, generation: Generation, state: State, records: list[Record], newest: Placed | None) -> State:
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
        data = b"".join(parts)
        try:
            self._write_ahead(generation.fd, state.end)
            failpoints.hit("shard.append")
            done = 0
            while done < len(data):
                failpoints.hit("shard.write")
                done += os.pwrite(generation.fd, data[done:], start + done)
        except OSError as error:
            self._erase(generation.fd, start)
            raise StorageError.from_os(error, "write", self.path) from error
        return state

    def _write_ahead(self, fd: int, end: int) -> None:
        """Have zeros where the record goes: overwriting them needs no change of the file's size at each flush."""
        if end <= self._size:
            return
        size = os.fstat(fd).st_size
        length = (end + min(max(end, _LEAST_AHEAD_BYTES), _MOST_AHEAD_BYTES) | 4095) + 1 - size
        failpoints.hit("shard.ahead")
        while length > 0:
            done = os.pwrite(fd, bytes(min(length, _MOST_AHEAD_BYTES)), size)
            size, length = size + done, length - done
        self._size = size

    def _index(self, page: ControlPage, table: Table, before: State, after: State, record: Record, position: int) -> None:
        """Announce the record, let the table lead to it, and say so: a successor finishes what we leave undone."""
        try:
            page.begin(after)
            if record.kind == ENTRY:
                failpoints.hit("shard.index")
                offset = after.end - after.length
                table.store(position, make_tag(record.key), make_word(record.key, offset, deleted=record.deleted))
            failpoints.hit("shard.settle")
            page.settle(after)
        except StorageError:
            self._take_back(page, before)
            raise

    def _take_back(self, page: ControlPage, state: State) -> None:
        """After a failure on the way: let nobody find the record, whatever of it was written."""
        if self._generation is not None:
            self._erase(self._generation.fd, state.end)
        for act in (page.void, lambda: page.begin(state)):
            try:
                act()
            except StorageError:
                continue

    def _erase(self, fd: int, offset: int) -> None:
        try:
            if os.fstat(fd).st_size > offset:
                os.pwrite(fd, bytes(8), offset)
        except OSError:
            return  # the next writer writes over it

    def make_durable(self, state: State, generation: Generation, page: ControlPage) -> None:
        """Return when the log is durable and published up to ``state``. Raises ``StorageError``, ``Busy`` or ``Damaged``."""
        if generation.header.durable:
            self._wait_durable(
                Ticket(state.generation, state.cuts, state.end - state.length, state.end, state.checksum), generation, page
            )
            return
        try:
            files.sync_data(generation.fd)
        except OSError as error:
            raise self._describe_failure(error) from error

    def _wait_durable(self, ticket: Ticket, generation: Generation, page: ControlPage) -> None:
        if ticket.end == HEADER_BYTES:
            return
        try:
            self.flush.wait(ticket, generation, page)
        except FlushFailed as failure:
            error = failure.__cause__
            assert isinstance(error, OSError)
            described = self._describe_failure(error)
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                # The disk may have harmed what shares a block with it as well: this handle never tries again.
                self._failed = error
            raise described from error
        except Doubt:
            self._settle_doubt(ticket)

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
        self._wait_durable(ticket._replace(cuts=state.cuts), generation, page)

    def _describe_failure(self, failed: OSError) -> StorageError:
        error = StorageError.from_os(failed, "make durable", self.path)
        error.hint += "; then open the context again to go on writing"
        return error

    # opening

    def _stat(self) -> os.stat_result:
        try:
            return os.stat(self.path)
        except FileNotFoundError as error:
            raise damaged(self.path, "missing", "is missing") from error
        except OSError as error:
            raise StorageError.from_os(error, "look at", self.path) from error

    def _open_page(self, *, to_write: bool = False) -> ControlPage:
        page = self._page
        if page is not None and (page.is_removed() or (to_write and not page.is_writable)):
            # Removed, or the disk was read-only and perhaps is not any more.
            page, self._generation = None, None
        if page is None:
            if not self.directory.is_dir():
                raise damaged(self.directory, "missing", "is missing")
            page = self._page = ControlPage(self.directory / CONTROL_NAME)
        return page

    def _reopen(self) -> tuple[Generation, State] | None:
        """Open what is published; ``None`` if that takes the shard lock. Call it with ``_opening`` held."""
        page = self._open_page()
        if self._frozen is not None and page.read_published() == self._frozen[0]:
            return self._frozen[1:]
        if not page.is_of_this_boot():
            return None
        for _ in range(_REOPENS):
            state = page.read_published()
            if state is None:
                return None
            generation = self._open_generation(state)
            if generation is not None:
                return generation, state
        return None

    def _open_generation(self, state: State) -> Generation | None:
        """Open the log and table of that state; ``None`` if there is another log, or no such table. ``_opening`` is held."""
        known = self._generation
        if known is not None and known.identity == state[:2] and known.is_writable:
            return known
        generation = remake.open_generation(self.path, self.header)
        if generation.header.generation != state.generation:
            return None
        try:
            remake.open_table(generation, state.cuts)
        except TableVoid:
            return None
        self._generation = generation
        return generation


def _check_epoch(standing: Standing, writer: WriterLike | None) -> None:
    """Refuse the writer whose session has a newer incarnation. A place of its own, so that a test can plant it out."""
    if writer is not None and (newest := standing.epochs.get(writer.session, 0)) > writer.epoch:
        raise Superseded(writer.session, writer.epoch, newest)


_SHARDS: weakref.WeakSet[Shard] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """Threads that held locks do not exist in a child."""
    for shard in list(_SHARDS):
        shard._opening = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
