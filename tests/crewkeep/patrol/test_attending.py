"""What the patrol decides about a session when the clock is not what it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from coordinator.paths import Home
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import Hosting, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.clock import ManualClock
from crewkeep.patrol.attending import attend


def make_waiting(home: Home, directory: Path, clock: ManualClock, pause_s: float) -> SessionRecord:
    """A session of a program, whose next start was put off by somebody who is gone."""
    registry = Registry(home, clock)
    launch = build_launch(["crewkeep-test-no-such-program"], str(directory), {})
    record = registry.create(name="late", workspace="w", hosting=Hosting.KEEPER, launch=launch, restart=Restart.ON_CRASH)
    return registry.change(
        record.id,
        epoch=record.epoch,
        change=lambda known: dataclasses.replace(known, phase=Phase.RECOVERING, not_before_at=clock.wall_s() + pause_s),
    )


def test_a_start_that_was_put_off_is_looked_at_when_its_pause_is_over(home: Home, tmp_path: Path) -> None:
    clock = ManualClock()
    record = make_waiting(home, tmp_path, clock, 40.0)
    clock.advance(30.0)
    assert attend(home, record.id, {}, clock=clock).again_s == 10.0
    assert Registry(home, clock).get(record.id).epoch == 1


def test_a_start_that_was_put_off_does_not_wait_for_hours_when_the_clock_is_set_back(home: Home, tmp_path: Path) -> None:
    clock = ManualClock()
    record = make_waiting(home, tmp_path, clock, 40.0)
    clock.wall -= 3 * 3600
    attend(home, record.id, {}, clock=clock)
    assert Registry(home, clock).get(record.id).epoch == 2, "it was tried"
