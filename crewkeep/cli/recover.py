"""``crewkeep recover``: what would bring sessions back, and with ``--yes`` the doing of it."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.config import START_TIMEOUT_S
from coordinator.errors import CrewkeepError, InvalidInput
from coordinator.sessions.model import LaunchSpec, Phase, SessionRecord
from coordinator.system.processes import observe
from crewkeep.cli import output
from crewkeep.cli.house import House, find_ids, open_house, read_record, settings_of
from crewkeep.cli.options import Json, SomeSessions

if TYPE_CHECKING:
    from recovery.model import Plan
    from recovery.putting_back import RestoredState
    from recovery.restore import RecoverOutcome

PLANNED, NOTHING, REFUSED = "planned", "nothing to do", "refused"
_LOOK_S = 0.05
#: Outcome -> exit code; those that are not here are fine.
_EXIT_CODES = {REFUSED: 5, "parked": 1, "failed": 1, "halted": 1}


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
    named = bool(sessions)
    ids = find_ids(house, sessions) if sessions else [found.id for found in house.registry.list_all()]
    rows = [plan(house, session_id, force=force, revive=named) for session_id in ids]
    if not named:
        rows = [row for row in rows if row["outcome"] != NOTHING or row.pop("lives")]
    if not as_json:
        print_rows(rows)
    if yes:
        _let_wait(house, ids)
        due = [row["id"] for row in rows if row["outcome"] == PLANNED]
        idle = [row for row in rows if row["outcome"] != PLANNED]
        rows = [*idle, *act(house, due, force=force, revive=named)]
        if not as_json and due:
            output.print_line()
            print_rows(rows[len(idle) :])
    elif any(row["outcome"] == PLANNED for row in rows):
        output.note(
            "this is the plan; to act on it: crewkeep recover " + (" ".join([*sessions, "--yes"]) if sessions else "--all --yes")
        )
    if not named:
        rows += _list_strays(house, as_json)
    if as_json:
        output.print_json([{name: value for name, value in row.items() if name != "lives"} for row in rows])
    leave_with(rows if yes else [])


def _let_wait(house: House, ids: Sequence[str]) -> None:
    """Have somebody wait with sessions that are parked until a time, if their keepers are gone (after a reboot)."""
    from crewkeep.patrol_client import ensure_patrol

    records = (read_record(house, session_id) for session_id in ids)
    if any(record is not None and record.resumes_at is not None and observe(record.owner).is_gone for record in records):
        try:
            ensure_patrol(house.home)
        except CrewkeepError as error:
            output.note(f"crewkeep: nobody waits for parked sessions: {error}")


def plan(house: House, session_id: str, *, force: bool = False, revive: bool = False) -> dict[str, Any]:
    """Return one session's row as it would be recovered now. Changes nothing."""
    from recovery.restore import propose_recovery

    found, evidence = propose_recovery(
        house.home,
        house.registry,
        session_id,
        force=force,
        revive=revive,
        clock=house.clock,
        settings=settings_of(house, read_record(house, session_id)),
    )
    if found is None:
        return _row(session_id, verdict="CORRUPT", actions=["rebuild the record from its journal"], outcome=PLANNED, lives=True)
    record = evidence.record
    assert record is not None, "there is no plan without a record"
    mends = read_record(house, session_id) is None
    acts = found.refused is None and (mends or not _is_nothing(found))
    return _row(
        session_id,
        name=found.name,
        verdict=str(found.verdict),
        actions=[*["rebuild the record from its journal"] * mends, *(str(action) for action in found.actions)],
        outcome=PLANNED if acts else REFUSED if found.refused else NOTHING,
        reason=found.refused or found.reason,
        from_epoch=record.epoch,
        to_epoch=record.epoch + 1 if found.acts else None,
        checkpoint=found.checkpoint if found.acts else None,
        lives=record.phase is not Phase.ENDED,
    )


def act(
    house: House, ids: Sequence[str], *, force: bool = False, revive: bool = False, checkpoint: int | None = None, why: str = ""
) -> list[dict[str, Any]]:
    """Recover these sessions, one after another, and return their rows."""
    from crewkeep.patrol_client import ensure_patrol
    from recovery.restore import Result, recover_many, recover_session
    from recovery.starter import start_keeper

    def recover_once(session_id: str) -> RecoverOutcome:
        record = read_record(house, session_id)
        settings = settings_of(house, record)

        def start(raised: SessionRecord, launch: LaunchSpec, restored: RestoredState) -> SessionRecord:
            secrets = {name: os.environ[name] for name in launch.secret_names if name in os.environ}
            return start_keeper(house.home, raised, secrets, settings)

        # A patrol that came up meanwhile has not the secrets that we have, and may have parked what we planned to recover.
        parked = record is not None and record.phase is Phase.PARKED
        return recover_session(
            house.home,
            house.registry,
            session_id,
            reason=why or "recovered by the user",
            starter=start,
            secrets=os.environ,
            force=force,
            revive=revive or parked,
            checkpoint=checkpoint,
            clock=house.clock,
            settings=settings,
        )

    def recover_one(session_id: str) -> RecoverOutcome:
        outcome = recover_once(session_id)
        if outcome.to_epoch is not None or not _wait_for_another(house, session_id, before[session_id]):
            return outcome
        now = read_record(house, session_id)
        if now is not None and now.phase is Phase.PARKED:
            return recover_once(session_id)
        epoch = None if now is None else now.epoch
        return dataclasses.replace(outcome, outcome=Result.ALREADY, reason="another recoverer was first", to_epoch=epoch)

    before = {session_id: read_record(house, session_id) for session_id in ids}
    if len(ids) == 1 and revive:
        rows = [recover_one(ids[0]).encode()]  # it was named: its error, if there is one, is the command's
    else:
        rows = [one.encode() for one in recover_many(list(ids), recover_one, settings=house.settings, wait=time.sleep)]
    for row in rows:
        known = before[row["id"]]
        row["name"] = known.name if known is not None else row["name"]
    try:
        if ids:
            ensure_patrol(house.home)
    except CrewkeepError as error:
        output.note(f"crewkeep: no patrol yet: {error}")  # the keepers go on trying
    return rows


def print_rows(rows: list[dict[str, Any]]) -> None:
    """Print plans or outcomes as a table."""
    if not rows:
        output.note("nothing to recover")
        return
    shown = []
    for row in rows:
        epochs = f"{row['from_epoch']} -> {row['to_epoch']}" if row["to_epoch"] else row["from_epoch"]
        took = f"{row['outcome']} ({row['duration_ms']} ms)" if row["duration_ms"] else row["outcome"]
        shown.append((row["name"] or row["id"], row["verdict"], took, epochs, row["checkpoint"], _describe(row)))
    output.print_table(("NAME", "VERDICT", "OUTCOME", "EPOCH", "CHECKPOINT", "WHAT"), shown)


def leave_with(rows: list[dict[str, Any]]) -> None:
    """End the command with the first exit code that an outcome asks for."""
    for row in rows:
        if code := _EXIT_CODES.get(row["outcome"]):
            raise typer.Exit(code)


def _wait_for_another(house: House, session_id: str, before: SessionRecord | None) -> bool:
    """Tell whether another recoverer (a patrol, another user) brought the session on since; wait until it is through."""
    deadline_s = time.monotonic() + START_TIMEOUT_S
    moved = False
    while (record := read_record(house, session_id)) is not None and before is not None:
        moved = moved or record.epoch > before.epoch or record.phase is Phase.RECOVERING
        if not moved or record.phase not in (Phase.RECOVERING, Phase.STARTING) or time.monotonic() >= deadline_s:
            return moved
        time.sleep(_LOOK_S)
    return False


def _describe(row: dict[str, Any]) -> str:
    if row["outcome"] == PLANNED:
        return ", ".join(row["actions"])
    return str(row["reason"] or "")


def _is_nothing(found: Plan) -> bool:
    from recovery.model import ActionKind

    return all(action.kind is ActionKind.NOTHING for action in found.actions)


def _list_strays(house: House, as_json: bool) -> list[dict[str, Any]]:
    """Return (and tell) what belongs to no session. Nothing is done about it: it is nobody's to end without a look."""
    from recovery.strays import gather_strays

    rows = []
    for stray in gather_strays(house.home, house.clock):
        rows.append(_row(stray.session, verdict="ORPHANED", outcome="found", reason=f"{stray.kind}: {stray.what}"))
        if not as_json:
            output.note(f"{stray.kind}: {output.make_printable(stray.what)}")
    return rows


def _row(session_id: str | None, **known: Any) -> dict[str, Any]:
    empty: dict[str, Any] = {"id": session_id, "name": None, "verdict": None, "actions": [], "outcome": None, "reason": None}
    return empty | {"from_epoch": None, "to_epoch": None, "checkpoint": None, "duration_ms": 0} | known
