"""Ending a whole tree of processes: everything that is proven to belong to it, and nobody else.

A process belongs to the tree by one of these, each looked at again *after* its pidfd was opened:
  - it is a root, or the child of a member that still holds its pid
  - its OS session is led by a member that still holds its pid
  - it is in the tree's control group
  - it was started with the tree's nonce in its environment
A descendant that was started with *another* incarnation's nonce, or as a keeper or patrol, is a stranger, and so is
everything below it: a session that was started from inside a session is a session of its own.

Each member is stopped the moment it is found, so that it cannot fork while the rest is looked for; looking goes on until
it finds nobody new. Then all are killed, the latest found first (a parent that dies before its stopped children would
make the kernel let them run), and the looking begins anew, until two looks in a row find nothing alive.

Invariants: a signal goes only through a pidfd proven as above, or to a control group whose every member is proven;
never to this process, never to who is to be spared. A zombie counts as ended.
Not promised: finding a process that left its control group (or never had one), whose ancestors are all dead and that
started itself anew without its environment, when no subreaper is alive to have inherited it.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import Busy, Unsupported
from coordinator.system import cgroup as cgroups
from coordinator.system import processes, scan
from coordinator.system.processes import Liveness, ProcessIdentity
from coordinator.system.procfs import Stat, read_stat

#: Between two looks that found nothing: an exec shows an empty environment for a moment.
_PAUSE_S = 0.01
#: The longest wait for killed processes before looking again.
_WAIT_S = 0.25
#: New members of a tree that is asked to end are looked for so often.
_ASK_AGAIN_S = 0.1
_EMPTY_LOOKS = 2
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """A process of the tree that was alive and is gone."""

    identity: ProcessIdentity
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """A process of the tree that could not be ended."""

    identity: ProcessIdentity
    name: str
    #: For people: what stands in the way.
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class EndReport:
    """What became of a tree. It is proven gone if nothing is left."""

    ended: tuple[Ended, ...]
    left: tuple[Left, ...]


def end_tree(
    *,
    roots: Sequence[ProcessIdentity],
    nonces: Collection[str],
    cgroup: Path | None = None,
    spare: Collection[ProcessIdentity] = (),
    timeout_s: float,
    term_first: float = 0.0,
) -> EndReport:
    """End every process of the tree and say which ended and which did not.

    ``roots`` may hold this very process: then all its descendants belong to the tree and it does not; a subreaper finds
    by that what forked away from its agent. Nobody is looked for below a process of ``spare``, unless it is a root.
    With ``term_first`` all get SIGTERM and SIGCONT and so many seconds to end by themselves. ``timeout_s`` is for the
    rest. Returns early as soon as the tree is proven gone. Raises ``Busy`` when out of descriptors to the end.
    """
    hunt = _Hunt(roots, nonces, cgroup, spare)
    try:
        if term_first > 0:
            hunt.ask(time.monotonic() + term_first)
        deadline_s = time.monotonic() + timeout_s
        empty = 0
        while empty < _EMPTY_LOOKS and time.monotonic() < deadline_s:
            hunt.look(stop=True)
            if hunt.is_anybody_alive():
                empty = 0
                while hunt.look(stop=True) and time.monotonic() < deadline_s:
                    pass  # somebody new was found and stopped; his children may be new as well
                hunt.kill()
                hunt.wait(min(_WAIT_S, deadline_s - time.monotonic()))
            else:
                empty += 1
                if empty < _EMPTY_LOOKS:
                    time.sleep(_PAUSE_S)
        if empty < _EMPTY_LOOKS:
            hunt.look(stop=True)  # so that who is new since the last look is named as left
        return hunt.report()
    finally:
        hunt.close()


class _Member:
    """A process proven to belong to the tree, held by its pidfd (where there are any)."""

    def __init__(self, identity: ProcessIdentity, fd: int | None, name: str) -> None:
        self.identity, self.fd, self.name = identity, fd, name
        self.was_alive = not self.is_ended()
        self.is_denied = False

    def is_ended(self) -> bool:
        return processes.observe(self.identity).is_gone if self.fd is None else processes.is_ended(self.fd)

    def holds_pid(self) -> bool:
        if self.fd is None:
            return processes.start_ticks(self.identity.pid) == self.identity.start_ticks
        return processes.holds_pid(self.fd)

    def send(self, *numbers: int) -> None:
        try:
            for number in numbers:
                if self.fd is None:
                    processes.send_signal(self.identity, number)
                else:
                    signal.pidfd_send_signal(self.fd, number)
        except ProcessLookupError:
            return
        except PermissionError:
            self.is_denied = True

    def close(self) -> None:
        if self.fd is not None:
            os.close(self.fd)


class _Hunt:
    """The members found so far, in the order of finding: a parent stands before its children."""

    def __init__(
        self, roots: Sequence[ProcessIdentity], nonces: Collection[str], cgroup: Path | None, spare: Collection[ProcessIdentity]
    ) -> None:
        self._sparing = (processes.identify_self(), *spare)
        self._nonces = frozenset(nonces) - {""}
        self._cgroup = cgroup if cgroup is not None and cgroups.is_ours(cgroup) else None
        self._spared = self._find_spared()
        self._members: list[_Member] = []
        self._ended: list[Ended] = []
        self._unseen: list[ProcessIdentity] = []
        #: Roots that are not to be ended themselves, only what is below them.
        self._above: list[_Member] = []
        self._has_room = True
        for root in roots:
            self._add_root(root)

    def _find_spared(self) -> set[int]:
        """Return the pids that may not be touched now; one that was given away since is nobody's shelter."""
        return {who.pid for who in self._sparing if not processes.observe(who).is_gone}

    def _add_root(self, root: ProcessIdentity) -> None:
        try:
            fd = processes.open_pinned(root)
        except Unsupported:
            fd = None
            if processes.observe(root).is_gone:
                return
        if fd is None and processes.observe(root) is Liveness.UNKNOWN:
            self._unseen.append(root)
        if fd is None and processes.observe(root) not in (Liveness.ALIVE, Liveness.STOPPED):
            return
        member = _Member(root, fd, processes.name_of(root.pid))
        (self._above if root.pid in self._spared else self._members).append(member)

    def is_anybody_alive(self) -> bool:
        """Tell whether a member lives that we may end; also if there was no room to look at all of them."""
        return not self._has_room or any(not member.is_denied and not member.is_ended() for member in self._members)

    def ask(self, deadline_s: float) -> None:
        """Send SIGTERM once to each member, and SIGCONT, since a stopped one would not hear it; wait for their end."""
        asked: set[_Member] = set()
        while True:
            self.look(stop=False)
            for member in self._members:
                if member not in asked:
                    member.send(signal.SIGTERM, signal.SIGCONT)
                    asked.add(member)
            rest_s = deadline_s - time.monotonic()
            if rest_s <= 0 or not self.is_anybody_alive():
                return
            self.wait(min(rest_s, _ASK_AGAIN_S))

    def look(self, *, stop: bool) -> bool:
        """Add every process that is now proven to belong, stopping it at once if ``stop``; tell whether there was one."""
        self._spared = self._find_spared()
        self._let_go(everybody=not self._has_room)
        before = len(self._members)
        if stop:
            for member in self._members:
                if not member.is_ended():
                    member.send(signal.SIGSTOP)
        self._has_room = True
        try:
            self._look(stop)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            self._has_room = False  # killing those we have makes room; then the look is taken again
            return False
        return len(self._members) > before

    def _let_go(self, *, everybody: bool) -> None:
        """Close the pidfds of members that ended. A zombie is kept if there is room: its pid still names its OS session."""
        kept = []
        for member in self._members:
            if member.is_ended() and (everybody or not member.holds_pid()):
                self._note(member)
                member.close()
            else:
                kept.append(member)
        self._members = kept

    def _note(self, member: _Member) -> None:
        if member.was_alive:
            self._ended.append(Ended(identity=member.identity, name=member.name))

    def _look(self, stop: bool) -> None:
        # Who holds its pid *after* the table was read held it while it was read: then the table speaks of it.
        table = scan.read_table()
        families: dict[int, list[Stat]] = {}
        sessions: dict[int, list[Stat]] = {}
        for row in table.values():
            families.setdefault(row.parent, []).append(row)
            sessions.setdefault(row.session, []).append(row)
        known = {member.identity.pid for member in self._members if member.holds_pid()} | self._spared
        queue = [member for member in (*self._above, *self._members) if member.holds_pid()]
        for pid in self._find_marked(table, known):
            self._add(pid, known, queue, stop, by_mark=True)
        while queue:
            member = queue.pop(0)
            pid = member.identity.pid
            relatives = list(families.get(pid, ()))
            if pid in table and table[pid].session == pid and member not in self._above:
                relatives += sessions.get(pid, ())
            for row in relatives:
                self._add(row.pid, known, queue, stop, relative=member)

    def _find_marked(self, table: dict[int, Stat], known: Collection[int]) -> list[int]:
        found = [pid for pid in cgroups.members(self._cgroup) if pid not in known] if self._cgroup is not None else []
        if self._nonces:
            found += [
                pid
                for pid, row in table.items()
                if pid not in known and row.state not in "ZX" and self._has_mark(scan.read_raw_environment(pid))
            ]
        return found

    def _add(
        self,
        pid: int,
        known: set[int],
        queue: list[_Member],
        stop: bool,
        *,
        by_mark: bool = False,
        relative: _Member | None = None,
    ) -> None:
        """Open the process, prove that it belongs, and only then take it in."""
        if pid in known:
            return
        identity = processes.identify(pid)
        if identity is None:
            return
        try:
            fd = processes.open_proven(identity)
            if fd is None:
                return
        except Unsupported:
            fd = None
        member = _Member(identity, fd, "")
        # From here on the pid is read again, and believed only if the pidfd still holds it afterwards.
        row = read_stat(pid)
        if row is None or not self._belongs(row, by_mark, relative) or not member.holds_pid():
            member.close()
            return
        member.name = row.name
        if stop:
            member.send(signal.SIGSTOP)
        self._members.append(member)
        known.add(pid)
        queue.append(member)

    def _belongs(self, row: Stat, by_mark: bool, relative: _Member | None) -> bool:
        environment = scan.read_raw_environment(row.pid)
        if by_mark:
            return self._has_mark(environment) or (self._is_in_group(row.pid) and not self._is_strange(environment))
        assert relative is not None
        by_family = row.parent == relative.identity.pid
        by_session = row.session == relative.identity.pid and relative not in self._above
        return (by_family or by_session) and relative.holds_pid() and not self._is_strange(environment)

    def _has_mark(self, environment: bytes | None) -> bool:
        return not self._nonces.isdisjoint(scan.nonces_in(environment))

    def _is_strange(self, environment: bytes | None) -> bool:
        marks = scan.nonces_in(environment)
        return scan.is_own_process(environment) or (bool(self._nonces) and bool(marks) and self._nonces.isdisjoint(marks))

    def _is_in_group(self, pid: int) -> bool:
        group = cgroups.group_of(pid)
        return self._cgroup is not None and group is not None and (group == self._cgroup or self._cgroup in group.parents)

    def kill(self) -> None:
        """Kill every member."""
        if self._cgroup is not None and self._is_all_ours(self._cgroup):
            cgroups.kill(self._cgroup)  # what forks at this very moment goes too
        for member in reversed(self._members):
            if not member.is_ended():
                member.send(signal.SIGKILL)

    def _is_all_ours(self, group: Path) -> bool:
        known = {member.identity.pid for member in self._members if member.holds_pid()}
        inside = [pid for pid in cgroups.members(group) if pid not in known]
        return not any(pid in self._spared or self._is_strange(scan.read_raw_environment(pid)) for pid in inside)

    def wait(self, timeout_s: float) -> None:
        """Wait until all have ended, without looking again and again; at most ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        waiting = {member.fd: member for member in self._members if not member.is_denied and not member.is_ended()}
        if not self._has_room and not waiting:
            time.sleep(_PAUSE_S)  # what others give back is all that helps
        if None in waiting:
            while time.monotonic() < deadline_s and not all(member.is_ended() for member in self._members):
                time.sleep(_PAUSE_S)
            return
        poller = select.poll()
        for fd in waiting:
            poller.register(fd, select.POLLIN)  # type: ignore[arg-type]  # none is None here
        while waiting and (rest_s := deadline_s - time.monotonic()) > 0:
            for fd, _ in poller.poll(rest_s * 1000):
                poller.unregister(fd)
                del waiting[fd]

    def report(self) -> EndReport:
        """Raises ``Busy`` if the last look could not be taken: then nothing is proven."""
        if not self._has_room:
            raise Busy("there were no descriptors left to look for the processes of a tree", hint="raise `ulimit -n`")
        left = [Left(identity=who, name="", why="it cannot be judged from this pid namespace") for who in self._unseen]
        for member in self._members:
            if member.is_ended():
                self._note(member)
            else:
                left.append(Left(identity=member.identity, name=member.name, why=self._explain(member)))
        return EndReport(ended=tuple(self._ended), left=tuple(left))

    def _explain(self, member: _Member) -> str:
        if member.is_denied:
            return "it belongs to another user and may not be signalled"
        row = read_stat(member.identity.pid)
        if row is not None and row.state == "D":
            return "it waits for a device and cannot be ended until that answers"
        return "it was killed but has not ended in time"

    def close(self) -> None:
        for member in (*self._members, *self._above):
            member.close()
