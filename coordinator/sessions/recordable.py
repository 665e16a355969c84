"""Messages and commands as records of a recording: what is accepted, and how it is written. Pure but for the time of now.

What cannot be read back the same is refused here, so that a reader never has to guess.
"""

from __future__ import annotations

import math
import time
from typing import Any

from coordinator.errors import InvalidInput
from coordinator.sessions.history import Role
from coordinator.sessions.segments import Body, encode_record

#: What a role may be given as, and how it is written.
ROLES = {role.value: role.value for role in Role}


def encode_message(role: Role | str, text: str, at: float | None = None, id: str | None = None, raw: str | None = None) -> bytes:
    """Return the record of a message, of now without ``at``. Raises ``InvalidInput`` for what is none."""
    if not isinstance(role, str) or role not in ROLES:
        raise InvalidInput(f"a message's role cannot be {role!r:.80}", hint=f"one of {', '.join(Role)}")
    if not isinstance(text, str):
        raise _wrong("text", text, "a string")
    body: Body = {"kind": "message", "role": ROLES[role], "text": text}
    body["at"] = time.time() if at is None else _check_number("at", at)
    if id is not None:
        body["id"] = _check_text("id", id)
    if raw is not None:
        body["raw"] = _check_text("raw", raw)
    return encode_record(body)


def encode_command(
    name: str,
    text: str,
    at: float | None = None,
    *,
    id: str | None = None,
    output: str | None = None,
    ok: bool | None = None,
    exit_code: int | None = None,
    duration_s: float | None = None,
    raw: str | None = None,
) -> bytes:
    """Return the record of a command (see ``history.Command``), of now without ``at``. Raises ``InvalidInput``."""
    if not isinstance(name, str) or not isinstance(text, str):
        raise _wrong("name and text", (name, text), "strings")
    body: Body = {"kind": "command", "name": name, "text": text}
    body["at"] = time.time() if at is None else _check_number("at", at)
    if id is not None:
        body["id"] = _check_text("id", id)
    if output is not None:
        body["output"] = _check_text("output", output)
    if ok is not None:
        body["ok"] = _check_bool("ok", ok)
    if exit_code is not None:
        body["exit_code"] = _check_int("exit_code", exit_code)
    if duration_s is not None:
        body["duration_s"] = _check_number("duration_s", duration_s)
    if raw is not None:
        body["raw"] = _check_text("raw", raw)
    return encode_record(body)


def _wrong(name: str, value: object, what: str) -> InvalidInput:
    return InvalidInput(f"{name} cannot be {value!r:.80}", hint=f"give {what}")


def _check_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(name, value, "a string")
    return value


def _check_number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_told(value):
        raise _wrong(name, value, "a finite number of seconds")
    return value


def _check_bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise _wrong(name, value, "True, False or None")
    return value


def _check_int(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not _is_told(value):
        raise _wrong(name, value, "an integer of at most 64 bits")
    return value


def _is_told(value: float) -> bool:
    """Tell whether a number reads back the same: an integer beyond 64 bits comes back as a float."""
    return -(1 << 63) <= value < 1 << 64 if isinstance(value, int) else math.isfinite(value)
