"""A usage limit parks a real agent's session until it ends, and then it goes on in its conversation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from claude_home import ClaudeHome
from codex_home import CodexHome
from model_server import Answer, Ask, Fault, ModelServer
from programs import GEMINI
from support import cli, cli_json, wait_until

from coordinator.agents.codex import GO_ON
from coordinator.paths import Home
from coordinator.sessions.registry import Registry

pytestmark = pytest.mark.agents

Make = Callable[[str], CodexHome]
HEADLESS = ("codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check", "count to three")


class Limited:
    """A model whose account is at its limit until a time, from the first request on."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.until: float | None = None

    def answer(self, ask: Ask) -> Answer:
        if self.until is None:
            self.until = int(time.time() + self._seconds) + 1
        if time.time() >= self.until:
            return "three"
        more = {"type": "usage_limit_reached", "plan_type": "pro", "resets_at": self.until}
        headers = {"x-codex-primary-used-percent": "100", "x-codex-primary-reset-at": str(self.until)}
        headers["x-codex-primary-window-minutes"] = "300"
        return Fault(429, "The usage limit has been reached", headers=headers, more=more)


def start(home: Home, codex: CodexHome, *words: str) -> None:
    environment = {**codex.environment, "CREWKEEP_HEARTBEAT_INTERVAL_S": "0.2"}
    done = cli("run", "-d", "--name", "coder", "-w", "shop", "--", *words, home=home, env=environment, cwd=codex.work)
    assert done.returncode == 0, done.stderr


def row(home: Home) -> dict[str, Any]:
    return dict(cli_json("inspect", "coder", "--json", home=home))


def wait_state(home: Home, *states: str, timeout_s: float = 30) -> dict[str, Any]:
    return wait_until(
        lambda: found if (found := row(home))["state"] in states else None,
        timeout_s=timeout_s,
        what=f"one of {states}",
        every_s=0.1,
    )


@pytest.mark.parametrize("words", [HEADLESS, ("codex", "count to three")], ids=["headless", "interactive"])
def test_a_limit_parks_the_session_until_its_end_and_then_it_goes_on(
    home: Home, make_codex_home: Make, words: tuple[str, ...]
) -> None:
    limited = Limited(6)
    with ModelServer(limited.answer) as model:
        start(home, make_codex_home(model.url), *words)
        parked = wait_state(home, "parked")
        assert "usage limit" in parked["reason"]
        assert limited.until is not None
        resumes_at = Registry(home).find("coder").resumes_at
        assert resumes_at == pytest.approx(limited.until, abs=1)
        asked = len(model.working_asks())
        ask = wait_until(
            lambda: next((ask for ask in model.working_asks()[asked:] if ask.last_user == GO_ON), None),
            timeout_s=30,
            what="the word to go on",
        )
        assert ask.at >= limited.until
        assert "count to three" in ask.said_by("user")
        if words is HEADLESS:
            assert wait_state(home, "done")["epoch"] == 2
        else:
            assert cli("kill", "coder", home=home).returncode == 0


def test_gemini_is_parked_until_its_daily_quota_is_there_again(home: Home, tmp_path: Path) -> None:
    until = 0.0

    def answer(ask: Ask) -> Answer:
        nonlocal until
        until = until or time.time() + 8
        if (rest_s := until - time.time()) <= 0:
            return "three"
        quota = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "RequestsPerDay"}]}
        return Fault(429, f"You exceeded your current quota. Please retry in {rest_s:.1f}s.", more={"details": [quota]})

    with ModelServer(answer) as model:
        gemini = GEMINI.install(model.root, tmp_path)
        words = ("run", "-d", "--name", "coder", "-w", "shop", "--", *GEMINI.headless, "count to three")
        assert cli(*words, home=home, env=gemini.environment, cwd=gemini.work).returncode == 0
        assert "usage limit" in wait_state(home, "parked")["reason"]
        assert wait_state(home, "done")["epoch"] == 2
        assert model.working_asks()[-1].at >= until
        assert "count to three" in model.working_asks()[-1].said_by("user")


def test_claude_code_is_parked_until_the_end_that_it_tells(home: Home, make_claude_home: Callable[[str], ClaudeHome]) -> None:
    until = int(time.time()) // 60 * 60 + 7200  # it is told to the minute
    limited = True
    headers = {"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": str(until)}
    headers["anthropic-ratelimit-unified-representative-claim"] = "five_hour"
    with ModelServer(lambda ask: Fault(429, "too much", headers=headers) if limited else "three") as model:
        claude = make_claude_home(model.root)
        environment = {**claude.environment, "CLAUDE_CODE_OAUTH_TOKEN": "sk-ant-oat01-nobody-asks"}
        del environment["ANTHROPIC_API_KEY"]  # only users of a subscription have such limits
        words = ("run", "-d", "--name", "coder", "-w", "shop", "--", claude.command, "-p", "count to three")
        assert cli(*words, home=home, env=environment, cwd=claude.work).returncode == 0
        wait_state(home, "parked")
        assert Registry(home).find("coder").resumes_at == until
        limited = False
        assert cli("recover", "coder", "--yes", home=home, env=environment).returncode == 0
        wait_state(home, "done")
        assert "count to three" in model.working_asks()[-1].said_by("user")


def test_a_parked_session_goes_on_also_if_its_keeper_was_killed_meanwhile(home: Home, make_codex_home: Make) -> None:
    limited = Limited(6)
    with ModelServer(limited.answer) as model:
        start(home, make_codex_home(model.url), *HEADLESS)
        wait_state(home, "parked")
        owner = Registry(home).find("coder").owner
        assert owner is not None
        os.kill(owner.pid, signal.SIGKILL)
        done = wait_state(home, "done")
        assert done["epoch"] == 2
        assert model.working_asks()[-1].at >= (limited.until or 0)


def test_a_user_may_resume_a_parked_session_at_once(home: Home, make_codex_home: Make) -> None:
    limited = Limited(3600)
    with ModelServer(limited.answer) as model:
        start(home, make_codex_home(model.url), *HEADLESS)
        wait_state(home, "parked")
        limited.until = 0
        done = cli("recover", "coder", "--yes", home=home, env={"SCRIPTED_KEY": "nobody-asks"})
        assert done.returncode == 0, done.stderr
        wait_state(home, "done")
        assert len(model.working_asks()) >= 2


def test_a_stop_ends_a_parked_session(home: Home, make_codex_home: Make) -> None:
    with ModelServer(Limited(3600).answer) as model:
        start(home, make_codex_home(model.url), *HEADLESS)
        wait_state(home, "parked")
        assert cli("stop", "coder", home=home).returncode == 0
        assert row(home)["state"] == "stopped"


def test_with_restart_never_a_limit_is_a_failure_and_says_so(home: Home, make_codex_home: Make) -> None:
    with ModelServer(Limited(3600).answer) as model:
        codex = make_codex_home(model.url)
        words = ("run", "-d", "--name", "coder", "--restart", "never", "--", *HEADLESS)
        assert cli(*words, home=home, env=codex.environment, cwd=codex.work).returncode == 0
        assert "limit" in wait_state(home, "failed")["reason"]
