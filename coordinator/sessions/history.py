"""What was said and done in a session: messages and commands, in the order in which they happened. Pure.

One model for all agents: what is recorded live and what an adapter reads from its program's transcript have the same shape, and
what is encoded decodes to the same again, whatever text it holds.

Not promised: that two programs mean the same by a tool's name; it is kept as its program says it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """Who speaks."""

    USER = "user"
    ASSISTANT = "assistant"
    #: Instructions that neither the user nor the model wrote.
    SYSTEM = "system"


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One thing that was said."""

    role: Role
    text: str
    #: Wall-clock seconds since 1970, ``None`` if the transcript does not tell.
    at: float | None = None
    #: The program's own id of it. One that comes twice in a transcript replaces what came first.
    id: str | None = None
    #: What the program wrote, as it wrote it (a line of its transcript, a row as JSON).
    raw: str | None = None

    def encode(self) -> dict[str, Any]:
        return {"kind": "message", **_drop_absent(self)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One thing that was done: a tool that the agent called, a command that ran."""

    #: The tool, as its program names it; ``shell`` for a plain command.
    name: str
    #: The command line, or the call's arguments as JSON.
    text: str
    at: float | None = None
    #: The program's own id of the call.
    id: str | None = None
    #: What came of it; ``None`` while it runs, or if it never ended.
    output: str | None = None
    #: Whether it succeeded; ``None`` if that is not known.
    ok: bool | None = None
    exit_code: int | None = None
    duration_s: float | None = None
    #: What the program wrote of the call.
    raw: str | None = None

    def encode(self) -> dict[str, Any]:
        return {"kind": "command", **_drop_absent(self)}


Item = Message | Command
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("role", "name", "text", "id", "raw", "output"), str),
    **dict.fromkeys(("at", "duration_s"), (int, float)),
    "ok": bool,
    "exit_code": int,
}


def decode_item(body: dict[str, Any]) -> Item:
    """Return what ``encode`` gave. Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
    kind = body["kind"]
    if kind == "message":
        return Message(**{**_known(Message, body), "role": Role(body["role"])})
    if kind == "command":
        return Command(**_known(Command, body))
    raise ValueError(f"kind {kind!r}")


def _drop_absent(item: Item) -> dict[str, Any]:
    return {field.name: value for field in dataclasses.fields(item) if (value := getattr(item, field.name)) is not None}


def _known(cls: type, body: dict[str, Any]) -> dict[str, Any]:
    found = {field.name: body[field.name] for field in dataclasses.fields(cls) if field.name in body}
    for field in dataclasses.fields(cls):
        value = found.get(field.name, field.default)
        if not (isinstance(value, _TYPES[field.name]) or (value is None and field.default is None)):
            raise TypeError(f"{field.name} {value!r:.40}")
    return found
