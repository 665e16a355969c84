"""``crewkeep stop``, ``kill`` and ``rm``: end sessions with proof, and remove what ended."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coordinator.errors import CrewkeepError, InvalidInput, Refused
from coordinator.sessions.model import Phase, SessionRecord
from crewkeep.cli import output
from crewkeep.cli.edge import tell_error
from crewkeep.cli.house import House, find_ids, find_sessions, list_records, mend_record, open_house, read_record
from crewkeep.cli.options import Json, Sessions, SomeSessions

#: Ending is mostly waiting; so many at once. Arbitrary.
_AT_ONCE = 8


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("stop")(stop)
    app.command("kill")(kill)
    app.command("rm")(remove)


def stop(
    sessions: Sessions,
    grace: Annotated[
        str | None, typer.Option("--grace", metavar="TIME", help="How long the agent may take to end by itself; default 5s.")
    ] = None,
    as_json: Json = False,
) -> None:
    """End sessions gracefully: a checkpoint, SIGTERM, a grace, then kill. Removes no files."""
    house = open_house()
    grace_s = output.parse_duration(grace, "--grace") if grace is not None else house.settings.grace_s
    _end(house, find_sessions(house, sessions), grace_s, as_json)


def kill(
    sessions: SomeSessions = None,
    everything: Annotated[bool, typer.Option("--all", help="Every session that has not ended.")] = False,
    as_json: Json = False,
) -> None:
    """End sessions at once, with every process they started; returns when all are proven gone. Removes no files."""
    house = open_house()
    if bool(sessions) == everything:
        raise InvalidInput("kill needs sessions or --all, one of them", hint="crewkeep kill SESSION, or crewkeep kill --all")
    if everything:
        records = [record for record in list_records(house) if record.phase is not Phase.ENDED]
    else:
        records = find_sessions(house, sessions or [])
    _end(house, records, None, as_json)


def remove(
    sessions: Sessions,
    force: Annotated[bool, typer.Option("--force", help="Kill what still runs first.")] = False,
    as_json: Json = False,
) -> None:
    """Remove ended sessions: their records, output and checkpoints. The shared context and the work stay."""
    house = open_house()
    found = {session_id: read_record(house, session_id) for session_id in find_ids(house, sessions)}
    living = [record for record in found.values() if record is not None and record.phase is not Phase.ENDED]
    if living and not force:
        names = " ".join(record.name for record in living)
        raise Refused(f"not ended: {names}", hint=f"crewkeep stop {names}, or crewkeep rm --force {names}")
    if living:
        _end(house, living, None, as_json, show=False)
    from recovery.checkpoint import list_git_states
    from recovery.gitstate import forget_session

    removed = []
    for session_id, record in found.items():
        states = list_git_states(house.home.session(session_id))
        house.registry.remove(session_id, force=force)
        for top in {git.top for git in states}:
            forget_session(top, session_id)
        removed.append({"id": session_id, "name": record.name if record is not None else None})
        if not as_json:
            output.print_line(str(removed[-1]["name"] or session_id))
    if as_json:
        output.print_json(removed)


def _end(house: House, records: list[SessionRecord], grace_s: float | None, as_json: bool, show: bool = True) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from crewkeep.ending import EndResult, kill_session, stop_session

    def end(record: SessionRecord) -> EndResult | CrewkeepError:
        try:
            record = mend_record(house, record)
            if grace_s is None:
                return kill_session(house.home, house.registry, record, settings=house.settings)
            return stop_session(house.home, house.registry, record, grace_s=grace_s, settings=house.settings)
        except CrewkeepError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = list(pool.map(end, records))
    told: list[dict[str, Any]] = []
    code = 0
    for result in results:
        if isinstance(result, CrewkeepError):
            code = code or result.exit_code
            tell_error(result, as_json=as_json)
            continue
        told.append(result.encode())
        code = code or int(bool(result.left))
    if show and as_json:
        output.print_json(told)
    elif show:
        for row in told:
            count = len(row["ended"])
            output.print_line(f"{row['name']}: {count} {'process' if count == 1 else 'processes'} ended, {len(row['left'])} left")
            for one in row["left"]:
                output.note(f"  left: {one['pid']} {output.make_printable(one['name'])}: {one['why']}")
    if code:
        raise typer.Exit(code)
