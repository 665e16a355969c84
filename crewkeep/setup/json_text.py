"""JSON that people edit by hand: changed where its meaning is to change, and left to the byte everywhere else. Pure.

Comments and commas before a closing bracket are taken as some programs take them. What is brought in follows the manner of
what stands beside it, so that taking it out again leaves the text as it was.

Not promised: the place of a comment that stood inside of what is taken out.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

_BLANK = re.compile(r"(?:[ \t\r\n]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_LINE_COMMENT = re.compile(r"[ \t]*//[^\r\n]*")
#: Far more than one change for each of our entries.
_CHANGES_LIMIT = 1000


@dataclass(kw_only=True, slots=True)
class _Node:
    """A value as it stands in a text."""

    value: Any
    #: Where it begins, a member of an object with its key, and where it ends.
    start: int
    end: int
    #: Where the value itself begins.
    value_start: int
    #: What it holds, and of an object the key of each, once it has been opened.
    items: list[_Node] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


def parse(text: str) -> Any:
    """Return what ``text`` means. Raises ``ValueError`` for what is no JSON even so, ``RecursionError``."""
    return _read(text).value


def change(text: str, wanted: dict[str, Any]) -> str:
    """Return ``text``, which holds an object, changed so that it means ``wanted``. Raises as ``parse``."""
    for _ in range(_CHANGES_LIMIT):
        place = _find_change(text, _read(text), wanted)
        if place is None:
            return text
        start, end, words = place
        text = text[:start] + words + text[end:]
    raise ValueError(f"it cannot be written in {_CHANGES_LIMIT} changes")


def _find_change(text: str, node: _Node, wanted: Any) -> tuple[int, int, str] | None:
    """Return the first place that must change, and what is to stand there; ``None`` if nothing must."""
    if _write(node.value) == _write(wanted):
        return None
    if isinstance(node.value, (dict, list)) and not node.items:
        _open(text, node)
    if isinstance(node.value, dict) and isinstance(wanted, dict):
        for index, key in enumerate(node.keys):
            if key not in wanted:
                return _take_out(text, node, index)
        for key, index in {key: index for index, key in enumerate(node.keys)}.items():  # of several by one name the last counts
            if _write(node.items[index].value) != _write(wanted[key]):
                return _find_change(text, node.items[index], wanted[key])
        key = next(key for key in wanted if key not in node.keys)
        return _bring_in(text, node, len(node.items), f"{json.dumps(key, ensure_ascii=False)}: ", wanted[key])
    if isinstance(node.value, list) and isinstance(wanted, list):
        there, meant = ([_write(one) for one in side] for side in (node.value, wanted))
        steps = difflib.SequenceMatcher(None, there, meant, autojunk=False).get_opcodes()
        kind, index, _, other, _ = next(step for step in steps if step[0] != "equal")
        if kind == "delete":
            return _take_out(text, node, index)
        if kind == "insert":
            return _bring_in(text, node, index, "", wanted[other])
        return _find_change(text, node.items[index], wanted[other])
    return node.value_start, node.end, json.dumps(wanted, ensure_ascii=False)


def _write(value: Any) -> str:
    """Return what two values that are the same have in common; that is more than being equal, as 1 and true are."""
    return json.dumps(value, sort_keys=True)


def _take_out(text: str, node: _Node, index: int) -> tuple[int, int, str]:
    """Take out an item with one comma; comments beside it stay."""
    item, items = node.items[index], node.items
    if index + 1 < len(items):
        following = items[index + 1].start
        return item.start, following, _without_comma(text[item.end : following]).lstrip()
    if index > 0:
        before = items[index - 1].end
        return before, item.end, _without_comma(text[before : item.start]).rstrip()
    inner = text[node.value_start + 1 : item.start] + _without_comma(text[item.end : node.end - 1])
    return node.value_start + 1, node.end - 1, inner if inner.strip() else ""


def _bring_in(text: str, node: _Node, index: int, key: str, value: Any) -> tuple[int, int, str]:
    """Bring in an item in the manner of its neighbours."""
    line = "\r\n" if "\r\n" in text else "\n"
    found = re.search(r"\n([ \t]+)\S", text)
    unit = found[1] if found else "  "
    last = node.items[-1] if node.items else None
    before = text[: last.start if last else node.value_start]
    margin = before[before.rfind("\n") + 1 :]
    own = margin[: len(margin) - len(margin.lstrip(" \t"))]
    if last is not None:
        is_inline, indent = bool(margin.strip("\ufeff \t")), own
    else:
        is_inline, indent = "\n" not in text.strip() and bool(_read(text).value), own + unit
    if is_inline:
        space = "" if re.search(r'":\S', text) and '": ' not in text else " "
        words = key and key.rstrip() + space
        words += json.dumps(value, separators=("," + space, ":" + space), ensure_ascii=False)
        gap = "," + space
    else:
        words = key + json.dumps(value, indent=unit, ensure_ascii=False).replace("\n", line + indent)
        gap = "," + line + indent
    if last is None:
        inner = text[node.value_start + 1 : node.end - 1].rstrip()
        return node.value_start + 1, node.end - 1, inner + (words if is_inline else line + indent + words + line + own)
    if index < len(node.items):
        place = node.items[index].start
        return place, place, words + gap
    said = _LINE_COMMENT.match(text, last.end)  # what is said of a neighbour stays beside it
    if said is None or is_inline:
        return last.end, last.end, gap + words
    return last.end, said.end(), "," + said[0] + gap.removeprefix(",") + words


def _without_comma(gap: str) -> str:
    """Return what stands between two items without the comma in it."""
    at = _skip(gap, 0)
    return gap[:at] + gap[at + 1 :] if gap[at : at + 1] == "," else gap


# Reading


def _read(text: str) -> _Node:
    node = _read_value(text, _skip(text, 1 if text.startswith("\ufeff") else 0))
    if (end := _skip(text, node.end)) < len(text):
        _refuse(text, end)
    return node


def _read_value(text: str, at: int) -> _Node:
    """Read the value at ``at``; what it holds is opened only where that is needed, since a file may have megabytes."""
    try:
        value, end = _DECODER.raw_decode(text, at)
        return _Node(value=value, start=at, end=end, value_start=at)
    except ValueError:
        if text[at : at + 1] not in ("{", "["):
            _refuse(text, at)
    node = _Node(value=None, start=at, end=at, value_start=at)
    _open(text, node)  # it holds a comment, or no JSON
    values = [item.value for item in node.items]
    node.value = dict(zip(node.keys, values, strict=True)) if text[at] == "{" else values
    return node


def _open(text: str, node: _Node) -> None:
    at, is_object = node.value_start + 1, text[node.value_start] == "{"
    closing = "}" if is_object else "]"
    while text[(at := _skip(text, at)) : at + 1] != closing:
        start = at
        if is_object:
            if text[at : at + 1] != '"':
                _refuse(text, at)
            key = _read_value(text, at)
            node.keys.append(key.value)
            if text[(at := _skip(text, key.end)) : at + 1] != ":":
                _refuse(text, at)
            at = _skip(text, at + 1)
        item = _read_value(text, at)
        item.start = start
        node.items.append(item)
        at = _skip(text, item.end)
        if text[at : at + 1] == ",":
            at += 1
        elif text[at : at + 1] != closing:
            _refuse(text, at)
    node.end = at + 1


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return at if found is None else found.end()


def _refuse(text: str, at: int) -> NoReturn:
    raise ValueError(f"unexpected {text[at]!r} at character {at}" if at < len(text) else "it ends too early")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
