"""The registry: the durable record of every session of a home, and the only way to change one.

A session comes into being whole (its directory is filled aside and renamed) before anything of it is started. A record
is changed under the session's lock, by the current epoch only, first in the journal and then in the record's file. Raising
the epoch is a compare-and-swap: of many recoverers one wins.

Invariants:
  - ``epoch`` and ``version`` never go back; each change raises ``version`` by one
  - at most one session that has not ended bears a name
  - what a newer program added to a record is kept
  - a damaged record is listed, never hidden, and set aside before another takes its place
Lock order: ``sessions.lock``, then a session's ``lock``.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from coordinator import sealed
from coordinator.config import LOCK_TIMEOUT_S
from coordinator.errors import Conflict, CrewkeepError, Damaged, InvalidInput, NotFound, Refused, StorageError
from coordinator.ids import ID_PATTERN, check_name, new_id, new_nonce
from coordinator.paths import Home, SessionPaths
from coordinator.sessions.aside import name_damage, set_aside
from coordinator.sessions.fence import check_epoch, fenced, session_lock
from coordinator.sessions.journal import Journal
from coordinator.sessions.launch import check_launch
from coordinator.sessions.model import (
    LAUNCH_FORMAT,
    LAUNCH_KIND,
    RECORD_FORMAT,
    RECORD_KIND,
    TRANSITIONS,
    Hosting,
    LaunchSpec,
    Phase,
    Restart,
    SessionRecord,
)
from coordinator.sessions.names import Names
from coordinator.sessions.records import decode_launch, decode_record, make_name, name_taken, version_of
from coordinator.system import failpoints, files, locks
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.home import prepare_home
from coordinator.system.processes import ProcessIdentity

#: What `get` raises for a record that is there and cannot be read; the journal may tell then. A newer format is another matter.
_UNREADABLE = (Damaged, StorageError, Refused)


@dataclass(frozen=True, kw_only=True, slots=True)
class Damage:
    """A session whose record cannot be read."""

    id: str
    error: CrewkeepError
    #: The record as its journal last had it, if that tells.
    known: SessionRecord | None = None


class Registry:
    """The sessions of a home. Holds no state: any number of them in any number of processes see the same."""

    def __init__(self, home: Home, clock: Clock = SYSTEM) -> None:
        self.home, self._clock = home, clock

    def now_s(self) -> float:
        """Return the wall-clock time that records are written with."""
        return self._clock.wall_s()

    # Making and removing

    def create(
        self,
        *,
        name: str | None,
        workspace: str,
        hosting: Hosting,
        launch: LaunchSpec,
        restart: Restart,
        parent: str | None = None,
        owner: ProcessIdentity | None = None,
    ) -> SessionRecord:
        """Register a session, durably, before anything of it is started; a program that registers itself is running.

        Without a name one is made from the command (``codex``, ``codex-2``). Raises ``InvalidInput``, ``Refused`` when a
        session that has not ended bears the name, or one has it as its id, ``StorageError``, ``Busy``.
        """
        check_launch(launch)
        if name is not None:
            check_name(name)
        self._make_home()
        with locks.locked(self.home.sessions_lock, timeout_s=LOCK_TIMEOUT_S):
            names = Names(self.home, self._list_bearers, self._is_borne)
            if name is None:
                name = make_name(launch.argv, lambda name: names.find_bearer(name) is not None)
            elif (bearer := names.find_bearer(name)) is not None:
                raise name_taken(name, bearer)
            elif ID_PATTERN.fullmatch(name) and self._paths_of_id(name).path.exists():
                raise Refused(f"{name!r} is the id of a session; nobody could name the new one", hint="choose another name")
            now_s = self._clock.wall_s()
            runs = hosting is Hosting.PROGRAM
            record = SessionRecord(
                id=self._find_free_id(now_s),
                name=name,
                workspace=workspace,
                hosting=hosting,
                command=launch.argv,
                cwd=launch.cwd,
                agent_name=launch.agent,
                restart=restart,
                created_at=now_s,
                phase=Phase.RUNNING if runs else Phase.STARTING,
                nonce=new_nonce(),
                owner=owner,
                started_at=now_s if runs else None,
                phase_at=now_s,
                parent=parent,
            )
            names.add(name, record.id)
            self._write_new(record, launch)
            names.settle()
        return record

    def remove(self, session_id: str, *, force: bool = False) -> None:
        """Delete a session and its files.

        Raises ``Refused`` unless it has ended (with ``force`` also one that is parked or whose record is damaged),
        ``NotFound``, ``StorageError``.
        """
        paths = self._paths_of(session_id)
        with locks.locked(self.home.sessions_lock, timeout_s=LOCK_TIMEOUT_S), session_lock(paths):
            try:
                record = self.get(session_id)
            except Damaged as error:
                if not force:
                    raise Refused(
                        f"{session_id} has a damaged record ({error.reason}); its processes are not known",
                        hint=f"crewkeep recover {session_id} first",
                    ) from error
            else:
                if record.phase is not Phase.ENDED and not (force and record.phase is Phase.PARKED):
                    raise Refused(f"{record.name} has not ended ({record.phase})", hint=f"crewkeep stop {record.name}")
            aside = self.home.sessions / files.name_temporary(session_id)
            try:
                os.rename(paths.path, aside)
            except OSError as error:
                raise StorageError.from_os(error, "remove", paths.path) from error
            files.sync_directory(self.home.sessions)
        shutil.rmtree(aside, ignore_errors=True)  # a rest is only a temporary for the next sweep

    # Reading

    def get(self, session_id: str) -> SessionRecord:
        """Return the record. Raises ``NotFound``, ``Damaged``, ``FormatTooNew``, ``StorageError``."""
        return decode_record(self._read_body(session_id), self._paths_of(session_id))

    def get_launch(self, session_id: str) -> LaunchSpec:
        """Return the session's launch. Raises ``NotFound``, ``Damaged``, ``FormatTooNew``, ``StorageError``."""
        paths = self._paths_of(session_id)
        body = sealed.read_sealed(paths.launch, LAUNCH_KIND, LAUNCH_FORMAT)
        return decode_launch(body, paths)

    def list_all(self) -> list[SessionRecord | Damage]:
        """Return every session, oldest first; one whose record cannot be read as ``Damage``."""
        return list(self._iter_all())

    def find(self, text: str, environment: Mapping[str, str] | None = None) -> SessionRecord:
        """Return the session that a person means by a name, an id, a unique prefix of an id, or ``.`` inside a session.

        A name means the session that has not ended, else the newest that bore it. Raises ``NotFound``, ``InvalidInput``
        when it could mean several, and what ``get`` raises. Where a record cannot be read, what its journal last had stands
        in for it: enough to know whose session it is and which processes it has. Changing it takes ``rebuild_record`` first.
        """
        if text == ".":
            inside = (os.environ if environment is None else environment).get("CREWKEEP_SESSION")
            if not inside:
                raise InvalidInput("'.' means the session one is in, and this is none", hint="name the session")
            return self._get_known(inside)
        if ID_PATTERN.fullmatch(text) and self._paths_of_id(text).path.is_dir():
            return self._get_known(text)
        sessions = self.list_all()
        known = [found.known if isinstance(found, Damage) else found for found in sessions]
        named = [found for found in known if found is not None and found.name == text]
        if named:
            return max(named, key=lambda record: (record.phase is not Phase.ENDED, record.created_at, record.id))
        matching = [found for found in sessions if text and found.id.startswith(text)]
        if len(matching) == 1:
            return self._get_known(matching[0].id)
        if matching:
            listed = ", ".join(
                f"{found.id} ({found.name})" if isinstance(found, SessionRecord) else found.id for found in matching[:8]
            )
            raise InvalidInput(f"{text!r} could be any of {len(matching)} sessions: {listed}", hint="type more of the id")
        raise NotFound(f"there is no session {text!r}", hint="see `crewkeep ps -a`")

    # Changing

    def change(self, session_id: str, *, epoch: int, change: Callable[[SessionRecord], SessionRecord]) -> SessionRecord:
        """Let the record become ``change(record)``, durably, as the incarnation ``epoch``; returns what was written.

        ``version`` and ``phase_at`` are set here. Raises ``Superseded`` if a newer incarnation exists, ``Conflict`` if the
        session has come to a phase from which the new one cannot be reached, ``NotFound``, ``Damaged``, ``StorageError``,
        ``Busy``; then nothing was changed.
        """
        paths = self._paths_of(session_id)
        with fenced(paths, epoch) as body:
            before = decode_record(body, paths)
            after = change(before)
            assert (after.id, after.epoch, after.nonce) == (before.id, before.epoch, before.nonce), (
                "only raise_epoch makes incarnations"
            )
            if after == before:
                return before
            return self._write_next(paths, body, before, after)

    @contextmanager
    def hold(self, session_id: str, *, epoch: int) -> Iterator[SessionRecord]:
        """Hold the session as the incarnation ``epoch`` while other files of it are written (a checkpoint).

        Nobody can raise the epoch meanwhile. Raises as ``change`` does.
        """
        paths = self._paths_of(session_id)
        with fenced(paths, epoch) as body:
            yield decode_record(body, paths)

    def set_launch(self, session_id: str, launch: LaunchSpec, *, epoch: int) -> None:
        """Replace how the session is launched, as the incarnation ``epoch``. Raises as ``change`` does."""
        check_launch(launch)
        paths = self._paths_of(session_id)
        with fenced(paths, epoch):
            Journal(paths, self._clock).append_locked("launch", launch.encode(), epoch=epoch)
            sealed.write_sealed(paths.launch, LAUNCH_KIND, LAUNCH_FORMAT, launch.encode())

    def raise_epoch(
        self,
        session_id: str,
        *,
        expected: int,
        reason: str,
        by: ProcessIdentity,
        nonce: str | None = None,
        phase: Phase | None = None,
    ) -> SessionRecord:
        """Begin a new incarnation if the session is still at the epoch ``expected``: of many callers one wins.

        With ``phase`` it must also still be in that phase, so that a stop which came meanwhile is not undone (``Conflict``).

        From its return on nobody can write for an older epoch. The old owner and agent stay in the record, and the old
        nonce joins ``unreaped_nonces``, until whoever won has proven them gone and says so with ``change``. Raises
        ``Superseded`` when somebody else was first, ``Refused`` when the session had ended and its name has been given
        to another since, and as ``change`` does.
        """
        paths = self._paths_of(session_id)
        with locks.locked(self.home.sessions_lock, timeout_s=LOCK_TIMEOUT_S), session_lock(paths):
            body = self._read_body(session_id)
            before = decode_record(body, paths)
            check_epoch(paths, body, expected)
            if phase is not None and before.phase is not phase:
                raise Conflict(
                    f"{before.name} is {before.phase} by now, not {phase}",
                    hint=f"crewkeep why {before.name}",
                    session=before.id,
                    phase=str(before.phase),
                )
            if before.phase is Phase.ENDED:
                names = Names(self.home, self._list_bearers, self._is_borne)
                if (bearer := names.find_bearer(before.name)) is not None:
                    raise name_taken(before.name, bearer)
                names.add(before.name, session_id)
            after = dataclasses.replace(
                before,
                epoch=before.epoch + 1,
                nonce=nonce or new_nonce(),
                unreaped_nonces=(*before.unreaped_nonces, before.nonce),
                phase=Phase.RECOVERING,
                recoverer=by,
                started_at=None,
                reason=reason,
                outcome=None,
                exit_code=None,
                exit_signal=None,
            )
            return self._write_next(paths, body, before, after)

    # Rebuilding

    def rebuild_record(self, session_id: str) -> SessionRecord | None:
        """Mend a damaged, missing or rolled-back record from the journal; the damaged file is set aside first.

        The epoch is at least the highest that is proven to have existed, raised by one for each journal line that could
        have held a higher one. Returns the record in force (a whole one is left alone), or ``None`` when the journal
        holds none: then nothing was touched. Raises ``FormatTooNew``, ``NotFound``, ``StorageError``, ``Busy``.
        """
        paths = self._paths_of(session_id)
        with session_lock(paths):
            content = Journal(paths, self._clock).read()
            last = content.find_last("record")
            try:
                record = self.get(session_id)
                if last is None or record.version >= version_of(last.body) - 1:
                    return record
                damage = "rolled-back"
            except (Damaged, Refused) as error:
                damage = name_damage(error)
            if last is None:
                return None
            rebuilt = decode_record(last.body, paths)
            proven = max((entry.epoch for entry in content.entries), default=1)
            epoch = max(rebuilt.epoch, proven) + content.damaged_after["record"]
            rebuilt = dataclasses.replace(rebuilt, epoch=epoch)
            if damage != "missing":
                set_aside(self.home, paths.record, damage, session_id)
            return self._write_next(paths, last.body, rebuilt, rebuilt)

    def rebuild_launch(self, session_id: str) -> LaunchSpec | None:
        """Mend a damaged or missing launch from the journal, as ``rebuild_record`` does for the record."""
        paths = self._paths_of(session_id)
        with session_lock(paths):
            try:
                return self.get_launch(session_id)
            except (Damaged, Refused) as error:
                damage = name_damage(error)
            last = Journal(paths, self._clock).read().find_last("launch")
            if last is None:
                return None
            launch = decode_launch(last.body, paths)
            if damage != "missing":
                set_aside(self.home, paths.launch, damage, session_id)
            sealed.write_sealed(paths.launch, LAUNCH_KIND, LAUNCH_FORMAT, last.body)
            return launch

    def find_rollback(self, session_id: str) -> Damaged | None:
        """Tell whether the record is older than its journal says it was (by more than one write cut short)."""
        paths = self._paths_of(session_id)
        version = version_of(self._read_body(session_id))
        last = Journal(paths, self._clock).read_tail().find_last("record")
        if last is None or version >= version_of(last.body) - 1:
            return None
        return Damaged(
            f"{paths.record} is at version {version}, its journal at {version_of(last.body)}",
            hint=f"crewkeep recover {session_id}",
            path=str(paths.record),
            reason="rolled-back",
        )

    # Helpers

    def _get_known(self, session_id: str) -> SessionRecord:
        """Return the record, or what its journal last had where it cannot be read. Raises what ``get`` raises without that."""
        try:
            return self.get(session_id)
        except _UNREADABLE:
            if (known := self._find_journalled(session_id)) is None:
                raise
            return known

    def _find_journalled(self, session_id: str) -> SessionRecord | None:
        paths = self._paths_of(session_id)
        try:
            last = Journal(paths, self._clock).read().find_last("record")
            return None if last is None else decode_record(last.body, paths)
        except CrewkeepError:
            return None

    def _make_home(self) -> None:
        prepare_home(self.home)
        files.make_directory(self.home.sessions)

    def _paths_of(self, session_id: str) -> SessionPaths:
        if not ID_PATTERN.fullmatch(session_id):
            raise NotFound(f"there is no session {session_id!r:.80}", hint="see `crewkeep ps -a`")
        paths = self._paths_of_id(session_id)
        if not paths.path.is_dir():
            raise NotFound(f"there is no session {session_id}", hint="see `crewkeep ps -a`")
        return paths

    def _paths_of_id(self, session_id: str) -> SessionPaths:
        return self.home.session(session_id)

    def _read_body(self, session_id: str) -> sealed.Body:
        return sealed.read_sealed(self._paths_of(session_id).record, RECORD_KIND, RECORD_FORMAT)

    def _iter_all(self) -> Iterator[SessionRecord | Damage]:
        try:
            names = sorted(os.listdir(self.home.sessions))
        except FileNotFoundError:
            return
        except OSError as error:
            raise StorageError.from_os(error, "list", self.home.sessions) from error
        for session_id in names:
            if not ID_PATTERN.fullmatch(session_id):
                continue
            paths = self._paths_of_id(session_id)
            try:
                yield decode_record(sealed.read_sealed(paths.record, RECORD_KIND, RECORD_FORMAT), paths)
            except CrewkeepError as error:
                if paths.path.is_dir():  # else it was removed while we looked
                    known = self._find_journalled(session_id) if isinstance(error, _UNREADABLE) else None
                    yield Damage(id=session_id, error=error, known=known)

    def _list_bearers(self) -> dict[str, str]:
        """Return the names of all sessions that have not ended, each with the session's id."""
        bearers = {}
        for found in self._iter_all():
            if isinstance(found, SessionRecord):
                if found.phase is not Phase.ENDED:
                    bearers[found.name] = found.id
            elif (name := self._find_journalled_name(found.id)) is not None:
                bearers.setdefault(name, found.id)  # damaged: it may well be running
        return bearers

    def _is_borne(self, name: str, session_id: str) -> bool:
        """Tell whether the session bears the name and has not ended."""
        try:
            record = self.get(session_id)
        except NotFound:
            return False
        except CrewkeepError:
            return self._find_journalled_name(session_id) == name
        return record.name == name and record.phase is not Phase.ENDED

    def _find_journalled_name(self, session_id: str) -> str | None:
        """Return the name that the journal last had. One that nothing tells any more must not keep all others from starting."""
        try:
            last = Journal(self._paths_of_id(session_id), self._clock).read().find_last("record")
            return None if last is None else check_name(str(last.body.get("name")))
        except CrewkeepError:
            return None

    def _find_free_id(self, now_s: float) -> str:
        while True:
            session_id = new_id(now_s)
            if not self._paths_of_id(session_id).path.exists():
                return session_id

    def _write_new(self, record: SessionRecord, launch: LaunchSpec) -> None:
        """Fill the session's directory aside and let it appear whole."""
        aside = SessionPaths(self.home.sessions / files.name_temporary(record.id))
        final = self._paths_of_id(record.id)
        try:
            files.make_directory(aside.path, durable=False)
            journal = Journal(aside, self._clock)
            journal.append_locked("launch", launch.encode(), epoch=record.epoch, durable=False)
            journal.append_locked("record", record.encode(), epoch=record.epoch, durable=False)
            sealed.write_sealed(aside.launch, LAUNCH_KIND, LAUNCH_FORMAT, launch.encode(), durable=False)
            sealed.write_sealed(aside.record, RECORD_KIND, RECORD_FORMAT, record.encode(), durable=False)
            os.close(locks.open_lock(aside.lock))
            files.sync_tree(aside.path)  # all of it before its name
            try:
                failpoints.hit("registry.create")
                os.rename(aside.path, final.path)
            except OSError as error:
                raise StorageError.from_os(error, "create", final.path) from error
            files.sync_directory(self.home.sessions)
        except CrewkeepError:
            shutil.rmtree(aside.path, ignore_errors=True)
            raise

    def _write_next(self, paths: SessionPaths, body: sealed.Body, before: SessionRecord, after: SessionRecord) -> SessionRecord:
        """Write the next version: the journal first, so that no acknowledged change is missing there."""
        if after.phase is not before.phase and after.phase not in TRANSITIONS[before.phase]:
            raise Conflict(
                f"{before.name} is {before.phase}; it cannot become {after.phase}",
                hint=f"crewkeep inspect {before.name}",
                session=before.id,
                phase=str(before.phase),
            )
        phase_at = self._clock.wall_s() if after.phase is not before.phase else before.phase_at
        after = dataclasses.replace(after, version=before.version + 1, phase_at=phase_at)
        written = {**body, **after.encode()}
        failpoints.hit("registry.journal")
        Journal(paths, self._clock).append_locked("record", written, epoch=after.epoch)
        failpoints.hit("registry.record")
        sealed.write_sealed(paths.record, RECORD_KIND, RECORD_FORMAT, written)
        failpoints.hit("registry.written")
        return after


__all__ = ["Damage", "Registry", "set_aside"]
