"""What a program names its terminal's window: where some agents show that they wait for a permission. Pure."""

from __future__ import annotations

import re

_TITLE = re.compile(rb"\x1b\][02];([^\x07\x1b]{0,256})(?:\x07|\x1b\\)")
_BEGINS = re.compile(rb"\x1b(?:\][02]?(?:(?<=[02]);[^\x07\x1b]*)?)?")
_LIMIT_BYTES = 300


class TitleReader:
    """Reads output that is cut anywhere; remembers the beginning of a title that stood at its end."""

    def __init__(self) -> None:
        self._cut = b""

    def read(self, output: bytes) -> bytes | None:
        """Return the last title that became complete with ``output``, ``None`` if none did."""
        if self._cut:
            output, self._cut = self._cut + output, b""
        elif b"\x1b" not in output:
            return None
        titles = _TITLE.findall(output)
        begun = output.rfind(b"\x1b", max(0, len(output) - _LIMIT_BYTES))
        if begun >= 0 and _BEGINS.fullmatch(output, begun):
            self._cut = output[begun:]
        return titles[-1] if titles else None
