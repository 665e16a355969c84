"""One question to a local socket and its answer, with next to nothing imported: for programs that live for some milliseconds.

Only the standard library's smallest parts are used here, and nothing of the house: what ``sockets`` and ``control`` load costs
as much as all the rest of such a program. Not promised: more than one exchange, or a long path on systems without ``/proc``.
"""

from __future__ import annotations

import os
import socket


class Line:
    """A connection to the socket at ``path``, for as long as the block. Raises ``OSError`` (a timeout is one)."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._connect(path)
        except BaseException:
            self._socket.close()
            raise

    def _connect(self, path: str) -> None:
        directory, _, name = path.rpartition("/")
        if not os.path.isdir("/proc/self/fd"):
            self._socket.connect(path)
            return
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._socket.connect(f"/proc/self/fd/{fd}/{name}")  # of any length: the kernel takes 107 bytes of a path
        finally:
            os.close(fd)

    def ask(self, kind: int, question: bytes) -> bytes:
        """Send one frame and return the payload of the one that answers it. Raises ``OSError``."""
        self._socket.sendall(bytes([kind]) + len(question).to_bytes(4) + question)
        head = self._receive(5)
        return self._receive(int.from_bytes(head[1:]))

    def _receive(self, count: int) -> bytes:
        parts = []
        while count > 0:
            part = self._socket.recv(min(count, 1 << 16))
            if not part:
                raise ConnectionResetError("hung up before the answer")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
