"""Gemini CLI's transcripts: lines of JSON that must be replayed, since later ones replace and drop earlier ones.

A line is one of (0.61.0, read in its own reader and seen in its files):
  - ``{"sessionId", "projectHash", ...}``: the first; a resume in the minute in which the session was born writes it again
  - ``{"id", "type": "user" | "gemini" | "info" | "warning" | "error", ...}``: a message; one whose id came before replaces it
  - ``{"$set": {...}}``: new metadata; ``$set.messages`` replaces all messages at once
  - ``{"$rewindTo": ID}``: that message and all behind it are gone

What it does not tell: a tool call that runs or waits for a permission (it is written once it has ended), a failure of the
headless program, and a turn whose answer said something before its tool call is not known to go on until the call has ended.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from coordinator.agents import transcript
from coordinator.sessions.history import Command, Item, Message, Role

#: What the program itself tells the model, and what it never resumes for.
_NOT_SAID = ("<session_context>", "<hook_context>")
_CANCELLED = "Request cancelled."
#: How much of a transcript's beginning tells what it is about.
_HEAD_BYTES = 1 << 16
_TITLE_LIMIT = 120


class Work:
    """What the lines of a transcript, added one by one, tell of the work. It may begin anywhere."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        #: Finished pieces of the agent's own work: what it said, and tools that came to their end.
        self.count = 0
        #: Whether a turn has begun and not ended; ``None`` before the first.
        self.in_turn: bool | None = None
        #: What ended the last turn instead of an answer.
        self.failure: str | None = None
        #: Wall-clock second of the failure.
        self.failed_at: float | None = None
        #: Whether the last turn was ended by the user.
        self.cancelled = False

    def add(self, entry: dict[str, Any]) -> None:
        """Take in one line; what is of another shape is passed over."""
        rewritten = messages_of(entry.get("$set"))
        for message in rewritten:  # a resume writes all of them again: none of it is work that was done just now
            self._seen |= _pieces_of(message)
        if isinstance(entry.get("id"), str):
            pieces = _pieces_of(entry)
            self.count += len(pieces - self._seen)
            self._seen |= pieces
            self._follow(entry)

    def _follow(self, message: dict[str, Any]) -> None:
        kind, text = message.get("type"), text_of(message.get("content"))
        if kind == "user" and (_results_of(message) or is_said(text)):
            self.in_turn, self.failure, self.cancelled = True, None, False
        elif kind == "gemini":
            self.in_turn, self.failure = not text.strip() or bool(_tool_calls(message)), None
        elif kind == "error":
            self.in_turn, self.failure, self.failed_at = False, text, read_time(message.get("timestamp"))
        elif kind == "info" and text.strip() == _CANCELLED:
            self.in_turn, self.cancelled = False, True


class Replay:
    """A whole transcript as its program would load it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Read the file; one that cannot be read is empty."""
        self.id: str | None = None
        #: Messages by id, in order, each with what was written of it.
        self.messages: dict[str, tuple[dict[str, Any], str]] = {}
        self.work = Work()
        #: Everything that a user said in it, also what was dropped since.
        self.heard: list[str] = []
        #: The file's length up to the line with which a resume emptied it, if it did not come to fill it again.
        self.emptied_at: int | None = None
        offset = 0
        for line in _iter_lines(path):
            begin, offset = offset, offset + len(line)
            entry = transcript.parse_line(line)
            if entry is not None:
                self._add(entry, line, begin)

    @property
    def can_resume(self) -> bool:
        """Whether the program finds a conversation in it: it must hold something said or done."""
        return any(_is_resumable(message) for message, _ in self.messages.values())

    def _add(self, entry: dict[str, Any], line: bytes, begin: int) -> None:
        self.work.add(entry)
        if isinstance(entry.get("$rewindTo"), str):
            self._rewind(entry["$rewindTo"])
        elif isinstance(entry.get("id"), str):
            self._put(entry, line.decode("utf-8", "replace").rstrip("\n"))
            self.emptied_at = None
        elif isinstance(entry.get("$set"), dict):
            self._set(entry["$set"])
        elif isinstance(entry.get("sessionId"), str) and isinstance(entry.get("projectHash"), str):
            if self.id is not None and self.can_resume:
                self.emptied_at = begin
            self.id = entry["sessionId"]

    def _set(self, update: dict[str, Any]) -> None:
        if isinstance(update.get("messages"), list):
            before, self.messages = self.messages, {}
            for message in messages_of(update):
                known = before.get(message["id"])
                # What is written again has lost its time and its tools' results; what was known of it says more.
                self._put(*(known if known is not None else (message, json.dumps(message, ensure_ascii=False))))
            if self.can_resume:
                self.emptied_at = None
        if isinstance(update.get("sessionId"), str):
            self.id = update["sessionId"]

    def _put(self, message: dict[str, Any], raw: str) -> None:
        self.messages[message["id"]] = (message, raw)
        text = text_of(message.get("displayContent") or message.get("content"))
        if message.get("type") == "user" and text and text not in self.heard[-1:]:
            self.heard.append(text)

    def _rewind(self, id: str) -> None:
        ids = list(self.messages)
        kept = ids[: ids.index(id)] if id in self.messages else []
        self.messages = {id: self.messages[id] for id in kept}


def read_history(path: str | os.PathLike[str]) -> Iterator[Item]:
    """Yield what was said and done, oldest first."""
    items: list[Item] = []
    calls: dict[str, int] = {}
    for message, raw in Replay(path).messages.values():
        at = read_time(message.get("timestamp"))
        text = text_of(message.get("displayContent") or message.get("content"))
        for id, output, ok in _results_of(message):
            index = calls.get(id)
            if index is not None:  # the same result stands in the call itself, and there it says more
                call = items[index]
                if isinstance(call, Command) and call.output is None:
                    items[index] = _with_result(call, output, ok)
        if text.strip():
            items.append(Message(role=_role_of(message, text), text=text, at=at, id=message["id"], raw=raw))
        for call in _iter_calls(message, at, raw):
            if call.id is not None:
                calls[call.id] = len(items)
            items.append(call)
    yield from items


def read_head(path: Path) -> tuple[str, str, str | None] | None:
    """Return the conversation's id, its title and its kind from the beginning of a transcript; ``None`` if it holds nothing."""
    try:
        with path.open("rb") as file:
            data = b"".join(file.readlines(_HEAD_BYTES))  # whole lines: a first prompt may hold a picture
    except OSError:
        return None
    id, kind, title = None, None, ""
    for line in data.split(b"\n"):
        entry = transcript.parse_line(line) or {}
        if isinstance(entry.get("sessionId"), str) and id is None:
            id, kind = entry["sessionId"], entry.get("kind")
        for message in [entry, *messages_of(entry.get("$set"))]:
            text = text_of(message.get("displayContent") or message.get("content")).strip()
            if not title and message.get("type") == "user" and is_said(text):
                title = " ".join(text.split())[:_TITLE_LIMIT]
    if id is None or (not title and len(data) < _HEAD_BYTES):
        return None
    return id, title, kind if isinstance(kind, str) else None


def read_id(path: str | os.PathLike[str]) -> str | None:
    """Return the conversation's id from the first line of a transcript, ``None`` if it is none."""
    entry = transcript.read_first_line(path) or {}
    id = entry.get("sessionId")
    return id if isinstance(id, str) and isinstance(entry.get("projectHash"), str) else None


def mend(path: Path, replay: Replay) -> Replay:
    """Put back what a resume had when it was killed between emptying its transcript and filling it again.

    The damaged file is set aside beside it. Returns the conversation as it is now. Raises ``StorageError``.
    """
    if replay.emptied_at is None or replay.can_resume:
        return replay
    aside = transcript.set_aside(path)
    transcript.put_back(aside, path, first_bytes=replay.emptied_at)
    return Replay(path)


def messages_of(update: object) -> list[dict[str, Any]]:
    """Return the messages that a ``$set`` puts in the place of all others; none if it does not."""
    found = update.get("messages") if isinstance(update, dict) else None
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("id"), str)] if isinstance(found, list) else []


def read_time(written: object) -> float | None:
    """Return the wall-clock second of an ISO time, ``None`` if it is none."""
    try:
        return datetime.datetime.fromisoformat(written).timestamp() if isinstance(written, str) else None
    except (ValueError, OverflowError):
        return None


def is_said(text: str) -> bool:
    """Tell whether a user's message is one for which the program resumes a conversation."""
    text = text.strip()
    return bool(text) and not text.startswith(("/", "?", *_NOT_SAID))


def text_of(content: object) -> str:
    """Return the plain text of a message's content, in any of its shapes; thoughts, calls and results are none."""
    return "".join(transcript.list_texts(content, "text", hidden="thought"))


def _is_resumable(message: dict[str, Any]) -> bool:
    if message.get("type") == "user":
        # Its own reader names the parts that are no text, so that they count.
        return is_said(text_of(message.get("content"))) or bool(_results_of(message))
    if message.get("type") == "gemini":
        content = message.get("content")
        filled = bool(content.strip()) if isinstance(content, str) else bool(content)
        return filled or bool(_tool_calls(message)) or bool(message.get("thoughts"))
    return False


def _pieces_of(message: dict[str, Any]) -> set[str]:
    """Return names for the finished pieces of work in a message; the same piece, told again, has the same name."""
    pieces = {f"tool {id}" for id, _, _ in _results_of(message)}
    if message.get("type") == "gemini" and text_of(message.get("content")).strip():
        pieces.add(f"said {message['id']}")
    pieces |= {f"tool {call.get('id')}" for call in _tool_calls(message) if call.get("status") in ("success", "error")}
    return pieces


def _tool_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tool calls that a message of the model's was given once they had ended."""
    found = message.get("toolCalls")
    return [call for call in found if isinstance(call, dict)] if isinstance(found, list) else []


def _results_of(message: dict[str, Any]) -> list[tuple[str, str, bool]]:
    """Return id, output and success of each tool result that a user's message carries to the model."""
    found = []
    content = message.get("content")
    for part in content if isinstance(content, list) and message.get("type") == "user" else ():
        answer = part.get("functionResponse") if isinstance(part, dict) else None
        if isinstance(answer, dict):
            output, ok = _output_of(answer.get("response"))
            found.append((str(answer.get("id")), output, ok))
    return found


def _output_of(response: object) -> tuple[str, bool]:
    if not isinstance(response, dict):
        return ("" if response is None else str(response)), True
    if "error" in response:
        return str(response["error"]), False
    output = response.get("output", response)
    return (output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)), True


def _role_of(message: dict[str, Any], text: str) -> Role:
    if message.get("type") == "gemini":
        return Role.ASSISTANT
    return Role.USER if message.get("type") == "user" and not text.strip().startswith(_NOT_SAID) else Role.SYSTEM


def _iter_calls(message: dict[str, Any], at: float | None, raw: str) -> Iterator[Command]:
    """Yield the tool calls in a message of the model's: as written when they ended, or as a resume writes them again."""
    for call in _tool_calls(message):
        answers = _results_of({"type": "user", "content": call.get("result")})
        output = answers[0][1] if answers else None
        ok = {"success": True, "error": False, "cancelled": False}.get(str(call.get("status")))
        ended_at = read_time(call.get("timestamp"))
        yield Command(
            name=str(call.get("name")),
            text=_command_of(call.get("args")),
            at=at if at is not None else ended_at,
            id=str(call.get("id")),
            output=output,
            ok=ok,
            duration_s=ended_at - at if ended_at is not None and at is not None and ended_at >= at else None,
            raw=raw,
        )
    content = message.get("content")
    for part in content if isinstance(content, list) and not _tool_calls(message) else ():
        asked = part.get("functionCall") if isinstance(part, dict) else None
        if isinstance(asked, dict):
            name, text = str(asked.get("name")), _command_of(asked.get("args"))
            yield Command(name=name, text=text, at=at, id=str(asked.get("id")), raw=raw)


def _command_of(arguments: object) -> str:
    if isinstance(arguments, dict) and isinstance(arguments.get("command"), str):
        return str(arguments["command"])
    return json.dumps(arguments, ensure_ascii=False)


def _with_result(call: Command, output: str, ok: bool) -> Command:
    return Command(name=call.name, text=call.text, at=call.at, id=call.id, output=output, ok=ok, raw=call.raw)


def _iter_lines(path: str | os.PathLike[str]) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            yield from file
    except OSError:
        return
