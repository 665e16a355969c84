"""Keys: which text may be one, and which shard it belongs to. Pure."""

from __future__ import annotations

import unicodedata
import zlib

from coordinator.config import KEY_LIMIT_BYTES
from coordinator.errors import InvalidInput

#: Keys that were checked lately: most are used again and again. Arbitrary; at most a megabyte.
_CHECKED: set[str] = set()
_CHECKED_LIMIT = 2048
_HINT = "keys are paths like tasks/auth: UTF-8, at most 512 bytes, no empty, '.' or '..' parts"


def check_key(key: object) -> str:
    """Return ``key`` if it may be one, else raise ``InvalidInput`` with the rule it breaks."""
    if type(key) is str and key in _CHECKED:
        return key
    text = _check_text(key, "a key")
    if not text:
        raise InvalidInput("the empty key is not allowed", hint=_HINT)
    if text.startswith("/"):
        raise InvalidInput(f"the key {_short(text)} begins with '/'", hint=_HINT)
    for part in text.split("/"):
        if part in ("", ".", ".."):
            raise InvalidInput(f"the key {_short(text)} has the part {part!r}", hint=_HINT)
    if len(_CHECKED) >= _CHECKED_LIMIT:
        _CHECKED.clear()
    _CHECKED.add(text)
    return text


def check_prefix(prefix: object) -> str:
    """Return ``prefix`` if keys can begin with it; the empty one covers all. Raises ``InvalidInput``."""
    text = _check_text(prefix, "a prefix")
    parts = text.split("/")
    if text and (parts[0] == "" or any(part in ("", ".", "..") for part in parts[:-1])):
        raise InvalidInput(f"no key can begin with {_short(text)}", hint=_HINT)
    return text


def find_shard(key: str, shard_count: int) -> int:
    """Return the shard that a key belongs to: the same on every machine and for ever."""
    return zlib.crc32(key.encode("utf-8")) % shard_count


def _check_text(text: object, what: str) -> str:
    if not isinstance(text, str):
        raise InvalidInput(f"{what} must be text, not {type(text).__name__}", hint=_HINT)
    if len(text) > KEY_LIMIT_BYTES:
        raise InvalidInput(f"{what} of {len(text)} characters is longer than {KEY_LIMIT_BYTES} bytes", hint=_HINT)
    try:
        size_bytes = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise InvalidInput(f"{what} holds the lone surrogate {text[error.start]!a} at {error.start}", hint=_HINT) from None
    if size_bytes > KEY_LIMIT_BYTES:
        raise InvalidInput(f"{what} of {size_bytes} bytes is longer than {KEY_LIMIT_BYTES}", hint=_HINT)
    for index, character in enumerate(text):
        if (character < " " or "\x7f" <= character <= "\x9f") and unicodedata.category(character) == "Cc":
            raise InvalidInput(f"{what} holds the control character {character!a} at {index}", hint=_HINT)
    return str(text)


def _short(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:57] + "...")
