"""The key that leaves an attached terminal, however the terminal writes it.

A program may have asked for other ways to write keys (kitty's keyboard protocol, xterm's modifyOtherKeys); then
ctrl-] does not come as one byte but as a sequence, and must still be known.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from coordinator.errors import InvalidInput

_KITTY = re.compile(rb"\x1b\[(\d+(?::\d*)*);(\d+)(?::(\d))?(?:;[\d:]*)?u")
_XTERM = re.compile(rb"\x1b\[27;(\d+);(\d+)~")
_LOCKS = 64 | 128
_CTRL, _RELEASED = 4, b"3"


@dataclass(frozen=True, slots=True)
class DetachKey:
    """A control key. ``name`` is how people read it: ``ctrl-]``."""

    name: str
    byte: bytes
    #: The code of the key without control.
    code: int

    @classmethod
    def parse(cls, name: str) -> DetachKey:
        """Read ``ctrl-X``: a letter or one of ``@ [ \\ ] ^ _``. Raises ``InvalidInput``."""
        prefix, _, key = name.strip().lower().rpartition("-")
        if prefix not in ("ctrl", "control", "c") or len(key) != 1 or not "@" <= key.upper() <= "_":
            raise InvalidInput(f"detach_key cannot be {name!r}", hint="use a control key such as ctrl-] or ctrl-\\")
        return cls(f"ctrl-{key}", bytes([ord(key.upper()) & 0x1F]), ord(key))

    def find(self, data: bytes) -> int | None:
        """Return where in typed bytes the key begins; ``None`` if it was not pressed."""
        found = [at] if (at := data.find(self.byte)) >= 0 else []
        for match in _KITTY.finditer(data):
            codes = [int(code) for code in match[1].split(b":") if code]
            if self.code in codes and self._is_held(match[2]) and match[3] != _RELEASED:
                found.append(match.start())
        for match in _XTERM.finditer(data):
            if int(match[2]) == self.code and self._is_held(match[1]):
                found.append(match.start())
        return min(found, default=None)

    @staticmethod
    def _is_held(modifiers: bytes) -> bool:
        return (int(modifiers) - 1) & ~_LOCKS == _CTRL
