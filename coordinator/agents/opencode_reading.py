"""What OpenCode's database tells of one conversation: how far it has come, where it stands, what was said in it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from coordinator.agents import opencode_store as store
from coordinator.agents.base import PastConversation
from coordinator.agents.limits import find_reset
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Item, Message, Role

if TYPE_CHECKING:
    import sqlite3

#: What providers call a limit.
LIMIT = re.compile(r"limit|quota|too many requests|exhausted|\b429\b", re.IGNORECASE)
#: A user ends a turn by it; nothing failed.
_ABORTED = "MessageAbortedError"
#: After these the model is asked again, so the turn is not over.
_GOES_ON = ("tool-calls", "unknown", None)
#: So many finished parts are remembered, so that each counts once.
_REMEMBERED = 4096
#: A conversation is called so until the model found a title.
_NO_TITLE = "New session - "
_TITLE_LENGTH = 100


class Reading:
    """Where one conversation stands, looked at again and again."""

    def __init__(self, path: str, id: str) -> None:
        self.path, self.id = path, id
        #: Parts that came to their end since the first look: what the agent said, and tools; its helpers' with them.
        self.progress = 0
        self.at_prompt: bool | None = None
        self.failure: str | None = None
        self.limited_until: float | None = None
        self.failed_at: float | None = None
        #: The last message's id.
        self.last: str | None = None
        self._stamp: tuple[object, ...] | None = None
        #: The next look begins with parts that changed then, in ms; ``None`` before the first.
        self._since_ms: int | None = None
        #: Finished parts that were counted, or were there at the first look -> when they ended, in ms.
        self._done: dict[str, int] = {}
        #: What ended before was not done since the first look, or has been forgotten.
        self._floor_ms = 0
        #: When tools that run and have shown nothing yet changed last, in ms.
        self._silent_ms: list[int] = []

    def look(self) -> None:
        """Take in what changed. A database that cannot be read leaves everything as it was."""
        stamp = store.stamp(self.path)
        if stamp == self._stamp:
            return
        try:
            store.read(self.path, self._look)
        except store.Unreadable:
            return
        self._stamp = stamp

    def waits_for_answer(self, asked_at: float | None) -> bool:
        """Tell whether what was asked at ``asked_at`` (wall-clock seconds) is open: a tool has stood still since before."""
        return asked_at is not None and any(changed_ms <= asked_at * 1000 for changed_ms in self._silent_ms)

    def _look(self, connection: sqlite3.Connection) -> None:
        sessions = store.list_tree(connection, self.id)
        first = self._since_ms is None
        since_ms = store.find_latest_change(connection, sessions) if self._since_ms is None else self._since_ms
        if first:
            self._floor_ms = since_ms
        self._since_ms = since_ms
        for id, changed_ms, part in store.iter_changed_parts(connection, sessions, since_ms):
            self._since_ms = max(self._since_ms, changed_ms)
            ended_ms = _find_end(part)
            if ended_ms is None or id in self._done or ended_ms < self._floor_ms:
                continue
            self._done[id] = ended_ms
            self.progress += not first
        self._forget()
        self._silent_ms = []
        for session in sessions:
            last = store.find_last_message(connection, session)
            if session == self.id:
                self._note_last(last)
            if last is not None:
                self._silent_ms += [
                    row["time_updated"] for row, part in store.iter_parts(connection, last[0]) if _is_silent(row, part)
                ]

    def _note_last(self, last: tuple[str, dict[str, Any]] | None) -> None:
        self.last = self.at_prompt = self.failure = self.limited_until = self.failed_at = None
        if last is not None:
            self.last, message = last
            self.at_prompt = not _is_open(message)
            self.failure, self.limited_until, self.failed_at = _read_failure(message)

    def _forget(self) -> None:
        if len(self._done) > _REMEMBERED:
            newest = sorted(self._done.items(), key=lambda item: item[1])[-_REMEMBERED // 2 :]
            # Of those that ended in the same millisecond some may be kept and some not: none of them counts again.
            self._done, self._floor_ms = dict(newest), newest[0][1] + 1


@dataclass(kw_only=True, slots=True)
class Past:
    """What a resume must know of the conversation."""

    #: What the user said, oldest first.
    said: list[str] = field(default_factory=list)
    #: The last message's id.
    last: str | None = None
    #: Whether the last turn was not ended.
    in_turn: bool = False
    #: The OpenCode agent that the user spoke to last.
    agent: str | None = None


def look_back(connection: sqlite3.Connection, session: str) -> Past | None:
    """Return the conversation's past, ``None`` if it was never written down."""
    if not store.has_session(connection, session):
        return None
    past = Past(said=store.list_user_texts(connection, session))
    for id, message in store.iter_messages(connection, session):
        past.last, past.in_turn = id, _is_open(message)
        if message.get("role") == "user" and isinstance(message.get("agent"), str):
            past.agent = message["agent"]
    return past


def iter_items(connection: sqlite3.Connection, session: str) -> Iterator[Item]:
    """Yield what was said and done in the conversation, oldest first; what its helpers did is told by the tool's output."""
    for id, message in store.iter_messages(connection, session):
        role = Role.USER if message.get("role") == "user" else Role.ASSISTANT
        for row, part in store.iter_parts(connection, id):
            raw = json.dumps(row, default=repr)
            at = row["time_created"] / 1000 if isinstance(row.get("time_created"), int) else None
            if part.get("type") == "text" and isinstance(part.get("text"), str):
                spoke = Role.SYSTEM if part.get("synthetic") else role
                yield Message(role=spoke, text=part["text"], at=at, id=str(row.get("id")), raw=raw)
            elif part.get("type") == "tool":
                yield _read_command(part, at, raw)


def list_past(connection: sqlite3.Connection, path: str) -> list[PastConversation]:
    """Return the conversations of a database, helpers' left out."""
    rows = connection.execute("SELECT id, directory, title, time_updated FROM session WHERE parent_id IS NULL").fetchall()
    return [
        PastConversation(
            conversation=Conversation(agent="opencode", id=str(id), store=path),
            cwd=directory if isinstance(directory, str) else None,
            title=_find_title(connection, str(id), title),
            changed_at=changed_ms / 1000 if isinstance(changed_ms, int) else 0.0,
        )
        for id, directory, title, changed_ms in rows
    ]


def _find_title(connection: sqlite3.Connection, session: str, title: object) -> str:
    if isinstance(title, str) and title and not title.startswith(_NO_TITLE):
        return title
    row = connection.execute(
        "SELECT id FROM message WHERE session_id = ? ORDER BY time_created, id LIMIT 1", (session,)
    ).fetchone()
    parts = store.iter_parts(connection, row[0]) if row is not None else iter(())
    said = next((part["text"] for _, part in parts if isinstance(part.get("text"), str)), "")
    return " ".join(said.split())[:_TITLE_LENGTH]


def _read_command(part: dict[str, Any], at: float | None, raw: str) -> Command:
    state, call = _object(part, "state"), part.get("callID")
    asked, time, more = _object(state, "input"), _object(state, "time"), _object(state, "metadata")
    line = asked.get("command")
    start_s, end_s, code = _read_time(time.get("start")), _read_time(time.get("end")), more.get("exit")
    came = state.get("output") if state.get("status") == "completed" else state.get("error")
    ended = _find_end(part) is not None
    return Command(
        name=str(part.get("tool")),
        text=line if isinstance(line, str) else json.dumps(asked),
        at=start_s if start_s is not None else at,
        id=call if isinstance(call, str) else None,
        output=came if isinstance(came, str) else None,
        ok=(state.get("status") == "completed" and code in (0, None)) if ended else None,
        exit_code=code if isinstance(code, int) else None,
        duration_s=round(end_s - start_s, 3) if start_s is not None and end_s is not None else None,
        raw=raw,
    )


def _is_open(message: dict[str, Any]) -> bool:
    """Tell whether the agent has still to go on after this message."""
    if message.get("role") == "user":
        return True
    if message.get("error"):
        return False
    return "completed" not in _object(message, "time") or message.get("finish") in _GOES_ON


def _is_silent(row: dict[str, Any], part: dict[str, Any]) -> bool:
    """Tell whether this is a tool that was begun and has not shown anything, as one that waits for a permission."""
    state = _object(part, "state")
    return state.get("status") == "running" and not state.get("metadata") and isinstance(row.get("time_updated"), int)


def _find_end(part: dict[str, Any]) -> int | None:
    """Return when (ms since 1970) this piece of the agent's own work came to its end; ``None`` if it has not or is none."""
    if part.get("type") == "tool":
        state = _object(part, "state")
        if state.get("status") not in ("completed", "error") or _object(state, "metadata").get("interrupted"):
            return None
        end = _object(state, "time").get("end")
    elif part.get("type") in ("text", "reasoning"):
        end = _object(part, "time").get("end")
    else:
        return None
    return end if isinstance(end, int) else None


def _read_failure(message: dict[str, Any]) -> tuple[str | None, float | None, float | None]:
    """Return in which words the turn failed, when the limit ends that it met, and when that was told."""
    error = _object(message, "error")
    name, data = error.get("name"), _object(error, "data")
    if not isinstance(name, str) or name == _ABORTED:
        return None, None, None
    told = data.get("message") if isinstance(data.get("message"), str) else ""
    failure, time, headers = f"{name}: {told}" if told else name, _object(message, "time"), _object(data, "responseHeaders")
    at = _read_time(time.get("completed") or time.get("created"))
    text = f"{told}\n{data.get('responseBody') or ''}"
    if at is None or not (data.get("statusCode") == 429 or LIMIT.search(text)):
        return failure, None, at
    until = find_reset(text, at)
    if until is None and str(headers.get("retry-after", "")).isdecimal():
        until = at + int(headers["retry-after"])
    return failure, until, at


def _read_time(ms: object) -> float | None:
    """Return the wall-clock second since 1970 of a time in ms, ``None`` if it is none."""
    return ms / 1000 if isinstance(ms, int) and abs(ms) < 1 << 63 else None


def _object(of: dict[str, Any], name: str) -> dict[str, Any]:
    found = of.get(name)
    return found if isinstance(found, dict) else {}
