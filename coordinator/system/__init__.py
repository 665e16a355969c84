"""The only room that touches the operating system: clock, files, locks, processes, trees, terminals, wake-ups.

Belongs here: every call whose answer depends on the machine, behind a small function with a stated fallback.
Does not belong here: what the answers mean.
"""

from __future__ import annotations

import os
import sys


def check_platform() -> None:
    """Raise ``Unsupported`` where the promises cannot be kept at all: call it before anything else of this room is imported.

    Linux needs /proc (also in a container), macOS works with the fallbacks that each module states, Windows does not.
    """
    from coordinator.errors import Unsupported

    if sys.platform not in ("linux", "darwin"):
        name = {"win32": "Windows"}.get(sys.platform, sys.platform)
        raise Unsupported(
            f"crewkeep does not run on {name}: it needs the processes, terminals and locks of Linux or macOS",
            hint="on Windows, install it inside WSL 2" if sys.platform == "win32" else "run it on Linux or macOS",
        )
    if sys.platform == "linux" and not os.path.exists("/proc/self/stat"):
        raise Unsupported("/proc is not mounted, so no process can be told from another", hint="mount -t proc proc /proc")
