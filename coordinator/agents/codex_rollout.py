"""What a rollout of Codex's tells beside the state of its work: what was said and done, and what it is about."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.agents import transcript
from coordinator.agents.calls import Calls
from coordinator.sessions.history import Command, Item, Message, Role

#: Begin what the program itself tells the model in the user's name.
_NOT_SAID = ("<environment_context>", "<user_instructions>", "# AGENTS.md instructions", "<turn_aborted>", "<skill>")
_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT}
#: Stand before a tool's own output.
_EXIT_CODE = re.compile(r"^(?:Process exited with code|Exit code:) (-?\d{1,10})$", re.MULTILINE)
_DURATION = re.compile(r"^Wall time: (\d{1,10}(?:\.\d+)?) seconds$", re.MULTILINE)
#: A title is looked for in so many of the first lines.
_TITLE_LINES = 40
_TITLE_LIMIT = 200
#: So far from a rollout's end the call is looked for that has ended just now; its output stands in its event.
_CALL_LOOK_BACK_BYTES = 1 << 18


def read_meta(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a rollout says of itself in its first line, nothing if it is no rollout."""
    entry = transcript.read_first_line(path)
    payload = entry.get("payload") if entry is not None and entry.get("type") == "session_meta" else None
    return payload if isinstance(payload, dict) else {}


def read_title(path: Path) -> str | None:
    """Return the beginning of what the user said first, ``None`` if nothing was said."""
    for number, (_, entry) in enumerate(transcript.iter_lines(path)):
        payload = entry.get("payload")
        if entry.get("type") == "response_item" and isinstance(payload, dict) and _read_role(payload) is Role.USER:
            return " ".join(text_of(payload.get("content")).split())[:_TITLE_LIMIT] or None
        if number >= _TITLE_LINES:
            break
    return None


def read_history(path: str) -> Iterator[Item]:
    """Yield what was said and done, without the model's thoughts."""
    calls = Calls()
    for raw, entry in transcript.iter_lines(path):
        payload, at = entry.get("payload"), transcript.parse_time(entry.get("timestamp"))
        if entry.get("type") != "response_item" or not isinstance(payload, dict):
            continue
        kind, id = str(payload.get("type")), payload.get("call_id") or payload.get("id")
        id = id if isinstance(id, str) else None
        if kind == "message":
            text = text_of(payload.get("content"))
            yield from calls.add(Message(role=_read_role(payload), text=text, at=at, id=id, raw=raw))
        elif kind.endswith("_call_output"):
            output = text_of(payload.get("output"))
            yield from calls.end(id, output=output, **_judge(payload.get("output"), output))
        elif kind.endswith("_call"):
            yield from calls.add(Command(name=_name_call(payload), text=_say_call(payload), at=at, id=id, raw=raw))
    yield from calls.finish()


def find_outcome(path: str, call_id: str) -> bool | None:
    """Tell whether a call that has ended just now succeeded: that stands in the rollout before the hook runs."""
    found = None
    for entry in transcript.Tail(path, from_end_bytes=_CALL_LOOK_BACK_BYTES).iter_new():
        payload = entry.get("payload")
        item = payload.get("item") if isinstance(payload, dict) and payload.get("type") == "item_completed" else None
        if isinstance(item, dict) and item.get("id") == call_id:
            found = {"completed": True, "failed": False, "declined": False}.get(str(item.get("status")))
    return found


def text_of(content: object) -> str:
    """Return the plain text in any of the shapes that rollouts have for content."""
    return "\n".join(transcript.list_texts(content, "text", "content"))


def _read_role(payload: dict[str, Any]) -> Role:
    role = _ROLES.get(str(payload.get("role")), Role.SYSTEM)
    said_by_program = role is Role.USER and text_of(payload.get("content")).lstrip().startswith(_NOT_SAID)
    return Role.SYSTEM if said_by_program else role


def _name_call(payload: dict[str, Any]) -> str:
    name = payload.get("name")
    if not isinstance(name, str):
        return str(payload.get("type")).removesuffix("_call")  # local_shell_call, web_search_call
    space = payload.get("namespace")
    return f"{space.removesuffix('__')}__{name}" if isinstance(space, str) and space else name


def _say_call(payload: dict[str, Any]) -> str:
    """Return the command line that a call runs, else its arguments as they were written."""
    said = payload.get("arguments") or payload.get("input") or payload.get("action") or ""
    arguments = transcript.parse_line(said.encode("utf-8", "surrogatepass")) if isinstance(said, str) else said
    if isinstance(arguments, dict):
        for key in ("cmd", "command"):
            command = arguments.get(key)
            if isinstance(command, str):
                return command
            if isinstance(command, list):
                return " ".join(str(word) for word in command)
    return said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def _judge(result: object, output: str) -> dict[str, Any]:
    """Return whether the call succeeded, its exit code and how long it took, as far as its result tells."""
    head = output.partition("\nOutput:\n")[0]
    if (match := _EXIT_CODE.search(head)) is not None:
        took = _DURATION.search(head)
        duration_s = float(took[1]) if took is not None else None
        return {"ok": match[1] == "0", "exit_code": int(match[1]), "duration_s": duration_s}
    if output.startswith("aborted"):
        return {"ok": False}
    success = result.get("success") if isinstance(result, dict) else None
    return {"ok": success} if isinstance(success, bool) else {}
