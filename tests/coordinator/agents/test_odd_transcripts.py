"""Transcripts of other versions and half-spoiled ones: whatever stands in one place of them, the rest is read and nothing raised.

Every value of every line is replaced by every oddity in turn, and every kind of damage put before every line.
"""

from __future__ import annotations

import copy
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opencode_support import ID as SES
from opencode_support import Data

from coordinator.agents import get_agent
from coordinator.agents.base import Agent
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Item, Message

ID, AT = "11111111-1111-4111-8111-111111111111", "2026-11-21T10:00:00.000Z"


def nest(depth: int) -> Any:
    found: Any = "deep"
    for _ in range(depth):
        found = [{"text": found}]
    return found


ODD: tuple[Any, ...] = (
    None, True, -1, 1e308, float("nan"), 10**30, 10**400, "", "x", "\ud800", "\0", [], {}, [[]], [None], {"a": 1},
    {"text": [{"text": {}}]}, "9999999999-01-01T00:00:00Z", {"command": 5}, "9" * 5000, nest(330),
    f"Exit code: {'9' * 5000}\nWall time: 1..2 seconds\nOutput:\n", "Exit code: 1\nWall time: . seconds\nOutput:\n",
    f"Exit code: 1\nWall time: {'9' * 400} seconds\nOutput:\n",
)  # fmt: skip


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"type": role, "timestamp": AT, "sessionId": ID, "cwd": "/w", "message": {"role": role, "content": content}, **more}


def item(**payload: Any) -> dict[str, Any]:
    return {"timestamp": AT, "type": "response_item", "payload": payload}


CLAUDE: list[dict[str, Any]] = [
    {"type": "permission-mode", "permissionMode": "default", "sessionId": ID},
    said("user", "first", uuid="u1"),
    said(
        "assistant", [{"type": "text", "text": "looks"}, {"type": "tool_use", "id": "c1", "name": "Bash", "input": {}}], uuid="a1"
    ),
    said("user", [{"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "o"}]}], uuid="u2"),
    {"type": "ai-title", "aiTitle": "t", "sessionId": ID},
    {"type": "worktree-state", "worktreeSession": {"worktreeName": "x"}},
    said("assistant", [{"type": "text", "text": "limit"}], uuid="a2", isApiErrorMessage=True, error="rate_limit"),
    said("assistant", [{"type": "text", "text": "last"}], uuid="a3"),
]
CODEX: list[dict[str, Any]] = [
    {"timestamp": AT, "type": "session_meta", "payload": {"id": ID, "cwd": "/w", "source": "cli"}},
    {
        "timestamp": AT,
        "type": "turn_context",
        "payload": {"cwd": "/w", "approval_policy": "never", "sandbox_policy": {"mode": "x"}},
    },
    item(type="message", role="user", content=[{"type": "input_text", "text": "first"}]),
    {"timestamp": AT, "type": "event_msg", "payload": {"type": "task_started"}},
    item(type="function_call", name="shell", arguments='{"cmd": ["ls", "-l"]}', call_id="c1"),
    item(type="function_call_output", call_id="c1", output="Exit code: 3\nWall time: 1.5 seconds\nOutput:\nx"),
    item(type="custom_tool_call_output", call_id="c1", output={"content": [{"text": "a"}], "success": True}),
    {"timestamp": AT, "type": "event_msg", "payload": {"type": "item_completed", "item": {"id": "c1", "status": "completed"}}},
    {"timestamp": AT, "type": "event_msg", "payload": {"type": "token_count", "rate_limits": {"primary": {"used_percent": 1}}}},
    {
        "timestamp": AT,
        "type": "event_msg",
        "payload": {"type": "turn_aborted", "error": {"message": "m", "codex_error_info": "x"}},
    },
    item(type="message", role="assistant", content=[{"type": "output_text", "text": "last"}]),
]
RESULT = {"functionResponse": {"id": "c", "response": {"output": "o"}}}
CALL = {"id": "c", "name": "sh", "args": {"command": "ls"}, "status": "success", "timestamp": AT, "result": [RESULT]}
GEMINI: list[dict[str, Any]] = [
    {"sessionId": ID, "projectHash": "x", "startTime": AT, "kind": "main"},
    {"id": "1", "type": "user", "timestamp": AT, "content": [{"text": "first"}], "displayContent": "first"},
    {"id": "2", "type": "gemini", "timestamp": AT, "content": "looks", "toolCalls": [CALL]},
    {"id": "3", "type": "user", "timestamp": AT, "content": [RESULT]},
    {"id": "4", "type": "gemini", "content": [{"functionCall": {"id": "d", "name": "n", "args": {}}}]},
    {"id": "5", "type": "error", "content": "bad", "timestamp": AT},
    {"id": "6", "type": "gemini", "content": "last", "timestamp": AT},
]
PLACES = {
    "claude": (CLAUDE, f".claude/projects/-w/{ID}.jsonl"),
    "codex": (CODEX, f".codex/sessions/2026/11/21/rollout-2026-11-21T10-00-00-{ID}.jsonl"),
    "gemini": (GEMINI, f".gemini/tmp/w/chats/session-2026-11-21T10-00-{ID[:8]}.jsonl"),
}


def iter_places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value in a JSON value, itself first."""
    yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from iter_places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], odd: Any) -> Any:
    """Return a copy of a JSON value that holds ``odd`` at ``path``."""
    if not path:
        return odd
    found = copy.deepcopy(value)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = odd
    return found


def read(agent: Agent, conversation: Conversation, environment: dict[str, str]) -> list[str]:
    """Read everything there is to read, which must have the right types; return what was said."""
    items: list[Item] = list(agent.read_history(conversation))
    for one in items:
        assert isinstance(one.text, str)
        assert one.raw
        assert one.id is None or isinstance(one.id, str)
        if isinstance(one, Command):
            assert isinstance(one.name, str)
            assert one.output is None or isinstance(one.output, str)
            assert one.ok in (None, True, False)
        json.dumps(one.encode(), allow_nan=False)
    for past in agent.list_conversations(environment):
        assert isinstance(past.title, str)
        assert isinstance(past.conversation.id, str)
    agent.read_activity(conversation)
    agent.find_outcome(conversation, "c1")
    return [one.text for one in items if isinstance(one, Message)]


@pytest.mark.parametrize("name", PLACES)
def test_an_odd_value_spoils_its_own_line_only(tmp_path: Path, name: str) -> None:
    lines, place = PLACES[name]
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    conversation = Conversation(agent=name, id=ID, transcript=str(path))
    encoded = [json.dumps(line) for line in lines]
    for number, line in enumerate(lines):
        told = ["first", "last"] if number not in (0, len(lines) - 1) else []
        first = next(at for at, text in enumerate(encoded) if '"first"' in text)
        for at in iter_places(line):
            for odd in ODD:
                spoilt = json.dumps(put(line, at, odd))
                path.write_text("\n".join([*encoded[:number], spoilt, *encoded[number + 1 :]]) + "\n", encoding="utf-8")
                found = read(get_agent(name), conversation, {"HOME": str(tmp_path)})
                wanted = [text for text in told if (text == "first") <= (number != first)]
                assert [text for text in found if text in wanted] == wanted, (at, odd)


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("damage", [b"", b'{"type": "us', b"\0" * 4096, b"\xff\xfe\x00{", b"null", b"[" * 100_000])
def test_a_damaged_line_spoils_only_itself(tmp_path: Path, name: str, damage: bytes) -> None:
    lines, place = PLACES[name]
    path = tmp_path / place
    path.parent.mkdir(parents=True)
    encoded = [json.dumps(line).encode() for line in lines]
    for number in range(1, len(lines)):
        path.write_bytes(b"\n".join([*encoded[:number], damage, *encoded[number:]]) + b"\n")
        found = read(get_agent(name), Conversation(agent=name, id=ID, transcript=str(path)), {"HOME": str(tmp_path)})
        assert [text for text in found if text in ("first", "last")] == ["first", "last"]


def test_an_odd_value_in_a_row_spoils_only_its_item(tmp_path: Path) -> None:
    data = Data(tmp_path)
    data.user(1, "first")
    data.assistant(2, done=True, finish="tool-calls", error={"name": "APIError", "data": {"message": "x", "responseHeaders": {}}})
    data.tool("prt_2b", "msg_2", status="completed", input={"command": "ls"}, output="o", metadata={"exit": 1})
    data.assistant(3, done=True)
    data.said("prt_3", "msg_3", "last")
    conversation = Conversation(agent="opencode", id=SES, store=str(data.path))
    with closing(sqlite3.connect(data.path, isolation_level=None)) as connection:
        for table, id in (("message", "msg_2"), ("part", "prt_2b"), ("message", "msg_3")):
            [(before,)] = data.rows(f"SELECT data FROM {table} WHERE id = ?", id)
            value = json.loads(before)
            for at in iter_places(value):
                for odd in ODD:
                    spoilt = json.dumps(put(value, at, odd))
                    connection.execute(f"UPDATE {table} SET data = ? WHERE id = ?", (spoilt, id))
                    found = read(get_agent("opencode"), conversation, {"XDG_DATA_HOME": str(tmp_path)})
                    assert found == ["first", "last"] or (table == "part" and found[0] == "first"), (at, odd)
            connection.execute(f"UPDATE {table} SET data = ? WHERE id = ?", (before, id))
