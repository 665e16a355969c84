"""The shared context: keys, versions and changes that all sessions of a workspace share.

Belongs here: storing values so that an acknowledged write is never lost, comparing and swapping, history, watching,
merging, checking. Does not belong here: who the sessions are (a writer is handed in), and when to poll (services).
"""

from coordinator.context.memory import MemoryContext
from coordinator.context.model import Change, Changes, Context, ContextFinding, Entry, Snapshot, WriterLike
from coordinator.context.shared_context import SharedContext
from coordinator.errors import Busy, Conflict, Damaged, InvalidInput, RevisionCompacted, Superseded, VersionConflict

__all__ = [
    "Busy",
    "Change",
    "Changes",
    "Conflict",
    "Context",
    "ContextFinding",
    "Damaged",
    "Entry",
    "InvalidInput",
    "MemoryContext",
    "RevisionCompacted",
    "SharedContext",
    "Snapshot",
    "Superseded",
    "VersionConflict",
    "WriterLike",
]
