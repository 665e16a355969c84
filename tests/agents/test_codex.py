"""A real Codex session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CodexHome
from model_server import Ask, ModelServer, Shell
from support import cli, cli_json, end_home_processes, find_home_processes, wait_until

from coordinator.agents.codex import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry

pytestmark = pytest.mark.agents

Make = Callable[[str], CodexHome]

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
        if ask.after_tool and ask.last_user == GO_ON:
            return "finished"
        if "remember" in ask.last_user:
            return "the heron, noted"
        return Shell(f"{WRITER}\nwhile [ ! -s ticks.txt ]; do sleep 0.01; done; echo begun > begun.txt; sleep 300")


def run_codex(home: Home, codex: CodexHome, *words: str) -> SessionRecord:
    """Start a session named coder and wait until its tool is at work and its conversation is known."""
    cli_json(
        "run",
        "-d",
        "--json",
        "--name",
        "coder",
        "--cwd",
        str(codex.work),
        "--",
        "codex",
        *words,
        home=home,
        env=codex.environment,
    )
    registry = Registry(home)
    wait_until((codex.work / "begun.txt").exists, timeout_s=20, what="the tool call")
    record = registry.find("coder")
    wait_until(lambda: read_conversation(home.session(record.id)), what="the conversation")
    return registry.find("coder")


def kill(*pids: int) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def wait_return(model: ModelServer) -> Ask:
    """Return the first request of the next incarnation."""
    return wait_until(
        lambda: next((ask for ask in model.working_asks() if ask.last_user == GO_ON), None), timeout_s=20, what="the return"
    )


@pytest.mark.parametrize("which", ["agent", "keeper", "keeper and agent"])
def test_a_killed_session_comes_back_in_its_own_conversation(
    home: Home, make_codex_home: Make, tmp_path: Path, which: str
) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        codex = make_codex_home(model.url)
        work = Work(codex.work)
        record = run_codex(home, codex, "exec", "-s", "danger-full-access", "--skip-git-repo-check", "work on the heron")
        assert record.agent is not None
        assert record.owner is not None
        assert os.path.realpath(f"/proc/{record.agent.pid}/exe").endswith("/bin/codex")
        talk = read_conversation(home.session(record.id))
        kill(*([record.owner.pid] if "keeper" in which else []), *([record.agent.pid] if "agent" in which else []))

        ask = wait_return(model)
        assert "work on the heron" in ask.said_by("user"), "the earlier turns are in the request"
        assert ask.tool_outputs == ["aborted"], "the model is told that the tool call was cut"
        ended = cli("wait", "coder", "--timeout", "30s", home=home)
        assert ended.returncode == 0, ended.stderr
        assert work.ticks.stat().st_size == work.ticks_at_return, "the killed tool wrote on beside the new incarnation"
        [row] = cli_json("ps", "-a", "--json", home=home)
        assert (row["state"], row["epoch"], row["agent"]) == ("done", 2, "codex")
        assert read_conversation(home.session(record.id)) == talk
        assert len(codex.rollouts) == 1
        assert not [path for path in home.path.rglob("*") if path.is_file() and b"nobody-asks" in path.read_bytes()], (
            "a secret on disk"
        )


def test_after_everything_was_killed_recover_brings_the_conversation_back_once_the_secret_is_there(
    home: Home, make_codex_home: Make
) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        codex = make_codex_home(model.url)
        work = Work(codex.work)
        run_codex(home, codex, "exec", "-s", "danger-full-access", "--skip-git-repo-check", "work on the heron")
        end_home_processes(home)
        parked = cli("recover", "--all", "--yes", home=home)
        assert "SCRIPTED_KEY" in parked.stdout + parked.stderr
        [row] = cli_json("ps", "--json", home=home)
        assert row["state"] == "parked"
        assert "SCRIPTED_KEY" in row["reason"]
        recovered = cli("recover", "coder", "--yes", home=home, env=codex.environment)
        assert recovered.returncode == 0, recovered.stderr
        assert "work on the heron" in wait_return(model).said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        assert work.ticks.stat().st_size == work.ticks_at_return


def test_a_lost_transcript_is_put_back_from_the_checkpoint(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        codex = make_codex_home(model.url)
        work = Work(codex.work)
        record = run_codex(home, codex, "exec", "-s", "danger-full-access", "--skip-git-repo-check", "work on the heron")
        done = cli("checkpoint", "coder", home=home)
        assert done.returncode == 0, done.stderr
        assert record.agent is not None
        os.kill(record.agent.pid, signal.SIGSTOP)  # it must not write while its files are taken away
        for path in (codex.home / ".codex").rglob("*"):
            if path.is_file() and path.name != "config.toml":
                path.unlink()
        kill(record.agent.pid)
        ask = wait_return(model)
        assert "work on the heron" in ask.said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        [rollout] = codex.rollouts
        assert "work on the heron" in rollout.read_text()


def test_the_interactive_program_comes_back_and_takes_the_next_words(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        codex = make_codex_home(model.url)
        codex.configure('sandbox_mode = "danger-full-access"\napproval_policy = "never"\n')
        work = Work(codex.work)
        record = run_codex(home, codex, "work on the heron")
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
        assert not [process for process in find_home_processes(home) if "codex" in process.name()]


def test_a_permission_prompt_shows_as_waiting_and_refuses_what_is_sent(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("echo x > asked.txt", escalate=True)) as model:
        codex = make_codex_home(model.url)
        words = [
            "run",
            "-d",
            "--name",
            "coder",
            "--cwd",
            str(codex.work),
            "--",
            "codex",
            "-a",
            "on-request",
            "-s",
            "read-only",
            "ask me",
        ]
        assert cli(*words, home=home, env=codex.environment).returncode == 0

        def state() -> str:
            return str(cli_json("ps", "--json", home=home)[0]["state"])

        wait_until(lambda: state() == "waiting", timeout_s=20, what="the state waiting", every_s=0.2)
        refused = cli("send", "coder", "y", home=home)
        assert refused.returncode == 5, refused.stderr
        assert not (codex.work / "asked.txt").exists()
