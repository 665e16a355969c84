"""The pid layer: do the processes that should be there live?

Only proven identities count. A process that is stopped is suspended, not dead; one that cannot be looked at (another pid
namespace, another machine, another user's) is unknown, never dead; an earlier boot's is dead by proof.

Not judged here: whether a living process does anything (heartbeat).
"""

from __future__ import annotations

from typing import Any

from coordinator.sessions.model import Hosting, Outcome, Phase, SessionRecord
from coordinator.system.processes import Liveness, ProcessIdentity
from recovery.model import Evidence, Finding, Layer, OrphanKind, Verdict

#: How a proven death is called.
_DEATHS = {
    Liveness.EXITED: "exited",
    Liveness.ZOMBIE: "zombie",
    Liveness.REUSED: "pid reused",
    Liveness.REBOOTED: "rebooted",
    Liveness.NONE: "exited",
}
#: Outcomes after which the absence of processes is right.
_ORDERLY = frozenset({Outcome.DONE, Outcome.FAILED, Outcome.STOPPED})


def judge(evidence: Evidence) -> Finding:
    """Judge the owner's and the agent's life. Total."""
    record = evidence.record
    if record is None:
        return _find(evidence, Verdict.UNKNOWN, "no record: it is not known whom to look for")
    if evidence.expected_epoch is not None and record.epoch > evidence.expected_epoch:
        return _find(
            evidence, Verdict.SUPERSEDED, f"superseded: the session is at epoch {record.epoch}, not {evidence.expected_epoch}"
        )
    if record.phase is Phase.ENDED:
        return _judge_ended(evidence, record)
    if evidence.owner is Liveness.UNKNOWN:
        return _find(evidence, Verdict.UNKNOWN, f"unknown: the {_owner(record)} cannot be seen from here")
    if record.phase is Phase.PARKED:
        return _judge_parked(evidence, record)
    if evidence.owner_is_self and record.phase in (Phase.STARTING, Phase.RECOVERING):
        return _find(evidence, Verdict.CRASHED, f"due: {record.reason or 'its own keeper starts it again'}")
    if record.phase is Phase.RECOVERING:
        return _judge_recovering(evidence, record)
    if record.phase is Phase.STOPPING:
        return _judge_stopping(evidence, record)
    if record.owner is None or record.phase is Phase.STARTING:
        return _judge_starting(evidence, record)
    return _judge_running(evidence, record)


def _judge_ended(evidence: Evidence, record: SessionRecord) -> Finding:
    if record.outcome in _ORDERLY:
        return _find(evidence, Verdict.HEALTHY, f"ended: {record.outcome}")
    how = f"killed: by signal {record.exit_signal}" if record.exit_signal else "exited"
    return _find(evidence, Verdict.CRASHED, f"{how}; {record.reason}" if record.reason else how)


def _judge_parked(evidence: Evidence, record: SessionRecord) -> Finding:
    if evidence.owner.is_gone and not evidence.agent.is_gone and evidence.agent is not Liveness.UNKNOWN:
        return _find(evidence, Verdict.ORPHANED, str(OrphanKind.AGENT_WITHOUT_KEEPER))
    return _find(evidence, Verdict.CRASHED, f"parked: {record.reason or 'no reason was written'}")


def _judge_recovering(evidence: Evidence, record: SessionRecord) -> Finding:
    age_s = max(0.0, evidence.now_wall_s - record.phase_at)
    if evidence.recoverer is Liveness.UNKNOWN:
        return _find(evidence, Verdict.UNKNOWN, "unknown: its recoverer cannot be seen from here")
    if evidence.recoverer is Liveness.STOPPED:
        return _find(evidence, Verdict.SUSPENDED, "stopped: its recoverer is stopped")
    if not evidence.recoverer.is_gone and not evidence.recoverer_is_self:
        if age_s > 2 * evidence.start_timeout_s:
            return _find(evidence, Verdict.HUNG, f"stuck: its recovery has been going on for {age_s:.0f} s")
        return _find(evidence, Verdict.STARTING, "recovering: another process is bringing it back")
    # The owner may be the old incarnation's, not yet reaped, or the new one's, just registered: the young are left alone.
    if not evidence.owner.is_gone and age_s <= evidence.start_timeout_s:
        return _find(evidence, Verdict.STARTING, "recovering: its new keeper is starting")
    if evidence.recoverer_is_self:
        return _find(evidence, Verdict.CRASHED, f"due: {record.reason or 'it is to be started again'}")
    why = f"interrupted: its recovery did not end; {record.reason}" if record.reason else "interrupted: its recovery did not end"
    return _find(evidence, Verdict.CRASHED, why)


def _judge_stopping(evidence: Evidence, record: SessionRecord) -> Finding:
    if not evidence.owner.is_gone:
        verdict = Verdict.SUSPENDED if evidence.owner is Liveness.STOPPED else Verdict.HEALTHY
        return _find(evidence, verdict, "stopping: it is being stopped")
    if evidence.agent.is_gone:
        return _find(evidence, Verdict.HEALTHY, "stopping: its processes are gone; only the end was not written")
    return _find(evidence, Verdict.ORPHANED, str(OrphanKind.AGENT_WITHOUT_KEEPER))


def _judge_starting(evidence: Evidence, record: SessionRecord) -> Finding:
    age_s = max(0.0, evidence.now_wall_s - record.phase_at)
    if record.owner is not None and evidence.owner.is_gone:
        return _judge_dead_owner(evidence, record)
    if evidence.owner is Liveness.STOPPED:
        return _find(evidence, Verdict.SUSPENDED, f"stopped: its {_owner(record)} is stopped")
    if age_s <= evidence.start_timeout_s:
        return _find(evidence, Verdict.STARTING, "starting")
    if record.owner is None:
        return _find(evidence, Verdict.CRASHED, "interrupted: its start never got a process")
    return _find(evidence, Verdict.HUNG, f"stuck: its start has been going on for {age_s:.0f} s")


def _judge_running(evidence: Evidence, record: SessionRecord) -> Finding:
    if evidence.owner.is_gone:
        return _judge_dead_owner(evidence, record)
    if evidence.owner is Liveness.STOPPED:
        return _find(evidence, Verdict.SUSPENDED, f"stopped: its {_owner(record)} is stopped")
    if record.agent is None or record.hosting is Hosting.PROGRAM:
        return _find(evidence, Verdict.HEALTHY, f"alive: its {_owner(record)} lives")
    if evidence.agent is Liveness.STOPPED:
        return _find(evidence, Verdict.SUSPENDED, "stopped: its agent is stopped")
    if evidence.agent is Liveness.UNKNOWN:
        return _find(evidence, Verdict.UNKNOWN, "unknown: its agent cannot be seen from here")
    if evidence.agent.is_gone:
        # The end of an agent is its keeper's to settle (done, failed, crashed: only the keeper knows the exit code). A keeper
        # that beats is trusted with it; taking a session from it would turn "done" into a restart.
        if evidence.owner_is_self or _beats(evidence):
            return _find(
                evidence,
                Verdict.CRASHED if evidence.owner_is_self else Verdict.HEALTHY,
                f"{_DEATHS[evidence.agent]}: its agent has ended; its keeper settles that",
            )
        return _find(evidence, Verdict.CRASHED, f"{_DEATHS[evidence.agent]}: its agent is gone and its keeper does not beat")
    return _find(evidence, Verdict.HEALTHY, "alive: its keeper and its agent live")


def _judge_dead_owner(evidence: Evidence, record: SessionRecord) -> Finding:
    # A fresh heartbeat of a dead process is the last one it wrote: the pid wins.
    if record.hosting is Hosting.KEEPER and record.agent is not None and evidence.agent in (Liveness.ALIVE, Liveness.STOPPED):
        return _find(
            evidence,
            Verdict.ORPHANED,
            f"{OrphanKind.AGENT_WITHOUT_KEEPER}: its keeper is gone ({evidence.owner}), its agent is not",
        )
    return _find(evidence, Verdict.CRASHED, f"{_DEATHS[evidence.owner]}: its {_owner(record)} is gone")


def _beats(evidence: Evidence) -> bool:
    beat, record = evidence.beat, evidence.record
    if beat is None or record is None or beat.boot_id != evidence.boot_id or beat.epoch != record.epoch:
        return False
    return evidence.now_monotonic_s - beat.monotonic_s <= evidence.lease_s


def _owner(record: SessionRecord) -> str:
    return "keeper" if record.hosting is Hosting.KEEPER else "program"


def _find(evidence: Evidence, verdict: Verdict, reason: str) -> Finding:
    record = evidence.record
    told: dict[str, Any] = {"owner": str(evidence.owner), "agent": str(evidence.agent)}
    if record is not None:
        told |= {
            "phase": str(record.phase),
            "epoch": record.epoch,
            "owner_pid": _pid(record.owner),
            "agent_pid": _pid(record.agent),
        }
        if record.phase is Phase.RECOVERING:
            told |= {"recoverer": str(evidence.recoverer), "recoverer_pid": _pid(record.recoverer)}
        if record.exit_signal is not None or record.exit_code is not None:
            told |= {"exit_code": record.exit_code, "exit_signal": record.exit_signal}
    return Finding(layer=Layer.PID, verdict=verdict, reason=reason, evidence=told)


def _pid(identity: ProcessIdentity | None) -> int | None:
    return identity.pid if identity is not None else None
