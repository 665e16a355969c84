"""The cascade: five judges in a fixed order, one verdict. Pure and total.

The order is pid, heartbeat, integrity, disk, orphan: a proven death outranks a fresh heartbeat, and what stands first has the
better proof. Every layer is judged, also when an earlier one has decided, because people want to see all five.

A layer *decides* with any verdict that names a fault. ``UNKNOWN`` and ``STARTING`` leave the question to the next layer and
stand only if none decides.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable

from coordinator.sessions.model import Phase
from recovery.model import Diagnosis, Evidence, Finding, Layer, Verdict
from recovery.stages import disk, heartbeat, integrity, orphan, pid

STAGES: dict[Layer, Callable[[Evidence], Finding]] = {
    Layer.PID: pid.judge,
    Layer.HEARTBEAT: heartbeat.judge,
    Layer.INTEGRITY: integrity.judge,
    Layer.DISK: disk.judge,
    Layer.ORPHAN: orphan.judge,
}
_UNDECIDED = (Verdict.UNKNOWN, Verdict.STARTING)

#: What a verdict leads to when nobody asks for more (``--yes``, ``--force``).
_ACTIONS = {
    Verdict.HEALTHY: "nothing",
    Verdict.STARTING: "wait for its start",
    Verdict.SUSPENDED: "leave it: it can go on when it is continued",
    Verdict.HUNG: "leave it: it is alive (`crewkeep recover` it by force if you mean to)",
    Verdict.CRASHED: "recover it",
    Verdict.CORRUPT: "set the damaged file aside and go on from what is whole",
    Verdict.DISK_FAULT: "wait until the disk can be written",
    Verdict.ORPHANED: "reap what is left, then recover it",
    Verdict.SUPERSEDED: "stop: a newer incarnation goes on with the work",
    Verdict.UNKNOWN: "nothing: it cannot be judged from here",
}


def diagnose(evidence: Evidence) -> Diagnosis:
    """Return the verdict with all five findings. Never raises, never returns ``None``."""
    findings = tuple(judge(evidence) for judge in STAGES.values())
    decided = [one for one in findings if one.verdict is not Verdict.HEALTHY and one.verdict not in _UNDECIDED]
    undecided = [
        one for one in findings if one.verdict in _UNDECIDED and one.layer in (Layer.PID, Layer.HEARTBEAT, Layer.INTEGRITY)
    ]
    chosen = (decided or undecided or list(findings))[0]
    action = _describe_action(evidence, chosen)
    return Diagnosis(session=evidence.session, verdict=chosen.verdict, reason=chosen.reason, findings=findings, action=action)


def _describe_action(evidence: Evidence, chosen: Finding) -> str:
    phase = evidence.record.phase if evidence.record is not None else None
    if phase is Phase.PARKED and chosen.verdict is Verdict.CRASHED:
        if evidence.record is not None and (at := evidence.record.resumes_at) is not None:
            return f"wait: it goes on by itself at {_tell_time(at)}; `crewkeep recover` starts it at once"
        return "leave it parked: `crewkeep recover` starts it again"
    if phase is Phase.ENDED and chosen.verdict is Verdict.CRASHED:
        return "nothing by itself: `crewkeep recover` starts it again"
    if chosen.verdict is Verdict.ORPHANED and chosen.layer is Layer.ORPHAN:
        return "reap what is left"
    return _ACTIONS[chosen.verdict]


def _tell_time(seconds: float) -> str:
    try:
        return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return f"a time that no calendar has ({seconds:g})"
