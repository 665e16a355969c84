"""What a program does before it goes on with a session that another process left: make sure, fence, end the rest, restore.

The order is the caller's (``Session.resume``): nothing here raises the epoch.
"""

from __future__ import annotations

from typing import Any

from coordinator.config import Settings
from coordinator.context import SharedContext
from coordinator.errors import Refused
from coordinator.paths import Home
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.workspace import workspace_id
from coordinator.system import files, processes


def check_resumable(record: SessionRecord) -> None:
    """Refuse to take over from anybody who may still act."""
    for what, identity in (
        ("owner", record.owner),
        ("recoverer", record.recoverer if record.phase is Phase.RECOVERING else None),
    ):
        liveness = processes.observe(identity)
        if identity is not None and identity != processes.identify_self() and not liveness.is_gone:
            raise Refused(
                f"{record.name} is at epoch {record.epoch} and its {what}, process {identity.pid}, is {liveness}",
                hint=f"crewkeep why {record.name}; crewkeep stop {record.name}",
            )
        if what == "owner" and identity == processes.identify_self() and record.phase is not Phase.ENDED:
            raise Refused(f"{record.name} is this very program's already", hint="close it first")


def fence_contexts(home: Home, record: SessionRecord) -> None:
    for workspace in (record.workspace, *record.other_workspaces):
        context = open_for(home, workspace, None)
        try:
            context.fence(record.id, record.epoch)
        finally:
            context.close()


def reap(record: SessionRecord, me: processes.ProcessIdentity) -> None:
    """End what the incarnations before left; refuse to go on beside what cannot be ended."""
    from coordinator.system.tree import end_tree

    roots = [identity for identity in (record.agent,) if identity is not None]
    report = end_tree(roots=roots, nonces=record.unreaped_nonces, cgroup=None, spare=[me], timeout_s=Settings().reap_timeout_s)
    if report.left:
        left = report.left[0]
        raise Refused(
            f"process {left.identity.pid} ({left.name}) of {record.name} could not be ended: {left.why}",
            hint=f"end it, then resume {record.name} again",
        )


def read_newest_state(home: Home, record: SessionRecord) -> tuple[int | None, Any]:
    from recovery.checkpoint import find_newest_whole, quarantine_damaged

    quarantine_damaged(home, record.id)
    newest = find_newest_whole(home.session(record.id), deep=True)
    return (None, None) if newest is None else (newest.number, read_state(home, record, newest.number))


def read_state(home: Home, record: SessionRecord, number: int | None) -> Any:
    from recovery import manifest
    from recovery.checkpoint import get_checkpoint, read_json

    if number is None:
        return None
    return read_json(get_checkpoint(home.session(record.id), number), manifest.STATE)


def open_for(home: Home, workspace: str, record: SessionRecord | None) -> SharedContext:
    """Open a workspace's context to write as ``record``'s incarnation, or without a name."""
    files.make_directory(home.contexts)
    files.check_private(home.path)
    return SharedContext.open(home.context(workspace_id(workspace)), writer=None if record is None else record.writer)
