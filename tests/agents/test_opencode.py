"""A real OpenCode session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from model_server import Ask, ModelServer, Shell
from opencode_home import OpenCodeHome, find_opencode, make_opencode_home
from support import cli, cli_json, find_home_processes, wait_until

from coordinator.agents.opencode import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry

pytestmark = [pytest.mark.agents, pytest.mark.timeout(180)]

Make = Callable[[str], OpenCodeHome]
#: It takes its time to start, and more on a busy machine.
SLOW_S = 60
#: A tool that writes on and on, from a daemon that left the agent's process group, OS session and parent.
WRITER = "setsid sh -c 'while :; do echo tick >> ticks.txt; sleep 0.02; done' < /dev/null > /dev/null 2>&1 &"


@pytest.fixture
def make_home(tmp_path: Path) -> Make:
    return lambda url: make_opencode_home(url, tmp_path, find_opencode())


class Work:
    """The model's side: it lets a tool run that is cut short, and says "finished" once the agent was told to go on."""

    def __init__(self, directory: Path) -> None:
        self.ticks = directory / "ticks.txt"
        #: Size of what the killed tool had written when the next incarnation first asked.
        self.ticks_at_return: int | None = None

    def answer(self, ask: Ask) -> str | Shell:
        if GO_ON in ask.last_user and not ask.after_tool:
            self.ticks_at_return = self.ticks.stat().st_size
            return Shell("sleep 0.5; echo again")  # time in which a tool that was left over would write
        if GO_ON in ask.last_user:
            return "finished"
        return Shell(f"{WRITER}\nwhile [ ! -s ticks.txt ]; do sleep 0.01; done; echo begun > begun.txt; sleep 300")


def run_opencode(home: Home, opencode: OpenCodeHome, *words: str) -> SessionRecord:
    """Start a session named coder and wait until its tool is at work and its conversation is known."""
    command = ["run", "-d", "--json", "--name", "coder", "--cwd", str(opencode.work), "--", "opencode", *words]
    cli_json(*command, home=home, env=opencode.environment)
    registry = Registry(home)
    wait_until((opencode.work / "begun.txt").exists, timeout_s=SLOW_S, what="the tool call")
    record = registry.find("coder")
    wait_until(lambda: read_conversation(home.session(record.id)), timeout_s=SLOW_S, what="the conversation")
    return registry.find("coder")


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def wait_return(model: ModelServer) -> Ask:
    """Return the first request of the next incarnation."""
    return wait_until(
        lambda: next((ask for ask in model.working_asks() if GO_ON in ask.last_user), None), timeout_s=SLOW_S, what="the return"
    )


@pytest.mark.parametrize("which", ["agent", "keeper", "keeper and agent"])
def test_a_killed_session_comes_back_in_its_own_conversation(home: Home, make_home: Make, which: str) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        opencode = make_home(model.url)
        work = Work(opencode.work)
        record = run_opencode(home, opencode, "run", "--thinking", "work on the heron")
        assert record.agent is not None
        assert record.owner is not None
        talk = read_conversation(home.session(record.id))
        old = [process for process in find_home_processes(home) if process.environ().get("CREWKEEP_EPOCH") == "1"]
        assert len(old) > 2, "the agent, its tool, and the daemon that the tool left"
        kill(*([record.owner.pid] if "keeper" in which else []), *([record.agent.pid] if "agent" in which else []))

        ask = wait_return(model)
        assert "work on the heron" in ask.said_by("user"), "the earlier turns are in the request"
        assert ask.tool_outputs == ["[Tool execution was interrupted]"], "the model is told that the tool call was cut"
        assert not [process for process in old if process.is_running()], "a process of the old incarnation lives"
        ended = cli("wait", "coder", "--timeout", "60s", home=home, timeout_s=80)
        assert ended.returncode == 0, ended.stderr
        assert work.ticks.stat().st_size == work.ticks_at_return, "the killed tool wrote on beside the new incarnation"
        [row] = cli_json("ps", "-a", "--json", home=home)
        assert (row["state"], row["epoch"], row["agent"]) == ("done", 2, "opencode")
        assert read_conversation(home.session(record.id)) == talk


def test_a_lost_database_is_made_anew_from_the_checkpoint(home: Home, make_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        opencode = make_home(model.url)
        work = Work(opencode.work)
        record = run_opencode(home, opencode, "run", "work on the heron")
        done = cli("checkpoint", "coder", home=home)
        assert done.returncode == 0, done.stderr
        assert record.agent is not None
        os.kill(record.agent.pid, signal.SIGSTOP)  # it must not write while its files are taken away
        for path in opencode.databases:
            path.unlink()
        kill(record.agent.pid)
        ask = wait_return(model)
        assert "work on the heron" in ask.said_by("user")
        assert cli("wait", "coder", "--timeout", "60s", home=home, timeout_s=80).returncode == 0


def test_a_permission_prompt_shows_as_waiting_and_refuses_what_is_sent(home: Home, make_home: Make) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("echo x > asked.txt")) as model:
        opencode = make_home(model.url)
        opencode.configure(permission={"*": "ask"})
        command = ["run", "-d", "--name", "coder", "--cwd", str(opencode.work), "--", "opencode", "--prompt", "ask me"]
        assert cli(*command, home=home, env=opencode.environment).returncode == 0

        def state() -> str:
            return str(cli_json("ps", "--json", home=home)[0]["state"])

        wait_until(lambda: state() == "waiting", timeout_s=SLOW_S, what="the state waiting", every_s=0.3)
        wait_until(
            lambda: cli("send", "coder", "y", home=home).returncode == 5, timeout_s=SLOW_S, what="the refusal", every_s=0.3
        )
        assert not (opencode.work / "asked.txt").exists()
