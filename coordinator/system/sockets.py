"""Local sockets at paths of any length, answered only to the same user.

The kernel takes about 107 bytes of a socket's path. On Linux the directory is opened and the socket reached as
``/proc/self/fd/N/name``; elsewhere a path that is too long is replaced by one below a private directory (0700) of the
temporary directory, named by the hash of the real one.

Not promised: that the one who listens lives on; a stopped process's socket still takes connections, so wait with a
timeout for every answer.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coordinator.digests import sha256
from coordinator.errors import Missing, Refused, StorageError, TimedOut
from coordinator.system import files

_BACKLOG = 64
#: What every system takes (macOS 104, Linux 108, with the ending zero).
_PATH_LIMIT_BYTES = 103
_PAUSE_S = 0.005


def listen(path: Path) -> socket.socket:
    """Listen at ``path`` (mode 0600) and return the listener, non-blocking. What was at the path is replaced.

    Whoever listened there before is not asked: a stopped process would still seem to answer. That the caller may take
    the place over is decided by a lock or an epoch, not here. Raises ``StorageError``.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    temporary = files.name_temporary(path.name)
    try:
        with _short(path, make=True) as (directory, name):
            # Bound aside and renamed: there is no moment without a socket, and two who race leave one that works.
            listener.bind(f"{directory}/{temporary}")
            os.chmod(f"{directory}/{temporary}", 0o600)
            listener.listen(_BACKLOG)
            os.rename(f"{directory}/{temporary}", f"{directory}/{name}")
    except OSError as error:
        listener.close()
        raise StorageError.from_os(error, "listen at", path) from error
    listener.setblocking(False)
    return listener


def accept(listener: socket.socket) -> socket.socket | None:
    """Take the next connection of the same user (or root), non-blocking; ``None`` if there is none. Others are hung up on."""
    while True:
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            if error.errno == errno.ECONNABORTED:
                continue
            raise
        if _is_ours(connection):
            connection.setblocking(False)
            return connection
        connection.close()


def connect(path: Path, timeout_s: float) -> socket.socket:
    """Connect to who listens at ``path``; the socket's timeout is ``timeout_s``.

    Raises ``Missing`` if nobody listens, ``TimedOut`` if too many wait there already, ``Refused`` if the listener
    belongs to another user.
    """
    deadline_s = time.monotonic() + timeout_s
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        while True:
            try:
                with _short(path) as (directory, name):
                    connection.connect(f"{directory}/{name}")
                break
            except (BlockingIOError, TimeoutError) as error:
                if time.monotonic() + _PAUSE_S >= deadline_s:
                    raise TimedOut(f"nobody took the connection at {path} within {timeout_s:g} s", hint="try again") from error
                time.sleep(_PAUSE_S)
        if not _is_ours(connection):
            raise Refused(f"who listens at {path} belongs to another user", hint="set CREWKEEP_HOME to a directory of your own")
        return connection
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
        connection.close()
        raise Missing(f"nobody listens at {path}", hint="its process is gone; see `crewkeep ps`") from error
    except OSError as error:
        connection.close()
        if isinstance(error, TimedOut):
            raise
        raise StorageError.from_os(error, "connect to", path) from error
    except BaseException:
        connection.close()
        raise


def peer_pid(connection: socket.socket) -> int | None:
    """Return the pid of the other end at the time it connected or listened; ``None`` where the system does not tell."""
    if hasattr(socket, "SO_PEERCRED"):
        size = struct.calcsize("3i")
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]) or None
    return None


def _is_ours(connection: socket.socket) -> bool:
    try:
        if hasattr(socket, "SO_PEERCRED"):
            size = struct.calcsize("3i")
            user = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
        else:  # macOS: struct xucred {version, uid, ...} by LOCAL_PEERCRED of SOL_LOCAL
            user = struct.unpack_from("Ii", connection.getsockopt(0, 1, 76))[1]
    except OSError:
        return False
    return user in (os.geteuid(), 0)


@contextmanager
def _short(path: Path, *, make: bool = False) -> Iterator[tuple[str, str]]:
    """Give a directory and a name that reach ``path`` in few bytes, for the length of the block."""
    if sys.platform == "linux" and os.path.isdir("/proc/self/fd"):
        fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}", path.name
        finally:
            os.close(fd)
        return
    if len(os.fsencode(path)) + 40 <= _PATH_LIMIT_BYTES:
        yield str(path.parent), path.name
        return
    import tempfile  # only where the trick is not known

    directory = Path(tempfile.gettempdir()) / f"crewkeep-{os.geteuid()}"
    if make:
        os.makedirs(directory, 0o700, exist_ok=True)
    files.check_private(directory)
    yield str(directory), sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
