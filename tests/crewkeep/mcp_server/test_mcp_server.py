"""The MCP server as a client meets it: a real process, over standard input and output."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from mcp import Client, StdioServerParameters
from session_support import make_session
from support import CREWKEEP, cli, cli_json, make_environment

from coordinator.paths import Home
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.registry import Registry

Act = Callable[[Client], Awaitable[None]]


def serve(
    home: Home, act: Act, *, record: SessionRecord | None = None, cwd: Path | None = None, epoch: int | None = None
) -> None:
    """Run the server (of the session ``record``) for as long as ``act`` takes."""
    environment = make_environment(home)
    if record is not None:
        environment |= {"CREWKEEP_SESSION": record.id, "CREWKEEP_EPOCH": str(epoch or record.epoch)}
    parameters = StdioServerParameters(command=str(CREWKEEP), args=["mcp"], env=environment, cwd=cwd)

    async def run() -> None:
        with anyio.fail_after(40):
            async with Client(parameters) as client:
                await act(client)

    anyio.run(run)


async def call(client: Client, tool: str, **arguments: Any) -> dict[str, Any]:
    """Return what a tool answers; fail if it fails."""
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    assert done.structured_content is not None
    assert json.loads(done.content[0].text) == done.structured_content  # type: ignore[union-attr]
    return done.structured_content


async def refuse(client: Client, tool: str, **arguments: Any) -> str:
    """Return what a tool says that fails; fail if it does not."""
    done = await client.call_tool(tool, arguments)
    assert done.is_error
    return str(done.content[0].text)  # type: ignore[union-attr]


def test_the_shared_context_is_read_and_written_with_versions(home: Home) -> None:
    record = make_session(home, "api")

    async def act(client: Client) -> None:
        assert await call(client, "context_get", key="plan") == {"key": "plan", "found": False, "version": 0}
        put = await call(client, "context_put", key="plan", value={"step": "ü✓"}, expected_version=0)
        assert (put["version"], put["author"]) == (1, "api")
        told = await refuse(client, "context_put", key="plan", value=2, expected_version=0)
        assert "version 1, not at 0" in told
        assert "context_get" in told
        assert (await call(client, "context_get", key="plan"))["value"] == {"step": "ü✓"}
        await call(client, "context_put", key="plan", value=None)
        versions = (await call(client, "context_history", key="plan"))["versions"]
        assert [one["version"] for one in versions] == [2, 1]
        assert (await call(client, "context_list"))["keys"] == [{"key": "plan", "version": 2, "author": "api"}]
        assert (await call(client, "context_delete", key="plan", expected_version=2))["deleted"] is True

    serve(home, act, record=record)
    assert cli_json("context", "history", "plan", "-w", "shop", "--json", home=home)[0]["deleted"] is True


def test_updates_of_many_are_all_there(home: Home) -> None:
    async def act(client: Client) -> None:
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(lambda: call(client, "context_update", key="count", rule="sum", value=1))
            group.start_soon(lambda: call(client, "context_update", key="who", rule="append", value=["a"]))
        assert (await call(client, "context_get", key="count"))["value"] == 20
        assert "there is no merge rule" in await refuse(client, "context_update", key="count", rule="magic", value=1)
        assert "sum" in await refuse(client, "context_update", key="who", rule="sum", value=1)

    serve(home, act, record=make_session(home, "api"))


def test_changes_are_watched_from_where_one_was(home: Home) -> None:
    async def act(client: Client) -> None:
        start = await call(client, "context_changes")
        assert start["changes"] == []
        async with anyio.create_task_group() as group:

            async def write() -> None:
                await anyio.to_thread.run_sync(lambda: cli("context", "put", "a/1", "one", "-w", "shop", home=home))

            group.start_soon(write)
            first = await call(client, "context_changes", prefix="a/", since=start["since"], wait_s=30)
        assert [(change["key"], change["value"]) for change in first["changes"]] == [("a/1", "one")]
        again = await call(client, "context_changes", prefix="a/", since=first["since"])
        assert again["changes"] == []
        await call(client, "context_delete", key="a/1")
        gone = await call(client, "context_changes", since=first["since"])
        assert [change.get("deleted") for change in gone["changes"]] == [True]
        assert "no position" in await refuse(client, "context_changes", since={"x": 1})
        assert "no shard" in await refuse(client, "context_changes", since={"99": 1})

    serve(home, act, record=make_session(home, "api"))


def test_claims_and_messages_are_the_sessions_own(home: Home, tmp_path: Path) -> None:
    api, web = make_session(home, "api"), make_session(home, "web")
    (tmp_path / "src").mkdir()
    cli("tell", "api", "hello\nthere", home=home)

    async def act(client: Client) -> None:
        made = await call(client, "claim", what="src", minutes=5)
        assert (made["form"], made["session"]) == ("tree", "api")
        told = cli("claim", "src/x.py", "-s", "web", home=home, cwd=tmp_path)
        assert told.returncode == 4
        assert [one["what"] for one in (await call(client, "claims"))["claims"]] == ["src"]
        await call(client, "release", what="src")
        assert (await call(client, "claims"))["claims"] == []
        messages = await call(client, "inbox")
        assert "hello\nthere" in messages["messages"][0]["text"]
        assert (await call(client, "inbox"))["messages"] == []
        assert (await call(client, "tell", session="web", text="to you"))["id"]
        assert "not-found" in await refuse(client, "tell", session="nobody", text="x")
        rows = (await call(client, "sessions"))["sessions"]
        assert {row["name"]: row["is_you"] for row in rows} == {"api": True, "web": False}
        assert "invalid-input" in await refuse(client, "claim", what="", minutes=5)
        assert "no keeper answers" in await refuse(client, "checkpoint")

    serve(home, act, record=api, cwd=tmp_path)
    assert cli_json("inbox", web.id, "--json", home=home)[0]["from"] == "api"


def test_resources_hold_the_same(home: Home) -> None:
    cli("context", "put", "plan/auth", '{"a": 1}', "-w", "shop", home=home)

    async def act(client: Client) -> None:
        uris = {str(one.uri) for one in (await client.list_resources()).resources}
        assert uris == {"crew://sessions", "crew://claims", "context://keys"}
        read = await client.read_resource("context://entry/plan/auth")
        assert json.loads(read.contents[0].text)["value"] == {"a": 1}  # type: ignore[union-attr]
        keys = await client.read_resource("context://keys")
        assert json.loads(keys.contents[0].text)["keys"][0]["key"] == "plan/auth"  # type: ignore[union-attr]

    serve(home, act, record=make_session(home, "api"))


def test_outside_of_a_session_the_context_works_and_what_needs_one_says_so(home: Home, tmp_path: Path) -> None:
    async def act(client: Client) -> None:
        put = await call(client, "context_put", key="k", value=1, expected_version=0)
        assert put["author"] is None
        for tool, arguments in (("claim", {"what": "x"}), ("inbox", {}), ("checkpoint", {})):
            assert "crewkeep run" in await refuse(client, tool, **arguments)

    serve(home, act, cwd=tmp_path)
    assert cli("context", "get", "k", home=home, cwd=tmp_path).stdout == "1\n"


def test_what_is_left_of_an_older_incarnation_is_refused(home: Home) -> None:
    record = make_session(home, "api")
    registry = Registry(home)
    registry.raise_epoch(record.id, expected=1, reason="test", by=record.owner, phase=record.phase)

    async def act(client: Client) -> None:
        assert "superseded" in await refuse(client, "context_put", key="k", value=1)
        assert "superseded" in await refuse(client, "claim", what="x")

    serve(home, act, record=record, epoch=1)


def test_a_server_without_variables_finds_its_session_by_its_agent(home: Home, tmp_path: Path) -> None:
    """As an agent starts it that hands on only a few variables."""
    program = tmp_path / "client.py"
    program.write_text(
        f"""import anyio, os
from mcp import Client, StdioServerParameters

async def main():
    few = {{name: os.environ[name] for name in ("HOME", "PATH")}}
    async with Client(StdioServerParameters(command={str(CREWKEEP)!r}, args=["mcp"], env=few)) as client:
        done = await client.call_tool("context_put", {{"key": "who", "value": 1, "expected_version": 0}})
        print(done.structured_content)

anyio.run(main)
"""
    )
    import sys

    words = ("run", "--name", "agent", "-w", "shop", "--", sys.executable, str(program))
    done = cli(*words, home=home)
    assert done.returncode == 0, done.stderr + done.stdout
    found = cli_json("context", "get", "who", "-w", "shop", "--json", home=home)
    assert found["author"] == "agent"


def test_every_tool_tells_what_it_is_for(home: Home) -> None:
    async def act(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == {
            "context_get", "context_put", "context_update", "context_delete", "context_list", "context_history",
            "context_changes", "sessions", "claim", "release", "claims", "tell", "inbox", "checkpoint",
        }  # fmt: skip
        for tool in tools:
            assert tool.description
            assert tool.annotations is not None
            assert tool.output_schema is not None
            for name, parameter in tool.input_schema.get("properties", {}).items():
                assert parameter.get("description"), f"{tool.name}({name})"
        assert client.instructions

    serve(home, act)


def test_without_the_package_one_line_tells_what_to_install(home: Home, tmp_path: Path) -> None:
    (tmp_path / "mcp.py").write_text("raise ModuleNotFoundError('hidden', name='mcp')")
    done = cli("mcp", home=home, env={"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])})
    assert done.returncode == 69
    assert "pipx install 'crewkeep[mcp]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("given", [b"", b"no JSON\n", b"\xff\xfe\n", b"[]\n"])
def test_input_of_any_kind_ends_it_without_a_traceback(home: Home, given: bytes) -> None:
    import subprocess

    done = subprocess.run(
        [str(CREWKEEP), "mcp"], input=given, env=make_environment(home), capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr
