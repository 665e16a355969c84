"""What a claim covers: a file, a directory with all that is in it, or every path that a pattern matches. Pure.

A pattern is an absolute path whose parts may hold wildcards: ``*`` any text within a part, ``?`` one character, ``[a-z]`` and
``[!a-z]`` one of them, and a part ``**`` any number of parts. Two patterns meet if there is a path that both match: that is
decided exactly, not by trying out the files that happen to be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_WILD = frozenset("*?[")
#: What stands for any character in a pattern's part.
_ANY = "any"
_MANY = "many"
_DEEP = "**"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One character of a set, or (``negated``) any that is not in it."""

    ranges: tuple[tuple[str, str], ...]
    negated: bool

    def holds(self, character: str) -> bool:
        return any(low <= character <= high for low, high in self.ranges) is not self.negated


#: A character, one of a set, any one, or any text.
Token = str | OneOf
_Part = tuple[tuple[str, Token], ...]
_Parts = tuple["_Part | str", ...]


@dataclass(frozen=True, slots=True)
class Pattern:
    """An absolute path with wildcards, cut into its parts."""

    parts: _Parts

    def meets(self, other: Pattern) -> bool:
        """Tell whether there is a path that both match."""
        return _paths_meet(self.parts, other.parts)


def has_wildcards(text: str) -> bool:
    """Tell whether ``text`` holds a character that a pattern takes for a wildcard."""
    return not _WILD.isdisjoint(text)


def parse_pattern(path: str) -> Pattern:
    """Return the pattern that an absolute path with wildcards is."""
    return Pattern(tuple(_DEEP if part == _DEEP else _parse_part(part) for part in _cut(path)))


def make_file(path: str) -> Pattern:
    """Return the pattern that only the absolute path itself matches, whatever characters it holds."""
    return Pattern(tuple(_literal(part) for part in _cut(path)))


def make_tree(path: str) -> Pattern:
    """Return the pattern of an absolute path and everything below it."""
    return Pattern((*make_file(path).parts, _DEEP))


def _cut(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _literal(part: str) -> _Part:
    return tuple(("one", character) for character in part)


def _parse_part(part: str) -> _Part:
    tokens: list[tuple[str, Token]] = []
    at = 0
    while at < len(part):
        character = part[at]
        end = _find_set_end(part, at) if character == "[" else -1
        if end > 0:
            tokens.append(("one", _parse_set(part[at + 1 : end])))
            at = end
        elif character == "*":
            if not tokens or tokens[-1][0] != _MANY:
                tokens.append((_MANY, ""))
        else:
            tokens.append((_ANY, "") if character == "?" else ("one", character))
        at += 1
    return tuple(tokens)


def _find_set_end(part: str, start: int) -> int:
    """Return where the set that begins at ``start`` ends, -1 if it does not: then the bracket is a character."""
    at = start + 1
    if part[at : at + 1] in ("!", "^"):
        at += 1
    return part.find("]", at + 1)


def _parse_set(text: str) -> OneOf:
    negated = text[:1] in ("!", "^")
    text = text[1:] if negated else text
    ranges = []
    at = 0
    while at < len(text):
        if text[at + 1 : at + 2] == "-" and at + 2 < len(text):
            ranges.append((text[at], text[at + 2]))
            at += 3
        else:
            ranges.append((text[at], text[at]))
            at += 1
    return OneOf(tuple(ranges), negated)


def _paths_meet(left: _Parts, right: _Parts) -> bool:
    return _sequences_meet(left, right, lambda part: part == _DEEP, _parts_meet)


def _parts_meet(left: _Part | str, right: _Part | str) -> bool:
    if isinstance(left, str) or isinstance(right, str):
        return True  # any number of parts: also this one
    return _sequences_meet(left, right, lambda token: token[0] == _MANY, _tokens_meet)


def _sequences_meet(
    left: Sequence[T], right: Sequence[T], is_many: Callable[[T], bool], items_meet: Callable[[T, T], bool]
) -> bool:
    """Tell whether one sequence matches both: walks the pairs of places in them that can be reached together."""
    reached, todo = {(0, 0)}, [(0, 0)]

    def reach(place: tuple[int, int]) -> None:
        if place not in reached:
            reached.add(place)
            todo.append(place)

    while todo:
        i, j = todo.pop()
        if i == len(left) and j == len(right):
            return True
        many_left = i < len(left) and is_many(left[i])
        many_right = j < len(right) and is_many(right[j])
        if many_left:
            reach((i + 1, j))
        if many_right:
            reach((i, j + 1))
        if i < len(left) and j < len(right) and items_meet(left[i], right[j]):
            reach((i if many_left else i + 1, j if many_right else j + 1))
    return False


def _tokens_meet(left: tuple[str, Token], right: tuple[str, Token]) -> bool:
    """Tell whether one character matches both."""
    if left[0] != "one" or right[0] != "one":
        return True
    ours, theirs = left[1], right[1]
    if isinstance(ours, str):
        return ours == theirs if isinstance(theirs, str) else theirs.holds(ours)
    if isinstance(theirs, str):
        return ours.holds(theirs)
    return _sets_meet(ours, theirs)


def _sets_meet(left: OneOf, right: OneOf) -> bool:
    if left.negated and right.negated:
        return True  # no set that can be written holds every character
    # A common character, if there is one, is found at an edge of a range or right beside one.
    edges = {edge for low, high in (*left.ranges, *right.ranges) for edge in (low, high)}
    beside = {chr(ord(edge) + step) for edge in edges for step in (-1, 1) if 0 < ord(edge) + step < 0x110000}
    return any(left.holds(character) and right.holds(character) for character in edges | beside)
