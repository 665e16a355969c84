"""What a real agent said and did is in the history of its session, however soon it ended, and nothing of it is listed twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from agent_home import AgentHome
from claude_home import make_claude_home
from model_server import Answer, Ask, ModelServer, Shell
from programs import PROGRAMS
from running import SLOW_S
from support import cli, cli_json

from coordinator.paths import Home

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

#: Words that programs change if they can: quotes, a decomposed accent, right to left, fences.
ASKED = 'Größe 😀 e\u0301 שלום "quotes" ```fence``` & <tag>'


def answer(ask: Ask) -> Answer:
    return "fertig ✓" if ask.after_tool else Shell("printf 'ünï\\n'; exit 3")


CLAUDE = ("claude", "--model", "x", "--dangerously-skip-permissions", "-p")
#: Name, command line before the prompt, and what prepares its home.
EACH = [*((one.name, one.headless, one.make_home) for one in PROGRAMS), ("claude", CLAUDE, make_claude_home)]


@pytest.mark.parametrize(("name", "words", "make_home"), EACH, ids=[name for name, *_ in EACH])
def test_what_was_said_and_done_is_in_the_sessions_history(
    home: Home, tmp_path: Path, name: str, words: tuple[str, ...], make_home: Callable[[str, Path], AgentHome]
) -> None:
    with ModelServer(answer) as model:
        own = make_home(model.root, tmp_path)
        environment = own.environment
        done = cli(
            "run", "--name", "short", "--cwd", str(own.work), "--", *words, ASKED, home=home, env=environment, timeout_s=SLOW_S
        )
        assert done.returncode == 0, done.stderr
    [row] = cli_json("history", "--json", home=home, env=environment)
    assert row["name"] == "short"
    items = cli_json("history", "show", "short", "--json", home=home, env=environment)["items"]
    said = [item["text"] for item in items if item["kind"] == "message" and item["role"] == "user"]
    # OpenCode puts what stood on its command line into quotes of its own.
    assert said == [ASKED if name != "opencode" else '"' + ASKED.replace('"', '\\"') + '"']
    assert [(item["text"], "ünï" in item["output"]) for item in items if item["kind"] == "command"] == [
        ("printf 'ünï\\n'; exit 3", True)
    ]
    assert [item["text"] for item in items if item.get("role") == "assistant"] == ["fertig ✓"]
    found = cli_json("history", "search", "FERTIG", "--json", home=home, env=environment)
    assert [hit["session"] for hit in found] == [row["session"]]
