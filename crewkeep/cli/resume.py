"""``crewkeep resume``: go on with a past conversation, the session's own or one that some agent's program keeps."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from coordinator.errors import InvalidInput, Missing, Refused, Superseded
from coordinator.services import archive
from coordinator.services.archive import Past
from coordinator.sessions.model import Phase, SessionRecord
from crewkeep.cli import output
from crewkeep.cli.history import REF_HELP
from crewkeep.cli.house import House, open_house
from crewkeep.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("resume")(resume)


def resume(
    ref: Annotated[str | None, typer.Argument(metavar="[S]", help=f"{REF_HELP} Without it: pick one.")] = None,
    detach: Annotated[bool, typer.Option("-d", "--detach", help="Leave it in the background.")] = False,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the new session, for a conversation that is none's.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Go on with a past conversation; without S a picker lets one search by typing.

    A session that ended, parked or crashed is brought back; a conversation from outside becomes a session.
    """
    house = open_house()
    has_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    if ref is None:
        if not has_terminal or as_json:
            raise InvalidInput("without a terminal nobody can pick one", hint="crewkeep history; then: crewkeep resume REF")
        past = _pick(house)
        if past is None:
            raise typer.Exit(1)
    else:
        past = archive.find_past(house.home, ref, os.environ)
    record = _revive(house, past) if past.session is not None else _take_in(house, past, name)

    from crewkeep.cli.view import describe

    row = describe(house, record)
    if as_json:
        output.print_json({key: row[key] for key in ("id", "name", "epoch", "state")})
        return
    if has_terminal and not detach:
        from crewkeep.cli.run import follow

        raise typer.Exit(follow(house, record.id))
    output.print_line(record.name)
    output.note(f"session {record.name} ({record.id}) goes on at epoch {record.epoch}; watch it: crewkeep attach {record.name}")


def _pick(house: House) -> Past | None:
    try:
        from crewkeep.cli.picker import pick
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "textual":
            raise
        raise Missing(
            "the picker needs Textual, which is not installed",
            hint="pip install 'crewkeep[tui]' (pipx: pipx inject crewkeep textual), or: crewkeep history; crewkeep resume REF",
        ) from error
    from crewkeep.cli.choosing import Choices

    found = archive.list_past(house.home, os.environ, report=output.note)
    if not found:
        output.note("no conversation yet; start one: crewkeep run -- CMD")
        return None
    return pick(Choices(found, house.clock.wall_s()))


def _revive(house: House, past: Past) -> SessionRecord:
    """Bring a session back as its next incarnation, as ``recover`` does for one that is named."""
    from crewkeep.cli.recover import NOTHING, act, leave_with, print_rows

    assert past.session is not None, "only a session can be brought back"
    record = house.registry.find(past.session.id)
    row = act(house, [record.id], revive=True, why="resumed by the user")[0]
    if row["outcome"] == NOTHING and record.phase not in (Phase.ENDED, Phase.PARKED):
        raise Refused(f"session {record.name} runs: {row['reason']}", hint=f"crewkeep attach {record.name}")
    if row["outcome"] not in ("recovered", "already recovered"):
        print_rows([row])
        leave_with([row])
        raise Refused(
            f"session {record.name} was not brought back: {row['outcome']}, {row['reason']}", hint=f"crewkeep why {record.name}"
        )
    return house.registry.get(record.id)


def _take_in(house: House, past: Past, name: str | None) -> SessionRecord:
    """Go on with a conversation from outside, once: it is the session's of whoever came first."""
    from coordinator.config import START_TIMEOUT_S
    from coordinator.system.home import prepare_home
    from coordinator.system.locks import locked

    prepare_home(house.home)
    with locked(house.home.resume_lock, timeout_s=START_TIMEOUT_S):
        now = archive.find_past(house.home, past.ref, os.environ)
        if now.session is not None:
            return _revive(house, now)
        record = _begin(house, now, name)
        _note_conversation(house, record, now)
        return record


def _note_conversation(house: House, record: SessionRecord, past: Past) -> None:
    """Write down whose conversation it is now: the keeper of some programs finds that out only while they run."""
    from coordinator.sessions.conversation import read_conversation, write_conversation

    assert past.told is not None, "a conversation that is no session's is told by its program"
    paths = house.home.session(record.id)
    try:
        if read_conversation(paths) is None:
            write_conversation(paths, past.told.conversation, epoch=record.epoch, clock=house.clock)
    except Superseded:
        pass  # it was brought back already, and knows


def _begin(house: House, past: Past, name: str | None) -> SessionRecord:
    """Start a session that goes on with a conversation from outside: its program, where it was held."""
    from coordinator.agents.base import get_agent
    from coordinator.sessions.launch import build_launch
    from crewkeep.cli.run import find_size
    from crewkeep.starting import start_session

    assert past.told is not None, "a conversation that is no session's is told by its program"
    cwd = past.cwd or os.getcwd()
    if not os.path.isdir(cwd):
        raise Refused(f"the directory of {past.ref} is gone: {cwd}", hint="make it again, or put it back")
    adapter = get_agent(past.agent)
    bare = build_launch((past.agent,), cwd, dict(os.environ))
    argv = adapter.build_resume(adapter.prepare(bare), past.told.conversation)
    size = find_size()
    return start_session(
        house.home,
        argv,
        name=name,
        agent=past.agent,
        cwd=cwd,
        environment=dict(os.environ),
        settings=house.settings,
        rows=size.lines,
        columns=size.columns,
    )
