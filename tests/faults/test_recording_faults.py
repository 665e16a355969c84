"""A recording under real deaths: killed, stopped and superseded, out of room. Nothing acknowledged is lost or made up."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from session_support import make_session
from support import make_environment, wait_until

from coordinator.paths import Home, SessionPaths
from coordinator.sessions.history import Message
from coordinator.sessions.recorded import Mark, Note, iter_recording
from coordinator.sessions.recording import Recorder
from coordinator.sessions.registry import Registry
from coordinator.sessions.segments import list_segments
from coordinator.system.processes import identify_self

#: Records messages as fast as it can, and says which are acknowledged: their number, in a pipe that outlives it.
WRITER = """
import os, sys
from coordinator.paths import Home
from coordinator.sessions.recording import Recorder
home, session, epoch, name, limit = sys.argv[1:]
recorder = Recorder(Home.at(home).session(session), session, int(epoch), limit_bytes=int(limit))
number = 0
while True:
    number += 1
    text = f"{name}/{number}/" + "x" * (number % 50)
    try:
        recorder.record_message("user", text)
    except Exception as error:
        os.write(1, f"{type(error).__name__} {getattr(error, 'cause', '')}\\n".encode())
        break
    os.write(1, f"{number}\\n".encode())
"""


class Writers:
    """Real processes that record for one session."""

    def __init__(self, home: Home, directory: Path) -> None:
        self.home, self.directory = home, directory
        self.id = make_session(home, "busy").id
        self.paths: SessionPaths = home.session(self.id)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, epoch: int = 1, limit_bytes: int = 64 << 20, limit: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-c", WRITER, str(self.home.path), self.id, str(epoch), name, str(limit_bytes)]
        if limit:
            command = ["sh", "-c", f'{limit}; exec "$@"', "sh", *command]
        environment = make_environment(self.home)
        output: IO[bytes]
        with open(self.directory / name, "wb") as output:
            self.processes[name] = subprocess.Popen(command, stdout=output, env=environment)
        return self.processes[name]

    def said(self, name: str) -> list[str]:
        return (self.directory / name).read_text(encoding="utf-8").splitlines()

    def acknowledged(self, name: str) -> int:
        return max((int(line) for line in self.said(name) if line.isdecimal()), default=0)

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def numbers(self, name: str) -> list[int]:
        texts = [entry.text for entry in iter_recording(self.paths) if isinstance(entry, Message)]
        return [int(text.split("/")[1]) for text in texts if text.startswith(f"{name}/")]

    def check(self, name: str) -> None:
        """Everything that was acknowledged is there in its order; at most one more, whose acknowledgement was cut off."""
        told, found = self.acknowledged(name), self.numbers(name)
        assert found in (list(range(1, told + 1)), list(range(1, told + 2))), f"{name}: {told} told, {len(found)} found"


@pytest.fixture
def writers(home: Home, tmp_path: Path) -> Writers:
    return Writers(home, tmp_path)


def test_what_was_acknowledged_survives_kill_9(writers: Writers) -> None:
    chance = random.Random(7)
    for round in range(5):
        names = [f"r{round}w{number}" for number in range(2)]
        for name in names:
            writers.start(name)
        goal = chance.randrange(1, 3000)
        for name in names:
            wait_until(lambda name=name, goal=goal: writers.acknowledged(name) >= goal, what="the writer")  # type: ignore[misc]
            writers.kill(name)
        for name in names:
            writers.check(name)
    assert not [entry for entry in iter_recording(writers.paths) if isinstance(entry, Mark)], "a kill tears nothing"


def test_a_limit_on_files_is_one_named_error_and_what_stood_before_is_whole(writers: Writers) -> None:
    process = writers.start("full", limit="ulimit -f 64")  # 64 blocks of 512 or 1024 bytes
    assert process.wait(timeout=20) == 0, "an error, not a signal"
    assert writers.said("full")[-1] in ("StorageError ENOSPC", "StorageError EFBIG")
    writers.check("full")
    recorder = Recorder(writers.paths, writers.id, 1, limit_bytes=64 << 20)
    recorder.record_message("user", "full/0/there is room again")
    recorder.close()
    assert writers.numbers("full")[-1] == 0


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="only root may mount a small disk")
def test_a_disk_that_fills_up_kills_nobody(writers: Writers) -> None:
    writers.paths.recording.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(writers.paths.recording)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no mount here: {mounted.stderr.decode()}")
    try:
        process = writers.start("full")
        assert process.wait(timeout=20) == 0, "an error, not a signal"
        assert writers.said("full")[-1] == "StorageError ENOSPC"
        writers.check("full")
    finally:
        subprocess.run(["umount", str(writers.paths.recording)], check=True)


def test_a_writer_that_was_stopped_while_its_successor_began_records_nothing_more(writers: Writers) -> None:
    old = writers.start("old")
    wait_until(lambda: writers.acknowledged("old") > 100, what="the old writer")
    old.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, old.pid, os.WSTOPPED)
    registry = Registry(writers.home)
    registry.raise_epoch(writers.id, expected=1, reason="test", by=identify_self())
    writers.start("new", epoch=2)
    wait_until(lambda: writers.acknowledged("new") > 100, what="the new writer")
    old.send_signal(signal.SIGCONT)
    assert old.wait(timeout=20) == 0
    writers.kill("new")
    assert writers.said("old")[-1].startswith("Superseded")
    writers.check("old")
    writers.check("new")


def test_whatever_the_moment_no_acknowledged_record_of_either_incarnation_is_lost(writers: Writers) -> None:
    """Epochs are raised under a writer at full speed: acknowledged means kept, refused means gone."""
    registry = Registry(writers.home)
    writers.start("e1")
    for epoch in range(2, 7):
        wait_until(lambda epoch=epoch: writers.acknowledged(f"e{epoch - 1}") > 200, what="the writer")  # type: ignore[misc]
        registry.raise_epoch(writers.id, expected=epoch - 1, reason="test", by=identify_self())
        writers.start(f"e{epoch}", epoch=epoch)
        assert writers.processes[f"e{epoch - 1}"].wait(timeout=20) == 0
    wait_until(lambda: writers.acknowledged("e6") > 200, what="the writer")
    writers.kill("e6")
    for epoch in range(1, 7):
        writers.check(f"e{epoch}")
        assert epoch == 6 or writers.said(f"e{epoch}")[-1].startswith("Superseded")


def test_rotation_under_several_writers_loses_nothing_that_is_kept(writers: Writers) -> None:
    names = [f"w{number}" for number in range(3)]
    for name in names:
        writers.start(name, limit_bytes=1 << 18)
    for name in names:
        wait_until(lambda name=name: writers.acknowledged(name) > 4000, timeout_s=40, what="the writer")  # type: ignore[misc]
    for name in names:
        writers.kill(name)
    size = sum(one.path.stat().st_size for one in list_segments(writers.paths.recording))
    assert size <= (1 << 18) + 3 * (1 << 15)
    marks = [entry for entry in iter_recording(writers.paths) if isinstance(entry, Mark)]
    # A kill in the middle of a write leaves the beginning of a record that nobody was told of.
    torn = [mark for mark in marks if mark.what is Note.DAMAGED and "truncated" in (mark.detail or "")]
    assert len(torn) <= len(names)
    assert [mark.what for mark in marks if mark not in torn] == [Note.DROPPED]
    for name in names:
        found = writers.numbers(name)
        if found:
            assert found == list(range(found[0], found[-1] + 1)) and found[-1] in (
                writers.acknowledged(name),
                writers.acknowledged(name) + 1,
            )


def test_truncation_by_a_stranger_costs_records_but_no_writer(writers: Writers) -> None:
    process = writers.start("cut")
    wait_until(lambda: writers.acknowledged("cut") > 500, what="the writer")
    path = list_segments(writers.paths.recording)[0].path
    os.truncate(path, 0)
    before = writers.acknowledged("cut")
    deadline_s = time.monotonic() + 10
    wait_until(lambda: writers.acknowledged("cut") > before + 100, what="the writer to go on")
    assert time.monotonic() < deadline_s and process.poll() is None
    writers.kill("cut")
    assert writers.numbers("cut")[-1] >= before + 100
