"""The integrity layer: are the session's files what was written to them?

Looked at: record, launch spec, heartbeat, journal, newest checkpoint, the agent's transcript, and whether the record went
back in time (its epoch or version is below what the journal saw). Damage that its own writer mends (the torn last line of a
log) is told but is no fault.
"""

from __future__ import annotations

from recovery.model import Evidence, FileSight, Finding, Layer, Presence, Verdict


def judge(evidence: Evidence) -> Finding:
    """Judge the files. Total."""
    told = {sight.name: _describe(sight) for sight in evidence.files if sight.presence is not Presence.ABSENT}
    told |= {
        f"checkpoint {sight.number}": "whole" if sight.whole else f"damaged ({sight.damage})" for sight in evidence.checkpoints
    }
    faults = [sight for sight in evidence.files if sight.presence is Presence.DAMAGED and not sight.harmless]
    if faults:
        reason = "; ".join(f"{sight.name}: {sight.detail}" for sight in faults)
        return Finding(layer=Layer.INTEGRITY, verdict=Verdict.CORRUPT, reason=reason, evidence=told)
    unreadable = [sight for sight in evidence.files if sight.presence in (Presence.TOO_NEW, Presence.UNREADABLE)]
    if unreadable:
        reason = "; ".join(f"{sight.name}: {sight.detail or sight.presence}" for sight in unreadable)
        return Finding(layer=Layer.INTEGRITY, verdict=Verdict.UNKNOWN, reason=reason, evidence=told)
    damaged = [sight for sight in evidence.checkpoints if not sight.whole]
    if damaged:
        best = next(
            (f"checkpoint {sight.number} is whole" for sight in evidence.checkpoints if sight.whole), "none before it is whole"
        )
        reason = "; ".join(f"checkpoint {sight.number}: {sight.damage}" for sight in damaged) + f"; {best}"
        return Finding(layer=Layer.INTEGRITY, verdict=Verdict.CORRUPT, reason=reason, evidence=told)
    return Finding(layer=Layer.INTEGRITY, verdict=Verdict.HEALTHY, reason="whole", evidence=told)


def _describe(sight: FileSight) -> str:
    return f"{sight.presence} ({sight.detail})" if sight.detail else str(sight.presence)
