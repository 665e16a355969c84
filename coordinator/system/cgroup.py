"""Control groups: the kernel's own list of who belongs together, where we may make one.

A group below our own, in the version 2 hierarchy (also the one of a mixed set-up), needs no controllers: it only holds
processes, and ``cgroup.kill`` (Linux 5.14) ends them all at once. Everything here is quiet: where the system does not
let us, there is no group, and trees are found by the other means of ``tree``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "crewkeep-"
#: Groups looked at when a group is searched for by name, and nested groups of one. Arbitrary, far above what is common.
_LOOK_LIMIT = 20_000


def create_group(name: str) -> Path | None:
    """Make (or find) the group ``name`` below our own; ``None`` where that is not possible."""
    own = group_of(os.getpid())
    if own is None:
        return None
    group = own / f"{_PREFIX}{name}"
    try:
        group.mkdir(mode=0o755, exist_ok=True)
    except OSError:
        return None
    if os.access(group / "cgroup.procs", os.W_OK) and os.access(own / "cgroup.procs", os.W_OK):
        return group
    remove(group)  # moving a process needs the right on both ends
    return None


def is_ours(group: Path) -> bool:
    """Tell whether a path can be that of a group made here; no other is ever used to end anybody."""
    return group.name.startswith(_PREFIX)


def find_group(name: str) -> Path | None:
    """Return the group ``name`` that some process of ours made, wherever it stands; ``None`` if there is none."""
    wanted = f"{_PREFIX}{name}"
    own = group_of(os.getpid())
    for directory in (own, *own.parents) if own is not None else ():
        if (directory / wanted).is_dir():
            return directory / wanted  # a keeper's siblings: no need to walk
    mount = _mount()
    for count, (at, names, _) in enumerate(os.walk(mount) if mount is not None else ()):
        if wanted in names:
            return Path(at) / wanted
        if count > _LOOK_LIMIT:
            return None
    return None


def group_of(pid: int) -> Path | None:
    """Return the version 2 group that a process is in; ``None`` if it cannot be told."""
    mount = _mount()
    if mount is None:
        return None
    try:
        with open(f"/proc/{pid}/cgroup", "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("0::") and not line.startswith("0::/.."):
            return mount / line[4:].removesuffix(" (deleted)") if len(line) > 4 else mount
    return None


def join(group: Path, pid: int) -> bool:
    """Put a process into the group; ``False`` if that failed."""
    return _write(group / "cgroup.procs", str(pid))


def members(group: Path) -> list[int]:
    """Return the pids in the group and the groups below it; none if it is gone."""
    found = []
    for directory in _iter_groups(group):
        try:
            with open(directory / "cgroup.procs", "rb") as file:
                # 0 stands for a process of another pid namespace, which has no number here.
                found += [int(pid) for pid in file.read().split() if int(pid) > 0]
        except OSError:
            continue
    return found


def kill(group: Path) -> bool:
    """End every process in the group and below at once; ``False`` where the kernel cannot."""
    return _write(group / "cgroup.kill", "1")


def remove(group: Path) -> bool:
    """Remove an empty group and those below it; ``False`` if somebody is still in it."""
    for directory in reversed(list(_iter_groups(group))):
        try:
            directory.rmdir()
        except OSError:
            continue
    return not group.exists()


def _iter_groups(group: Path) -> Iterator[Path]:
    for count, (directory, _, _) in enumerate(os.walk(group)):
        if count > _LOOK_LIMIT:
            return
        yield Path(directory)


def _write(path: Path, text: str) -> bool:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(fd, text.encode())
    except OSError:
        return False
    finally:
        os.close(fd)
    return True


def _mount() -> Path | None:
    """Return where the version 2 hierarchy is mounted (kept)."""
    global _found
    if _found is None:
        _found = _find_mount() or Path()
    return _found if _found != Path() else None


def _find_mount() -> Path | None:
    if sys.platform != "linux":
        return None
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            lines = os.fsdecode(file.read()).splitlines()
    except OSError:
        return None
    for line in lines:
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup2 ") and fields.split()[3] == "/":
            return Path(fields.split()[4])
    return None


_found: Path | None = None
