"""Sessions for tests that need one: registered for real, with nothing running."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from coordinator.paths import Home
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import Hosting, LaunchSpec, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.processes import identify_self


def make_launch(*argv: str, environment: Mapping[str, str] | None = None) -> LaunchSpec:
    return build_launch(argv or ("/usr/bin/agent", "--fast"), "/", environment or {"LANG": "C"})


def make_session(home: Home, name: str | None = None, *, registry: Registry | None = None, **fields: Any) -> SessionRecord:
    """Register a session; ``fields`` of the record are set by a change."""
    registry = registry or Registry(home)
    record = registry.create(
        name=name, workspace="shop", hosting=Hosting.KEEPER, launch=make_launch(), restart=Restart.ON_CRASH, owner=identify_self()
    )
    if fields:
        record = change_session(registry, record, **fields)
    return record


def change_session(registry: Registry, record: SessionRecord, **fields: Any) -> SessionRecord:
    return registry.change(record.id, epoch=record.epoch, change=lambda known: dataclasses.replace(known, **fields))


def end_session(registry: Registry, record: SessionRecord, outcome: Outcome = Outcome.DONE) -> SessionRecord:
    return change_session(registry, record, phase=Phase.ENDED, outcome=outcome)
