"""A real OpenCode session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from interrupted import Work, kill_part, run_coder, wait_permission_prompt
from model_server import ModelServer, Shell
from opencode_home import OpenCodeHome
from running import SLOW_S
from support import cli, cli_json, find_home_processes, wait_until

from coordinator.agents.opencode import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation

pytestmark = [pytest.mark.agents, pytest.mark.timeout(180)]

Make = Callable[[str], OpenCodeHome]


@pytest.mark.parametrize("which", ["agent", "keeper", "keeper and agent"])
def test_a_killed_session_comes_back_in_its_own_conversation(home: Home, make_opencode_home: Make, which: str) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        opencode = make_opencode_home(model.url)
        work = Work(opencode.work, GO_ON)
        record, talk = run_coder(home, opencode, "opencode", "run", "--thinking", "work on the heron")
        assert record.agent is not None
        assert record.owner is not None
        old = [process for process in find_home_processes(home) if process.environ().get("CREWKEEP_EPOCH") == "1"]
        assert len(old) > 2, "the agent, its tool, and the daemon that the tool left"
        kill_part(record, which)

        ask = work.wait_return(model)
        assert "work on the heron" in ask.said_by("user"), "the earlier turns are in the request"
        assert ask.tool_outputs == ["[Tool execution was interrupted]"], "the model is told that the tool call was cut"
        assert not [process for process in old if process.is_running()], "a process of the old incarnation lives"
        ended = cli("wait", "coder", "--timeout", "60s", home=home, timeout_s=80)
        assert ended.returncode == 0, ended.stderr
        assert work.ticks.stat().st_size == work.ticks_at_return, "the killed tool wrote on beside the new incarnation"
        [row] = cli_json("ps", "-a", "--json", home=home)
        assert (row["state"], row["epoch"], row["agent"]) == ("done", 2, "opencode")
        assert read_conversation(home.session(record.id)) == talk


def test_a_lost_database_is_made_anew_from_the_checkpoint(home: Home, make_opencode_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        opencode = make_opencode_home(model.url)
        work = Work(opencode.work, GO_ON)
        record, _ = run_coder(home, opencode, "opencode", "run", "work on the heron")
        done = cli("checkpoint", "coder", home=home)
        assert done.returncode == 0, done.stderr
        assert record.agent is not None
        os.kill(record.agent.pid, signal.SIGSTOP)  # it must not write while its files are taken away
        for path in opencode.databases:
            path.unlink()
        kill_part(record)
        ask = work.wait_return(model)
        assert "work on the heron" in ask.said_by("user")
        assert cli("wait", "coder", "--timeout", "60s", home=home, timeout_s=80).returncode == 0


def test_a_permission_prompt_shows_as_waiting_and_refuses_what_is_sent(home: Home, make_opencode_home: Make) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("echo x > asked.txt")) as model:
        opencode = make_opencode_home(model.url)
        opencode.configure(permission={"*": "ask"})
        wait_permission_prompt(home, opencode, "opencode", "--prompt", "ask me")
        wait_until(
            lambda: cli("send", "coder", "y", home=home).returncode == 5, timeout_s=SLOW_S, what="the refusal", every_s=0.3
        )
        assert not (opencode.work / "asked.txt").exists()
