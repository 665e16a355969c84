"""``crewkeep claim``, ``release`` and ``claims``: a session's leased right to a path or a name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.config import CLAIM_LEASE_S
from coordinator.errors import InvalidInput, NotFound
from coordinator.sessions.model import SessionRecord
from crewkeep.cli import output
from crewkeep.cli.house import House, open_house
from crewkeep.cli.options import SESSION_HELP, Json, complete_sessions

if TYPE_CHECKING:
    from coordinator.services.claims import Claim
    from crewkeep.crew import Crew

What = Annotated[str, typer.Argument(metavar="WHAT", help="A file, a directory, a pattern such as 'src/**/*.py', or a name.")]
Holder = Annotated[
    str | None,
    typer.Option(
        "--session",
        "-s",
        metavar="SESSION",
        help=f"Whose claim it is; default: the session one is in. {SESSION_HELP}",
        autocompletion=complete_sessions,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("claim")(claim)
    app.command("release")(release)
    app.command("claims")(show)


def claim(
    what: What,
    lease: Annotated[
        str, typer.Option("--for", metavar="TIME", help="How long; claiming again renews.")
    ] = f"{CLAIM_LEASE_S / 60:g}m",
    shared: Annotated[bool, typer.Option("--shared", help="Let others claim it as well, if they share too.")] = False,
    session: Holder = None,
    as_json: Json = False,
) -> None:
    """Claim a path, a pattern or a name for a session, so that the others keep off it.

    Refused with who has it and until when (exit code 4) if another session has claimed something of it. The claim ends with its
    time, with its release, or with the session. With hooks installed, edits by others are warned of, or refused
    (claim_mode = "enforce").
    """
    lease_s = output.parse_duration(lease, "--for")
    house = open_house()
    made = open_crew(house, find_holder(house, session)).claim(what, lease_s=lease_s, shared=shared)
    if as_json:
        output.print_json(encode_claim(made))
    else:
        output.print_line(f"{made.target.value} is {made.name}'s until {output.format_time(made.until)}")


def release(
    what: Annotated[str | None, typer.Argument(metavar="WHAT", help="As it was claimed.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Everything that the session holds.")] = False,
    session: Holder = None,
    as_json: Json = False,
) -> None:
    """Give a claim back."""
    if (what is None) is not everything:
        raise InvalidInput("it is not said what is to be released", hint="give WHAT as it was claimed, or --all")
    house = open_house()
    released = open_crew(house, find_holder(house, session)).release(what)
    if as_json:
        output.print_json([encode_claim(one) for one in released])
    else:
        for one in released:
            output.print_line(f"{one.target.value} is free")


def show(as_json: Json = False) -> None:
    """List the claims of all sessions."""
    house = open_house()
    found = open_crew(house, None).list_claims()
    if as_json:
        output.print_json([encode_claim(one) for one in found])
        return
    if not found:
        output.note("nothing is claimed; claim something: crewkeep claim WHAT")
        return
    now_s = house.clock.wall_s()
    output.print_table(
        ("SESSION", "UNTIL", "LEFT", "HOW", "WHAT"),
        (
            (
                one.name,
                output.format_time(one.until),
                output.format_age(one.until - now_s),
                "shared" if one.shared else "alone",
                one.target.value + ("/" if one.target.form == "tree" else ""),
            )
            for one in found
        ),
    )


def find_self(house: House) -> SessionRecord | None:
    """Return the session that this command runs in, ``None`` outside one. Raises ``Superseded`` in what an older one left."""
    from crewkeep.program import find_inside

    try:
        return find_inside(house.home, os.environ)
    except NotFound:
        return None  # it has been removed


def find_holder(house: House, session: str | None) -> SessionRecord:
    """Return the session that was named, else the one that this command runs in."""
    if session is not None and session != ".":
        return house.registry.find(session)
    found = find_self(house)
    if found is None:
        raise InvalidInput("a claim belongs to a session, and this is none", hint="name it: --session SESSION")
    return found


def open_crew(house: House, own: SessionRecord | None) -> Crew:
    """Return the crew as ``own`` sees it."""
    from crewkeep.crew import Crew

    return Crew(house.home, house.registry, own, clock=house.clock)


def encode_claim(claim: Claim) -> dict[str, Any]:
    """Return the claim's JSON fields."""
    return {
        "what": claim.what,
        "form": str(claim.target.form),
        "target": claim.target.value,
        "workspace": claim.target.workspace,
        "shared": claim.shared,
        "session": claim.session,
        "name": claim.name,
        "epoch": claim.epoch,
        "since": output.format_time(claim.since),
        "until": output.format_time(claim.until),
    }
