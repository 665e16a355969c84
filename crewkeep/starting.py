"""Starts sessions: everything is checked and written down before anything runs.

What cannot start (no such command, no such directory) is refused before a record exists. Then the record, then the patrol,
then the keeper; a start that is interrupted anywhere is visible in the record and can be recovered.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from coordinator.agents.base import get_agent, recognise
from coordinator.config import Settings
from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import Hosting, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import resolve_workspace
from coordinator.system.spawn import find_program
from crewkeep.patrol_client import PatrolStart
from recovery.starter import start_keeper


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
    launch = dataclasses.replace(launch, agent=adapter.name, permission_mode=adapter.read_permission_mode(launch.argv))
    find_program(adapter.prepare(launch).argv, cwd=launch.cwd, environment=environment)
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
        except CrewkeepError as error:
            _write_failed(registry, record, str(error))
            raise
        try:
            patrol.wait()
        except CrewkeepError:
            pass  # the session runs; its keeper goes on trying to start one, and `crewkeep doctor` tells
    return started


def _find_parent(home: Home, environment: Mapping[str, str]) -> str | None:
    inside = environment.get("CREWKEEP_HOME") and Home.find(environment) == home
    return environment.get("CREWKEEP_SESSION") or None if inside else None


def _write_failed(registry: Registry, record: SessionRecord, reason: str) -> None:
    """Let a session that never began be seen as failed, unless somebody is further with it than that."""

    def fail(known: SessionRecord) -> SessionRecord:
        if known.phase is not Phase.STARTING:
            return known
        return dataclasses.replace(known, phase=Phase.ENDED, outcome=Outcome.FAILED, reason=reason)

    try:
        registry.change(record.id, epoch=record.epoch, change=fail)
    except CrewkeepError:
        return  # what is told to the caller is the first error
