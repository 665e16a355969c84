"""The state that follows from a record and from what was seen."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.sessions.model import (
    TRANSITIONS,
    Beat,
    Hosting,
    LaunchSpec,
    Outcome,
    Phase,
    Restart,
    SessionRecord,
    Sight,
    Start,
    State,
    derive_state,
)
from coordinator.system.processes import Liveness, ProcessIdentity

SOMEBODY = ProcessIdentity(pid=10, start_ticks=5, boot_id="b", pid_namespace=1, pidfd_inode=7)
RECORD = SessionRecord(
    id="0000000000aa",
    name="auth",
    workspace="shop",
    hosting=Hosting.KEEPER,
    command=("agent",),
    cwd="/x",
    agent_name="generic",
    restart=Restart.ON_CRASH,
    created_at=100.0,
    phase_at=100.0,
    nonce="n",
    phase=Phase.RUNNING,
    owner=SOMEBODY,
    agent=SOMEBODY,
    starts=(Start(at=100.0, epoch=1),),
)
BEAT = Beat(
    session=RECORD.id,
    epoch=1,
    seq=1,
    boot_id="b",
    monotonic_s=1.0,
    boottime_s=1.0,
    wall_s=1.0,
    progress_count=1,
    progress_monotonic_s=1.0,
    progress_wall_s=1.0,
)
ALIVE = Sight(owner=Liveness.ALIVE, agent=Liveness.ALIVE, beat=BEAT, beat_age_s=0.5, progress_age_s=0.5)


def state(record: SessionRecord = RECORD, now_s: float = 101.0, **seen: object) -> State:
    sight = dataclasses.replace(ALIVE, **seen)
    return derive_state(record, sight, lease_s=5, quiet_after_s=5, hang_after_s=30, now_s=now_s, start_timeout_s=20)[0]


def test_progress_makes_it_working_and_a_prompt_makes_the_quiet_idle() -> None:
    prompt = dataclasses.replace(BEAT, at_prompt=True)
    assert state() is State.WORKING
    assert state(progress_age_s=10) is State.WORKING
    assert state(progress_age_s=10, beat=prompt) is State.IDLE
    assert state(progress_age_s=1000, beat=prompt) is State.IDLE


def test_an_alive_but_silent_agent_is_hung_not_crashed() -> None:
    assert state(progress_age_s=31) is State.HUNG
    assert state(beat_age_s=6) is State.HUNG
    assert state(owner=Liveness.STOPPED) is State.HUNG
    assert state(agent=Liveness.STOPPED) is State.HUNG


def test_a_gone_owner_is_a_crash_whatever_the_beat_says() -> None:
    for gone in (Liveness.EXITED, Liveness.ZOMBIE, Liveness.REUSED, Liveness.REBOOTED):
        assert state(owner=gone) is State.CRASHED


def test_an_unknown_owner_is_never_a_crash() -> None:
    assert state(owner=Liveness.UNKNOWN) is State.WORKING


def test_what_needs_the_user_is_waiting() -> None:
    assert state(beat=dataclasses.replace(BEAT, needs_user=True)) is State.WAITING


def test_an_interrupted_recovery_shows_after_its_time() -> None:
    record = dataclasses.replace(RECORD, phase=Phase.RECOVERING, recoverer=SOMEBODY)
    gone = {"owner": Liveness.EXITED, "recoverer": Liveness.EXITED}
    assert state(record, **gone) is State.RECOVERING
    assert state(record, now_s=200, **gone) is State.CRASHED


def test_an_interrupted_session_is_never_done() -> None:
    for phase, owner, agent in itertools.product(Phase, Liveness, Liveness):
        record = dataclasses.replace(RECORD, phase=phase)
        assert state(record, owner=owner, agent=agent) is not State.DONE


@given(
    phase=st.sampled_from(Phase),
    outcome=st.sampled_from([None, *Outcome]),
    hosting=st.sampled_from(Hosting),
    owner=st.sampled_from(Liveness),
    agent=st.sampled_from(Liveness),
    recoverer=st.sampled_from(Liveness),
    beat=st.sampled_from([None, BEAT, dataclasses.replace(BEAT, at_prompt=True), dataclasses.replace(BEAT, needs_user=True)]),
    beat_age_s=st.none() | st.floats(-1e6, 1e6),
    progress_age_s=st.none() | st.floats(-1e6, 1e6),
    known_owner=st.booleans(),
)
def test_every_record_and_sight_has_a_state(
    phase, outcome, hosting, owner, agent, recoverer, beat, beat_age_s, progress_age_s, known_owner
) -> None:
    record = dataclasses.replace(RECORD, phase=phase, outcome=outcome, hosting=hosting, owner=SOMEBODY if known_owner else None)
    sight = Sight(owner=owner, agent=agent, recoverer=recoverer, beat=beat, beat_age_s=beat_age_s, progress_age_s=progress_age_s)
    found, _ = derive_state(record, sight, lease_s=5, quiet_after_s=5, hang_after_s=30, now_s=150, start_timeout_s=20)
    assert found in State
    if found is State.DONE:
        assert phase is Phase.ENDED
        assert outcome is Outcome.DONE


def test_records_and_launches_come_back_from_their_encoding() -> None:
    assert SessionRecord.decode(RECORD.encode()) == RECORD
    launch = LaunchSpec(argv=("a", "\udcff"), cwd="/x", environment={"A": "1"}, secret_names=("K",))
    assert LaunchSpec.decode(launch.encode()) == launch


@pytest.mark.parametrize(
    "change", [{"epoch": 0}, {"epoch": "1"}, {"phase": "odd"}, {"command": "text"}, {"owner": {"pid": -1}}, {"version": None}]
)
def test_a_record_of_the_wrong_shape_is_refused(change: dict) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        SessionRecord.decode(RECORD.encode() | change)


def test_nothing_leads_back_to_starting() -> None:
    assert all(Phase.STARTING not in following for following in TRANSITIONS.values())
