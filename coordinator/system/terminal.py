"""Pseudo-terminals: an agent started on one of its own, and the user's terminal while it is attached.

The agent leads its own OS session with the pseudo-terminal as its controlling terminal; whoever holds the master sees
what it writes and types to it. How starting works and fails is told in ``spawn``.
"""

from __future__ import annotations

import fcntl
import os
import signal
import struct
import sys
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import StartFailed
from coordinator.system import cgroup as cgroups
from coordinator.system import spawn
from coordinator.system.processes import ProcessIdentity
from coordinator.system.spawn import become_subreaper

__all__ = [
    "Spawned",
    "spawn_on_terminal",
    "set_window_size",
    "get_window_size",
    "has_unread_input",
    "is_raw",
    "raw_mode",
    "become_subreaper",
]

_DEFAULT_ROWS, _DEFAULT_COLUMNS = 24, 80
#: Line editing erases whole UTF-8 characters (Linux and macOS give it different values; Python does not name it).
_IUTF8 = 0x4000
#: Linux: open the other end of the terminal whose master this is. Python does not name it.
_TIOCGPTPEER = 0x5441


@dataclass(frozen=True, kw_only=True, slots=True)
class Spawned:
    """A program that runs on a terminal of its own. The caller reaps it and closes the master."""

    pid: int
    #: Our end of its terminal; closed on exec, blocking.
    master_fd: int
    identity: ProcessIdentity


def spawn_on_terminal(
    argv: Sequence[str],
    *,
    cwd: str,
    environment: Mapping[str, str],
    rows: int = _DEFAULT_ROWS,
    columns: int = _DEFAULT_COLUMNS,
    cgroup: Path | None = None,
) -> Spawned:
    """Start ``argv`` on a new pseudo-terminal; it is in ``cgroup`` (where that works) before its first instruction.

    Raises ``StartFailed`` with its ``reason`` when the program cannot be executed, ``InvalidInput`` for text that no
    system can pass on, ``TimedOut``; then no process and no descriptor is left.
    """
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise StartFailed(
            f"there is no terminal to start {argv[0] if argv else 'it'} on: {error.strerror}",
            hint="end something; the system limits terminals (kernel.pty.max)",
            program=argv[0] if argv else "",
            reason="no-room",
        ) from error
    try:
        _prepare(slave, rows, columns)
        identity = spawn.start(
            argv,
            cwd=cwd,
            environment=environment,
            stdio=(slave, slave, slave),
            in_child=_take_terminal,
            before_go=None if cgroup is None else lambda pid: cgroups.join(cgroup, pid),
        )
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return Spawned(pid=identity.pid, master_fd=master, identity=identity)


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Tell a terminal (either end) its size; its foreground program gets SIGWINCH if it changed. Never fails."""
    try:
        termios.tcsetwinsize(fd, (_bound(rows), _bound(columns)))
    except (termios.error, OSError, ValueError):
        return  # the other end is gone, or there never was one


def get_window_size(fd: int) -> tuple[int, int]:
    """Return rows and columns; 24 and 80 where there is no terminal or it does not know."""
    try:
        rows, columns = termios.tcgetwinsize(fd)
    except (termios.error, OSError, ValueError):
        return _DEFAULT_ROWS, _DEFAULT_COLUMNS
    return rows or _DEFAULT_ROWS, columns or _DEFAULT_COLUMNS


def is_raw(fd: int) -> bool:
    """Tell whether the program on this terminal reads single keys (line editing is off). Works on the master too."""
    try:
        flags: int = termios.tcgetattr(fd)[3]
    except (termios.error, OSError, ValueError):
        return False
    return not flags & termios.ICANON


def has_unread_input(master_fd: int) -> bool:
    """Tell whether the program has not yet read all that was typed; ``False`` where the system does not tell (not Linux)."""
    if sys.platform != "linux":
        return False
    try:
        peer = fcntl.ioctl(master_fd, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError):
        return False  # the program has closed its end for good
    try:
        waiting: int = struct.unpack("i", fcntl.ioctl(peer, termios.FIONREAD, b"\0" * 4))[0]
        return waiting > 0
    except OSError:
        return False
    finally:
        os.close(peer)


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Pass every key through while inside; the terminal is put back in every case. No effect without a terminal."""
    try:
        before = termios.tcgetattr(fd)
    except (termios.error, OSError, ValueError):
        yield
        return
    try:
        _apply(fd, lambda: tty.setraw(fd, termios.TCSADRAIN))
        yield
    finally:
        _apply(fd, lambda: termios.tcsetattr(fd, termios.TCSADRAIN, before))


def _apply(fd: int, change: object) -> None:
    # From the background, a change would stop us with SIGTTOU: blocked, it goes through.
    assert callable(change)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        change()
    except (termios.error, OSError):
        return  # the terminal is gone; there is nothing to put back
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _prepare(slave: int, rows: int, columns: int) -> None:
    set_window_size(slave, rows, columns)
    if sys.platform in ("linux", "darwin"):
        mode = termios.tcgetattr(slave)
        mode[0] |= _IUTF8
        termios.tcsetattr(slave, termios.TCSANOW, mode)


def _take_terminal() -> None:
    """In the child: make what is on descriptor 0 the controlling terminal of its OS session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _bound(cells: int) -> int:
    return max(1, min(int(cells), 0xFFFF))
