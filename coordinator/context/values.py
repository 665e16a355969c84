"""Values: JSON that comes back as it went in, checked before anything is touched. Pure.

The walk is iterative and counts what it has seen, so neither depth, nor cycles, nor a value that holds itself a
thousand times over can exhaust the process.
"""

from __future__ import annotations

import math
from typing import Any

import orjson

from coordinator.config import VALUE_DEPTH_LIMIT, VALUE_LIMIT_BYTES
from coordinator.errors import InvalidInput

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1
_PLAIN, _LONG = 64, 1 << 16
_KINDS: tuple[type, ...] = (str, int, dict, float, list, tuple)
_HINT = "values are JSON: null, true, false, 64-bit integers, finite numbers, text, lists, objects with text as keys"


def encode_value(value: Any) -> bytes:
    """Return the value as JSON. Raises ``InvalidInput`` with the rule it breaks."""
    if not _is_plain(value):
        _check(value)
    try:
        data = orjson.dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"the value is not JSON: {str(error)[:200]}", hint=_HINT) from error
    if len(data) > VALUE_LIMIT_BYTES:
        raise InvalidInput(
            f"the value has {len(data)} bytes as JSON, more than {VALUE_LIMIT_BYTES}",
            hint="keep large things in files and their path in the context",
        )
    return data


def decode_value(data: bytes | memoryview) -> Any:
    """Return a fresh copy of an encoded value."""
    return orjson.loads(data)


def _is_plain(value: Any) -> bool:
    """Tell quickly of an object of short texts and small numbers, which most values are, that it needs no closer look."""
    if type(value) is not dict or len(value) > _PLAIN:
        return False
    for name, item in value.items():
        kind = type(item)
        if kind is str:
            if len(item) > _LONG or not item.isascii():
                return False
        elif kind is int:
            if not _LOWEST <= item <= _HIGHEST:
                return False
        elif item is not None and kind is not bool:
            return False
        if type(name) is not str or len(name) > _LONG or not name.isascii():
            return False
    return True


def _check(value: Any) -> None:
    count = 0
    level = [value]
    for _ in range(VALUE_DEPTH_LIMIT + 1):
        below: list[Any] = []
        for item in level:
            if item is None or item is True or item is False:
                continue
            kind = type(item)
            if kind not in _KINDS:
                kind = next((kind for kind in _KINDS if isinstance(item, kind)), kind)  # orjson takes subclasses as well
            if kind is str:
                if not item.isascii() or len(item) > VALUE_LIMIT_BYTES:
                    _check_text(item)
            elif kind is dict:
                for name in item:
                    if type(name) is not str or not name.isascii() or len(name) > VALUE_LIMIT_BYTES:
                        _check_name(name)
                below.extend(item.values())
            elif kind is int:
                if not _LOWEST <= item <= _HIGHEST:
                    raise InvalidInput("the value holds an integer that does not fit 64 bits", hint=_HINT)
            elif kind is float:
                if not math.isfinite(item):
                    raise InvalidInput(f"the value holds {item!r}, which JSON does not have", hint=_HINT)
            elif kind is list or kind is tuple:
                below.extend(item)
            else:
                raise InvalidInput(f"the value holds a {kind.__name__}, which is not JSON", hint=_HINT)
            if len(below) > VALUE_LIMIT_BYTES:
                break
        count += len(below)
        # Each part takes at least one byte, so this many cannot fit.
        if count > VALUE_LIMIT_BYTES:
            raise InvalidInput(f"the value has more than {VALUE_LIMIT_BYTES} parts", hint="split it over several keys")
        if not below:
            return
        level = below
    raise InvalidInput(f"the value is nested deeper than {VALUE_DEPTH_LIMIT}", hint="flatten it, or keep it as text")


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise InvalidInput(f"an object's key is of type {type(name).__name__}, not text", hint=_HINT)
    _check_text(name)


def _check_text(text: str) -> None:
    if len(text) > VALUE_LIMIT_BYTES:
        raise InvalidInput(f"the value holds text of {len(text)} characters, more than {VALUE_LIMIT_BYTES} bytes", hint=_HINT)
    if text.isascii():
        return
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the value holds text with the lone surrogate {text[error.start]!a}", hint=_HINT) from None
