"""The MCP server in real agents: each reads and writes the context of its own session, also two different ones at once."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from pathlib import Path

import pytest
from model_server import Answer, Ask, Call, ModelServer, Shell
from programs import CODEX, GEMINI, OPENCODE, Program, join_names, with_each
from running import SLOW_S
from support import cli, cli_json

from coordinator.paths import Home

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]


class Counting:
    """A model that adds 1, 2, ... ``last`` to a counter, each together with whoever waits at the barrier, and is done then."""

    def __init__(self, last: int, barrier: threading.Barrier | None = None) -> None:
        self.number, self.last, self.barrier = 0, last, barrier

    def __call__(self, ask: Ask) -> Answer:
        if not any(name.endswith("context_update") for name in ask.tools):
            return Shell("sleep 0.2")  # Codex asks before the server has started, and offers its tools in a later request
        if self.number == self.last:
            return "done"
        if self.barrier is not None:
            self.barrier.wait(SLOW_S)
        self.number += 1  # the same call five times in a row is a loop to Gemini
        return Call("context_update$", {"key": "counter", "rule": "sum", "value": self.number})


@with_each
def test_an_agent_updates_the_context_as_its_session(program: Program, home: Home, tmp_path: Path) -> None:
    with ModelServer(Counting(3)) as model:
        installed = program.install(model.root, tmp_path)
        installed.configure("mcp", home)
        words = ("run", "--name", "coder", "-w", "shop", "--", *program.headless, "count")
        done = cli(*words, home=home, env=installed.environment, cwd=installed.work, timeout_s=90)
        assert done.returncode == 0, done.stdout + done.stderr
    found = cli_json("context", "get", "counter", "-w", "shop", "--json", home=home)
    assert (found["value"], found["author"], found["version"]) == (1 + 2 + 3, "coder", 3)


@pytest.mark.parametrize("agents", [(CODEX, GEMINI), (CODEX, OPENCODE)], ids=join_names)
def test_two_different_agents_at_once_lose_no_update_of_one_key(
    agents: tuple[Program, Program], home: Home, tmp_path: Path
) -> None:
    """Both are told to write in the same moment, each time."""
    last, barrier = 8, threading.Barrier(2)
    with ExitStack() as stack:
        for agent in agents:
            model = stack.enter_context(ModelServer(Counting(last, barrier)))
            installed = agent.install(model.root, tmp_path / agent.name)
            installed.configure("mcp", home)
            words = ("run", "-d", "--name", agent.name, "-w", "shop", "--cwd", str(tmp_path), "--", *agent.headless, "count")
            done = cli(*words, home=home, env=installed.environment)
            assert done.returncode == 0, done.stderr
        for agent in agents:
            assert cli("wait", agent.name, "--timeout", "80s", home=home, timeout_s=90).returncode == 0
    found = cli_json("context", "get", "counter", "-w", "shop", "--json", home=home)
    assert (found["value"], found["version"]) == (2 * sum(range(last + 1)), 2 * last)
    history = cli_json("context", "history", "counter", "-w", "shop", "--json", home=home)
    authors = [entry["author"] for entry in history]
    assert [authors.count(agent.name) for agent in agents] == [last, last]
