"""What is known of a session, and the state that follows from it. Pure.

The record holds durable facts only. Its ``phase`` is what was last *decided* about the session; its *state*, which people
see, is derived from the record and from what was observed just now (``derive_state``).

Invariants:
  - ``epoch`` starts at 1 and only rises; each start or recovery raises it first
  - ``version`` rises by one with each write of the record
  - phases move only along ``TRANSITIONS``
  - an interrupted session is never ``ended`` with ``done``
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator.system.processes import Liveness, ProcessIdentity

RECORD_KIND, RECORD_FORMAT = "session", 1
LAUNCH_KIND, LAUNCH_FORMAT = "launch", 1


class Restart(StrEnum):
    """What leads to another start by itself."""

    NEVER = "never"
    ON_CRASH = "on-crash"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"


class Phase(StrEnum):
    """What was last decided about a session."""

    STARTING = "starting"
    RUNNING = "running"
    RECOVERING = "recovering"
    PARKED = "parked"
    STOPPING = "stopping"
    ENDED = "ended"


TRANSITIONS: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset(Phase) - {Phase.STARTING},
    Phase.RUNNING: frozenset(Phase) - {Phase.STARTING},
    Phase.RECOVERING: frozenset(Phase) - {Phase.STARTING},
    Phase.PARKED: frozenset({Phase.PARKED, Phase.RECOVERING, Phase.STOPPING, Phase.ENDED}),
    Phase.STOPPING: frozenset({Phase.STOPPING, Phase.ENDED, Phase.RECOVERING}),
    Phase.ENDED: frozenset({Phase.ENDED, Phase.RECOVERING}),
}


class Outcome(StrEnum):
    """How an ended session ended."""

    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"
    CRASHED = "crashed"


class State(StrEnum):
    """What people see; ``waiting`` sorts first."""

    WAITING = "waiting"
    CRASHED = "crashed"
    HUNG = "hung"
    RECOVERING = "recovering"
    STARTING = "starting"
    WORKING = "working"
    IDLE = "idle"
    PARKED = "parked"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    DONE = "done"


#: States in which nothing more will happen by itself.
FINAL_STATES = frozenset({State.STOPPED, State.FAILED, State.DONE, State.CRASHED, State.PARKED})


class Hosting(StrEnum):
    """Which process carries the coordinator thread."""

    #: A keeper that owns an agent's terminal and process tree.
    KEEPER = "keeper"
    #: A Python program that called ``Session.start``.
    PROGRAM = "program"


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchSpec:
    """All it takes to start the agent again as it was. Secrets are named, never held."""

    argv: tuple[str, ...]
    #: Absolute.
    cwd: str
    #: Without any variable for which ``config.is_secret`` holds.
    environment: dict[str, str]
    #: Variables taken from the recovering environment; if one is missing there, the session parks and names it.
    secret_names: tuple[str, ...] = ()
    #: The adapter's name: ``generic``, ``codex``.
    agent: str = "generic"
    #: The agent's own permission mode as its flags said it; a resume never asks for more.
    permission_mode: str | None = None

    def encode(self) -> dict[str, Any]:
        return _fields(self)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> LaunchSpec:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        known = _known(cls, body)
        known["argv"] = _strings(known["argv"])
        known["secret_names"] = _strings(known.get("secret_names", ()))
        if not known["argv"] or not isinstance(known["cwd"], str) or not isinstance(known["environment"], dict):
            raise ValueError("launch")
        return cls(**known)


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """One start of the agent, for the brake on crash loops."""

    at: float
    epoch: int
    #: Whether the incarnation brought the work further (a commit, a checkpoint of its own, a longer transcript).
    fruitful: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class SessionRecord:
    """The durable facts of one session. Times are wall-clock seconds since 1970."""

    id: str
    name: str
    workspace: str
    hosting: Hosting
    command: tuple[str, ...]
    cwd: str
    agent_name: str
    restart: Restart
    created_at: float
    version: int = 1
    epoch: int = 1
    phase: Phase = Phase.STARTING
    #: The mark that this incarnation's processes inherit as ``CREWKEEP_NONCE``.
    nonce: str
    #: Marks of earlier incarnations that have not yet been proven gone.
    unreaped_nonces: tuple[str, ...] = ()
    #: The keeper, or the program itself; ``None`` until it has registered.
    owner: ProcessIdentity | None = None
    agent: ProcessIdentity | None = None
    #: Who raised the epoch last; matters while ``phase`` is ``recovering``.
    recoverer: ProcessIdentity | None = None
    #: The start of this incarnation; ``None`` until the agent runs.
    started_at: float | None = None
    #: When ``phase`` last changed.
    phase_at: float
    restarts: int = 0
    #: Starts within the crash-loop window, oldest first.
    starts: tuple[Start, ...] = ()
    #: No start before this time (a growing delay, a parked session's known end).
    not_before_at: float | None = None
    outcome: Outcome | None = None
    #: Why the session is parked, failed, crashed or being recovered: a sentence for people.
    reason: str | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    #: Number of the checkpoint that this incarnation was restored from.
    restored_from: int | None = None
    #: The session that started this one, if any.
    parent: str | None = None
    #: Other workspaces whose contexts this session has opened to write; all are fenced at recovery.
    other_workspaces: tuple[str, ...] = ()

    @property
    def resumes_at(self) -> float | None:
        """When a parked session goes on by itself, wall-clock seconds; ``None`` if it does not."""
        return self.not_before_at if self.phase is Phase.PARKED else None

    @property
    def writer(self) -> Writer:
        """By what right this incarnation writes."""
        return Writer(session=self.id, name=self.name, epoch=self.epoch)

    def encode(self) -> dict[str, Any]:
        body = _fields(self)
        for name in ("owner", "agent", "recoverer"):
            if body[name] is not None:
                body[name] = body[name].encode()
        body["starts"] = [_fields(start) for start in self.starts]
        return body

    @classmethod
    def decode(cls, body: dict[str, Any]) -> SessionRecord:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        known = _known(cls, body)
        for name, kind in (("hosting", Hosting), ("restart", Restart), ("phase", Phase), ("outcome", Outcome)):
            if known.get(name) is not None:
                known[name] = kind(known[name])
        for name in ("owner", "agent", "recoverer"):
            if known.get(name) is not None:
                known[name] = ProcessIdentity.decode(known[name])
        for name in ("command", "unreaped_nonces", "other_workspaces"):
            known[name] = _strings(known.get(name, ()))
        known["starts"] = tuple(Start(**_known(Start, start)) for start in known.get("starts", ()))
        for names, kinds in _FIELD_TYPES:
            for name in names:
                if name in known and (not isinstance(known[name], kinds) or isinstance(known[name], bool)):
                    raise ValueError(name)
        if known["version"] < 1 or known["epoch"] < 1:
            raise ValueError("version or epoch")
        return cls(**known)


#: What a record's plain fields must be; the others are checked by being built.
_FIELD_TYPES: tuple[tuple[tuple[str, ...], tuple[type, ...]], ...] = (
    (("id", "name", "workspace", "cwd", "agent_name", "nonce"), (str,)),
    (("created_at", "phase_at"), (int, float)),
    (("version", "epoch", "restarts"), (int,)),
    (("started_at", "not_before_at"), (int, float, type(None))),
    (("exit_code", "exit_signal", "restored_from"), (int, type(None))),
    (("reason", "parent"), (str, type(None))),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """By what right somebody writes: a session at an epoch. Without one, a write is unnamed and never fenced."""

    session: str
    name: str
    epoch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """One heartbeat. Monotonic and boot times are seconds, comparable within ``boot_id``."""

    session: str
    epoch: int
    seq: int
    boot_id: str
    monotonic_s: float
    boottime_s: float
    wall_s: float
    #: Rises with every observed sign of the agent's own work (output, transcript, context, hook).
    progress_count: int
    progress_monotonic_s: float
    progress_wall_s: float
    #: The agent waits for input at its terminal.
    at_prompt: bool = False
    #: The agent waits for the user's decision (an adapter saw it).
    needs_user: bool = False
    #: The incarnation brought the work further (see ``Start.fruitful``); outlives the process that saw it.
    fruitful: bool = False
    #: Bytes of output since the session's birth.
    output_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sight:
    """What was observed of a session just now."""

    owner: Liveness
    agent: Liveness
    recoverer: Liveness = Liveness.NONE
    beat: Beat | None = None
    #: Age of the beat, ``None`` if there is none or it cannot be judged (another boot).
    beat_age_s: float | None = None
    #: Time since the agent's last progress.
    progress_age_s: float | None = None


def derive_state(
    record: SessionRecord,
    sight: Sight,
    *,
    lease_s: float,
    quiet_after_s: float,
    hang_after_s: float,
    now_s: float,
    start_timeout_s: float,
) -> tuple[State, str | None]:
    """Return the state and, where there is one, the reason. Total: every record and sight has an answer."""
    if record.phase is Phase.ENDED:
        return State(record.outcome or Outcome.CRASHED), record.reason
    if record.phase is Phase.PARKED:
        return State.PARKED, record.reason
    if record.phase is Phase.STOPPING:
        if sight.owner.is_gone and sight.agent.is_gone:
            return State.STOPPED, record.reason
        return State.STOPPING, record.reason
    if record.phase is Phase.RECOVERING:
        if sight.recoverer.is_gone and sight.owner.is_gone and now_s - record.phase_at > start_timeout_s:
            return State.CRASHED, "its recovery was interrupted"
        return State.RECOVERING, record.reason
    if record.phase is Phase.STARTING and (record.owner is None or (record.agent is None and not sight.owner.is_gone)):
        if now_s - record.phase_at > start_timeout_s:
            return State.CRASHED, "its start was interrupted"
        return State.STARTING, None
    return _derive_running(record, sight, lease_s=lease_s, quiet_after_s=quiet_after_s, hang_after_s=hang_after_s)


def _derive_running(
    record: SessionRecord, sight: Sight, *, lease_s: float, quiet_after_s: float, hang_after_s: float
) -> tuple[State, str | None]:
    what = "keeper" if record.hosting is Hosting.KEEPER else "program"
    if sight.owner.is_gone:
        return State.CRASHED, f"its {what} is gone ({sight.owner})"
    if sight.owner is Liveness.STOPPED:
        return State.HUNG, f"its {what} is stopped"
    if sight.agent is Liveness.STOPPED:
        return State.HUNG, "its agent is stopped"
    if record.hosting is Hosting.KEEPER and sight.agent.is_gone and sight.beat_age_s is not None and sight.beat_age_s > lease_s:
        return State.CRASHED, f"its agent is gone ({sight.agent})"
    if sight.beat_age_s is not None and sight.beat_age_s > lease_s:
        return State.HUNG, f"no heartbeat for {sight.beat_age_s:.0f} s"
    if sight.beat is not None and sight.beat.needs_user:
        return State.WAITING, "needs the user"
    quiet_s = sight.progress_age_s
    if quiet_s is None or quiet_s < quiet_after_s:
        return State.WORKING, None
    if sight.beat is not None and sight.beat.at_prompt:
        return State.IDLE, None
    if quiet_s >= hang_after_s:
        return State.HUNG, f"no progress for {quiet_s:.0f} s"
    return State.WORKING, None


def _fields(item: Any) -> dict[str, Any]:
    """Return a dataclass's fields and their values, as they are: what is written at once needs no copies."""
    return {name: getattr(item, name) for name in item.__dataclass_fields__}


def _known(cls: Any, body: dict[str, Any]) -> dict[str, Any]:
    names = cls.__dataclass_fields__
    return {name: value for name, value in body.items() if name in names}


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(part, str) for part in value):
        raise ValueError("a list of text")
    return tuple(value)
