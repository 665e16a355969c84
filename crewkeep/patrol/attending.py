"""What the patrol does about one session whose owner may be dead: look, decide, act, say when to look again.

Every look begins with the record on disk and the processes as they are now; what was noticed is only a reason to look. So
a look too many does no harm, and a patrol that died in the middle is replaced by the next one's first look.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.config import START_TIMEOUT_S
from coordinator.errors import Conflict, CrewkeepError, Damaged, NotFound, Superseded
from coordinator.paths import Home
from coordinator.services.features import Features, Recovery
from coordinator.sessions.journal import Journal
from coordinator.sessions.model import LaunchSpec, Phase, SessionRecord, State
from coordinator.sessions.registry import Registry
from coordinator.sessions.sight import read_beat, show_state
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.processes import identify_self, observe
from crewkeep.ending import end_what_is_left
from crewkeep.notify import notify
from crewkeep.process_log import say
from crewkeep.session_settings import find_settings
from recovery import brake
from recovery.brake import EndCause, Ended
from recovery.fruit import has_borne_fruit
from recovery.outcome import Result
from recovery.restore import RestoredState, recover_session
from recovery.starter import start_keeper

#: Somebody else is at work on it, or it is just being started: look again then.
_LOOK_AGAIN_S = 1.0
#: A parked session is looked at so often, since its time is one of day, which may be set.
_PARKED_LOOK_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Attention:
    """What came of a look."""

    #: For the log; empty if there was nothing to do.
    did: str = ""
    #: Seconds until the next look; ``None`` if none is needed. Not a time of day: that may be set back meanwhile.
    again_s: float | None = None
    #: Something was in the way that may pass (a full disk, a held lock): the next look is after a pause that grows.
    failed: bool = False


NOTHING = Attention()


def attend(
    home: Home, session_id: str, secrets: Mapping[str, str], *, noticed_at: float | None = None, clock: Clock = SYSTEM
) -> Attention:
    """Bring the session back, end it, park it or leave it, as its record, its processes and its policy say.

    ``noticed_at`` is the wall-clock time at which the owner's death was noticed, for the journal. Raises nothing that a
    disk, a lock or a race can cause.
    """
    registry = Registry(home, clock)
    try:
        return _attend(home, registry, session_id, secrets, noticed_at, clock)
    except NotFound:
        return NOTHING
    except Superseded as error:
        return Attention(did=f"somebody else was first: {error}")
    except Conflict as error:
        return Attention(did=f"it changed meanwhile: {error}", again_s=_LOOK_AGAIN_S)
    except (CrewkeepError, OSError) as error:
        return Attention(did=f"failed: {error}", failed=True)


def _attend(
    home: Home, registry: Registry, session_id: str, secrets: Mapping[str, str], noticed_at: float | None, clock: Clock
) -> Attention:
    try:
        record = registry.get(session_id)
    except Damaged:
        rebuilt = registry.rebuild_record(session_id)
        if rebuilt is None:
            return Attention(did="its record is damaged and its journal holds none; see `crewkeep recover`")
        record = rebuilt
    now_s = clock.wall_s()
    if record.phase in (Phase.ENDED, Phase.PARKED) and record.resumes_at is None:
        return NOTHING
    settings = find_settings(registry, session_id)
    if record.resumes_at is not None:
        return _attend_parked(home, registry, record, record.resumes_at - now_s, secrets, clock)
    restarts_hung = settings.hang_policy == "restart"
    hung = restarts_hung and record.phase is Phase.RUNNING and show_state(home, record, settings, clock)[0] is State.HUNG
    if not hung and (wait := _find_reason_to_wait(record, now_s)) is not None:
        return wait
    if noticed_at is not None:
        Journal(home.session(session_id), clock).append(
            "noticed", {"what": "the owner is gone", "by": "patrol", "at": noticed_at}, epoch=record.epoch
        )
    if record.phase is Phase.STOPPING:
        end_what_is_left(home, registry, record)
        return Attention(did="finished its stop")
    if (level := Features(home).read().recovery) is not Recovery.ON:
        return Attention(did=f"left as it is: recovery is turned to {level}")
    decision: brake.Decision
    if record.phase is Phase.RECOVERING and record.not_before_at is not None:
        rest_s = record.not_before_at - now_s
        if 0 < rest_s <= settings.start_delay_limit_s:
            return Attention(again_s=rest_s)
        decision = brake.StartNow()  # decided before by somebody who is gone; its pause is over, or the clock was set back
    else:
        decision = brake.decide_restart(record, _describe_end(home, record, hung), now_s, settings)
    if hung and not isinstance(decision, (brake.StartNow, brake.StartAt)):
        return Attention(did=f"hung, and left alone: {decision.reason}")  # it lives: only its policy to start it again ends it
    if isinstance(decision, brake.StartNow) or hung:
        return _recover(home, registry, record, secrets, hung, clock)
    if isinstance(decision, brake.StartAt):
        registry.change(
            session_id,
            epoch=record.epoch,
            change=lambda known: dataclasses.replace(
                known,
                phase=Phase.RECOVERING,
                recoverer=identify_self(),
                not_before_at=decision.at,
                reason="its keeper died; it starts again soon",
            ),
        )
        return Attention(did="starts again after a pause", again_s=max(0.0, decision.at - now_s))
    end_what_is_left(home, registry, record, decision)
    ended = registry.get(session_id)
    notify(home, ended.name, str(ended.outcome or ended.phase), ended.reason)
    return Attention(did=f"not started again: {decision.reason}")


def _attend_parked(
    home: Home, registry: Registry, record: SessionRecord, rest_s: float, secrets: Mapping[str, str], clock: Clock
) -> Attention:
    """A session that waits for a time goes on then, also if the keeper that waited with it is gone."""
    if not observe(record.owner).is_gone:
        return NOTHING
    if rest_s > 0:
        return Attention(again_s=min(rest_s, _PARKED_LOOK_S))
    if (level := Features(home).read().recovery) is not Recovery.ON:
        return Attention(did=f"left as it is: recovery is turned to {level}", again_s=_PARKED_LOOK_S)
    return _recover(home, registry, record, secrets, hung=False, clock=clock)


def _find_reason_to_wait(record: SessionRecord, now_s: float) -> Attention | None:
    """Return what to do instead of acting, ``None`` if nothing speaks against it."""
    owner_gone = observe(record.owner).is_gone
    young = abs(now_s - record.phase_at) < START_TIMEOUT_S  # from the future: the clock was set back, and nothing is known
    if record.phase is Phase.RECOVERING:
        if record.recoverer == record.owner and not owner_gone:
            return NOTHING  # a keeper at its own recovery; its death would be noticed
        if record.recoverer != identify_self() and not observe(record.recoverer).is_gone:
            return Attention(again_s=_LOOK_AGAIN_S)
        if not owner_gone and young:
            return Attention(again_s=_LOOK_AGAIN_S)  # the keeper that its dead recoverer began is coming up
        return None
    if record.owner is None:
        return Attention(again_s=_LOOK_AGAIN_S) if young else None
    return None if owner_gone else NOTHING


def _describe_end(home: Home, record: SessionRecord, hung: bool) -> Ended:
    beat = read_beat(home, record)
    ran_s = 0.0
    if beat is not None and record.started_at is not None:
        ran_s = beat.wall_s - record.started_at
    return Ended(
        cause=EndCause.HUNG if hung else EndCause.OWNER_DIED,
        fruitful=has_borne_fruit(home, record),
        held=record.started_at is not None and ran_s >= brake.HELD_AFTER_S,
    )


def _recover(
    home: Home, registry: Registry, record: SessionRecord, secrets: Mapping[str, str], hung: bool, clock: Clock
) -> Attention:
    settings = find_settings(registry, record.id)

    def start(raised: SessionRecord, launch: LaunchSpec, restored: RestoredState) -> SessionRecord:
        return start_keeper(home, raised, secrets, settings)

    outcome = recover_session(
        home,
        registry,
        record.id,
        expected_epoch=record.epoch,
        reason="it hung" if hung else "its keeper died" if record.resumes_at is None else "its time has come",
        starter=start,
        secrets=secrets,
        force=hung,
        clock=clock,
        settings=settings,
    )
    if outcome.outcome in (Result.REFUSED, Result.FAILED):
        return Attention(did=f"recovery {outcome.outcome}: {outcome.reason}", failed=True)
    say(f"{record.name} ({record.id}): {outcome}")
    return Attention(did=f"recovered: {outcome.outcome}", again_s=_LOOK_AGAIN_S)
