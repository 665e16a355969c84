"""``crewkeep checkpoint``, ``checkpoints`` and ``restore``: saved states of a session."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from coordinator.errors import Busy, Missing, Refused
from coordinator.sessions.model import Hosting, Phase, SessionRecord
from coordinator.system.processes import Liveness, observe
from crewkeep.cli import output
from crewkeep.cli.house import House, open_house
from crewkeep.cli.options import Json, Session

#: Copying a long transcript and the state of a large repository takes its time.
_TAKE_TIMEOUT_S = 60.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("checkpoint")(take)
    app.command("checkpoints")(show)
    app.command("restore")(restore)


def take(session: Session, as_json: Json = False) -> None:
    """Save a session's state now: launch, conversation, git state, position in the shared context."""
    from crewkeep import control

    house = open_house()
    record = house.registry.find(session)
    if record.hosting is Hosting.PROGRAM:
        raise Refused(
            f"session {record.name} is a Python program; only it knows its state",
            hint="call session.checkpoint(...) in the program",
        )
    if record.phase is Phase.ENDED:
        raise Refused(f"session {record.name} has ended", hint=f"see: crewkeep checkpoints {record.name}")
    if observe(record.owner) is Liveness.STOPPED:  # else one would wait for as long as a checkpoint may take
        raise Busy(f"the keeper of session {record.name} is stopped", hint=f"crewkeep why {record.name}")
    answer = control.request(house.home.session(record.id), "checkpoint", timeout_s=_TAKE_TIMEOUT_S)
    number = answer.get("number")
    if number is None:
        raise Missing(f"session {record.name} gave no checkpoint: {answer}", hint=f"crewkeep why {record.name}")
    if as_json:
        output.print_json(next((one for one in _list(house, record) if one["number"] == number), answer))
    else:
        output.print_line(str(number))


def show(session: Session, as_json: Json = False) -> None:
    """List a session's checkpoints, newest first."""
    house = open_house()
    record = house.registry.find(session)
    rows = _list(house, record)
    if as_json:
        output.print_json(rows)
        return
    if not rows:
        output.note(f"session {record.name} has no checkpoint yet; take one: crewkeep checkpoint {record.name}")
        return
    output.print_table(
        ("NUMBER", "AT", "EPOCH", "SIZE", "WHOLE", "PARTS"),
        (
            (
                row["number"],
                row["at"],
                row["epoch"],
                output.format_bytes(row["bytes"] or 0),
                "yes" if row["whole"] else f"no: {row.get('damage')}",
                " ".join(part["name"] for part in row["parts"]),
            )
            for row in rows
        ),
    )


def restore(
    session: Session,
    number: Annotated[
        int | None, typer.Option("--checkpoint", metavar="N", min=1, help="Which one; default: the newest whole one.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also a session that runs: its incarnation is ended first.")] = False,
    as_json: Json = False,
) -> None:
    """Bring a session back from a checkpoint: next epoch, its own conversation, running."""
    from crewkeep.cli.recover import NOTHING, act, leave_with, print_rows
    from recovery.checkpoint import get_checkpoint

    house = open_house()
    record = house.registry.find(session)
    if number is not None:
        chosen = get_checkpoint(house.home.session(record.id), number, deep=True)
        if not chosen.whole:
            raise Refused(
                f"checkpoint {number} of session {record.name} is damaged: {chosen.damage}",
                hint=f"take another: crewkeep checkpoints {record.name}",
            )
    rows = act(house, [record.id], force=force, revive=True, checkpoint=number, why="restored by the user")
    if rows[0]["outcome"] == NOTHING and record.phase not in (Phase.ENDED, Phase.PARKED):
        raise Refused(
            f"session {record.name} runs: {rows[0]['reason']}",
            hint=f"crewkeep stop {record.name}, or crewkeep restore --force {record.name}",
        )
    if as_json:
        output.print_json(rows)
    else:
        print_rows(rows)
    leave_with(rows)


def _list(house: House, record: SessionRecord) -> list[dict[str, Any]]:
    from recovery.checkpoint import list_checkpoints

    found = [one.encode() for one in list_checkpoints(house.home.session(record.id))]
    for row in found:
        row["at"] = output.format_time(row["at"])
    return sorted(found, key=lambda row: -int(row["number"]))
