"""Hooks in real agents: what they do is written down, edits of others' claims are refused, letters reach the model once."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from codex_home import CodexHome
from model_server import Answer, Ask, Call, ModelServer, Shell
from programs import OPENCODE, Installed, Program, with_each
from running import SLOW_S
from support import cli, cli_json, wait_until

from coordinator.agents import get_agent
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

Make = Callable[[str], CodexHome]


class Crew:
    """A session named coder of an agent with hooks installed, beside a session named other that runs nothing of interest."""

    def __init__(self, home: Home, installed: Installed) -> None:
        self.home, self.installed = home, installed
        installed.configure("hooks", home)
        self.run("run", "-d", "--name", "other", "-w", "shop", "--", "sleep", "300")

    def run(self, *words: str, **environment: str) -> str:
        done = cli(*words, home=self.home, env={**self.installed.environment, **environment}, cwd=self.installed.work)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def start(self, prompt: str, **environment: str) -> None:
        self.run("run", "-d", "--name", "coder", "-w", "shop", "--", *self.installed.program.headless, prompt, **environment)

    @property
    def coder(self) -> SessionRecord:
        return Registry(self.home).find("coder")

    @property
    def conversation(self) -> Conversation:
        found = read_conversation(self.home.session(self.coder.id))
        assert found is not None
        return found

    def wait_done(self) -> None:
        cli("wait", "coder", "--timeout", "35s", home=self.home)
        assert self.coder.outcome == "done", cli("logs", "coder", home=self.home).stdout[-2000:]

    def events(self) -> list[dict[str, Any]]:
        content = Journal(self.home.session(self.coder.id)).read()
        return [entry.body for entry in content.entries if entry.kind == "hook"]

    def letters(self) -> list[dict[str, Any]]:
        return list(cli_json("inbox", "coder", "--all", "--json", home=self.home))


@with_each
def test_what_the_agent_does_is_written_into_the_journal(program: Program, home: Home, tmp_path: Path) -> None:
    answers = [Shell("sleep 0.2; echo hi"), Shell("echo no; exit 3"), "all done"]
    with ModelServer(lambda ask: answers[len(ask.tool_outputs)]) as model:
        crew = Crew(home, program.install(model.root, tmp_path))
        crew.start("say hi")
        crew.wait_done()
    events = crew.events()
    assert [event["event"] for event in events] == [
        "session-start", "prompt", "tool-start", "tool-end", "tool-start", "tool-end", "turn-end", "session-end"
    ]  # fmt: skip
    assert events[1]["text"].strip('"') == "say hi"  # OpenCode quotes words of its command line
    assert events[2]["command"] == "sleep 0.2; echo hi"
    assert events[3]["duration_s"] >= 0.2
    assert (events[3]["ok"], events[5]["ok"]) == (True, False)
    assert events[6]["text"] == "all done"


@with_each
def test_an_edit_of_what_another_has_claimed_is_refused_and_the_agent_told_by_whom(
    program: Program, home: Home, tmp_path: Path
) -> None:
    with ModelServer(lambda ask: "I leave it" if ask.after_tool else program.write(installed.work / "plan.md", "mine")) as model:
        installed = program.install(model.root, tmp_path)
        crew = Crew(home, installed)
        crew.run("claim", "plan.md", "-s", "other")
        crew.start("write the plan", CREWKEEP_CLAIM_MODE="enforce")
        crew.wait_done()
        refused = model.working_asks()[-1].tool_outputs[-1]
    assert "claimed by session other" in refused
    assert "until" in refused
    assert not (installed.work / "plan.md").exists()


@with_each
def test_with_advice_the_edit_is_made_and_the_model_warned_and_a_letter_is_in_the_next_request_once_and_then_read(
    program: Program, home: Home, tmp_path: Path
) -> None:
    told: list[str] = []

    def answer(ask: Ask) -> Answer:
        if not told:
            told.append(crew.run("tell", "coder", "the schema is v2 ✓"))
        return [program.write(installed.work / "plan.md", "mine"), Shell("echo working"), "thank you"][len(ask.tool_outputs)]

    with ModelServer(answer) as model:
        installed = program.install(model.root, tmp_path)
        crew = Crew(home, installed)
        crew.run("claim", "plan.md", "-s", "other")
        crew.run("tell", "other", "not for the coder")
        crew.start("write the plan")
        crew.wait_done()
        asks = model.working_asks()
    assert (installed.work / "plan.md").read_text() == "mine\n"
    assert [ask.text.count("claimed by session other") for ask in asks] == [0, 1, 1]
    assert [ask.text.count("the schema is v2 ✓") for ask in asks] == [0, 1, 1]
    assert "from user, another session" in asks[1].text
    assert "not for the coder" not in asks[-1].text
    (letter,) = crew.letters()
    assert letter["state"] == "read"
    assert get_agent(program.name).holds_text(crew.conversation, letter["id"]), "the transcript proves that it arrived"


@with_each
def test_a_letter_that_was_given_to_a_killed_agent_is_not_given_again_and_one_that_was_not_is(
    program: Program, home: Home, tmp_path: Path
) -> None:
    """Killed after the model saw one letter, and before any hook could bring the other."""

    told: list[str] = []

    def answer(ask: Ask) -> Answer:
        if "letter two" in ask.text:
            return "good"
        if ask.after_tool:
            return Shell("touch begun; sleep 300")
        if not told:
            told.append(crew.run("tell", "coder", "letter one"))
        return Shell("echo before")

    with ModelServer(answer) as model:
        crew = Crew(home, program.install(model.root, tmp_path))
        crew.start("wait first", CREWKEEP_START_DELAY_S="0.01")
        wait_until((crew.installed.work / "begun").exists, timeout_s=SLOW_S, what="the tool call")
        crew.run("tell", "coder", "letter two")
        psutil.Process(crew.coder.agent.pid).send_signal(signal.SIGKILL)  # type: ignore[union-attr]
        crew.wait_done()
        last = model.working_asks()[-1]
    assert last.text.count("letter two") == 1
    assert "letter one" in last.text
    assert "letter one" not in last.text.partition("You were interrupted")[2], "it is part of the past only"
    assert [letter["state"] for letter in crew.letters()] == ["read", "read"]


def test_what_a_helper_of_opencode_does_is_written_down_and_letters_wait_for_its_user(home: Home, tmp_path: Path) -> None:
    def answer(ask: Ask) -> Answer:
        if ask.last_user.startswith("LOOK"):
            if not ask.after_tool:
                crew.run("tell", "coder", "the schema is v2")
            return "looked" if ask.after_tool else Shell("echo looking")
        if ask.after_tool:
            return "all done"
        return Call("^task$", {"description": "look", "prompt": "LOOK around", "subagent_type": "general"})

    with ModelServer(answer) as model:
        crew = Crew(home, OPENCODE.install(model.root, tmp_path))
        crew.start("work on")
        crew.wait_done()
        asks = model.working_asks()
    events = [(event["event"], event.get("tool")) for event in crew.events() if event["event"] != "other"]
    assert events == [
        ("session-start", None), ("prompt", None), ("tool-start", "task"), ("tool-start", "bash"), ("tool-end", "bash"),
        ("tool-end", "task"), ("turn-end", None), ("session-end", None),
    ]  # fmt: skip
    helpers = [ask for ask in asks if ask.last_user.startswith("LOOK")]
    assert not any("the schema is v2" in ask.text for ask in helpers)
    assert asks[-1].text.count("the schema is v2") == 1
    assert crew.conversation.id in cli("inspect", "coder", "--json", home=home).stdout


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


@with_each
def test_with_a_broken_home_the_agent_still_works(program: Program, home: Home, tmp_path: Path) -> None:
    broken = {"CREWKEEP_HOME": str(tmp_path / "nowhere"), "CREWKEEP_SESSION": "lost", "CREWKEEP_EPOCH": "1"}
    with ModelServer(lambda ask: "fine" if ask.after_tool else program.write(plan, "mine")) as model:
        installed = program.install(model.root, tmp_path)
        plan = installed.work / "plan.md"
        installed.configure("hooks", home)
        installed.run_alone("write", **broken)
        assert plan.read_text() == "mine\n"
        plan.unlink()
        installed.run_alone("write", **broken, CREWKEEP_CLAIM_MODE="enforce")
        assert not plan.exists()
        assert "claims are enforced and cannot be asked for" in model.working_asks()[-1].tool_outputs[-1]


@pytest.mark.parametrize("is_trusted", [False, True], ids=["alone", "beside others"])
def test_hooks_that_are_installed_are_trusted_and_removed_without_a_trace(
    is_trusted: bool, home: Home, make_codex_home: Make
) -> None:
    codex = make_codex_home("http://127.0.0.1:9/v1")
    path = codex.home / ".codex" / "hooks.json"
    theirs = '{"hooks":{"Stop":[{"hooks":[{"type":"command","command":"echo mine"}]}]}}'
    path.write_text(theirs)
    config = path.with_name("config.toml")
    if is_trusted:
        config.write_text(f'{config.read_text()}\n[hooks.state]\n\n[hooks.state."{path}:stop:0:0"]\ntrusted_hash = "sha256:0"\n')
    trusted = config.read_text()

    def run(*words: str) -> str:
        done = cli("hooks", *words, "--agent", "codex", home=home, env=codex.environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("install", "--yes")
    rows = json.loads(run("status", "--json"))
    assert [(row["installed"], row["problem"]) for row in rows] == [("yes", None)]
    run("remove", "--yes")
    assert path.read_text() == theirs
    assert config.read_text() == trusted


def test_a_hook_of_a_repository_that_speaks_of_ours_is_not_trusted_for_its_user(home: Home, make_codex_home: Make) -> None:
    codex = make_codex_home("http://127.0.0.1:9/v1")
    config = codex.home / ".codex" / "config.toml"
    (codex.work / ".codex").mkdir()
    theirs = {"type": "command", "command": "touch taken # /x/crewkeep-hook codex"}
    (codex.work / ".codex" / "hooks.json").write_text(json.dumps({"hooks": {"SessionStart": [{"hooks": [theirs]}]}}))
    words = ("hooks", "install", "--agent", "codex", "--yes", "--json")
    (row,) = cli_json(*words, home=home, env=codex.environment, cwd=codex.work)
    assert row["trusted"] == config.read_text().count("trusted_hash") == 7
    assert str(codex.work / ".codex") not in config.read_text()
