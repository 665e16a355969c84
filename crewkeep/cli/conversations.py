"""The list of past conversations, as ``history`` prints it. Without Typer, so that its plain forms need not load it."""

from __future__ import annotations

import os
from typing import Any

from coordinator.services import archive
from coordinator.services.archive import Past
from crewkeep.cli import output
from crewkeep.cli.house import open_house

#: As many are listed for people unless they say otherwise.
_LISTED = 50


def read_flags(arguments: list[str]) -> tuple[int | None, bool] | None:
    """Return (count, as JSON) of a plain ``history``; ``None`` for what takes a real parser."""
    rest = list(arguments)
    as_json = "--json" in rest
    if as_json:
        rest.remove("--json")
    if not rest:
        return None, as_json
    if len(rest) == 2 and rest[0] == "-n" and rest[1].isascii() and rest[1].isdecimal():
        return int(rest[1]), as_json
    return None


def list_pasts(count: int | None, as_json: bool) -> None:
    """Print the list; for people only the newest unless they say how many."""
    house = open_house()
    found = archive.list_past(house.home, os.environ, report=output.note)
    limit = count if count is not None else len(found) if as_json else _LISTED
    if as_json:
        output.print_json([describe(past) for past in found[:limit]])
        return
    if not found:
        output.note("no conversation yet; start one: crewkeep run -- CMD")
        return
    now_s = house.clock.wall_s()
    output.print_table(
        ("REF", "AGENT", "STATE", "AGE", "NAME", "WHERE", "TITLE"),
        (
            (
                past.ref,
                past.agent,
                past.state,
                output.format_age(now_s - past.changed_at),
                past.name,
                shorten(past.cwd),
                past.title,
            )
            for past in found[:limit]
        ),
        states=(2,),
    )
    if len(found) > limit:
        output.note(f"and {len(found) - limit} older ones: crewkeep history -n {len(found)}")


def describe(past: Past) -> dict[str, Any]:
    """Return the fields that ``history --json`` promises."""
    return {
        "ref": past.ref,
        "agent": past.agent,
        "session": past.session.id if past.session is not None else None,
        "name": past.name,
        "state": past.state,
        "cwd": past.cwd,
        "title": past.title,
        "changed_at": output.format_time(past.changed_at),
        "conversations": list(past.conversation_ids),
    }


def shorten(directory: str | None) -> str | None:
    """Return a directory with ``~`` for the user's own."""
    home = os.path.expanduser("~")
    if directory is not None and home != "/" and (directory + "/").startswith(home + "/"):
        return "~" + directory[len(home) :]
    return directory


def _format_age(now_s: float, past: Past) -> str:
    return output.format_age(now_s - past.changed_at)
