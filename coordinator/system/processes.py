"""Processes by proven identity: who it is, whether it lives, and a way to signal it and nobody else.

A bare pid identifies nothing: pids are reused, within one clock tick if need be. An identity is the pid with its start
time in ticks, the boot, the pid namespace and, where the kernel has pidfs (Linux 6.9), the inode of its pidfd, which is
unique for a boot.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Liveness(StrEnum):
    """What was found where a process should be."""

    ALIVE = "alive"
    #: Alive, but stopped or frozen.
    STOPPED = "stopped"
    EXITED = "exited"
    ZOMBIE = "zombie"
    #: The pid belongs to somebody else now.
    REUSED = "reused"
    #: The machine was started anew since.
    REBOOTED = "rebooted"
    #: It cannot be told from here (another pid namespace, no permission to look).
    UNKNOWN = "unknown"
    #: There was never a process to look for.
    NONE = "none"

    @property
    def is_gone(self) -> bool:
        """Proven not to act any more. Unknown is not gone."""
        return self in (Liveness.EXITED, Liveness.ZOMBIE, Liveness.REUSED, Liveness.REBOOTED, Liveness.NONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """Which process, for ever."""

    pid: int
    #: Clock ticks since boot (field 22 of /proc/PID/stat); microseconds since 1970 on macOS.
    start_ticks: int
    boot_id: str
    #: 0 where the system has no pid namespaces.
    pid_namespace: int = 0
    #: Inode of its pidfd, ``None`` before Linux 6.9 and elsewhere.
    pidfd_inode: int | None = None

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> ProcessIdentity:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        identity = cls(**{item.name: body[item.name] for item in dataclasses.fields(cls) if item.name in body})
        if not all(isinstance(number, int) for number in (identity.pid, identity.start_ticks)) or identity.pid < 1:
            raise ValueError("identity")
        return identity
