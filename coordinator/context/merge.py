"""Merge rules: what becomes of two writes that started from the same version. Pure.

A rule gets three values: ``base`` (what both started from), ``mine`` and ``theirs`` (what the other one committed
meanwhile); absent is ``None``. It returns the value that holds both, or raises ``Irreconcilable``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import orjson

from coordinator.context.model import MergeFunction, Value
from coordinator.errors import InvalidInput


class Irreconcilable(Exception):
    """The two cannot both hold; the caller reports the conflict."""


def last_writer(base: Value, mine: Value, theirs: Value) -> Value:
    """Mine."""
    return mine


def largest(base: Value, mine: Value, theirs: Value) -> Value:
    """The larger; an absent one loses."""
    return _pick(max, mine, theirs)


def smallest(base: Value, mine: Value, theirs: Value) -> Value:
    """The smaller; an absent one loses."""
    return _pick(min, mine, theirs)


def total(base: Value, mine: Value, theirs: Value) -> Value:
    """Theirs and what I added; absent counts as 0."""
    base, mine, theirs = (0 if value is None else value for value in (base, mine, theirs))
    if not all(_is_number(value) for value in (base, mine, theirs)):
        raise Irreconcilable("sum needs numbers")
    return theirs + (mine - base)


def union(base: Value, mine: Value, theirs: Value) -> Value:
    """A list of theirs and whatever of mine it does not hold, each once, in that order."""
    result: dict[bytes, Any] = {}
    for value in (*_list(theirs, "union"), *_list(mine, "union")):
        result.setdefault(_canonical(value), value)
    return list(result.values())


def append(base: Value, mine: Value, theirs: Value) -> Value:
    """Theirs and behind it what I appended to the base."""
    base, mine, theirs = _list(base, "append"), _list(mine, "append"), _list(theirs, "append")
    if is_same(mine[: len(base)], base):
        return theirs + mine[len(base) :]
    raise Irreconcilable("append found that the beginning was changed")


def deep_merge(base: Value, mine: Value, theirs: Value) -> Value:
    """Objects are merged member by member to any depth; elsewhere mine holds. Nothing is removed."""
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        return mine
    result = dict(theirs)
    for name, value in mine.items():
        result[name] = deep_merge(None, value, theirs[name]) if name in theirs else value
    return result


def three_way(base: Value, mine: Value, theirs: Value) -> Value:
    """What only one side changed against the base holds, removals included; objects are compared member by member."""
    merged = _three_way(base, mine, theirs)
    return None if merged is _ABSENT else merged


RULES: Mapping[str, MergeFunction] = {
    "last-writer": last_writer,
    "max": largest,
    "min": smallest,
    "sum": total,
    "union": union,
    "append": append,
    "deep-merge": deep_merge,
    "three-way": three_way,
}


def get_rule(name: str) -> MergeFunction:
    """Return the rule of that name. Raises ``InvalidInput`` listing the names."""
    rule = RULES.get(name) if isinstance(name, str) else None
    if rule is None:
        raise InvalidInput(f"there is no merge rule {name!r:.60}", hint=f"use one of {', '.join(RULES)}, or a function")
    return rule


def apply_delta(rule: MergeFunction, current: Value, delta: Value) -> Value:
    """Return ``current`` with ``delta`` brought in: added, united, appended, compared, by the rule."""
    if rule in (total, append):
        return rule(None, delta, current)
    return rule(current, delta, current)


def find_rule(prefixes: Mapping[str, MergeFunction], key: str) -> MergeFunction | None:
    """Return the rule of the longest prefix that ``key`` begins with."""
    found = max((prefix for prefix in prefixes if key.startswith(prefix)), key=len, default=None)
    return None if found is None else prefixes[found]


_ABSENT: Any = object()


def _three_way(base: Value, mine: Value, theirs: Value) -> Value:
    if is_same(mine, theirs) or is_same(base, theirs):
        return mine
    if is_same(base, mine):
        return theirs
    if not isinstance(mine, dict) or not isinstance(theirs, dict):
        raise Irreconcilable("both sides changed the same part")
    base = base if isinstance(base, dict) else {}
    result = {}
    for name in [*theirs, *(name for name in mine if name not in theirs)]:
        part = _three_way(base.get(name, _ABSENT), mine.get(name, _ABSENT), theirs.get(name, _ABSENT))
        if part is not _ABSENT:
            result[name] = part
    return result


def is_same(left: Value, right: Value) -> bool:
    """Compare as JSON does: ``True`` is not ``1``, and ``1`` is not ``1.0``."""
    if left is _ABSENT or right is _ABSENT:
        return left is right
    return _canonical(left) == _canonical(right)


def _canonical(value: Value) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _pick(choose: Callable[[Any, Any], Any], mine: Value, theirs: Value) -> Value:
    if mine is None or theirs is None:
        return mine if theirs is None else theirs
    if not ((_is_number(mine) and _is_number(theirs)) or (isinstance(mine, str) and isinstance(theirs, str))):
        raise Irreconcilable("max and min need two numbers or two texts")
    return choose(theirs, mine)


def _is_number(value: Value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _list(value: Value, rule: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, (list, tuple)):
        raise Irreconcilable(f"{rule} needs lists")
    return list(value)
