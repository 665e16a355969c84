"""Which session bears which name: a hint, so that a start need not read the record of every session there ever was.

The hint tells where to look, the record decides: a name is borne by the session that the hint names only while that session's
record says so. It is believed only while the sessions' directory is as crewkeep left it, in the same boot; else it is made anew
from all records. All of this happens under ``sessions.lock``.

Invariants:
  - a name is in the hint before its session appears, so that a death in between leaves a name that nobody bears, never a
    bearer who is not in it
  - a missing, damaged or foreign hint costs time and nothing else
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Mapping

from coordinator.errors import CrewkeepError
from coordinator.paths import Home
from coordinator.system import failpoints, files
from coordinator.system.processes import boot_id

#: The hint is weeded when it has twice the lines of the last time, and so many more.
_SPARE_LINES = 32
_LIMIT_BYTES = 1 << 24


class Names:
    """The names that are borne in a home. For one stretch under ``sessions.lock``."""

    def __init__(self, home: Home, list_bearers: Callable[[], Mapping[str, str]], is_borne: Callable[[str, str], bool]) -> None:
        """``list_bearers`` reads all records: names and ids; ``is_borne(name, id)`` reads that one."""
        self._path, self._sessions, self._is_borne = home.names, home.sessions, is_borne
        #: How many lines the hint began with when it was last made.
        self._kept = 0
        ids = self._read()
        if ids is None:
            self._make(dict(list_bearers()))
        elif len(ids) > 2 * self._kept + _SPARE_LINES:
            self._make({name: one for name, one in ids.items() if is_borne(name, one)})
        else:
            self._ids = ids

    def find_bearer(self, name: str) -> str | None:
        """Return the id of the session that bears the name and has not ended."""
        found = self._ids.get(name)
        return found if found is not None and self._is_borne(name, found) else None

    def add(self, name: str, session_id: str) -> None:
        """Note, before it does, that the session comes to bear the name."""
        self._ids[name] = session_id
        self._write(lambda: _seal(f"{session_id} {name}"), os.O_APPEND)

    def settle(self) -> None:
        """Note, after a change of the sessions' directory, that it is as it should be."""
        self._write(self._build_head, 0)

    def _read(self) -> dict[str, str] | None:
        """Return what the hint says, ``None`` if it is not to be believed."""
        try:
            head, *lines = files.read_bounded(self._path, _LIMIT_BYTES).splitlines(keepends=True)
            self._kept = int(_unseal(head).rpartition(" ")[2])
            if head != self._build_head():
                return None
            return {name: one for one, _, name in (_unseal(line).partition(" ") for line in lines)}
        except (OSError, CrewkeepError, ValueError):
            return None

    def _make(self, ids: dict[str, str]) -> None:
        self._ids, self._kept = ids, len(ids)
        try:
            lines = [self._build_head(), *(_seal(f"{one} {name}") for name, one in ids.items())]
            files.replace_durably(self._path, b"".join(lines), durable=False)
        except (OSError, CrewkeepError, ValueError):
            self._give_up()

    def _build_head(self) -> bytes:
        """Return the first line as it is while nobody else changes the sessions' directory; always of the same length."""
        status = os.stat(self._sessions)
        return _seal(f"{boot_id():<40} {status.st_ino:020d} {status.st_mtime_ns:020d} {self._kept:010d}")

    def _write(self, build: Callable[[], bytes], flag: int) -> None:
        try:
            failpoints.hit("names.write")
            line = build()
            fd = os.open(self._path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | flag)
            try:
                files.write_all(fd, line)
            finally:
                os.close(fd)
        except (OSError, ValueError):
            self._give_up()

    def _give_up(self) -> None:
        """Without a hint the next one reads all records. It must not stay behind as something that was once right."""
        files.remove_quietly(self._path)


def _seal(text: str) -> bytes:
    """Raises ``ValueError`` for what no name of ours holds."""
    data = text.encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _unseal(line: bytes) -> str:
    """Raises ``ValueError`` for a line that is not whole."""
    if line[-1:] != b"\n" or line[8:9] != b" " or int(line[:8], 16) != zlib.crc32(line[9:-1]):
        raise ValueError("not a whole line")
    return line[9:-1].decode("ascii")
