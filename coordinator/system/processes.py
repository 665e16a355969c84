"""Processes by proven identity: who it is, whether it lives, and a way to signal it and nobody else.

A bare pid identifies nothing: pids are reused, within one clock tick if need be (42 of 50 forced reuses had the same
start time). An identity is the pid with its start time in ticks, the boot, the pid namespace and, where the kernel has
pidfs (Linux 6.9), the inode of its pidfd, which is unique for a boot.

Invariants:
  - where both sides know the inode, it alone decides; start ticks decide only without it (a time namespace shifts ticks)
  - a signal goes through a pidfd that was proven *after* it was opened; from then on it cannot mean anybody else
  - a zombie is gone: it cannot act. A zombie leader whose other threads still run is not a zombie
  - another pid namespace or another machine gives UNKNOWN, never gone
Fallbacks: without pidfds (Linux before 5.3, macOS) the identity is compared right before ``kill``; a reuse in between
cannot be excluded. macOS facts come from psutil (see ``macos``).
Not promised: telling two processes apart that share pid and start tick on a kernel without pidfs.
"""

from __future__ import annotations

import dataclasses
import os
import select
import signal
import sys
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator.digests import sha256
from coordinator.system.procfs import read_small, read_stat

#: `wait_gone` looks so often where the kernel cannot tell it.
_POLL_S = 0.01


class Liveness(StrEnum):
    """What was found where a process should be."""

    ALIVE = "alive"
    #: Alive, but stopped or frozen.
    STOPPED = "stopped"
    EXITED = "exited"
    ZOMBIE = "zombie"
    #: The pid belongs to somebody else now.
    REUSED = "reused"
    #: The machine was started anew since.
    REBOOTED = "rebooted"
    #: It cannot be told from here (another machine or pid namespace, no permission to look).
    UNKNOWN = "unknown"
    #: There was never a process to look for.
    NONE = "none"

    @property
    def is_gone(self) -> bool:
        """Proven not to act any more. Unknown is not gone."""
        return self in (Liveness.EXITED, Liveness.ZOMBIE, Liveness.REUSED, Liveness.REBOOTED, Liveness.NONE)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """Which process, for ever."""

    pid: int
    #: Clock ticks since boot (field 22 of /proc/PID/stat); microseconds since 1970 on macOS.
    start_ticks: int
    boot_id: str
    #: 0 where the system has no pid namespaces.
    pid_namespace: int = 0
    #: Inode of its pidfd, ``None`` before Linux 6.9 and elsewhere.
    pidfd_inode: int | None = None
    #: Names the machine without giving its own id away; empty where it has none.
    machine: str = ""

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> ProcessIdentity:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        identity = cls(**{item.name: body[item.name] for item in dataclasses.fields(cls) if item.name in body})
        if not all(isinstance(number, int) for number in (identity.pid, identity.start_ticks)) or identity.pid < 1:
            raise ValueError("identity")
        return identity


def identify(pid: int) -> ProcessIdentity | None:
    """Return who has this pid now; ``None`` if nobody (a zombie still has an identity).

    Raises ``OSError`` when out of descriptors: then nothing is known.
    """
    if pid < 1:
        return None
    if sys.platform == "darwin":
        from coordinator.system import macos

        started = macos.start_token(pid)
        return None if started is None else ProcessIdentity(pid=pid, start_ticks=started, boot_id=boot_id(), machine=machine())
    fd: int | None = None
    try:
        fd = _open_pidfd(pid)
        ticks = start_ticks(pid)
        if ticks is None:
            return None
        if fd is not None and not holds_pid(fd):
            return None  # it went, and the pid may have been given away, between the open and the read
        return ProcessIdentity(
            pid=pid,
            start_ticks=ticks,
            boot_id=boot_id(),
            pid_namespace=pid_namespace(),
            pidfd_inode=None if fd is None else _inode(fd),
            machine=machine(),
        )
    except (ProcessLookupError, _IsThread):
        return None
    finally:
        if fd is not None:
            os.close(fd)


def identify_self() -> ProcessIdentity:
    """Return this process's identity (kept; a forked child finds its own)."""
    global _self
    if _self is None or _self.pid != os.getpid():
        found = identify(os.getpid())
        if found is None:
            raise RuntimeError("/proc does not show this process; is it mounted for another pid namespace?")
        _self = found
    return _self


def observe(identity: ProcessIdentity | None) -> Liveness:
    """Tell whether the process lives. Total: every identity has an answer, and none is given on doubt."""
    if identity is None:
        return Liveness.NONE
    if identity.machine and machine() and identity.machine != machine():
        return Liveness.UNKNOWN  # a shared home: another machine's boot is not an earlier one of ours
    if identity.boot_id != boot_id():
        return Liveness.REBOOTED
    if sys.platform == "darwin":
        from coordinator.system import macos

        return Liveness(macos.observe(identity.pid, identity.start_ticks))
    if identity.pid_namespace != pid_namespace():
        return Liveness.UNKNOWN
    fd: int | None = None
    try:
        fd = _open_pidfd(identity.pid)
        return _observe_linux(identity, fd)
    except ProcessLookupError:
        return Liveness.EXITED
    except _IsThread:
        return Liveness.REUSED
    except OSError:
        return Liveness.UNKNOWN  # out of descriptors or memory: nothing was seen, so nothing is claimed
    finally:
        if fd is not None:
            os.close(fd)


def open_proven(identity: ProcessIdentity) -> int | None:
    """Return a pidfd that is proven to be this process's, ``None`` if it is gone (a zombie is). The caller closes it.

    Raises ``OSError`` when out of descriptors and ``Unsupported`` where the system has no pidfds.
    """
    fd = open_pinned(identity)
    if fd is not None and is_ended(fd):
        os.close(fd)
        return None
    return fd


def open_pinned(identity: ProcessIdentity) -> int | None:
    """Like ``open_proven``, but a zombie that nobody has reaped is there too: it still holds its pid."""
    from coordinator.errors import Unsupported

    if identity.boot_id != boot_id():
        return None
    if sys.platform == "darwin" or not hasattr(os, "pidfd_open"):
        raise Unsupported("this system has no pidfds", hint="use send_signal and wait_gone, which have a fallback")
    if identity.pid_namespace != pid_namespace():
        return None
    try:
        fd = _open_pidfd(identity.pid)
    except (ProcessLookupError, _IsThread):
        return None
    if fd is None:
        raise Unsupported("this kernel has no pidfds", hint="use send_signal and wait_gone, which have a fallback")
    proven = False
    try:
        proven = _is_same(identity, fd)
    finally:
        if not proven:
            os.close(fd)
    return fd if proven else None


def send_signal(identity: ProcessIdentity, signal_number: int) -> bool:
    """Signal exactly this process; ``False`` if it is gone. Raises ``PermissionError`` if it is there but not ours."""
    from coordinator.errors import Unsupported

    try:
        fd = open_proven(identity)
    except Unsupported:
        return _send_by_pid(identity, signal_number)
    if fd is None:
        return False
    try:
        signal.pidfd_send_signal(fd, signal_number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def wait_gone(identity: ProcessIdentity, timeout_s: float) -> bool:
    """Wait until the process is gone (a zombie is); ``False`` if it still lives after ``timeout_s``."""
    from coordinator.errors import Unsupported

    deadline_s = time.monotonic() + timeout_s
    try:
        fd = open_proven(identity)
    except (Unsupported, OSError):
        while not observe(identity).is_gone:
            if time.monotonic() >= deadline_s:
                return False
            time.sleep(_POLL_S)
        return True
    if fd is None:
        return observe(identity).is_gone  # not gone: another pid namespace, where nothing can be waited for
    try:
        return is_ended(fd, max(0.0, deadline_s - time.monotonic()))
    finally:
        os.close(fd)


def is_ended(pidfd: int, timeout_s: float = 0.0) -> bool:
    """Tell whether the process of a pidfd has ended (all its threads), waiting for it up to ``timeout_s``."""
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(timeout_s * 1000))


def holds_pid(pidfd: int) -> bool:
    """Tell whether a pidfd's process still holds its pid: living, or a zombie that nobody has reaped.

    As long as it does, nobody else can have the pid: what was read of the pid since the pidfd was opened, was read of it.
    """
    try:
        signal.pidfd_send_signal(pidfd, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def boot_id() -> str:
    """Return what names this boot of the machine (kept)."""
    global _boot_id
    if _boot_id is None:
        if sys.platform == "darwin":
            from coordinator.system import macos

            _boot_id = macos.boot_id()
        else:
            _boot_id = (read_small("/proc/sys/kernel/random/boot_id") or b"unknown").decode().strip()
    return _boot_id


def machine() -> str:
    """Return what names this machine (kept): a digest of ``/etc/machine-id``, empty where there is none."""
    global _machine
    if _machine is None:
        data = (read_small("/etc/machine-id") or b"").strip()
        # The id itself is to be kept confidential (machine-id(5)); a digest for this program alone names it as well.
        _machine = sha256(b"crewkeep " + data).hexdigest()[:16] if len(data) >= 32 else ""
    return _machine


def pid_namespace() -> int:
    """Return the inode of the pid namespace in which our pids are numbers; 0 where there are none."""
    global _pid_namespace
    if _pid_namespace is None:
        try:
            _pid_namespace = os.stat("/proc/self/ns/pid").st_ino
        except OSError:
            _pid_namespace = 0
    return _pid_namespace


def start_ticks(pid: int) -> int | None:
    """Return the start time of whoever has this pid, ``None`` if nobody."""
    if sys.platform == "darwin":
        from coordinator.system import macos

        return macos.start_token(pid)
    found = read_stat(pid)
    return None if found is None else found.start_ticks


def name_of(pid: int) -> str:
    """Return the name that the process gives itself, for people; empty if there is no such process."""
    if sys.platform == "darwin":
        from coordinator.system import macos

        return macos.name_of(pid)
    found = read_stat(pid)
    return "" if found is None else found.name


class _IsThread(Exception):
    """The pid names a thread that leads no process."""


def _observe_linux(identity: ProcessIdentity, fd: int | None) -> Liveness:
    found = read_stat(identity.pid)
    inode = None if fd is None else _inode(fd)
    if inode is not None and identity.pidfd_inode is not None:
        if inode != identity.pidfd_inode:
            return Liveness.REUSED
    elif found is not None and found.start_ticks != identity.start_ticks:
        return Liveness.REUSED
    if found is None:
        if fd is None or not holds_pid(fd):
            return Liveness.EXITED
        # It is there but /proc hides it (hidepid). Its inode, if known, says who it is.
        return Liveness.ALIVE if inode is not None and identity.pidfd_inode is not None else Liveness.UNKNOWN
    if found.state in "ZXx" and (fd is None or is_ended(fd)):
        return Liveness.ZOMBIE
    if found.state in "Tt":
        return Liveness.STOPPED
    if found.state in "SD" and _is_frozen(identity.pid):
        return Liveness.STOPPED
    return Liveness.ALIVE


def _is_same(identity: ProcessIdentity, fd: int) -> bool:
    """Prove an opened pidfd: its inode, or the start ticks read while the pid is still held by it."""
    inode = _inode(fd)
    if inode is not None and identity.pidfd_inode is not None:
        return inode == identity.pidfd_inode
    return start_ticks(identity.pid) == identity.start_ticks and holds_pid(fd)


def _open_pidfd(pid: int) -> int | None:
    """Open a pidfd. ``None`` where there are none; raises ``ProcessLookupError``, ``_IsThread`` or ``OSError``."""
    import errno

    if not hasattr(os, "pidfd_open"):
        return None
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            raise _IsThread from error
        if error.errno in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            return None  # an old kernel, or a sandbox that forbids the call
        raise


def _inode(fd: int) -> int | None:
    """Return the pidfd's inode where it means one process; before pidfs all pidfds shared that of anonymous files."""
    global _anonymous_device
    status = os.fstat(fd)
    if _anonymous_device is None:
        other = os.eventfd(0)
        try:
            _anonymous_device = os.fstat(other).st_dev
        finally:
            os.close(other)
    return None if status.st_dev == _anonymous_device else status.st_ino


def _is_frozen(pid: int) -> bool:
    """Tell whether the process's control group is frozen; such a process shows S or D, never T."""
    for line in (read_small(f"/proc/{pid}/cgroup") or b"").decode("utf-8", "surrogateescape").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path == "/":
            continue  # the root group cannot be frozen
        if number == "0":
            for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
                if b"frozen 1" in (read_small(f"{mount}{path}/cgroup.events") or b""):
                    return True
        elif (
            "freezer" in controllers.split(",")
            and (read_small(f"/sys/fs/cgroup/freezer{path}/freezer.state") or b"")[:2] == b"FR"
        ):
            return True  # FROZEN or FREEZING, not THAWED
    return False


def _send_by_pid(identity: ProcessIdentity, signal_number: int) -> bool:
    """The fallback without pidfds: compare, then signal at once."""
    if observe(identity) not in (Liveness.ALIVE, Liveness.STOPPED):
        return False
    try:
        os.kill(identity.pid, signal_number)
    except ProcessLookupError:
        return False
    return True


def _forget_self() -> None:
    global _self, _pid_namespace
    _self = _pid_namespace = None


_self: ProcessIdentity | None = None
_boot_id: str | None = None
_machine: str | None = None
_pid_namespace: int | None = None
_anonymous_device: int | None = None
os.register_at_fork(after_in_child=_forget_self)
