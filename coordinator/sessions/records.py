"""From the bodies of sealed files to records, and from commands to names. Nothing here writes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from coordinator import sealed
from coordinator.errors import Damaged, InvalidInput, Refused
from coordinator.ids import check_name
from coordinator.paths import SessionPaths
from coordinator.sessions.model import LaunchSpec, SessionRecord

#: Programs that only run what their first argument names.
_RUNNERS = re.compile(r"(python[0-9.]*|node|bash|sh|dash|zsh|ruby|perl|env|npx|uv|uvx)")


def decode_record(body: sealed.Body, paths: SessionPaths) -> SessionRecord:
    """Return the record that ``body`` is. Raises ``Damaged`` on a wrong shape or another session's record."""
    try:
        record = SessionRecord.decode(body)
        if record.id != paths.path.name:
            raise ValueError(f"it is the record of {record.id}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _wrong_shape(paths.record, error) from error
    return record


def decode_launch(body: sealed.Body, paths: SessionPaths) -> LaunchSpec:
    """Return the launch that ``body`` is. Raises ``Damaged`` on a wrong shape."""
    try:
        return LaunchSpec.decode(body)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _wrong_shape(paths.launch, error) from error


def _wrong_shape(path: Path, error: Exception) -> Damaged:
    return Damaged(f"{path} has the wrong shape ({error})", hint="run `crewkeep doctor`", path=str(path), reason="wrong-shape")


def version_of(body: sealed.Body) -> int:
    """Return a record's version, 0 if it has none."""
    version = body.get("version")
    return version if isinstance(version, int) else 0


def name_taken(name: str, holder: str) -> Refused:
    """Return the error for a name that session ``holder`` bears."""
    return Refused(
        f"the name {name!r} is held by session {holder}, which has not ended",
        hint=f"crewkeep attach {name}, or: crewkeep stop {name} && crewkeep rm {name}, or choose another name",
        name=name,
        holder=holder,
    )


def make_name(argv: tuple[str, ...], is_taken: Callable[[str], bool]) -> str:
    """Return a free name made from the command."""
    program = os.path.basename(argv[0])
    if _RUNNERS.fullmatch(program) and len(argv) > 1 and not argv[1].startswith("-"):
        program = os.path.basename(argv[1])
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.splitext(program)[0]).strip("-._")[:48]
    try:
        check_name(stem)
    except InvalidInput:
        stem = "session"
    name, number = stem, 1
    while is_taken(name):
        number += 1
        name = f"{stem}-{number}"
    return name
