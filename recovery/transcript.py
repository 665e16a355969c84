"""The state of an agent's transcript: a file of another program's, usually one JSON value a line, appended to.

Only its end is read, since that is what a crash spoils: a last line cut short, or (after power loss) zero bytes where the file
system had given space but never got the data.

Not promised: that the lines before the end make sense to the agent; that is its adapter's knowledge.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from enum import StrEnum

#: How much of the end is read; a longer last line is looked for in steps of it.
_STEP_BYTES = 1 << 16
_LINE_LIMIT_BYTES = 32 << 20
_LINE_SUFFIXES = (".jsonl", ".ndjson")


class TranscriptState(StrEnum):
    """What the end of the file looks like."""

    WHOLE = "whole"
    MISSING = "missing"
    EMPTY = "empty"
    #: Nothing but zero bytes.
    ZERO_FILLED = "zero-filled"
    #: Whole lines, then zero bytes.
    ZERO_TAIL = "zero-filled tail"
    #: The last line is cut short (normal while the agent is just writing it).
    TORN = "torn tail"
    #: The file system did not let us look, or it is no regular file.
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptSight:
    """What was found."""

    state: TranscriptState
    size_bytes: int = 0
    #: How many bytes from the beginning end with a whole line.
    whole_bytes: int = 0

    @property
    def is_lost(self) -> bool:
        """Nothing in it can be used."""
        return self.whole_bytes == 0

    @property
    def is_damaged(self) -> bool:
        """It is not what its agent wrote (a torn last line is: the agent died in the middle of it)."""
        return self.state not in (TranscriptState.WHOLE, TranscriptState.TORN)


def look_at_transcript(path: str | os.PathLike[str]) -> TranscriptSight:
    """Look at a transcript. Never raises."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return TranscriptSight(state=TranscriptState.MISSING)
    except (OSError, ValueError):
        return TranscriptSight(state=TranscriptState.UNREADABLE)
    try:
        return look_at_open(fd, by_lines=os.fspath(path).endswith(_LINE_SUFFIXES))
    finally:
        os.close(fd)


def look_at_open(fd: int, *, by_lines: bool) -> TranscriptSight:
    """Look at a transcript that is open. Never raises."""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return TranscriptSight(state=TranscriptState.UNREADABLE)
        size = status.st_size
        if size == 0:
            return TranscriptSight(state=TranscriptState.EMPTY)
        end = _find_end_of_data(fd, size)
        if end == 0:
            return TranscriptSight(state=TranscriptState.ZERO_FILLED, size_bytes=size)
        whole = _find_end_of_lines(fd, end) if by_lines else end
    except OSError:
        return TranscriptSight(state=TranscriptState.UNREADABLE)
    state = TranscriptState.ZERO_TAIL if end < size else TranscriptState.TORN if whole < end else TranscriptState.WHOLE
    return TranscriptSight(state=state, size_bytes=size, whole_bytes=whole)


def _find_end_of_data(fd: int, size: int) -> int:
    """Return where the zero bytes at the end begin; ``size`` if there are none."""
    end = size
    while end > 0:
        start = max(0, end - _STEP_BYTES)
        data = os.pread(fd, end - start, start)
        if rest := data.rstrip(b"\0"):
            return start + len(rest)
        end = start
    return 0


def _find_end_of_lines(fd: int, end: int) -> int:
    """Return the end of the last whole line within the first ``end`` bytes."""
    start, data = end, b""
    while start > 0 and len(data) < _LINE_LIMIT_BYTES:
        start = max(0, start - _STEP_BYTES)
        data = os.pread(fd, end - start, start)
        if (cut := data[:-1].rfind(b"\n")) >= 0:
            break
    else:
        cut = -1
    last = data[cut + 1 :]
    # Some writers end a line before it, not after it: a last line that is a value of its own is whole.
    return end if _is_json(last) else start + cut + 1


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True
