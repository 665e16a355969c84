"""Hooks in a real agent: what it does is written down, edits of others' claims are refused, letters reach the model once."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import CodexHome
from model_server import Ask, ModelServer, Shell
from support import cli, cli_json, wait_until

from coordinator.paths import Home
from coordinator.sessions.conversation import read_conversation
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry

pytestmark = pytest.mark.agents

Make = Callable[[str], CodexHome]

PATCH = "apply_patch <<'EOF'\n*** Begin Patch\n*** Add File: plan.md\n+mine\n*** End Patch\nEOF\n"


class Crew:
    """A Codex session named coder with hooks installed, beside a session named other that runs nothing of interest."""

    def __init__(self, home: Home, codex: CodexHome) -> None:
        self.home, self.codex = home, codex
        self.run("hooks", "install", "--agent", "codex", "--yes")
        self.run("run", "-d", "--name", "other", "-w", "shop", "--", "sleep", "300")

    def run(self, *words: str, **environment: str) -> str:
        done = cli(*words, home=self.home, env={**self.codex.environment, **environment}, cwd=self.codex.work)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, prompt: str, **environment: str) -> None:
        words = ("codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check", prompt)
        self.run("run", "-d", "--name", "coder", "-w", "shop", "--", *words, **environment)

    @property
    def coder(self) -> SessionRecord:
        return Registry(self.home).find("coder")

    def wait_done(self) -> None:
        self.run("wait", "coder", "--timeout", "30s")
        assert self.coder.outcome == "done"

    def events(self) -> list[dict[str, Any]]:
        content = Journal(self.home.session(self.coder.id)).read()
        return [entry.body for entry in content.entries if entry.kind == "hook"]

    def letters(self) -> list[dict[str, Any]]:
        return list(cli_json("inbox", "coder", "--all", "--json", home=self.home))


def test_what_the_agent_does_is_written_into_the_journal(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: "all done" if ask.after_tool else Shell("sleep 0.2; echo hi")) as model:
        crew = Crew(home, make_codex_home(model.url))
        crew.start("say hi")
        crew.wait_done()
    events = crew.events()
    assert [event["event"] for event in events] == [
        "session-start", "prompt", "tool-start", "tool-end", "turn-end", "session-end"
    ]  # fmt: skip
    assert events[1]["text"] == "say hi"
    assert events[2]["command"] == "sleep 0.2; echo hi"
    assert events[3]["duration_s"] >= 0.2
    assert events[4]["text"] == "all done"
    conversation = read_conversation(home.session(crew.coder.id))
    assert conversation is not None
    assert conversation.transcript == str(crew.codex.rollouts[-1])


def test_an_edit_of_what_another_has_claimed_is_refused_and_the_agent_told_by_whom(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: "I leave it" if ask.after_tool else Shell(PATCH)) as model:
        crew = Crew(home, make_codex_home(model.url))
        crew.run("claim", "plan.md", "-s", "other")
        crew.start("write the plan", CREWKEEP_CLAIM_MODE="enforce")
        crew.wait_done()
        refused = model.working_asks()[-1].tool_outputs[-1]
    assert "claimed by session other" in refused
    assert "until" in refused
    assert not (crew.codex.work / "plan.md").exists()


def test_with_advice_the_edit_is_made_and_the_model_warned(home: Home, make_codex_home: Make) -> None:
    with ModelServer(lambda ask: "written" if ask.after_tool else Shell(PATCH)) as model:
        crew = Crew(home, make_codex_home(model.url))
        crew.run("claim", "plan.md", "-s", "other")
        crew.start("write the plan")
        crew.wait_done()
        assert "claimed by session other" in model.working_asks()[-1].text
    assert (crew.codex.work / "plan.md").read_text() == "mine\n"


def test_a_letter_is_in_the_next_request_once_and_then_read(home: Home, make_codex_home: Make) -> None:
    told: list[str] = []

    def answer(ask: Ask) -> str | Shell:
        if len(ask.tool_outputs) == 3:
            return "thank you"
        if len(ask.tool_outputs) == 1 and not told:
            told.append(crew.run("tell", "coder", "the schema is v2 ✓"))
        return Shell("echo working")

    with ModelServer(answer) as model:
        crew = Crew(home, make_codex_home(model.url))
        crew.start("work on")
        crew.wait_done()
        asks = model.working_asks()
    assert "the schema is v2 ✓" not in asks[1].text
    assert [ask.text.count("the schema is v2 ✓") for ask in asks[2:]] == [1, 1]
    assert "from user, another session" in asks[2].text
    assert [letter["state"] for letter in crew.letters()] == ["read"]


def test_a_letter_that_was_given_to_a_killed_agent_is_not_given_again_and_one_that_was_not_is(
    home: Home, make_codex_home: Make
) -> None:
    """Killed after the model saw one letter, and before any hook could bring the other."""

    def answer(ask: Ask) -> str | Shell:
        if "again" in ask.text:
            return "good"
        if ask.last_user.startswith("You were interrupted"):
            return Shell("echo again")
        return Shell("touch begun; sleep 300")

    with ModelServer(answer) as model:
        crew = Crew(home, make_codex_home(model.url))
        crew.start("wait first", CREWKEEP_START_DELAY_S="0.01")
        wait_until((crew.codex.work / "begun").exists, what="the tool call")
        crew.run("tell", "coder", "letter one")
        psutil.Process(crew.coder.agent.pid).send_signal(signal.SIGKILL)  # type: ignore[union-attr]
        crew.wait_done()
        last = model.working_asks()[-1]
    assert last.text.count("letter one") == 1
    assert [letter["state"] for letter in crew.letters()] == ["read"]


def test_without_hooks_a_letter_is_typed_when_the_agent_waits_but_never_into_a_permission_prompt(
    home: Home, make_codex_home: Make
) -> None:
    def answer(ask: Ask) -> str | Shell:
        if ask.after_tool or "another session" in ask.last_user:
            return "heard"
        return Shell("echo x > asked.txt", escalate=True)

    with ModelServer(answer) as model:
        codex = make_codex_home(model.url)
        environment = {**codex.environment, "CREWKEEP_HEARTBEAT_INTERVAL_S": "0.2"}
        words = ("codex", "-a", "on-request", "-s", "read-only", "write it")
        done = cli("run", "-d", "--name", "coder", "--", *words, home=home, env=environment, cwd=codex.work)
        assert done.returncode == 0, done.stderr

        def state() -> str:
            return str(cli_json("inspect", "coder", "--json", home=home)["state"])

        wait_until(lambda: state() == "waiting", timeout_s=30, what="the permission prompt")
        cli("tell", "coder", "the tests are\x07 green", home=home)
        wait_until(lambda: Registry(home).find("coder").agent is not None, what="the agent")
        assert state() == "waiting", "the letter was not taken for an answer"
        assert cli_json("inbox", "coder", "--json", home=home)[0]["state"] == "new"
        keeper = Registry(home).find("coder")
        assert keeper.agent is not None
        press(home, keeper, b"y")
        ask = wait_until(
            lambda: next((ask for ask in model.working_asks() if "the tests are" in ask.last_user), None),
            timeout_s=30,
            what="the letter in a request",
        )
        assert ask.text.count("the tests are") == 1
        wait_until(lambda: cli_json("inbox", "coder", "-a", "--json", home=home)[0]["state"] != "new", what="its being handed")
        assert cli("kill", "coder", home=home).returncode == 0


def press(home: Home, record: SessionRecord, keys: bytes) -> None:
    """Press keys as somebody who is attached."""
    from coordinator.system import sockets
    from crewkeep.terminal import frames
    from crewkeep.terminal.frames import Kind

    with sockets.connect(home.session(record.id).socket, 5) as connection:
        connection.sendall(frames.encode(Kind.ATTACH, {"rows": 40, "columns": 120}))
        for _ in range(3):  # keys in the prompt's first moment are lost
            connection.sendall(frames.encode(Kind.INPUT, keys))
            wait_until(lambda: connection.recv(1 << 16), what="the screen")


def test_with_a_broken_home_the_agent_still_works(home: Home, make_codex_home: Make, tmp_path: Path) -> None:
    import subprocess

    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell(PATCH)) as model:
        codex = make_codex_home(model.url)
        crew = Crew(home, codex)
        broken = {"CREWKEEP_HOME": str(tmp_path / "nowhere"), "CREWKEEP_SESSION": "lost", "CREWKEEP_EPOCH": "1"}
        done = subprocess.run(
            ["codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check", "write"],
            env={**crew.codex.environment, **broken},
            cwd=codex.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert (codex.work / "plan.md").exists()
        (codex.work / "plan.md").unlink()
        enforced = {**broken, "CREWKEEP_CLAIM_MODE": "enforce"}
        subprocess.run(
            ["codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check", "write"],
            env={**crew.codex.environment, **enforced},
            cwd=codex.work,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert not (codex.work / "plan.md").exists()
        assert "claims are enforced and cannot be asked for" in model.working_asks()[-1].tool_outputs[-1]


def test_hooks_that_are_installed_are_trusted_and_removed_without_a_trace(home: Home, make_codex_home: Make) -> None:
    codex = make_codex_home("http://127.0.0.1:9/v1")
    path = codex.home / ".codex" / "hooks.json"
    theirs = '{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"echo mine"}]}]}}'
    path.write_text(theirs)
    crew = Crew(home, codex)
    rows = json.loads(crew.run("hooks", "status", "--agent", "codex", "--json"))
    assert [(row["installed"], row["problem"]) for row in rows] == [("yes", None)]
    crew.run("hooks", "remove", "--agent", "codex", "--yes")
    assert path.read_text() == theirs
