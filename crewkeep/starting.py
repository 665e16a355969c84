"""Starts sessions: everything is checked and written down before anything runs.

What cannot start (no such command, no such directory) is refused before a record exists. Then the record, then the patrol,
then the keeper; a start that is interrupted anywhere is visible in the record and can be recovered.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping, Sequence

from coordinator.agents.base import get_agent, name_culprit, recognise
from coordinator.config import START_TIMEOUT_S, Settings
from coordinator.errors import CrewkeepError, Superseded, TimedOut
from coordinator.paths import Home
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import Hosting, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import resolve_workspace
from coordinator.system.spawn import find_program
from crewkeep.ending import end_what_is_left
from crewkeep.patrol_client import PatrolStart
from recovery.brake import End
from recovery.starter import start_keeper

_LOOK_S = 0.02


def start_session(
    home: Home,
    argv: Sequence[str],
    *,
    name: str | None = None,
    agent: str | None = None,
    cwd: str | None = None,
    restart: Restart = Restart.ON_CRASH,
    workspace: str | None = None,
    environment: Mapping[str, str] | None = None,
    settings: Settings | None = None,
    rows: int = 24,
    columns: int = 80,
) -> SessionRecord:
    """Register a session for ``argv``, start its keeper, and return its record once the agent runs (or has ended already).

    ``environment`` (default: ours) is the agent's, its secrets kept off the disk. Raises ``InvalidInput`` for what cannot
    be started, ``Refused`` for a name that is taken, ``StorageError``, ``TimedOut``; and ``CrewkeepError`` with the keeper's
    words if it could not go on: then the session is there, and ended as failed.
    """
    environment = dict(os.environ if environment is None else environment)
    launch = build_launch(argv, os.getcwd() if cwd is None else cwd, environment)
    adapter = recognise(launch.argv) if agent is None else get_agent(agent)
    with name_culprit(agent or type(adapter).__name__):
        launch = dataclasses.replace(launch, agent=adapter.name, permission_mode=adapter.read_permission_mode(launch.argv))
        prepared = adapter.prepare(launch)
    find_program(prepared.argv, cwd=launch.cwd, environment=environment)
    registry = Registry(home)
    record = registry.create(
        name=name,
        workspace=resolve_workspace(workspace, environment, launch.cwd),
        hosting=Hosting.KEEPER,
        launch=launch,
        restart=restart,
        parent=_find_parent(home, environment),
    )
    secrets = {name: environment[name] for name in launch.secret_names}
    with PatrolStart(home) as patrol:
        try:
            patrol.go_on()  # it comes up while the keeper does
            started = start_keeper(home, record, secrets, settings or Settings(), rows=rows, columns=columns)
        except Superseded:
            started = _wait_taken_over(registry, record)  # its keeper died at once, and the patrol was quicker than we
        except CrewkeepError as error:
            _give_up(home, registry, record, str(error))
            raise
        try:
            patrol.wait()
        except CrewkeepError:
            pass  # the session runs; its keeper goes on trying to start one, and `crewkeep doctor` tells
    return started


def _find_parent(home: Home, environment: Mapping[str, str]) -> str | None:
    inside = environment.get("CREWKEEP_HOME") and Home.find(environment) == home
    return environment.get("CREWKEEP_SESSION") or None if inside else None


def _wait_taken_over(registry: Registry, record: SessionRecord) -> SessionRecord:
    """Return the record once a recovery that began meanwhile has come to its end. Raises ``TimedOut``."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while (known := registry.get(record.id)).phase in (Phase.STARTING, Phase.RECOVERING):
        if time.monotonic() >= deadline_s:
            raise TimedOut(f"{record.name} did not start within {START_TIMEOUT_S:g} s", hint=f"crewkeep why {record.name}")
        time.sleep(_LOOK_S)
    return known


def _give_up(home: Home, registry: Registry, record: SessionRecord, reason: str) -> None:
    """Let a session that never began be seen as failed, and nothing of it live; unless somebody is further with it than that."""
    try:
        if registry.get(record.id).phase is Phase.STARTING:
            end_what_is_left(home, registry, record, End(outcome=Outcome.FAILED, reason=reason))
    except CrewkeepError:
        return  # what is told to the caller is the first error
