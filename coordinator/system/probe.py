"""Could a file be written in this directory just now? The only true answer is to write one.

A probe file is created, written, made durable, renamed and removed; the first call that fails is named with its errno. A file
system that hangs would hang the prober with it, in a state in which no thread can be cancelled, so ``probe_apart`` lets a
child process do it and gives up on that child after a time.
"""

from __future__ import annotations

import errno
import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path

from coordinator.system import failpoints, files

#: The cause of a probe that did not answer in time.
TIMEOUT = "TIMEOUT"


@dataclass(frozen=True, kw_only=True, slots=True)
class Probe:
    """What a probe met: nothing (``cause`` is ``None``), or the first call that failed."""

    #: Name of the errno, or ``TIMEOUT``.
    cause: str | None = None
    #: write, make durable, rename or remove.
    operation: str | None = None


def probe_directory(path: Path) -> Probe:
    """Try the directory in this process. Never raises; may hang as long as the file system does."""
    operation = "write"
    mark = files.name_temporary("probe")
    first, second = path / mark, path / f"{mark}-renamed"
    try:
        failpoints.hit("probe.write")
        fd = os.open(first, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"probe")
            operation = "make durable"
            failpoints.hit("probe.fsync")
            os.fsync(fd)
        finally:
            os.close(fd)
        operation = "rename"
        failpoints.hit("probe.rename")
        os.rename(first, second)
        operation = "remove"
        failpoints.hit("probe.unlink")
        os.unlink(second)
    except OSError as error:
        files.remove_quietly(first)
        files.remove_quietly(second)
        return Probe(cause=errno.errorcode.get(error.errno or 0, "EIO"), operation=operation)
    return Probe()


def probe_apart(path: Path, timeout_s: float) -> Probe:
    """Try the directory in a child process and wait for it up to ``timeout_s``. For processes without threads.

    A child that hangs in the kernel cannot be ended; it is killed, and left to die when the file system answers.
    """
    readable, writable = os.pipe()
    try:
        try:
            pid = os.fork()
        except OSError:  # no room for a process: the directory can still be tried here
            return probe_directory(path)
        if pid == 0:
            _answer(path, writable)
        os.close(writable)
        writable = -1
        ready, _, _ = select.select([readable], [], [], timeout_s)
        data = os.read(readable, 200) if ready else b""
        if not ready:
            os.kill(pid, signal.SIGKILL)  # our own child that nobody has waited for: its pid is still its own
            os.waitpid(pid, os.WNOHANG)
            return Probe(cause=TIMEOUT, operation="write")
        os.waitpid(pid, 0)
    finally:
        os.close(readable)
        if writable >= 0:
            os.close(writable)
    cause, _, operation = data.decode().partition("|")
    return Probe(cause=cause or None, operation=operation or None)


def _answer(path: Path, writable: int) -> None:
    """In the child: probe, tell, and be gone without running anything of the parent's."""
    try:
        found = probe_directory(path)
        os.write(writable, f"{found.cause or ''}|{found.operation or ''}".encode())
    finally:
        os._exit(0)
