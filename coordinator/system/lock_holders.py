"""Who holds a lock: the pids that the kernel names for files that are locked with ``flock``.

``/proc/locks`` names the process that took the lock, which may not be the only one that has it open. Where there is no such
list (macOS), nobody is named. Good for choosing whom to end first; never a proof that a lock is free.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def find_lock_holders(paths: Iterable[Path]) -> set[int]:
    """Return the pids that hold a lock on one of these files, as the kernel numbers them here."""
    wanted = set()
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            continue
        wanted.add((os.major(status.st_dev), os.minor(status.st_dev), status.st_ino))
    try:
        with open("/proc/locks", "rb") as file:
            lines = file.read().decode().splitlines()
    except OSError:
        return set()
    holders = set()
    for line in lines:
        fields = line.split()
        # "3: FLOCK  ADVISORY  WRITE 1234 fe:00:5678 0 EOF"; one that waits has "->" as its second field
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].count(":") == 2:
            major, minor, inode = fields[5].split(":")
            if (int(major, 16), int(minor, 16), int(inode)) in wanted:
                holders.add(int(fields[4]))
    return holders
