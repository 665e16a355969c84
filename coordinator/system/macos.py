"""What macOS knows of processes, through psutil, which is imported only there and only when asked.

There are no pidfds, control groups or subreapers: identities are pid and start time in microseconds, and an orphan goes
to launchd. Written from the documentation and not yet run on a Mac.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from typing import Any


def start_token(pid: int) -> int | None:
    """Return the start time in microseconds since 1970, ``None`` if there is no such process."""
    psutil = _psutil()
    try:
        return int(psutil.Process(pid).create_time() * 1_000_000)
    except psutil.Error:
        return None


def observe(pid: int, started: int) -> str:
    """Return the value of ``processes.Liveness`` for a process of this boot."""
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        if int(process.create_time() * 1_000_000) != started:
            return "reused"
        status = process.status()
    except psutil.ZombieProcess:
        return "zombie"
    except psutil.NoSuchProcess:
        return "exited"
    except psutil.Error:
        return "unknown"
    return {psutil.STATUS_ZOMBIE: "zombie", psutil.STATUS_STOPPED: "stopped"}.get(status, "alive")


def boot_id() -> str:
    """Return ``kern.bootsessionuuid``, else the boot time."""
    library = ctypes.CDLL(ctypes.util.find_library("c"), use_errno=True)
    size = ctypes.c_size_t(64)
    buffer = ctypes.create_string_buffer(size.value)
    if library.sysctlbyname(b"kern.bootsessionuuid", buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) == 0:
        return buffer.value.decode("ascii", "replace")
    psutil = _psutil()
    return f"booted-{psutil.boot_time():.0f}"


def name_of(pid: int) -> str:
    """Return the process's name; empty if there is no such process."""
    psutil = _psutil()
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return ""


def list_processes() -> list[int]:
    """Return every pid."""
    psutil = _psutil()
    return list(psutil.pids())


def read_row(pid: int) -> tuple[str, str, int, int, int, int] | None:
    """Return name, one-letter state as on Linux, parent, group, OS session and start time; ``None`` if it cannot be told."""
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            status = process.status()
            state = {psutil.STATUS_ZOMBIE: "Z", psutil.STATUS_STOPPED: "T"}.get(status, "S")
            started = int(process.create_time() * 1_000_000)
            return str(process.name()), state, int(process.ppid()), os.getpgid(pid), os.getsid(pid), started
    except (psutil.Error, OSError):
        return None


def arguments(pid: int) -> list[str] | None:
    """Return the words the process was started with, ``None`` if they cannot be read."""
    psutil = _psutil()
    try:
        return [str(word) for word in psutil.Process(pid).cmdline()] or None
    except (psutil.Error, OSError):
        return None


def environment(pid: int) -> dict[str, str] | None:
    """Return the environment the process was started with, ``None`` if it cannot be read."""
    psutil = _psutil()
    try:
        found: dict[str, Any] = psutil.Process(pid).environ()
    except (psutil.Error, OSError):
        return None
    return {str(name): str(value) for name, value in found.items()}


def working_directory(pid: int) -> str | None:
    """Return the process's working directory, ``None`` if it cannot be read."""
    psutil = _psutil()
    try:
        return str(psutil.Process(pid).cwd())
    except psutil.Error:
        return None


def _psutil() -> Any:
    import importlib

    return importlib.import_module("psutil")
