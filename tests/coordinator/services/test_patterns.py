"""What a claim covers is decided exactly, also between two patterns."""

from __future__ import annotations

import fnmatch
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.services.patterns import Pattern, has_wildcards, make_file, make_tree, parse_pattern


@pytest.mark.parametrize(
    ("left", "right", "meet"),
    [
        ("/a/b", "/a/b", True),
        ("/a/b", "/a/c", False),
        ("/a/*.py", "/a/x.py", True),
        ("/a/*.py", "/a/b/x.py", False),
        ("/a/**/*.py", "/a/x.py", True),
        ("/a/**/*.py", "/a/b/c/x.py", True),
        ("/a/**", "/a", True),
        ("/a/**", "/ab", False),
        ("/a/*.py", "/a/test_*", True),
        ("/a/*.py", "/a/*.js", False),
        ("/a/**/x", "/a/b/**", True),
        ("/a/?b", "/a/[xy]b", True),
        ("/a/[xy]", "/a/[!xy]", False),
        ("/a/[a-m]", "/a/[m-z]", True),
        ("/a/[a-l]", "/a/[m-z]", False),
        ("/a/[!a]", "/a/[!b]", True),
        ("/a/[", "/a/[", True),
        ("/a/*", "/a/", False),
        ("/**", "/anything/at/all", True),
        ("/a/*b*c", "/a/xbxxcx", False),
        ("/a/*b*c", "/a/xbxxc", True),
    ],
)
def test_two_patterns_meet_if_one_path_matches_both(left: str, right: str, meet: bool) -> None:
    assert parse_pattern(left).meets(parse_pattern(right)) is meet
    assert parse_pattern(right).meets(parse_pattern(left)) is meet


def test_a_file_may_bear_the_characters_of_a_pattern() -> None:
    assert has_wildcards("a[1].py")
    assert make_file("/x/a[1].py").meets(make_file("/x/a[1].py"))
    assert not make_file("/x/*").meets(make_file("/x/y"))
    assert make_tree("/x").meets(make_file("/x/y/z"))
    assert make_tree("/x").meets(make_file("/x"))
    assert not make_tree("/x").meets(make_file("/xy"))


_PART = st.lists(st.sampled_from(["a", "b", "*", "?", "[ab]", "[!a]"]), min_size=1, max_size=4).map("".join)
_TEXTS = ["".join(letters) for length in range(1, 6) for letters in itertools.product("abc", repeat=length)]


@given(_PART, _PART)
def test_parts_meet_exactly_when_some_text_matches_both(left: str, right: str) -> None:
    if left == "**" or right == "**":
        return
    found = any(fnmatch.fnmatchcase(text, left) and fnmatch.fnmatchcase(text, right) for text in _TEXTS)
    # The texts that are tried are short; whatever matches one of them must be found.
    if found:
        assert parse_pattern(f"/{left}").meets(parse_pattern(f"/{right}"))
    if "*" not in left + right:
        assert parse_pattern(f"/{left}").meets(parse_pattern(f"/{right}")) is found


_PATHS = st.lists(st.sampled_from(["a", "b", "**", "*"]), min_size=1, max_size=5)


def _expand(parts: list[str]) -> set[tuple[str, ...]]:
    """Every path of at most six parts of the letters a and b that the parts match, without cleverness."""
    found: set[tuple[str, ...]] = set()

    def go(rest: list[str], path: tuple[str, ...]) -> None:
        if len(path) > 6:
            return
        if not rest:
            found.add(path)
        elif rest[0] == "**":
            go(rest[1:], path)
            for letter in "ab":
                go(rest, (*path, letter))
        elif rest[0] == "*":
            for letter in "ab":
                go(rest[1:], (*path, letter))
        else:
            go(rest[1:], (*path, rest[0]))

    go(parts, ())
    return found


@given(_PATHS, _PATHS)
def test_deep_patterns_meet_exactly_when_some_path_matches_both(left: list[str], right: list[str]) -> None:
    expected = bool(_expand(left) & _expand(right))
    assert parse_pattern("/" + "/".join(left)).meets(parse_pattern("/" + "/".join(right))) is expected


def test_many_wildcards_do_not_take_for_ever() -> None:
    wild = Pattern(parse_pattern("/" + "*a" * 40).parts)
    assert not wild.meets(make_file("/" + "a" * 30 + "b"))
    deep = parse_pattern("/" + "**/a/" * 20)
    assert not deep.meets(make_file("/" + "a/" * 40 + "b"))
