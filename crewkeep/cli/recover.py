"""``crewkeep recover``: what would bring sessions back, and with ``--yes`` the doing of it."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.errors import InvalidInput
from crewkeep.cli.house import open_house
from crewkeep.cli.options import Json, SomeSessions

if TYPE_CHECKING:
    pass


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One session of the answer: the promised fields, and the exit code it asks for."""

    told: dict[str, Any]
    exit_code: int = 0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("recover")(recover)


def recover(
    sessions: SomeSessions = None,
    everything: Annotated[bool, typer.Option("--all", help="Every session that needs it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Act; otherwise only the plan is printed.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also one that is alive but hung, suspended or not to be judged; only by name.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring crashed and interrupted sessions back, one after another; a named one also if it is parked or has ended.

    Prints the plan; --yes acts. Of several recoverers one wins, and nothing that may still live is taken for dead.
    """
    if sessions and everything:
        raise InvalidInput("recover takes sessions or --all, not both", hint="crewkeep recover --all --yes")
    if yes and not sessions and not everything:
        raise InvalidInput("--yes acts only on what was named", hint="crewkeep recover SESSION --yes, or recover --all --yes")
    if force and not sessions:
        raise InvalidInput("--force is for sessions that were named", hint="crewkeep recover SESSION --force --yes")
    house = open_house()
    raise NotImplementedError(house, as_json)
