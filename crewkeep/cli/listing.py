"""The list of sessions, as ``ps`` prints it. Without Typer, so that the plain forms of ``ps`` need not load it."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any

from coordinator.sessions.registry import Damage
from crewkeep.cli import output
from crewkeep.cli.house import House, open_house
from crewkeep.cli.view import QUIET_STATES, describe, describe_damage, is_quiet, sort_key

#: The flags of ``ps`` and the keyword of ``show_sessions`` that each sets.
FLAGS = {"-a": "everything", "--all": "everything", "-q": "quiet", "--quiet": "quiet", "--watch": "watch", "--json": "as_json"}

_WATCH_EVERY_S = 1.0
_CLEAR = "\x1b[H\x1b[J"


def show_sessions(*, everything: bool = False, quiet: bool = False, watch: bool = False, as_json: bool = False) -> None:
    """Print the sessions of the home; with ``watch`` again whenever something changed, until interrupted."""
    house = open_house()
    if not watch:
        _print(list_rows(house, everything), house, everything, quiet, as_json)
        return
    before: Any = None
    while True:
        rows = list_rows(house, everything)
        shown = [{name: value for name, value in row.items() if not name.startswith("last_")} for row in rows]
        if sys.stdout.isatty() and not as_json:
            sys.stdout.write(_CLEAR)
            _print(rows, house, everything, quiet, as_json)
        elif shown != before:
            _print(rows, house, everything, quiet, as_json)
        sys.stdout.flush()
        before = shown
        time.sleep(_WATCH_EVERY_S)


def list_rows(house: House, everything: bool) -> list[dict[str, Any]]:
    """Return one row a session, in the order of the list."""
    rows = []
    for item in house.registry.list_all():
        if isinstance(item, Damage):
            rows.append(describe_damage(house, item))
        elif everything or not is_quiet(house, item):
            rows.append(describe(house, item))
    return sorted(rows, key=sort_key)


def _print(rows: list[dict[str, Any]], house: House, everything: bool, quiet: bool, as_json: bool) -> None:
    if as_json:
        output.print_json([row["id"] for row in rows] if quiet else rows)
    elif quiet:
        for row in rows:
            output.print_line(row["id"])
    elif not rows:
        output.note("no sessions; start one: crewkeep run -- CMD" + ("" if everything else " (ended ones: crewkeep ps -a)"))
    else:
        headings = ("NAME", "STATE", "AGENT", "EPOCH", "RESTARTS", "AGE", "ID", "COMMAND")
        output.print_table(headings, (_cells(row, house) for row in rows), states=(1,))
        sys.stdout.flush()
        for row in rows:
            if row["reason"] and row["state"] not in QUIET_STATES:
                who = row["name"] or row["id"]
                output.note(f"{output.make_printable(who)}: {output.make_printable(row['reason'])} (crewkeep why {who})")
        _note_stopped_patrol(house)


def _note_stopped_patrol(house: House) -> None:
    """Say why nobody comes back; costs one small file."""
    from coordinator.system.processes import Liveness
    from crewkeep.patrol_rousing import find_patrol

    found = find_patrol(house.home)
    if found is not None and found[1] is Liveness.STOPPED:
        output.note(
            f"the patrol (process {found[0].pid}) is stopped; what crashes is not brought back meanwhile (crewkeep doctor)"
        )


def _cells(row: dict[str, Any], house: House) -> tuple[object, ...]:
    started = row["started_at"]
    age_s = house.clock.wall_s() - datetime.fromisoformat(started).timestamp() if started else None
    name, command = row["name"], row["command"]
    return name, row["state"], row["agent"], row["epoch"], row["restarts"], output.format_age(age_s), row["id"], command
