"""How things are printed: JSON for scripts; tables, ages and a little colour for people."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from coordinator.errors import InvalidInput

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36", "dim": "2", "bold": "1"}
_STATE_COLOURS = {
    "waiting": "yellow",
    "crashed": "red",
    "failed": "red",
    "hung": "red",
    "recovering": "cyan",
    "starting": "cyan",
    "working": "green",
    "parked": "yellow",
    "stopped": "dim",
    "done": "dim",
}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", re.ASCII)
_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def encode_json(value: Any, stream: TextIO | None = None, *, indent: int | None = None) -> str:
    """Return ``value`` as JSON that ``stream`` (stdout) can carry, whatever its encoding."""
    encoding = ((stream or sys.stdout).encoding or "").lower().replace("-", "")
    # On a UTF-8 stream the error handler turns a lone surrogate into the very escape that JSON has for it.
    return json.dumps(value, ensure_ascii=encoding != "utf8", indent=indent, default=str)


def print_json(value: Any) -> None:
    """Print one JSON object or array: one line for scripts, indented on a terminal."""
    sys.stdout.write(encode_json(value, indent=2 if sys.stdout.isatty() else None) + "\n")


def print_json_line(value: Any) -> None:
    """Print one line of NDJSON, at once."""
    sys.stdout.write(encode_json(value) + "\n")
    sys.stdout.flush()


def print_line(text: str = "") -> None:
    """Print a line of data."""
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Tell the user something that is no data, without control characters: it may name what an agent chose."""
    sys.stderr.write(make_printable_lines(text) + "\n")
    sys.stderr.flush()


def uses_colour(stream: TextIO) -> bool:
    """Tell whether ``stream`` may be coloured: a terminal, not a dumb one, and nobody said no."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") not in ("dumb", "", None)


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Return ``text`` in ``colour`` if the stream (stdout) may be coloured."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and uses_colour(stream or sys.stdout) else text


def paint_state(state: str, width: int = 0) -> str:
    """Return a session's state in its colour, padded to ``width``."""
    return paint(state.ljust(width), _STATE_COLOURS.get(state, ""))


def make_printable(text: object) -> str:
    """Return text without control characters: what an agent chose must not steer the reader's terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", str(text))


def make_printable_lines(text: str) -> str:
    """Return text of several lines without any other control characters."""
    return "\n".join(make_printable(line) for line in text.splitlines())


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, states: Sequence[int] = (), stream: TextIO | None = None
) -> None:
    """Print aligned columns; on a terminal the last one is cut to fit. ``states``: columns that hold a state or verdict."""
    stream = stream or sys.stdout
    texts = [["-" if cell in (None, "") else make_printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[index]) for row in [list(headings), *texts]) for index in range(len(headings))]
    limit = shutil.get_terminal_size().columns if stream.isatty() or os.environ.get("COLUMNS") else 0
    if limit:
        widths[-1] = max(min(widths[-1], limit - sum(widths[:-1]) - 2 * (len(widths) - 1)), 8)
    stream.write("  ".join(text.ljust(width) for text, width in zip(headings, widths, strict=True)).rstrip() + "\n")
    for row in texts:
        cells = []
        for index, (text, width) in enumerate(zip(row, widths, strict=True)):
            if len(text) > width:
                text = text[: width - 1] + "…"
            padded = text.ljust(width) if index < len(widths) - 1 else text
            cells.append(paint(padded, _STATE_COLOURS.get(text.lower(), ""), stream) if index in states else padded)
        stream.write("  ".join(cells).rstrip() + "\n")


def format_time(seconds: float | None) -> str | None:
    """Return a wall-clock time as ISO-8601 UTC with milliseconds, or ``None``."""
    if seconds is None:
        return None
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_age(seconds: float | None) -> str:
    """Return a length of time in its largest unit: ``8s``, ``5m``, ``3h``, ``2d``; ``-`` for ``None``."""
    if seconds is None:
        return "-"
    seconds = max(seconds, 0)
    for unit, size, below in (("s", 1, 100), ("m", 60, 100), ("h", 3600, 48)):
        if seconds < size * below:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds // 86_400)}d"


def format_bytes(count: float) -> str:
    """Return a size for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def parse_duration(text: str, what: str) -> float:
    """Return the seconds of ``90s``, ``5m``, ``1h30m`` or a bare number. Raises ``InvalidInput`` naming ``what``."""
    text, position, total_s = text.strip(), 0, 0.0
    while match := _DURATION.match(text, position):
        total_s += float(match[1]) * _UNITS_S[match[2] or "s"]
        position = match.end()
    if not text or position != len(text):
        raise InvalidInput(f"{what} cannot be {text!r}", hint="give a length of time such as 90s, 5m or 1h30m")
    return total_s
