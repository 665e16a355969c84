"""What agent programs tell their hooks, and what a hook may answer: one event and one reply for all of their dialects. Pure.

Most programs took over the names and shapes of the first one that had hooks; where one differs, its name stands in a table
here. A payload of another shape than known gives an event of which less is known, never an error.

Not promised: that a file is written only by tools that say so. A command that an agent runs in a shell may write anything.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os.path
import re
import shlex
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Payload = dict[str, Any]


class HookKind(StrEnum):
    """What happened."""

    SESSION_START = "session-start"
    SESSION_END = "session-end"
    PROMPT = "prompt"
    TOOL_START = "tool-start"
    TOOL_END = "tool-end"
    TURN_END = "turn-end"
    NEEDS_USER = "needs-user"
    OTHER = "other"


#: The programs' names of events. Events of sub-agents are not the session's turns.
_KINDS = {
    "SessionStart": HookKind.SESSION_START,
    "SessionEnd": HookKind.SESSION_END,
    "UserPromptSubmit": HookKind.PROMPT,
    "BeforeAgent": HookKind.PROMPT,
    "PreToolUse": HookKind.TOOL_START,
    "BeforeTool": HookKind.TOOL_START,
    "PostToolUse": HookKind.TOOL_END,
    "PostToolUseFailure": HookKind.TOOL_END,
    "AfterTool": HookKind.TOOL_END,
    "Stop": HookKind.TURN_END,
    "StopFailure": HookKind.TURN_END,
    "AfterAgent": HookKind.TURN_END,
    "PermissionRequest": HookKind.NEEDS_USER,
    "Notification": HookKind.NEEDS_USER,
}
#: Notifications that ask for nothing but the next message.
_IDLE_NOTIFICATIONS = frozenset({"idle_prompt", "auth_success"})
#: Which events take a text for the model, in each dialect. What Gemini is told at its start it puts before its first prompt,
#: which then counts as a note of its own that no conversation is resumed for; or it does not write it down at all.
_TAKES_CONTEXT = {
    "gemini": frozenset({HookKind.PROMPT, HookKind.TOOL_END}),
    "opencode": frozenset({HookKind.PROMPT, HookKind.TOOL_END}),
}
_ALL_CONTEXTS = frozenset({HookKind.SESSION_START, HookKind.PROMPT, HookKind.TOOL_START, HookKind.TOOL_END})
#: Names of the tools that write files, and the arguments that name these.
_WRITES = re.compile(r"edit|write|patch|replace|create|notebook|delete|rename|move", re.IGNORECASE)
_PATH_ARGUMENTS = ("file_path", "filePath", "notebook_path", "absolute_path", "path", "target_file")
#: What hooks at its start made Gemini put before a prompt.
_HOOK_CONTEXT = re.compile(r"\A(?:<hook_context>.*?</hook_context>\s*)+", re.DOTALL)
#: What Gemini's shell tool tells the model behind a command's output, a line each; and which of these say that it failed.
_GEMINI_ENDS = ("Error: ", "Exit Code: ", "Signal: ", "Background PIDs: ", "Process Group PGID: ")
_GEMINI_FAILS = _GEMINI_ENDS[:3]
_GEMINI_CUT = ("Command was cancelled", "Command was automatically cancelled")
_PATCH_BEGINS = "*** Begin Patch"
_PATCHED = re.compile(r"^\*\*\* (?:(?:Add|Update|Delete) File|Move to): (.+?)\s*$", re.MULTILINE)
_ENTERS = re.compile(r"""\s*cd\s+((?:"[^"\n\\]*"|'[^'\n]*'|[^\s"'\\&;|])+)\s*&&""")


@dataclass(frozen=True, kw_only=True, slots=True)
class HookEvent:
    """One event, in the words that all programs share."""

    #: The adapter's name.
    agent: str
    kind: HookKind
    #: The program's own name of the event.
    name: str
    #: The program's own id of the conversation, and where its transcript is.
    conversation_id: str | None = None
    transcript: str | None = None
    #: The database that the conversation is in, of a program that keeps them all in one.
    store: str | None = None
    cwd: str | None = None
    #: Of tool events: the tool's name, the call's id and its arguments.
    tool: str | None = None
    call_id: str | None = None
    arguments: Payload = field(default_factory=dict)
    #: Of a tool's end: whether it succeeded and how long it took, where the program tells.
    ok: bool | None = None
    duration_s: float | None = None
    #: Of a prompt: what the user said. Of a turn's end: what the agent said last.
    text: str | None = None
    #: Why a session starts or ends, what is asked of the user.
    reason: str | None = None
    #: Whether a helper of the agent's did it, or an agent that it started, in a conversation of its own.
    is_helper: bool = False
    #: Whether who tells the event can bring the model an answer to it; only our own plug-in says that it cannot.
    is_answered: bool = True

    @property
    def takes_context(self) -> bool:
        """Whether the program brings a text that is answered to this event to the model."""
        return self.is_answered and self.kind in _TAKES_CONTEXT.get(self.agent, _ALL_CONTEXTS)

    @property
    def call_key(self) -> str:
        """What a tool's start and its end have in common."""
        return self.call_id or json.dumps([self.tool, self.arguments], sort_keys=True, default=str)

    def as_helpers(self) -> HookEvent:
        """Return the event as one of a helper's, whose turns are not the session's."""
        is_tool = self.kind in (HookKind.TOOL_START, HookKind.TOOL_END)
        return dataclasses.replace(self, is_helper=True, kind=self.kind if is_tool else HookKind.OTHER)

    def find_edited_paths(self) -> list[str]:
        """Return the files that the tool call says it will write, as it names them."""
        found: list[str] = []
        if self.tool is not None and _WRITES.search(self.tool):
            found += [path for name in _PATH_ARGUMENTS if isinstance(path := self.arguments.get(name), str) and path]
        for value in _iter_texts(self.arguments):
            if _PATCH_BEGINS in value:
                found += [os.path.join(_find_directory(value), path) for path in _PATCHED.findall(value)]
        return list(dict.fromkeys(found))


@dataclass(frozen=True, kw_only=True, slots=True)
class HookReply:
    """What is answered to an event."""

    #: Why a tool call must not happen.
    deny: str | None = None
    #: What the model is to know.
    context: str | None = None


def parse_event(agent: str, payload: Payload) -> HookEvent:
    """Return the event that ``agent``'s hook was given. Never raises for its content."""
    name = _text(payload.get("hook_event_name")) or ""
    kind = _KINDS.get(name, HookKind.OTHER)
    if name == "Notification" and payload.get("notification_type") in _IDLE_NOTIFICATIONS:
        kind = HookKind.OTHER
    arguments, helper = payload.get("tool_input"), _text(payload.get("agent_id"))
    conversation_id = _text(payload.get("session_id"))
    event = HookEvent(
        agent=agent,
        kind=kind,
        name=name,
        conversation_id=None if helper is not None and helper == conversation_id else conversation_id,
        transcript=_text(payload.get("transcript_path")),
        store=_text(payload.get("store_path")),
        cwd=_text(payload.get("cwd")),
        tool=_text(payload.get("tool_name")),
        call_id=_text(payload.get("tool_use_id")),
        arguments=arguments if isinstance(arguments, dict) else {"input": arguments} if arguments else {},
        ok=_read_outcome(name, payload) if kind is HookKind.TOOL_END else None,
        duration_s=_read_duration(payload),
        text=_read_text(kind, payload),
        reason=_text(payload.get("source") or payload.get("reason") or payload.get("message")),
        is_answered=payload.get("takes_context") is not False,
    )
    return event if helper is None else event.as_helpers()


def render_reply(event: HookEvent, reply: HookReply) -> str:
    """Return what the hook prints, in the program's dialect; nothing if there is nothing to say."""
    told: Payload = {"hookEventName": event.name}
    if reply.deny is not None and event.kind is HookKind.TOOL_START:
        if event.agent == "gemini":
            return json.dumps({"decision": "deny", "reason": reply.deny})
        told |= {"permissionDecision": "deny", "permissionDecisionReason": reply.deny}
    if reply.context is not None and event.takes_context:
        told["additionalContext"] = reply.context
    return json.dumps({"hookSpecificOutput": told}) if len(told) > 1 else ""


def _read_text(kind: HookKind, payload: Payload) -> str | None:
    if kind is HookKind.PROMPT:
        prompt = _text(payload.get("prompt"))
        return None if prompt is None else _HOOK_CONTEXT.sub("", prompt)
    return _text(payload.get("last_assistant_message") or payload.get("prompt_response"))


def _read_outcome(name: str, payload: Payload) -> bool | None:
    if name == "PostToolUseFailure" or payload.get("error"):
        return False
    response = payload.get("tool_response")
    if not isinstance(response, dict):
        return None
    if response.get("is_error") or response.get("interrupted") or response.get("error"):
        return False
    for code in ("exit_code", "exitCode"):
        if isinstance(response.get(code), int):
            return bool(response[code] == 0)
    return not (payload.get("tool_name") == "run_shell_command" and _has_failed_in_gemini(response.get("llmContent")))


def _has_failed_in_gemini(told: object) -> bool:
    if not isinstance(told, str):
        return False
    lines = told.removeprefix("<untrusted_context>").removesuffix("</untrusted_context>").strip().splitlines()
    ends = itertools.takewhile(lambda line: line.startswith(_GEMINI_ENDS), reversed(lines))
    return bool(lines) and (lines[0].startswith(_GEMINI_CUT) or any(line.startswith(_GEMINI_FAILS) for line in ends))


def _read_duration(payload: Payload) -> float | None:
    spent = payload.get("duration_ms")
    return spent / 1000 if isinstance(spent, (int, float)) and not isinstance(spent, bool) and spent >= 0 else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _find_directory(command: str) -> str:
    """Return the directory that a shell enters before it patches files: that is still taken for a call of the patching tool."""
    entered = _ENTERS.match(command)
    return "".join(shlex.split(entered[1])) if entered else ""


def _iter_texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in _iter_texts(part)]
