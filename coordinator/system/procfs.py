"""What the kernel tells of one process in ``/proc/PID/stat``; on macOS the same through psutil."""

from __future__ import annotations

import os
import sys
from typing import NamedTuple


class Stat(NamedTuple):
    """What ``/proc/PID/stat`` tells of a process, as far as it is used here. A tuple: a scan makes one of each process."""

    pid: int
    #: Up to 15 bytes that the process chose itself.
    name: str
    #: One letter: R S D T t Z X I.
    state: str
    parent: int
    group: int
    #: The OS session: the pid of its leader.
    session: int
    #: Device number of the controlling terminal, 0 for none.
    terminal: int
    start_ticks: int


def read_stat(pid: int) -> Stat | None:
    """Return ``/proc/PID/stat``, ``None`` if there is no such process. Raises ``OSError`` if it cannot be told."""
    if sys.platform == "darwin":
        from coordinator.system import macos

        if (row := macos.read_row(pid)) is None:
            return None
        name, state, parent, group, session, started = row
        return Stat(pid, name, state, parent, group, session, 0, started)
    data = read_small(f"/proc/{pid}/stat")
    return None if not data else parse_stat(data)


def parse_stat(data: bytes) -> Stat:
    """Parse ``/proc/PID/stat``. The name may hold anything, so the fields begin after the *last* parenthesis."""
    opening, closing = data.index(b"("), data.rindex(b")")
    fields = data[closing + 2 :].split(None, 20)
    return Stat(
        int(data[:opening]),
        data[opening + 1 : closing].decode("utf-8", "replace"),
        fields[0].decode(),
        int(fields[1]),
        int(fields[2]),
        int(fields[3]),
        int(fields[4]),
        int(fields[19]),
    )


def read_small(path: str) -> bytes | None:
    """Return a small file of the kernel's, ``None`` if it is not there (any more) or not for us."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError, PermissionError, NotADirectoryError):
        return None
    try:
        return os.read(fd, 65536)
    except ProcessLookupError:
        return None
    finally:
        os.close(fd)
