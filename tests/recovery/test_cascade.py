"""The five judges and the order in which they are believed."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.sessions.model import Beat, Hosting, Outcome, Phase, Restart, SessionRecord
from coordinator.system.processes import Liveness, ProcessIdentity
from recovery.cascade import STAGES, diagnose
from recovery.model import (
    CheckpointSight,
    DiskSight,
    Evidence,
    FileSight,
    Layer,
    Presence,
    ProcessSight,
    Verdict,
    encode_diagnosis,
)

BOOT = "boot-1"
OWNER = ProcessIdentity(pid=100, start_ticks=1, boot_id=BOOT)
AGENT = ProcessIdentity(pid=101, start_ticks=2, boot_id=BOOT)


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
        "owner": OWNER,
        "agent": AGENT,
        "started_at": 900.0,
        "phase_at": 900.0,
    }
    return SessionRecord(**(base | changes))


def build_beat(**changes: Any) -> Beat:
    base: dict[str, Any] = {
        "session": "0000000aaaaa",
        "epoch": 1,
        "seq": 7,
        "boot_id": BOOT,
        "monotonic_s": 999.5,
        "boottime_s": 999.5,
        "wall_s": 999.5,
        "progress_count": 3,
        "progress_monotonic_s": 999.0,
        "progress_wall_s": 999.0,
    }
    return Beat(**(base | changes))


def build_evidence(**changes: Any) -> Evidence:
    """A healthy session, seen at second 1000 of every clock, with ``changes``."""
    base: dict[str, Any] = {
        "session": "0000000aaaaa",
        "record": build_record(),
        "owner": Liveness.ALIVE,
        "agent": Liveness.ALIVE,
        "beat": build_beat(),
        "boot_id": BOOT,
        "now_wall_s": 1000.0,
        "now_monotonic_s": 1000.0,
        "now_boottime_s": 1000.0,
        "files": (FileSight(name="record", presence=Presence.WHOLE), FileSight(name="launch", presence=Presence.WHOLE)),
        "disk": DiskSight(free_bytes=1 << 30, free_inodes=1000, probed=True),
    }
    return Evidence(**(base | changes))


def test_a_session_whose_processes_live_and_beat_is_healthy() -> None:
    diagnosis = diagnose(build_evidence())
    assert diagnosis.verdict is Verdict.HEALTHY
    assert [one.layer for one in diagnosis.findings] == list(Layer)


@pytest.mark.parametrize(
    ("liveness", "word"),
    [
        (Liveness.EXITED, "exited"),
        (Liveness.ZOMBIE, "zombie"),
        (Liveness.REUSED, "pid reused"),
        (Liveness.REBOOTED, "rebooted"),
    ],
)
def test_a_dead_owner_outranks_a_fresh_heartbeat(liveness: Liveness, word: str) -> None:
    diagnosis = diagnose(build_evidence(owner=liveness, agent=liveness))
    assert diagnosis.verdict is Verdict.CRASHED
    assert diagnosis.reason.startswith(word)
    assert diagnosis.get_finding(Layer.HEARTBEAT).reason == "fresh"


def test_a_stale_heartbeat_of_a_living_process_is_hung_and_never_crashed() -> None:
    diagnosis = diagnose(build_evidence(beat=build_beat(monotonic_s=900, boottime_s=900)))
    assert diagnosis.verdict is Verdict.HUNG
    assert "100 s" in diagnosis.reason


def test_a_beating_keeper_with_a_silent_agent_is_hung_by_its_progress() -> None:
    diagnosis = diagnose(build_evidence(beat=build_beat(progress_monotonic_s=900)))
    assert diagnosis.verdict is Verdict.HUNG


@pytest.mark.parametrize("field", ["at_prompt", "needs_user"])
def test_an_agent_that_waits_for_somebody_is_not_hung(field: str) -> None:
    assert diagnose(build_evidence(beat=build_beat(progress_monotonic_s=1, **{field: True}))).verdict is Verdict.HEALTHY


@pytest.mark.parametrize("who", ["owner", "agent"])
def test_a_stopped_process_is_suspended_however_old_its_beat(who: str) -> None:
    evidence = build_evidence(beat=build_beat(monotonic_s=1, boottime_s=1), **{who: Liveness.STOPPED})
    assert diagnose(evidence).verdict is Verdict.SUSPENDED


def test_what_cannot_be_seen_is_unknown_even_when_the_beat_is_stale() -> None:
    evidence = build_evidence(owner=Liveness.UNKNOWN, agent=Liveness.UNKNOWN, beat=build_beat(monotonic_s=1, boottime_s=1))
    assert diagnose(evidence).verdict is Verdict.UNKNOWN


def test_a_heartbeat_from_the_future_is_reported_and_is_not_healthy() -> None:
    diagnosis = diagnose(build_evidence(beat=build_beat(monotonic_s=2000, boottime_s=2000)))
    assert diagnosis.verdict is Verdict.UNKNOWN
    assert "future" in diagnosis.reason


def test_a_machine_that_slept_grants_two_intervals() -> None:
    beat = build_beat(monotonic_s=994, boottime_s=994)
    slept = build_evidence(beat=beat, now_boottime_s=1000.0 + 8 * 3600)
    assert diagnose(slept).verdict is Verdict.SUSPENDED
    long_awake = dataclasses.replace(slept, now_monotonic_s=1010.0, now_boottime_s=1010.0 + 8 * 3600)
    assert diagnose(long_awake).verdict is Verdict.HUNG


@pytest.mark.parametrize("jump_s", [-3.15e8, 3.15e8])
def test_the_wall_clock_may_jump_ten_years(jump_s: float) -> None:
    assert diagnose(build_evidence(now_wall_s=1000.0 + jump_s)).verdict is Verdict.HEALTHY


def test_an_agent_whose_keeper_is_gone_is_orphaned() -> None:
    diagnosis = diagnose(build_evidence(owner=Liveness.EXITED))
    assert diagnosis.verdict is Verdict.ORPHANED
    assert diagnosis.reason.startswith("agent without keeper")


def test_the_end_of_an_agent_is_left_to_a_keeper_that_beats() -> None:
    assert diagnose(build_evidence(agent=Liveness.EXITED)).verdict is Verdict.HEALTHY
    assert diagnose(build_evidence(agent=Liveness.EXITED, owner_is_self=True)).verdict is Verdict.CRASHED
    silent = build_evidence(agent=Liveness.EXITED, beat=build_beat(monotonic_s=900, boottime_s=900))
    assert diagnose(silent).verdict is Verdict.CRASHED


def test_an_asker_of_an_older_epoch_is_superseded() -> None:
    evidence = build_evidence(record=build_record(epoch=3), beat=build_beat(epoch=3), expected_epoch=2)
    assert diagnose(evidence).verdict is Verdict.SUPERSEDED


def test_a_session_that_is_being_recovered_is_starting_until_its_recoverer_dies() -> None:
    recovering = build_record(phase=Phase.RECOVERING, phase_at=999.0, recoverer=OWNER, epoch=2)
    evidence = build_evidence(record=recovering, owner=Liveness.EXITED, agent=Liveness.EXITED, recoverer=Liveness.ALIVE)
    assert diagnose(evidence).verdict is Verdict.STARTING
    assert diagnose(dataclasses.replace(evidence, recoverer=Liveness.EXITED)).verdict is Verdict.CRASHED
    assert diagnose(dataclasses.replace(evidence, recoverer=Liveness.UNKNOWN)).verdict is Verdict.UNKNOWN


def test_a_start_that_never_got_a_process_is_crashed_after_its_time() -> None:
    young = build_record(phase=Phase.STARTING, owner=None, agent=None, started_at=None, phase_at=995.0)
    evidence = build_evidence(record=young, owner=Liveness.NONE, agent=Liveness.NONE, beat=None)
    assert diagnose(evidence).verdict is Verdict.STARTING
    assert diagnose(dataclasses.replace(evidence, now_wall_s=1100.0)).verdict is Verdict.CRASHED


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (Outcome.DONE, Verdict.HEALTHY),
        (Outcome.STOPPED, Verdict.HEALTHY),
        (Outcome.FAILED, Verdict.HEALTHY),
        (Outcome.CRASHED, Verdict.CRASHED),
    ],
)
def test_an_ended_session_is_judged_by_how_it_ended(outcome: Outcome, verdict: Verdict) -> None:
    record = build_record(phase=Phase.ENDED, outcome=outcome, exit_signal=9 if outcome is Outcome.CRASHED else None)
    assert diagnose(build_evidence(record=record, owner=Liveness.EXITED, agent=Liveness.EXITED)).verdict is verdict


def test_processes_that_outlive_an_ended_session_are_orphans() -> None:
    evidence = build_evidence(
        record=build_record(phase=Phase.ENDED, outcome=Outcome.DONE),
        owner=Liveness.EXITED,
        agent=Liveness.EXITED,
        marked=(ProcessSight(pid=7, name="tool"),),
    )
    assert diagnose(evidence).verdict is Verdict.ORPHANED


def test_damaged_files_are_named_and_damage_that_mends_itself_is_only_told() -> None:
    damaged = FileSight(name="launch", presence=Presence.DAMAGED, detail="wrong-digest")
    diagnosis = diagnose(build_evidence(files=(damaged,)))
    assert (diagnosis.verdict, diagnosis.reason) == (Verdict.CORRUPT, "launch: wrong-digest")
    harmless = FileSight(name="journal", presence=Presence.DAMAGED, detail="truncated", harmless=True)
    told = diagnose(build_evidence(files=(harmless,)))
    assert told.verdict is Verdict.HEALTHY
    assert "truncated" in told.get_finding(Layer.INTEGRITY).evidence["journal"]


def test_a_damaged_checkpoint_names_the_whole_one_before_it() -> None:
    checkpoints = (CheckpointSight(number=7, whole=False, damage="state: truncated"), CheckpointSight(number=6, whole=True))
    diagnosis = diagnose(build_evidence(checkpoints=checkpoints))
    assert diagnosis.verdict is Verdict.CORRUPT
    assert "checkpoint 7" in diagnosis.reason
    assert "checkpoint 6 is whole" in diagnosis.reason


@pytest.mark.parametrize(
    ("cause", "words"),
    [
        ("ENOSPC", "no space"),
        ("EDQUOT", "quota"),
        ("EROFS", "read-only"),
        ("EACCES", "permission"),
        ("EPERM", "permission"),
        ("EIO", "I/O error"),
        ("ENOENT", "not there"),
        ("ESTALE", "removed"),
        ("ENAMETOOLONG", "too long"),
        ("TIMEOUT", "does not answer"),
        ("EUCLEAN", "EUCLEAN"),
    ],
)
def test_each_disk_fault_has_its_own_name(cause: str, words: str) -> None:
    disk = DiskSight(free_bytes=5, free_inodes=5, probed=False, cause=cause, operation="write", path="/x")
    diagnosis = diagnose(build_evidence(disk=disk))
    assert diagnosis.verdict is Verdict.DISK_FAULT
    assert words in diagnosis.reason


def test_a_disk_without_inodes_is_told_from_one_without_bytes() -> None:
    disk = DiskSight(free_bytes=1 << 20, free_inodes=0, probed=False, cause="ENOSPC", operation="write")
    assert "no inodes" in diagnose(build_evidence(disk=disk)).reason


def test_a_record_with_nothing_behind_it_is_an_orphan() -> None:
    record = build_record(phase=Phase.STARTING, owner=None, agent=None, phase_at=0.0)
    evidence = build_evidence(record=record, owner=Liveness.NONE, agent=Liveness.NONE, files=(), beat=None)
    assert diagnose(evidence).get_finding(Layer.ORPHAN).reason == "record without anything"


def test_a_directory_without_a_record_is_an_orphan_and_names_the_damage() -> None:
    missing = FileSight(name="record", presence=Presence.DAMAGED, detail="missing")
    diagnosis = diagnose(build_evidence(record=None, owner=Liveness.NONE, agent=Liveness.NONE, files=(missing,), beat=None))
    assert diagnosis.verdict is Verdict.CORRUPT
    assert diagnosis.get_finding(Layer.ORPHAN).reason == "files without record"


FLOATS = st.floats(allow_nan=True, allow_infinity=True)
OPTIONAL_IDENTITY = st.sampled_from([None, OWNER, AGENT])
RECORDS = st.builds(
    build_record,
    phase=st.sampled_from(Phase),
    hosting=st.sampled_from(Hosting),
    outcome=st.none() | st.sampled_from(Outcome),
    owner=OPTIONAL_IDENTITY,
    agent=OPTIONAL_IDENTITY,
    recoverer=OPTIONAL_IDENTITY,
    epoch=st.integers(1, 5),
    started_at=st.none() | st.floats(0, 2000),
    phase_at=st.floats(0, 2000),
    reason=st.none() | st.text(max_size=5),
    exit_signal=st.none() | st.integers(1, 64),
)
BEATS = st.builds(
    build_beat,
    epoch=st.integers(0, 6),
    boot_id=st.sampled_from([BOOT, "boot-0"]),
    monotonic_s=FLOATS,
    boottime_s=FLOATS,
    progress_monotonic_s=FLOATS,
    at_prompt=st.booleans(),
    needs_user=st.booleans(),
)
EVIDENCE = st.builds(
    build_evidence,
    record=st.none() | RECORDS,
    owner=st.sampled_from(Liveness),
    agent=st.sampled_from(Liveness),
    recoverer=st.sampled_from(Liveness),
    beat=st.none() | BEATS,
    owner_is_self=st.booleans(),
    expected_epoch=st.none() | st.integers(1, 5),
    now_wall_s=st.floats(-1e9, 1e12),
    now_monotonic_s=st.floats(0, 1e9),
    now_boottime_s=st.floats(0, 1e9),
    files=st.lists(
        st.builds(
            FileSight,
            name=st.sampled_from(["record", "launch", "heartbeat", "journal", "transcript"]),
            presence=st.sampled_from(Presence),
            detail=st.text(max_size=3),
            harmless=st.booleans(),
        )
    ).map(tuple),
    checkpoints=st.lists(st.builds(CheckpointSight, number=st.integers(1, 9), whole=st.booleans())).map(tuple),
    disk=st.builds(
        DiskSight,
        free_bytes=st.none() | st.integers(0),
        free_inodes=st.none() | st.integers(0),
        probed=st.none() | st.booleans(),
        cause=st.none() | st.sampled_from(["ENOSPC", "EMFILE", "EIO", "TIMEOUT", "E?"]),
    ),
    marked=st.lists(st.builds(ProcessSight, pid=st.integers(2, 9))).map(tuple),
    unreaped=st.lists(st.builds(ProcessSight, pid=st.integers(2, 9))).map(tuple),
    has_directory=st.booleans(),
    parent_missing=st.booleans(),
)


@settings(deadline=None)  # a busy machine is no fault
@given(EVIDENCE)
def test_the_cascade_is_total_and_tells_all_five_layers(evidence: Evidence) -> None:
    diagnosis = diagnose(evidence)
    assert [one.layer for one in diagnosis.findings] == list(Layer) == list(STAGES)
    assert any(one.verdict is diagnosis.verdict and one.reason == diagnosis.reason for one in diagnosis.findings)
    assert diagnosis.reason
    assert diagnosis.action
    encoded = json.loads(json.dumps(encode_diagnosis(diagnosis), allow_nan=False))
    assert set(encoded) == {"session", "verdict", "reason", "layers", "action"}
    assert all({"layer", "finding", "evidence"} <= set(layer) for layer in encoded["layers"])


@settings(deadline=None)  # a busy machine is no fault
@given(EVIDENCE)
def test_nobody_is_called_crashed_without_proof(evidence: Evidence) -> None:
    record = evidence.record
    if diagnose(evidence).verdict is not Verdict.CRASHED or record is None:
        return
    decided_before = record.phase in (Phase.ENDED, Phase.PARKED)
    proven = evidence.owner.is_gone or evidence.agent.is_gone or evidence.recoverer.is_gone
    # A keeper that recovers its own session knows of itself that no agent runs.
    told_by_owner = evidence.owner_is_self and record.phase in (Phase.STARTING, Phase.RECOVERING)
    assert decided_before or proven or told_by_owner
    if not decided_before:
        assert evidence.owner is not Liveness.UNKNOWN


@settings(deadline=None)  # a busy machine is no fault
@given(EVIDENCE)
def test_judging_twice_gives_the_same(evidence: Evidence) -> None:
    assert diagnose(evidence) == diagnose(evidence)


@pytest.mark.parametrize(
    ("until", "told"),
    [
        (None, "leave it parked: `crewkeep recover` starts it again"),
        (1_800_000_000.0, "wait: it goes on by itself at 2027-01-15T08:00:00Z; `crewkeep recover` starts it at once"),
        (4e9, "wait: it goes on by itself at 2096-10-02T07:06:40Z; `crewkeep recover` starts it at once"),
        (1e300, "wait: it goes on by itself at a time that no calendar has (1e+300); `crewkeep recover` starts it at once"),
        (-1e300, "wait: it goes on by itself at a time that no calendar has (-1e+300); `crewkeep recover` starts it at once"),
    ],
)
def test_of_a_parked_session_it_is_told_when_it_goes_on(until: float | None, told: str) -> None:
    parked = build_record(phase=Phase.PARKED, reason="usage limit: reached", not_before_at=until)
    evidence = build_evidence(record=parked, owner=Liveness.EXITED, agent=Liveness.EXITED)
    assert diagnose(evidence).action == told
