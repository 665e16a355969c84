"""The brake on crash loops: start again now, later, never by itself, or not at all. Pure; the count lies in the record on disk.

A start counts against the session until its incarnation has *brought the work further* (it is fruitful: a commit of its own
to the shared context, a checkpoint of its own, a longer transcript). Starts since the last fruitful one, within the window,
are limited and spaced by a doubling delay. Counting all starts instead would park a session that an impatient user's script
kills every minute while it works well; counting by uptime would let a loop go on that dies slowly.

The death of keeper or machine is not the agent's crash: it counts only if the start never held.

Invariant: between two fruitful incarnations there are never more than ``start_limit`` counted starts in a window.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

from coordinator.config import Settings
from coordinator.sessions.model import Outcome, Restart, SessionRecord, Start

#: An agent seen running for so long has started; arbitrary, above any program's own start-up failures.
HELD_AFTER_S = 2.0
#: So much of what a program says of its failure is told in a reason.
_FAILURE_LIMIT = 300


class EndCause(StrEnum):
    """What ended an incarnation."""

    #: The agent left by itself, with ``exit_code``.
    EXITED = "exited"
    #: A signal that crewkeep did not send.
    SIGNALLED = "signalled"
    #: A key typed at its terminal: the user's own doing.
    INTERRUPTED = "interrupted"
    #: ``stop`` or ``kill``.
    STOPPED = "stopped"
    #: The keeper (or the program that is its own keeper), or the machine.
    OWNER_DIED = "owner-died"
    #: It hung, and the policy says to start it again.
    HUNG = "hung"
    #: The agent could not be started at all.
    START_FAILED = "start-failed"
    #: A usage limit stopped its work; it was ended to wait for the limit's end.
    LIMITED = "limited"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one incarnation ended."""

    cause: EndCause
    exit_code: int | None = None
    exit_signal: int | None = None
    #: The incarnation brought the work further.
    fruitful: bool = False
    #: Its agent was seen running for at least ``HELD_AFTER_S``.
    held: bool = False
    #: Told in the reason, where there is more to say.
    detail: str = ""
    #: What ended the agent's last turn instead of an answer, as its program tells it.
    failure: str | None = None
    #: That was a usage limit, and when it ends: wall-clock seconds.
    limited_until: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StartNow:
    """Start it again at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StartAt:
    """Start it again, but not before this wall-clock time."""

    at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Park:
    """Start it no more by itself; ``until`` is a wall-clock time if one is known."""

    reason: str
    until: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """It has ended."""

    outcome: Outcome
    reason: str | None = None


Decision = StartNow | StartAt | Park | End


def decide_restart(record: SessionRecord, ended: Ended, now_s: float, settings: Settings) -> Decision:
    """Decide what follows the end of the incarnation ``record`` describes."""
    if _is_limited(record, ended, now_s):
        return Park(reason=f"usage limit: {_shorten(ended.failure or 'reached')}", until=ended.limited_until)
    if ended.cause is EndCause.LIMITED and record.restart is not Restart.NEVER:
        # The limit ended while its agent was being ended. One that does so again and again must not be a loop without a brake.
        return StartAt(at=now_s + find_delay_s(count_fruitless(record, now_s, settings), settings))
    if not _wants_restart(record.restart, ended):
        return _end(ended)
    if ended.fruitful or (ended.cause is EndCause.OWNER_DIED and ended.held):
        return StartNow()
    count = count_fruitless(record, now_s, settings)
    if count >= settings.start_limit:
        minutes = settings.start_window_s / 60
        return Park(
            reason=f"crash loop: {count} starts within {minutes:g} min brought no progress; the last {describe_end(ended)}"
        )
    delay_s = find_delay_s(count, settings)
    return StartAt(at=now_s + delay_s) if delay_s > 0 else StartNow()


def count_fruitless(record: SessionRecord, now_s: float, settings: Settings) -> int:
    """Return how many starts within the window, since the last fruitful one, brought nothing; the running one included."""
    count = 0
    for start in reversed(_list_starts(record)):
        # A start from the future is the wall clock set back: it counts, since a loop must not be freed by that.
        if start.fruitful or start.at <= now_s - settings.start_window_s:
            break
        count += 1
    return count


def find_delay_s(count: int, settings: Settings) -> float:
    """Return the pause before the next start after ``count`` fruitless ones in a row: none after the first, then doubling."""
    if count < 2:
        return 0.0
    doublings = min(count - 2, 64)
    return min(settings.start_delay_s * 2.0**doublings, settings.start_delay_limit_s)


def note_start(
    record: SessionRecord, now_s: float, settings: Settings, *, after: Ended | None = None, by_hand: bool = False
) -> SessionRecord:
    """Return the record with the start of its epoch counted; the same record if it already is.

    ``after`` is how the incarnation before it ended, where that is known: a fruitful one clears the count, one that held and
    only lost its keeper is not counted. A start ``by_hand`` forgets what was.
    """
    starts = _list_starts(record)
    if starts and starts[-1].epoch >= record.epoch:
        return record
    if by_hand or (after is not None and after.fruitful):
        starts = ()
    elif after is not None and after.cause is EndCause.OWNER_DIED and after.held and starts and not starts[-1].fruitful:
        starts = starts[:-1]
    kept = (*starts, Start(at=now_s, epoch=record.epoch))[-(settings.start_limit + 1) :]
    return dataclasses.replace(record, starts=kept)


def mark_fruitful(record: SessionRecord) -> SessionRecord:
    """Return the record with its running incarnation marked as having brought the work further."""
    # What came before a fruitful start is never counted again, so it need not be kept.
    at = record.started_at if record.started_at is not None else record.phase_at
    return dataclasses.replace(record, starts=(Start(at=at, epoch=record.epoch, fruitful=True),))


def describe_end(ended: Ended) -> str:
    """Say in a few words how an incarnation ended."""
    if ended.cause is EndCause.SIGNALLED:
        said = f"was killed by signal {ended.exit_signal}" if ended.exit_signal else "was killed"
    elif ended.cause is EndCause.EXITED:
        said = f"left with code {ended.exit_code}"
        if ended.failure is not None:
            said += f" after its last turn failed: {_shorten(ended.failure)}"
    else:
        said = {
            EndCause.INTERRUPTED: "was interrupted from its terminal",
            EndCause.STOPPED: "was stopped",
            EndCause.OWNER_DIED: "died with its keeper or machine",
            EndCause.HUNG: "hung",
            EndCause.START_FAILED: "could not be started",
            EndCause.LIMITED: "met a usage limit",
        }[ended.cause]
    return f"{said} ({ended.detail})" if ended.detail else said


def _is_limited(record: SessionRecord, ended: Ended, now_s: float) -> bool:
    """Tell whether a usage limit stopped the agent, which is to go on when that ends."""
    by_itself = ended.cause in (EndCause.EXITED, EndCause.LIMITED)
    return by_itself and record.restart is not Restart.NEVER and (ended.limited_until or 0.0) > now_s


def _has_failed(ended: Ended) -> bool:
    """Tell whether an agent that left by itself did not come to a good end, whatever its exit code says."""
    return ended.exit_code != 0 or ended.failure is not None


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _FAILURE_LIMIT else line[:_FAILURE_LIMIT] + "…"


def _wants_restart(policy: Restart, ended: Ended) -> bool:
    if ended.cause in (EndCause.STOPPED, EndCause.INTERRUPTED) or policy is Restart.NEVER:
        return False
    if policy is Restart.ALWAYS:
        return True
    failed = ended.cause is EndCause.START_FAILED or (ended.cause is EndCause.EXITED and _has_failed(ended))
    crashed = ended.cause in (EndCause.SIGNALLED, EndCause.OWNER_DIED, EndCause.HUNG)
    return crashed or (failed and policy is Restart.ON_FAILURE)


def _end(ended: Ended) -> End:
    if ended.cause is EndCause.STOPPED:
        return End(outcome=Outcome.STOPPED)
    if ended.cause is EndCause.INTERRUPTED:
        return End(outcome=Outcome.STOPPED, reason=f"it {describe_end(ended)}")
    if ended.cause is EndCause.EXITED:
        if not _has_failed(ended):
            return End(outcome=Outcome.DONE)
        return End(outcome=Outcome.FAILED, reason=f"it {describe_end(ended)}")
    if ended.cause is EndCause.START_FAILED:
        return End(outcome=Outcome.FAILED, reason=f"it {describe_end(ended)}")
    return End(outcome=Outcome.CRASHED, reason=f"it {describe_end(ended)}")


def _list_starts(record: SessionRecord) -> tuple[Start, ...]:
    """The starts on record, oldest first. The first one of all is the session's birth, which nobody had to note."""
    if record.starts or record.epoch > 2:
        return record.starts
    return (Start(at=record.created_at, epoch=1),)
