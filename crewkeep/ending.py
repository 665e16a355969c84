"""Ends sessions: ``stop`` with grace, ``kill`` at once. Returns when the whole tree is proven gone, or says what is left.

The order matters. First the record says ``stopping`` (by compare-and-swap), so that no keeper and no patrol takes the end
for a crash; then the tree is ended; then the keeper writes how it ended and leaves. A keeper that does not (dead, stopped,
hung) is ended as well, and the record is written here.

Invariants:
  - no signal goes to a process whose identity is not proven
  - a session that is started again meanwhile is stopped at its newest epoch
  - no file is removed
A disk that does not take the first step holds up no ending: then the tree is ended first, and its keeper held meanwhile.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from coordinator.config import KEEPER_ANSWER_S, Settings
from coordinator.errors import Busy, Conflict, CrewkeepError, StorageError
from coordinator.paths import Home
from coordinator.sessions.model import Hosting, Outcome, Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system import cgroup, processes
from coordinator.system.processes import Liveness, ProcessIdentity
from coordinator.system.tree import EndReport, end_tree
from crewkeep import control
from recovery.brake import End, Park
from recovery.reap import free_locks, name_group, reap_incarnation

#: A keeper has so long to write the end of its session after the tree is gone.
_KEEPER_END_S = 3.0
_LOOK_S = 0.01
#: A session that is started anew while it is being stopped is followed to its new epoch so often.
_TRIES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Leftover:
    """A process that could not be ended."""

    pid: int
    name: str
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EndResult:
    """What ending one session did."""

    id: str
    name: str
    #: Pids that were there and are proven gone.
    ended: tuple[int, ...] = ()
    left: tuple[Leftover, ...] = ()

    def encode(self) -> dict[str, object]:
        """Return the object of ``stop --json`` and ``kill --json``."""
        return {
            "id": self.id,
            "name": self.name,
            "ended": list(self.ended),
            "left": [{"pid": one.pid, "name": one.name, "why": one.why} for one in self.left],
        }


@dataclass(slots=True)
class _Tally:
    """What ended and what did not, over several passes."""

    ended: dict[int, None] = field(default_factory=dict)
    left: dict[int, Leftover] = field(default_factory=dict)

    def add(self, report: EndReport) -> None:
        for one in report.ended:
            self.ended[one.identity.pid] = None
            self.left.pop(one.identity.pid, None)
        for left in report.left:
            self.left[left.identity.pid] = Leftover(pid=left.identity.pid, name=left.name, why=left.why)

    def note_gone(self, identities: Iterable[ProcessIdentity]) -> None:
        for identity in identities:
            self.ended[identity.pid] = None


def stop_session(
    home: Home, registry: Registry, record: SessionRecord, *, grace_s: float, settings: Settings | None = None
) -> EndResult:
    """Ask the session's agent to end, wait ``grace_s``, end what is left of its tree, and say what happened.

    A checkpoint is taken first if the keeper answers. A session that has ended already gives an empty result. Raises
    ``StorageError``, ``Busy``, ``Conflict`` if it is started anew again and again.
    """
    return _end(home, registry, record, grace_s=grace_s, settings=settings or Settings())


def kill_session(home: Home, registry: Registry, record: SessionRecord, *, settings: Settings | None = None) -> EndResult:
    """End the session's whole tree at once. As ``stop_session`` without checkpoint and grace."""
    return _end(home, registry, record, grace_s=None, settings=settings or Settings())


def end_what_is_left(home: Home, registry: Registry, record: SessionRecord, decision: End | Park | None = None) -> EndResult:
    """End what a dead owner left, and write how the session ended: as decided, or ``stopped`` if it was being stopped.

    Raises as ``stop_session``.
    """
    tally = _Tally()
    _end_rest(home, record, tally, Settings().reap_timeout_s)
    _write_end(registry, record, tally, decision)
    return _result(record, tally)


def _end(home: Home, registry: Registry, record: SessionRecord, *, grace_s: float | None, settings: Settings) -> EndResult:
    tally = _Tally()
    if record.phase is Phase.ENDED:
        _end_rest(home, record, tally, settings.reap_timeout_s)
        return _result(record, tally)
    if record.phase is not Phase.STOPPING and grace_s is not None and _owner_can_answer(record):
        _ask_for_checkpoint(home, record)
    try:
        record = _mark_stopping(home, registry, record)
    except StorageError:
        record = _end_before_marking(home, registry, record, tally, settings.reap_timeout_s, grace_s or 0.0)
    if record.phase is Phase.ENDED:
        return _result(record, tally)
    _end_rest(home, record, tally, settings.reap_timeout_s, grace_s or 0.0)
    if not _wait_written(registry, record):
        _end_owner(record, tally, settings.reap_timeout_s)
        _end_rest(home, record, tally, settings.reap_timeout_s)
        _write_end(registry, record, tally, None)
    elif record.owner is not None and not processes.wait_gone(record.owner, _KEEPER_END_S):
        _end_owner(record, tally, settings.reap_timeout_s)
    return _result(record, tally)


def _mark_stopping(home: Home, registry: Registry, record: SessionRecord) -> SessionRecord:
    """Write that the session is being stopped, whatever its newest epoch; returns the record, which may have ended by itself.

    A stopped process of the session that holds its lock is killed: it would hold us up for ever.
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            free_locks(record, home, (), with_owner=True)
            return registry.change(
                record.id, epoch=record.epoch, change=lambda known: dataclasses.replace(known, phase=Phase.STOPPING, reason=None)
            )
        except (Conflict, Busy):
            record = registry.get(record.id)
            if record.phase is Phase.ENDED:
                return record
            if not tries_left:
                raise
    raise AssertionError("unreachable")


def _end_before_marking(
    home: Home, registry: Registry, record: SessionRecord, tally: _Tally, timeout_s: float, grace_s: float
) -> SessionRecord:
    """End the tree although the disk does not take that it is being stopped, since the tree may be what fills the disk; then
    write that again.

    The keeper is held meanwhile, so that it does not answer its agent's end by starting it anew. Raises ``StorageError`` that
    tells what was ended if the disk takes it no better now.
    """
    holds = record.hosting is Hosting.KEEPER and _owner_can_answer(record) and record.owner is not None
    if holds and record.owner is not None:
        processes.send_signal(record.owner, signal.SIGSTOP)
    try:
        _end_rest(home, record, tally, timeout_s, grace_s)
        return _mark_stopping(home, registry, record)
    except StorageError as error:
        raise StorageError(
            f"{record.name}: {len(tally.ended)} processes were ended, but {error.message}; when that can be done it starts again",
            hint=f"{error.hint}; to end it for good, then again: crewkeep kill {record.name}",
            operation=error.operation,
            path=error.path,
            cause=error.cause,
        ) from error
    finally:
        if holds and record.owner is not None:
            processes.send_signal(record.owner, signal.SIGCONT)


def _owner_can_answer(record: SessionRecord) -> bool:
    return processes.observe(record.owner) is Liveness.ALIVE


def _ask_for_checkpoint(home: Home, record: SessionRecord) -> None:
    try:
        control.request(home.session(record.id), "checkpoint", timeout_s=KEEPER_ANSWER_S)
    except (CrewkeepError, OSError):
        return  # a stop must not fail because a checkpoint could not be taken; the last one stands


def _end_rest(home: Home, record: SessionRecord, tally: _Tally, timeout_s: float, grace_s: float = 0.0) -> None:
    """End what belongs to the incarnation but its keeper: that one writes the end."""
    spare = [record.owner] if record.owner is not None and record.hosting is Hosting.KEEPER else []
    if grace_s > 0 or record.phase in (Phase.STARTING, Phase.RUNNING):
        group = cgroup.find_group(name_group(record.id, record.epoch))
        report = end_tree(
            # A keeper is its agent's subreaper: what forked away from the agent is below the keeper.
            roots=[one for one in (record.agent, record.owner) if one is not None],
            nonces=[record.nonce, *record.unreaped_nonces],
            cgroup=group,
            spare=spare,
            timeout_s=timeout_s,
            term_first=grace_s,
        )
        tally.add(report)
        if group is not None and not report.left:
            cgroup.remove(group)
    if record.phase not in (Phase.STARTING, Phase.RUNNING):
        tally.add(reap_incarnation(record, home, spare=spare, timeout_s=timeout_s))


def _end_owner(record: SessionRecord, tally: _Tally, timeout_s: float) -> None:
    """End a keeper that does not do it itself (stopped, hung); its own children that bear a role are not its tree."""
    if record.owner is None or processes.observe(record.owner).is_gone:
        return
    if processes.send_signal(record.owner, signal.SIGKILL) and processes.wait_gone(record.owner, timeout_s):
        tally.note_gone([record.owner])
    elif not processes.observe(record.owner).is_gone:
        pid = record.owner.pid
        tally.left[pid] = Leftover(pid=pid, name=processes.name_of(pid), why="it could not be killed")


def _wait_written(registry: Registry, record: SessionRecord) -> bool:
    """Wait until the keeper wrote the end; ``False`` if it is gone or does not."""
    deadline_s = time.monotonic() + _KEEPER_END_S
    while True:
        gone = processes.observe(record.owner) is not Liveness.ALIVE
        if registry.get(record.id).phase is Phase.ENDED:
            return True
        if gone or time.monotonic() >= deadline_s:
            return False
        time.sleep(_LOOK_S)


def _write_end(registry: Registry, record: SessionRecord, tally: _Tally, decision: End | Park | None) -> None:
    if tally.left:
        return  # not ended while something of it lives; the phase says what is being tried

    def end(known: SessionRecord) -> SessionRecord:
        if known.phase is Phase.ENDED:
            return known
        if isinstance(decision, Park) and known.phase is not Phase.STOPPING:
            return dataclasses.replace(
                known, phase=Phase.PARKED, reason=decision.reason, not_before_at=decision.until, agent=None, unreaped_nonces=()
            )
        outcome, reason = Outcome.STOPPED, None
        if isinstance(decision, End) and known.phase is not Phase.STOPPING:
            outcome, reason = decision.outcome, decision.reason
        return dataclasses.replace(
            known, phase=Phase.ENDED, outcome=outcome, reason=reason, unreaped_nonces=(), not_before_at=None
        )

    registry.change(record.id, epoch=record.epoch, change=end)


def _result(record: SessionRecord, tally: _Tally) -> EndResult:
    return EndResult(id=record.id, name=record.name, ended=tuple(tally.ended), left=tuple(tally.left.values()))
