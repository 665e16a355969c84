"""At a real terminal: attach, detach, colours, and an attached terminal that stays through a kill -9."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pexpect
import pytest
from support import CREWKEEP, cli, cli_json, make_environment, wait_until

from coordinator.paths import Home

Type = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def terminal(home: Home) -> Iterator[Type]:
    """Run the command line on a terminal of its own."""
    opened = []

    def start(*arguments: str, **environment: str) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            str(CREWKEEP),
            list(arguments),
            env=make_environment(home, {"TERM": "xterm", "LINES": "7"} | environment),
            encoding="utf-8",
            timeout=20,
            dimensions=(30, 100),
        )
        opened.append(child)
        return child

    yield start
    for child in opened:
        child.close(force=True)
    cli("kill", "--all", home=home)


def test_one_detaches_and_comes_back_to_the_same_program(home: Home, terminal: Type) -> None:
    first = terminal("run", "--name", "cat", "--", "sh", "-c", "stty size; exec cat")
    first.expect("ctrl-] detaches")
    first.expect("30 100")
    first.sendline("hello there")
    first.expect("hello there.*hello there")
    first.send("\x1d")
    first.expect("detached; session cat goes on: crewkeep attach cat")
    first.expect(pexpect.EOF)
    first.close()
    assert first.exitstatus == 0
    second = terminal("attach", "cat")
    second.expect("hello there")
    second.sendline("again")
    second.expect("again.*again")
    second.send("\x04")
    second.expect(pexpect.EOF)
    second.close()
    assert second.exitstatus == 0
    assert cli_json("ps", "-a", "--json", home=home)[0]["state"] == "done"


@pytest.mark.parametrize("victim", ["agent_pid", "keeper_pid"])
def test_an_attached_terminal_stays_through_a_kill(home: Home, terminal: Type, victim: str) -> None:
    child = terminal("run", "--name", "cat", "--", "cat")
    child.expect("ctrl-] detaches")
    child.sendline("before")
    child.expect("before.*before")
    (row,) = cli_json("ps", "--json", home=home)
    os.kill(row[victim], signal.SIGKILL)
    wait_until(lambda: [row["epoch"] for row in cli_json("ps", "--json", home=home) if row["agent_pid"]] == [2], 20, "epoch 2")
    wait_until(lambda: cli_json("ps", "--json", home=home)[0]["state"] in ("working", "idle"), 20, "the session")
    child.expect(r"\[crewkeep\] .*again")
    child.sendline("after")
    child.expect("after.*after")
    child.send("\x1d")
    child.expect(pexpect.EOF)


def test_the_exit_code_is_the_programs_own(terminal: Type) -> None:
    child = terminal("run", "--", "sh", "-c", "exit 7")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 7


def test_colour_only_where_it_is_wanted(home: Home, terminal: Type) -> None:
    cli_json("run", "-d", "--json", "--name", "s", "--", "sleep", "300", home=home)
    for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        child = terminal("ps", **environment)
        child.expect(pexpect.EOF)
        assert ("\x1b[" in (child.before or "")) is coloured, environment
    assert "\x1b" not in cli("ps", home=home).stdout


def test_a_table_fits_the_terminal(home: Home, terminal: Type) -> None:
    cli_json("run", "-d", "--json", "--name", "s", "--", "sh", "-c", "sleep 300; : " + "x" * 200, home=home)
    child = terminal("ps", NO_COLOR="1")
    child.expect(pexpect.EOF)
    assert max(len(line.rstrip()) for line in (child.before or "").splitlines()) <= 100
