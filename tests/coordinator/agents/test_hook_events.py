"""What programs tell their hooks is read into one event, whatever is missing from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
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
        (
            "Bash",
            {"command": "cd 'a b'/ && apply_patch <<'E'\n*** Begin Patch\n*** Add File: n.py\n*** Add File: /r\n"},
            ["a b/n.py", "/r"],
        ),
        ("Bash", {"command": "cd src&&apply_patch <<'E'\n*** Begin Patch\n*** Add File: ../n.py\n"}, ["src/../n.py"]),
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


@pytest.mark.parametrize(
    ("told", "ok"),
    [
        ("<untrusted_context>\nOutput: hi\nProcess Group PGID: 7\n</untrusted_context>", True),
        ("<untrusted_context>\nOutput: no\nExit Code: 3\nProcess Group PGID: 7\n</untrusted_context>", False),
        ("Output: (empty)\nSignal: 9\nBackground PIDs: 8, 9\nProcess Group PGID: 7", False),
        ("Output: Exit Code: 3\nand more\nProcess Group PGID: 7", True),
        ("Command was cancelled by user before it could complete. There was no output before it was cancelled.", False),
        ("", True),
    ],
)
def test_the_outcome_of_geminis_shell_stands_behind_the_output(told: str, ok: bool) -> None:
    payload = {"hook_event_name": "AfterTool", "tool_name": "run_shell_command", "tool_response": {"llmContent": told}}
    assert parse_event("gemini", payload).ok is ok
    assert parse_event("gemini", {**payload, "tool_name": "read_file"}).ok is True, "a file may say anything"


def test_what_other_hooks_put_before_a_prompt_is_not_the_users() -> None:
    prompt = "<hook_context>of one</hook_context>\n\n<hook_context>of\nanother</hook_context>\n\nsay <hook_context>hi"
    assert parse_event("gemini", {"hook_event_name": "BeforeAgent", "prompt": prompt}).text == "say <hook_context>hi"


def test_what_an_agent_said_last_is_found_in_every_dialect() -> None:
    assert parse_event("codex", {"hook_event_name": "Stop", "last_assistant_message": "done"}).text == "done"
    assert parse_event("gemini", {"hook_event_name": "AfterAgent", "prompt": "go", "prompt_response": "done"}).text == "done"


def test_a_helpers_own_conversation_is_not_the_sessions() -> None:
    payload = {"hook_event_name": "PostToolUse", "session_id": "ses_2", "agent_id": "ses_2"}
    helper = parse_event("opencode", payload)
    assert (helper.is_helper, helper.conversation_id, helper.takes_context) == (True, None, True)
    same = parse_event("claude", {**payload, "session_id": "of the user"})
    assert (same.is_helper, same.conversation_id) == (True, "of the user")


def test_nothing_is_answered_where_the_model_would_not_hear_it() -> None:
    deaf = parse_event("opencode", {"hook_event_name": "PostToolUseFailure", "error": "x", "takes_context": False})
    assert (deaf.kind, deaf.ok, deaf.takes_context) == (HookKind.TOOL_END, False, False)
    assert render_reply(deaf, HookReply(context="hear")) == ""
    assert not parse_event("gemini", {"hook_event_name": "SessionStart"}).takes_context


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


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
@given(st.dictionaries(_NAMES, _JSON), st.sampled_from(["claude", "gemini", "opencode", "else"]))
def test_no_payload_makes_it_fail(payload: dict[str, Any], agent: str) -> None:
    for name in ("PreToolUse", "PostToolUse", "BeforeAgent", payload.get("hook_event_name")):
        event = parse_event(agent, {**payload, "hook_event_name": name})
        event.find_edited_paths()
        assert event.call_key
        assert isinstance(render_reply(event, HookReply(deny="x", context="y")), str)
