"""What is done about a patrol that is there and does not answer: it holds its lock for life, so no other can take its place.

A stopped one (SIGSTOP, a debugger that went away) is continued. One that stays silent is killed; its end lets another be
started in the usual way. It is the process that wrote itself down as this home's patrol, and signals go through its proven
identity. That is safe at every moment, however many do it: an act of recovery that is cut short is taken up by the next
patrol, and a patrol that goes on late finds its epochs taken.
Not promised: a patrol that hangs in the kernel, on a disk that does not answer, ends only when that does.
"""

from __future__ import annotations

import signal

from coordinator import sealed
from coordinator.config import PATROL_SILENCE_S
from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.system.clock import SYSTEM
from coordinator.system.processes import Liveness, ProcessIdentity, identify_self, observe, send_signal

_KIND, _FORMAT = "patrol", 1


def write_patrol(home: Home) -> None:
    """Write down that this process is the home's patrol. Only whoever has its lock may. Raises ``StorageError``."""
    body = {"identity": identify_self().encode(), "started_at": SYSTEM.wall_s()}
    sealed.write_sealed(home.patrol_record, _KIND, _FORMAT, body, durable=False)


def find_patrol(home: Home) -> tuple[ProcessIdentity, Liveness] | None:
    """Return the patrol that was last written down and how it is, ``None`` if it is gone or none is known. Asks nobody."""
    try:
        identity = ProcessIdentity.decode(sealed.read_sealed(home.patrol_record, _KIND, _FORMAT)["identity"])
        liveness = observe(identity)
    except (CrewkeepError, OSError, KeyError, TypeError, ValueError, AttributeError):
        return None
    return None if liveness.is_gone else (identity, liveness)


def rouse_patrol(home: Home, silent_s: float) -> str | None:
    """Do what is due about a patrol that has not answered for ``silent_s``; returns what was done, for the log."""
    found = find_patrol(home)
    if found is None:
        return None
    identity, liveness = found
    try:
        if silent_s >= PATROL_SILENCE_S:
            return f"killed patrol {identity.pid}, silent for {silent_s:.0f} s" if send_signal(identity, signal.SIGKILL) else None
        if liveness is Liveness.STOPPED and send_signal(identity, signal.SIGCONT):
            return f"continued patrol {identity.pid}, which was stopped"
    except OSError:  # somebody else's, or no room: as if it were not there
        return None
    return None
