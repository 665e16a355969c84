"""Who runs on this machine: the process table, family ties, and the marks that a session's processes inherit.

A scan is a look at something that moves: what it returns has been true a moment ago. Whoever acts on it proves it again
after opening a pidfd (see ``tree``). 200 processes take about 3 ms.

Not promised: reading the environment of processes of other users or of those that hide it (setuid programs); a process
that started itself anew without an environment carries no mark.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import sys
from collections.abc import Collection
from pathlib import Path

from coordinator.system import processes
from coordinator.system.processes import ProcessIdentity, identify
from coordinator.system.procfs import Stat, parse_stat, read_stat

NONCE_VARIABLE, HOME_VARIABLE, ROLE_VARIABLE = "CREWKEEP_NONCE", "CREWKEEP_HOME", "CREWKEEP_ROLE"
_NONCE = re.compile(rb"(?:^|\0)CREWKEEP_NONCE=([^\0]*)")
_ROLE = re.compile(rb"(?:^|\0)CREWKEEP_ROLE=[^\0]")
_ENVIRONMENT_LIMIT_BYTES = 8 << 20  # the kernel's own limit is a quarter of the stack's: 2 MiB as a rule
_COMMAND_LIMIT_BYTES = 1 << 16
_KTHREADD = 2


def list_processes() -> list[int]:
    """Return every pid of this pid namespace."""
    if sys.platform == "darwin":
        from coordinator.system import macos

        return macos.list_processes()
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def read_table() -> dict[int, Stat]:
    """Return pid -> what is known of each process. Kernel threads are left out."""
    if sys.platform == "darwin":
        return {pid: row for pid in list_processes() if (row := read_stat(pid)) is not None}
    table = {}
    for pid in list_processes():
        data = _read(f"/proc/{pid}/stat", 4096)
        if data:
            row = parse_stat(data)
            if row.parent != _KTHREADD and pid != _KTHREADD:
                table[pid] = row
    return table


def children_of(pid: int) -> list[int]:
    """Return the pids of a process's children."""
    return [row.pid for row in read_table().values() if row.parent == pid]


def descendants_of(identity: ProcessIdentity) -> list[ProcessIdentity]:
    """Return who descends from this process now, parents before children; none if it is gone."""
    table = read_table()
    if identity.pid not in table or processes.observe(identity).is_gone:
        return []
    families: dict[int, list[Stat]] = {}
    for row in table.values():
        families.setdefault(row.parent, []).append(row)
    found: list[ProcessIdentity] = []
    queue = [identity.pid]
    while queue:
        for row in families.get(queue.pop(0), ()):
            who = identify(row.pid)
            if who is not None and who.start_ticks == row.start_ticks:
                found.append(who)
                queue.append(row.pid)
    return found


def read_arguments(pid: int) -> list[str] | None:
    """Return the words a process was started with; ``None`` if there is no such process or they cannot be read."""
    if sys.platform == "darwin":
        from coordinator.system import macos

        return macos.arguments(pid)
    data = _read(f"/proc/{pid}/cmdline", _ENVIRONMENT_LIMIT_BYTES)
    return None if not data else [os.fsdecode(word) for word in data.removesuffix(b"\0").split(b"\0")]


def read_environment(pid: int) -> dict[str, str] | None:
    """Return the environment a process was started with; ``None`` if there is no such process or it cannot be read."""
    if sys.platform == "darwin":
        from coordinator.system import macos

        return macos.environment(pid)
    data = read_raw_environment(pid)
    if data is None:
        return None
    return dict(os.fsdecode(part).split("=", 1) for part in data.split(b"\0") if b"=" in part)


def read_raw_environment(pid: int) -> bytes | None:
    """Return the same as bytes, ``NAME=value`` with zero bytes between; empty for a zombie."""
    if sys.platform == "darwin":
        found = read_environment(pid)
        return None if found is None else b"\0".join(os.fsencode(f"{name}={value}") for name, value in found.items())
    return _read(f"/proc/{pid}/environ", _ENVIRONMENT_LIMIT_BYTES)


def has_bare_environment(pid: int) -> bool:
    """Tell whether a process was started with an empty environment, and is not just in the middle of an exec.

    Then its command line is empty as well; the kernel sets both at once.
    """
    return sys.platform != "darwin" and bool(_read(f"/proc/{pid}/cmdline", 1)) and read_raw_environment(pid) == b""


def is_child_by(pid: int, parent_pid: int, word: bytes) -> bool:
    """Tell whether ``pid`` is the process ``parent_pid`` itself, or a child of it whose command line holds ``word``."""
    if pid == parent_pid:
        return True
    row = read_stat(pid)
    return row is not None and row.parent == parent_pid and word in (_read(f"/proc/{pid}/cmdline", _COMMAND_LIMIT_BYTES) or b"")


def nonces_in(environment: bytes | None) -> set[str]:
    """Return the marks in an environment: none, one, or more if somebody set it twice."""
    if not environment or b"CREWKEEP_NONCE=" not in environment:
        return set()
    return {os.fsdecode(value) for value in _NONCE.findall(environment)}


def is_own_process(environment: bytes | None) -> bool:
    """Tell whether an environment is that of a keeper or patrol."""
    return bool(environment) and _ROLE.search(environment or b"") is not None


def find_marked(nonces: Collection[str]) -> list[ProcessIdentity]:
    """Return every living process that carries one of these marks; this process itself excepted."""
    wanted = set(nonces) - {""}
    found = []
    for pid in list_processes() if wanted else ():
        if pid == os.getpid() or wanted.isdisjoint(nonces_in(read_raw_environment(pid))):
            continue
        who = identify(pid)
        # Read again behind the identity: the pid may have gone to somebody else since.
        if who is not None and not wanted.isdisjoint(nonces_in(read_raw_environment(pid))) and identify(pid) == who:
            found.append(who)
    return found


def find_home_processes(home: str | os.PathLike[str]) -> list[tuple[ProcessIdentity, dict[str, str]]]:
    """Return every process whose ``CREWKEEP_HOME`` is this directory, with its environment; this process excepted.

    However the variable spells it: relative to that process's directory, through links, with ``..``.
    """
    wanted = _Place(os.path.realpath(home))
    found = []
    for pid in list_processes():
        raw = read_raw_environment(pid) if pid != os.getpid() else None
        if not raw or b"CREWKEEP_HOME=" not in raw:
            continue
        environment = read_environment(pid) or {}
        if not (given := environment.get(HOME_VARIABLE)) or not wanted.is_at(given, pid):
            continue
        who = identify(pid)
        if who is not None and read_raw_environment(pid) == raw and identify(pid) == who:
            found.append((who, environment))
    return found


def is_reading_terminal(pid: int) -> bool:
    """Tell whether a process's main thread is blocked reading its terminal, and nothing but that.

    So are a shell at its prompt and ``input()``. A program that waits for many things at once (epoll) is not seen as
    reading: it may as well wait for its network. Always ``False`` where the system does not tell (macOS).
    """
    data = _read(f"/proc/{pid}/syscall", 512) if sys.platform == "linux" else None
    fields = (data or b"").split()
    if len(fields) < 7:  # running, gone, or not for us
        return False
    call = _CALLS.get(os.uname().machine, {}).get(int(fields[0]))
    first, second = int(fields[1], 16), int(fields[2], 16)
    if call == "read":
        return _is_terminal(pid, first)
    if call == "select":
        return first == 1 and _is_terminal(pid, 0)
    if call == "poll" and second == 1:
        return _is_terminal(pid, _polled_descriptor(pid, first))
    return False


#: Numbers of the calls that wait for a terminal, by processor.
_CALLS = {
    "x86_64": {0: "read", 7: "poll", 271: "poll", 23: "select", 270: "select"},
    "aarch64": {63: "read", 73: "poll", 72: "select"},
    "riscv64": {63: "read", 73: "poll", 72: "select"},
}


class _Place:
    """A directory, recognised under any of its names."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._known: dict[str, bool] = {}
        try:
            status = os.stat(path)
            self._inode: tuple[int, int] | None = (status.st_dev, status.st_ino)
        except OSError:
            self._inode = None

    def is_at(self, given: str, pid: int) -> bool:
        if not os.path.isabs(given):
            base = _working_directory(pid)
            if base is None:
                return False
            given = os.path.join(base, given)
        if given not in self._known:
            self._known[given] = self._compare(given)
        return self._known[given]

    def _compare(self, given: str) -> bool:
        if os.path.realpath(given) == self._path:
            return True
        try:
            status = os.stat(given)
        except (OSError, ValueError):
            return False
        return (status.st_dev, status.st_ino) == self._inode  # a bind mount, or another spelling of the same Unicode


def _working_directory(pid: int) -> str | None:
    if sys.platform == "darwin":
        from coordinator.system import macos

        return macos.working_directory(pid)
    try:
        return os.readlink(f"/proc/{pid}/cwd")
    except OSError:
        return None


def _is_terminal(pid: int, fd: int) -> bool:
    try:
        status = os.stat(f"/proc/{pid}/fd/{fd}")
    except OSError:
        return False
    # 136 to 143: pseudo-terminals; 4 and 5: consoles and /dev/tty.
    return stat.S_ISCHR(status.st_mode) and (136 <= os.major(status.st_rdev) <= 143 or os.major(status.st_rdev) in (4, 5))


def _polled_descriptor(pid: int, address: int) -> int:
    try:
        with open(Path(f"/proc/{pid}/mem"), "rb", buffering=0) as memory:
            memory.seek(address)
            return int(struct.unpack("i", memory.read(4))[0])
    except (OSError, ValueError, OverflowError, struct.error):
        return -1


def _read(path: str, limit: int) -> bytes | None:
    """Return a file of the kernel's; ``None`` if it is not there, not for us, or gone while being read.

    Raises ``OSError`` when out of descriptors: a scan that saw nothing for that reason must not look like an empty one.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None
    try:
        data = os.read(fd, min(limit, 1 << 17))
        while len(data) >= 1 << 17 and len(data) < limit and (part := os.read(fd, 1 << 20)):
            data += part
        return data
    except OSError:
        return None
    finally:
        os.close(fd)
