"""A Python program as a session: registered, in step with the shared context, and back after a crash.

``Session.start`` registers the program, ``Session.resume`` takes over what a dead incarnation left, ``Session.current`` is the
session of a program that ``crewkeep run`` started. The same coordinator thread as in a keeper runs inside the program.

Invariants:
  - the record is durable before anything is done in the session's name
  - a session is resumed only when its old owner is proven gone, and what it left behind is ended first
  - a program that was interrupted is never recorded as done
A program that finds itself superseded (it was stopped, and recovered meanwhile) exits with ``EXIT_SUPERSEDED``, unless it
says otherwise with ``on_superseded``. Not promised: the exit code of a program that leaves without ``with``; only an
exception that ended it is seen.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from coordinator.config import SHUTDOWN_TIMEOUT_S, Settings, load_settings
from coordinator.context import SharedContext
from coordinator.errors import CrewkeepError, InvalidInput, NotFound, Refused, Superseded, TimedOut
from coordinator.paths import Home
from coordinator.services.sync import CoordinatorThread
from coordinator.services.view import View, Watch, Watcher
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Hosting, LaunchSpec, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import resolve_workspace
from coordinator.system import processes
from crewkeep import shutdown
from crewkeep.program import (
    check_restart,
    describe_program,
    exit_superseded,
    find_inside,
    judge_exit,
    list_secret_names,
    open_for,
    write_end,
)
from crewkeep.recorder import Recording

if TYPE_CHECKING:
    from crewkeep.crew import Crew
    from crewkeep.patrol_client import PatrolLink

OnSuperseded = Callable[[Superseded], object]


def open_context(workspace: str | None = None, *, home: Home | None = None) -> SharedContext:
    """Open the shared context of a workspace (see ``crewkeep -w``), for any program; it writes without a name.

    Raises ``InvalidInput``, ``Damaged``, ``StorageError``.
    """
    home = home or Home.find()
    return open_for(home, resolve_workspace(workspace, os.environ, os.getcwd()), None)


class Session(Recording):
    """One incarnation of a session, inside the program that it is. Use it with ``with``."""

    def __init__(
        self,
        home: Home,
        record: SessionRecord,
        *,
        restored_state: Any = None,
        is_owner: bool,
        settings: Settings,
        on_superseded: OnSuperseded | None,
    ) -> None:
        """Not for calling: see ``start``, ``resume`` and ``current``."""
        self.home, self._record = home, record
        #: What ``checkpoint`` was last given by the incarnation before, ``None`` if there is nothing to restore.
        self.restored_state = restored_state
        self._registry = Registry(home)
        self._is_owner, self._pid = is_owner, os.getpid()
        self._on_superseded = on_superseded or exit_superseded
        self._closing = threading.Lock()
        self._is_closed = False
        self._link: PatrolLink | None = None
        #: The shared context of the session's workspace; writes carry the session's name and epoch.
        self.context = open_for(home, record.workspace, record)
        self._opened: list[SharedContext] = []
        self._thread = CoordinatorThread(
            home, record, self.context, settings=settings, on_superseded=self._on_superseded, beats=is_owner
        )
        self._begin_recording(self._thread, settings.recording_limit_bytes)

    # Beginning

    @classmethod
    def start(
        cls,
        name: str | None = None,
        *,
        workspace: str | None = None,
        restart: Restart | str = Restart.NEVER,
        home: Home | None = None,
        settings: Settings | None = None,
        on_superseded: OnSuperseded | None = None,
    ) -> Session:
        """Register this program as a session and start its coordinator thread.

        In a program that crewkeep itself started for the session of this name, it is that session: the same as
        ``current``. With ``restart="on-crash"`` a program that dies is started again with its own command line.
        Raises ``Refused`` when a session that has not ended bears the name, ``InvalidInput``, ``StorageError``.
        """
        home = home or Home.find()
        try:
            inside = find_inside(home, os.environ)
        except NotFound:
            inside = None  # the session that this program was once part of has been removed
        if inside is not None and name is not None and inside.name == name:
            return cls.current(home=home, settings=settings, on_superseded=on_superseded)
        launch = describe_program()
        registry = Registry(home)
        record = registry.create(
            name=name,
            workspace=resolve_workspace(workspace, os.environ, launch.cwd),
            hosting=Hosting.PROGRAM,
            launch=launch,
            restart=check_restart(restart),
            parent=inside.id if inside is not None else None,
            owner=processes.identify_self(),
        )
        try:
            return cls._begin(home, record, launch, settings, on_superseded, restored_state=None)
        except CrewkeepError as error:
            write_end(registry, record, Outcome.FAILED, f"it could not begin: {error}")
            raise

    @classmethod
    def resume(
        cls,
        name: str,
        *,
        home: Home | None = None,
        settings: Settings | None = None,
        on_superseded: OnSuperseded | None = None,
    ) -> Session:
        """Go on as the next incarnation of a session, with the state of its newest whole checkpoint.

        The same as any recovery (see ``recovery.restore``), with this program as what is started. Raises ``Refused``
        while its owner may be alive, ``Superseded`` when somebody else was first, ``NotFound``, ``Damaged``,
        ``StorageError``, ``Busy``.
        """
        from recovery.restore import RestoredState, Result, recover_session

        home = home or Home.find()
        registry, me = Registry(home), processes.identify_self()
        found = registry.find(name)
        if found.owner == me and found.phase is not Phase.ENDED:
            raise Refused(f"{found.name} is this very program's already", hint="close it first")
        program = describe_program()
        began: list[Session] = []

        def start(record: SessionRecord, _: LaunchSpec, restored: RestoredState) -> SessionRecord:
            registry.set_launch(record.id, program, epoch=record.epoch)
            record = registry.change(
                record.id,
                epoch=record.epoch,
                change=lambda known: dataclasses.replace(
                    known,
                    hosting=Hosting.PROGRAM,
                    command=program.argv,
                    cwd=program.cwd,
                    agent_name=program.agent,
                    owner=me,
                ),
            )
            began.append(cls._begin(home, record, program, settings, on_superseded, restored_state=restored.state))
            return began[0]._record

        outcome = recover_session(
            home,
            registry,
            found.id,
            expected_epoch=found.epoch,
            reason="a program resumes it",
            starter=start,
            secrets={**dict.fromkeys(list_secret_names(registry, found), ""), **os.environ},
            revive=True,
            settings=settings,
        )
        if outcome.outcome is Result.RECOVERED:
            return began[0]
        for session in began:
            session._finish(None, "it was resumed elsewhere")
        if outcome.outcome is Result.ALREADY:
            raise Superseded(found.id, found.epoch, registry.get(found.id).epoch)
        raise Refused(
            f"{found.name} (epoch {found.epoch}{_name_owner(found)}) cannot be resumed: {outcome.outcome}, {outcome.reason}",
            hint=f"crewkeep why {found.name}; crewkeep stop {found.name}",
        )

    @classmethod
    def current(
        cls, *, home: Home | None = None, settings: Settings | None = None, on_superseded: OnSuperseded | None = None
    ) -> Session:
        """Return the session of a program that ``crewkeep run`` started, at its own epoch.

        Its owner stays the keeper: leaving does not end it. Raises ``InvalidInput`` outside a session, ``Superseded``
        when a newer incarnation exists.
        """
        from recovery.putting_back import read_restored_state

        home = home or Home.find()
        record = find_inside(home, os.environ)
        if record is None:
            raise InvalidInput("this program is not inside a session", hint="use Session.start, or: crewkeep run -- COMMAND")
        session = cls(
            home,
            record,
            restored_state=read_restored_state(home, record).state,
            is_owner=False,
            settings=settings or load_settings(project=Path(record.cwd)),
            on_superseded=on_superseded,
        )
        session._start_thread()
        return session

    @classmethod
    def _begin(
        cls,
        home: Home,
        record: SessionRecord,
        launch: LaunchSpec,
        settings: Settings | None,
        on_superseded: OnSuperseded | None,
        *,
        restored_state: Any,
    ) -> Session:
        """Come to work as the owner of ``record``."""
        session = cls(
            home,
            record,
            restored_state=restored_state,
            is_owner=True,
            settings=settings or load_settings(project=Path(launch.cwd)),
            on_superseded=on_superseded,
        )
        session._start_thread()
        if record.phase is not Phase.RUNNING:
            try:
                now_s = session._registry.now_s()
                session._change(lambda known: dataclasses.replace(known, phase=Phase.RUNNING, started_at=now_s, reason=None))
            except CrewkeepError:
                session._finish(None, "it could not begin")
                raise
        session._link_to_patrol(launch)
        return session

    # What it is

    @property
    def id(self) -> str:
        return self._record.id

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def epoch(self) -> int:
        """The number of this incarnation."""
        return self._record.epoch

    @property
    def workspace(self) -> str:
        return self._record.workspace

    @property
    def coordinator(self) -> CoordinatorThread:
        """The coordinator thread: its ``errors``, its breaker."""
        return self._thread

    # Working

    @property
    def crew(self) -> Crew:
        """The other sessions: ``crew.claim("src/")``, ``crew.tell("api", "done")``, ``crew.inbox()``."""
        from crewkeep.crew import Crew

        return Crew(self.home, self._registry, self._record)

    def watch(self, prefix: str, call: Watcher, from_revision: Mapping[int, int] | None = None) -> Watch:
        """Call ``call(change)`` on the coordinator thread for every change below ``prefix`` from now on, in order."""
        return self._thread.watch(prefix, call, from_revision)

    def view(self, prefix: str) -> View:
        """Return a mapping that follows the entries below ``prefix``."""
        return self._thread.view(prefix)

    def note_progress(self) -> None:
        """Say that the work goes on, in a stretch without commits or checkpoints (else it counts as hung after a while)."""
        self._thread.progress.note()

    def checkpoint(self, state: Any) -> int:
        """Save ``state`` (JSON), durably, as what this session wants back after a crash; returns the checkpoint's number.

        Raises ``Superseded``, ``InvalidInput`` for a state that is not JSON, ``StorageError``.
        """
        from recovery.checkpoint import take_checkpoint

        self._check_open()
        saved = take_checkpoint(
            self.home,
            self._record,
            self._registry.get_launch(self.id),
            state=state,
            revisions=self.context.revisions(),
            cwd=self._record.cwd,
            why="program",
        )
        self._thread.progress.note(fruitful=True)
        return saved.number

    def open_context(self, workspace: str) -> SharedContext:
        """Open the shared context of another workspace for writing in this session's name; it is closed with the session.

        The record names the workspace first, durably, so that a recovery fences it too.
        """
        self._check_open()
        other = resolve_workspace(workspace, {}, os.getcwd())
        if other != self.workspace:
            self._change(
                lambda known: (
                    known
                    if other in known.other_workspaces
                    else dataclasses.replace(known, other_workspaces=(*known.other_workspaces, other))
                )
            )
        context = open_for(self.home, other, self._record)
        self._opened.append(context)
        return context

    # Ending

    def close(self, outcome: Outcome = Outcome.DONE, reason: str | None = None) -> None:
        """End the session: the last changes are handed out, the end is written, the contexts are closed.

        Takes at most ``SHUTDOWN_TIMEOUT_S``; raises ``TimedOut`` after that, and ``Superseded`` if a newer incarnation
        exists. Closing twice is allowed. Not the owner (``current``): only this program's part ends.
        """
        if os.getpid() != self._pid:
            return  # a fork of the program is not the session
        if not shutdown.run_bounded(lambda: self._finish(outcome, reason), SHUTDOWN_TIMEOUT_S):
            raise TimedOut(
                f"the end of {self.name} could not be written in {SHUTDOWN_TIMEOUT_S:g} s", hint=f"crewkeep recover {self.name}"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        outcome, reason = judge_exit(error)
        try:
            self.close(outcome, reason)
        except CrewkeepError:
            if error is None:
                raise  # else the error on its way tells more

    def _finish(self, outcome: Outcome | None, reason: str | None) -> None:
        """Do all that is to be done at the end, once; without an outcome the session stays recoverable."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        shutdown.forget(self._say_farewell)
        self._thread.stop(SHUTDOWN_TIMEOUT_S * 0.8)
        try:
            if self._thread.superseded is not None:
                raise self._thread.superseded
            if self._is_owner:
                self._write_end(outcome, reason)
        finally:
            if self._link is not None:
                if outcome is None:
                    self._link.close()
                else:
                    self._link.leave()
            for context in (*self._opened, self.context):
                context.close()
            self._recorder.close(self._closed())

    def _write_end(self, outcome: Outcome | None, reason: str | None) -> None:
        stopping = self._registry.get(self.id).phase is Phase.STOPPING
        if outcome is None and not stopping:
            Journal(self.home.session(self.id)).append("interrupted", {"by": reason}, epoch=self.epoch, durable=True)
            return
        write_end(self._registry, self._record, outcome or Outcome.STOPPED, reason)

    def _say_farewell(self, why: str) -> None:
        """The program ends without having closed the session."""
        if why != "exit":
            self._finish(None, why)  # a signal: a crash, unless it is a stop
            return
        is_interactive = hasattr(sys, "ps1")  # there, an error of before did not end the program
        self._finish(*judge_exit(None if is_interactive else getattr(sys, "last_value", None)))

    # Helpers

    def _start_thread(self) -> None:
        try:
            self._thread.start()
        except CrewkeepError:
            self.context.close()
            raise
        shutdown.register(self._say_farewell)

    def _change(self, change: Callable[[SessionRecord], SessionRecord]) -> None:
        self._record = self._registry.change(self.id, epoch=self.epoch, change=change)

    def _link_to_patrol(self, launch: LaunchSpec) -> None:
        from crewkeep.patrol_client import PatrolLink

        secrets = {name: os.environ[name] for name in launch.secret_names if name in os.environ}
        self._link = PatrolLink(self.home, self._record, secrets)
        self._link.start_thread()

    def _check_open(self) -> None:
        if self._thread.superseded is not None:
            raise self._thread.superseded
        if self._is_closed or os.getpid() != self._pid:
            raise self._closed()

    def _closed(self) -> InvalidInput:
        return InvalidInput(f"session {self.name} is closed here", hint="Session.resume begins its next incarnation")


def _name_owner(record: SessionRecord) -> str:
    return f", process {record.owner.pid}" if record.owner is not None else ""
