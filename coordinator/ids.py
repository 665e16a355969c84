"""Ids that sort by the time of their making, and the names that people give.

An id is 12 characters of Crockford's base 32 in lower case: 7 of seconds since 1970, 5 of chance. Two sessions of one
second differ from the eighth character on.
"""

from __future__ import annotations

import os
import re

from coordinator.errors import InvalidInput

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_TIME_CHARACTERS, _CHANCE_CHARACTERS = 7, 5
ID_PATTERN = re.compile(r"[0-9a-hjkmnp-tv-z]{12}")
_NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DEVICE_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))})


def new_id(now_s: float) -> str:
    """Return a fresh id for the wall-clock time ``now_s``."""
    return _encode(int(now_s), _TIME_CHARACTERS) + _encode(int.from_bytes(os.urandom(4)) >> 7, _CHANCE_CHARACTERS)


def new_nonce() -> str:
    """Return 128 bits of chance as hex: the mark that an incarnation's processes inherit."""
    return os.urandom(16).hex()


def check_name(name: str) -> str:
    """Return ``name`` if it may name a session, else raise ``InvalidInput`` with the rule it breaks."""
    if not _NAME_PATTERN.fullmatch(name) or name.lower() in _DEVICE_NAMES:
        raise InvalidInput(
            f"{name!r:.80} cannot name a session",
            hint="use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
            name=name,
        )
    return name


def _encode(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, low = divmod(number, 32)
        digits.append(_ALPHABET[low])
    return "".join(reversed(digits))
