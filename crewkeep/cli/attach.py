"""``crewkeep attach`` and ``send``: reach a session's terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from coordinator.errors import Refused
from coordinator.sessions.model import Hosting, Phase, SessionRecord
from crewkeep.cli import output
from crewkeep.cli.house import open_house
from crewkeep.cli.options import Json, Session

#: Enter comes after a busy program has read the text; a keeper that is stopped is told apart from that after so long.
_SEND_TIMEOUT_S = 6.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("attach")(attach_session)
    app.command("send")(send_text)


def attach_session(session: Session) -> None:
    """Connect this terminal to a session; it stays connected across a recovery.

    The key that leaves it is shown first. The exit code is the agent's own if it ends meanwhile.
    """
    from crewkeep.cli.run import follow

    house = open_house()
    record = house.registry.find(session)
    _require_terminal(record)
    raise typer.Exit(follow(house, record.id))


def send_text(
    session: Session,
    text: Annotated[str, typer.Argument(metavar="TEXT|-", help="The text, or - to read it from stdin.")],
    as_json: Json = False,
) -> None:
    """Type TEXT and Enter into a session's terminal.

    Refused while the agent asks for a permission: an answer must come from a person.
    """
    from crewkeep import control

    house = open_house()
    record = house.registry.find(session)
    _require_terminal(record)
    if text == "-":
        text = sys.stdin.read().rstrip("\n")
    answer = control.request(house.home.session(record.id), "send", _SEND_TIMEOUT_S, text=text)
    if as_json:
        output.print_json({"id": record.id, "name": record.name, **answer})


def _require_terminal(record: SessionRecord) -> None:
    if record.hosting is Hosting.PROGRAM:
        raise Refused(
            f"session {record.name} is a Python program and has its own terminal, not crewkeep's",
            hint=f"see it with: crewkeep inspect {record.name}",
        )
    if record.phase is Phase.ENDED:
        raise Refused(
            f"session {record.name} has ended ({record.outcome or 'unknown'})",
            hint=f"read what it printed: crewkeep logs {record.name}, or bring it back: crewkeep restore {record.name}",
        )
