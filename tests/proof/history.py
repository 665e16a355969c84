"""Histories: what many processes asked of a few keys, what they were told, and when; as records in files of fixed-size entries.

Times are of CLOCK_MONOTONIC in nanoseconds, comparable between the processes of one boot. A write is noted before it is made
and once more after it; one that was only noted before has no known outcome: it may count, at any time later, or not.
"""

from __future__ import annotations

import os
import struct
from collections import defaultdict
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

#: Stands for the end of what never returned.
FOREVER = 1 << 62
#: The token of a deletion. Tokens of values are above 0 and never given twice.
GONE = 0


class Kind(IntEnum):
    GET = 1
    #: The newest of ``history``: tells the version of a deletion too.
    NEWEST = 2
    PUT = 3
    CAS = 4
    DELETE = 5
    #: A put whose base, the token it was made from, is known.
    UPDATE = 6


class Outcome(IntEnum):
    #: Begun; the end is not known.
    UNKNOWN = 0
    DONE = 1
    #: Refused: the key was at another version (0: absent).
    CONFLICT = 2
    #: There was nothing to get or to delete.
    ABSENT = 3
    #: Refused without looking; nothing was written.
    REFUSED = 4


WRITES = (Kind.PUT, Kind.CAS, Kind.DELETE, Kind.UPDATE)


class Act(NamedTuple):
    """One call and its answer."""

    kind: int
    key: int
    outcome: int
    invoked: int
    returned: int
    #: DONE: the version read or written. CONFLICT: the version met.
    version: int = 0
    #: The token read or written.
    token: int = GONE
    #: CAS: the version expected. UPDATE: the token of the base, GONE for none.
    expected: int = 0


_ENTRY = struct.Struct("<BBBxIqqQQQ")
ENTRY_BYTES = _ENTRY.size


class Recorder:
    """Notes the acts of one process. Every entry is one system call, so that kill -9 leaves it whole."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._count = 0

    def begin(self, act: Act) -> None:
        """Note a write that is about to be made."""
        self._count += 1
        self._note(act)

    def end(self, act: Act) -> None:
        """Note the answer to the write begun last, or a read."""
        if act.kind not in WRITES:
            self._count += 1
        self._note(act)

    def _note(self, act: Act) -> None:
        data = _ENTRY.pack(
            act.kind, act.key, act.outcome, self._count, act.invoked, act.returned, act.version, act.token, act.expected
        )
        os.write(self._fd, data)


def read_history(paths: list[Path]) -> dict[int, list[Act]]:
    """Return the acts by key, those of one process in their order."""
    found: dict[int, list[Act]] = defaultdict(list)
    for path in paths:
        acts: dict[int, Act] = {}
        for kind, key, outcome, number, *rest in _ENTRY.iter_unpack(path.read_bytes()):
            acts[number] = Act(kind, key, outcome, *rest)
        for act in acts.values():
            found[act.key].append(act)
    return dict(found)
