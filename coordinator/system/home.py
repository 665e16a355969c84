"""Makes a home what it has to be before anything is put into it: private, and nothing that git would pick up.

A home may lie inside a repository (``CREWKEEP_HOME=.crewkeep``). Without its ignore file it would be an untracked
directory there, and every checkpoint's git state would hold the checkpoints before it.
"""

from __future__ import annotations

from coordinator.config import LOCK_TIMEOUT_S
from coordinator.paths import Home
from coordinator.system import files, locks

_IGNORE = b"# Made by crewkeep: state of sessions belongs into no repository.\n*\n"


def prepare_home(home: Home) -> None:
    """Make the home if it is not there; refuse one that is not the user's own alone to write.

    Raises ``Refused``, ``InvalidInput``, ``StorageError``, or ``Busy`` if somebody else takes too long to make it.
    """
    files.make_directory(home.path)
    files.check_private(home.path)
    if home.ignore_file.exists():
        return
    with locks.administrative_lock(home.lock, timeout_s=LOCK_TIMEOUT_S):
        if not home.ignore_file.exists():
            files.replace_durably(home.ignore_file, _IGNORE)
