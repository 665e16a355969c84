"""``crewkeep notify``: send a message where the user wants to be told of sessions."""

from __future__ import annotations

from typing import Annotated

import typer

from coordinator.config import load_notify
from coordinator.errors import NotFound
from crewkeep.cli import output
from crewkeep.cli.options import Json

EXIT_FAILED = 1


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("notify")(send_message)


def send_message(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to say.")] = "This is where crewkeep tells you of sessions.",
    as_json: Json = False,
) -> None:
    """Send a message to every address in the table `notify` of the user's settings file, to see that it arrives."""
    from crewkeep.notify import send

    wanted = load_notify()
    if not wanted.urls:
        hint = '[notify] urls = ["desktop"] in crewkeep/config.toml of the XDG configuration directory'
        raise NotFound("nobody is to be told: there is no address", hint=hint)
    sent = send(wanted, "crewkeep", text)
    if as_json:
        output.print_json([{"kind": one.kind, "sent": one.problem is None, "problem": one.problem} for one in sent])
    else:
        for one in sent:
            output.print_line(f"{one.kind}: {one.problem or 'sent'}")
    if any(one.problem for one in sent):
        raise typer.Exit(EXIT_FAILED)
