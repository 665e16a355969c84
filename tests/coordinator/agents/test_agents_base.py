"""The table of agents, and the promises that every adapter keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.agents import Activity, get_agent, recognise
from coordinator.agents.base import list_agents
from coordinator.errors import InvalidInput
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import LaunchSpec


def make_launch(*argv: str, cwd: str = "/", **environment: str) -> LaunchSpec:
    return LaunchSpec(argv=argv, cwd=cwd, environment=environment)


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("codex",), "codex"),
        (("/opt/bin/codex", "exec", "x"), "codex"),
        (("node", "/opt/lib/codex.js"), "codex"),
        (("npx", "-y", "@openai/codex@0.169.0", "exec", "x"), "codex"),
        (("npx", "codex"), "codex"),
        (("npx", "-p", "@openai/codex", "codex", "exec", "x"), "codex"),
        (("node", "--max-old-space-size=99", "/opt/lib/codex.js"), "codex"),
        (("node", "-r", "codex"), "generic"),
        (("gemini",), "gemini"),
        (("/opt/bin/gemini", "-p", "x"), "gemini"),
        (("node", "/opt/lib/node_modules/@google/gemini-cli/bundle/gemini.js"), "gemini"),
        (("node", "--inspect", "-r", "./x.js", "bundle/gemini.js", "x"), "gemini"),
        (("node", "/opt/bin/gemini"), "gemini"),
        (("npx", "@google/gemini-cli"), "gemini"),
        (("npx", "-y", "@google/gemini-cli@0.61.0", "-p", "x"), "gemini"),
        (("npx", "-p", "@google/gemini-cli", "gemini", "x"), "gemini"),
        (("npx", "gemini"), "generic"),
        (("npx", "@google/gemini-cli-core"), "generic"),
        (("gemini-server",), "generic"),
        (("node", "gemini.js.bak"), "generic"),
        (("node", "-e", "gemini"), "generic"),
        (("node", "server.js", "gemini.js"), "generic"),
        (("grep", "gemini"), "generic"),
        (("opencode",), "opencode"),
        (("/opt/bin/opencode", "run", "x"), "opencode"),
        (("node", "/opt/lib/node_modules/opencode-ai/bin/opencode"), "opencode"),
        (("npx", "-y", "opencode-ai@1.18.33", "run", "x"), "opencode"),
        (("npx", "-p", "opencode-ai", "opencode", "run", "x"), "opencode"),
        (("bunx", "opencode-ai"), "opencode"),
        (("opencode-helper",), "generic"),
        (("npx", "opencode-ai-tools"), "generic"),
        (("npx", "-y"), "generic"),
        (("npx", "serve", "opencode"), "generic"),
        (("sh", "-c", "opencode"), "generic"),
        (("cat", "opencode"), "generic"),
        (("codex-helper",), "generic"),
        (("node", "server.js"), "generic"),
        (("python3", "codex"), "generic"),
        (("sh", "-c", "codex"), "generic"),
    ],
)
def test_a_command_is_recognised_by_its_words_alone(argv: tuple[str, ...], name: str) -> None:
    assert recognise(argv).name == name


def test_an_unknown_agent_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidInput) as refused:
        get_agent("clippy")
    assert "codex" in refused.value.hint
    assert "generic" in refused.value.hint


def test_each_session_gets_an_adapter_of_its_own() -> None:
    assert get_agent("codex") is not get_agent("codex")
    assert list_agents()[-1] == "generic"


@pytest.mark.parametrize("name", list_agents())
@pytest.mark.parametrize("words", [(), ("exec", "do it"), ("resume", "--last"), ("-m", "x", "do it"), ("--help",), ("login",)])
def test_to_prepare_twice_changes_nothing_more(name: str, words: tuple[str, ...]) -> None:
    agent = get_agent(name)
    once = agent.prepare(make_launch("codex", *words))
    assert agent.prepare(once) == once


@pytest.mark.parametrize("name", list_agents())
def test_without_a_conversation_the_first_start_is_repeated(name: str) -> None:
    launch = make_launch("codex", "exec", "do it")
    assert get_agent(name).build_resume(launch, None) == launch.argv


@pytest.mark.parametrize("name", list_agents())
def test_a_transcript_that_is_not_there_gives_no_activity_and_no_error(name: str, tmp_path: Path) -> None:
    lost = Conversation(agent=name, id="x", transcript=str(tmp_path / "lost.jsonl"))
    assert get_agent(name).read_activity(lost) == Activity()
    assert get_agent(name).read_activity(Conversation(agent=name, id="x")) == Activity()


def test_the_generic_agent_knows_no_conversation_and_no_permission() -> None:
    generic = get_agent("generic")
    assert generic.find_conversation(make_launch("sh"), [1], 0.0) is None
    assert generic.read_permission_mode(["sh", "--yolo"]) is None


def test_a_keeper_of_a_generic_agent_loads_no_other_adapter() -> None:
    program = "import sys; from coordinator.agents import get_agent; get_agent('generic'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"coordinator.agents.codex", "coordinator.agents.opencode"} & set(loaded)
    assert not {"sqlite3", "subprocess", "asyncio", "logging", "typer", "psutil", "importlib.metadata"} & set(loaded)
