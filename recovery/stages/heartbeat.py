"""The heartbeat layer: does the session show signs of life?

A beat is judged by the monotonic clock of the boot that wrote it, so the wall clock may jump as it likes. A stale beat of a
living process is hung, never crashed. The beat carries the agent's own progress, since a timer of ours would go on beating
for an agent that hangs. When the machine slept since the beat, two intervals are granted for waking.

Not judged here: whether the process lives (pid); a dead one's fresh beat means nothing.
"""

from __future__ import annotations

import math
from typing import Any

from coordinator.sessions.model import Beat, Phase, SessionRecord
from coordinator.system.processes import Liveness
from recovery.model import Evidence, Finding, Layer, Presence, Verdict

#: A beat may be so much younger than "now" by rounding; more is an anomaly.
_FUTURE_TOLERANCE_S = 0.05
#: Boot time may run ahead of monotonic time by so much between two reads without any sleep.
_SLEEP_TOLERANCE_S = 0.5
_WAKING_INTERVALS = 2
_BEATING_PHASES = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING})


def judge(evidence: Evidence) -> Finding:
    """Judge the age of the beat and of the progress in it. Total."""
    record, beat = evidence.record, evidence.beat
    if record is None:
        return _find(evidence, Verdict.UNKNOWN, "no record: it is not known whether it should beat")
    if record.phase not in _BEATING_PHASES or record.owner is None:
        return _find(evidence, Verdict.HEALTHY, "none expected")
    if beat is None or beat.epoch < record.epoch:
        return _judge_missing(evidence, record)
    if beat.boot_id != evidence.boot_id:
        return _judge_silence(evidence, "rebooted: the last beat is of an earlier boot")
    age_s = evidence.now_monotonic_s - beat.monotonic_s
    if age_s < -_FUTURE_TOLERANCE_S:
        return _find(evidence, Verdict.UNKNOWN, f"from the future: the beat is {-age_s:.1f} s ahead of the clock")
    if age_s > evidence.lease_s:
        if (
            _slept_s(evidence, beat) > _SLEEP_TOLERANCE_S
            and age_s <= evidence.lease_s + _WAKING_INTERVALS * evidence.heartbeat_interval_s
        ):
            return _find(evidence, Verdict.SUSPENDED, "waking: the machine slept since the last beat")
        return _judge_silence(evidence, f"stale: no heartbeat for {age_s:.0f} s")
    return _judge_progress(evidence, beat)


def _judge_missing(evidence: Evidence, record: SessionRecord) -> Finding:
    since_s = evidence.now_wall_s - (record.started_at if record.started_at is not None else record.phase_at)
    if since_s <= max(evidence.start_timeout_s, evidence.lease_s):
        return _find(evidence, Verdict.STARTING, "starting: no heartbeat of this incarnation yet")
    if any(sight.name == "heartbeat" and sight.presence not in (Presence.WHOLE, Presence.ABSENT) for sight in evidence.files):
        return _find(evidence, Verdict.UNKNOWN, "unreadable: the heartbeat cannot be judged")
    return _judge_silence(evidence, "missing: this incarnation has written no heartbeat")


def _judge_silence(evidence: Evidence, reason: str) -> Finding:
    """No beat when there should be one: what that means depends on whether its writer is there."""
    if evidence.owner is Liveness.UNKNOWN:
        return _find(evidence, Verdict.UNKNOWN, reason)
    if evidence.owner.is_gone:
        return _find(evidence, Verdict.CRASHED, f"{reason}; its writer is gone")
    if evidence.owner is Liveness.STOPPED:
        return _find(evidence, Verdict.SUSPENDED, f"{reason}; its writer is stopped")
    return _find(evidence, Verdict.HUNG, f"{reason}; its writer lives")


def _judge_progress(evidence: Evidence, beat: Beat) -> Finding:
    quiet_s = evidence.now_monotonic_s - beat.progress_monotonic_s
    if beat.needs_user:
        return _find(evidence, Verdict.HEALTHY, "waiting: it needs the user")
    if beat.at_prompt:
        return _find(evidence, Verdict.HEALTHY, "idle: it waits for input")
    if quiet_s >= evidence.hang_after_s and not evidence.owner.is_gone:
        return _find(evidence, Verdict.HUNG, f"no progress for {quiet_s:.0f} s")
    return _find(evidence, Verdict.HEALTHY, "fresh")


def _slept_s(evidence: Evidence, beat: Beat) -> float:
    """How long the machine slept since the beat: what boot time counted and monotonic time did not."""
    return (evidence.now_boottime_s - beat.boottime_s) - (evidence.now_monotonic_s - beat.monotonic_s)


def _find(evidence: Evidence, verdict: Verdict, reason: str) -> Finding:
    told: dict[str, Any] = {"lease_s": evidence.lease_s}
    beat = evidence.beat
    if beat is None:
        told["age_s"] = None
    else:
        same_boot = beat.boot_id == evidence.boot_id
        told |= {
            "age_s": _tell(evidence.now_monotonic_s - beat.monotonic_s) if same_boot else None,
            "progress_age_s": _tell(evidence.now_monotonic_s - beat.progress_monotonic_s) if same_boot else None,
            "slept_s": _tell(max(0.0, _slept_s(evidence, beat))) if same_boot else None,
            "progress_count": beat.progress_count,
            "seq": beat.seq,
            "epoch": beat.epoch,
            "at_prompt": beat.at_prompt,
            "needs_user": beat.needs_user,
        }
    return Finding(layer=Layer.HEARTBEAT, verdict=verdict, reason=reason, evidence=told)


def _tell(seconds: float) -> float | None:
    """Round for people; what is not a number has no place in JSON."""
    return round(seconds, 3) if math.isfinite(seconds) else None
