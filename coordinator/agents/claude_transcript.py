"""What the files that Claude Code keeps of a conversation say: its transcript, those of its helpers, and the file of a process.

A transcript is lines of JSON: one for each block of each message (the message's own id repeats), and lines of other kinds among
them. The lines form a tree by ``uuid`` and ``parentUuid``: whoever goes back leaves a branch behind. All that stands in the file
was said and done, so it is read in its order, not along a branch: results of calls that were made side by side are no ancestors
of what came after them.

Seen with 2.1.197: ``permissionMode`` stands on the lines that begin a turn; a turn ends with an assistant's line whose
``stop_reason`` is neither ``tool_use`` nor missing; an answer that the program made up instead of the model is of the model
``<synthetic>``, and with ``isApiErrorMessage`` it tells why there is none. A prompt that was taken back with Escape before there
was an answer leaves no trace. Helpers write files of their own below ``ID/subagents/``; earlier versions marked their lines with
``isSidechain`` in the same file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.agents import transcript
from coordinator.agents.calls import Calls
from coordinator.agents.limits import find_reset
from coordinator.sessions.history import Command, Item, Message, Role
from coordinator.system import processes

#: Begin a line of the user's that no model is asked about: a command of the program's own and what it printed.
_NOT_SAID = ("<command-", "<local-command-", "<bash-")
_INTERRUPTED = "[Request interrupted by user"
#: Begins the result of a call that the user refused.
_REFUSED = "The user doesn't want to"
#: Of so many bytes at either end of a transcript its title is read.
_LOOK_BYTES = 64 << 10
_TITLE_LIMIT = 200


class Talk:
    """What the lines of a transcript, added one by one, tell of the work."""

    def __init__(self, prompt: str | None = None) -> None:
        self._wanted = _words_of(prompt)
        #: Whether the prompt stands in the conversation.
        self.heard_prompt = False
        #: Whether anything was said in it: without, the program finds no conversation in the file.
        self.has_messages = False
        #: Finished pieces of work, the helpers' too: what was said, thought and called, and calls that came to their end.
        self.work = 0
        #: Whether a turn has begun and not ended; ``None`` before the first.
        self.in_turn: bool | None = None
        #: When the last turn began, wall-clock seconds since 1970.
        self.turn_at: float | None = None
        #: The permission mode of the last turn.
        self.mode: str | None = None
        #: The worktree that the conversation is held in, if it is one of the program's own.
        self.worktree: str | None = None
        self.failure: str | None = None
        self.failed_at: float | None = None
        self.limited_until: float | None = None

    def add(self, entry: dict[str, Any]) -> None:
        """Take in one line; what is of another shape is passed over."""
        kind, message = entry.get("type"), entry.get("message")
        if kind == "permission-mode" and isinstance(entry.get("permissionMode"), str):
            self.mode = entry["permissionMode"]
        elif kind == "worktree-state":
            state = entry.get("worktreeSession")
            name = state.get("worktreeName") if isinstance(state, dict) else None
            self.worktree = name if isinstance(name, str) else None
        elif kind == "system" and entry.get("subtype") == "turn_duration":
            self.in_turn = False
        elif kind == "user" and isinstance(message, dict):
            self._add_user(entry, message.get("content"))
        elif kind == "assistant" and isinstance(message, dict):
            self._add_assistant(entry, message)

    def _add_user(self, entry: dict[str, Any], content: object) -> None:
        self.has_messages = True
        results = [block for block in _blocks(content) if block.get("type") == "tool_result"]
        self.work += sum(not _text_of(block.get("content")).startswith((_INTERRUPTED, _REFUSED)) for block in results)
        if entry.get("isSidechain"):
            return
        text = _text_of(content)
        if text.startswith(_INTERRUPTED):
            self.in_turn = False
        if results or entry.get("isMeta") or entry.get("isCompactSummary"):
            return
        if self._wanted and self._wanted in text:
            self.heard_prompt = True
        mode = entry.get("permissionMode")
        if isinstance(mode, str):
            self.mode = mode
        elif text.startswith((*_NOT_SAID, _INTERRUPTED)):
            return
        self.in_turn, self.turn_at = True, transcript.parse_time(entry.get("timestamp"))
        self.failure = self.failed_at = self.limited_until = None

    def _add_assistant(self, entry: dict[str, Any], message: dict[str, Any]) -> None:
        self.has_messages = True
        if entry.get("isApiErrorMessage"):
            if not entry.get("isSidechain"):
                self._add_failure(entry, _text_of(message.get("content")))
            return
        if message.get("model") == "<synthetic>":
            return
        self.work += 1
        if entry.get("isSidechain"):
            return
        self.failure = self.failed_at = self.limited_until = None
        stop = message.get("stop_reason")
        if stop is not None:
            self.in_turn = stop in ("tool_use", "pause_turn")

    def _add_failure(self, entry: dict[str, Any], text: str) -> None:
        self.in_turn = False
        self.failure = text or str(entry.get("error") or "the model could not be asked")
        at = self.failed_at = transcript.parse_time(entry.get("timestamp"))
        is_limit = entry.get("error") in (None, "rate_limit", "billing_error") and "limit" in text
        self.limited_until = find_reset(text, at) if is_limit and at is not None else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """What a running Claude Code says of itself in ``sessions/PID.json``."""

    conversation: str
    #: ``busy``, ``idle``, ``waiting`` (for the user); ``None`` from one that answers once and ends.
    state: str | None
    #: Wall-clock seconds since 1970 of the last change.
    at: float
    #: Start of the process, in the unit of ``processes.start_ticks``.
    start: int

    @property
    def is_idle(self) -> bool:
        return self.state == "idle"


def read_status(config: Path, pid: int, *, is_living: bool = True) -> Status | None:
    """Return what the process ``pid`` says of itself, ``None`` if it says nothing or the file is another process's.

    With ``is_living=False`` whoever wrote the file may be gone.
    """
    try:
        entry = transcript.parse_line((config / "sessions" / f"{pid}.json").read_bytes())
        if entry is None or not isinstance(entry.get("sessionId"), str):
            return None
        status = Status(
            conversation=entry["sessionId"],
            state=entry.get("status") if isinstance(entry.get("status"), str) else None,
            at=float(entry.get("statusUpdatedAt") or entry.get("startedAt") or 0) / 1000,
            start=int(entry.get("procStart") or 0),
        )
    except (OSError, TypeError, ValueError, OverflowError):
        return None
    return None if is_living and processes.start_ticks(pid) != status.start else status


def iter_pids(config: Path) -> Iterator[int]:
    """Yield the pids of which there is a file, of the living and of those that were killed."""
    try:
        names = os.listdir(config / "sessions")
    except OSError:
        return
    yield from (int(stem) for name in names if (stem := name.removesuffix(".json")) != name and stem.isdecimal())


def find_transcript(config: Path, id: str) -> Path | None:
    """Return where the conversation's transcript is, whichever directory it was held in; ``None`` if there is none yet."""
    try:
        directories = os.listdir(config / "projects")
    except OSError:
        return None
    found = (config / "projects" / name / f"{id}.jsonl" for name in directories)
    return next((path for path in found if path.is_file()), None)


def is_of(path: Path, id: str) -> bool:
    """Tell whether the file is a transcript of the conversation ``id``: the first line that names one names it."""
    return next((entry["sessionId"] == id for _, entry in transcript.iter_lines(path) if "sessionId" in entry), False)


def read_history(path: str) -> Iterator[Item]:
    """Yield what was said and done, without the thoughts and without the helpers' lines."""
    calls, seen = Calls(), set[str]()
    for raw, entry in transcript.iter_lines(path):
        message, id = entry.get("message"), _id_of(entry.get("uuid"))
        if entry.get("type") not in ("user", "assistant") or not isinstance(message, dict) or entry.get("isSidechain"):
            continue
        if id is not None:
            if id in seen:  # a fork copies what went before
                continue
            seen.add(id)
        at = transcript.parse_time(entry.get("timestamp"))
        for number, block in enumerate(_blocks(message.get("content"))):
            kind, text = block.get("type"), _text_of(block)
            if kind == "tool_use":
                name = str(block.get("name") or "")
                yield from calls.add(Command(name=name, text=_say_call(block), at=at, id=_id_of(block.get("id")), raw=raw))
            elif kind == "tool_result":
                yield from calls.end(block.get("tool_use_id"), output=text, ok=not block.get("is_error"))
            elif kind == "text" and text:
                # What the editor adds to a prompt is a block beside it: two messages of one line are not the same one.
                own = f"{id}/{number}" if id is not None and number else id
                yield from calls.add(Message(role=_role_of(entry, message), text=text, at=at, id=own, raw=raw))
    yield from calls.finish()


def read_title(path: Path) -> tuple[str, str | None] | None:
    """Return what a conversation is about and the directory it was held in, ``None`` if nothing was said in it."""
    try:
        with path.open("rb") as file:
            head = b"".join(file.readlines(_LOOK_BYTES))  # whole lines: a first prompt may hold a picture
            size = file.seek(0, os.SEEK_END)
            file.seek(max(len(head), size - _LOOK_BYTES))
            tail = file.read(_LOOK_BYTES)
    except OSError:
        return None
    first, cwd, titles = "", None, {}
    for line in (head + b"\n" + tail).split(b"\n"):
        entry = transcript.parse_line(line)
        if entry is None:
            continue
        if cwd is None and isinstance(entry.get("cwd"), str):
            cwd = entry["cwd"]
        for key in ("customTitle", "aiTitle", "summary"):
            if isinstance(entry.get(key), str):
                titles[key] = entry[key]
        message = entry.get("message")
        if not first and entry.get("type") == "user" and isinstance(message, dict) and not entry.get("isMeta"):
            text = _text_of(message.get("content")).strip()
            first = "" if text.startswith(_NOT_SAID) else text
    title = next((titles[key] for key in ("customTitle", "aiTitle", "summary") if key in titles), first)
    return (" ".join(title.split())[:_TITLE_LIMIT], cwd) if title else None


def _words_of(prompt: str | None) -> str | None:
    """Return what stands in the transcript once the prompt was heard."""
    if prompt is None or not prompt.strip():
        return None
    words = prompt.strip()
    return f"<command-name>{words.split()[0]}</command-name>" if words.startswith("/") else words


def _role_of(entry: dict[str, Any], message: dict[str, Any]) -> Role:
    made_up = message.get("model") == "<synthetic>" or entry.get("isMeta") or entry.get("isCompactSummary")
    if made_up or _text_of(message.get("content")).startswith(_NOT_SAID):
        return Role.SYSTEM
    return Role.USER if entry.get("type") == "user" else Role.ASSISTANT


def _say_call(block: dict[str, Any]) -> str:
    arguments = block.get("input")
    if isinstance(arguments, dict) and isinstance(arguments.get("command"), str):
        return str(arguments["command"])
    return json.dumps(arguments, ensure_ascii=False)


def _id_of(id: object) -> str | None:
    return id if isinstance(id, str) else None


def _blocks(content: object) -> list[dict[str, Any]]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []


def _text_of(content: object) -> str:
    return "\n".join(filter(None, transcript.list_texts(content, "text", "content")))
