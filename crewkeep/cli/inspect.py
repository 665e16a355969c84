"""``crewkeep inspect`` and ``why``: everything known of a session, and the evidence behind its state."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import typer

from coordinator.errors import CrewkeepError, Damaged
from coordinator.sessions.conversation import read_conversation
from coordinator.sessions.model import SessionRecord
from crewkeep.cli import output
from crewkeep.cli.house import House, find_ids, open_house, settings_of
from crewkeep.cli.options import Json, Session
from crewkeep.cli.view import describe, look


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("inspect")(inspect_session)
    app.command("why")(explain)


def inspect_session(session: Session, as_json: Json = False) -> None:
    """Show everything known of a session: state, launch, processes, conversation, checkpoints, files."""
    house = open_house()
    facts = gather_facts(house, house.registry.find(session))
    if as_json:
        output.print_json(facts)
        return
    width = max(len(name) for held in (facts, *facts.values()) if isinstance(held, dict) for name in held)
    for name, value in facts.items():
        if isinstance(value, dict):
            output.print_line(f"{name}:")
            for inner, held in value.items():
                output.print_line(f"  {inner:<{width}}  {_show(held)}")
        else:
            text = output.paint_state(str(value)) if name == "state" else _show(value)
            output.print_line(f"{name:<{width}}    {text}")


def explain(session: Session, as_json: Json = False) -> None:
    """Show what all five layers found of a session, the verdict, and what was or would be done."""
    from recovery.cascade import diagnose
    from recovery.evidence import gather
    from recovery.model import encode_diagnosis

    house = open_house()
    (session_id,) = find_ids(house, [session])
    try:
        record = house.registry.get(session_id)
    except Damaged:
        record = None  # that is a finding, and the layers tell it
    diagnosis = diagnose(gather(house.home, house.registry, session_id, house.clock, settings_of(house, record)))
    if as_json:
        output.print_json(encode_diagnosis(diagnosis))
        return
    if record is not None:
        row = describe(house, record)
        reason = f": {row['reason']}" if row["reason"] else ""
        output.print_line(f"{record.name} ({record.id}) is {output.paint_state(row['state'])}{output.make_printable(reason)}")
    output.print_line(f"verdict: {diagnosis.verdict} - {output.make_printable(diagnosis.reason)}")
    for finding in diagnosis.findings:
        output.print_line(f"  {finding.layer:<10} {finding.verdict:<10} {output.make_printable(finding.reason)}")
        for name, value in finding.evidence.items():
            if value not in (None, [], {}, ""):
                output.print_line(f"  {'':<21} {name}: {_show(value)}")
    output.print_line(f"action: {output.make_printable(diagnosis.action)}")


def gather_facts(house: House, record: SessionRecord) -> dict[str, Any]:
    """Return what ``inspect --json`` prints: the fields of ``ps``, and more."""
    paths = house.home.session(record.id)
    sight = look(house, record)
    facts = describe(house, record) | {
        "argv": list(record.command),
        "hosting": record.hosting.value,
        "restart": record.restart.value,
        "phase": record.phase.value,
        "outcome": record.outcome.value if record.outcome else None,
        "exit_code": record.exit_code,
        "exit_signal": record.exit_signal,
        "created_at": output.format_time(record.created_at),
        "phase_at": output.format_time(record.phase_at),
        "not_before_at": output.format_time(record.not_before_at),
        "restored_from": record.restored_from,
        "parent": record.parent,
        "version": record.version,
        "starts": [{"at": output.format_time(one.at), "epoch": one.epoch, "fruitful": one.fruitful} for one in record.starts],
        "processes": {
            "keeper": {"liveness": sight.owner.value, **(record.owner.encode() if record.owner else {})},
            "agent": {"liveness": sight.agent.value, **(record.agent.encode() if record.agent else {})},
        },
        "heartbeat": dataclasses.asdict(sight.beat) | {"age_s": sight.beat_age_s} if sight.beat else None,
    }
    facts["launch"] = _read(lambda: _encode_launch(house, record))
    facts["conversation"] = _read(lambda: _encode_conversation(house, record))
    facts["checkpoints"] = _read(lambda: _count_checkpoints(house, record))
    facts["files"] = {"directory": str(paths.path), "output": str(paths.output), "keeper_log": str(paths.keeper_log)}
    return facts


def _encode_launch(house: House, record: SessionRecord) -> dict[str, Any]:
    launch = house.registry.get_launch(record.id)
    # The values of the environment are nobody's business on a screen; the names help.
    return {
        "argv": list(launch.argv),
        "cwd": launch.cwd,
        "permission_mode": launch.permission_mode,
        "environment_names": sorted(launch.environment),
        "secret_names": list(launch.secret_names),
    }


def _encode_conversation(house: House, record: SessionRecord) -> dict[str, Any] | None:
    conversation = read_conversation(house.home.session(record.id))
    if conversation is None:
        return None
    return {"agent": conversation.agent, "id": conversation.id, "transcript": conversation.transcript}


def _count_checkpoints(house: House, record: SessionRecord) -> dict[str, Any]:
    from recovery.checkpoint import list_checkpoints

    found = [one.encode() for one in list_checkpoints(house.home.session(record.id), deep=False)]
    newest = max(found, key=lambda one: int(one["number"]), default=None)
    return {
        "count": len(found),
        "newest": newest["number"] if newest else None,
        "newest_at": output.format_time(newest["at"]) if newest else None,
    }


def _read(read: Any) -> Any:
    """Return what ``read`` does, or what kept it from reading: one damaged file must not hide the others."""
    try:
        return read()
    except CrewkeepError as error:
        return {"error": error.code, "message": error.message}


def _show(value: object) -> str:
    if isinstance(value, (dict, list)):
        return output.make_printable(json.dumps(value, ensure_ascii=False, default=str))
    return "-" if value is None or value == "" else output.make_printable(value)
