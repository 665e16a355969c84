"""``crewkeep breaker`` and ``features``: quiet what runs in the background, without touching data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.paths import Home
from crewkeep.cli import output
from crewkeep.cli.options import Json

if TYPE_CHECKING:
    from coordinator.services.breaker import BreakerStatus


def register(app: typer.Typer) -> None:
    """Add the group and the command."""
    from crewkeep.cli.app import make_group

    group = make_group("Quiet the coordinator threads of the home; sessions go on, and closing it catches up without loss.")
    group.command("open")(open_breaker)
    group.command("close")(close_breaker)
    group.command("status")(show_status)
    app.add_typer(group, name="breaker")
    app.command("features")(features)


def open_breaker(
    reason: Annotated[str, typer.Argument(metavar="REASON", help="Why, for whoever looks.")] = "opened by the user",
    as_json: Json = False,
) -> None:
    """Open it: all coordinator threads are quiet within a second, until it is closed."""
    from coordinator.services.breaker import Breaker

    _print_status(Breaker(Home.find()).open(reason), as_json)


def close_breaker(as_json: Json = False) -> None:
    """Close it: the threads go on from where they were."""
    from coordinator.services.breaker import Breaker

    _print_status(Breaker(Home.find()).close(), as_json)


def show_status(as_json: Json = False) -> None:
    """Show whether it is open, and why."""
    from coordinator.services.breaker import Breaker

    _print_status(Breaker(Home.find()).status(), as_json)


def features(
    feature: Annotated[str | None, typer.Argument(metavar="FEATURE", help="sync or recovery.")] = None,
    level: Annotated[str | None, typer.Argument(metavar="LEVEL", help="sync: on, off; recovery: on, observe, off.")] = None,
    as_json: Json = False,
) -> None:
    """Show what is on, or turn one feature down or up; running sessions follow within a second.

    sync off: coordinator threads leave the shared context alone. recovery observe: judge and tell, change nothing.
    """
    from coordinator.errors import InvalidInput
    from coordinator.services.features import Features, Recovery

    found = Features(Home.find())
    if feature and level:
        if found.set(feature, level).recovery is Recovery.ON and feature == "recovery":
            _wake_patrol()
    elif feature:
        raise InvalidInput(f"{feature} needs a level", hint="crewkeep features sync on|off, or features recovery on|observe|off")
    levels = found.read()
    told: dict[str, Any] = {"sync": str(levels.sync), "recovery": str(levels.recovery), "note": levels.note or None}
    if as_json:
        output.print_json(told)
        return
    for name in ("sync", "recovery"):
        output.print_line(f"{name:<9} {told[name]}")
    if levels.note:
        output.note(output.make_printable(levels.note))


def _wake_patrol() -> None:
    """Have what died meanwhile looked at: while recovery was down, a patrol may have left for want of anything to do."""
    from coordinator.errors import CrewkeepError
    from coordinator.sessions.model import Phase
    from crewkeep.cli.house import list_records, open_house
    from crewkeep.patrol_client import ensure_patrol

    house = open_house()
    if any(record.phase not in (Phase.ENDED, Phase.PARKED) for record in list_records(house)):
        try:
            ensure_patrol(house.home)
        except CrewkeepError as error:
            output.note(f"crewkeep: no patrol yet: {error}")


def _print_status(status: BreakerStatus, as_json: bool) -> None:
    if as_json:
        output.print_json(status.encode() | {"changed_at": output.format_time(status.changed_at)})
        return
    output.print_line(str(status.state) + (f": {output.make_printable(status.reason)}" if status.reason else ""))
