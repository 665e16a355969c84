"""Full-screen agents under crewkeep as a person meets them: typing, another window, leaving and coming back, kill -9."""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import termios
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from model_server import Ask, ModelServer, Shell
from person_terminal import DETACH_KEY, PersonTerminal
from programs import PROGRAMS, Program
from running import SLOW_S
from support import cli, find_home_processes, wait_until

from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.processes import ProcessIdentity, observe, send_signal
from crewkeep.terminal.render import Renderer

pytestmark = [pytest.mark.agents, pytest.mark.timeout(180)]  # alone each takes 2 to 20 s; a busy machine needs more


def answer(ask: Ask) -> str | Shell:
    if ask.after_tool:
        return "the tool came to its end"
    if "SLOWLY" in ask.last_user:
        return Shell("echo begun > begun.txt; sleep 55; echo late > late.txt")
    return f"answered <{ask.last_user.split()[0]}>"


class Sitting:
    """A person with one session of one program, named ``auth``."""

    def __init__(self, home: Home, program: Program, model: ModelServer, tmp_path: Path) -> None:
        self.home, self.program, self.model = home, program, model
        installed = program.install(model.root, tmp_path)
        self.work, self._environment = installed.work, installed.environment
        self._opened = ExitStack()

    def close(self) -> None:
        self._opened.close()

    def open(self, *words: str, rows: int = 30, columns: int = 100) -> PersonTerminal:
        terminal = PersonTerminal(self.home, *words, env=self._environment, cwd=self.work, rows=rows, columns=columns)
        return self._opened.enter_context(terminal)

    def run(self) -> PersonTerminal:
        """Start it, and wait until it takes keys."""
        terminal = self.open("run", "--name", "auth", "--", *self.program.interactive)
        terminal.wait_for(self.program.ready, timeout_s=SLOW_S)
        return terminal

    def attach(self, **size: int) -> PersonTerminal:
        return self.open("attach", "auth", **size)

    def cli(self, *words: str) -> str:
        done = cli(*words, home=self.home, env=self._environment, cwd=self.work)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    @property
    def record(self) -> SessionRecord:
        return Registry(self.home).find("auth")

    def type(self, terminal: PersonTerminal, text: str) -> Ask:
        """Type a line until it stands in the input, then Enter until it is sent, as a person does who looks at the screen.

        A program drops keys in its first moment, and takes an Enter right behind a text for part of a paste.
        """
        words = iter(range(1000))

        def show() -> bool:
            if next(words) % 60 == 0:
                terminal.press(f"\x15{text}")
            return text in terminal.screen

        wait_until(show, SLOW_S, f"{text!r} in the input line; the screen:\n{terminal.screen}", every_s=0.05)
        enters = iter(range(1000))

        def send() -> Ask | None:
            if next(enters) % 20 == 10:
                terminal.press("\r")
            return self.find_ask(text)

        return wait_until(send, SLOW_S, f"{text!r} at the model; the screen:\n{terminal.screen}", every_s=0.05)

    def find_ask(self, text: str) -> Ask | None:
        """Return the request that says exactly ``text`` last (OpenCode puts a space behind what is pasted)."""
        return next((ask for ask in self.model.working_asks() if ask.last_user.rstrip() == text and not ask.after_tool), None)

    def wait_ask(self, text: str) -> Ask:
        try:
            return wait_until(lambda: self.find_ask(text), SLOW_S, f"{text!r} at the model")
        except pytest.fail.Exception as error:
            asked = [ask.last_user for ask in self.model.working_asks()]
            raise AssertionError(f"{error}; it was asked {asked}; its screen:\n{self.cli('logs', 'auth')[-2000:]}") from None

    def wait_epoch(self, epoch: int) -> SessionRecord:
        """Wait until an agent runs at this epoch."""
        found = wait_until(lambda: [it for it in [self.record] if it.epoch == epoch and it.agent], SLOW_S, f"epoch {epoch}")
        return found[0]

    def wait_conversation(self) -> str:
        paths = self.home.session(self.record.id)
        return wait_until(lambda: read_conversation(paths), SLOW_S, "the conversation").id


@pytest.fixture(params=PROGRAMS, ids=[program.name for program in PROGRAMS])
def sitting(request: pytest.FixtureRequest, home: Home, tmp_path: Path) -> Iterator[Sitting]:
    with ModelServer(answer) as model:
        sitting = Sitting(home, request.param, model, tmp_path)
        try:
            yield sitting
        finally:
            sitting.close()
            cli("kill", "--all", home=home)


def get_own_size(agent: ProcessIdentity) -> tuple[int, int]:
    """Return rows and columns of the terminal that a process sits at."""
    # Not `psutil.Process.terminal`: it knows only the terminals that were there when it first looked.
    fd = os.open(os.readlink(f"/proc/{agent.pid}/fd/0"), os.O_RDONLY | os.O_NOCTTY)
    try:
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
        return rows, columns
    finally:
        os.close(fd)


def find_widest(raw: bytes) -> int:
    """Return how far to the right something is drawn, on a screen where nothing wraps."""
    renderer = Renderer(60, 400, least_rows=2)
    renderer.feed(raw)
    return max(len(row.text().rstrip()) for row in renderer.screen.grid)


def list_of_epoch(home: Home, epoch: int) -> list[psutil.Process]:
    """Return the living processes that carry the mark of one incarnation (keeper and patrol carry none)."""
    found = []
    for process in find_home_processes(home):
        try:
            if process.environ().get("CREWKEEP_EPOCH") == str(epoch):
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_what_is_typed_reaches_the_model_and_another_window_the_program(sitting: Sitting) -> None:
    terminal = sitting.run()
    sitting.type(terminal, "grüße 你好 heron")
    terminal.wait_for("answered <grüße>")

    pasted = "first line\nzweite Zeile ü\n第三"
    sitting.cli("send", "auth", pasted)
    sitting.wait_ask(pasted)
    terminal.wait_for("answered <first>")

    agent = sitting.record.agent
    assert agent is not None
    for rows, columns in ((24, 70), (36, 130)):
        before = len(terminal.raw)
        terminal.resize(rows, columns)
        wait_until(lambda: get_own_size(agent) == (rows, columns), what=f"{rows} x {columns} for the program")  # noqa: B023
        # Each draws something up to the right edge: a bar, a frame, the right end of its footer.
        wait_until(
            lambda: columns - 6 <= find_widest(terminal.raw[before:]) <= columns,  # noqa: B023
            SLOW_S,
            f"a frame that fits {columns} columns",
        )
    sitting.type(terminal, "and wider")
    terminal.wait_for("answered <and>")


def test_left_and_attached_again_it_is_the_same_conversation(sitting: Sitting) -> None:
    first = sitting.run()
    sitting.type(first, "the heron stands")
    first.wait_for("answered <the>")
    agent = sitting.record.agent
    first.press(DETACH_KEY)
    assert first.wait_end() == 0
    assert "detached; session auth goes on: crewkeep attach auth" in first.screen
    assert first.find_left_on() == set()

    sitting.cli("send", "auth", "while nobody looked")
    sitting.wait_ask("while nobody looked")
    second = sitting.attach(rows=36, columns=110)
    second.wait_for("answered <the>", "answered <while>")
    ask = sitting.type(second, "and back")
    assert "the heron stands" in ask.said_by("user")
    assert "answered <while>" in ask.said_by("assistant")
    assert (sitting.record.epoch, sitting.record.agent) == (1, agent)

    sitting.cli("stop", "auth")
    second.wait_end()
    assert second.find_left_on() == set()
    assert list_of_epoch(sitting.home, 1) == []


def test_an_attached_terminal_stays_through_kill_9_of_agent_and_keeper(sitting: Sitting) -> None:
    terminal = sitting.run()
    sitting.type(terminal, "the heron stands")
    terminal.wait_for("answered <the>")
    talk = sitting.wait_conversation()
    sitting.type(terminal, "now SLOWLY")
    wait_until((sitting.work / "begun.txt").exists, SLOW_S, "the tool call")
    before, asked = len(terminal.raw), len(sitting.model.working_asks())

    killed = sitting.record.agent
    assert killed is not None and send_signal(killed, signal.SIGKILL)
    terminal.wait_written("[crewkeep] auth is started again: it was killed by signal 9", before)
    sitting.wait_epoch(2)
    assert observe(killed).is_gone
    assert list_of_epoch(sitting.home, 1) == [], "its tool ended with it"
    terminal.wait_for(sitting.program.ready, "answered <the>", timeout_s=SLOW_S)
    if sitting.program.goes_on:
        ask = wait_until(lambda: sitting.model.working_asks()[asked:], SLOW_S, "its going on")[0]
        assert "now SLOWLY" in ask.said_by("user")
    ask = sitting.type(terminal, "second words")
    assert "the heron stands" in ask.said_by("user")
    assert "now SLOWLY" in ask.said_by("user")
    assert "answered <the>" in ask.said_by("assistant")
    terminal.wait_for("answered <second>")

    before, keeper, agent = len(terminal.raw), sitting.record.owner, sitting.record.agent
    assert keeper is not None and agent is not None and send_signal(keeper, signal.SIGKILL)
    terminal.wait_written("[crewkeep] session auth runs again (epoch 3)", before, SLOW_S)
    assert observe(agent).is_gone
    assert list_of_epoch(sitting.home, 2) == []
    terminal.wait_for(sitting.program.ready, "answered <second>", timeout_s=SLOW_S)
    ask = sitting.type(terminal, "third words")
    assert "the heron stands" in ask.said_by("user")
    assert "answered <second>" in ask.said_by("assistant")
    assert sitting.wait_conversation() == talk
    assert not (sitting.work / "late.txt").exists()

    terminal.press(DETACH_KEY)
    assert terminal.wait_end() == 0
    assert terminal.find_left_on() == set()
    again = sitting.attach()
    again.wait_for("answered <third>", timeout_s=SLOW_S)


def test_what_is_sent_to_a_session_as_soon_as_it_is_idle_again_reaches_its_model(sitting: Sitting) -> None:
    terminal = sitting.run()
    sitting.type(terminal, "first words")
    terminal.wait_for("answered <first>")
    sitting.wait_conversation()
    killed = sitting.record.agent
    assert killed is not None and send_signal(killed, signal.SIGKILL)
    sitting.wait_epoch(2)
    sitting.cli("wait", "auth", "--until", "idle", "--timeout", "60s")
    sitting.cli("send", "auth", "second words")
    assert "first words" in sitting.wait_ask("second words").said_by("user")
