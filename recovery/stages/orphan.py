"""The orphan layer: is something left without what it belongs to?

Processes are known by the nonce in their environment, so the family of paths that name one home (relative, symbolic, other
spellings) cannot hide them. Strays that belong to no session at all are found by ``recovery.evidence.gather_strays``.
"""

from __future__ import annotations

from typing import Any

from coordinator.sessions.model import Hosting, Phase
from coordinator.system.processes import Liveness
from recovery.model import Evidence, Finding, Layer, OrphanKind, Presence, ProcessSight, Verdict

_LIVING = (Liveness.ALIVE, Liveness.STOPPED)


def judge(evidence: Evidence) -> Finding:
    """Judge what is left behind. Total."""
    record = evidence.record
    told: dict[str, Any] = {
        "marked": [_tell(one) for one in evidence.marked],
        "unreaped": [_tell(one) for one in evidence.unreaped],
    }
    if record is None:
        if evidence.marked:
            return _find(Verdict.ORPHANED, str(OrphanKind.PROCESS_WITHOUT_RECORD), told)
        kind = OrphanKind.FILES_WITHOUT_RECORD
        return (
            _find(Verdict.ORPHANED, str(kind), told)
            if evidence.has_directory
            else _find(Verdict.HEALTHY, "nothing is left", told)
        )
    if evidence.parent_missing:
        told["parent"] = f"{record.parent} is not registered any more"
    if evidence.owner is Liveness.UNKNOWN:
        return _find(Verdict.UNKNOWN, "unknown: its owner cannot be seen from here", told)
    ownerless = evidence.owner.is_gone and record.phase is not Phase.RECOVERING
    if ownerless and (
        evidence.marked or (record.hosting is Hosting.KEEPER and record.agent is not None and evidence.agent in _LIVING)
    ):
        return _find(Verdict.ORPHANED, str(OrphanKind.AGENT_WITHOUT_KEEPER), told)
    if evidence.unreaped and record.phase is Phase.RUNNING:
        return _find(Verdict.ORPHANED, f"{OrphanKind.AGENT_WITHOUT_KEEPER}: processes of an earlier epoch live", told)
    if _is_alone(evidence):
        return _find(Verdict.ORPHANED, str(OrphanKind.RECORD_WITHOUT_ANYTHING), told)
    return _find(Verdict.HEALTHY, "nothing is left behind", told)


def _is_alone(evidence: Evidence) -> bool:
    """A record that nothing belongs to: no launch spec to start from, no checkpoint, no process, and none to be expected."""
    record = evidence.record
    assert record is not None
    if (
        record.phase is Phase.ENDED
        or not evidence.owner.is_gone
        or evidence.now_wall_s - record.phase_at <= evidence.start_timeout_s
    ):
        return False
    launch = next((sight for sight in evidence.files if sight.name == "launch"), None)
    missing = launch is None or launch.presence is Presence.ABSENT or launch.detail.startswith("missing")
    return missing and not evidence.checkpoints


def _tell(process: ProcessSight) -> dict[str, Any]:
    return {"pid": process.pid, "name": process.name, "epoch": process.epoch}


def _find(verdict: Verdict, reason: str, told: dict[str, Any]) -> Finding:
    return Finding(layer=Layer.ORPHAN, verdict=verdict, reason=reason, evidence=told)
