"""JSON that people edit by hand is changed where its meaning is to change, and left to the byte everywhere else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crewkeep.setup.json_text import change, parse

OURS = [{"hooks": [{"type": "command", "command": "x", "timeout": 10}]}]
COMMENTED = """{
  // the look
  "theme": "dark", // my theme
  "hooks": {
    /* each step */
    "BeforeTool": [ {"hooks": [{"command": "echo a, // b"}]} ], // theirs
  }, // and no more
}
"""

blanks = st.sampled_from(["", " ", "\n", "\r\n\t", " // said\n", "/* a, b */", "\n    "])
scalars = st.sampled_from(
    ["1", "1.0", "-0", "1E400", "12345678901234567890.10", "true", "null", '"a\\ud800 \\u00e9"', '"é, // ]"']
)


def arrays(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.tuples(st.lists(inner, max_size=3), blanks, blanks).map(
        lambda made: "[" + made[1] + ("," + made[2]).join(made[0]) + made[2] + "]" if made[0] else "[]"
    )


def objects(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    names = st.sampled_from(['"a"', '"b"', '"hooks"', '"\\u00fc"'])
    member = st.tuples(names, blanks, inner).map(lambda made: f"{made[0]}{made[1]}:{made[1]}{made[2]}")
    return arrays(member).map(lambda text: "{" + text[1:-1] + "}")


values = st.recursive(scalars, lambda inner: st.one_of(arrays(inner), objects(inner)), max_leaves=8)


@given(objects(values), st.booleans())
def test_what_is_brought_in_and_taken_out_again_leaves_no_trace(text: str, deep: bool) -> None:
    before = parse(text)
    wanted = {**before, "ours": OURS}
    if deep and isinstance(before.get("hooks"), dict):
        wanted = {**before, "hooks": {**before["hooks"], "ours": OURS}}
    added = change(text, wanted)
    assert parse(added) == wanted
    again = change(added, before)
    assert parse(again) == before
    if before:
        assert again == text


@given(objects(values), objects(values))
def test_any_object_becomes_any_other(text: str, other: str) -> None:
    assume("1E400" not in other)  # a number that only its own text can hold
    assert parse(change(text, parse(other))) == parse(other)


@given(st.dictionaries(st.text(), st.recursive(st.none() | st.text() | st.integers(), st.lists)))
def test_what_is_written_is_what_every_reader_of_json_reads(value: dict[str, Any]) -> None:
    assert json.loads(change("{}", value)) == value


def test_comments_stay_beside_what_they_speak_of() -> None:
    before = parse(COMMENTED)
    wanted = {"theme": "dark", "hooks": {"BeforeTool": [*before["hooks"]["BeforeTool"], *OURS], "Stop": OURS}}
    added = change(COMMENTED, wanted)
    assert parse(added) == wanted
    for line in COMMENTED.splitlines():
        if "BeforeTool" not in line:
            assert line.strip(" ,") in added
    assert change(added, before) == COMMENTED


def test_a_comment_at_the_end_of_its_line_stays_on_it() -> None:
    text = '{\n  "a": 1 // one\n}\n'
    added = change(text, {"a": 1, "b": 2})
    assert added == '{\n  "a": 1, // one\n  "b": 2\n}\n'
    assert change(added, {"a": 1}) == text
    assert change(added, {"b": 2}) == '{\n  // one\n  "b": 2\n}\n'


def test_what_is_equal_and_not_the_same_is_changed() -> None:
    assert change('{"a":[1,1],"b":true}', {"a": [1.0], "b": 1}) == '{"a":[1.0],"b":1}'


def test_of_two_members_by_one_name_the_last_counts_and_both_stay() -> None:
    assert change('{"a":1,"a":2}', {"a": 2, "b": 3}) == '{"a":1,"a":2,"b":3}'
    assert parse(change('{"a":1,"b":0,"a":2}', {"b": 0})) == {"b": 0}


@pytest.mark.parametrize(
    "text",
    ["", "{", '{"a"}', '{"a":}', '{"a":1 "b":2}', "[,]", "[1,,2]", "{} {}", "NaN", "01", '"\n"', "/* open", "{'a': 1}", "\0"],
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unexpected|too early|Extra data"):
        parse(text)


def test_a_mark_of_byte_order_and_windows_lines_stay() -> None:
    text = '\ufeff{\r\n\t"a": 1\r\n}'
    added = change(text, {"a": 1, "b": {"c": 2}})
    assert added == '\ufeff{\r\n\t"a": 1,\r\n\t"b": {\r\n\t\t"c": 2\r\n\t}\r\n}'
    assert change(added, {"a": 1}) == text
