"""What is printed: JSON that any stream can carry, lengths of time, text that cannot steer a terminal."""

from __future__ import annotations

import io
import json

import pytest

from coordinator.errors import InvalidInput
from crewkeep.cli import output


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h30m", 5400), ("10", 10), ("250ms", 0.25), ("1.5h", 5400), (" 2d ", 172_800)],
)
def test_lengths_of_time_are_read(text: str, seconds: float) -> None:
    assert output.parse_duration(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "s", "5x", "-5s", "5 m", "1h garbage", "nan", "inf", "٣s"])
def test_what_is_no_length_of_time_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        output.parse_duration(text, "--timeout")
    assert "--timeout" in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_survives_any_stream_and_undecodable_names(encoding: str) -> None:
    value = {"name": "Füße 日本", "cwd": "/tmp/\udcff", "emoji": "🚀"}
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace")
    stream.write(output.encode_json(value, stream))
    stream.flush()
    assert json.loads(raw.getvalue().decode(encoding)) == value


def test_times_are_utc_with_milliseconds() -> None:
    assert output.format_time(1_800_000_000.1239) == "2027-01-15T08:00:00.123Z"
    assert output.format_time(None) is None
    assert output.format_time(1e30) is None


def test_ages_have_one_unit() -> None:
    assert [output.format_age(age) for age in (None, -3, 0, 99, 101, 7200, 400_000)] == ["-", "0s", "0s", "99s", "1m", "2h", "4d"]


def test_what_an_agent_chose_cannot_steer_the_terminal() -> None:
    assert output.make_printable("a\x1b[2Jb\r\n\u202ec") == "a\\x1b[2Jb\\x0d\\x0a\\x202ec"


def test_a_note_cannot_steer_the_terminal_either(capsys: pytest.CaptureFixture[str]) -> None:
    output.note("\nmine:\n\x1b[2Jwhat an agent chose\x9b31m")
    assert capsys.readouterr().err == "\nmine:\n\\x1b[2Jwhat an agent chose\\x9b31m\n"


def test_a_table_is_aligned_and_cut_only_to_a_known_width(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.delenv("COLUMNS", raising=False)
    output.print_table(("NAME", "COMMAND"), [("a", "x" * 200), ("longer", None)], stream=stream)
    lines = stream.getvalue().splitlines()
    assert lines == ["NAME    COMMAND", "a       " + "x" * 200, "longer  -"]
    monkeypatch.setenv("COLUMNS", "30")
    stream = io.StringIO()
    output.print_table(("NAME", "COMMAND"), [("a", "x" * 200)], stream=stream)
    assert max(map(len, stream.getvalue().splitlines())) == 30


def test_nothing_is_coloured_where_somebody_said_no(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" in output.paint("x", "red", Terminal())
    assert output.paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.paint("x", "red", Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert output.paint("x", "red", Terminal()) == "x"
