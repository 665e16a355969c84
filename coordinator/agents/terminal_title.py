"""What a program names its terminal's window: where some agents show that they wait for a permission. Pure."""

from __future__ import annotations

import re

_TITLE = re.compile(rb"\x1b\][02];([^\x07\x1b]{0,256})(?:\x07|\x1b\\)")
#: A title at the end of the output that is not complete, perhaps for half of the two bytes that may end it.
_CUT = re.compile(rb"\x1b(?:\](?:[02](?:;[^\x07\x1b]*\x1b?)?)?)?\Z")
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
        if cut := _CUT.search(output, max(0, len(output) - _LIMIT_BYTES)):
            self._cut = cut[0]
        return titles[-1] if titles else None
