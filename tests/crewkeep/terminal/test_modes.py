"""What is remembered of a terminal's stream, and the key that leaves it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.errors import InvalidInput
from crewkeep.terminal.keys import DetachKey
from crewkeep.terminal.modes import Modes, Question


def feed(*pieces: bytes) -> Modes:
    modes = Modes()
    for piece in pieces:
        modes.feed(piece)
    return modes


def test_what_was_switched_on_is_undone_and_nothing_else() -> None:
    assert feed(b"plain \x1b[31mtext").restore() == b"\x1b(B\x0f\x1b[m"
    modes = feed(b"\x1b[?1049;1006h\x1b[?25l\x1b[?2004h", b"\x1b[?2004l\x1b[>1u\x1b[>4;2m\x1b=\x1b[3 q\x1b[2;5r")
    restored = modes.restore()
    for sequence in (b"\x1b[?1006l", b"\x1b[?25h", b"\x1b[<1u", b"\x1b[>4;0m", b"\x1b>", b"\x1b[0 q", b"\x1b[r", b"\x1b[?1049l"):
        assert sequence in restored
    assert b"2004" not in restored
    assert restored.index(b"\x1b[<1u") < restored.index(b"\x1b[?1049l")  # kitty keeps one stack for each screen
    modes.feed(restored)
    assert modes.restore() == b"\x1b(B\x0f\x1b[m"


def test_colours_of_the_terminal_itself_are_put_back() -> None:
    modes = feed(b"\x1b]12;#eeeeee\x07\x1b]10;?\x07\x1b]11;rgb:00/00/00\x1b\\", b"\x1b]111\x07")
    assert b"\x1b]112\x07" in modes.restore()
    assert b"\x1b]11" not in modes.restore().replace(b"\x1b]112\x07", b""), "one was put back by itself, one only asked for"
    modes.feed(modes.restore())
    assert modes.restore() == b"\x1b(B\x0f\x1b[m"


def test_what_a_program_drew_below_the_cursor_on_the_main_screen_is_erased() -> None:
    assert feed(b"a frame\x1b[?25l\x1b[2A").restore().endswith(b"\x1b[m\x1b[J"), "in no colour of the program's"
    assert b"\x1b[J" not in feed(b"\x1b[?25l\x1b[?1049h").restore(), "its own screen goes away whole"
    assert b"\x1b[J" not in feed(b"lines\r\n").restore()


def test_the_present_screen_begins_at_the_last_clear_or_switch() -> None:
    modes = feed(b"0123456789\x1b[H\x1b[2Jdrawn")
    assert modes.screen_offset == 13
    assert modes.enter() == b"\x1b[H"
    assert feed(b"0123\x1b[?104", b"9hdrawn").screen_offset == 4
    assert feed(b"0123\x1bcdrawn").screen_offset == 4
    assert feed(b"0123\x1b[K\x1b[J").screen_offset == 0


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (b"\x1b[6n", Question.CURSOR),
        (b"\x1b[5n", Question.STATUS),
        (b"\x1b[c", Question.ATTRIBUTES),
        (b"\x1b[0c", Question.ATTRIBUTES),
        (b"\x1b[>c", Question.OTHER),
        (b"\x1b[>0q", Question.OTHER),
        (b"\x1b[?u", Question.OTHER),
        (b"\x1b[?996n", Question.OTHER),
        (b"\x1b[?2026$p", Question.OTHER),
        (b"\x1b[18t", Question.OTHER),
        (b"\x1b]11;?\x07", Question.OTHER),
        (b"\x1b]52;c;?\x1b\\", Question.OTHER),
        (b"\x1bP+q544e\x1b\\", Question.OTHER),
    ],
)
def test_questions_are_found_and_can_be_left_out(asked: bytes, kind: Question) -> None:
    piece = Modes().feed(b"before" + asked + b"after")
    assert [query.kind for query in piece.queries] == [kind]
    assert piece.without_queries() == b"beforeafter"


@pytest.mark.parametrize("told", [b"\x1b[2J", b"\x1b]0;who?\x07", b"\x1b[22;0t", b"\x1b[<u", b"\x1b[2 q"])
def test_what_is_no_question_stays(told: bytes) -> None:
    assert Modes().feed(told).without_queries() == told


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=20),
            st.sampled_from(
                [b"\x1b[6n", b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?2004h", b"\x1b[2J", b"\x1b]10;?\x07", b"\x1bc", b"\x1b"]
            ),
        ),
        max_size=30,
    ),
    st.integers(1, 7),
)
def test_pieces_cut_anywhere_say_the_same(parts: list[bytes], size: int) -> None:
    whole = b"".join(parts)
    at_once, piecewise = Modes(), Modes()
    first = at_once.feed(whole)
    pieces = [piecewise.feed(whole[at : at + size]) for at in range(0, len(whole), size)]
    assert b"".join(piece.data for piece in pieces) == first.data
    assert b"".join(piece.without_queries() for piece in pieces) == first.without_queries()
    assert (piecewise.restore(), piecewise.screen_offset) == (at_once.restore(), at_once.screen_offset)
    assert piecewise.offset == len(whole)


def test_a_sequence_that_never_ends_is_not_held_for_ever() -> None:
    modes, out = Modes(), b""
    for _ in range(100):
        out += modes.feed(b"\x1b]52;c;" + b"x" * 100).data
    assert len(out) > 9000


@pytest.mark.parametrize(
    ("name", "byte"), [("ctrl-]", b"\x1d"), ("Ctrl-\\", b"\x1c"), ("ctrl-a", b"\x01"), ("c-^", b"\x1e"), ("ctrl-@", b"\0")]
)
def test_a_detach_key_by_its_name(name: str, byte: bytes) -> None:
    key = DetachKey.parse(name)
    assert key.byte == byte
    assert key.find(b"ab" + byte) == 2
    assert key.find(b"ab") is None


@pytest.mark.parametrize("name", ["", "x", "ctrl-", "ctrl-1", "alt-a", "ctrl-ab", "ctrl-é"])
def test_what_cannot_be_a_detach_key_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        DetachKey.parse(name)


def test_other_keys_and_the_release_are_not_the_detach_key() -> None:
    key = DetachKey.parse("ctrl-]")
    for typed in (b"\x1b[93;1u", b"\x1b[93;6u", b"\x1b[93;5:3u", b"\x1b[91;5u", b"\x1b[27;6;93~", b"]", b"\x1b[93u"):
        assert key.find(typed) is None
    assert key.find(b"x\x1b[1234:125:93;5u") == 1
