"""``crewkeep recover``: what would bring sessions back, and with ``--yes`` the doing of it."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.errors import InvalidInput
from coordinator.sessions.model import SessionRecord
from crewkeep.cli import output
from crewkeep.cli.house import House, find_sessions, list_damaged, list_records, open_house, settings_of
from crewkeep.cli.options import Json, SomeSessions

if TYPE_CHECKING:
    from recovery.model import Plan
    from recovery.restore import RecoverOutcome


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("recover")(recover)


def recover(
    sessions: SomeSessions = None,
    everything: Annotated[bool, typer.Option("--all", help="Every session that needs it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Act; otherwise only the plan is printed.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also one that is merely suspended or hung.")] = False,
    as_json: Json = False,
) -> None:
    """Bring crashed, parked and interrupted sessions back, one after another.

    Prints the plan; --yes acts. Of several recoverers one wins, and nothing that may still live is taken for dead.
    """
    if sessions and everything:
        raise InvalidInput("recover takes sessions or --all, not both", hint="crewkeep recover --all --yes")
    if yes and not sessions and not everything:
        raise InvalidInput("--yes acts only on what was named", hint="crewkeep recover SESSION --yes, or recover --all --yes")
    raise NotImplementedError
