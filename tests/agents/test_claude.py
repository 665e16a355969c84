"""A real Claude Code session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from claude_home import KEY, ClaudeHome
from interrupted import Work, check_next_words, kill_part, run_coder, wait_permission_prompt
from model_server import ModelServer, Shell
from support import cli, cli_json, find_home_processes

from coordinator.agents.claude import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

Make = Callable[[str], ClaudeHome]
FREE = "--dangerously-skip-permissions"


@pytest.mark.parametrize("which", ["agent", "keeper and agent"])
def test_a_killed_session_comes_back_in_its_own_conversation(home: Home, make_claude_home: Make, which: str) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        claude = make_claude_home(model.root)
        work = Work(claude.work, GO_ON)
        record, talk = run_coder(home, claude, "claude", "--model", "x", FREE, "-p", "work on the heron")
        assert record.agent is not None
        assert record.owner is not None
        kill_part(record, which)

        assert "work on the heron" in work.wait_return(model).said_by("user"), "the earlier turns are in the request"
        ended = cli("wait", "coder", "--timeout", "30s", home=home)
        assert ended.returncode == 0, ended.stderr
        assert work.ticks.stat().st_size == work.ticks_at_return, "the killed tool wrote on beside the new incarnation"
        [row] = cli_json("ps", "-a", "--json", home=home)
        assert (row["state"], row["epoch"], row["agent"]) == ("done", 2, "claude")
        assert read_conversation(home.session(record.id)) == talk
        assert len(claude.transcripts) == 1
        secret = KEY.encode()
        assert not [path for path in home.path.rglob("*") if path.is_file() and secret in path.read_bytes()], "a secret on disk"


def test_a_lost_transcript_is_put_back_from_the_checkpoint(home: Home, make_claude_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        claude = make_claude_home(model.root)
        work = Work(claude.work, GO_ON)
        record, _ = run_coder(home, claude, "claude", "--model", "x", FREE, "-p", "work on the heron")
        done = cli("checkpoint", "coder", home=home)
        assert done.returncode == 0, done.stderr
        assert record.agent is not None
        os.kill(record.agent.pid, signal.SIGSTOP)  # it must not write while its files are taken away
        for path in claude.transcripts:
            path.unlink()
        kill_part(record)
        assert "work on the heron" in work.wait_return(model).said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        [path] = claude.transcripts
        assert "work on the heron" in path.read_text()


def test_the_interactive_program_comes_back_and_takes_the_next_words(home: Home, make_claude_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        claude = make_claude_home(model.root)
        work = Work(claude.work, GO_ON)
        record, _ = run_coder(home, claude, "claude", "--model", "x", FREE, "work on the heron")
        assert record.agent is not None
        kill_part(record)
        check_next_words(home, model, work)
        assert cli("kill", "coder", home=home).returncode == 0
        assert not [process for process in find_home_processes(home) if "claude" in process.name()]


def test_a_permission_prompt_shows_as_waiting_and_refuses_what_is_sent(home: Home, make_claude_home: Make) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("touch asked.txt")) as model:
        claude = make_claude_home(model.root)
        wait_permission_prompt(home, claude, "claude", "--model", "x", "ask me")
        refused = cli("send", "coder", "y", home=home)
        assert refused.returncode == 5, refused.stderr
        assert not (claude.work / "asked.txt").exists()
