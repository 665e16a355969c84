"""What is seen of a session: beats of its own incarnation and boot only, whatever the wall clock does."""

import dataclasses

import pytest
from session_support import change_session, make_session

from coordinator.config import Settings
from coordinator.paths import Home
from coordinator.sessions.heartbeat import HeartbeatFile, Progress
from coordinator.sessions.model import Outcome, Phase, SessionRecord, State
from coordinator.sessions.registry import Registry
from coordinator.sessions.sight import observe_session, show_state
from coordinator.system import processes
from coordinator.system.clock import ManualClock
from coordinator.system.processes import Liveness, identify_self


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def record(home: Home, clock: ManualClock) -> SessionRecord:
    registry = Registry(home, clock)
    record = make_session(home, registry=registry, phase=Phase.RUNNING, agent=identify_self(), started_at=clock.wall_s())
    beat(home, record, clock)
    return record


def beat(home: Home, record: SessionRecord, clock: ManualClock, **fields: object) -> None:
    made = Progress(clock).make_beat(session=record.id, epoch=record.epoch, seq=1, boot_id=processes.boot_id())
    file = HeartbeatFile(home.session(record.id).heartbeat)
    file.write(dataclasses.replace(made, **fields))
    file.close()


def test_ages_go_by_the_monotonic_clock_alone(home: Home, record: SessionRecord, clock: ManualClock) -> None:
    clock.advance(3)
    clock.wall += 1e9
    clock.sleep_machine(8 * 3600)
    sight = observe_session(home, record, clock)
    assert (sight.owner, sight.agent, sight.beat_age_s, sight.progress_age_s) == (Liveness.ALIVE, Liveness.ALIVE, 3, 3)
    assert show_state(home, record, Settings(), clock) == (State.WORKING, None)


@pytest.mark.parametrize(
    "fields",
    [{"epoch": 2}, {"session": "0000000000bb"}, {"boot_id": "another"}, {"monotonic_s": 1e9, "progress_monotonic_s": 1e9}],
)
def test_a_beat_that_is_not_this_incarnations_own_is_not_judged(
    home: Home, record: SessionRecord, clock: ManualClock, fields: dict
) -> None:
    beat(home, record, clock, **fields)
    sight = observe_session(home, record, clock)
    assert (sight.beat_age_s, sight.progress_age_s) == (None, None)


def test_a_damaged_beat_is_not_seen_and_no_error(home: Home, record: SessionRecord, clock: ManualClock) -> None:
    home.session(record.id).heartbeat.write_bytes(b"x" * 192)
    assert observe_session(home, record, clock).beat is None


def test_a_stale_beat_of_a_living_process_is_hung_not_crashed(home: Home, record: SessionRecord, clock: ManualClock) -> None:
    clock.advance(60)
    state, reason = show_state(home, record, Settings(), clock)
    assert state is State.HUNG
    assert reason is not None
    assert "no heartbeat" in reason


def test_what_is_decided_needs_no_look(home: Home, record: SessionRecord, clock: ManualClock) -> None:
    registry = Registry(home, clock)
    ended = change_session(registry, record, phase=Phase.ENDED, outcome=Outcome.FAILED, reason="exit code 3")
    assert show_state(home, ended, Settings(), clock) == (State.FAILED, "exit code 3")
