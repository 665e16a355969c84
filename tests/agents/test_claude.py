"""A real Claude Code session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from claude_home import KEY, ClaudeHome, find_claude, make_claude_home
from model_server import Ask, ModelServer, Shell
from support import cli, cli_json, find_home_processes, wait_until
from test_codex import WRITER

from coordinator.agents.claude import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry

pytestmark = pytest.mark.agents

Make = Callable[[str], ClaudeHome]
FREE = "--dangerously-skip-permissions"


@pytest.fixture
def make_home(tmp_path: Path) -> Make:
    command = find_claude()
    return lambda url: make_claude_home(url, tmp_path, command)


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
        if ask.after_tool and ask.last_user == GO_ON:
            return "finished"
        if "remember" in ask.last_user:
            return "the heron, noted"
        return Shell(f"{WRITER}\nwhile [ ! -s ticks.txt ]; do sleep 0.01; done; echo begun > begun.txt; sleep 300")


def run_claude(home: Home, claude: ClaudeHome, *words: str) -> SessionRecord:
    """Start a session named coder and wait until its tool is at work and its conversation is written down."""
    options = ["--name", "coder", "--cwd", str(claude.work)]
    cli_json("run", "-d", "--json", *options, "--", "claude", "--model", "x", *words, home=home, env=claude.environment)
    wait_until((claude.work / "begun.txt").exists, timeout_s=20, what="the tool call")
    record = Registry(home).find("coder")

    def is_written_down() -> bool:
        talk = read_conversation(home.session(record.id))
        return talk is not None and talk.transcript is not None

    wait_until(is_written_down, what="the transcript")
    return Registry(home).find("coder")


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def wait_return(model: ModelServer) -> Ask:
    """Return the first request of the next incarnation."""
    return wait_until(
        lambda: next((ask for ask in model.working_asks() if ask.last_user == GO_ON), None), timeout_s=20, what="the return"
    )


@pytest.mark.parametrize("which", ["agent", "keeper and agent"])
def test_a_killed_session_comes_back_in_its_own_conversation(home: Home, make_home: Make, which: str) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        claude = make_home(model.root)
        work = Work(claude.work)
        record = run_claude(home, claude, FREE, "-p", "work on the heron")
        assert record.agent is not None
        assert record.owner is not None
        talk = read_conversation(home.session(record.id))
        kill(*([record.owner.pid] if "keeper" in which else []), record.agent.pid)

        assert "work on the heron" in wait_return(model).said_by("user"), "the earlier turns are in the request"
        ended = cli("wait", "coder", "--timeout", "30s", home=home)
        assert ended.returncode == 0, ended.stderr
        assert work.ticks.stat().st_size == work.ticks_at_return, "the killed tool wrote on beside the new incarnation"
        [row] = cli_json("ps", "-a", "--json", home=home)
        assert (row["state"], row["epoch"], row["agent"]) == ("done", 2, "claude")
        assert read_conversation(home.session(record.id)) == talk
        assert len(claude.transcripts) == 1
        secret = KEY.encode()
        assert not [path for path in home.path.rglob("*") if path.is_file() and secret in path.read_bytes()], "a secret on disk"


def test_a_lost_transcript_is_put_back_from_the_checkpoint(home: Home, make_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        claude = make_home(model.root)
        work = Work(claude.work)
        record = run_claude(home, claude, FREE, "-p", "work on the heron")
        done = cli("checkpoint", "coder", home=home)
        assert done.returncode == 0, done.stderr
        assert record.agent is not None
        os.kill(record.agent.pid, signal.SIGSTOP)  # it must not write while its files are taken away
        for path in claude.transcripts:
            path.unlink()
        kill(record.agent.pid)
        assert "work on the heron" in wait_return(model).said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        [path] = claude.transcripts
        assert "work on the heron" in path.read_text()


def test_the_interactive_program_comes_back_and_takes_the_next_words(home: Home, make_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        claude = make_home(model.root)
        work = Work(claude.work)
        record = run_claude(home, claude, FREE, "work on the heron")
        assert record.agent is not None
        kill(record.agent.pid)
        assert "work on the heron" in wait_return(model).said_by("user")
        wait_until(lambda: "finished" in cli("logs", "coder", home=home).stdout, what="the answer on the screen", every_s=0.3)
        assert work.ticks.stat().st_size == work.ticks_at_return
        sent = cli("send", "coder", "remember this", home=home)
        assert sent.returncode == 0, sent.stderr
        last = wait_until(
            lambda: [ask for ask in model.working_asks() if ask.last_user == "remember this"], what="the next words"
        )[-1]
        assert "work on the heron" in last.said_by("user")
        assert cli("kill", "coder", home=home).returncode == 0
        assert not [process for process in find_home_processes(home) if "claude" in process.name()]


def test_a_permission_prompt_shows_as_waiting_and_refuses_what_is_sent(home: Home, make_home: Make) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("touch asked.txt")) as model:
        claude = make_home(model.root)
        words = ["run", "-d", "--name", "coder", "--cwd", str(claude.work), "--", "claude", "--model", "x", "ask me"]
        assert cli(*words, home=home, env=claude.environment).returncode == 0

        def state() -> str:
            return str(cli_json("ps", "--json", home=home)[0]["state"])

        wait_until(lambda: state() == "waiting", timeout_s=20, what="the state waiting", every_s=0.2)
        refused = cli("send", "coder", "y", home=home)
        assert refused.returncode == 5, refused.stderr
        assert not (claude.work / "asked.txt").exists()
