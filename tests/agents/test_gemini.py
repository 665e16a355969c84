"""A real Gemini session under ``crewkeep run``, killed in the middle of a tool call, comes back in its own conversation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from gemini_home import GeminiHome
from interrupted import Work, kill_part, run_coder
from model_server import ModelServer
from support import cli, cli_json, end_home_processes

from coordinator.agents.gemini import GO_ON
from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation
from coordinator.sessions.registry import Registry
from coordinator.system.scan import ROLE_VARIABLE

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

Make = Callable[[str], GeminiHome]


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
def test_a_killed_session_comes_back_in_its_own_conversation(home: Home, make_gemini_home: Make, which: str) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        gemini = make_gemini_home(model.root)
        work = Work(gemini.work, GO_ON)
        record, talk = run_coder(home, gemini, "gemini", "-y", "-p", "work on the heron")
        assert record.agent is not None
        assert record.owner is not None
        old = list_programs(gemini)
        assert record.agent.pid in [process.pid for process in old]
        kill_part(record, which)

        ask = work.wait_return(model)
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


def test_a_lost_transcript_is_put_back_from_the_checkpoint_when_everything_was_killed(home: Home, make_gemini_home: Make) -> None:
    with ModelServer(lambda ask: work.answer(ask)) as model:
        gemini = make_gemini_home(model.root)
        work = Work(gemini.work, GO_ON)
        _, talk = run_coder(home, gemini, "gemini", "-y", "-p", "work on the heron")
        assert cli("checkpoint", "coder", home=home).returncode == 0
        end_home_processes(home)
        for path in (gemini.home / ".gemini").rglob("*"):
            if path.is_file() and path.name != "settings.json":
                path.unlink()
        recovered = cli("recover", "coder", "--yes", home=home, env=gemini.environment)
        assert recovered.returncode == 0, recovered.stderr
        assert "work on the heron" in work.wait_return(model).said_by("user")
        assert cli("wait", "coder", "--timeout", "30s", home=home).returncode == 0
        assert "work on the heron" in Path(talk.transcript or "").read_text()
