"""A Python program as a session: what is recorded, restored, refused, and how it ends."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest
from session_support import change_session, make_session
from support import make_environment, wait_until

import crewkeep
from coordinator.config import EXIT_SUPERSEDED
from coordinator.context import SharedContext
from coordinator.errors import InvalidInput, NotFound, Refused, StorageError, Superseded, TimedOut
from coordinator.paths import Home
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import Hosting, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.sessions.workspace import workspace_id
from coordinator.system import failpoints
from coordinator.system.processes import identify_self


class NoPatrol:
    """Stands for the link to the patrol where no other process is wanted."""

    made: ClassVar[list[NoPatrol]] = []

    def __init__(self, home: Home, record: SessionRecord, secrets: dict[str, str]) -> None:
        self.record, self.secrets, self.said = record, secrets, []
        NoPatrol.made.append(self)

    def start_thread(self) -> None:
        self.said.append("start")

    def leave(self) -> None:
        self.said.append("leave")

    def close(self) -> None:
        self.said.append("close")


@pytest.fixture
def registry(home: Home, monkeypatch: pytest.MonkeyPatch) -> Registry:
    monkeypatch.setattr("crewkeep.patrol_client.PatrolLink", NoPatrol)
    monkeypatch.setattr(NoPatrol, "made", [])
    monkeypatch.setenv("CREWKEEP_HOME", str(home.path))
    return Registry(home)


def open_as(home: Home, record: SessionRecord) -> SharedContext:
    return SharedContext.open(home.context(workspace_id(record.workspace)), writer=record.writer)


# In this process


def test_a_program_is_a_session_from_start_to_end(home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hunter2")
    with crewkeep.Session.start("planner", workspace="shop", restart="on-crash") as session:
        record = registry.get(session.id)
        assert (record.phase, record.hosting, record.owner) == (Phase.RUNNING, Hosting.PROGRAM, identify_self())
        assert (record.restart, record.workspace, record.started_at is None) == (Restart.ON_CRASH, "shop", False)
        assert registry.get_launch(session.id).argv[0] == sys.executable
        assert session.restored_state is None
        entry = session.context.put("plan/auth", {"step": 1}, expected_version=0)
        assert (entry.author, entry.epoch) == ("planner", 1)
        seen: list[int] = []
        session.watch("plan/", lambda change: seen.append(change.version))
        session.context.put("plan/auth", {"step": 2}, expected_version=1)
        wait_until(lambda: seen == [2], what="the change")
        assert dict(session.view("plan/"))["plan/auth"].value == {"step": 2}
        assert session.checkpoint({"cursor": 41}) == 1
        [link] = NoPatrol.made
        assert link.secrets["SOME_TOKEN"] == "hunter2"
    record = registry.get(session.id)
    assert (record.phase, record.outcome) == (Phase.ENDED, Outcome.DONE)
    assert link.said == ["start", "leave"]
    assert not session.coordinator.is_running
    session.close()
    with pytest.raises(InvalidInput):
        session.checkpoint({})


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (ValueError("bad"), Outcome.FAILED),
        (KeyboardInterrupt(), Outcome.FAILED),
        (SystemExit(3), Outcome.FAILED),
        (SystemExit("message"), Outcome.FAILED),
        (SystemExit(0), Outcome.DONE),
        (SystemExit(None), Outcome.DONE),
    ],
)
def test_how_with_is_left_is_how_the_session_ended(registry: Registry, error: BaseException, outcome: Outcome) -> None:
    with pytest.raises(type(error)), crewkeep.Session.start("planner") as session:
        raise error
    record = registry.get(session.id)
    assert record.outcome is outcome
    assert (record.reason is None) is (outcome is Outcome.DONE)


def test_a_name_that_is_held_is_refused_and_an_unknown_policy_too(registry: Registry) -> None:
    with crewkeep.Session.start("planner"):
        with pytest.raises(Refused):
            crewkeep.Session.start("planner")
        with pytest.raises(Refused):
            crewkeep.Session.resume("planner")
    with pytest.raises(InvalidInput):
        crewkeep.Session.start("other", restart="sometimes")
    with pytest.raises(NotFound):
        crewkeep.Session.resume("nobody")


def test_resuming_brings_back_the_state_at_the_next_epoch_and_fences_the_old(home: Home, registry: Registry) -> None:
    with crewkeep.Session.start("planner", workspace="shop") as session:
        session.checkpoint({"cursor": 1})
        session.checkpoint({"cursor": 2})
        other = session.open_context("other")
        other.put("k", 1, expected_version=0)
        old = registry.get(session.id)
        assert old.other_workspaces == ("other",)
    with crewkeep.Session.resume("planner") as again:
        assert (again.restored_state, again.epoch, again.id) == ({"cursor": 2}, 2, session.id)
        record = registry.get(again.id)
        assert (record.phase, record.restored_from, record.restarts, record.unreaped_nonces) == (Phase.RUNNING, 2, 1, ())
        for workspace in ("shop", "other"):
            with pytest.raises(Superseded):
                open_as(home, dataclasses.replace(old, workspace=workspace)).put("k", 2, unconditional=True)
        assert again.context.put("k", 2, unconditional=True).epoch == 2
    assert registry.get(session.id).outcome is Outcome.DONE


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(home: Home, registry: Registry) -> None:
    with crewkeep.Session.start("planner") as session:
        session.checkpoint({"cursor": 1})
        session.checkpoint({"cursor": 2})
    [newest] = [path for path in home.session(session.id).checkpoints.iterdir() if path.name.endswith("2")]
    (newest / "state").write_bytes(b"")
    with crewkeep.Session.resume("planner") as again:
        assert again.restored_state == {"cursor": 1}
        assert registry.get(again.id).restored_from == 1


def test_a_living_owner_is_not_resumed_over(home: Home, registry: Registry) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        from coordinator.system.processes import identify

        record = change_session(registry, make_session(home, "planner"), phase=Phase.RUNNING, owner=identify(sleeper.pid))
        for stop in (False, True):
            if stop:
                os.kill(sleeper.pid, signal.SIGSTOP)
            with pytest.raises(Refused) as caught:
                crewkeep.Session.resume("planner")
            assert str(sleeper.pid) in caught.value.message
        assert registry.get(record.id) == record
    finally:
        sleeper.kill()
        sleeper.wait()
    with crewkeep.Session.resume("planner") as session:
        assert session.epoch == 2


def test_only_one_of_many_resumers_wins(registry: Registry) -> None:
    with crewkeep.Session.start("planner"):
        pass
    gate, outcomes = threading.Barrier(6), []

    def resume() -> None:
        gate.wait()
        try:
            session = crewkeep.Session.resume("planner")
        except (Superseded, Refused):
            outcomes.append(None)
        else:
            outcomes.append(session)

    threads = [threading.Thread(target=resume) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [session for session in outcomes if session is not None]
    assert [session.epoch for session in winners] == [2]
    winners[0].close()


def test_inside_a_session_the_program_is_that_session(home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput):
        crewkeep.Session.current()
    record = change_session(registry, make_session(home, "auth"), phase=Phase.RUNNING)
    monkeypatch.setenv("CREWKEEP_SESSION", record.id)
    monkeypatch.setenv("CREWKEEP_EPOCH", "1")
    with crewkeep.Session.current() as session, crewkeep.Session.start("auth") as same:
        assert (session.id, same.id, same.epoch) == (record.id, record.id, 1)
        assert session.context.put("k", 1, expected_version=0).author == "auth"
        assert session.checkpoint([1]) == 1
    assert registry.get(record.id) == record, "leaving does not end it"
    assert not home.session(record.id).heartbeat.exists(), "the keeper's heart beats, not ours"
    with crewkeep.Session.start("helper") as helper:
        assert registry.get(helper.id).parent == record.id
    registry.raise_epoch(record.id, expected=1, reason="x", by=identify_self())
    with pytest.raises(Superseded):
        crewkeep.Session.current()


def test_a_program_whose_session_was_removed_can_start_one(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREWKEEP_SESSION", "0" * 12)
    monkeypatch.setenv("CREWKEEP_EPOCH", "1")
    with pytest.raises(NotFound):
        crewkeep.Session.current()
    with crewkeep.Session.start("planner") as session:
        assert registry.get(session.id).parent is None


def test_a_restored_program_gets_its_state_back(home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    with crewkeep.Session.start("planner") as session:
        session.checkpoint({"cursor": 7})
    record = registry.raise_epoch(session.id, expected=1, reason="x", by=identify_self())
    change_session(registry, record, phase=Phase.RUNNING, restored_from=1, hosting=Hosting.KEEPER)
    monkeypatch.setenv("CREWKEEP_SESSION", session.id)
    monkeypatch.setenv("CREWKEEP_EPOCH", "2")
    with crewkeep.Session.start("planner") as again:
        assert (again.restored_state, again.epoch) == ({"cursor": 7}, 2)


def test_a_superseded_session_acts_no_more_and_does_not_end_the_new_one(home: Home, registry: Registry) -> None:
    lost: list[Superseded] = []
    session = crewkeep.Session.start("planner", on_superseded=lost.append)
    raised = registry.raise_epoch(session.id, expected=1, reason="x", by=identify_self())
    wait_until(lambda: lost, what="the news")
    with pytest.raises(Superseded):
        session.checkpoint({})
    with pytest.raises(Superseded):
        session.open_context("other")
    with pytest.raises(Superseded):
        session.close()
    assert registry.get(session.id) == raised


def test_another_workspace_is_in_the_record_before_it_is_opened(home: Home, registry: Registry) -> None:
    with crewkeep.Session.start("planner", workspace="shop") as session:

        def fail(name: str) -> None:
            if name == "registry.record":
                raise OSError(28, "No space left on device")

        with failpoints.observe(fail), pytest.raises((StorageError, OSError)):
            session.open_context("other")
        assert not home.context(workspace_id("other")).exists()
        first, second = session.open_context("other"), session.open_context("other")
        assert first.put("k", 1, expected_version=0).author == "planner"
        assert registry.get(session.id).other_workspaces == ("other",)
        session.open_context("shop")
        assert registry.get(session.id).other_workspaces == ("other",)
    for context in (first, second):
        with pytest.raises(Exception, match="closed"):
            context.get("k")


def test_a_program_without_a_session_writes_without_a_name(home: Home, registry: Registry) -> None:
    context = crewkeep.open_context(workspace="shop")
    entry = context.put("k", 1, expected_version=0)
    assert (entry.author, entry.epoch) == (None, 0)
    context.close()


def test_what_cannot_begin_is_recorded_as_failed(home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StorageError("no", operation="open", path="x", cause="EIO")

    monkeypatch.setattr(SharedContext, "open", fail)
    with pytest.raises(StorageError):
        crewkeep.Session.start("planner")
    record = registry.find("planner")
    assert (record.phase, record.outcome) == (Phase.ENDED, Outcome.FAILED)


def test_closing_does_not_wait_for_what_hangs(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crewkeep.session.SHUTDOWN_TIMEOUT_S", 0.5)
    session = crewkeep.Session.start("planner")
    release, entered = threading.Event(), threading.Event()

    def hang(change: Any) -> None:
        entered.set()
        release.wait(20)

    session.watch("", hang)
    session.context.put("k", 1, unconditional=True)
    assert entered.wait(5)
    before = time.monotonic()
    session.close()
    assert time.monotonic() - before < 3
    assert registry.get(session.id).outcome is Outcome.DONE
    release.set()


def test_an_end_that_cannot_be_written_in_time_is_told(home: Home, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    from coordinator.sessions.fence import session_lock

    monkeypatch.setattr("crewkeep.session.SHUTDOWN_TIMEOUT_S", 0.3)
    session = crewkeep.Session.start("planner")
    with session_lock(home.session(session.id)), pytest.raises(TimedOut):
        session.close()
    wait_until(lambda: registry.get(session.id).phase is Phase.ENDED, what="the end, written late")


# As programs


PROLOGUE = """
import ctypes, os, signal, sys, threading, time
import crewkeep

class NoPatrol:
    def __init__(self, *a): pass
    start_thread = leave = close = lambda self: None

if not os.environ.get("WITH_PATROL"):
    import crewkeep.patrol_client
    crewkeep.patrol_client.PatrolLink = NoPatrol

def lock_twice():
    # A call that no signal interrupts, so that no Python handler runs.
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    library.pthread_mutex_lock(mutex)
    library.pthread_mutex_lock(mutex)

def ready():
    print("ready", flush=True)

"""


class Program:
    """A program of its own, ended after the test."""

    def __init__(self, home: Home, directory: Path, body: str, **environment: str) -> None:
        path = directory / "program.py"
        path.write_text(PROLOGUE + textwrap.dedent(body))
        self.process = subprocess.Popen(
            [sys.executable, str(path)],
            env=make_environment(home, {"PYTHONPATH": os.pathsep.join(sys.path), **environment}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line != "ready\n":
            assert self.process.stderr is not None
            pytest.fail(f"the program did not come up: {line!r} {self.process.stderr.read()}")

    def send(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self, timeout_s: float = 15) -> int:
        return self.process.wait(timeout_s)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("block", ["time.sleep(60)", "threading.Event().wait()", "lock_twice()"])
def test_a_signal_ends_it_in_time_synced_and_recoverable(home: Home, tmp_path: Path, number: int, block: str) -> None:
    body = f"""
    session = crewkeep.Session.start("planner", workspace="shop")
    session.watch("", lambda change: open("seen", "a").write(f"{{change.value}} "))
    session.context.put("k", 1, unconditional=True)
    ready()
    {block}
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        before = time.monotonic()
        program.send(number)
        assert program.wait() == -number
        assert time.monotonic() - before < 5
    record = Registry(home).find("planner")
    assert (record.phase, record.outcome) == (Phase.RUNNING, None), "an interrupted session is never done"
    last = Journal(home.session(record.id)).read().entries[-1]
    assert (last.kind, last.body["by"]) == ("interrupted", signal.Signals(number).name)
    assert (tmp_path / "seen").read_text() == "1 "


def test_a_second_signal_ends_it_at_once(home: Home, tmp_path: Path) -> None:
    body = """
    session = crewkeep.Session.start("planner", workspace="shop")
    def hang(change):
        ready()
        time.sleep(60)
    session.watch("", hang)
    session.context.put("k", 1, unconditional=True)
    time.sleep(60)
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        program.send(signal.SIGTERM)
        # The farewell has begun when the signal's own default action is back in force.
        status = Path(f"/proc/{program.process.pid}/status")
        bit = 1 << (signal.SIGINT - 1)
        caught = lambda: int(status.read_text().split("SigCgt:")[1].split()[0], 16)  # noqa: E731
        wait_until(lambda: not caught() & bit, what="the farewell")
        before = time.monotonic()
        program.send(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM
        assert time.monotonic() - before < 1
    assert Registry(home).find("planner").outcome is None


def test_a_farewell_that_hangs_is_over_after_the_time_there_is(home: Home, tmp_path: Path) -> None:
    body = """
    import crewkeep.shutdown, crewkeep.session
    crewkeep.shutdown.SHUTDOWN_TIMEOUT_S = 0.5
    session = crewkeep.Session.start("planner", workspace="shop")
    session._thread.stop = lambda timeout_s: time.sleep(60)
    ready()
    time.sleep(60)
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        before = time.monotonic()
        program.send(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM
        assert time.monotonic() - before < 4


def test_a_signal_while_it_is_being_stopped_is_the_stop(home: Home, tmp_path: Path) -> None:
    body = """
    session = crewkeep.Session.start("planner")
    ready()
    time.sleep(60)
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        registry = Registry(home)
        change_session(registry, registry.find("planner"), phase=Phase.STOPPING)
        program.send(signal.SIGTERM)
        assert program.wait() == -signal.SIGTERM
    record = registry.find("planner")
    assert (record.phase, record.outcome) == (Phase.ENDED, Outcome.STOPPED)


def test_an_interrupt_ends_it_as_failed(home: Home, tmp_path: Path) -> None:
    body = """
    with crewkeep.Session.start("planner"):
        ready()
        time.sleep(60)
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        program.send(signal.SIGINT)
        assert program.wait() == -signal.SIGINT
    record = Registry(home).find("planner")
    assert (record.outcome, str(record.reason)[:17]) == (Outcome.FAILED, "KeyboardInterrupt")


@pytest.mark.parametrize(
    ("ending", "code", "outcome"),
    [
        ("pass", 0, Outcome.DONE),
        ("raise ValueError('bad')", 1, Outcome.FAILED),
        ("os._exit(0)", 0, None),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, None),
    ],
)
def test_a_program_that_leaves_without_with(home: Home, tmp_path: Path, ending: str, code: int, outcome: Outcome | None) -> None:
    body = f"""
    session = crewkeep.Session.start("planner")
    session.context.put("k", 1, unconditional=True)
    {ending}
    """
    with Program(home, tmp_path, body) as program:
        assert program.wait() == code
    assert Registry(home).find("planner").outcome is outcome


def test_a_fork_of_the_program_is_not_the_session(home: Home, tmp_path: Path) -> None:
    body = """
    session = crewkeep.Session.start("planner")
    child = os.fork()
    if not child:
        session.close()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    child = os.fork()
    if not child:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    assert os.waitpid(child, 0)[1] == signal.SIGTERM
    ready()
    while not os.path.exists("go"):
        time.sleep(0.01)
    session.context.put("k", 1, unconditional=True)
    ready()
    time.sleep(60)
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        record = Registry(home).find("planner")
        assert (record.phase, record.owner is not None) == (Phase.RUNNING, True)
        assert record.owner is not None
        assert record.owner.pid == program.process.pid
        heartbeat = home.session(record.id).heartbeat
        before = heartbeat.read_bytes()
        wait_until(lambda: heartbeat.read_bytes() != before, what="another beat of the parent")
        (tmp_path / "go").touch()
        program.wait_ready()


def test_the_programs_own_handlers_stay_its_own(home: Home, tmp_path: Path) -> None:
    body = """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    with crewkeep.Session.start("planner"):
        ready()
        while True:  # one long sleep would miss a signal that comes just before it
            time.sleep(0.01)
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        program.send(signal.SIGTERM)
        assert program.wait() == 7
    assert Registry(home).find("planner").outcome is Outcome.FAILED


def test_a_stopped_program_that_was_superseded_exits_with_its_own_code(home: Home, tmp_path: Path) -> None:
    body = """
    session = crewkeep.Session.start("planner", workspace="shop")
    ready()
    while not os.path.exists("go"):
        time.sleep(0.005)
    for number in range(1000):
        try:
            session.context.put("k", number, unconditional=True)
        except Exception:
            time.sleep(60)
    """
    with Program(home, tmp_path, body) as program:
        program.wait_ready()
        program.send(signal.SIGSTOP)
        registry = Registry(home)
        record = registry.find("planner")
        raised = registry.raise_epoch(record.id, expected=1, reason="it hung", by=identify_self())
        context = open_as(home, raised)
        context.fence(raised.id, raised.epoch)
        (tmp_path / "go").touch()
        program.send(signal.SIGCONT)
        assert program.wait() == EXIT_SUPERSEDED
        assert context.get("k") is None
        context.close()
    assert registry.get(raised.id) == raised


def test_a_program_with_restart_is_started_again_and_goes_on_from_its_state(home: Home, tmp_path: Path) -> None:
    body = """
    with crewkeep.Session.start("planner", workspace="shop", restart="on-crash") as session:
        state = session.restored_state or {"runs": 0}
        state["runs"] += 1
        session.checkpoint(state)
        session.context.put("runs", state["runs"], unconditional=True)
        if state["runs"] < 3:
            ready()
            time.sleep(60)
    """
    context = SharedContext.open(home.context(workspace_id("shop")))

    def runs() -> int:
        entry = context.get("runs")
        return entry.value if entry else 0

    with Program(home, tmp_path, body, WITH_PATROL="1") as program:
        program.wait_ready()
        registry = Registry(home)
        wait_until(lambda: (home.patrol / "patrol.sock").exists(), what="the patrol", timeout_s=20)
        program.send(signal.SIGKILL)
        wait_until(lambda: runs() == 2, what="the second run", timeout_s=25)
        record = registry.find("planner")
        assert (record.epoch, record.hosting) == (2, Hosting.KEEPER)
        assert record.agent is not None
        os.kill(record.agent.pid, signal.SIGKILL)
        wait_until(lambda: registry.find("planner").outcome is Outcome.DONE, what="the third run to end", timeout_s=25)
    assert runs() == 3
    context.close()
