"""Two different real agents in one repository at once: they keep off each other's files and tell each other what matters."""

from __future__ import annotations

import shlex
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from model_server import Answer, Ask, Call, ModelServer, Shell
from programs import CODEX, GEMINI, OPENCODE, Program, join_names
from running import SLOW_S
from support import cli, cli_json

from coordinator.paths import Home
from coordinator.sessions.registry import Registry

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

#: What ann tells bob.
TOLD = "I write plan.md, take notes.md ✓"


class Steps:
    """What happened so far, across the threads of two model servers."""

    def __init__(self, *names: str) -> None:
        self._events = {name: threading.Event() for name in names}

    def note(self, name: str) -> None:
        self._events[name].set()

    def wait(self, name: str) -> None:
        assert self._events[name].wait(SLOW_S), f"{name} did not come"


class Ann:
    """The model of the session that claims a file, tells the other, and writes the file once the other has heard it."""

    def __init__(self, steps: Steps, repository: Path) -> None:
        self.steps, self.repository, self.number = steps, repository, 0
        self.program: Program | None = None

    def __call__(self, ask: Ask) -> Answer:
        if not any(name.endswith("tell") for name in ask.tools):
            return Shell("sleep 0.2")  # Codex asks before the server has started, and offers its tools in a later request
        self.number += 1
        if self.number == 1:
            return Call("claim$", {"what": "plan.md", "minutes": 5})
        if self.number == 2:
            self.steps.note("claimed")
            self.steps.wait("refused")
            return Call("tell$", {"session": "bob", "text": TOLD})
        if self.number == 3:
            self.steps.note("told")
            self.steps.wait("heard")
            assert self.program is not None
            return self.program.write(self.repository / "plan.md", "ann wrote it")
        return "done"


class Bob:
    """The model of the session that would write the same file, and is told to take another."""

    def __init__(self, steps: Steps, repository: Path) -> None:
        self.steps, self.repository, self.number = steps, repository, 0
        self.program: Program | None = None

    def __call__(self, ask: Ask) -> Answer:
        self.number += 1
        assert self.program is not None
        if self.number == 1:
            self.steps.wait("claimed")
            return self.program.write(self.repository / "plan.md", "bob wrote it")
        if self.number == 2:
            self.steps.note("refused")
            self.steps.wait("told")
            return Call("context_list$")  # what a server's tool answers has another shape than what a shell does
        if self.number == 3:
            self.steps.note("heard")
            return self.program.write(self.repository / "notes.md", "bob wrote it")
        return "done"


@pytest.mark.parametrize("agents", [(CODEX, GEMINI), (GEMINI, OPENCODE)], ids=join_names)
def test_two_different_agents_keep_off_each_others_files_and_tell_each_other(
    agents: tuple[Program, Program], home: Home, tmp_path: Path
) -> None:
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    steps = Steps("claimed", "refused", "told", "heard")
    with ExitStack() as stack:
        models = {}
        for name, agent, script in zip(("ann", "bob"), agents, (Ann(steps, repository), Bob(steps, repository)), strict=True):
            model = models[name] = stack.enter_context(ModelServer(script))
            script.program, installed = agent, agent.install(model.root, tmp_path / name)
            installed.configure("hooks", home)
            installed.configure("mcp", home)
            environment = {**installed.environment, "CREWKEEP_CLAIM_MODE": "enforce"}
            words = ("run", "-d", "--name", name, "--", *agent.headless, "work on the plan")
            done = cli(*words, home=home, env=environment, cwd=repository)
            assert done.returncode == 0, done.stderr
        for name in models:
            cli("wait", name, "--timeout", "80s", home=home, timeout_s=90)
        bob = models["bob"].working_asks()
    ann_record, bob_record = Registry(home).find("ann"), Registry(home).find("bob")
    assert (ann_record.outcome, bob_record.outcome) == ("done", "done")
    assert ann_record.workspace == bob_record.workspace
    assert "claimed by session ann" in bob[1].tool_outputs[-1]
    assert [ask.text.count(TOLD) for ask in bob] == [0, 0, 1, 1]
    assert "from ann, another session" in bob[2].text
    assert [letter["state"] for letter in cli_json("inbox", "bob", "--all", "--json", home=home)] == ["read"]
    assert (repository / "plan.md").read_text() == "ann wrote it\n"
    assert (repository / "notes.md").read_text() == "bob wrote it\n"
    assert cli_json("claims", "--json", home=home) == [], "they went with the session that held them"


def test_a_letter_waits_for_the_sessions_agent_and_is_not_given_to_one_that_it_started(home: Home, tmp_path: Path) -> None:
    def answer_inner(ask: Ask) -> Answer:
        if ask.after_tool:
            return "inner done"
        cli("tell", "outer", TOLD, home=home)
        return Shell("echo inner")

    with ExitStack() as stack:
        inner = stack.enter_context(ModelServer(answer_inner))
        nested = GEMINI.install(inner.root, tmp_path / "inner")
        nested.configure("hooks", home)
        variables = " ".join(shlex.quote(f"{name}={value}") for name, value in nested.environment.items())
        command = f"cd {nested.work} && env {variables} {shlex.join(nested.program.headless)} look </dev/null"

        outer = stack.enter_context(ModelServer(lambda ask: "done" if ask.after_tool else Shell(command)))
        program = CODEX.install(outer.root, tmp_path / "outer")
        program.configure("hooks", home)
        words = ("run", "-d", "--name", "outer", "--", *CODEX.headless, "ask the other")
        done = cli(*words, home=home, env=program.environment, cwd=program.work)
        assert done.returncode == 0, done.stderr
        cli("wait", "outer", "--timeout", "80s", home=home, timeout_s=90)
        assert Registry(home).find("outer").outcome == "done"
    assert len(inner.working_asks()) == 2, "the inner agent worked"
    assert not any(TOLD in ask.text for ask in inner.asks)
    assert [ask.text.count(TOLD) for ask in outer.working_asks()] == [0, 1]
    assert [letter["state"] for letter in cli_json("inbox", "outer", "--all", "--json", home=home)] == ["read"]
