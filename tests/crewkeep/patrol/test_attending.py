"""What the patrol decides about a session when the clock is not what it was."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from coordinator.paths import Home
from coordinator.services.features import Features
from coordinator.sessions.launch import build_launch
from coordinator.sessions.model import Hosting, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.clock import ManualClock
from coordinator.system.processes import identify_self
from crewkeep.patrol.attending import NOTHING, Attention, attend


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


def make_parked(home: Home, directory: Path, clock: ManualClock, until: float) -> SessionRecord:
    """A session of a program that does not exist, parked until ``until``, whose keeper is gone."""
    registry = Registry(home, clock)
    launch = build_launch(["crewkeep-test-no-such-program"], str(directory), {})
    record = registry.create(name="late", workspace="w", hosting=Hosting.KEEPER, launch=launch, restart=Restart.ON_CRASH)
    return registry.change(
        record.id,
        epoch=record.epoch,
        change=lambda known: dataclasses.replace(known, phase=Phase.PARKED, not_before_at=until, reason="usage limit: reached"),
    )


def test_a_parked_session_is_looked_at_once_a_minute_and_at_its_time(home: Home, tmp_path: Path) -> None:
    clock = ManualClock()
    record = make_parked(home, tmp_path, clock, clock.wall + 100.0)
    looks = []
    while (again_s := attend(home, record.id, {}, clock=clock).again_s) is not None and len(looks) < 10:
        assert Registry(home, clock).get(record.id) == record
        looks.append(again_s)
        clock.advance(again_s)
        if clock.wall >= (record.resumes_at or 0):
            break
    assert looks == [60.0, 40.0]
    attend(home, record.id, {}, clock=clock)
    assert Registry(home, clock).get(record.id).epoch == 2, "its time has come"


@pytest.mark.parametrize("years", [1, 1000, 1e6, 1e290])
def test_a_session_that_is_parked_for_years_costs_a_look_a_minute(home: Home, tmp_path: Path, years: float) -> None:
    clock = ManualClock()
    record = make_parked(home, tmp_path, clock, clock.wall + years * 365 * 86_400)
    for _ in range(3):
        assert attend(home, record.id, {}, clock=clock) == Attention(again_s=60.0)
        clock.advance(60.0)
    assert Registry(home, clock).get(record.id) == record


def test_a_machine_that_slept_finds_a_parked_session_due_at_the_next_look(home: Home, tmp_path: Path) -> None:
    clock = ManualClock()
    record = make_parked(home, tmp_path, clock, clock.wall + 3600.0)
    assert attend(home, record.id, {}, clock=clock).again_s == 60.0
    clock.sleep_machine(7200.0)
    attend(home, record.id, {}, clock=clock)
    assert Registry(home, clock).get(record.id).epoch == 2


def test_a_parked_session_whose_time_is_long_past_is_brought_back_at_the_first_look_and_once(home: Home, tmp_path: Path) -> None:
    clock = ManualClock()
    record = make_parked(home, tmp_path, clock, 1.0)
    attend(home, record.id, {}, clock=clock)
    tried = Registry(home, clock).get(record.id)
    assert (tried.epoch, tried.resumes_at) == (2, None), "that it could not be started is no reason to try for ever"
    for _ in range(3):
        attend(home, record.id, {}, clock=clock)
    assert Registry(home, clock).get(record.id) == tried


@pytest.mark.parametrize("level", ["off", "observe"])
def test_with_recovery_turned_down_a_due_session_is_looked_at_again_in_a_minute(home: Home, tmp_path: Path, level: str) -> None:
    clock = ManualClock()
    record = make_parked(home, tmp_path, clock, 1.0)
    Features(home).set("recovery", level)
    looked = attend(home, record.id, {}, clock=clock)
    assert (looked.again_s, level in looked.did) == (60.0, True)
    assert Registry(home, clock).get(record.id) == record


def test_a_parked_session_of_a_living_keeper_is_that_ones_to_bring_back(home: Home, tmp_path: Path) -> None:
    clock = ManualClock()
    registry, record = Registry(home, clock), make_parked(home, tmp_path, clock, 1.0)
    kept = registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, owner=identify_self()))
    assert attend(home, record.id, {}, clock=clock) == NOTHING
    assert registry.get(record.id) == kept
