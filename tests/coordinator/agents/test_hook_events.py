"""What programs tell their hooks is read into one event, whatever is missing from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.agents.hook_events import HookKind, HookReply, parse_event, render_reply


@pytest.mark.parametrize(
    ("agent", "payload", "kind"),
    [
        ("claude", {"hook_event_name": "SessionStart", "source": "startup"}, HookKind.SESSION_START),
        ("gemini", {"hook_event_name": "BeforeAgent", "prompt": "go"}, HookKind.PROMPT),
        ("codex", {"hook_event_name": "PreToolUse"}, HookKind.TOOL_START),
        ("gemini", {"hook_event_name": "AfterTool"}, HookKind.TOOL_END),
        ("claude", {"hook_event_name": "PostToolUseFailure"}, HookKind.TOOL_END),
        ("gemini", {"hook_event_name": "AfterAgent"}, HookKind.TURN_END),
        ("codex", {"hook_event_name": "PermissionRequest"}, HookKind.NEEDS_USER),
        ("claude", {"hook_event_name": "Notification", "notification_type": "permission_prompt"}, HookKind.NEEDS_USER),
        ("claude", {"hook_event_name": "Notification", "notification_type": "idle_prompt"}, HookKind.OTHER),
        ("claude", {"hook_event_name": "Stop", "agent_id": "a sub-agent"}, HookKind.OTHER),
        ("claude", {"hook_event_name": "PreToolUse", "agent_id": "a sub-agent"}, HookKind.TOOL_START),
        ("codex", {"hook_event_name": "SomethingNew"}, HookKind.OTHER),
        ("codex", {}, HookKind.OTHER),
    ],
)
def test_events_of_all_programs_become_one(agent: str, payload: dict[str, Any], kind: HookKind) -> None:
    assert parse_event(agent, payload).kind is kind


@pytest.mark.parametrize(
    ("tool", "arguments", "paths"),
    [
        ("Edit", {"file_path": "/a/b.py", "old_string": "x"}, ["/a/b.py"]),
        ("write", {"filePath": "b.py"}, ["b.py"]),
        ("NotebookEdit", {"notebook_path": "n.ipynb"}, ["n.ipynb"]),
        ("replace", {"file_path": "x"}, ["x"]),
        ("Read", {"file_path": "/a/b.py"}, []),
        ("read_file", {"absolute_path": "/a"}, []),
        ("Bash", {"command": "rm -rf /"}, []),
        (
            "Bash",
            {"command": "apply_patch <<'E'\n*** Begin Patch\n*** Update File: a b.py\n*** Move to: c.py\n*** Delete File: d\n"},
            ["a b.py", "c.py", "d"],
        ),
        ("apply_patch", {"input": "*** Begin Patch\n*** Add File: n.py\n+x\n"}, ["n.py"]),
        ("edit", {"file_path": ["no text"]}, []),
    ],
)
def test_the_files_that_an_edit_names_are_found(tool: str, arguments: dict[str, Any], paths: list[str]) -> None:
    event = parse_event("codex", {"hook_event_name": "PreToolUse", "tool_name": tool, "tool_input": arguments})
    assert event.find_edited_paths() == paths


@pytest.mark.parametrize(
    ("more", "ok"),
    [
        ({"tool_response": {"exit_code": 0}}, True),
        ({"tool_response": {"exit_code": 2}}, False),
        ({"tool_response": {"stdout": "", "interrupted": False}}, True),
        ({"tool_response": {"interrupted": True}}, False),
        ({"tool_response": {"llmContent": "x", "error": {"message": "no"}}}, False),
        ({"tool_response": "text alone tells nothing"}, None),
        ({}, None),
    ],
)
def test_the_outcome_of_a_tool_is_told_only_where_it_is_known(more: dict[str, Any], ok: bool | None) -> None:
    assert parse_event("claude", {"hook_event_name": "PostToolUse", **more}).ok is ok


def test_replies_speak_the_programs_dialect() -> None:
    before = {"hook_event_name": "PreToolUse", "tool_name": "Edit"}
    told = json.loads(render_reply(parse_event("claude", before), HookReply(deny="no")))["hookSpecificOutput"]
    assert (told["permissionDecision"], told["permissionDecisionReason"], told["hookEventName"]) == ("deny", "no", "PreToolUse")
    gemini = parse_event("gemini", {**before, "hook_event_name": "BeforeTool"})
    assert json.loads(render_reply(gemini, HookReply(deny="no"))) == {"decision": "deny", "reason": "no"}
    assert render_reply(gemini, HookReply(context="not taken there")) == ""
    prompt = parse_event("gemini", {"hook_event_name": "BeforeAgent"})
    assert json.loads(render_reply(prompt, HookReply(context="hear")))["hookSpecificOutput"]["additionalContext"] == "hear"
    assert render_reply(parse_event("claude", {"hook_event_name": "Stop"}), HookReply(deny="no", context="late")) == ""


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
_NAMES = st.sampled_from(
    ["hook_event_name", "session_id", "tool_name", "tool_input", "tool_response", "prompt", "duration_ms", "agent_id", "cwd"]
)


@given(st.dictionaries(_NAMES, _JSON), st.sampled_from(["claude", "gemini", "opencode", "else"]))
def test_no_payload_makes_it_fail(payload: dict[str, Any], agent: str) -> None:
    for name in ("PreToolUse", "PostToolUse", "BeforeAgent", payload.get("hook_event_name")):
        event = parse_event(agent, {**payload, "hook_event_name": name})
        event.find_edited_paths()
        assert event.call_key
        assert isinstance(render_reply(event, HookReply(deny="x", context="y")), str)
