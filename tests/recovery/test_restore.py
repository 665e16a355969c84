"""Bringing one session back: the order, what is put back, and every way of not doing it."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from stand_in import SLEEP, Starter, kill, make_session, start, start_dead_session, start_session
from support import wait_until

from coordinator.config import Settings
from coordinator.context import SharedContext
from coordinator.errors import Conflict, Damaged, NotFound, Refused, StartFailed, StorageError, Superseded
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation, write_conversation
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Outcome, Phase, SessionRecord, Writer
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import failpoints, processes, scan
from coordinator.system.processes import Liveness
from recovery import reap
from recovery.checkpoint import list_checkpoints, take_checkpoint
from recovery.putting_back import put_back, read_restored_state
from recovery.restore import RecoverOutcome, Result, propose_recovery, recover_many, recover_session


def recover(home: Home, record: SessionRecord, starter: Starter | None = None, **options: Any) -> RecoverOutcome:
    given: dict[str, Any] = {"expected_epoch": record.epoch, "reason": "test", "secrets": {}, "starter": starter or Starter(home)}
    return recover_session(home, Registry(home), record.id, **(given | options))


def test_a_dead_session_comes_back_at_the_next_epoch_and_says_how(home: Home) -> None:
    record = start_dead_session(home)
    outcome = recover(home, record)
    assert (outcome.outcome, outcome.from_epoch, outcome.to_epoch) == (Result.RECOVERED, 1, 2)
    assert [action.split()[0] for action in outcome.actions][:3] == ["raise-epoch", "fence-context", "reap"]
    now = Registry(home).get(record.id)
    assert (now.phase, now.epoch, now.restarts, now.unreaped_nonces) == (Phase.RUNNING, 2, 1, ())
    assert processes.observe(now.agent) is Liveness.ALIVE
    told = Journal(home.session(record.id)).read().find_last("recovery")
    assert told is not None
    assert told.body["outcome"] == "recovered"
    assert set(outcome.encode()) >= {
        "id", "name", "verdict", "actions", "outcome", "from_epoch", "to_epoch", "checkpoint", "duration_ms"
    }  # fmt: skip
    json.dumps(outcome.encode())


def test_the_steps_come_in_the_order_that_makes_them_safe(home: Home) -> None:
    record = start_dead_session(home)
    passed: list[str] = []
    with failpoints.observe(passed.append):
        recover(home, record)
    order = [name for name in passed if name.startswith("recover.")]
    assert order == [
        "recover.raised",
        "recover.fence",
        "recover.fence",
        "recover.reaped",
        "recover.restored",
        "recover.start",
        "recover.started",
    ]


def test_recovering_twice_is_recovering_once(home: Home) -> None:
    record = start_dead_session(home)
    recover(home, record)
    now = Registry(home).get(record.id)
    assert recover(home, now).outcome in (Result.NOTHING, Result.REFUSED)  # healthy, or without a first beat yet
    assert Registry(home).get(record.id) == now
    assert recover(home, record).outcome is Result.ALREADY


def test_the_old_incarnation_is_fenced_in_record_checkpoint_and_every_context(home: Home) -> None:
    record = start_session(home)
    registry = Registry(home)
    record = registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, other_workspaces=("other",)))
    old = [SharedContext.open(home.context(workspace_id(name)), writer=record.writer) for name in ("shop", "other")]
    for context in old:
        context.put("key", 1, expected_version=0)
    kill(record.owner, record.agent)
    recover(home, record)
    for context in old:
        with pytest.raises(Superseded):
            context.put("key", 2, unconditional=True)
        assert context.get("key").value == 1  # type: ignore[union-attr]
        context.close()
    with pytest.raises(Superseded):
        take_checkpoint(home, record, registry.get_launch(record.id))
    with pytest.raises(Superseded):
        registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, reason="late"))
    with pytest.raises(Superseded):
        Journal(home.session(record.id)).append("late", {}, epoch=1)


def test_what_the_old_incarnation_left_is_gone_before_the_new_one_starts(home: Home) -> None:
    script = "setsid sleep 1000 & (setsid sleep 1001 &) ; exec sleep 1002"
    record = start_session(home, ("sh", "-c", script))
    wait_until(lambda: len(scan.find_marked([record.nonce])) == 3, what="the agent's tree")
    tree = scan.find_marked([record.nonce])
    kill(record.owner)
    assert propose_recovery(home, Registry(home), record.id)[1].owner is Liveness.ZOMBIE
    seen: list[bool] = []

    class Looking(Starter):
        def __call__(self, *given: Any) -> SessionRecord:
            seen.append(all(processes.observe(one).is_gone for one in tree))
            return super().__call__(*given)

    outcome = recover(home, record, Looking(home))
    assert outcome.verdict == "ORPHANED"
    assert seen == [True]


def test_a_stopped_keeper_is_only_taken_from_by_force_and_left_to_leave_by_itself(home: Home) -> None:
    record = start_session(home)
    assert record.owner is not None
    processes.send_signal(record.owner, signal.SIGSTOP)
    wait_until(lambda: processes.observe(record.owner) is Liveness.STOPPED)
    refused = recover(home, record)
    assert (refused.outcome, refused.verdict) == (Result.REFUSED, "SUSPENDED")
    assert processes.observe(record.agent) is Liveness.ALIVE
    assert Registry(home).get(record.id) == record
    outcome = recover(home, record, force=True)
    assert outcome.outcome is Result.RECOVERED
    assert processes.observe(record.agent).is_gone
    assert processes.observe(record.owner) is Liveness.STOPPED


@pytest.mark.parametrize("which", ["session", "shard"])
def test_a_stopped_keeper_that_holds_a_lock_is_ended(home: Home, which: str) -> None:
    record = start_session(home)
    context = SharedContext.open(home.context(workspace_id("shop")))
    context.put("k", 1, unconditional=True)
    context.close()
    shard = next(path for path in sorted(home.context(workspace_id("shop")).rglob("lock")))
    lock = home.session(record.id).lock if which == "session" else shard
    holder = start(
        (
            sys.executable,
            "-c",
            f"import fcntl,os,time; f=open({str(lock)!r},'r+'); fcntl.flock(f,2); print(1,flush=True); time.sleep(1e3)",
        ),
        {"CREWKEEP_HOME": str(home.path), "CREWKEEP_ROLE": "keeper"},
    )

    def is_locked() -> bool:
        with open(lock) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return True
            return False

    def take_place(path: Path) -> None:
        """Let the holder be the session's keeper, without going through the lock that it holds."""
        from coordinator import sealed

        body = sealed.read_sealed(path, "session", 1)
        sealed.write_sealed(path, "session", 1, body | {"owner": holder.encode()})

    wait_until(is_locked, what="the lock")
    kill(record.owner)
    take_place(home.session(record.id).record)
    processes.send_signal(holder, signal.SIGSTOP)
    wait_until(lambda: processes.observe(holder) is Liveness.STOPPED)
    outcome = recover(home, record, force=True)
    assert outcome.outcome is Result.RECOVERED
    assert outcome.duration_ms < 5000
    assert processes.observe(holder).is_gone


def test_what_ended_is_only_revived_by_name(home: Home) -> None:
    record = start_dead_session(home)
    record = Registry(home).change(
        record.id, epoch=1, change=lambda known: dataclasses.replace(known, phase=Phase.ENDED, outcome=Outcome.DONE)
    )
    assert recover(home, record).outcome is Result.NOTHING
    assert recover(home, record, revive=True).outcome is Result.RECOVERED


def test_a_stop_that_comes_between_the_judgement_and_the_act_is_not_undone(home: Home) -> None:
    record = start_dead_session(home)
    registry = Registry(home)
    real = registry.raise_epoch

    def stop_first(*given: Any, **named: Any) -> SessionRecord:
        registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, phase=Phase.STOPPING))
        return real(*given, **named)

    registry.raise_epoch = stop_first  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        recover_session(home, registry, record.id, expected_epoch=1, reason="test", starter=Starter(home), secrets={})
    assert registry.get(record.id).epoch == 1


def test_an_interrupted_stop_is_brought_to_its_end(home: Home) -> None:
    record = start_session(home)
    registry = Registry(home)
    registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, phase=Phase.STOPPING))
    kill(record.owner)
    outcome = recover(home, record)
    assert outcome.outcome is Result.ENDED
    now = registry.get(record.id)
    assert (now.phase, now.outcome, now.epoch) == (Phase.ENDED, Outcome.STOPPED, 1)
    assert processes.observe(record.agent).is_gone


def test_missing_secrets_park_the_session_and_are_named(home: Home) -> None:
    record = make_session(home, secret_names=("OPENAI_API_KEY",))
    starter = Starter(home, {"OPENAI_API_KEY": "x"})
    record = starter(record, Registry(home).get_launch(record.id))
    kill(record.owner)
    outcome = recover(home, record)
    assert outcome.outcome is Result.PARKED
    now = Registry(home).get(record.id)
    assert now.phase is Phase.PARKED
    assert "OPENAI_API_KEY" in (now.reason or "")
    assert processes.observe(record.agent).is_gone
    again = recover(home, now, starter, secrets={"OPENAI_API_KEY": "x"}, revive=True)
    assert again.outcome is Result.RECOVERED


def test_missing_secrets_leave_alone_what_still_lives(home: Home) -> None:
    record = make_session(home, secret_names=("OPENAI_API_KEY",))
    record = Starter(home, {"OPENAI_API_KEY": "x"})(record, Registry(home).get_launch(record.id))
    assert recover(home, record, force=True).outcome is Result.REFUSED
    assert processes.observe(record.agent) is Liveness.ALIVE


def test_a_program_that_cannot_be_started_parks_the_session(home: Home) -> None:
    record = start_dead_session(home)

    def fail(*given: Any) -> SessionRecord:
        raise StartFailed("no such program: sleep", program="sleep", reason="not-found")

    outcome = recover(home, record, starter=fail)  # type: ignore[arg-type]
    assert outcome.outcome is Result.PARKED
    assert "no such program" in (Registry(home).get(record.id).reason or "")


def test_a_failure_that_may_pass_is_raised_and_the_next_recoverer_need_not_wait(home: Home) -> None:
    record = start_dead_session(home)

    def fail(*given: Any) -> SessionRecord:
        raise StorageError("full", operation="write", path="x", cause="ENOSPC")

    with pytest.raises(StorageError):
        recover(home, record, starter=fail)  # type: ignore[arg-type]
    now = Registry(home).get(record.id)
    assert (now.phase, now.recoverer) == (Phase.RECOVERING, None)
    assert "full" in (now.reason or "")
    assert recover(home, now).outcome is Result.RECOVERED


def test_processes_that_cannot_be_ended_park_the_session_and_nothing_starts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.system.tree import EndReport, Left

    record = start_session(home)
    kill(record.owner)
    assert record.agent is not None
    stuck = EndReport(ended=(), left=(Left(identity=record.agent, name="sleep", why="it waits for a device"),))
    starter = Starter(home)
    with monkeypatch.context() as patch:
        patch.setattr(reap, "end_tree", lambda **given: stuck)
        outcome = recover(home, record, starter)
    assert outcome.outcome is Result.PARKED
    assert starter.restored == []
    now = Registry(home).get(record.id)
    assert (now.phase, now.agent, now.unreaped_nonces) == (Phase.PARKED, record.agent, (record.nonce,))
    assert recover(home, now, revive=True).outcome is Result.RECOVERED
    assert processes.observe(record.agent).is_gone


@pytest.mark.parametrize("phase", [Phase.PARKED, Phase.RECOVERING])
def test_what_was_to_start_at_a_time_and_cannot_be_ended_does_not_begin_again_by_itself(
    home: Home, monkeypatch: pytest.MonkeyPatch, phase: Phase
) -> None:
    from coordinator.system.tree import EndReport, Left

    registry, record = Registry(home), start_session(home)
    kill(record.owner)
    assert record.agent is not None
    registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, phase=phase, not_before_at=1.0))
    stuck = EndReport(ended=(), left=(Left(identity=record.agent, name="sleep", why="it waits for a device"),))
    with monkeypatch.context() as patch:
        patch.setattr(reap, "end_tree", lambda **given: stuck)
        assert recover(home, registry.get(record.id)).outcome is Result.PARKED
    parked = registry.get(record.id)
    assert (parked.phase, parked.epoch, parked.resumes_at) == (Phase.PARKED, 2, None)
    assert recover(home, parked).outcome is Result.NOTHING


def test_an_agent_that_ends_at_once_is_not_called_recovered(home: Home) -> None:
    record = start_dead_session(home, ("true",))

    class Waiting(Starter):
        def __call__(self, *given: Any) -> SessionRecord:
            started = super().__call__(*given)
            assert started.agent is not None
            processes.wait_gone(started.agent, 5)
            return started

    assert recover(home, record, Waiting(home)).outcome is Result.FAILED


# What is put back


def test_state_revisions_and_number_of_the_newest_whole_checkpoint_are_handed_on(home: Home) -> None:
    record = start_session(home)
    launch = Registry(home).get_launch(record.id)
    take_checkpoint(home, record, launch, state={"cursor": 1}, revisions={0: 5})
    take_checkpoint(home, record, launch, state={"cursor": 2}, revisions={0: 6})
    take_checkpoint(home, record, launch, state={"cursor": 3})
    (home.session(record.id).checkpoints / "00000003" / "state").write_bytes(b"")
    kill(record.owner, record.agent)
    starter = Starter(home)
    outcome = recover(home, record, starter)
    assert outcome.checkpoint == 2
    assert "checkpoint 3 set aside" in outcome.reason
    (restored,) = starter.restored
    assert (restored.checkpoint, restored.state, restored.revisions) == (2, {"cursor": 2}, {0: 6})
    now = Registry(home).get(record.id)
    assert now.restored_from == 2
    assert read_restored_state(home, now).state == {"cursor": 2}
    assert [one.number for one in list_checkpoints(home.session(record.id))] == [2, 1]


def test_without_any_whole_checkpoint_it_starts_cold_and_says_so(home: Home) -> None:
    record = start_session(home)
    take_checkpoint(home, record, Registry(home).get_launch(record.id), state=1)
    (home.session(record.id).checkpoints / "00000001" / "manifest.json").write_bytes(b"{}")
    kill(record.owner, record.agent)
    outcome = recover(home, record)
    assert (outcome.outcome, outcome.checkpoint) == (Result.RECOVERED, None)
    assert "restore-checkpoint none: cold start" in outcome.actions


def test_a_checkpoint_asked_for_by_number_is_used_or_refused(home: Home) -> None:
    record = start_session(home)
    launch = Registry(home).get_launch(record.id)
    for cursor in (1, 2, 3):
        take_checkpoint(home, record, launch, state=cursor)
    kill(record.owner, record.agent)
    with pytest.raises(NotFound):
        recover(home, record, checkpoint=9)
    assert Registry(home).get(record.id) == record  # nothing was begun
    starter = Starter(home)
    assert recover(home, Registry(home).get(record.id), starter, checkpoint=1).checkpoint == 1
    assert starter.restored[0].state == 1
    now = Registry(home).get(record.id)
    kill(now.owner, now.agent)
    (home.session(record.id).checkpoints / "00000002" / "state").write_bytes(b"x")
    with pytest.raises((Refused, NotFound)):
        recover(home, now, checkpoint=2)


def codex_lines(count: int) -> bytes:
    first = {"type": "session_meta", "payload": {"id": "c-1", "cwd": "/"}}
    lines = [first, *({"type": "event_msg", "payload": {"number": number}} for number in range(count))]
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


@pytest.mark.parametrize(
    "lost",
    [
        None,
        b"",
        bytes(400),
        codex_lines(1),
        b"no transcript at all\n" * 40,
        bytes(40) + codex_lines(5)[40:],  # its end is as it should be
        codex_lines(2) + bytes(100) + b"\n" + codex_lines(9),
    ],
)
def test_a_transcript_that_was_lost_is_put_back_and_one_that_was_not_is_left(
    home: Home, tmp_path: Path, lost: bytes | None
) -> None:
    record = start_session(home)
    registry = Registry(home)
    launch = dataclasses.replace(registry.get_launch(record.id), agent="codex")
    transcript = tmp_path / "rollout.jsonl"
    transcript.write_bytes(codex_lines(5))
    conversation = Conversation(agent="codex", id="c-1", transcript=str(transcript))
    write_conversation(home.session(record.id), conversation, epoch=1)
    take_checkpoint(home, record, launch, conversation=conversation)
    transcript.write_bytes(codex_lines(7))
    assert put_back(home, registry, record, launch, None).notes == ()
    assert transcript.read_bytes() == codex_lines(7)
    transcript.unlink()
    if lost is not None:
        transcript.write_bytes(lost)
    notes = put_back(home, registry, record, launch, None).notes
    assert transcript.read_bytes() == codex_lines(5)
    assert "put back from checkpoint 1" in notes[0]
    assert put_back(home, registry, record, launch, None).notes == ()
    transcript.write_bytes(codex_lines(9))
    told = put_back(home, registry, record, launch, 1)  # asked for by number: it replaces, and sets aside what was there
    assert told.notes == ("the transcript was put back from checkpoint 1 (it was replaced)",)
    assert transcript.read_bytes() == codex_lines(5)
    assert (tmp_path / "rollout.jsonl.replaced-1").read_bytes() == codex_lines(9)


def test_a_conversation_that_its_adapter_does_not_take_back_stays_as_it_is(home: Home, tmp_path: Path) -> None:
    record = start_session(home)
    registry = Registry(home)
    launch = registry.get_launch(record.id)
    assert launch.agent == "generic"
    transcript = tmp_path / "talk.jsonl"
    transcript.write_bytes(b'{"said": 1}\n')
    conversation = Conversation(agent="generic", id="c-1", transcript=str(transcript))
    write_conversation(home.session(record.id), conversation, epoch=1)
    take_checkpoint(home, record, launch, conversation=conversation)
    transcript.write_bytes(b'{"said": 1}\n{"said": 2}\n')
    [note] = put_back(home, registry, record, launch, 1).notes
    assert "left as it is" in note
    assert transcript.read_bytes() == b'{"said": 1}\n{"said": 2}\n'


def test_a_damaged_conversation_is_rebuilt_and_the_damaged_file_kept(home: Home) -> None:
    record = start_dead_session(home)
    paths = home.session(record.id)
    conversation = Conversation(agent="generic", id="c-1")
    write_conversation(paths, conversation, epoch=1)
    paths.conversation.write_bytes(b"\0\0\0")
    starter = Starter(home)
    recover(home, record, starter)
    assert starter.restored[0].conversation == conversation
    assert read_conversation(paths) == conversation
    assert any("conversation" in name for name in os.listdir(home.quarantine / record.id))


def test_a_damaged_launch_comes_from_the_journal_or_the_newest_checkpoint(home: Home) -> None:
    record = start_session(home)
    registry, paths = Registry(home), home.session(record.id)
    launch = registry.get_launch(record.id)
    take_checkpoint(home, record, launch)
    kill(record.owner, record.agent)
    paths.launch.write_bytes(b"")
    assert recover(home, record).outcome is Result.RECOVERED
    assert registry.get_launch(record.id) == launch
    now = registry.get(record.id)
    kill(now.owner, now.agent)
    paths.launch.write_bytes(b"{}")
    kept = [line for line in paths.journal.read_bytes().splitlines(keepends=True) if b'"kind":"launch"' not in line]
    paths.journal.write_bytes(b"".join(kept))
    assert recover(home, now).outcome is Result.RECOVERED
    assert registry.get_launch(record.id) == launch


@pytest.mark.parametrize("damage", [b"", b"\0" * 300, b'{"kind":"session"', None])
def test_a_session_whose_record_is_damaged_or_gone_comes_back(home: Home, damage: bytes | None) -> None:
    record = start_dead_session(home)
    path = home.session(record.id).record
    path.unlink() if damage is None else path.write_bytes(damage)
    outcome = recover(home, record, expected_epoch=None)
    assert outcome.outcome is Result.RECOVERED
    assert outcome.to_epoch is not None
    assert outcome.to_epoch > record.epoch


def test_a_record_that_went_back_in_time_does_not_bring_back_an_old_epoch(home: Home) -> None:
    record = start_dead_session(home)
    old = home.session(record.id).record.read_bytes()
    recover(home, record)
    now = Registry(home).get(record.id)
    kill(now.owner, now.agent)
    home.session(record.id).record.write_bytes(old)
    outcome = recover(home, record, expected_epoch=None)
    assert (outcome.from_epoch, outcome.to_epoch) == (2, 3)


def test_a_session_without_record_and_journal_is_damaged_and_its_files_are_named(home: Home) -> None:
    record = start_dead_session(home)
    home.session(record.id).record.write_bytes(b"")
    home.session(record.id).journal.unlink()
    with pytest.raises(Damaged):
        recover(home, record)


def test_a_damaged_context_does_not_keep_a_session_from_coming_back(home: Home) -> None:
    record = start_session(home)
    directory = home.context(workspace_id("shop"))
    with_others = SharedContext.open(directory, writer=record.writer)
    for number in range(40):
        with_others.put(f"key/{number}", number, expected_version=0)
    with_others.close()
    log = next(path for path in sorted(directory.rglob("log")))
    data = bytearray(log.read_bytes())
    data[len(data) // 2] ^= 255
    log.write_bytes(data)
    kill(record.owner, record.agent)
    assert recover(home, record).outcome is Result.RECOVERED
    late = SharedContext.open(directory, writer=Writer(session=record.id, name="planner", epoch=1))
    refused = 0
    for number in range(40):
        with pytest.raises((Superseded, Damaged)) as caught:
            late.put(f"key/{number}", -1, unconditional=True)
        refused += caught.type is Superseded
    late.close()
    assert refused > 0


# Several


def outcome_of(session_id: str, result: Result) -> RecoverOutcome:
    return RecoverOutcome(id=session_id, name=session_id, verdict="CRASHED", actions=(), outcome=result, to_epoch=2)  # type: ignore[arg-type]


def test_several_are_spaced_and_halted_after_failures_in_a_row() -> None:
    good, bad = Result.RECOVERED, Result.FAILED
    answers = dict(zip("abcdefg", (good, Result.PARKED, good, bad, Result.PARKED, bad, good), strict=True))
    waits: list[float] = []
    outcomes = recover_many(list(answers), lambda one: outcome_of(one, answers[one]), settings=Settings(), wait=waits.append)
    assert [one.outcome for one in outcomes] == [*list(answers.values())[:6], Result.HALTED]
    assert waits == [0.05] * 5


def test_an_error_counts_as_a_failure_and_is_told() -> None:
    def fail(session_id: str) -> RecoverOutcome:
        raise NotFound(f"there is no session {session_id}")

    outcomes = recover_many(["a", "b", "c", "d"], fail, settings=Settings(), wait=lambda s: None)
    assert [one.outcome for one in outcomes] == [Result.FAILED] * 3 + [Result.HALTED]
    assert outcomes[0].reason == "there is no session a"


def test_starts_are_counted_on_disk_across_recoveries(home: Home) -> None:
    record = start_dead_session(home)
    for _ in range(3):
        recover(home, record)
        record = Registry(home).get(record.id)
        kill(record.owner, record.agent)
    assert [start.epoch for start in record.starts] == [1, 2, 3, 4]
    recover(home, record, revive=True)
    assert [start.epoch for start in Registry(home).get(record.id).starts] == [5]


def test_the_keeper_itself_recovers_its_own_agent_without_force(home: Home) -> None:
    record = start_session(home)
    kill(record.owner, record.agent)
    me = processes.identify_self()
    record = Registry(home).change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, owner=me))
    assert recover(home, record).outcome is Result.RECOVERED


def test_the_reaper_ends_nobody_of_a_running_incarnation(home: Home) -> None:
    record = start_session(home)
    with pytest.raises(AssertionError):
        reap.reap_incarnation(record, home, timeout_s=1)
    stray = start(SLEEP, {"CREWKEEP_NONCE": "f" * 32, "CREWKEEP_HOME": str(home.path)})
    record = Registry(home).change(
        record.id, epoch=1, change=lambda known: dataclasses.replace(known, unreaped_nonces=("f" * 32,))
    )
    report = reap.reap_earlier(record, timeout_s=5)
    assert [one.identity for one in report.ended] == [stray]
    assert processes.observe(record.agent) is Liveness.ALIVE


def test_a_session_started_inside_a_session_is_not_reaped_with_it(home: Home) -> None:
    record = start_session(home)
    inner = start(SLEEP, {"CREWKEEP_NONCE": "e" * 32, "CREWKEEP_HOME": str(home.path)})
    kill(record.owner)
    recover(home, record)
    assert processes.observe(inner) is Liveness.ALIVE


@pytest.mark.parametrize("elsewhere", [{"pid_namespace": 1}, {"machine": "0" * 16, "boot_id": "another"}])
def test_what_cannot_be_seen_from_here_is_left_alone_unless_somebody_vouches_for_its_end(
    home: Home, elsewhere: dict[str, Any]
) -> None:
    record = start_dead_session(home)
    assert record.owner is not None
    assert record.agent is not None
    if not record.owner.machine and "machine" in elsewhere:
        pytest.skip("this machine has no id")
    owner, agent = (dataclasses.replace(one, **elsewhere) for one in (record.owner, record.agent))
    record = Registry(home).change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, owner=owner, agent=agent))
    refused = recover(home, record)
    assert (refused.outcome, refused.verdict) == (Result.REFUSED, "UNKNOWN")
    assert Registry(home).get(record.id).epoch == 1
    assert recover(home, record, force=True).outcome is Result.RECOVERED
