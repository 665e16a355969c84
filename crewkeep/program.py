"""This very program, as a session's agent: how it was started, whose session it is in, and how it leaves."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping

from coordinator.config import EXIT_SUPERSEDED
from coordinator.context import SharedContext
from coordinator.errors import Conflict, Damaged, InvalidInput, Superseded
from coordinator.paths import Home
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import LaunchSpec, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import files
from coordinator.system.home import prepare_home


def open_for(home: Home, workspace: str, record: SessionRecord | None) -> SharedContext:
    """Open a workspace's context to write as ``record``'s incarnation, or without a name."""
    prepare_home(home)
    files.make_directory(home.contexts)
    return SharedContext.open(home.context(workspace_id(workspace)), writer=None if record is None else record.writer)


def list_secret_names(registry: Registry, record: SessionRecord) -> tuple[str, ...]:
    """Return what a keeper would have to be given; this program has an environment of its own."""
    try:
        return registry.get_launch(record.id).secret_names
    except Damaged:
        return ()


def find_inside(home: Home, environment: Mapping[str, str]) -> SessionRecord | None:
    """Return the record of the session that this program is inside of, ``None`` outside one. Raises ``Superseded``."""
    session_id, epoch = environment.get("CREWKEEP_SESSION"), environment.get("CREWKEEP_EPOCH", "")
    if not session_id or environment.get("CREWKEEP_HOME") is None or Home.find(environment) != home:
        return None
    record = Registry(home).get(session_id)
    if epoch.isdecimal() and int(epoch) != record.epoch:
        raise Superseded(record.id, int(epoch), record.epoch)
    return record


def describe_program() -> LaunchSpec:
    """Return how this very program was started."""
    argv = (sys.executable or sys.orig_argv[0], *sys.orig_argv[1:])
    return build_launch(argv, os.getcwd(), os.environ)


def check_restart(restart: Restart | str) -> Restart:
    try:
        return Restart(restart)
    except ValueError as error:
        raise InvalidInput(f"restart cannot be {restart!r}", hint=f"choose one of {', '.join(Restart)}") from error


def judge_exit(error: BaseException | None) -> tuple[Outcome, str | None]:
    """Return the outcome of a program that leaves with ``error``."""
    if error is None:
        return Outcome.DONE, None
    if isinstance(error, SystemExit):
        if error.code in (None, 0):
            return Outcome.DONE, None
        return Outcome.FAILED, f"it exited with {error.code!r:.200}"
    return Outcome.FAILED, f"{type(error).__name__}: {error}"[:500]


def write_end(registry: Registry, record: SessionRecord, outcome: Outcome, reason: str | None) -> None:
    """Write how the session ended; one that was being stopped ended by that."""

    def end(known: SessionRecord) -> SessionRecord:
        if known.phase is Phase.ENDED:
            return known
        if known.phase is Phase.STOPPING:
            return dataclasses.replace(known, phase=Phase.ENDED, outcome=Outcome.STOPPED)
        return dataclasses.replace(known, phase=Phase.ENDED, outcome=outcome, reason=reason)

    try:
        registry.change(record.id, epoch=record.epoch, change=end)
    except Superseded:
        raise
    except Conflict:
        return  # parked or recovering by somebody's decision meanwhile: that one stands


def exit_superseded(error: Superseded) -> None:
    """Leave at once, writing nothing: a newer incarnation is at work."""
    message = f"crewkeep: {error}; this program stops here\n"
    try:
        os.write(2, message.encode("utf-8", "backslashreplace"))
    finally:
        os._exit(EXIT_SUPERSEDED)
