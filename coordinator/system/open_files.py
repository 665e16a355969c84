"""Which files a process holds open: the proof that a transcript is written by this process and by no other.

On Linux read from /proc/PID/fd; on macOS asked of psutil. A process that is gone, or is another user's, holds nothing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator


def iter_open_paths(pid: int) -> Iterator[str]:
    """Yield the absolute path of each regular file, directory or device that ``pid`` holds open. Never raises."""
    if sys.platform == "darwin":
        import psutil

        try:
            yield from (found.path for found in psutil.Process(pid).open_files())
        except (psutil.Error, OSError):
            return
        return
    directory = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(directory)
    except OSError:
        return
    for number in numbers:
        try:
            path = os.readlink(f"{directory}/{number}")
        except OSError:
            continue  # closed meanwhile
        if path.startswith("/"):  # others are sockets, pipes and the kernel's own
            yield path
