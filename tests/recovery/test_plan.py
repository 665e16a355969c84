"""The plan: its order, and when there is none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.sessions.model import Beat, Hosting, Outcome, Phase, Restart, SessionRecord
from coordinator.system.processes import Liveness, ProcessIdentity
from recovery.cascade import diagnose
from recovery.model import ActionKind, Diagnosis, DiskSight, Evidence, Finding, Layer, Plan, ProcessSight, Verdict
from recovery.plan import plan_recovery

SOMEBODY = ProcessIdentity(pid=100, start_ticks=1, boot_id="boot-1")
BEAT = Beat(
    session="0000000aaaaa",
    epoch=1,
    seq=1,
    boot_id="boot-1",
    monotonic_s=904.5,
    boottime_s=904.5,
    wall_s=904.5,
    progress_count=1,
    progress_monotonic_s=904.5,
    progress_wall_s=904.5,
)
FULL = ["raise-epoch", "fence-context", "reap", "restore-checkpoint", "start", "verify", "journal"]


def build_record(**changes: Any) -> SessionRecord:
    base: dict[str, Any] = {
        "id": "0000000aaaaa",
        "name": "planner",
        "workspace": "shop",
        "hosting": Hosting.KEEPER,
        "command": ("sleep", "9"),
        "cwd": "/",
        "agent_name": "generic",
        "restart": Restart.ON_CRASH,
        "created_at": 900.0,
        "phase": Phase.RUNNING,
        "nonce": "n1",
        "owner": SOMEBODY,
        "agent": SOMEBODY,
        "phase_at": 900.0,
    }
    return SessionRecord(**(base | changes))


def look(record: SessionRecord, owner: Liveness, agent: Liveness, **more: Any) -> Diagnosis:
    return diagnose(
        Evidence(
            session=record.id,
            record=record,
            owner=owner,
            agent=agent,
            boot_id="boot-1",
            now_wall_s=905.0,
            now_monotonic_s=905.0,
            now_boottime_s=905.0,
            beat=BEAT,
            disk=more.pop("disk", DiskSight(free_bytes=1, probed=True)),
            **more,
        )
    )


def kinds(plan: Plan) -> list[str]:
    return [str(action.kind) for action in plan.actions]


def test_a_crashed_session_is_fenced_and_reaped_before_anything_starts() -> None:
    record = build_record(epoch=4)
    plan = plan_recovery(look(record, Liveness.EXITED, Liveness.EXITED), record, newest_whole=7)
    assert kinds(plan) == FULL
    assert str(plan.actions[0]) == "raise-epoch 5"
    assert str(plan.actions[3]) == "restore-checkpoint 7"
    assert plan.acts


def test_without_a_whole_checkpoint_it_is_a_cold_start_and_says_so() -> None:
    record = build_record()
    plan = plan_recovery(look(record, Liveness.EXITED, Liveness.EXITED), record)
    assert "cold start" in str(plan.actions[3])


@pytest.mark.parametrize("owner", [Liveness.STOPPED, Liveness.UNKNOWN])
def test_what_is_not_proven_dead_is_refused_unless_forced(owner: Liveness) -> None:
    record = build_record()
    diagnosis = look(record, owner, Liveness.ALIVE)
    refused = plan_recovery(diagnosis, record)
    assert refused.refused
    assert not refused.acts
    assert kinds(plan_recovery(diagnosis, record, force=True)) == FULL


def test_a_healthy_session_needs_nothing_and_is_not_restored_under_its_own_feet() -> None:
    record = build_record()
    diagnosis = look(record, Liveness.ALIVE, Liveness.ALIVE)
    assert kinds(plan_recovery(diagnosis, record)) == ["nothing"]
    assert plan_recovery(diagnosis, record, checkpoint=3).refused == "it is running; stop it first"


@pytest.mark.parametrize(
    ("phase", "outcome"), [(Phase.ENDED, Outcome.DONE), (Phase.ENDED, Outcome.STOPPED), (Phase.PARKED, None)]
)
def test_what_ended_or_is_parked_is_started_only_by_name(phase: Phase, outcome: Outcome | None) -> None:
    record = build_record(phase=phase, outcome=outcome, reason="crash loop")
    diagnosis = look(record, Liveness.EXITED, Liveness.EXITED)
    assert kinds(plan_recovery(diagnosis, record)) == ["nothing"]
    assert kinds(plan_recovery(diagnosis, record, revive=True)) == FULL


def test_a_full_disk_refuses_before_the_epoch_is_touched() -> None:
    record = build_record()
    full = DiskSight(free_bytes=0, free_inodes=9, probed=False, cause="ENOSPC", operation="write")
    plan = plan_recovery(look(record, Liveness.EXITED, Liveness.EXITED, disk=full), record)
    assert plan.refused is not None
    assert "no space" in plan.refused


def test_a_stop_that_was_cut_short_is_finished_not_recovered() -> None:
    record = build_record(phase=Phase.STOPPING)
    assert kinds(plan_recovery(look(record, Liveness.EXITED, Liveness.EXITED), record)) == ["reap", "end", "journal"]
    assert kinds(plan_recovery(look(record, Liveness.EXITED, Liveness.ALIVE), record)) == ["reap", "end", "journal"]
    assert kinds(plan_recovery(look(record, Liveness.ALIVE, Liveness.ALIVE), record)) == ["nothing"]


def test_what_an_ended_session_left_behind_is_only_reaped() -> None:
    record = build_record(phase=Phase.ENDED, outcome=Outcome.DONE)
    diagnosis = look(record, Liveness.EXITED, Liveness.EXITED, marked=(ProcessSight(pid=7),))
    assert kinds(plan_recovery(diagnosis, record)) == ["reap", "journal"]


def test_a_loser_is_refused_even_by_force() -> None:
    record = build_record(epoch=3)
    plan = plan_recovery(look(record, Liveness.EXITED, Liveness.EXITED, expected_epoch=2), record, force=True)
    assert plan.refused


VERDICTS = st.sampled_from(Verdict)
DIAGNOSES = st.tuples(VERDICTS, st.lists(VERDICTS, min_size=5, max_size=5)).map(
    lambda drawn: Diagnosis(
        session="0000000aaaaa",
        verdict=drawn[0],
        reason="for a reason",
        findings=tuple(Finding(layer=layer, verdict=one, reason="x") for layer, one in zip(Layer, drawn[1], strict=True)),
        action="",
    )
)


@settings(deadline=None)  # a busy machine is no fault
@given(
    DIAGNOSES,
    st.sampled_from(Phase),
    st.none() | st.sampled_from(Outcome),
    st.none() | st.integers(1, 9),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 9),
)
def test_a_plan_is_total_the_same_twice_and_never_starts_before_it_reaped(
    diagnosis: Diagnosis,
    phase: Phase,
    outcome: Outcome | None,
    newest: int | None,
    revive: bool,
    force: bool,
    checkpoint: int | None,
) -> None:
    record = build_record(phase=phase, outcome=outcome)

    def plan() -> Plan:
        return plan_recovery(diagnosis, record, newest_whole=newest, checkpoint=checkpoint, revive=revive, force=force)

    first = plan()
    assert first == plan()
    assert first.actions
    order = kinds(first)
    if ActionKind.START in order:
        assert order.index("raise-epoch") < order.index("fence-context") < order.index("reap") < order.index("start")
    pid = diagnosis.get_finding(Layer.PID).verdict
    if first.acts and not (force or revive or checkpoint is not None or phase is Phase.ENDED):
        assert pid in (Verdict.CRASHED, Verdict.ORPHANED)


def test_a_session_parked_until_a_time_is_due_once_it_is_there() -> None:
    record = build_record(phase=Phase.PARKED, not_before_at=900.0)
    diagnosis = look(record, Liveness.EXITED, Liveness.EXITED)
    assert kinds(plan_recovery(diagnosis, record, now_s=899.0)) == ["nothing"]
    assert kinds(plan_recovery(diagnosis, record, now_s=900.0)) == FULL
    for_good = build_record(phase=Phase.PARKED)
    assert kinds(plan_recovery(look(for_good, Liveness.EXITED, Liveness.EXITED), for_good, now_s=9e9)) == ["nothing"]
