"""A real Codex session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from codex_home import CodexHome
from interrupted import Work, check_next_words, kill_part, run_coder, wait_permission_prompt
from model_server import ModelServer, Shell
from support import cli, cli_json, end_home_processes, find_home_processes

from coordinator.agents.codex import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

Make = Callable[[str], CodexHome]
HEADLESS = ("codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check", "work on the heron")


@pytest.mark.parametrize("which", ["agent", "keeper", "keeper and agent"])
def test_a_killed_session_comes_back_in_its_own_conversation(
    home: Home, make_codex_home: Make, tmp_path: Path, which: str
) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        codex = make_codex_home(model.url)
        work = Work(codex.work, GO_ON)
        record, talk = run_coder(home, codex, *HEADLESS)
        assert record.agent is not None
        assert record.owner is not None
        assert os.path.realpath(f"/proc/{record.agent.pid}/exe").endswith("/bin/codex")
        kill_part(record, which)

        ask = work.wait_return(model)
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
        work = Work(codex.work, GO_ON)
        run_coder(home, codex, *HEADLESS)
        end_home_processes(home)
        parked = cli("recover", "--all", "--yes", home=home)
        assert "SCRIPTED_KEY" in parked.stdout + parked.stderr
        [row] = cli_json("ps", "--json", home=home)
        assert row["state"] == "parked"
        assert "SCRIPTED_KEY" in row["reason"]
        recovered = cli("recover", "coder", "--yes", home=home, env=codex.environment)
        assert recovered.returncode == 0, recovered.stderr
        assert "work on the heron" in work.wait_return(model).said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        assert work.ticks.stat().st_size == work.ticks_at_return


def test_a_lost_transcript_is_put_back_from_the_checkpoint(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        codex = make_codex_home(model.url)
        work = Work(codex.work, GO_ON)
        record, _ = run_coder(home, codex, *HEADLESS)
        done = cli("checkpoint", "coder", home=home)
        assert done.returncode == 0, done.stderr
        assert record.agent is not None
        os.kill(record.agent.pid, signal.SIGSTOP)  # it must not write while its files are taken away
        for path in (codex.home / ".codex").rglob("*"):
            if path.is_file() and path.name != "config.toml":
                path.unlink()
        kill_part(record)
        ask = work.wait_return(model)
        assert "work on the heron" in ask.said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        [rollout] = codex.rollouts
        assert "work on the heron" in rollout.read_text()


def test_the_interactive_program_comes_back_and_takes_the_next_words(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        codex = make_codex_home(model.url)
        codex.configure('sandbox_mode = "danger-full-access"\napproval_policy = "never"\n')
        work = Work(codex.work, GO_ON)
        record, _ = run_coder(home, codex, "codex", "work on the heron")
        assert record.agent is not None
        kill_part(record)
        check_next_words(home, model, work)
        assert cli("kill", "coder", home=home).returncode == 0
        assert not [process for process in find_home_processes(home) if "codex" in process.name()]


def test_a_permission_prompt_shows_as_waiting_and_refuses_what_is_sent(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("echo x > asked.txt", escalate=True)) as model:
        codex = make_codex_home(model.url)
        wait_permission_prompt(home, codex, "codex", "-a", "on-request", "-s", "read-only", "ask me")
        refused = cli("send", "coder", "y", home=home)
        assert refused.returncode == 5, refused.stderr
        assert not (codex.work / "asked.txt").exists()
