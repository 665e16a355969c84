"""What is gathered of a session, its files, its disk and its strays: the same under every name of its home."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from stand_in import SLEEP, kill, make_session, start, start_dead_session, start_session
from support import end_home_processes, wait_until

from coordinator.context import SharedContext
from coordinator.errors import NotFound
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, write_conversation
from coordinator.sessions.heartbeat import HeartbeatFile
from coordinator.sessions.model import Beat, Outcome, Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import failpoints, probe, processes
from coordinator.system.clock import SYSTEM, Clock, ManualClock
from coordinator.system.processes import Liveness
from recovery.brake import EndCause
from recovery.cascade import diagnose
from recovery.checkpoint import take_checkpoint
from recovery.evidence import Look, gather, infer_end
from recovery.model import Diagnosis, Layer, OrphanKind, Presence, Verdict, encode_diagnosis
from recovery.strays import gather_strays


def look(home: Home, session_id: str, clock: Clock = SYSTEM) -> Diagnosis:
    return diagnose(gather(home, Registry(home), session_id, clock))


def beat(home: Home, record: SessionRecord, **changes: object) -> Beat:
    """Write a beat of this moment, with ``changes``."""
    found = Beat(
        session=record.id,
        epoch=record.epoch,
        seq=1,
        boot_id=processes.boot_id(),
        monotonic_s=SYSTEM.monotonic_s(),
        boottime_s=SYSTEM.boottime_s(),
        wall_s=SYSTEM.wall_s(),
        progress_count=1,
        progress_monotonic_s=SYSTEM.monotonic_s(),
        progress_wall_s=SYSTEM.wall_s(),
    )
    found = dataclasses.replace(found, **changes)  # type: ignore[arg-type]
    file = HeartbeatFile(home.session(record.id).heartbeat)
    file.write(found)
    file.close()
    return found


def test_a_running_session_is_healthy_and_its_diagnosis_is_the_promised_object(home: Home) -> None:
    record = start_session(home)
    beat(home, record)
    diagnosis = look(home, record.id)
    assert diagnosis.verdict is Verdict.HEALTHY, diagnosis
    told = json.loads(json.dumps(encode_diagnosis(diagnosis)))
    assert [layer["layer"] for layer in told["layers"]] == ["pid", "heartbeat", "integrity", "disk", "orphan"]
    assert told["layers"][3]["evidence"]["probed"] is True
    assert os.listdir(home.session(record.id).path).count("probe") == 0


def test_every_way_of_dying_has_its_word(home: Home) -> None:
    record = start_session(home)
    beat(home, record)
    assert record.owner is not None
    processes.send_signal(record.owner, signal.SIGSTOP)
    wait_until(lambda: processes.observe(record.owner) is Liveness.STOPPED)
    assert look(home, record.id).verdict is Verdict.SUSPENDED
    kill(record.owner)
    orphaned = look(home, record.id)
    assert (orphaned.verdict, orphaned.reason.split(":")[0]) == (Verdict.ORPHANED, "agent without keeper")
    kill(record.agent)
    assert look(home, record.id).verdict is Verdict.CRASHED
    for change, word in (({"boot_id": "another"}, "rebooted"), ({"start_ticks": 1, "pidfd_inode": 1}, "pid reused")):
        other = dataclasses.replace(processes.identify_self(), **change)  # type: ignore[arg-type]
        Registry(home).change(record.id, epoch=1, change=lambda known, other=other: dataclasses.replace(known, owner=other))
        diagnosis = look(home, record.id)
        assert (diagnosis.verdict, diagnosis.reason.split(":")[0]) == (Verdict.CRASHED, word)
    elsewhere = dataclasses.replace(processes.identify_self(), pid_namespace=1)
    Registry(home).change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, owner=elsewhere))
    assert look(home, record.id).verdict is Verdict.UNKNOWN


def test_no_session_no_evidence(home: Home) -> None:
    for name in ("0" * 12, "../../etc", "", "a*"):
        with pytest.raises(NotFound):
            gather(home, Registry(home), name)


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("record.json", b"", "empty"),
        ("record.json", b"\0" * 50, "zero-filled"),
        ("record.json", b'{"kind":', "truncated"),
        ("record.json", b"[1]\n", "wrong-shape"),
        ("record.json", None, "missing"),
        ("launch.json", b"{}\n", "wrong-shape"),
        ("launch.json", None, "missing"),
        ("conversation.json", b"x\n", "unreadable"),
        ("heartbeat", b"\0" * 192, "zero-filled"),
        ("heartbeat", b"CK", "truncated"),
    ],
)
def test_a_damaged_file_is_named_with_its_kind_of_damage(home: Home, name: str, data: bytes | None, word: str) -> None:
    record = start_session(home)
    beat(home, record)
    path = home.session(record.id).path / name
    path.unlink() if data is None else path.write_bytes(data)
    diagnosis = look(home, record.id)
    finding = diagnosis.get_finding(Layer.INTEGRITY)
    assert finding.verdict is Verdict.CORRUPT
    assert finding.reason.startswith(f"{name.removesuffix('.json')}: {word}")
    assert diagnosis.verdict is Verdict.CORRUPT, "its processes live, whatever its files are"
    assert diagnosis.get_finding(Layer.PID).verdict is Verdict.HEALTHY


def test_a_torn_journal_is_told_but_no_fault_and_a_damaged_one_is(home: Home) -> None:
    record = start_session(home)
    beat(home, record)
    journal = home.session(record.id).journal
    good = journal.read_bytes()
    journal.write_bytes(good + b'{"kind":"jour')
    diagnosis = look(home, record.id)
    assert diagnosis.verdict is Verdict.HEALTHY
    assert "truncated" in diagnosis.get_finding(Layer.INTEGRITY).evidence["journal"]
    journal.write_bytes(good.replace(b"planner", b"plannex", 1))
    assert look(home, record.id).get_finding(Layer.INTEGRITY).verdict is Verdict.CORRUPT


def test_a_record_older_than_its_journal_went_back_in_time(home: Home) -> None:
    record = make_session(home)
    old = home.session(record.id).record.read_bytes()
    for reason in "abc":
        Registry(home).change(record.id, epoch=1, change=lambda known, reason=reason: dataclasses.replace(known, reason=reason))
    home.session(record.id).record.write_bytes(old)
    evidence = gather(home, Registry(home), record.id)
    assert "rolled-back" in diagnose(evidence).get_finding(Layer.INTEGRITY).reason
    assert evidence.record is not None
    assert evidence.record.reason == "c", "the journal's is the one to go by"


def test_a_lost_or_spoiled_transcript_is_named(home: Home, tmp_path: Path) -> None:
    record = start_session(home)
    beat(home, record)
    transcript = tmp_path / "talk.jsonl"
    write_conversation(home.session(record.id), Conversation(agent="generic", id="c", transcript=str(transcript)), epoch=1)
    for data, word in ((None, "missing"), (b"", "empty"), (b'{"a":1}\n\0\0', "zero-filled tail")):
        if data is not None:
            transcript.write_bytes(data)
        assert f"transcript: {word}" in look(home, record.id).get_finding(Layer.INTEGRITY).reason
    transcript.write_bytes(b'{"a":1}\n{"b"')
    assert look(home, record.id).verdict is Verdict.HEALTHY, "a living agent is just writing it"
    kill(record.owner, record.agent)
    assert "transcript: torn tail" in look(home, record.id).get_finding(Layer.INTEGRITY).reason


def test_a_damaged_newest_checkpoint_is_named_with_the_whole_one_before(home: Home) -> None:
    record = start_session(home)
    beat(home, record)
    launch = Registry(home).get_launch(record.id)
    for state in (1, 2):
        take_checkpoint(home, record, launch, state=state)
    (home.session(record.id).checkpoints / "00000002" / "state").write_bytes(b"3")
    reason = look(home, record.id).get_finding(Layer.INTEGRITY).reason
    assert reason == "checkpoint 2: state: wrong-digest; checkpoint 1 is whole"


def test_only_a_thorough_look_sees_a_flipped_bit_in_a_large_part(home: Home, tmp_path: Path) -> None:
    record = start_session(home)
    transcript = tmp_path / "talk.jsonl"
    transcript.write_bytes(b'{"a": 1}\n' * 300_000)
    conversation = Conversation(agent="generic", id="c", transcript=str(transcript))
    take_checkpoint(home, record, Registry(home).get_launch(record.id), conversation=conversation)
    with open(home.session(record.id).checkpoints / "00000001" / "transcript", "r+b") as file:
        file.seek(1_000_000)
        file.write(b"x")
    quick = gather(home, Registry(home), record.id, look=Look.QUICK)
    assert quick.checkpoints[0].whole
    assert not gather(home, Registry(home), record.id, look=Look.THOROUGH).checkpoints[0].whole


def test_the_clocks_are_those_that_were_passed_in(home: Home) -> None:
    record = start_session(home)
    beat(home, record, monotonic_s=1000.0, boottime_s=1000.0, progress_monotonic_s=1000.0)
    clock = ManualClock()
    assert look(home, record.id, clock).verdict is Verdict.HEALTHY
    clock.sleep_machine(8 * 3600)
    assert look(home, record.id, clock).verdict is Verdict.HEALTHY
    clock.advance(7)
    assert look(home, record.id, clock).get_finding(Layer.HEARTBEAT).verdict is Verdict.SUSPENDED
    clock.advance(60)
    assert look(home, record.id, clock).verdict is Verdict.HUNG
    clock.wall -= 3e8
    assert look(home, record.id, clock).verdict is Verdict.HUNG
    clock.monotonic -= 500
    assert look(home, record.id, clock).verdict is Verdict.UNKNOWN


def test_how_it_ended_is_read_from_its_last_heartbeat(home: Home) -> None:
    record = start_session(home)
    assert record.started_at is not None
    beat(home, record, fruitful=True, wall_s=record.started_at + 5)
    kill(record.owner, record.agent)
    ended = infer_end(gather(home, Registry(home), record.id))
    assert (ended.cause, ended.fruitful, ended.held) == (EndCause.OWNER_DIED, True, True)
    beat(home, record, wall_s=record.started_at + 0.5)
    ended = infer_end(gather(home, Registry(home), record.id))
    assert (ended.fruitful, ended.held) == (False, False)


def test_a_commit_counts_as_fruit_although_no_heartbeat_came_after_it(home: Home) -> None:
    record = start_session(home)
    beat(home, record)
    with contextlib.closing(SharedContext.open(home.context(workspace_id(record.workspace)), writer=record.writer)) as context:
        context.put("work", 1, expected_version=0)
    assert not infer_end(gather(home, Registry(home), record.id)).fruitful, "not asked while it lives"
    kill(record.owner, record.agent)
    assert infer_end(gather(home, Registry(home), record.id)).fruitful


# Disk


@pytest.mark.parametrize("place", ["probe.write", "probe.fsync", "probe.rename", "probe.unlink"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE])
def test_each_error_at_each_step_of_the_probe_is_named_and_leaves_no_file(tmp_path: Path, place: str, code: int) -> None:
    def fail(name: str) -> None:
        if name == place:
            raise OSError(code, os.strerror(code))

    with failpoints.observe(fail):
        found = probe.probe_directory(tmp_path)
        apart = probe.probe_apart(tmp_path, 5)
    assert found.cause == errno.errorcode[code]
    assert found == apart
    assert [name for name in os.listdir(tmp_path) if "probe" in name] == []


def test_a_file_system_that_hangs_is_given_up_on(tmp_path: Path) -> None:
    def hang(name: str) -> None:
        if name == "probe.fsync":
            signal.pause()

    with failpoints.observe(hang):
        assert probe.probe_apart(tmp_path, 0.2).cause == probe.TIMEOUT


@contextlib.contextmanager
def mounted(directory: Path, options: str) -> Iterator[None]:
    directory.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(directory)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_real_disk_without_bytes_inodes_or_permission_to_write_is_told_apart(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=256k,nr_inodes=40,mode=700"):
        home = Home.at(tmp_path / "disk")
        record = make_session(home)
        paths = home.session(record.id)
        filler = tmp_path / "disk" / "filler"
        with open(filler, "wb") as file, contextlib.suppress(OSError):
            file.write(b"x" * (1 << 20))
        assert look(home, record.id).get_finding(Layer.DISK).reason.startswith("full")
        filler.unlink()
        many = []
        with contextlib.suppress(OSError):
            for number in range(100):
                many.append(tmp_path / "disk" / f"n{number}")
                many[-1].touch()
        assert look(home, record.id).get_finding(Layer.DISK).reason.startswith("no inodes")
        for path in many[:-1]:
            path.unlink()
        assert look(home, record.id).get_finding(Layer.DISK).verdict is Verdict.HEALTHY
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        finding = look(home, record.id).get_finding(Layer.DISK)
        assert (finding.verdict, finding.reason.split(":")[0]) == (Verdict.DISK_FAULT, "read-only")
        assert paths.record.exists()


# Strays, under every name of the home

SPELLINGS = {
    "plain": "home",
    "spaces": "my home  dir",
    "glob": "h[om]e*?",
    "emoji": "home-\N{PERSONAL COMPUTER}",
    "NFC": unicodedata.normalize("NFC", "hömé"),
    "NFD": unicodedata.normalize("NFD", "hömé"),
    "newline": "ho\nme",
    "dash": "-home",
}


def by_name(directory: Path) -> str:
    return str(directory)


def by_dots(directory: Path) -> str:
    return f"{directory.parent}/./nowhere/../{directory.name}/"


def by_link(directory: Path) -> str:
    link = directory.parent / "a link"
    if not link.is_symlink():
        link.symlink_to(directory.name)
    return str(link)


def relatively(directory: Path) -> str:
    return os.path.relpath(directory)


@pytest.mark.parametrize("spelling", [by_name, by_dots, by_link, relatively])
@pytest.mark.parametrize("name", SPELLINGS)
def test_every_kind_of_orphan_is_found_under_every_name_of_the_home(
    tmp_path: Path, name: str, spelling: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / SPELLINGS[name]
    directory.mkdir(mode=0o700)
    (tmp_path / "nowhere").mkdir()
    monkeypatch.chdir(tmp_path)
    home = Home.at(spelling(directory))
    try:
        registry = Registry(home)
        # an agent without its keeper
        abandoned = start_session(home)
        kill(abandoned.owner)
        assert look(home, abandoned.id).reason.startswith("agent without keeper")
        # a process without a record, which spells the home in its own way
        deleted = "0000000bbbbb"
        marks = {"CREWKEEP_HOME": spelling(directory), "CREWKEEP_SESSION": deleted, "CREWKEEP_NONCE": "d" * 32}
        lost = start(SLEEP, marks)
        # files without a record: an old directory, an old temporary, and a young one that nobody may touch
        clock = ManualClock(wall=SYSTEM.wall_s() + 3600)
        for stray in ("0000000ccccc", ".0000000ddddd.tmp-0a0a0a0a0a0a", "0000000yyyyy"):
            (home.sessions / stray / "checkpoints").mkdir(parents=True)
            (home.sessions / stray / "heartbeat").write_bytes(b"x")
        os.utime(home.sessions / "0000000yyyyy" / "heartbeat", (clock.wall, clock.wall))
        # a record without anything
        lonely = registry.create(
            name="lonely",
            workspace="shop",
            hosting=abandoned.hosting,
            launch=registry.get_launch(abandoned.id),
            restart=abandoned.restart,
        )
        home.session(lonely.id).launch.unlink()

        found = gather_strays(home, clock)
        assert sorted((str(stray.kind), stray.session or "") for stray in found) == [
            ("agent without keeper", abandoned.id),
            ("files without record", ""),
            ("files without record", "0000000ccccc"),
            ("process without record", deleted),
            ("record without anything", lonely.id),
        ]
        assert {stray.pid for stray in found if stray.pid} == {lost.pid, abandoned.agent.pid}  # type: ignore[union-attr]
        late = diagnose(gather(home, registry, lonely.id, clock))
        assert late.get_finding(Layer.ORPHAN).reason == "record without anything"
        kill(lost)
        assert OrphanKind.PROCESS_WITHOUT_RECORD not in {stray.kind for stray in gather_strays(home, clock)}
    finally:
        end_home_processes(home)


def test_a_home_that_was_deleted_and_made_again_has_no_memory(home: Home) -> None:
    record = start_session(home)
    shutil.rmtree(home.path)
    assert len(gather_strays(home)) == 1
    home.path.mkdir(mode=0o700)
    (stray,) = gather_strays(home)
    assert (stray.kind, stray.session) == (OrphanKind.PROCESS_WITHOUT_RECORD, record.id)


def test_two_homes_do_not_see_each_other(home: Home, tmp_path: Path) -> None:
    other = Home.at(tmp_path / "home2")
    other.path.mkdir(mode=0o700)
    start({"argv": SLEEP}["argv"], {"CREWKEEP_HOME": str(home.path), "CREWKEEP_SESSION": "0000000bbbbb"})
    assert gather_strays(other) == []
    assert len(gather_strays(home)) == 1


def test_processes_that_outlive_an_ended_session_show_in_its_diagnosis(home: Home) -> None:
    record = start_session(home)
    Registry(home).change(
        record.id, epoch=1, change=lambda known: dataclasses.replace(known, phase=Phase.ENDED, outcome=Outcome.DONE)
    )
    kill(record.owner)
    assert look(home, record.id).verdict is Verdict.ORPHANED


def test_a_person_in_a_shell_of_a_session_is_no_stray(home: Home) -> None:
    record = start_dead_session(home)
    start(
        (sys.executable, "-c", "import time; time.sleep(1000)"), {"CREWKEEP_HOME": str(home.path), "CREWKEEP_SESSION": record.id}
    )
    start(SLEEP, {"CREWKEEP_HOME": str(home.path)})
    assert gather_strays(home) == []


def test_what_is_absent_and_need_not_be_there_is_not_told(home: Home) -> None:
    record = make_session(home)
    sights = {sight.name: sight.presence for sight in gather(home, Registry(home), record.id).files}
    assert sights["conversation"] is Presence.ABSENT
    assert sights["heartbeat"] is Presence.ABSENT
