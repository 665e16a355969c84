"""A real Gemini session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from gemini_home import GeminiHome, find_gemini_command, make_gemini_home
from model_server import Ask, ModelServer, Shell
from support import cli, cli_json, end_home_processes, wait_until

from coordinator.agents.gemini import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.scan import ROLE_VARIABLE

pytestmark = pytest.mark.agents

#: A tool that writes on and on, from a daemon that left the agent's process group, OS session and parent.
WRITER = "setsid sh -c 'while :; do echo tick >> ticks.txt; sleep 0.02; done' < /dev/null > /dev/null 2>&1 &"


class Work:
    """The model's side: it lets a tool run that is cut short, and says "finished" once the agent was told to go on."""

    def __init__(self, directory: Path) -> None:
        self.ticks = directory / "ticks.txt"
        #: Size of what the killed tool had written when the next incarnation first asked.
        self.ticks_at_return: int | None = None

    def answer(self, ask: Ask) -> str | Shell:
        if ask.last_user == GO_ON and not ask.after_tool:
            self.ticks_at_return = self.ticks.stat().st_size
            return Shell("sleep 0.5; echo again")  # time in which a tool that was left over would write
        if ask.after_tool:
            return "finished"
        return Shell(f"{WRITER}\nwhile [ ! -s ticks.txt ]; do sleep 0.01; done; echo begun > begun.txt; sleep 300")


def run_gemini(home: Home, gemini: GeminiHome) -> tuple[SessionRecord, Conversation]:
    """Start a session named coder and wait until its tool is at work and its transcript is known."""
    words = ["run", "-d", "--json", "--name", "coder", "--cwd", str(gemini.work), "--"]
    cli_json(*words, "gemini", "-y", "-p", "work on the heron", home=home, env=gemini.environment)
    wait_until((gemini.work / "begun.txt").exists, timeout_s=30, what="the tool call")
    record = Registry(home).find("coder")

    def talk() -> Conversation | None:
        found = read_conversation(home.session(record.id))
        return found if found is not None and found.transcript is not None else None

    return Registry(home).find("coder"), wait_until(talk, what="the conversation")


def wait_return(model: ModelServer) -> Ask:
    """Return the first request of the next incarnation."""
    return wait_until(
        lambda: next((ask for ask in model.working_asks() if ask.last_user == GO_ON), None), timeout_s=30, what="the return"
    )


def list_programs(gemini: GeminiHome) -> list[psutil.Process]:
    """Return the living processes that the program of this home is, or started; keepers and patrols are none."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ() if process.status() != psutil.STATUS_ZOMBIE else {}
            if environment.get("HOME") == str(gemini.home) and ROLE_VARIABLE not in environment:
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize("which", ["agent", "keeper", "keeper and agent"])
def test_a_killed_session_comes_back_in_its_own_conversation(home: Home, tmp_path: Path, which: str) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        gemini = make_gemini_home(model.root, tmp_path / "gemini", find_gemini_command())
        work = Work(gemini.work)
        record, talk = run_gemini(home, gemini)
        assert record.agent is not None
        assert record.owner is not None
        old = list_programs(gemini)
        assert record.agent.pid in [process.pid for process in old]
        for pid in ([record.owner.pid] if "keeper" in which else []) + ([record.agent.pid] if "agent" in which else []):
            os.kill(pid, signal.SIGKILL)

        ask = wait_return(model)
        assert "work on the heron" in ask.said_by("user"), "the earlier turns are in the request"
        agent = Registry(home).find("coder").agent
        assert agent is not None
        assert agent.pid != record.agent.pid
        assert not [process for process in old if process.is_running()]
        ended = cli("wait", "coder", "--timeout", "30s", home=home)
        assert ended.returncode == 0, ended.stderr
        assert work.ticks.stat().st_size == work.ticks_at_return, "the killed tool wrote on beside the new incarnation"
        [row] = cli_json("ps", "-a", "--json", home=home)
        assert (row["state"], row["epoch"], row["agent"]) == ("done", 2, "gemini")
        assert read_conversation(home.session(record.id)) == talk
        assert not [path for path in home.path.rglob("*") if path.is_file() and b"nobody-asks" in path.read_bytes()], (
            "a secret on disk"
        )


def test_a_lost_transcript_is_put_back_from_the_checkpoint_when_everything_was_killed(home: Home, tmp_path: Path) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        gemini = make_gemini_home(model.root, tmp_path / "gemini", find_gemini_command())
        work = Work(gemini.work)
        _, talk = run_gemini(home, gemini)
        assert cli("checkpoint", "coder", home=home).returncode == 0
        end_home_processes(home)
        for path in (gemini.home / ".gemini").rglob("*"):
            if path.is_file() and path.name != "settings.json":
                path.unlink()
        recovered = cli("recover", "coder", "--yes", home=home, env=gemini.environment)
        assert recovered.returncode == 0, recovered.stderr
        assert "work on the heron" in wait_return(model).said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        assert "work on the heron" in Path(talk.transcript or "").read_text()
