"""How a session is shown: the one row that ``ps``, ``inspect``, ``wait`` and ``run`` have in common."""

from __future__ import annotations

import shlex
from typing import Any

from coordinator.sessions.model import Phase, SessionRecord, Sight, State
from coordinator.sessions.registry import Damage
from coordinator.sessions.sight import DECIDED, derive_from, observe_session, read_beat, show_state
from coordinator.system.processes import Liveness, ProcessIdentity
from crewkeep.cli.house import House, settings_of
from crewkeep.cli.output import format_time

#: States that ``ps`` leaves out without ``-a``: nothing will happen to them and nothing needs to be done.
QUIET_STATES = frozenset({State.DONE, State.STOPPED, State.FAILED})
_STATE_ORDER = {state.value: index for index, state in enumerate(State)}


def describe(house: House, record: SessionRecord) -> dict[str, Any]:
    """Return the fields that ``ps --json`` promises."""
    sight = look(house, record)
    settings = house.settings if record.phase in DECIDED else settings_of(house, record)
    state, reason = derive_from(record, sight, settings, house.clock)
    ended = record.phase is Phase.ENDED
    return {
        "id": record.id,
        "name": record.name,
        "agent": record.agent_name,
        "workspace": record.workspace,
        "state": state.value,
        "reason": reason,
        "epoch": record.epoch,
        "restarts": record.restarts,
        "keeper_pid": None if ended else _pid(record.owner),
        "agent_pid": None if ended else _pid(record.agent),
        "started_at": format_time(record.started_at),
        "last_progress_at": format_time(sight.beat.progress_wall_s) if sight.beat else None,
        "last_heartbeat_at": format_time(sight.beat.wall_s) if sight.beat else None,
        "resumes_at": format_time(record.resumes_at),
        "command": shlex.join(record.command),
        "cwd": record.cwd,
    }


def is_quiet(house: House, record: SessionRecord) -> bool:
    """Tell whether ``ps`` leaves the session out without ``-a``, at the cost of no look at anything but the record."""
    return record.phase is Phase.ENDED and show_state(house.home, record, house.settings, house.clock)[0] in QUIET_STATES


def look(house: House, record: SessionRecord) -> Sight:
    """Return what is seen of the session just now; of one that has ended or is parked, its last beat is all there is."""
    if record.phase in DECIDED:
        return Sight(owner=Liveness.NONE, agent=Liveness.NONE, beat=read_beat(house.home, record))
    return observe_session(house.home, record, house.clock)


def describe_damage(house: House, damage: Damage) -> dict[str, Any]:
    """Return the same fields for a session whose record cannot be read: it is shown, never hidden, as its journal knows it."""
    if damage.known is not None:
        return describe(house, damage.known) | {"reason": f"its record is damaged ({damage.error}); shown from its journal"}
    known: dict[str, Any] = dict.fromkeys(
        ("name", "agent", "workspace", "state", "reason", "epoch", "restarts", "keeper_pid", "agent_pid", "started_at")
    )
    known |= dict.fromkeys(("last_progress_at", "last_heartbeat_at", "resumes_at", "command", "cwd"))
    return {"id": damage.id} | known | {"state": State.CRASHED.value, "reason": f"its record cannot be read: {damage.error}"}


def sort_key(row: dict[str, Any]) -> tuple[int, str]:
    """Order rows: who needs the user first, then by state, then by age."""
    return _STATE_ORDER.get(row["state"], len(_STATE_ORDER)), row["id"]


def _pid(identity: ProcessIdentity | None) -> int | None:
    return identity.pid if identity else None
