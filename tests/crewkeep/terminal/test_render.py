"""Readable lines out of raw terminal bytes."""

from __future__ import annotations

import tracemalloc
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crewkeep.terminal.render import Renderer, find_cursor, render_text

CASES = {
    "plain lines": (b"one\r\ntwo\r\n", ["one", "two"]),
    "no last line end": (b"one\r\ntwo", ["one", "two"]),
    "empty lines inside stay": (b"one\r\n\r\ntwo\r\n", ["one", "", "two"]),
    "a progress bar shows its end": (b" 10%\r 50%\r100%\r\ndone\r\n", ["100%", "done"]),
    "a shorter overwrite with erase": (b"downloading\r\x1b[Kok\r\n", ["ok"]),
    "a shorter overwrite without erase": (b"abcdef\rXY\r\n", ["XYcdef"]),
    "backspaces": (b"abc\b\b\x1b[KX\r\n", ["aX"]),
    "tabs": (b"a\tb\r\n", ["a       b"]),
    "colours": (b"\x1b[1;31mred\x1b[0m \x1b[38;5;12mblue\x1b[m\r\n", ["red blue"]),
    "colon colours": (b"\x1b[4:3mcurly\x1b[58:2::255:0:0m line\x1b[m\r\n", ["curly line"]),
    "kitty keyboard": (b"\x1b[>1u\x1b[?u\x1b[=1;1uhi\x1b[<u\r\n", ["hi"]),
    "titles and links": (b"\x1b]0;evil\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\r\n", ["link"]),
    "an unfinished title ends with the line": (b"\x1b]0;evil\r\nnext\r\n", ["", "next"]),
    "device strings and pictures": (b"a\x1bP+q544e\x1b\\b\x1b_Gf=100;AAAA\x1b\\c\x1b^x\x1b\\\r\n", ["abc"]),
    "wide characters": ("日本語\b\bX\r\n".encode(), ["日本X"]),
    "half of a wide character": ("日本\x1b[1GX\r\n".encode(), ["X 本"]),
    "accents and joiners": ("e\u0301 \U0001f469\u200d\U0001f4bb\r\n".encode(), ["e\u0301 \U0001f469\u200d\U0001f4bb"]),
    "broken UTF-8": (b"a\xffb\xe2\x82\r\n", ["a\ufffdb\ufffd"]),
    "text that turns its direction": ("a\u202eb\u2066c\r\n".encode(), ["abc"]),
    "8-bit codes": (b"a\xc2\x9b31mb\xc2\x9d0;t\xc2\x9cc\r\n", ["abc"]),
    "line drawing": (b"\x1b(0lqk\x1b(B lqk\r\n", ["┌─┐ lqk"]),
    "a block redrawn by moving up": (b"one\r\ntwo\r\n\x1b[2A\x1b[KONE\r\n\x1b[KTWO\r\n", ["ONE", "TWO"]),
    "inserted and deleted cells": (b"abcd\x1b[1G\x1b[2@XY\x1b[1C\x1b[P\r\n", ["XYacd"[:3] + "cd"]),
    "inserted and deleted rows": (b"a\r\nb\r\nc\x1b[2H\x1b[LX\x1b[1H\x1b[M", ["X", "b", "c"]),
    "a repeated character": (b"-\x1b[5b\r\n", ["------"]),
    "a cleared screen is kept": (b"before\r\n\x1b[H\x1b[2Jafter\r\n", ["before", "after"]),
    "a full reset is kept": (b"before\r\n\x1bcafter\r\n", ["before", "after"]),
    "a drawn frame replaces the one before": (
        b"\x1b[H\x1b[2J\x1b[2;3Hone\x1b[4;1Hx\x1b[H\x1b[2J\x1b[2;3Htwo",
        ["", "  two"],
    ),
    "the last alternate frame": (
        b"$ vi\r\n\x1b[?1049h\x1b[H\x1b[2Jfirst\x1b[H\x1b[2Jlast\x1b[3;3Hline\x1b[?1049l$ \r\nmore\r\n",
        ["$ vi", "last", "", "  line", "$", "more"],
    ),
    "an alternate screen that is still shown": (b"$ vi\r\n\x1b[?1049h\x1b[5;1Hhello", ["$ vi", "hello"]),
    "saved and restored": (b"\x1b7abc\x1b8X\r\n", ["Xbc"]),
    "a scroll region": (b"top\x1b[2;3r\x1b[2Ha\r\nb\r\nc\r\nd", ["top", "c", "d"]),
    "a sequence that goes on as none may": (b"a\x1b[31\x07b\x1b\x1b[mc\r\n", ["abc"]),
}


@pytest.mark.parametrize("name", CASES)
def test_renders(name: str) -> None:
    raw, lines = CASES[name]
    assert render_text(raw) == lines


def test_a_long_line_comes_out_whole() -> None:
    assert render_text(b"x" * 1234 + b"\r\nb\r\n", columns=80) == ["x" * 1234, "b"]
    assert render_text("本".encode() * 1001 + b"\r\nb\r\n", columns=81) == ["本" * 1001, "b"]


def test_many_lines_scroll_out_in_order() -> None:
    lines = [f"line {number}" for number in range(5000)]
    assert render_text("\r\n".join(lines).encode()) == lines


PLAIN = st.lists(st.sampled_from([b"one", b"", b"  two  ", b"x" * 250]), min_size=60, max_size=120).map(
    lambda lines: b"".join(line + b"\r\n" for line in lines)
)
SPECIAL = st.sampled_from(
    [
        b"a\rb\r\n",
        b"\x1b[5A",
        b"\x1b[2;9r",
        b"\x1b[r",
        b"\x1b[?7l",
        b"\x1b[?1049h",
        b"\x1b[?1049l",
        b"half",
        b"\x1b[2J",
        b"\x1b(0",
        b"y" * 400,
    ]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(PLAIN, SPECIAL), max_size=6).map(b"".join))
def test_many_plain_lines_at_once_are_as_if_played_one_by_one(raw: bytes) -> None:
    slow, fast = Renderer(rows=24), Renderer(rows=24)
    for start in range(0, len(raw), 40):
        slow.feed(raw[start : start + 40])  # too little at once for the short way
    fast.feed(raw)
    assert [row.text() for row in slow.screen.grid] == [row.text() for row in fast.screen.grid]
    assert (slow.screen.x, slow.screen.y) == (fast.screen.x, fast.screen.y)
    assert slow.take_settled() + slow.finish() == fast.take_settled() + fast.finish()


def test_the_cursor_is_found() -> None:
    assert find_cursor(b"", 24, 80) == (1, 1)
    assert find_cursor(b"\x1b[2J\x1b[3;5Hhi", 24, 80) == (3, 7)
    assert find_cursor(b"a\r\n" * 100, 10, 80) == (10, 1)
    assert find_cursor(b"x" * 80, 24, 80) == (1, 80)


def test_settled_lines_come_once_and_again_when_redrawn() -> None:
    renderer = Renderer()
    renderer.feed(b"one\r\ntwo\r\nthr")
    assert renderer.take_settled() == ["one", "two"]
    assert renderer.take_settled() == []
    renderer.feed(b"ee\r\n\x1b[3A\x1b[Kuno\r\n\r\n\r\n")
    assert renderer.take_settled() == ["uno", "three"]
    renderer.feed(b"".join(b"%d\r\n" % number for number in range(200)))
    assert renderer.take_settled() + renderer.finish() == [str(number) for number in range(200)]


def test_settled_frames_of_an_alternate_screen_show_what_changed() -> None:
    renderer = Renderer()
    renderer.feed(b"$ top\r\n\x1b[?1049h\x1b[Hload 1\x1b[2;1Hprocess")
    assert renderer.take_settled() == ["$ top", "load 1", "process"]
    renderer.feed(b"\x1b[1;6H2")
    assert renderer.take_settled() == ["load 2"]
    renderer.feed(b"\x1b[?1049ldone\r\n")
    assert renderer.finish() == ["done"]


def test_a_wrapped_line_that_settled_in_parts_is_not_handed_out_twice() -> None:
    renderer = Renderer(rows=24, columns=10)
    renderer.feed(b"x" * 300 + b"\r\n")
    assert renderer.take_settled() == ["x" * 300]
    renderer.feed(b"y\r\n" * 40)
    assert renderer.take_settled() + renderer.finish() == ["y"] * 40


def is_safe(line: str) -> bool:
    return all(unicodedata.category(character) not in ("Cc", "Zl", "Zp", "Cs") for character in line)


PIECES = st.lists(
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from([raw for raw, _ in CASES.values()]),
        st.builds(
            lambda marks, numbers, final: b"\x1b[" + marks + b";".join(b"%d" % n for n in numbers) + bytes([final]),
            st.sampled_from([b"", b"", b"?", b">", b"<", b"="]),
            st.lists(st.sampled_from([0, 1, 2, 3, 7, 24, 60, 1000, 1047, 1049, 99999999]), max_size=3),
            st.integers(0x40, 0x7E),
        ),
        st.sampled_from(["日本語", "\u0301", "\u202e", "\x9b", "\u2028", "\U000e0041"]).map(str.encode),
    ),
    max_size=40,
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(PIECES)
def test_anything_renders_to_lines_without_control_characters(raw: bytes) -> None:
    assert all(is_safe(line) for line in render_text(raw))


@settings(max_examples=150, deadline=None)
@given(PIECES, st.lists(st.integers(1, 20), max_size=20))
def test_the_lines_do_not_depend_on_how_the_bytes_were_cut(raw: bytes, sizes: list[int]) -> None:
    renderer, lines, at = Renderer(), [], 0
    for size in sizes:
        renderer.feed(raw[at : at + size])
        at += size
        lines += renderer.take_lines()
    renderer.feed(raw[at:])
    assert lines + renderer.finish() == render_text(raw)


@settings(max_examples=100, deadline=None)
@given(PIECES, PIECES)
def test_following_never_raises_and_loses_no_final_text(first: bytes, second: bytes) -> None:
    renderer = Renderer()
    renderer.feed(first)
    lines = renderer.take_settled()
    renderer.feed(second)
    lines += renderer.take_settled() + renderer.finish()
    assert set(filter(None, render_text(first + second))) <= set(lines)
    assert all(is_safe(line) for line in lines)


@pytest.mark.parametrize(
    "raw",
    [
        b"\x1b]0;" * 500_000,
        b"\x1b]0;" + b"x" * 2_000_000,
        b"\x1bP" + b"x" * 2_000_000,
        b"\x1b[" + b"1;" * 1_000_000,
        b"\x1b[500S" * 300_000,
        b"\x1b[9999C!\r\n" * 100_000,
        b"\xcc\x81" * 1_000_000,
        b"a\x1b[999b\r\n" * 20_000,
        b"\x1b[?1049h!\x1b[?1049l" * 20_000,
        b"x" * 2_000_000,
    ],
    ids=lambda raw: raw[:12].decode("latin-1").encode("unicode_escape").decode(),
)
def test_hostile_output_costs_bounded_memory(raw: bytes) -> None:
    renderer = Renderer()
    limit = 60_000 if raw.count(b"\x1b") > 10 else 1_500_000  # what is slow is not looked at for long
    tracemalloc.start()
    try:
        for start in range(0, min(len(raw), limit), 4096):
            renderer.feed(raw[start : start + 4096])
            renderer.take_lines()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
