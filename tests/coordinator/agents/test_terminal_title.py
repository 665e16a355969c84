"""The title of a terminal's window, read from output that is cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from coordinator.agents.terminal_title import TitleReader

PIECES = st.sampled_from([b"\x1b", b"]0;", b"]2;", b"one", b"\x07", b"\x1b\\", b"\x1b]0;two\x07", b"\x1b[31m", b"\n", b"]1;"])


def test_the_last_title_that_became_complete_is_told() -> None:
    reader = TitleReader()
    assert reader.read(b"\x1b]0;one\x07 and \x1b]2;two\x1b\\ and \x1b]0;thr") == b"two"
    assert reader.read(b"ee") is None
    assert reader.read(b"\x07") == b"three"
    assert reader.read(b"no title\x07") is None


def test_what_never_ends_is_no_title() -> None:
    reader = TitleReader()
    for _ in range(1000):
        assert reader.read(b"\x1b]0;" + b"x" * 200) is None
    assert len(reader._cut) < 300


@given(st.lists(PIECES, max_size=30), st.integers(min_value=1, max_value=7))
def test_it_does_not_matter_where_the_output_is_cut(pieces: list[bytes], size: int) -> None:
    output = b"".join(pieces)
    cut, whole = TitleReader(), TitleReader()
    told = [cut.read(output[at : at + size]) for at in range(0, len(output), size)]
    assert next((title for title in reversed(told) if title is not None), None) == whole.read(output)
