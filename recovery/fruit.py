"""Whether an incarnation brought its work further, as far as durable facts tell.

Its last heartbeat may be older than its last deed: an incarnation that is killed within a heartbeat of its first commit has
borne fruit all the same. So where the heartbeat does not say it, the shared contexts and the checkpoints are asked.
"""

from __future__ import annotations

from coordinator.context import SharedContext
from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.sessions.model import SessionRecord
from coordinator.sessions.sight import read_beat
from recovery.checkpoint import iter_checkpoints
from recovery.fencing import list_contexts

#: A lock that is not had so soon (to bring an index up to date) leaves the question open: then it bore none.
_LOCK_TIMEOUT_S = 0.5


def has_borne_fruit(home: Home, record: SessionRecord) -> bool:
    """Tell whether the incarnation of ``record`` is known to have brought its work further. No fault of a disk is raised."""
    beat = read_beat(home, record)
    return (beat is not None and beat.fruitful) or _has_checkpointed(home, record) or _has_written(home, record)


def _has_checkpointed(home: Home, record: SessionRecord) -> bool:
    """Tell whether the program itself gave a checkpoint."""
    try:
        for found in iter_checkpoints(home.session(record.id)):  # newest first
            if found.manifest is None:
                continue
            if found.manifest.epoch < record.epoch:
                break
            if found.manifest.why == "program":
                return True
    except (CrewkeepError, OSError):
        return False
    return False


def _has_written(home: Home, record: SessionRecord) -> bool:
    """Tell whether it committed to a shared context in its own name."""
    for directory in list_contexts(home, record):
        try:
            context = SharedContext.open(directory, must_exist=True, lock_timeout_s=_LOCK_TIMEOUT_S)
            try:
                if context.has_written(record.id, record.epoch):
                    return True
            finally:
                context.close()
        except (CrewkeepError, OSError):
            continue
    return False
