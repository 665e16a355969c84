"""A full-screen program under crewkeep as a user meets it: two terminals, resizes, detaching, kill -9 of agent and keeper."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pexpect
import pytest
from support import CREWKEEP, cli, cli_json, make_environment, wait_until

from coordinator.paths import Home
from crewkeep.terminal.render import Renderer

#: Draws its size and the keys it got on the alternate screen, and draws anew when the window changes. `q` ends it.
PROGRAM = """
import curses, os
def draw(screen):
    keys = ""
    while True:
        rows, columns = screen.getmaxyx()
        screen.erase()
        screen.addstr(0, 0, f"epoch {os.environ['CREWKEEP_EPOCH']}, {rows} x {columns}, keys {keys}!")
        screen.addstr(rows - 2, 0, "bottom")
        screen.refresh()
        key = screen.getch()
        if key == ord("q"):
            return
        if key == curses.KEY_RESIZE:
            curses.update_lines_cols()
        elif 0 < key < 256:
            keys += chr(key)
curses.wrapper(draw)
"""


class Terminal:
    """A person's terminal: what they would see, and their keyboard."""

    def __init__(self, home: Home, *arguments: str, rows: int, columns: int) -> None:
        environment = make_environment(home, {"TERM": "xterm", "LINES": "7", "COLUMNS": "9"})
        self.child: Any = pexpect.spawn(
            str(CREWKEEP), list(arguments), env=environment, dimensions=(rows, columns), timeout=15, cwd=str(home.path.parent)
        )
        self._renderer = Renderer(rows, columns, least_rows=2)
        self.raw = b""

    def read(self) -> str:
        """Take what has come and return the screen's text."""
        while True:
            try:
                data = self.child.read_nonblocking(1 << 16, timeout=0)
            except (pexpect.TIMEOUT, pexpect.EOF):
                break
            self.raw += data
            self._renderer.feed(data)
        return "\n".join(row.text().rstrip() for row in self._renderer.screen.grid)

    def wait_for(self, *texts: str) -> None:
        try:
            wait_until(lambda: all(text in self.read() for text in texts), 20, f"{texts} on the screen")
        except pytest.fail.Exception as error:
            raise AssertionError(f"{error}; the screen:\n{self.read()}\nthe last bytes: {self.raw[-600:]!r}") from None

    def resize(self, rows: int, columns: int) -> None:
        self._renderer = Renderer(rows, columns, least_rows=2)
        self._renderer.feed(self.raw)  # what stood on the screen stays; a program only draws what differs
        self.child.setwinsize(rows, columns)


@pytest.fixture
def program(home: Home) -> Path:
    path = home.path.parent / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_full_screen_program_in_two_terminals_through_crashes(home: Home, program: Path) -> None:
    first = Terminal(home, "run", "--name", "auth", "--", sys.executable, str(program), rows=24, columns=80)
    second = None
    try:
        first.wait_for("epoch 1, 24 x 80, keys !", "bottom")
        assert b"attached to auth; ctrl-] detaches" in first.raw
        second = Terminal(home, "attach", "auth", rows=30, columns=60)
        second.wait_for("epoch 1, 24 x 60", "bottom")
        first.wait_for("24 x 60")
        second.child.send("abc")
        first.wait_for("keys abc!")

        os.kill(cli_json("ps", "--json", home=home)[0]["agent_pid"], signal.SIGKILL)
        for terminal in (first, second):
            terminal.wait_for("epoch 2, 24 x 60, keys !", "bottom")
        os.kill(cli_json("ps", "--json", home=home)[0]["keeper_pid"], signal.SIGKILL)
        for terminal in (first, second):
            terminal.wait_for("epoch 3, 24 x 60, keys !", "bottom")
        assert b"session auth runs again (epoch 3)" in first.raw

        second.child.send("\x1d")
        second.child.expect("detached; session auth goes on")
        first.wait_for("24 x 80")
        first.resize(20, 70)
        first.wait_for("20 x 70", "bottom")
        assert cli("send", "auth", "xyz", home=home).returncode == 0
        first.wait_for("keys xyz")
        first.child.send("q")
        first.child.expect(pexpect.EOF)
        first.child.close()
        assert first.child.exitstatus == 0
        row = cli_json("ps", "-a", "--json", home=home)[0]
        assert (row["state"], row["epoch"]) == ("done", 3)
        assert "bottom" in cli("logs", "auth", home=home).stdout
    finally:
        first.child.close(force=True)
        if second is not None:
            second.child.close(force=True)


def test_closing_the_terminal_detaches(home: Home) -> None:
    terminal = Terminal(home, "run", "--name", "auth", "--", "cat", rows=24, columns=80)
    terminal.child.expect("detaches")
    terminal.child.send("hello\r")
    terminal.child.expect("hello")
    terminal.child.close(force=False)
    wait_until(lambda: not terminal.child.isalive(), what="its end")
    assert cli_json("ps", "--json", home=home)[0]["state"] in ("working", "idle")
    assert cli("kill", "auth", home=home).returncode == 0


def test_piped_input_and_output_pass_through_run_whole(home: Home) -> None:
    text = "".join(f"line {number}\n" for number in range(2000))
    done = cli("run", "--", "sh", "-c", "stty -echo -onlcr; echo ready; wc -c; exit 4", home=home, input=text)
    assert done.returncode == 4
    assert done.stdout.split()[-1] == str(len(text))
    seq = cli("run", "--", "seq", "20000", home=home)
    assert seq.returncode == 0
    assert seq.stdout.split() == [str(number) for number in range(1, 20001)]


def test_an_interrupt_typed_at_the_terminal_ends_the_session_and_is_no_crash(home: Home) -> None:
    terminal = Terminal(
        home, "run", "--name", "auth", "--restart", "always", "--", "sh", "-c", "echo up; sleep 1000", rows=24, columns=80
    )
    terminal.child.expect("up")
    terminal.child.send("\x03")
    terminal.child.expect(pexpect.EOF)
    terminal.child.close()
    assert terminal.child.exitstatus == 130
    row = cli_json("ps", "-a", "--json", home=home)[0]
    assert (row["state"], row["epoch"], row["reason"]) == ("stopped", 1, "it was interrupted from its terminal")
