"""Real processes on one shared context: killed, stopped, forked, fenced. What was acknowledged stays."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import make_environment, wait_until

from coordinator.context import SharedContext
from coordinator.errors import Busy, Superseded
from coordinator.sessions.model import Writer
from coordinator.system.failpoints import observe

WRITERS, UPDATES = 4, 1000

COUNT = """
import os, sys
from coordinator.context import SharedContext, VersionConflict

directory, name, wanted = sys.argv[1], sys.argv[2], int(sys.argv[3])
context = SharedContext.open(directory)
while True:
    entry = context.get("n")
    value, version = (entry.value, entry.version) if entry else ({"total": 0, "by": {}}, 0)
    done = value["by"].get(name, 0)
    if done == wanted:
        break
    value["total"] += 1
    value["by"][name] = done + 1
    try:
        os.write(1, b"ack %d %d\\n" % (context.put("n", value, expected_version=version).version, value["total"]))
    except VersionConflict as error:
        os.write(1, b"met %d %d\\n" % (error.expected_version, error.actual_version))
"""

WRITE = """
import sys
from coordinator.context import SharedContext
from coordinator.errors import CrewkeepError
from coordinator.sessions.model import Writer
from coordinator.system.failpoints import observe

context = SharedContext.open(sys.argv[1], writer=Writer(session="s", name="old", epoch=1))
context.get("k")
print("ready", flush=True)
sys.stdin.readline()
try:
    print("wrote", context.put("k", "late", unconditional=True).version, flush=True)
except CrewkeepError as error:
    print("refused", error.code, flush=True)
"""


@contextmanager
def child(code: str, *arguments: str, failpoints: str = "") -> Iterator[subprocess.Popen[str]]:
    """Run a program with pipes; it is gone afterwards, stopped or not."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=make_environment(None, {"CREWKEEP_FAILPOINTS": failpoints} if failpoints else {}),
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        assert process.returncode is not None


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def wait_stopped(process: subprocess.Popen[str]) -> None:
    def is_stopped() -> bool:
        with open(f"/proc/{process.pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "T"

    wait_until(is_stopped, what="the stop")


@pytest.mark.slow
def test_four_writers_count_exactly_with_kills_in_between(tmp_path: Path) -> None:
    directory = str(tmp_path / "context")
    lines: dict[int, list[list[str]]] = {number: [] for number in range(WRITERS)}
    kills = [0] * WRITERS

    def drive(number: int) -> None:
        chance = random.Random(number)
        while True:
            with child(COUNT, directory, f"w{number}", str(UPDATES)) as process:
                assert process.stdout is not None
                left = chance.randint(20, 200) if kills[number] < 4 else None
                for line in process.stdout:
                    lines[number].append(line.split())
                    if left is not None and (left := left - 1) == 0:
                        process.kill()
                        kills[number] += 1
                if process.wait() == 0:
                    return

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(WRITERS)]
    with SharedContext.open(directory) as context:
        watch = context.watch("n", 0)
        for thread in threads:
            thread.start()
        versions = [change.version for _, change in zip(range(WRITERS * UPDATES), watch, strict=False)]
        for thread in threads:
            thread.join(60)
        entry = context.get("n")
        assert context.check() == []
    assert entry is not None
    assert entry.value == {"total": WRITERS * UPDATES, "by": {f"w{number}": UPDATES for number in range(WRITERS)}}
    assert entry.version == WRITERS * UPDATES
    assert versions == list(range(1, WRITERS * UPDATES + 1)), "the watcher saw each version once, in order"
    acks = [int(line[1]) for mine in lines.values() for line in mine if line[0] == "ack"]
    assert len(acks) == len(set(acks)), "no version was acknowledged twice"
    assert all(line[1] == line[2] for mine in lines.values() for line in mine if line[0] == "ack")
    met = [(int(line[1]), int(line[2])) for mine in lines.values() for line in mine if line[0] == "met"]
    assert all(expected < actual <= entry.version for expected, actual in met), "a refusal names a version that there was"
    assert sum(kills) == 4 * WRITERS


def test_acknowledged_versions_of_one_writer_rise_and_are_seen_by_the_next(tmp_path: Path) -> None:
    """Real time orders the writes: what was acknowledged before another one began is below it."""
    directory = str(tmp_path / "context")
    with SharedContext.open(directory) as context, child(COUNT, directory, "w", "1000000") as process:
        for _ in range(100):
            kind, version, _ = read_line(process).split()
            entry = context.get("n")
            assert entry is not None
            assert kind == "ack"
            assert entry.version >= int(version)


def test_update_loses_nothing_between_processes(tmp_path: Path) -> None:
    code = """
import sys
from coordinator.context import SharedContext, VersionConflict
context = SharedContext.open(sys.argv[1])
for _ in range(100):
    while True:
        try:
            context.update("n", lambda n: (n or 0) + 1)
            break
        except VersionConflict:
            continue
"""
    directory = str(tmp_path / "context")
    with child(code, directory) as one, child(code, directory) as two, child(code, directory) as three:
        assert [process.wait(30) for process in (one, two, three)] == [0, 0, 0]
    with SharedContext.open(directory) as context:
        entry = context.get("n")
        assert entry is not None
        assert (entry.value, entry.version) == (300, 300)


def test_a_stopped_lock_holder_makes_others_busy_and_readers_go_on(tmp_path: Path) -> None:
    directory = str(tmp_path / "context")
    with SharedContext.open(directory, shards=1, lock_timeout_s=0.2) as context:
        context.put("k", "early", unconditional=True)
        with child(WRITE, directory, failpoints="shard.append=pause") as process:
            assert read_line(process) == "ready"
            tell(process)
            wait_stopped(process)
            with pytest.raises(Busy) as caught:
                context.put("k", 1, unconditional=True)
            assert caught.value.fields["holder"] == process.pid
            assert str(process.pid) in caught.value.message
            with SharedContext.open(directory, lock_timeout_s=0.2) as fresh:
                for handle in (context, fresh):
                    entry = handle.get("k")
                    assert entry is not None
                    assert entry.value == "early"
            process.send_signal(signal.SIGCONT)
            assert read_line(process) == "wrote 2"
        assert context.put("k", 2, expected_version=2).version == 3
        assert context.check() == []


@pytest.mark.parametrize(
    ("place", "is_kept"), [("shard.append", False), ("shard.index", True), ("shard.settle", True), ("shard.flush", True)]
)
def test_what_a_writer_killed_on_its_way_left_is_finished_or_written_over(tmp_path: Path, place: str, is_kept: bool) -> None:
    """Nobody was told of the write, so either is right, once it is decided for everybody; nobody sees it before."""
    directory = str(tmp_path / "context")
    with SharedContext.open(directory, shards=1, lock_timeout_s=5) as context:
        context.put("k", "early", unconditional=True)
        with child(WRITE, directory, failpoints=f"{place}=pause@1") as process:
            assert read_line(process) == "ready"
            tell(process)
            wait_stopped(process)
            entry = context.get("k")
            assert entry is not None
            assert entry.value == "early", "shown to nobody before it is durable"
        next_version = 3 if is_kept else 2
        assert context.put("k", "next", unconditional=True).version == next_version
        assert [entry.value for entry in context.history("k")] == ["next", *(["late"] if is_kept else []), "early"]
        assert context.check() == []


def test_a_writer_stopped_before_its_write_meets_the_fence(tmp_path: Path) -> None:
    directory = str(tmp_path / "context")
    with SharedContext.open(directory) as context, child(WRITE, directory) as process:
        assert read_line(process) == "ready"
        process.send_signal(signal.SIGSTOP)
        wait_stopped(process)
        context.fence("s", 2)
        tell(process)
        process.send_signal(signal.SIGCONT)
        assert read_line(process) == "refused superseded"
        assert context.get("k") is None
        context.adopt(Writer(session="s", name="new", epoch=2))
        assert context.put("k", 1, expected_version=0).epoch == 2


@pytest.mark.parametrize("place", ["locks.open", "locks.flock"])
def test_a_writer_stopped_on_its_way_to_the_lock_meets_the_fence(tmp_path: Path, place: str) -> None:
    directory = str(tmp_path / "context")
    with SharedContext.open(directory, shards=1) as context:
        context.put("k", "early", unconditional=True)
        with child(WRITE, directory, failpoints=f"{place}=pause@1") as process:
            assert read_line(process) == "ready"
            tell(process)
            wait_stopped(process)
            context.fence("s", 2)
            process.send_signal(signal.SIGCONT)
            assert read_line(process) == "refused superseded"
        entry = context.get("k")
        assert entry is not None
        assert entry.value == "early"


def test_a_fence_waits_for_a_writer_that_holds_the_lock_and_its_write_comes_before(tmp_path: Path) -> None:
    directory = str(tmp_path / "context")
    with SharedContext.open(directory, shards=1, lock_timeout_s=0.2) as context:
        context.put("k", "early", unconditional=True)
        with child(WRITE, directory, failpoints="shard.append=pause") as process:
            assert read_line(process) == "ready"
            tell(process)
            wait_stopped(process)
            with pytest.raises(Busy):
                context.fence("s", 2)
            process.kill()
            process.wait(10)
            context.fence("s", 2)
        assert [entry.value for entry in context.history("k")] == ["early"]
        context.adopt(Writer(session="s", name="old", epoch=1))
        with pytest.raises(Superseded):
            context.put("k", 1, unconditional=True)


def test_a_handle_works_on_both_sides_of_a_fork(tmp_path: Path) -> None:
    code = """
import os, sys, threading
from coordinator.context import SharedContext
context = SharedContext.open(sys.argv[1], shards=1, lock_timeout_s=5)
context.set_rule("", "sum")
stop = threading.Event()
def work():
    while not stop.wait(0.001):
        context.update("n", delta=1)
        context.get("n")
threads = [threading.Thread(target=work) for _ in range(2)]
for thread in threads:
    thread.start()
for _ in range(20):
    pid = os.fork()
    if pid == 0:
        context.update("forks", delta=1)
        os._exit(0 if context.get("forks") else 1)
    assert os.waitpid(pid, 0)[1] == 0
stop.set()
for thread in threads:
    thread.join()
assert context.get("forks").value == 20
assert context.get("n").value == context.get("n").version
assert context.check() == []
"""
    with child(code, str(tmp_path / "context")) as process:
        assert process.wait(50) == 0


def test_a_watcher_in_another_process_is_woken_at_once(tmp_path: Path) -> None:
    """No benchmark: only that it does not wait for a poll (half a second), median of many."""
    code = """
import sys, time
from coordinator.context import SharedContext
context = SharedContext.open(sys.argv[1])
watch = context.watch("")
print("ready", flush=True)
for change in watch:
    print(time.monotonic() - change.value, flush=True)
"""
    directory = str(tmp_path / "context")
    with SharedContext.open(directory) as context, child(code, directory) as process:
        assert read_line(process) == "ready"
        delays = []
        for _ in range(21):
            context.put("t", time.monotonic(), unconditional=True)
            delays.append(float(read_line(process)))
        assert sorted(delays)[10] < 0.25


def test_nothing_is_inherited_by_programs_that_are_started(tmp_path: Path) -> None:
    with SharedContext.open(tmp_path / "context") as context:
        context.put("a", 1, unconditional=True)
        code = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if int(n) > 2])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, close_fds=False, check=False)
        assert str(tmp_path) not in done.stdout
        assert os.listdir(tmp_path / "context")


def test_stopped_leaders_of_a_flush_hold_nobody_up(tmp_path: Path) -> None:
    """Who leads a flush and is stopped keeps its place; the others do without."""
    directory = str(tmp_path / "context")
    with SharedContext.open(directory, shards=1) as context:
        context.put("k", "early", unconditional=True)
        with (
            child(WRITE, directory, failpoints="shard.flush=pause@1") as one,
            child(WRITE, directory, failpoints="shard.flush=pause@1") as two,
        ):
            for process in (one, two):
                assert read_line(process) == "ready"
                tell(process)
                wait_stopped(process)
            assert context.put("k", "next", unconditional=True).version == 4
            for process in (one, two):
                process.send_signal(signal.SIGCONT)
            assert sorted([read_line(one), read_line(two)]) == ["wrote 2", "wrote 3"]
        assert context.check() == []


def test_a_fence_that_another_has_just_appended_is_durable_before_it_is_told(tmp_path: Path) -> None:
    code = """
import sys
from coordinator.context import SharedContext
context = SharedContext.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
context.fence("s", 5)
print("fenced", flush=True)
"""
    directory = str(tmp_path / "context")
    with SharedContext.open(directory, shards=1) as context:
        context.put("k", 1, unconditional=True)
        with child(code, directory, failpoints="shard.flush=pause@1") as process:
            assert read_line(process) == "ready"
            tell(process)
            wait_stopped(process)
            flushes: list[str] = []
            with observe(lambda name: flushes.append(name) if name == "shard.flush" else None):
                context.fence("s", 5)
            assert flushes, "told without being durable"
