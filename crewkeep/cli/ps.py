"""``crewkeep ps``: the sessions of the home, one a line; those that need the user come first."""

from __future__ import annotations

from typing import Annotated

import typer

from crewkeep.cli import listing
from crewkeep.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("ps")(show_sessions)


def show_sessions(
    everything: Annotated[bool, typer.Option("-a", "--all", help="Also those that are done, failed or stopped.")] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only ids.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Print again whenever something changes, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """List sessions."""
    listing.show_sessions(everything=everything, quiet=quiet, watch=watch, as_json=as_json)
