"""Reaping: every process of a dead incarnation is proven gone before the next one may start.

What belongs to it is known by the owner's and the agent's identities, by the nonces of all incarnations that were not yet
reaped, and by their control groups. A keeper that is merely stopped is spared by whoever has fenced it, since it leaves by
itself when it is continued; unless it holds a lock that others would wait for. A keeper that runs but hangs is not spared:
nobody would continue it. A program is its own agent, so it never is.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection, Iterable
from pathlib import Path

from coordinator.paths import Home
from coordinator.sessions.model import Hosting, Phase, SessionRecord
from coordinator.system import cgroup, processes, scan
from coordinator.system.lock_holders import find_lock_holders
from coordinator.system.processes import Liveness, ProcessIdentity
from coordinator.system.tree import EndReport, end_tree

#: A killed process that was stopped is gone within this, or hangs in the kernel.
_KILL_TIMEOUT_S = 2.0


def name_group(session_id: str, epoch: int) -> str:
    """Return the name of the control group of one incarnation's agent."""
    return f"{session_id}-{epoch}"


def reap_incarnation(
    record: SessionRecord,
    home: Home,
    *,
    spare: Collection[ProcessIdentity] = (),
    vouched: bool = False,
    timeout_s: float,
) -> EndReport:
    """End all that the incarnations before a ``recovering`` record's left, or all that an ended, parked or stopped one left.

    Returns when their trees are proven gone, or names what is left after ``timeout_s``. Who is in ``spare`` is not ended, but
    what is below the owner is. With ``vouched`` somebody vouches that what cannot be seen from here (another machine, another
    pid namespace) is gone; else it is named as left. Doing it twice does nothing more. Raises ``Busy`` when out of descriptors.
    """
    del home  # nonces are never used twice, so they name the home as well
    assert record.phase not in (Phase.STARTING, Phase.RUNNING), "the running incarnation is not reaped"
    recovering = record.phase is Phase.RECOVERING
    nonces = record.unreaped_nonces if recovering else (record.nonce, *record.unreaped_nonces)
    # A keeper is its agent's subreaper: what forked away from the agent is below the keeper.
    roots = [one for one in (record.agent, record.owner) if one is not None]
    if vouched:
        roots = [one for one in roots if processes.observe(one) is not Liveness.UNKNOWN]
    return _end(record, roots, nonces, record.epoch - 1 if recovering else record.epoch, spare, timeout_s)


def reap_earlier(record: SessionRecord, *, timeout_s: float) -> EndReport:
    """End what earlier incarnations of a running session left, and nothing of the running one."""
    spare = [one for one in (record.owner, record.agent) if one is not None]
    return _end(record, [], record.unreaped_nonces, record.epoch - 1, spare, timeout_s)


def find_spared(record: SessionRecord) -> tuple[ProcessIdentity, ...]:
    """Return the old owner if it may be left to leave by itself (see above). Call ``free_locks`` before."""
    owner = record.owner
    if owner is None or record.hosting is not Hosting.KEEPER or processes.observe(owner) is not Liveness.STOPPED:
        return ()
    return (owner,)


def free_locks(record: SessionRecord, home: Home, contexts: Iterable[Path], *, with_owner: bool) -> None:
    """Kill stopped processes of the session that hold a lock which its recovery needs; with the owner only by force."""
    holders = find_lock_holders([home.sessions_lock, home.session(record.id).lock, *_list_locks(contexts)])
    if not holders:
        return
    candidates = scan.find_marked((record.nonce, *record.unreaped_nonces))
    if with_owner and record.owner is not None:
        candidates.append(record.owner)
    for identity in candidates:
        if identity.pid in holders and processes.observe(identity) is Liveness.STOPPED:
            processes.send_signal(identity, signal.SIGKILL)
            processes.wait_gone(identity, _KILL_TIMEOUT_S)


def _end(
    record: SessionRecord,
    roots: Collection[ProcessIdentity],
    nonces: Collection[str],
    newest_epoch: int,
    spare: Collection[ProcessIdentity],
    timeout_s: float,
) -> EndReport:
    found = (cgroup.find_group(name_group(record.id, newest_epoch - back)) for back in range(len(nonces)))
    groups = [group for group in found if group is not None]
    report = EndReport(ended=(), left=())
    for number, group in enumerate(groups or [None]):
        ended = end_tree(roots=list(roots) if number == 0 else [], nonces=nonces, cgroup=group, spare=spare, timeout_s=timeout_s)
        report = EndReport(ended=report.ended + ended.ended, left=report.left + ended.left)
    if not report.left:
        for group in groups:
            cgroup.remove(group)
    return report


def _list_locks(contexts: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for context in contexts:
        for directory, _, names in os.walk(context):
            found += [Path(directory) / name for name in names if name in ("lock", "turn", "meta.lock")]
    return found
