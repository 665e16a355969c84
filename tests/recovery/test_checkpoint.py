"""Checkpoints: what they hold, in which order they are believed, and who may take one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from coordinator.config import CHECKPOINTS_KEPT
from coordinator.errors import Damaged, InvalidInput, NotFound, Superseded
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import Hosting, LaunchSpec, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints, files
from coordinator.system.processes import identify_self
from recovery import checkpoint, gitstate, quarantine
from recovery.checkpoint import KEEP, find_newest_whole, get_checkpoint, list_checkpoints, read_json, read_part, take_checkpoint
from recovery.transcript import TranscriptState, look_at_transcript


@pytest.fixture
def launch(tmp_path: Path) -> LaunchSpec:
    (tmp_path / "work").mkdir()
    return LaunchSpec(argv=("worker", "--fast"), cwd=str(tmp_path / "work"), environment={"LANG": "C"}, permission_mode="ask")


@pytest.fixture
def record(home: Home, launch: LaunchSpec) -> SessionRecord:
    return Registry(home).create(name="worker", workspace="shop", hosting=Hosting.KEEPER, launch=launch, restart=Restart.ON_CRASH)


def talk(tmp_path: Path, lines: int = 3, name: str = "talk.jsonl") -> Conversation:
    path = tmp_path / name
    path.write_text("".join(json.dumps({"line": number}) + "\n" for number in range(lines)))
    return Conversation(agent="codex", id="c-1", transcript=str(path))


def test_a_checkpoint_holds_what_it_takes_to_start_again(
    home: Home, record: SessionRecord, launch: LaunchSpec, tmp_path: Path
) -> None:
    saved = take_checkpoint(
        home,
        record,
        launch,
        conversation=talk(tmp_path),
        state={"cursor": 41},
        revisions={0: 7},
        output_bytes=99,
        cwd="/",
        why="timer",
    )
    (found,) = list_checkpoints(home.session(record.id))
    assert found.whole
    assert found.manifest == saved
    assert [part.name for part in saved.parts] == ["launch", "conversation", "transcript", "state", "context", "output"]
    told = read_json(found, "launch")
    assert (told["argv"], told["permission_mode"], told["restart"]) == (["worker", "--fast"], "ask", "on-crash")
    assert read_json(found, "state") == {"cursor": 41}
    assert read_json(found, "context") == {"workspace": "shop", "revisions": {"0": 7}}
    assert read_json(found, "output") == {"output_bytes": 99, "cwd": "/"}
    assert read_part(found, "transcript") == (tmp_path / "talk.jsonl").read_bytes()
    assert read_part(found, "nothing-like-it") is None
    assert set(found.encode()) >= {"number", "at", "epoch", "bytes", "whole", "parts"}


def test_state_that_nobody_gave_again_is_taken_over(home: Home, record: SessionRecord, launch: LaunchSpec) -> None:
    take_checkpoint(home, record, launch, state=[1, 2])
    take_checkpoint(home, record, launch, state=KEEP)
    take_checkpoint(home, record, launch)
    newest = find_newest_whole(home.session(record.id))
    assert newest is not None
    assert (newest.number, read_json(newest, "state")) == (3, [1, 2])


@pytest.mark.parametrize("state", [float("nan"), {1: 2}, "\ud800", {"a": object()}])
def test_state_that_is_not_json_is_refused_and_nothing_is_written(
    home: Home, record: SessionRecord, launch: LaunchSpec, state: Any
) -> None:
    with pytest.raises(InvalidInput):
        take_checkpoint(home, record, launch, state=state)
    assert not home.session(record.id).checkpoints.exists()


@pytest.mark.parametrize("lost", [None, b"", bytes(5000)])
def test_a_lost_transcript_never_replaces_a_saved_one(
    home: Home, record: SessionRecord, launch: LaunchSpec, tmp_path: Path, lost: bytes | None
) -> None:
    conversation = talk(tmp_path)
    good = (tmp_path / "talk.jsonl").read_bytes()
    take_checkpoint(home, record, launch, conversation=conversation)
    (tmp_path / "talk.jsonl").unlink()
    if lost is not None:
        (tmp_path / "talk.jsonl").write_bytes(lost)
    take_checkpoint(home, record, launch, conversation=conversation)
    newest = find_newest_whole(home.session(record.id))
    assert newest is not None
    assert newest.manifest is not None
    assert newest.number == 2
    assert read_part(newest, "transcript") == good
    assert newest.manifest.notes
    other = dataclasses.replace(conversation, id="c-2")
    assert take_checkpoint(home, record, launch, conversation=other).find_part("transcript") is None


def test_only_whole_lines_of_a_transcript_are_saved(
    home: Home, record: SessionRecord, launch: LaunchSpec, tmp_path: Path
) -> None:
    conversation = talk(tmp_path)
    good = (tmp_path / "talk.jsonl").read_bytes()
    (tmp_path / "talk.jsonl").write_bytes(good + b'{"line": 3, "te')
    take_checkpoint(home, record, launch, conversation=conversation)
    (found,) = list_checkpoints(home.session(record.id))
    assert read_part(found, "transcript") == good


@pytest.mark.parametrize(
    ("data", "state", "whole_bytes"),
    [
        (b'{"a":1}\n{"b":2}\n', TranscriptState.WHOLE, 16),
        (b'{"a":1}\n{"b":2}', TranscriptState.WHOLE, 15),
        (b'{"a":1}\n{"b":', TranscriptState.TORN, 8),
        (b'{"a":1}\n{"b":\n', TranscriptState.TORN, 8),
        (b'{"a":1}\n\0\0\0\0', TranscriptState.ZERO_TAIL, 8),
        (b'{"a":1}\n{"b\0\0', TranscriptState.ZERO_TAIL, 8),
        (bytes(100_000), TranscriptState.ZERO_FILLED, 0),
        (b"", TranscriptState.EMPTY, 0),
        (b'{"a":1', TranscriptState.TORN, 0),
        (b'{"a":1}\n' + b'{"b":"' + b"x" * 200_000, TranscriptState.TORN, 8),
        (b'{"a":1}\n' + b'{"b":"' + b"x" * 200_000 + b'"}\n', TranscriptState.WHOLE, 200_017),
    ],
)
def test_the_end_of_a_transcript_tells_its_state(tmp_path: Path, data: bytes, state: TranscriptState, whole_bytes: int) -> None:
    path = tmp_path / "talk.jsonl"
    path.write_bytes(data)
    sight = look_at_transcript(path)
    assert (sight.state, sight.whole_bytes) == (state, whole_bytes)


def test_a_transcript_that_cannot_be_read_is_told_from_a_missing_one(tmp_path: Path) -> None:
    assert look_at_transcript(tmp_path / "none.jsonl").state is TranscriptState.MISSING
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert look_at_transcript(tmp_path / "pipe.jsonl").state is TranscriptState.UNREADABLE
    assert look_at_transcript("nul\0.jsonl").state is TranscriptState.UNREADABLE


def test_an_older_incarnation_cannot_take_a_checkpoint(home: Home, record: SessionRecord, launch: LaunchSpec) -> None:
    Registry(home).raise_epoch(record.id, expected=1, reason="test", by=identify_self())
    with pytest.raises(Superseded):
        take_checkpoint(home, record, launch)
    assert os.listdir(home.session(record.id).checkpoints) == []


def test_one_that_is_superseded_while_it_fills_its_checkpoint_is_refused(
    home: Home, record: SessionRecord, launch: LaunchSpec
) -> None:
    def supersede(name: str) -> None:
        if name == "checkpoint.filled":
            Registry(home).raise_epoch(record.id, expected=1, reason="test", by=identify_self())

    with failpoints.observe(supersede), pytest.raises(Superseded):
        take_checkpoint(home, record, launch)
    assert os.listdir(home.session(record.id).checkpoints) == []


def test_two_processes_of_one_incarnation_never_get_one_number(home: Home, record: SessionRecord, launch: LaunchSpec) -> None:
    nested: list[object] = []

    def take_another(name: str) -> None:
        if name == "checkpoint.filled" and not nested:
            nested.append(None)
            nested[0] = take_checkpoint(home, record, launch, state="inner")

    with failpoints.observe(take_another):
        outer = take_checkpoint(home, record, launch, state="outer")
    states = {one.number: read_json(one, "state") for one in list_checkpoints(home.session(record.id))}
    assert states == {1: "inner", 2: "outer"}
    assert outer.number == 2


def test_the_newest_are_kept(home: Home, record: SessionRecord, launch: LaunchSpec) -> None:
    for number in range(CHECKPOINTS_KEPT + 3):
        take_checkpoint(home, record, launch, state=number)
    assert [one.number for one in list_checkpoints(home.session(record.id))] == list(range(13, 3, -1))


def test_a_damaged_checkpoint_is_set_aside_and_its_number_is_not_used_again(
    home: Home, record: SessionRecord, launch: LaunchSpec
) -> None:
    paths = home.session(record.id)
    for state in ("first", "second"):
        take_checkpoint(home, record, launch, state=state)
    (paths.checkpoints / "00000002" / "state").write_bytes(b'"SECOND"')
    assert [(one.number, one.whole, one.damage) for one in list_checkpoints(paths)] == [
        (2, False, "state: wrong-digest"),
        (1, True, ""),
    ]
    assert checkpoint.quarantine_damaged(home, record.id) == ["checkpoint 2 set aside (state: wrong-digest)"]
    assert checkpoint.quarantine_damaged(home, record.id) == []
    (thing,) = quarantine.list_quarantined(home, record.id)
    assert "state: wrong-digest" in thing.reason
    assert (thing.path / "state").read_bytes() == b'"SECOND"'
    assert take_checkpoint(home, record, launch).number == 3
    quarantine.reinstate(thing, paths.checkpoints / "00000002")
    assert get_checkpoint(paths, 2).damage == "state: wrong-digest"
    with pytest.raises(Damaged):
        read_part(get_checkpoint(paths, 2), "state")


def test_a_checkpoint_of_a_newer_crewkeep_is_left_alone(home: Home, record: SessionRecord, launch: LaunchSpec) -> None:
    paths = home.session(record.id)
    take_checkpoint(home, record, launch, state=1)
    take_checkpoint(home, record, launch, state=2)
    from coordinator import sealed

    files.replace_durably(paths.checkpoints / "00000002" / "manifest.json", sealed.encode_sealed("checkpoint", 99, {"x": 1}))
    newest, before = list_checkpoints(paths)
    assert (newest.whole, newest.too_new, before.whole) == (False, True, True)
    assert checkpoint.quarantine_damaged(home, record.id) == []
    assert (paths.checkpoints / "00000002").is_dir()


def test_two_swapped_checkpoints_are_both_refused(home: Home, record: SessionRecord, launch: LaunchSpec) -> None:
    paths = home.session(record.id)
    for state in range(3):
        take_checkpoint(home, record, launch, state=state)
    (paths.checkpoints / "00000003").rename(paths.checkpoints / "aside")
    (paths.checkpoints / "00000002").rename(paths.checkpoints / "00000003")
    (paths.checkpoints / "aside").rename(paths.checkpoints / "00000002")
    assert [(one.number, one.whole) for one in list_checkpoints(paths)] == [(3, False), (2, False), (1, True)]


def test_a_checkpoint_that_is_not_there_is_not_found(home: Home, record: SessionRecord) -> None:
    with pytest.raises(NotFound):
        get_checkpoint(home.session(record.id), 4)


# Git


@pytest.fixture
def repository(launch: LaunchSpec) -> Path:
    path = Path(launch.cwd)
    git(path, "init", "-q", "-b", "main")
    (path / "tracked").write_text("one\n")
    (path / ".gitignore").write_text("ignored\n")
    git(path, "add", "-A")
    git(path, "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "first")
    return path


def git(path: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=path, capture_output=True, text=True, check=True).stdout


def test_uncommitted_and_untracked_files_are_saved_without_touching_index_or_work_tree(
    home: Home, record: SessionRecord, launch: LaunchSpec, repository: Path
) -> None:
    (repository / "tracked").write_text("two\n")
    (repository / "new file [*] ä\n").write_text("new\n")
    (repository / "ignored").write_text("secret\n")
    (repository / "staged").write_text("staged\n")
    git(repository, "add", "staged")
    hook = repository / ".git" / "hooks" / "reference-transaction"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch {repository}/hook-ran\n")
    hook.chmod(0o755)
    index, status = (repository / ".git" / "index").read_bytes(), git(repository, "status", "--porcelain", "-z")
    index = (repository / ".git" / "index").read_bytes()
    take_checkpoint(home, record, launch)
    assert (repository / ".git" / "index").read_bytes() == index
    assert git(repository, "status", "--porcelain", "-z") == status
    assert not (repository / "hook-ran").exists()
    (found,) = list_checkpoints(home.session(record.id))
    state = gitstate.GitState.decode(read_json(found, "git"))
    assert state.note is None
    assert state.branch == "main"
    assert state.commit == git(repository, "rev-parse", "HEAD").strip()
    assert state.ref == f"refs/crewkeep/{record.id}/1"
    names = git(repository, "ls-tree", "-r", "-z", "--name-only", state.ref).split("\0")
    assert set(filter(None, names)) == {".gitignore", "tracked", "staged", "new file [*] ä\n"}
    assert git(repository, "show", f"{state.ref}:tracked") == "two\n"


def test_refs_go_with_their_checkpoints_and_a_clean_work_tree_needs_none(
    home: Home, record: SessionRecord, launch: LaunchSpec, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def list_refs() -> list[str]:
        return git(repository, "for-each-ref", "--format=%(refname)", "refs/crewkeep").split()

    take_checkpoint(home, record, launch)
    state = gitstate.capture(repository, record.id, 99)
    assert state is not None
    assert (state.commit, state.ref) == (git(repository, "rev-parse", "HEAD").strip(), None)
    assert list_refs() == []
    monkeypatch.setattr(checkpoint, "CHECKPOINTS_KEPT", 2)
    (repository / "new").write_text("new\n")
    for _ in range(3):
        take_checkpoint(home, record, launch)
    assert list_refs() == [f"refs/crewkeep/{record.id}/{number}" for number in (3, 4)]
    (home.session(record.id).checkpoints / "00000004" / "manifest.json").write_bytes(b"")
    assert checkpoint.quarantine_damaged(home, record.id), "one is set aside, with its ref"
    (state,) = checkpoint.list_git_states(home.session(record.id))
    gitstate.forget_session(state.top, record.id)
    assert list_refs() == [], "a session that is removed leaves none"


def test_a_repository_without_commits_a_conflict_and_a_removed_file_are_saved_too(tmp_path: Path, repository: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    git(empty, "init", "-q")
    (empty / "a").write_text("a")
    state = gitstate.capture(empty, "s", 1)
    assert state is not None
    assert (state.commit, state.note) == (None, None)
    assert git(empty, "ls-tree", "--name-only", "refs/crewkeep/s/1") == "a\n"
    (repository / "tracked").unlink()
    state = gitstate.capture(repository, "s", 1)
    assert state is not None
    assert git(repository, "ls-tree", "--name-only", "refs/crewkeep/s/1") == ".gitignore\n"


def test_what_is_too_big_is_left_out_and_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitstate, "GIT_FILE_LIMIT_BYTES", 10)
    (repository / "big").write_text("x" * 11)
    state = gitstate.capture(repository, "s", 1)
    assert state is not None
    assert state.left_out == ("big",)


def test_git_that_is_too_slow_or_missing_costs_a_checkpoint_nothing_but_its_git_part(
    home: Home, record: SessionRecord, launch: LaunchSpec, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text('#!/bin/sh\ncase "$*" in *show-toplevel*) pwd;; *) exec sleep 60;; esac\n')
    slow.chmod(0o755)
    monkeypatch.setattr(gitstate, "GIT_TIMEOUT_S", 0.3)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    take_checkpoint(home, record, launch)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing-here"))
    take_checkpoint(home, record, launch)
    newest, before = list_checkpoints(home.session(record.id))
    assert newest.whole
    assert read_json(newest, "git") is None
    assert "longer than" in read_json(before, "git")["note"]


def test_a_directory_outside_git_has_no_git_part(tmp_path: Path) -> None:
    assert gitstate.capture(tmp_path, "s", 1) is None
    assert gitstate.capture(tmp_path / "missing", "s", 1) is None
