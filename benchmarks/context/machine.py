"""The machine that was measured: what it is, and what others used of it meanwhile."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

#: What stands in memory costs nothing to flush: figures from there would be lies.
_IN_MEMORY = {"tmpfs", "ramfs"}


def describe_machine(directory: Path) -> dict[str, Any]:
    """Return what matters of the machine. No names: the figures are to be shown to anybody."""
    return {
        "cores": os.cpu_count(),
        "processor": _find_processor(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9),
        "kernel": f"{platform.system()} {platform.release().partition('-')[0]}",
        "file_system": find_file_system(directory),
        "python": platform.python_version(),
    }


def find_file_system(directory: Path) -> str:
    """Return the type of the file system that ``directory`` is on."""
    path = directory.resolve()
    mounts = [part for part in psutil.disk_partitions(all=True) if path.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def is_in_memory(directory: Path) -> bool:
    """Tell whether what is written there never reaches a disk."""
    return find_file_system(directory) in _IN_MEMORY


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """Give an empty directory on the disk that is measured, and remove it afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(dir=parent, prefix="scratch-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


def busy_s() -> float:
    """Return the seconds that all cores together have worked since the machine started, whoever it was for."""
    times = psutil.cpu_times()
    # Guests' time is within user's already; what the host took (steal) kept us from working as well.
    return float(sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal")))


def cpu_of(pid: int) -> float:
    """Return the seconds of a core that a process and its threads have used, in nanosecond steps where the kernel tells."""
    try:
        return sum(int(task.joinpath("schedstat").read_text().split()[0]) for task in Path(f"/proc/{pid}/task").iterdir()) / 1e9
    except (OSError, ValueError, IndexError):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)


def _find_processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
