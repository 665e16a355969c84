"""A conversation as a document: ATIF for other tools, Markdown for people, JSON for crewkeep's own model. Pure.

ATIF is the Agent Trajectory Interchange Format, v1.8 (harbor-framework/harbor, RFC 0001). What the model has and the format
lacks goes into ``extra``. Text of the model may hold lone surrogates, which no document in Unicode can: in ATIF and Markdown
they become U+FFFD; JSON keeps them as escapes, so that it reads back the same (but for two that happen to form a pair: JSON has
no way to tell them from the character).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from coordinator.services.archive import Past
from coordinator.sessions.history import Command, Message, Role
from coordinator.sessions.recorded import Entry, Mark

ATIF_VERSION = "ATIF-v1.8"
_SOURCES = {Role.USER: "user", Role.ASSISTANT: "agent", Role.SYSTEM: "system"}
_HEADINGS = {Role.USER: "User", Role.ASSISTANT: "Agent", Role.SYSTEM: "System"}
_SURROGATE = re.compile("[\ud800-\udfff]")
_TICKS = re.compile("`+")
#: A line that begins or ends a block of code, and what stands behind its fence.
_FENCE = re.compile(" {0,3}(`{3,}|~{3,})(.*)")


class Format(StrEnum):
    """What a conversation can be exported as."""

    ATIF = "atif"
    MARKDOWN = "markdown"
    JSON = "json"


def export(format: Format, past: Past, entries: Sequence[Entry]) -> bytes:
    """Return the document, in UTF-8."""
    if format is Format.MARKDOWN:
        return _replace_surrogates(make_markdown(past, entries)).encode()
    if format is Format.ATIF:
        text = _replace_surrogates(json.dumps(make_atif(past, entries), ensure_ascii=False, indent=2))
        return text.encode() + b"\n"
    # The error handler turns a lone surrogate into the very escape that JSON has for it.
    return json.dumps(make_json(past, entries), ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace") + b"\n"


def make_json(past: Past, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return what the conversation is, and its items as the model encodes them (times in seconds since 1970)."""
    known = {name: getattr(past, name) for name in ("ref", "agent", "name", "state", "cwd", "title", "changed_at")}
    return {**known, "items": [entry.encode() for entry in entries]}


def make_atif(past: Past, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the trajectory: a step for each message, the commands with the message of the agent's that they follow."""
    steps: list[dict[str, Any]] = []
    calls: set[str] = set()
    for entry in entries:
        if isinstance(entry, Command):
            if not steps or steps[-1]["source"] != "agent":
                steps.append(_make_step(len(steps) + 1, "agent", "", entry.at))
            _add_call(steps[-1], entry, calls)
        elif isinstance(entry, Message):
            steps.append(_make_step(len(steps) + 1, _SOURCES[entry.role], entry.text, entry.at))
            if entry.id is not None:
                steps[-1]["extra"] = {"message_id": entry.id}
        else:
            step = _make_step(len(steps) + 1, "system", describe_mark(entry), entry.at)
            steps.append({**step, "extra": {"crewkeep_mark": entry.encode()}})
    known = {name: getattr(past, name) for name in ("name", "cwd", "title")}
    return {
        "schema_version": ATIF_VERSION,
        "session_id": past.ref,
        "agent": {"name": past.agent, "version": "unknown"},
        "steps": steps,
        "extra": {"crewkeep": {name: value for name, value in known.items() if value is not None}},
    }


def make_markdown(past: Past, entries: Sequence[Entry]) -> str:
    """Return the conversation for people."""
    lines = [f"# {_join_lines(past.title or past.ref)}", ""]
    facts = (
        ("conversation", past.ref),
        ("agent", past.agent),
        ("session", past.name),
        ("directory", past.cwd),
        ("last changed", _format_time(past.changed_at)),
    )
    lines += [f"- {name}: {_join_lines(value)}" for name, value in facts if value is not None]
    for entry in entries:
        at = _format_time(entry.at)
        when = f" · {at}" if at is not None else ""
        if isinstance(entry, Message):
            lines += ["", f"## {_HEADINGS[entry.role]}{when}", "", entry.text, *_close_fence(entry.text)]
        elif isinstance(entry, Command):
            lines += ["", f"### {_join_lines(entry.name)}{_describe_end(entry)}{when}", "", *_fence(entry.text)]
            if entry.output:
                lines += ["", *_fence(entry.output)]
        else:
            lines += ["", f"*{_join_lines(describe_mark(entry))}{when}*"]
    return "\n".join(lines) + "\n"


def _make_step(number: int, source: str, text: str, at: float | None) -> dict[str, Any]:
    step: dict[str, Any] = {"step_id": number, "source": source, "message": text}
    if (when := _format_time(at)) is not None:
        step["timestamp"] = when
    return step


def _add_call(step: dict[str, Any], command: Command, calls: set[str]) -> None:
    call_id = command.id or f"call-{len(calls) + 1}"
    while call_id in calls:
        call_id += "+"
    calls.add(call_id)
    call: dict[str, Any] = {"tool_call_id": call_id, "function_name": command.name, "arguments": _read_arguments(command)}
    extra = {name: value for name in ("ok", "exit_code", "duration_s") if (value := getattr(command, name)) is not None}
    if extra:
        call["extra"] = extra
    step.setdefault("tool_calls", []).append(call)
    if command.output is not None:
        result = {"source_call_id": call_id, "content": command.output}
        step.setdefault("observation", {"results": []})["results"].append(result)


def _read_arguments(command: Command) -> dict[str, Any]:
    """Return a call's arguments; what is no JSON object stands under a name of its own."""
    try:
        arguments = json.loads(command.text)
        json.dumps(arguments, allow_nan=False, indent=2)  # what Python takes for JSON is not all that others do
    except (ValueError, RecursionError):
        arguments = None
    return arguments if isinstance(arguments, dict) else {"command": command.text}


def _describe_end(command: Command) -> str:
    if command.exit_code is not None:
        return f" (exit code {command.exit_code})"
    return "" if command.ok is None else " (ok)" if command.ok else " (failed)"


def describe_mark(mark: Mark) -> str:
    """Return a mark as a phrase."""
    size = f", {mark.size_bytes} bytes" if mark.size_bytes is not None else ""
    detail = f": {mark.detail}" if mark.detail else ""
    return f"recording {mark.what}{size}{detail}"


def _fence(text: str) -> list[str]:
    """Return the text between fences that are longer than any in it."""
    ticks = "`" * max(3, 1 + max((len(run) for run in _TICKS.findall(text)), default=0))
    return [ticks, text, ticks]


def _close_fence(text: str) -> list[str]:
    """Return the fence that the text leaves open, if it does: what comes after a message is none of its code."""
    fence = ""
    for line in text.split("\n"):
        if (found := _FENCE.match(line)) is None:
            continue
        if not fence:
            fence = found[1] if found[1][0] == "~" or "`" not in found[2] else ""
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    return [fence] if fence else []


def _join_lines(text: str) -> str:
    return " ".join(text.split())


def _format_time(at: float | None) -> str | None:
    if at is None:
        return None
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):
        return None


def _replace_surrogates(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)
