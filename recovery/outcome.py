"""What came of recovering: one session's outcome, and several sessions one after another with a brake.

Starting many agents at once overloads a machine, and a fault that fails one start after another (a missing program, a full
disk) should not be tried on every session.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator.config import Settings
from coordinator.errors import CrewkeepError
from recovery.model import Verdict


class Result(StrEnum):
    """What came of trying to recover one session."""

    RECOVERED = "recovered"
    #: Another recoverer was first, or is at it.
    ALREADY = "already recovered"
    NOTHING = "nothing to do"
    #: Acting would not be safe.
    REFUSED = "refused"
    PARKED = "parked"
    #: It was started and has ended by itself since, or its stop was brought to an end.
    ENDED = "ended"
    #: What earlier incarnations left was ended; nothing was started.
    REAPED = "reaped"
    FAILED = "failed"
    #: Not tried, because too many before it failed.
    HALTED = "halted"


@dataclass(frozen=True, kw_only=True, slots=True)
class RecoverOutcome:
    """What was done about one session."""

    id: str
    name: str
    verdict: Verdict
    #: The plan's actions that were carried out (or, before acting, would be).
    actions: tuple[str, ...]
    outcome: Result
    #: A sentence for people.
    reason: str = ""
    from_epoch: int | None = None
    to_epoch: int | None = None
    checkpoint: int | None = None
    duration_ms: int = 0

    def encode(self) -> dict[str, Any]:
        """Return an element of ``recover --json``."""
        return {
            **dataclasses.asdict(self),
            "verdict": str(self.verdict),
            "actions": list(self.actions),
            "outcome": str(self.outcome),
        }


def recover_many(
    session_ids: list[str],
    recover: Callable[[str], RecoverOutcome],
    *,
    settings: Settings,
    wait: Callable[[float], object],
) -> list[RecoverOutcome]:
    """Recover one session after another, ``recover_spacing_s`` apart; ``recover_brake_count`` failures in a row halt the rest.

    ``recover`` is ``recover_session`` for one id; an error of its counts as a failure and is told in the outcome.
    """
    outcomes: list[RecoverOutcome] = []
    failures, started = 0, False
    for session_id in session_ids:
        if failures >= settings.recover_brake_count:
            why = f"{failures} recoveries in a row failed; see why, then go on with: crewkeep recover {session_id}"
            outcomes.append(_tell_unknown(session_id, Result.HALTED, why))
            continue
        if started:
            wait(settings.recover_spacing_s)
        try:
            outcome = recover(session_id)
        except CrewkeepError as error:
            outcome = _tell_unknown(session_id, Result.FAILED, str(error))
        started = outcome.to_epoch is not None
        if outcome.outcome in (Result.FAILED, Result.PARKED):
            failures += 1
        elif outcome.outcome is Result.RECOVERED:
            failures = 0
        outcomes.append(outcome)
    return outcomes


def _tell_unknown(session_id: str, result: Result, reason: str) -> RecoverOutcome:
    return RecoverOutcome(id=session_id, name=session_id, verdict=Verdict.UNKNOWN, actions=(), outcome=result, reason=reason)
