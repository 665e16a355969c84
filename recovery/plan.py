"""The plan: which acts, in which order, would bring one session back. Pure.

The order is the safety argument. The epoch rises first, so that whoever held the session before can write nothing more; then
every context is fenced, then the old incarnation's processes are proven gone, and only then may a new one start. A plan for a
session that needs nothing is the one action ``nothing``, so planning a recovered session again changes nothing.

Two kinds of "no" are told apart: there is nothing to do (``actions`` says why), and acting would not be safe (``refused``).
"""

from __future__ import annotations

from coordinator.sessions.model import Outcome, Phase, SessionRecord
from recovery.model import Action, ActionKind, Diagnosis, Layer, Plan, Verdict

_REFUSALS = {
    Verdict.SUSPENDED: "its processes are stopped, not dead: they can go on",
    Verdict.HUNG: "its processes are alive",
    Verdict.UNKNOWN: "it cannot be told from here whether its processes are alive",
    Verdict.SUPERSEDED: "a newer incarnation has it",
}


def plan_recovery(
    diagnosis: Diagnosis,
    record: SessionRecord,
    *,
    newest_whole: int | None = None,
    checkpoint: int | None = None,
    revive: bool = False,
    force: bool = False,
    now_s: float = 0.0,
) -> Plan:
    """Return the plan for one session.

    ``newest_whole`` is the number of the newest whole checkpoint, ``checkpoint`` one that was asked for. With ``revive`` a
    session that has ended or is parked is started again; ``force`` also takes one whose processes are not proven gone. One that
    is parked until a time is due once ``now_s`` (wall clock) is there.
    """
    verdict, pid = diagnosis.verdict, diagnosis.get_finding(Layer.PID)
    chosen = checkpoint if checkpoint is not None else newest_whole
    is_due = record.resumes_at is not None and record.resumes_at <= now_s
    revive = revive or force or checkpoint is not None or is_due

    def build(*actions: Action, refused: str | None = None) -> Plan:
        return Plan(
            session=record.id,
            name=record.name,
            verdict=verdict,
            reason=diagnosis.reason,
            actions=actions,
            refused=refused,
            checkpoint=chosen,
        )

    full = _list_all_acts(record, chosen)
    if verdict is Verdict.SUPERSEDED:
        return build(_nothing(_REFUSALS[verdict]), refused=_REFUSALS[verdict])
    if (
        record.phase is Phase.STOPPING
        and pid.verdict in (Verdict.HEALTHY, Verdict.ORPHANED)
        and pid.reason != "stopping: it is being stopped"
    ):
        return build(
            Action(kind=ActionKind.REAP),
            Action(kind=ActionKind.END, argument=str(Outcome.STOPPED)),
            Action(kind=ActionKind.JOURNAL),
        )
    if record.phase in (Phase.PARKED, Phase.STOPPING) and not revive:
        return build(_nothing(pid.reason))
    if record.phase is Phase.ENDED:
        if revive:
            return build(*full)
        if verdict is Verdict.ORPHANED:
            return build(Action(kind=ActionKind.REAP), Action(kind=ActionKind.JOURNAL))
        if pid.verdict is not Verdict.CRASHED:
            return build(_nothing(pid.reason))
        return build(*full)
    if force:
        return build(*full)
    if pid.verdict in (Verdict.CRASHED, Verdict.ORPHANED):
        disk = diagnosis.get_finding(Layer.DISK)
        if disk.verdict is Verdict.DISK_FAULT:
            return build(*full, refused=f"the disk cannot be written: {disk.reason}")
        return build(*full)
    if verdict is Verdict.ORPHANED:
        return build(Action(kind=ActionKind.REAP), Action(kind=ActionKind.JOURNAL))
    # The pid layer vouches for living (or invisible) processes from here on.
    if pid.verdict in _REFUSALS or verdict in _REFUSALS:
        why = _REFUSALS.get(pid.verdict) or _REFUSALS[verdict]
        return build(*full, refused=why)
    if checkpoint is not None:
        return build(*full, refused="it is running; stop it first")
    return build(_nothing(diagnosis.reason))


def _list_all_acts(record: SessionRecord, checkpoint: int | None) -> tuple[Action, ...]:
    return (
        Action(kind=ActionKind.RAISE_EPOCH, argument=str(record.epoch + 1)),
        Action(kind=ActionKind.FENCE_CONTEXT),
        Action(kind=ActionKind.REAP),
        Action(kind=ActionKind.RESTORE_CHECKPOINT, argument="none: cold start" if checkpoint is None else str(checkpoint)),
        Action(kind=ActionKind.START),
        Action(kind=ActionKind.VERIFY),
        Action(kind=ActionKind.JOURNAL),
    )


def _nothing(why: str) -> Action:
    return Action(kind=ActionKind.NOTHING, argument=f"({why})")
