"""Checkpoints under fire: death at every step, every errno, every cut and every flipped bit."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import Hosting, LaunchSpec, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints
from recovery.checkpoint import (
    find_newest_whole,
    get_checkpoint,
    list_checkpoints,
    quarantine_damaged,
    read_json,
    take_checkpoint,
)

TAKE_ANOTHER = """
import sys
from coordinator.paths import Home
from coordinator.sessions.registry import Registry
from recovery.checkpoint import take_checkpoint
home, session = Home.at(sys.argv[1]), sys.argv[2]
registry = Registry(home)
take_checkpoint(home, registry.get(session), registry.get_launch(session), state="after")
print("acknowledged", flush=True)
"""


@pytest.fixture
def launch(tmp_path: Path) -> LaunchSpec:
    return LaunchSpec(argv=("worker",), cwd=str(tmp_path), environment={})


@pytest.fixture
def record(home: Home, launch: LaunchSpec) -> SessionRecord:
    record = Registry(home).create(
        name="worker", workspace="shop", hosting=Hosting.KEEPER, launch=launch, restart=Restart.ON_CRASH
    )
    take_checkpoint(home, record, launch, state="before")
    return record


def list_hits(home: Home, record: SessionRecord, launch: LaunchSpec) -> list[str]:
    """Return every place that taking a checkpoint passes, in order."""
    hits: list[str] = []
    with failpoints.observe(hits.append):
        take_checkpoint(home, record, launch, state="probe")
    shutil.rmtree(home.session(record.id).checkpoints / "00000002")
    return hits


def test_a_taker_killed_at_any_place_leaves_the_old_checkpoint_or_the_new_one(
    home: Home, record: SessionRecord, launch: LaunchSpec
) -> None:
    paths = home.session(record.id)
    hits = list_hits(home, record, launch)
    assert {"checkpoint.part", "checkpoint.filled", "checkpoint.rename", "checkpoint.promoted", "files.fsync"} <= set(hits)
    # Every place once at its first hit and once at its last: a kill in between is one of the two for the reader.
    places = {(name, nth) for name in set(hits) for nth in (1, hits.count(name))}
    for name, nth in sorted(places):
        taker = subprocess.run(
            [sys.executable, "-c", TAKE_ANOTHER, str(home.path), record.id],
            env={**os.environ, "CREWKEEP_FAILPOINTS": f"{name}=kill@{nth}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert taker.returncode == -signal.SIGKILL, f"{name}@{nth}: {taker.stderr}"
        newest = find_newest_whole(paths, deep=True)
        assert newest is not None
        assert read_json(newest, "state") in ("before", "after"), name
        assert all(one.whole for one in list_checkpoints(paths)), name
        # and the next taker is not in the way of what is left
        taken = take_checkpoint(home, record, launch, state="before")
        assert get_checkpoint(paths, taken.number, deep=True).whole


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE])
def test_any_error_at_any_place_leaves_the_checkpoints_as_they_were(
    home: Home, record: SessionRecord, launch: LaunchSpec, code: int
) -> None:
    paths = home.session(record.id)
    hits = list_hits(home, record, launch)
    for index, place in enumerate(hits):
        count = 0

        def fail(name: str, index: int = index, code: int = code) -> None:
            nonlocal count
            count += 1
            if count == index + 1:
                raise OSError(code, os.strerror(code), name)

        before = sorted(one.number for one in list_checkpoints(paths))
        refused: CrewkeepError | None = None
        with failpoints.observe(fail):
            try:
                take_checkpoint(home, record, launch, state="after")
            except CrewkeepError as error:
                refused = error
        after = sorted(one.number for one in list_checkpoints(paths))
        assert all(one.whole for one in list_checkpoints(paths)), place
        leftovers = [name for name in os.listdir(paths.checkpoints) if not name.isdigit()]
        assert leftovers == [], place
        if refused is None:
            assert after[-1] > before[-1], place
        else:
            assert getattr(refused, "errno", code) == code, place
            # After the rename it is there, but not proven durable, so it was not acknowledged: both answers are right.
            assert after == before or index > hits.index("checkpoint.rename"), place


def build_rich(home: Home, record: SessionRecord, launch: LaunchSpec, tmp_path: Path) -> Path:
    """Take a checkpoint with every part; return its directory."""
    transcript = tmp_path / "talk.jsonl"
    transcript.write_text('{"line": 1}\n')
    conversation = Conversation(agent="codex", id="c", transcript=str(transcript))
    taken = take_checkpoint(home, record, launch, conversation=conversation, state={"cursor": 1}, revisions={0: 1})
    return home.session(record.id).checkpoints / f"{taken.number:08d}"


def test_every_truncation_of_every_file_is_detected(
    home: Home, record: SessionRecord, launch: LaunchSpec, tmp_path: Path
) -> None:
    directory, paths = build_rich(home, record, launch, tmp_path), home.session(record.id)
    for path in sorted(directory.iterdir()):
        data = path.read_bytes()
        for length in range(len(data)):
            path.write_bytes(data[:length])
            assert not get_checkpoint(paths, 2).whole, (path.name, length)
        path.write_bytes(data + b"\n")
        assert not get_checkpoint(paths, 2).whole, path.name
        path.write_bytes(bytes(len(data)))
        assert not get_checkpoint(paths, 2).whole, path.name
        path.unlink()
        assert not get_checkpoint(paths, 2).whole, path.name
        assert (found := find_newest_whole(paths)) is not None
        assert found.number == 1
        path.write_bytes(data)
    assert get_checkpoint(paths, 2).whole


def test_every_flipped_bit_of_every_file_is_detected_or_changes_nothing(
    home: Home, record: SessionRecord, launch: LaunchSpec, tmp_path: Path
) -> None:
    directory, paths = build_rich(home, record, launch, tmp_path), home.session(record.id)
    right = get_checkpoint(paths, 2)
    for path in sorted(directory.iterdir()):
        data = bytearray(path.read_bytes())
        for bit in range(len(data) * 8):
            data[bit // 8] ^= 1 << bit % 8
            path.write_bytes(data)
            found = get_checkpoint(paths, 2)
            assert not found.whole or found == right, (path.name, bit)
            data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)


@pytest.mark.parametrize("what", ["symlink", "directory", "fifo"])
def test_a_part_that_is_no_file_is_refused(
    home: Home, record: SessionRecord, launch: LaunchSpec, tmp_path: Path, what: str
) -> None:
    directory, paths = build_rich(home, record, launch, tmp_path), home.session(record.id)
    for name in ("state", "manifest.json"):
        path, data = directory / name, (directory / name).read_bytes()
        path.unlink()
        if what == "symlink":
            (tmp_path / "elsewhere").write_bytes(data)
            path.symlink_to(tmp_path / "elsewhere")
        elif what == "directory":
            path.mkdir()
        else:
            os.mkfifo(path)
        assert not get_checkpoint(paths, 2).whole, name
        path.rmdir() if what == "directory" else path.unlink()
        path.write_bytes(data)


def test_when_every_checkpoint_is_damaged_there_is_none_and_all_are_kept_as_evidence(
    home: Home, record: SessionRecord, launch: LaunchSpec
) -> None:
    paths = home.session(record.id)
    take_checkpoint(home, record, launch, state="more")
    for one in list_checkpoints(paths):
        (one.path / "launch").write_bytes(b"")
    assert find_newest_whole(paths) is None
    assert len(quarantine_damaged(home, record.id)) == 2
    assert len([name for name in os.listdir(home.quarantine / record.id) if not name.endswith(".reason")]) == 2


def test_a_checkpoint_directory_with_a_foreign_name_is_left_alone(home: Home, record: SessionRecord, launch: LaunchSpec) -> None:
    paths = home.session(record.id)
    for name in ("notes.txt", "0000000a", "000000001", "-0000001"):
        (paths.checkpoints / name).mkdir()
    assert [one.number for one in list_checkpoints(paths)] == [1]
    taken = take_checkpoint(home, record, launch)
    assert taken.number == 2
