"""The shared context on disk: a thin, dull layer that sends each key to its shard and rings the bell after a commit.

``meta.json`` names the context and its number of shards; it is written last when a context is made, so where it stands, a
missing shard is damage and never taken for empty. Everything else is the shards' (see ``shard.py``).
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson

from coordinator.config import CHANGES_LIMIT, LOCK_TIMEOUT_S, SHARD_COUNT
from coordinator.context import check, meta
from coordinator.context.base import ContextBase, Make, check_writer
from coordinator.context.codec import ENTRY, Record
from coordinator.context.control import PUBLISHED_AT, STATE_BYTES, State
from coordinator.context.generation import Generation
from coordinator.context.keys import check_key, check_prefix, find_shard
from coordinator.context.model import Change, Changes, ContextFinding, Durability, Entry, Snapshot, Value, WriterLike
from coordinator.context.queue import FairLock
from coordinator.context.route import Route
from coordinator.context.shard import TURN_NAME, Shard
from coordinator.context.table import TableVoid
from coordinator.context.values import decode_value, encode_value
from coordinator.context.watch import TURN_WORD, find_word
from coordinator.errors import CrewkeepError, Damaged, InvalidInput, Refused, VersionConflict
from coordinator.system import failpoints
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.mounts import NETWORK_FILE_SYSTEMS, find_file_system
from coordinator.system.wakeup import WORDS, Bell

#: Looks at all shards until two in a row agree, before a snapshot locks them. Arbitrary; a look takes microseconds.
_SNAPSHOT_LOOKS = 50
#: Tables that are made anew while a snapshot is taken, before it gives up. Arbitrary.
_SNAPSHOT_TRIES = 10
#: Keys whose routes are remembered. Arbitrary; at most a megabyte.
_ROUTES = 2048
#: Waiting for one's turn to retry longer than this helps nobody. Arbitrary.
_TURN_TIMEOUT_S = 1.0


#: Makes a named tuple of a tuple: its own constructor is a function of Python's.
_new: Any = tuple.__new__


class SharedContext(ContextBase):
    """A context that any number of processes have open. Any thread may use it; after a fork, the child may as well."""

    def __init__(
        self, directory: Path, header: meta.Meta, writer: WriterLike | None, lock_timeout_s: float, clock: Clock
    ) -> None:
        """Not for calling: see ``open``."""
        self._routes: dict[str, Route] = {}
        super().__init__(writer)
        self.directory = directory
        self.durability: Durability = "durable" if header.durable else "process"
        self._meta, self._clock, self._lock_timeout_s = header, clock, lock_timeout_s
        self._bell = Bell(directory / meta.BELL_NAME)
        self._shards = [
            Shard(
                meta.name_shard(directory, number),
                number,
                header.header(number),
                self._bell,
                lock_timeout_s=lock_timeout_s,
                clock=clock,
            )
            for number in range(header.shard_count)
        ]
        self._turns = [
            FairLock(shard.directory / TURN_NAME, self._bell, TURN_WORD + shard.number, may_go=False) for shard in self._shards
        ]
        _CONTEXTS.add(self)

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        *,
        durability: Durability = "durable",
        writer: WriterLike | None = None,
        shards: int = SHARD_COUNT,
        must_exist: bool = False,
        lock_timeout_s: float = LOCK_TIMEOUT_S,
        clock: Clock = SYSTEM,
    ) -> SharedContext:
        """Open the context in ``directory``, making it where there is none (unless ``must_exist``: ``NotFound``).

        ``shards`` counts only when it is made. Raises ``InvalidInput`` where it was made with another durability,
        ``Refused`` on a network file system, ``Damaged`` where it cannot be told what is there, ``FormatTooNew``, ``Busy`` or
        ``StorageError``.
        A damaged shard does not keep the others from being used; what touches it raises ``Damaged``.
        """
        if durability not in ("durable", "process"):
            raise InvalidInput(f"{durability!r:.40} is not a durability", hint="use 'durable' or 'process'")
        if not isinstance(shards, int) or not 1 <= shards <= meta.SHARD_LIMIT:
            raise InvalidInput(f"{shards!r:.40} is not a number of shards", hint=f"use 1 to {meta.SHARD_LIMIT}")
        path = Path(os.path.realpath(directory))
        if (kind := find_file_system(path)) in NETWORK_FILE_SYSTEMS:
            raise Refused(
                f"{path} is on {kind}, a network file system: locks and durability cannot be promised there",
                hint="use a directory on a local disk, for example by CREWKEEP_HOME",
            )
        found = meta.open_meta(
            path, durable=durability == "durable", shards=shards, must_exist=must_exist, timeout_s=lock_timeout_s
        )
        if found.durable is not (durability == "durable"):
            was = "durable" if found.durable else "process"
            raise InvalidInput(f"{path} was made with durability {was!r}", hint=f"open it with durability={was!r}")
        return cls(path, found, writer, lock_timeout_s, clock)

    def adopt(self, writer: WriterLike | None) -> None:
        super().adopt(writer)
        self._routes = {}

    def _put(self, key: str, data: bytes, expected_version: int | None) -> Entry:
        route = (self._routes.get(key) if type(key) is str else None) or self._find_route(check_key(key))
        return _to_entry(route.shard.commit(route, data, expected_version))

    def _write(self, key: str, make: Make, expected_version: int | None) -> Entry:
        route = self._find_route(key)
        return _to_entry(route.shard.commit(route, lambda met: make(None if met is None else met.value), expected_version))

    def _find_route(self, key: str) -> Route:
        route = self._routes.get(key)
        if route is None:
            self._check_open()
            if len(self._routes) >= _ROUTES:
                self._routes = {}
            route = self._routes[key] = Route(key, self._shards[find_shard(key, len(self._shards))], self.writer)
        return route

    def _is_awaited(self, key: str) -> bool:
        route = self._find_route(key)
        return self._turns[route.shard.number].find_wanted() == route.mark

    def _swap_in_turn(self, key: str, make: Callable[[Entry | None], Value]) -> Entry:
        # The turn is over once the next one can build on what we appended; flushing it they can do together with us.
        route = self._find_route(key)
        turn = self._turns[route.shard.number]
        is_ours = turn.acquire(min(_TURN_TIMEOUT_S, self._lock_timeout_s), route.mark)
        try:
            found = route.shard.find_written(route)
            base = None if found is None or found.deleted else found
            data = encode_value(make(None if base is None else _to_entry(base)))
        except BaseException:
            if is_ours:
                turn.release()
            raise

        def swap(met: Record | None) -> bytes:
            # The very same record: one that was given up may have had the same version.
            if met != base:
                raise VersionConflict(key, base.version if base else 0, met.version if met else 0)
            return data

        return _to_entry(route.shard.commit(route, swap, None, turn if is_ours else None))

    def _reinstate(self, entry: Entry, data: bytes) -> bool:
        route = self._find_route(entry.key)
        record = Record(
            ENTRY,
            entry.key,
            data,
            version=entry.version,
            epoch=entry.epoch,
            at=entry.at,
            session=entry.session or "",
            name=entry.author or "",
        )
        return route.shard.reinstate(route, record)

    def get(self, key: str) -> Entry | None:
        route = self._routes.get(key) if type(key) is str else None
        if route is not None and (page := route.shard.page) is not None and not failpoints.armed:
            shown, record = route.shown
            try:
                published = os.pread(page.fd, STATE_BYTES, PUBLISHED_AT)
                if published == shown:  # nothing was committed to the shard since
                    return None if record is None or record.deleted else _to_entry(record)
                record = route.find_shown(published)
                if record is not None:  # nothing was committed to the key
                    return None if record.deleted else _to_entry(record)
            except OSError:
                pass  # the careful way meets it again, and says what it is
        route = route or self._find_route(check_key(key))
        record = route.shard.get(route)
        return None if record is None or record.deleted else _to_entry(record)

    def get_version(self, key: str, version: int) -> Entry | None:
        key = check_key(key)
        record = self._shard(key).get_version(key, version)
        return None if record is None else _to_entry(record)

    def history(self, key: str) -> list[Entry]:
        key = check_key(key)
        return [_to_entry(record) for record in self._shard(key).list_history(key)]

    def snapshot(self, prefix: str = "") -> Snapshot:
        prefix = check_prefix(prefix)
        self._check_open()
        for _ in range(_SNAPSHOT_TRIES):
            found = self._look_at_once()
            entries: list[Entry] = []
            try:
                for generation, state in found:
                    entries.extend(map(_to_entry, generation.iter_newest(prefix, state)))
            except TableVoid:
                self._shards[generation.header.shard].forget(generation)
                continue
            entries.sort(key=lambda entry: entry.key)
            return Snapshot(entries, {number: state.revision for number, (_, state) in enumerate(found)})
        raise Damaged(
            f"an index in {self.directory} leads nowhere, however often it is made anew",
            hint="run `crewkeep context check`",
            path=str(self.directory),
            reason="wrong-order",
        )

    def _look_at_once(self) -> list[tuple[Generation, State]]:
        """Return what is published of all shards at one moment. Whatever is committed later, it can be read as it was then."""
        for _ in range(_SNAPSHOT_LOOKS):
            found = [shard.look() for shard in self._shards]
            if found == [shard.look() for shard in self._shards]:
                return found  # nothing was committed between the first look and the last, so this is one moment
        with ExitStack() as stack:
            for shard in self._shards:  # always in this order, so that two snapshots cannot lock each other out
                stack.enter_context(shard.hold())
            return [shard.look() for shard in self._shards]

    def _list_keys(self, prefix: str) -> list[str]:
        self._check_open()
        return sorted(key for shard in self._shards for key in shard.list_keys(prefix))

    def _store_rule(self, prefix: str, name: str) -> None:
        # Every shard keeps the rules of its keys' prefixes, so that each stays a whole store.
        self._check_open()
        for shard in self._shards:
            shard.set_rule(prefix, name)

    def rules(self) -> dict[str, str]:
        self._check_open()
        return dict(self._shards[-1].standing().rules)

    def revisions(self) -> dict[int, int]:
        self._check_open()
        return {shard.number: shard.look()[1].revision for shard in self._shards}

    def floors(self) -> dict[int, int]:
        self._check_open()
        return {shard.number: shard.look()[0].header.floor for shard in self._shards}

    def read_changes(self, prefix: str, after: Mapping[int, int], limit: int = CHANGES_LIMIT) -> Changes:
        prefix = check_prefix(prefix)
        self._check_open()
        found: list[Change] = []
        position = dict(after)
        for shard in self._shards:
            # Asked even when nothing more fits, so that a revision that is not kept is told at once.
            rest = max(0, limit - len(found))
            records, position[shard.number] = shard.read_changes(prefix, after.get(shard.number, 0), rest)
            found.extend(_to_change(record, shard.number) for record in records)
        return Changes(found, position)

    def bell(self, prefix: str = "") -> int:
        return self._bell.value(find_word(prefix))

    def wait_bell(self, seen: int, timeout_s: float, prefix: str = "") -> int:
        return self._bell.wait(seen, timeout_s, find_word(prefix))

    def ring(self, prefix: str | None = None) -> None:
        self._bell.ring(*(range(WORDS) if prefix is None else [find_word(prefix)]))

    def fence(self, session: str, epoch: int) -> None:
        check_writer(session, epoch)
        self._check_open()
        failed: list[CrewkeepError] = []
        for shard in self._shards:
            try:
                shard.fence(session, epoch)
            except CrewkeepError as error:
                failed.append(error)  # the others must be fenced all the same
        # A damaged shard takes no writes at all, and its repair takes the fence from the others: anything else is worse.
        if failed:
            raise min(failed, key=lambda error: isinstance(error, Damaged))

    def has_written(self, session: str, epoch: int) -> bool:
        self._check_open()
        return epoch == max(shard.standing().writers.get(session, 0) for shard in self._shards)

    def check(self, repair: bool = False) -> list[ContextFinding]:
        self._check_open()
        found = check.check_context(
            self.directory, self._meta, self._bell, repair=repair, timeout_s=self._lock_timeout_s, now_s=self._clock.wall_s()
        )
        if repair:
            self.ring()
        return found

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._routes = {}
            self._bell.close()
            for shard in self._shards:
                shard.close()

    def _shard(self, key: str) -> Shard:
        self._check_open()
        return self._shards[find_shard(key, len(self._shards))]


_CONTEXTS: weakref.WeakSet[SharedContext] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    """A thread may have been ringing when the process forked; its half-done ring is nobody's in the child."""
    for context in list(_CONTEXTS):
        context._bell.reopen()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _to_entry(record: Record) -> Entry:
    _, key, data, deleted, _, version, epoch, at, session, name, _, _ = record
    value = None if deleted else orjson.loads(data)
    entry: Entry = _new(Entry, (key, value, version, name or None, epoch, at, deleted, session or None))
    return entry


def _to_change(record: Record, shard: int) -> Change:
    return Change(
        key=record.key,
        value=None if record.deleted else decode_value(record.value),
        version=record.version,
        author=record.name or None,
        epoch=record.epoch,
        at=record.at,
        deleted=record.deleted,
        session=record.session or None,
        shard=shard,
        revision=record.revision,
    )
