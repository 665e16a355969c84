"""``crewkeep wait``: sleep until sessions have ended, or are in a state one can act upon."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from coordinator.errors import InvalidInput, NotFound, TimedOut
from coordinator.sessions.model import FINAL_STATES, Phase, SessionRecord, State
from crewkeep.cli import output
from crewkeep.cli.house import House, find_sessions, list_records, open_house
from crewkeep.cli.options import Json, SomeSessions
from crewkeep.cli.view import describe

_LOOK_EVERY_S = 0.1
#: A session that looks crashed is being recovered by somebody; after so long, nobody came.
_NOBODY_CAME_S = 10.0
_ENDED_WELL = frozenset({State.DONE, State.STOPPED})


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("wait")(wait_for_sessions)


def wait_for_sessions(
    sessions: SomeSessions = None,
    any_of_them: Annotated[bool, typer.Option("--any", help="Until the first of them is there, not all.")] = False,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STATE,...", help="States to wait for; default: that it has ended.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option("--timeout", metavar="TIME", help="Give up after 90s, 10m, 2h (exit code 124).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Wait until sessions end, or until they reach a state; without names: all that have not ended, also those to come.

    Without --until the exit code is 1 if one of them failed, crashed or was parked. With --until it is 1 if one ended
    in another state, which it can then no longer reach.
    """
    wanted = parse_states(until) if until is not None else None
    limit_s = output.parse_duration(timeout, "--timeout") if timeout is not None else None
    house = open_house()
    waiting = find_sessions(house, sessions or [])
    deadline_s = time.monotonic() + limit_s if limit_s is not None else None
    crashed_since: dict[str, float] = {}
    while True:
        if not sessions:
            known = {record.id for record in waiting}
            waiting += [one for one in list_records(house) if one.phase is not Phase.ENDED and one.id not in known]
        looks = [_look(house, record.id, wanted, crashed_since) for record in waiting]
        if not sessions and any_of_them:  # nobody was named: who ended otherwise is not who is waited for
            looks = [look for look in looks if look[2] or not look[1]]
        if not looks:
            raise NotFound("there is no session to wait for", hint="see: crewkeep ps -a")
        over = [row for row, is_over, _ in looks if is_over]
        if len(over) == len(looks) or (any_of_them and over):
            break
        if deadline_s is not None and time.monotonic() >= deadline_s:
            late = ", ".join(f"{row['name']} is {row['state']}" for row, is_over, _ in looks if not is_over)
            raise TimedOut(f"waited {timeout} in vain: {late}", hint=f"see: crewkeep why {waiting[0].name}")
        time.sleep(_LOOK_EVERY_S)
    shown = over if any_of_them else [row for row, _, _ in looks]
    if as_json:
        output.print_json(shown)
    else:
        for row in shown:
            output.print_line(f"{row['name']} {row['state']}")
    reached = [is_reached for _, is_over, is_reached in looks if is_over]
    if not (any(reached) if any_of_them else all(reached)):
        raise typer.Exit(1)


def parse_states(text: str) -> frozenset[State]:
    """Return the states of ``working,idle``. Raises ``InvalidInput`` naming the one that is none."""
    try:
        return frozenset(State(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise InvalidInput(f"{error}".replace("State", "state of a session"), hint=f"one of: {', '.join(State)}") from error


def _look(
    house: House, session_id: str, wanted: frozenset[State] | None, crashed_since: dict[str, float]
) -> tuple[dict[str, Any], bool, bool]:
    """Return the session's row, whether waiting for it is over, and whether it reached what was wanted."""
    record: SessionRecord = house.registry.get(session_id)
    row = describe(house, record)
    row |= {"exit_code": record.exit_code, "exit_signal": record.exit_signal}
    state = State(row["state"])
    if state is State.CRASHED and record.phase is not Phase.ENDED:
        since_s = crashed_since.setdefault(session_id, time.monotonic())
        is_final = time.monotonic() - since_s >= _NOBODY_CAME_S
    else:
        crashed_since.pop(session_id, None)
        is_final = state in FINAL_STATES
    if wanted is not None:
        return row, is_final or state in wanted, state in wanted
    return row, is_final, state in _ENDED_WELL
