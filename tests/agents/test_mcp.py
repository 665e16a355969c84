"""The MCP server in real agents: each reads and writes the context of its own session."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from conftest import CodexHome
from model_server import Answer, Ask, Call, ModelServer
from support import cli, cli_json

from coordinator.paths import Home

pytestmark = pytest.mark.agents

Make = Callable[[str], CodexHome]


def count_up(ask: Ask) -> Answer:
    """Add one to a counter three times, then say how it stands."""
    if len(ask.tool_outputs) < 3:
        return Call("context_update$", {"key": "counter", "rule": "sum", "value": 1})
    return f"done: {ask.tool_outputs[-1][-200:]}"


def test_codex_updates_the_context_as_its_session(home: Home, make_codex_home: Make) -> None:
    with ModelServer(count_up) as model:
        codex = make_codex_home(model.url)
        done = cli("mcp", "install", "--agent", "codex", "--yes", home=home, env=codex.environment)
        assert done.returncode == 0, done.stderr
        words = ("codex", "exec", "-s", "danger-full-access", "--skip-git-repo-check", "count")
        done = cli("run", "--name", "coder", "-w", "shop", "--", *words, home=home, env=codex.environment, cwd=codex.work)
        assert done.returncode == 0, done.stdout + done.stderr
    found = cli_json("context", "get", "counter", "-w", "shop", "--json", home=home)
    assert (found["value"], found["author"], found["version"]) == (3, "coder", 3)
