"""The agent's process while it runs: started on a terminal, read, written to, waited for, and ended with its whole tree.

The keeper is its parent and its tree's subreaper, so that the end of the agent, and of what it leaves behind, comes to the
keeper as to nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from coordinator.system import cgroup, processes, scan
from coordinator.system.clock import SYSTEM, Clock
from coordinator.system.processes import ProcessIdentity
from coordinator.system.terminal import Spawned
from coordinator.system.tree import EndReport, end_tree

#: An agent that leaves with 0 so soon and leaves processes behind has put itself into the background.
DAEMON_WINDOW_S = 2.0
_READ_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True, slots=True)
class ExitStatus:
    """How a process ended: by a code of its own or by a signal."""

    exit_code: int | None = None
    exit_signal: int | None = None

    @classmethod
    def of(cls, status: int) -> ExitStatus:
        """Read what ``waitpid`` returned."""
        if os.WIFSIGNALED(status):
            return cls(exit_signal=os.WTERMSIG(status))
        return cls(exit_code=os.WEXITSTATUS(status))


class AgentProcess:
    """One incarnation's agent."""

    def __init__(self, spawned: Spawned, *, nonce: str, group: Path | None, clock: Clock = SYSTEM) -> None:
        self.identity: ProcessIdentity = spawned.identity
        self.master_fd: int = spawned.master_fd
        self._nonce, self._group, self._clock = nonce, group, clock
        self._started_s = clock.monotonic_s()
        self._closed = False
        os.set_blocking(self.master_fd, False)

    @property
    def age_s(self) -> float:
        """Seconds since its start."""
        return self._clock.monotonic_s() - self._started_s

    def read(self) -> bytes | None:
        """Return what it printed; empty if nothing is there now, ``None`` when its terminal has no other end any more."""
        try:
            return os.read(self.master_fd, _READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:  # EIO: every process has closed the other end
            return None

    def write(self, data: bytes) -> int:
        """Type ``data``; return how much of it was taken."""
        try:
            return os.write(self.master_fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            return len(data)  # nobody is there to read it

    def collect(self) -> ExitStatus | None:
        """Return how it ended, ``None`` while it lives. Reaps it."""
        try:
            pid, status = os.waitpid(self.identity.pid, os.WNOHANG)
        except ChildProcessError:
            # Adopted, and not our child after all: its end can be seen, its code cannot.
            return ExitStatus(exit_code=0) if processes.observe(self.identity).is_gone else None
        return ExitStatus.of(status) if pid else None

    def adopt_background(self) -> bool:
        """Take the eldest of the processes it left behind for the agent; ``False`` if it left none."""
        living = [identity for identity in self._list_rest() if not processes.observe(identity).is_gone]
        if not living:
            return False
        self.identity = min(living, key=lambda identity: (identity.start_ticks, identity.pid))
        return True

    def list_tree(self) -> list[ProcessIdentity]:
        """Return the agent and everything below it."""
        return [self.identity, *scan.descendants_of(self.identity)]

    def end(self, timeout_s: float, *, nonces: Collection[str] = (), term_first_s: float = 0.0) -> EndReport:
        """End the whole tree, whatever of it still lives; the report says what ended and what did not."""
        report = end_tree(
            roots=[self.identity, processes.identify_self()],
            nonces={self._nonce, *nonces},
            cgroup=self._group,
            timeout_s=timeout_s,
            term_first=term_first_s,
        )
        if self._group is not None and not report.left:
            cgroup.remove(self._group)
        return report

    def close(self) -> None:
        """Give back the terminal."""
        if not self._closed:
            self._closed = True
            os.close(self.master_fd)

    def _list_rest(self) -> list[ProcessIdentity]:
        """Return what the agent left behind: marked by its nonce, or adopted by us and not crewkeep's own."""
        rest = dict.fromkeys(scan.find_marked([self._nonce]))
        for pid in scan.children_of(os.getpid()):
            raw = scan.read_raw_environment(pid)
            # One without any is in the middle of an exec, and may be a patrol, unless it was started so.
            is_other = not scan.is_own_process(raw) if raw else scan.has_bare_environment(pid)
            if is_other and (identity := processes.identify(pid)) is not None:
                rest[identity] = None
        return list(rest)


def reap_adopted(agent: AgentProcess | None) -> None:
    """Take away every zombie below us but the agent's, whose status is still wanted."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or (agent is not None and found.si_pid == agent.identity.pid):
            return
        os.waitpid(found.si_pid, os.WNOHANG)
