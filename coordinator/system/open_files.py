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


def iter_positions(pid: int, name: str) -> Iterator[tuple[str, int]]:
    """Yield path and offset, in bytes, of each file called ``name`` that ``pid`` holds open. Linux only; never raises.

    Where the file is opened for appending, the byte before the offset is the last one that this process wrote: the kernel
    moves the offset to the end of each write, so what stands before it was not written by anybody else.
    """
    directory = f"/proc/{pid}/fd"
    try:
        numbers = os.listdir(directory)
    except OSError:
        return
    for number in numbers:
        try:
            path = os.readlink(f"{directory}/{number}")
            if os.path.basename(path) != name:
                continue
            with open(f"/proc/{pid}/fdinfo/{number}", encoding="ascii") as file:
                fields = dict(line.split(":", 1) for line in file if ":" in line)
            offset_bytes, flags = int(fields["pos"]), int(fields["flags"], 8)
        except (OSError, KeyError, ValueError):
            continue  # closed meanwhile
        if path.startswith("/") and flags & os.O_APPEND:
            yield path, offset_bytes
