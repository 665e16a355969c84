"""What can be seen of a session just now: its processes, its heartbeat, and the state that follows.

Looks only, changes nothing, waits for nothing. What cannot be read is not seen; judging why is recovery's.
"""

from __future__ import annotations

from coordinator.config import START_TIMEOUT_S, Settings
from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.sessions.heartbeat import HeartbeatFile
from coordinator.sessions.model import Beat, Phase, SessionRecord, Sight, State, derive_state
from coordinator.system import processes
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.processes import Liveness

#: Phases of which the record alone tells the state: nothing has to be looked at.
DECIDED = frozenset({Phase.ENDED, Phase.PARKED})


def observe_session(home: Home, record: SessionRecord, clock: Clock = SYSTEM) -> Sight:
    """Look at a session's processes and heartbeat. Never raises for what it finds there."""
    beat = read_beat(home, record)
    age_s, progress_age_s = judge_age(beat, clock)
    recovering = record.phase is Phase.RECOVERING
    return Sight(
        owner=processes.observe(record.owner),
        agent=processes.observe(record.agent),
        recoverer=processes.observe(record.recoverer) if recovering else Liveness.NONE,
        beat=beat,
        beat_age_s=age_s,
        progress_age_s=progress_age_s,
    )


def read_beat(home: Home, record: SessionRecord) -> Beat | None:
    """Return the beat of the record's own incarnation, ``None`` if there is none that can be believed."""
    try:
        beat = HeartbeatFile(home.session(record.id).heartbeat).read()
    except CrewkeepError:
        return None
    return beat if beat and beat.epoch == record.epoch and beat.session == record.id else None


def judge_age(beat: Beat | None, clock: Clock) -> tuple[float | None, float | None]:
    """Return the ages of the beat and of its progress in seconds, ``None`` where they cannot be judged.

    Only the monotonic clock of the same boot counts, so neither wall-clock jumps nor suspend age a beat. A beat from the
    future is not judged.
    """
    if beat is None or beat.boot_id != processes.boot_id():
        return None, None
    now_s = clock.monotonic_s()
    age_s, progress_age_s = now_s - beat.monotonic_s, now_s - beat.progress_monotonic_s
    return (age_s if age_s >= 0 else None), (progress_age_s if progress_age_s >= 0 else None)


def show_state(home: Home, record: SessionRecord, settings: Settings, clock: Clock = SYSTEM) -> tuple[State, str | None]:
    """Return the state that people see and, where there is one, the reason."""
    if record.phase in DECIDED:
        return derive_from(record, Sight(owner=Liveness.NONE, agent=Liveness.NONE), settings, clock)
    return derive_from(record, observe_session(home, record, clock), settings, clock)


def derive_from(record: SessionRecord, sight: Sight, settings: Settings, clock: Clock = SYSTEM) -> tuple[State, str | None]:
    """Return the state for a sight that was taken before."""
    return derive_state(
        record,
        sight,
        lease_s=settings.lease_s,
        quiet_after_s=settings.quiet_after_s,
        hang_after_s=settings.hang_after_s,
        now_s=clock.wall_s(),
        start_timeout_s=START_TIMEOUT_S,
    )
