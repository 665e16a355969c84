"""A person's terminal at a session: a real program on a real pseudo-terminal, the keeper's server on the other side."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from support import make_environment, wait_until
from terminal_support import Keeper, running

from coordinator.paths import Home
from coordinator.sessions.model import Hosting, LaunchSpec, Outcome, Phase, Restart, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.processes import identify_self

#: What `crewkeep attach` does, without the command line. Prints how it ended, for the test to read.
ATTACH = """
import sys
from coordinator.paths import Home
from coordinator.sessions.registry import Registry
from crewkeep.terminal.attach import attach
home = Home.at(sys.argv[1])
done = attach(home, Registry(home), sys.argv[2], stdin_fd=0, stdout_fd=1, from_start=sys.argv[3:] == ["start"])
print("\\nRESULT", done.how, done.exit_code, done.signal, file=sys.stderr)
"""


@dataclasses.dataclass
class Stage:
    """A session with a keeper, for people to attach to."""

    home: Home
    registry: Registry
    record: SessionRecord
    keeper: Keeper

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-c", ATTACH, str(self.home.path), self.record.id, *words]

    def change(self, **facts: Any) -> None:
        epoch = self.registry.get(self.record.id).epoch
        self.registry.change(self.record.id, epoch=epoch, change=lambda record: dataclasses.replace(record, **facts))

    @contextlib.contextmanager
    def person(self, *words: str, rows: int = 24, columns: int = 80) -> Iterator[Any]:
        """Attach in a shell's place: a terminal that outlives the program."""
        child = pexpect.spawn(
            self.command(*words)[0],
            self.command(*words)[1:],
            env=make_environment(self.home),
            dimensions=(rows, columns),
            timeout=10,
        )
        try:
            yield child
        finally:
            child.close(force=True)


def make_record(home: Home) -> tuple[Registry, SessionRecord]:
    registry = Registry(home)
    launch = LaunchSpec(argv=("auth",), cwd="/", environment={})
    record = registry.create(name="auth", workspace="/", hosting=Hosting.KEEPER, launch=launch, restart=Restart.NEVER)
    registry.change(record.id, epoch=1, change=lambda known: dataclasses.replace(known, phase=Phase.RUNNING))
    return registry, registry.get(record.id)


@pytest.fixture
def stage(home: Home) -> Iterator[Stage]:
    registry, record = make_record(home)
    with running(home.session(record.id).path) as keeper:
        yield Stage(home=home, registry=registry, record=record, keeper=keeper)


def is_raw(child: Any) -> bool:
    return not termios.tcgetattr(child.child_fd)[3] & termios.ICANON


def test_the_detach_key_is_shown_and_leaves_the_session_running(stage: Stage) -> None:
    with stage.person() as child:
        child.expect_exact("[crewkeep] attached to auth; ctrl-] detaches")
        wait_until(lambda: is_raw(child), what="raw mode")
        stage.keeper.show(b"hello \x1b[31mred\x1b[m\r\n")
        child.expect_exact("hello \x1b[31mred\x1b[m")
        child.send("ls\r\x03\x1a")
        wait_until(lambda: b"".join(stage.keeper.typed) == b"ls\r\x03\x1a", what="the keys")
        child.send("x\x1dy")
        child.expect_exact("RESULT detached None None")
        assert not is_raw(child)
        wait_until(lambda: stage.keeper.typed[-1] == b"x", what="the key before it")
        wait_until(lambda: stage.keeper.call(lambda: stage.keeper.server.attached_count) == 0, what="the detach")


@pytest.mark.parametrize("key", ["\x1b[93;5u", "\x1b[93;69:1u", "\x1b[27;5;93~"])
def test_the_detach_key_is_known_in_other_keyboard_protocols(stage: Stage, key: str) -> None:
    with stage.person() as child:
        child.expect_exact("detaches")
        stage.keeper.show(b"\x1b[>1u")
        child.expect_exact("\x1b[>1u")
        child.send("\x1b[97;5u")
        child.send(key)
        child.expect_exact("\x1b[<1u")
        child.expect_exact("RESULT detached")
    assert b"\x1b[93" not in b"".join(stage.keeper.typed)


MODES = b"\x1b[?1049h\x1b[?1h\x1b=\x1b[?1000h\x1b[?1002h\x1b[?1006h\x1b[?2004h\x1b[?1004h\x1b[?25l\x1b[2;10r\x1b[>1u\x1b[5 q"
PUT_BACK = ["\x1b[<1u", "\x1b>", "\x1b[?1l", "\x1b[?1006l", "\x1b[?2004l", "\x1b[?25h", "\x1b[r", "\x1b[?1049l", "\x1b[m"]


@pytest.mark.parametrize("how", ["detach", "SIGTERM", "SIGHUP", "SIGINT", "end", "keeper gone"])
def test_the_terminal_is_put_back_however_it_ends(stage: Stage, how: str) -> None:
    with stage.person() as child:
        child.expect_exact("detaches")
        stage.keeper.show(MODES + b"drawn")
        child.expect_exact("drawn")
        if how == "detach":
            child.send("\x1d")
        elif how == "end":
            stage.keeper.call(lambda: stage.keeper.server.notify_end({"outcome": "failed", "exit_code": 3, "signal": None}))
        elif how == "keeper gone":
            stage.keeper.call(stage.keeper.server.close)
        else:
            os.kill(child.pid, getattr(signal, how))
        for sequence in PUT_BACK:
            child.expect_exact(sequence)
        if how == "keeper gone":
            child.expect_exact("it has no keeper now; waiting; ctrl-] detaches")
            child.send("\x1d")
        child.expect_exact("RESULT ended 3 None" if how == "end" else "RESULT detached")
        assert not is_raw(child)


def test_the_terminal_is_put_back_after_an_error(home: Home) -> None:
    _, record = make_record(home)
    broken = ATTACH.replace("done = attach(", "import crewkeep.terminal.attach as a\na._Visit._take = None\ndone = attach(")
    with running(home.session(record.id).path):
        child = pexpect.spawn(
            sys.executable, ["-c", broken, str(home.path), record.id], env=make_environment(home), timeout=10, dimensions=(24, 80)
        )
        child.expect_exact("TypeError")
        assert not is_raw(child)
        child.close(force=True)


def test_the_window_follows(stage: Stage) -> None:
    with stage.person(rows=30, columns=100) as child:
        child.expect_exact("detaches")
        wait_until(lambda: stage.keeper.sizes[-1:] == [(30, 100)], what="the first size")
        child.setwinsize(40, 120)
        wait_until(lambda: stage.keeper.sizes[-1] == (40, 120), what="the new size")
        with stage.person(rows=20, columns=140) as second:
            second.expect_exact("detaches")
            wait_until(lambda: stage.keeper.sizes[-1] == (20, 120), what="the smallest")
        wait_until(lambda: stage.keeper.sizes[-1] == (40, 120), what="the one that is left")


def test_one_who_attaches_later_sees_the_present_screen(stage: Stage) -> None:
    stage.keeper.show(b"old\r\n\x1b[?1049h\x1b[H\x1b[2Jframe")
    with stage.person() as child:
        child.expect_exact("detaches")
        child.expect_exact("\x1b[?1049h\x1b[H")
        child.expect_exact("frame")
        assert b"old" not in child.before


def test_it_stays_attached_across_a_recovery(home: Home) -> None:
    registry, record = make_record(home)
    paths = home.session(record.id)
    with running(paths.path) as first:
        stage = Stage(home=home, registry=registry, record=record, keeper=first)
        first.show(b"\x1b[?1049h\x1b[H\x1b[2Jone")
        person = stage.person()
        child = person.__enter__()
        child.expect_exact("detaches")
        child.expect_exact("one")
    try:
        child.expect_exact("\x1b[?1049l")
        child.expect_exact("waiting; ctrl-] detaches")
        registry.raise_epoch(record.id, expected=1, reason="its keeper died", by=identify_self())
        with running(paths.path, epoch=2) as second:
            second.show(b"two\r\n")
            child.expect_exact("session auth runs again (epoch 2)")
            child.expect_exact("two")
            child.send("keys")
            wait_until(lambda: b"".join(second.typed) == b"keys", what="the keys")
            child.send("\x1d")
            child.expect_exact("RESULT detached")
    finally:
        person.__exit__(None, None, None)


def test_an_end_without_a_word_is_read_from_the_record_and_the_log(stage: Stage) -> None:
    with stage.person() as child:
        child.expect_exact("detaches")
        stage.keeper.call(stage.keeper.server.close)
        stage.keeper.output.append(b"last words\r\n")
        stage.change(phase=Phase.ENDED, outcome=Outcome.CRASHED, exit_signal=9)
        child.expect_exact("last words")
        child.expect_exact("RESULT ended None 9")


def test_a_parked_session_is_not_waited_for(stage: Stage) -> None:
    with stage.person() as child:
        child.expect_exact("detaches")
        stage.keeper.call(stage.keeper.server.close)
        stage.change(phase=Phase.PARKED, reason="crash loop")
        child.expect_exact("RESULT parked")


def test_a_session_that_is_over_before_run_attaches_is_shown_whole(stage: Stage) -> None:
    stage.keeper.show(b"hi\x1b[6n\r\n")
    stage.keeper.call(stage.keeper.server.close)
    stage.change(phase=Phase.ENDED, outcome=Outcome.DONE, exit_code=0)
    done = subprocess.run(
        stage.command("start"), env=make_environment(stage.home), stdin=subprocess.DEVNULL, capture_output=True, timeout=20
    )
    assert done.stdout == b"hi\r\n"
    assert b"RESULT ended 0 None" in done.stderr
    refused = subprocess.run(stage.command(), env=make_environment(stage.home), capture_output=True, timeout=20)
    assert b"has ended" in refused.stderr


def test_without_a_terminal_output_is_copied_and_input_passed_on(stage: Stage) -> None:
    stage.keeper.line_mode = True
    child = subprocess.Popen(
        stage.command("start"),
        env=make_environment(stage.home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdin is not None
    child.stdin.write(b"unfinished")
    child.stdin.close()
    child.stdin = None
    wait_until(lambda: b"".join(stage.keeper.typed) == b"unfinished\x04\x04", what="the input and its end")
    line = b"0123456789" * 100 + b"\r\n"
    for _ in range(500):
        stage.keeper.show(line)
    stage.change(phase=Phase.ENDED, outcome=Outcome.DONE, exit_code=0)
    stage.keeper.call(lambda: stage.keeper.server.notify_end({"outcome": "done", "exit_code": 0, "signal": None}))
    stage.keeper.call(stage.keeper.server.close)
    out, error = child.communicate(timeout=20)
    assert out == line * 500
    assert error.strip() == b"RESULT ended 0 None"
    assert stage.keeper.sizes == []


def test_the_end_of_no_input_ends_nothing(stage: Stage) -> None:
    stage.keeper.line_mode = True
    with subprocess.Popen(
        stage.command(),
        env=make_environment(stage.home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        wait_until(lambda: stage.keeper.call(lambda: stage.keeper.server.attached_count) == 1, what="the copy")
        stage.keeper.call(lambda: stage.keeper.server.notify_end({"outcome": "done", "exit_code": 0}))
        child.communicate(timeout=20)
    assert stage.keeper.typed == []


def test_a_closed_pipe_detaches_quietly(stage: Stage) -> None:
    with subprocess.Popen(
        stage.command("start"),
        env=make_environment(stage.home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        stage.keeper.show(b"first\r\n")
        assert child.stdout.readline() == b"first\r\n"
        child.stdout.close()
        wait_until(lambda: [stage.keeper.show(b"more\r\n"), child.poll()][1] is not None, what="its end", every_s=0.05)
        assert child.stderr.read().strip() == b"RESULT detached None None"


def test_a_stopped_terminal_holds_up_nobody_and_comes_back(stage: Stage) -> None:
    with stage.person() as child:
        child.expect_exact("detaches")
        os.kill(child.pid, signal.SIGSTOP)
        began_s = time.monotonic()
        for _ in range(200):
            stage.keeper.show(b"x" * 10_000)
        assert time.monotonic() - began_s < 5
        stage.keeper.show(b"\x1b[H\x1b[2Jthe present screen")
        os.kill(child.pid, signal.SIGCONT)
        child.expect_exact("the present screen")
        child.send("\x1d")
        child.expect_exact("RESULT detached")


def test_a_stop_signal_gives_the_terminal_back_meanwhile(stage: Stage) -> None:
    with stage.person() as child:
        child.expect_exact("detaches")
        stage.keeper.show(b"\x1b[?1049h\x1b[2Jdrawn")
        child.expect_exact("drawn")
        os.kill(child.pid, signal.SIGTSTP)
        child.expect_exact("\x1b[?1049l")
        wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", what="the stop")
        assert not is_raw(child)
        os.kill(child.pid, signal.SIGCONT)
        child.expect_exact("drawn")
        assert is_raw(child)
        child.send("\x1d")
        child.expect_exact("RESULT detached")


def test_a_terminal_that_takes_no_output_can_still_be_left(stage: Stage) -> None:
    with stage.person() as child:
        child.expect_exact("detaches")
        for _ in range(100):
            stage.keeper.show(b"x" * 10_000)  # nobody reads the terminal: it is full
        child.send("\x1d")
        wait_until(lambda: stage.keeper.call(lambda: stage.keeper.server.attached_count) == 0, what="the detach")
        child.expect_exact("RESULT detached")
