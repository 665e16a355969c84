"""What a keeper decides and writes down: which step follows the agent's end, and how the record says so. Pure but for who we are.

Each ``note_`` returns the next record, or raises ``Conflict`` if the session took another way meanwhile.
"""

from __future__ import annotations

import dataclasses
import signal

from coordinator.config import Settings
from coordinator.errors import Conflict
from coordinator.services.features import Recovery
from coordinator.sessions.model import Hosting, Outcome, Phase, SessionRecord, Start
from coordinator.system.processes import identify_self
from crewkeep.keeper.agent_process import AgentProcess, ExitStatus
from recovery import brake
from recovery.brake import Decision, End, EndCause, Ended, Park

#: The signals that a terminal sends for a key, and how long after the key an agent's end is still put down to it.
_KEY_SIGNALS = (signal.SIGINT, signal.SIGQUIT)
_INTERRUPT_S = 5.0


def find_cause(status: ExitStatus, interrupted_s: float | None, now_s: float) -> EndCause:
    """Tell what ended the agent. ``interrupted_s`` is when somebody last typed an interrupt key, monotonic."""
    if status.exit_signal is None:
        return EndCause.EXITED
    by_key = interrupted_s is not None and now_s - interrupted_s < _INTERRUPT_S and status.exit_signal in _KEY_SIGNALS
    return EndCause.INTERRUPTED if by_key else EndCause.SIGNALLED


def choose(known: SessionRecord, ended: Ended, level: Recovery, now_s: float, settings: Settings) -> Decision:
    """Decide what follows: a stop wins, then what the restart policy and the brake say, unless recovery is turned down."""
    if known.phase is Phase.STOPPING:
        return End(outcome=Outcome.STOPPED)
    decision = brake.decide_restart(known, ended, now_s, settings)
    if level is not Recovery.ON and not isinstance(decision, End):
        reason = f"it {brake.describe_end(ended)}; not started again, since recovery is turned to {level}"
        return End(outcome=Outcome.CRASHED, reason=reason)
    return decision


def note_owner(known: SessionRecord, *, now_s: float) -> SessionRecord:
    """This keeper is the owner now."""
    if known.phase not in (Phase.STARTING, Phase.RECOVERING):
        raise Conflict(f"{known.name} is {known.phase} already", hint=f"crewkeep inspect {known.name}")
    if not known.starts:  # the first start of all; later ones are counted by who recovers
        known = dataclasses.replace(known, starts=(Start(at=now_s, epoch=known.epoch),))
    return dataclasses.replace(known, owner=identify_self(), agent=None, hosting=Hosting.KEEPER)


def note_running(known: SessionRecord, *, agent: AgentProcess, now_s: float) -> SessionRecord:
    """The agent runs."""
    if known.owner != identify_self():  # a second keeper of one epoch: whoever registered last goes on, the other leaves
        raise Conflict(f"{known.name} is kept by another process", hint=f"crewkeep inspect {known.name}")
    return dataclasses.replace(
        known, phase=Phase.RUNNING, agent=agent.identity, started_at=now_s, not_before_at=None, reason=None
    )


def note_pause(known: SessionRecord, *, start_at: float, reason: str) -> SessionRecord:
    """Nothing runs until ``start_at``; then this keeper starts the next incarnation, or whoever finds it dead."""
    return dataclasses.replace(known, phase=Phase.RECOVERING, recoverer=identify_self(), not_before_at=start_at, reason=reason)


def note_end(known: SessionRecord, *, decision: End | Park, status: ExitStatus) -> SessionRecord:
    """It has ended or is parked; a stop that came meanwhile makes it ``stopped``."""
    if known.phase is Phase.ENDED:
        return known
    known = dataclasses.replace(known, exit_code=status.exit_code, exit_signal=status.exit_signal, unreaped_nonces=())
    if known.phase is Phase.STOPPING:
        return dataclasses.replace(known, phase=Phase.ENDED, outcome=Outcome.STOPPED, reason=None, not_before_at=None)
    if isinstance(decision, Park):
        return dataclasses.replace(known, phase=Phase.PARKED, reason=decision.reason, not_before_at=decision.until)
    return dataclasses.replace(known, phase=Phase.ENDED, outcome=decision.outcome, reason=decision.reason, not_before_at=None)
