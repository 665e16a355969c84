"""At most one incarnation can act: of many recoverers one wins, and who was stopped meanwhile is refused everything."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from session_support import make_session
from support import make_environment, wait_until

from coordinator.context import SharedContext
from coordinator.errors import Busy, Superseded
from coordinator.paths import Home
from coordinator.sessions.fence import fenced
from coordinator.sessions.heartbeat import HeartbeatFile, Progress
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Phase
from coordinator.sessions.registry import Registry
from coordinator.system.processes import boot_id, identify_self

WORKER = Path(__file__).with_name("epoch_worker.py")


@contextmanager
def worker(home: Home, act: str, what: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready."""
    process = subprocess.Popen(
        [sys.executable, str(WORKER), act, str(home.path), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=make_environment(home, {"PYTHONPATH": str(WORKER.parents[2])}),
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def release(process: subprocess.Popen[str]) -> str:
    """Let it act; return what it said."""
    said, _ = process.communicate("go\n", timeout=30)
    return said.strip()


def release_all(home: Home, act: str, what: str, count: int) -> list[str]:
    with ExitStack() as stack:
        processes = [stack.enter_context(worker(home, act, what)) for _ in range(count)]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        return [process.communicate(timeout=30)[0].strip() for process in processes]


def test_of_64_recoverers_at_once_exactly_one_wins(home: Home) -> None:
    registry = Registry(home)
    for _ in range(5):
        record = make_session(home)
        gate, outcomes = threading.Barrier(64), []

        def recover(session_id: str = record.id, gate: threading.Barrier = gate, outcomes: list[int] = outcomes) -> None:
            gate.wait()
            try:
                outcomes.append(Registry(home).raise_epoch(session_id, expected=1, reason="x", by=identify_self()).epoch)
            except Superseded as error:
                outcomes.append(-error.current_epoch)

        threads = [threading.Thread(target=recover) for _ in range(64)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [-2] * 63 + [2]
        found = registry.get(record.id)
        assert (found.epoch, found.phase, found.unreaped_nonces) == (2, Phase.RECOVERING, (record.nonce,))


def test_of_many_recovering_processes_exactly_one_wins(home: Home) -> None:
    record = make_session(home)
    assert sorted(release_all(home, "raise", record.id, 12)) == ["lost"] * 11 + ["won 2"]
    assert Registry(home).get(record.id).epoch == 2


def test_of_many_creators_of_one_name_one_starts_and_the_others_are_refused(home: Home) -> None:
    assert sorted(release_all(home, "create", "auth", 8)) == ["created"] + ["refused"] * 7
    assert [found.name for found in Registry(home).list_all()] == ["auth"]  # type: ignore[union-attr]


def test_a_stopped_writer_continued_after_a_raise_is_refused_everything(home: Home) -> None:
    registry = Registry(home)
    record = make_session(home)
    context = SharedContext.open(home.context("shop"))
    with worker(home, "write", record.id) as process:
        os.kill(process.pid, signal.SIGSTOP)
        raised = registry.raise_epoch(record.id, expected=1, reason="it hung", by=identify_self())
        context.fence(record.id, raised.epoch)
        new = HeartbeatFile(home.session(record.id).heartbeat)
        new.write(Progress().make_beat(session=record.id, epoch=2, seq=1, boot_id=boot_id()))
        os.kill(process.pid, signal.SIGCONT)
        said = release(process).split()
    assert said == [f"{name}:superseded" for name in ("record", "journal", "heartbeat", "context", "epoch")]
    assert registry.get(record.id) == raised
    entry = context.get("k")
    assert entry is not None
    assert entry.value == "mine"
    assert "late" not in [entry.kind for entry in Journal(home.session(record.id)).read().entries]
    context.close()
    new.close()


def test_a_recoverer_that_dies_in_the_middle_leaves_the_session_to_the_next(home: Home) -> None:
    registry = Registry(home)
    for place in ("registry.journal", "journal.append", "registry.record", "files.rename", "registry.written"):
        record = make_session(home)
        environment = make_environment(home, {"PYTHONPATH": str(WORKER.parents[2]), "CREWKEEP_FAILPOINTS": f"{place}=kill"})
        done = subprocess.run(
            [sys.executable, str(WORKER), "raise", str(home.path), record.id],
            env=environment,
            input="go\n",
            text=True,
            timeout=30,
        )
        assert done.returncode == -signal.SIGKILL, place
        found = registry.get(record.id)
        assert found.epoch in (1, 2)
        raised = registry.raise_epoch(record.id, expected=found.epoch, reason="again", by=identify_self())
        assert raised.epoch == found.epoch + 1
        assert record.nonce in raised.unreaped_nonces


def test_a_stopped_holder_of_the_lock_makes_others_busy_not_wrong(home: Home) -> None:
    record = make_session(home)
    environment = make_environment(home, {"PYTHONPATH": str(WORKER.parents[2]), "CREWKEEP_FAILPOINTS": "registry.journal=pause"})
    process = subprocess.Popen(
        [sys.executable, str(WORKER), "raise", str(home.path), record.id],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()

        def is_stopped() -> bool:
            return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

        wait_until(is_stopped, what="the holder to stop")
        with pytest.raises(Busy), fenced(home.session(record.id), 1, timeout_s=0.1):
            pass
        os.kill(process.pid, signal.SIGCONT)
        assert process.communicate(timeout=30)[0].split()[-2:] == ["won", "2"]
    finally:
        process.kill()
        process.communicate()
