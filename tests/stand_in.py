"""Sessions for recovery's tests: real processes as keeper and agent, without the cost of starting a real keeper.

The keeper is a sleeping process that bears the keeper's role; the agent a command that carries the session's marks.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.sessions.launch import build_environment
from coordinator.sessions.model import Hosting, LaunchSpec, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import processes
from coordinator.system.processes import ProcessIdentity
from recovery.putting_back import RestoredState

_NO_FILES: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
SLEEP = ("sleep", "1000")


def make_session(home: Home, argv: Sequence[str] = SLEEP, **launch: object) -> SessionRecord:
    """Register a session of ``argv`` that was never started."""
    spec = LaunchSpec(argv=tuple(argv), cwd=str(home.path), environment={"PATH": os.environ["PATH"]}, **launch)  # type: ignore[arg-type]
    return Registry(home).create(name="planner", workspace="shop", hosting=Hosting.KEEPER, launch=spec, restart=Restart.ON_CRASH)


class Starter:
    """Starts a stand-in for the keeper, and the agent; remembers what it was given."""

    def __init__(self, home: Home, secrets: Mapping[str, str] | None = None) -> None:
        self.home, self.secrets = home, dict(secrets or {})
        self.restored: list[RestoredState] = []

    def __call__(self, record: SessionRecord, launch: LaunchSpec, restored: RestoredState | None = None) -> SessionRecord:
        if restored is not None:
            self.restored.append(restored)
        registry = Registry(self.home)
        keeper = start(SLEEP, {"CREWKEEP_HOME": str(self.home.path), "CREWKEEP_ROLE": "keeper"})
        try:
            # As a keeper does: nobody starts an agent before it is the owner.
            registry.change(record.id, epoch=record.epoch, change=lambda known: dataclasses.replace(known, owner=keeper))
        except CrewkeepError:
            kill(keeper)
            raise
        agent = start(launch.argv, build_environment(launch, self.secrets, record, self.home))
        return registry.change(
            record.id,
            epoch=record.epoch,
            change=lambda known: dataclasses.replace(
                known, agent=agent, phase=Phase.RUNNING, started_at=known.created_at, reason=None
            ),
        )


def start(argv: Sequence[str], environment: Mapping[str, str]) -> ProcessIdentity:
    """Start a process in an OS session of its own; a later end leaves a zombie of ours, which counts as gone."""
    child = subprocess.Popen(argv, env={"PATH": os.environ["PATH"], **environment}, start_new_session=True, **_NO_FILES)
    child.returncode = 0  # so that nobody complains about a child that is still running
    identity = processes.identify(child.pid)
    assert identity is not None
    return identity


def start_session(home: Home, argv: Sequence[str] = SLEEP, **launch: object) -> SessionRecord:
    """Return a running session."""
    record = make_session(home, argv, **launch)
    return Starter(home)(record, Registry(home).get_launch(record.id))


def kill(*identities: ProcessIdentity | None) -> None:
    """Kill these and wait for their end."""
    for identity in identities:
        assert identity is not None
        processes.send_signal(identity, signal.SIGKILL)
    for identity in identities:
        assert identity is not None
        assert processes.wait_gone(identity, 5)


def start_dead_session(home: Home, argv: Sequence[str] = SLEEP, **launch: object) -> SessionRecord:
    """Return a session whose keeper and agent were killed."""
    record = start_session(home, argv, **launch)
    kill(record.owner, record.agent)
    return record
