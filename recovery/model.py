"""What recovery sees, concludes and means to do: evidence, findings, diagnosis, plan. Pure and frozen.

Invariants:
  - a verdict is one of a closed set, and each comes with the evidence of all five layers
  - nothing here says "dead" without a proof: ``Liveness.UNKNOWN`` and ``Verdict.UNKNOWN`` never lead to a signal
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from coordinator.sessions.model import Beat, SessionRecord
from coordinator.system.processes import Liveness


class Verdict(StrEnum):
    """The answer of one layer, and of the cascade."""

    HEALTHY = "HEALTHY"
    STARTING = "STARTING"
    #: Stopped, frozen, or the machine has just woken.
    SUSPENDED = "SUSPENDED"
    #: Alive without a sign of life.
    HUNG = "HUNG"
    CRASHED = "CRASHED"
    CORRUPT = "CORRUPT"
    DISK_FAULT = "DISK_FAULT"
    ORPHANED = "ORPHANED"
    #: A newer incarnation holds the session.
    SUPERSEDED = "SUPERSEDED"
    #: It cannot be told from here. Never a reason to act.
    UNKNOWN = "UNKNOWN"


class Layer(StrEnum):
    """The five stages, in the order in which the cascade trusts them."""

    PID = "pid"
    HEARTBEAT = "heartbeat"
    INTEGRITY = "integrity"
    DISK = "disk"
    ORPHAN = "orphan"


class OrphanKind(StrEnum):
    """What is left without what it belongs to."""

    AGENT_WITHOUT_KEEPER = "agent without keeper"
    PROCESS_WITHOUT_RECORD = "process without record"
    FILES_WITHOUT_RECORD = "files without record"
    RECORD_WITHOUT_ANYTHING = "record without anything"


class Presence(StrEnum):
    """Whether a file that is looked for is there and whole."""

    WHOLE = "whole"
    #: Not there, and nothing says that it should be.
    ABSENT = "absent"
    DAMAGED = "damaged"
    #: Written by a newer crewkeep: left alone, never repaired.
    TOO_NEW = "too-new"
    #: The file system did not let us look.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileSight:
    """What one file of a session turned out to be."""

    #: ``record``, ``launch``, ``heartbeat``, ``journal``, ``checkpoint 7``, ``transcript``.
    name: str
    presence: Presence
    #: For people, and one word of ``errors.Damaged.reason`` first where it is damaged.
    detail: str = ""
    path: str = ""
    #: Damaged in a way that its own writer mends or nobody misses (the torn tail of a log): told, not judged.
    harmless: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class DiskSight:
    """What the file system below the session's directory did when it was tried."""

    free_bytes: int | None = None
    free_inodes: int | None = None
    #: Whether a probe file was written, made durable, renamed and removed; ``None`` if it was not tried.
    probed: bool | None = None
    #: Name of the errno met, ``TIMEOUT`` for a file system that does not answer; ``None`` if none.
    cause: str | None = None
    #: What was being done: look, write, make durable, rename, remove.
    operation: str | None = None
    path: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessSight:
    """A process seen, by pid and name (for people; acts go by identity)."""

    pid: int
    name: str = ""
    #: Epoch that its environment names, if it could be read.
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSight:
    """One checkpoint, as far as detection needs to know it."""

    number: int
    whole: bool
    damage: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """Everything the judges may look at. Times are seconds; ``now_*`` were read after everything else."""

    session: str
    record: SessionRecord | None = None
    owner: Liveness = Liveness.NONE
    agent: Liveness = Liveness.NONE
    recoverer: Liveness = Liveness.NONE
    #: The owner is the process that asks: a keeper recovering its own agent.
    owner_is_self: bool = False
    #: The recoverer on record is the process that asks: its own pause before a start is over.
    recoverer_is_self: bool = False
    #: The epoch that the asker believes in, if it has one.
    expected_epoch: int | None = None
    beat: Beat | None = None
    boot_id: str = ""
    now_wall_s: float = 0.0
    now_monotonic_s: float = 0.0
    now_boottime_s: float = 0.0
    heartbeat_interval_s: float = 1.0
    lease_s: float = 5.0
    hang_after_s: float = 30.0
    start_timeout_s: float = 20.0
    files: tuple[FileSight, ...] = ()
    #: Newest first; only those that were looked at.
    checkpoints: tuple[CheckpointSight, ...] = ()
    disk: DiskSight = DiskSight()
    #: Living processes that carry a nonce of this session.
    marked: tuple[ProcessSight, ...] = ()
    #: Those of them that carry one of an earlier incarnation.
    unreaped: tuple[ProcessSight, ...] = ()
    #: The session that started this one is not registered any more.
    parent_missing: bool = False
    #: The incarnation is known to have brought its work further (looked for only where its owner is gone).
    fruitful: bool = False
    #: The session's directory is there.
    has_directory: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One layer's verdict, why, and what it rests on."""

    layer: Layer
    verdict: Verdict
    #: Begins with a word of the layer's closed set (``exited``, ``zombie``, ``stale`` ...).
    reason: str
    #: JSON; for people and scripts.
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosis:
    """The cascade's verdict with the findings of all five layers."""

    session: str
    verdict: Verdict
    reason: str
    #: Always five, in the order of ``Layer``.
    findings: tuple[Finding, ...]
    #: What was or would be done, in a phrase.
    action: str

    def get_finding(self, layer: Layer) -> Finding:
        """Return the layer's finding."""
        return self.findings[list(Layer).index(layer)]


def encode_diagnosis(diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the ``why --json`` object."""
    return {
        "session": diagnosis.session,
        "verdict": str(diagnosis.verdict),
        "reason": diagnosis.reason,
        "layers": [
            {"layer": str(one.layer), "finding": str(one.verdict), "reason": one.reason, "evidence": one.evidence}
            for one in diagnosis.findings
        ],
        "action": diagnosis.action,
    }


class ActionKind(StrEnum):
    """What recovery can do. Each is idempotent."""

    NOTHING = "nothing"
    RAISE_EPOCH = "raise-epoch"
    FENCE_CONTEXT = "fence-context"
    REAP = "reap"
    RESTORE_CHECKPOINT = "restore-checkpoint"
    START = "start"
    VERIFY = "verify"
    JOURNAL = "journal"
    PARK = "park"
    END = "end"


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One act of a plan."""

    kind: ActionKind
    #: Number of the checkpoint, the epoch, or the reason: what the kind needs.
    argument: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.argument}".rstrip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The ordered acts that would bring one session back, or why there are none."""

    session: str
    name: str
    verdict: Verdict
    reason: str
    actions: tuple[Action, ...]
    #: Why acting is refused for safety; ``force`` overrules it.
    refused: str | None = None
    checkpoint: int | None = None

    @property
    def acts(self) -> bool:
        """Whether carrying it out starts anything."""
        return self.refused is None and any(action.kind is ActionKind.RAISE_EPOCH for action in self.actions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Stray:
    """Something of this home that belongs to no session."""

    kind: OrphanKind
    #: The session id that it names, as far as one can tell.
    session: str | None
    #: What was found: a path, or a pid and a name.
    what: str
    pid: int | None = None
    path: str | None = None
    age_s: float | None = None
