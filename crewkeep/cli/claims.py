"""``crewkeep claim``, ``release`` and ``claims``: a session's leased right to a path or a name."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.config import CLAIM_LEASE_S
from coordinator.errors import InvalidInput, NotFound, Refused
from coordinator.sessions.model import Phase, SessionRecord
from crewkeep.cli import output
from crewkeep.cli.house import House, open_house
from crewkeep.cli.options import SESSION_HELP, Json, complete_sessions

if TYPE_CHECKING:
    from coordinator.services.claims import Claim, Claims, Target

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
    holder = find_holder(house, session)
    if holder.phase is Phase.ENDED:
        raise Refused(f"session {holder.name} has ended", hint="claim for one that goes on: --session SESSION")
    with open_claims(house, holder) as claims:
        made = claims.acquire(holder.writer, what, find_meant(holder, what), lease_s=lease_s, shared=shared)
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
    holder = find_holder(house, session)
    with open_claims(house, holder) as claims:
        if what is None:
            released = claims.release_all(holder.id)
        else:
            released = [_release(claims, holder, what)]
    if as_json:
        output.print_json([encode_claim(one) for one in released])
    else:
        for one in released:
            output.print_line(f"{one.target.value} is free")


def show(as_json: Json = False) -> None:
    """List the claims of all sessions."""
    house = open_house()
    with open_claims(house, None) as claims:
        found = claims.list_claims()
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


def find_meant(holder: SessionRecord, what: str) -> Target:
    """Return what ``what`` means here to the session."""
    from coordinator.services.claims import find_target

    return find_target(what, directory=os.getcwd(), workspace=holder.workspace)


@contextmanager
def open_claims(house: House, holder: SessionRecord | None) -> Iterator[Claims]:
    """Open the home's claims to act as ``holder``."""
    from coordinator.services.claims import Claims
    from coordinator.services.crew import open_crew
    from coordinator.system.home import prepare_home

    prepare_home(house.home)
    with open_crew(house.home, None if holder is None else holder.writer) as crew:
        yield Claims(house.registry, crew, house.clock)


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


def _release(claims: Claims, holder: SessionRecord, what: str) -> Claim:
    """Release what was claimed in these words, from wherever; or what they mean here."""
    held = [one for one in claims.list_claims() if one.session == holder.id]
    here = find_meant(holder, what)
    same = [one for one in held if one.target == here] or [one for one in held if what in (one.what, one.target.value)]
    return claims.release(holder.writer, same[0].target if same else here)
