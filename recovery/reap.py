"""Reaping: every process of a dead incarnation is proven gone before the next one may start.

What belongs to it is known by the owner's and the agent's identities, by the nonces of all incarnations that were not yet reaped,
and by their control groups. A keeper's own process is not its agent's tree: one that is merely stopped is spared by whoever
fenced it, since it leaves by itself when it is continued; unless it holds a lock that others wait for.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from coordinator.paths import Home
from coordinator.sessions.model import Hosting, Phase, SessionRecord
from coordinator.system import cgroup, processes
from coordinator.system.lock_holders import find_lock_holders
from coordinator.system.processes import Liveness, ProcessIdentity
from coordinator.system.tree import EndReport, end_tree


def name_group(session_id: str, epoch: int) -> str:
    """Return the name of the control group of one incarnation's agent."""
    return f"{session_id}-{epoch}"


def reap_incarnation(
    record: SessionRecord, home: Home, *, spare: Collection[ProcessIdentity] = (), timeout_s: float
) -> EndReport:
    """End what the incarnations before this record's left (in ``recovering``), or all of an ended session's.

    Returns when their whole trees are proven gone, or names what is left after ``timeout_s``. Processes of ``spare`` are not
    ended, but what is below the owner is. Doing it twice does nothing more. Raises ``Busy`` when out of descriptors.
    """
    del home  # the marks are of one home only: nonces are never used twice
    before = record.phase is Phase.RECOVERING
    nonces = record.unreaped_nonces if before else (record.nonce, *record.unreaped_nonces)
    newest = record.epoch - 1 if before else record.epoch
    groups = [cgroup.find_group(name_group(record.id, newest - back)) for back in range(len(nonces))]
    found = [group for group in groups if group is not None]
    report = end_tree(
        # A keeper is its agent's subreaper: what forked away from the agent is below the keeper.
        roots=[one for one in (record.agent, record.owner) if one is not None],
        nonces=nonces,
        cgroup=found[0] if found else None,
        spare=spare,
        timeout_s=timeout_s,
    )
    for group in found[1:]:
        more = end_tree(roots=(), nonces=nonces, cgroup=group, spare=spare, timeout_s=timeout_s)
        report = EndReport(ended=report.ended + more.ended, left=report.left + more.left)
    if not report.left:
        for group in found:
            cgroup.remove(group)
    return report


def find_spared(record: SessionRecord, home: Home, contexts: Iterable[Path]) -> tuple[ProcessIdentity, ...]:
    """Return the old owner if it may be left to leave by itself: a keeper, stopped, that holds no lock of the session's.

    A keeper that runs but hangs is not spared: nobody continues it. A program is its own agent, so it never is.
    """
    owner = record.owner
    if owner is None or record.hosting is not Hosting.KEEPER or owner == processes.identify_self():
        return ()
    if processes.observe(owner) is not Liveness.STOPPED:
        return ()
    locks = [home.sessions_lock, home.session(record.id).lock, *_list_locks(contexts)]
    return () if owner.pid in find_lock_holders(locks) else (owner,)


def _list_locks(contexts: Iterable[Path]) -> list[Path]:
    """Return every lock file of the contexts: any file of theirs may be locked, so all small ones are asked about."""
    found: list[Path] = []
    for context in contexts:
        for directory, _, names in os.walk(context):
            found += [Path(directory) / name for name in names if "lock" in name or "turn" in name]
    return found
