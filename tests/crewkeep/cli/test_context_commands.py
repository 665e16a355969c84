"""``crewkeep context`` at its edges: values that look like options, encodings of the terminal, streams without end."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support import CREWKEEP, cli, make_environment

from coordinator.paths import Home


@pytest.mark.parametrize("value", ["-5", "-0.5", "-1e3"])
def test_a_negative_number_is_a_value_and_no_option(home: Home, tmp_path: Path, value: str) -> None:
    put = cli("context", "put", "n", value, "--if-version", "0", "--json", home=home, cwd=tmp_path)
    assert put.returncode == 0, put.stderr
    assert json.loads(put.stdout)["value"] == json.loads(value)


def test_a_mistyped_option_is_no_value(home: Home, tmp_path: Path) -> None:
    for wrong in (["--jsn"], ["-x"], ["-Infinity"], ["1", "--if-version", "-1"], ["1", "-2"]):
        put = cli("context", "put", "n", *wrong, home=home, cwd=tmp_path)
        assert (put.returncode, put.stdout) == (2, ""), put
        assert "x00" not in put.stderr
    assert cli("context", "get", "n", home=home, cwd=tmp_path).returncode == 3


def test_an_export_is_utf_8_whatever_the_terminal_speaks(home: Home, tmp_path: Path) -> None:
    value = {"ö": "日本\u2028\x85 😀", "lines": "a\r\nb\rc"}
    latin = {"PYTHONIOENCODING": "latin-1"}
    assert cli("context", "put", "ключ", json.dumps(value), "-w", "one", home=home).returncode == 0
    told = subprocess.run(
        [CREWKEEP, "context", "export", "-w", "one"],
        env=make_environment(home, latin),
        capture_output=True,
        check=True,
        timeout=40,
    ).stdout
    assert "日本" in told.decode("utf-8")
    done = subprocess.run(
        [CREWKEEP, "context", "import", "-w", "two"],
        env=make_environment(home, latin),
        input=told,
        capture_output=True,
        check=False,
        timeout=40,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(cli("context", "get", "ключ", "-w", "two", home=home).stdout) == value


@pytest.mark.parametrize("command", [("put", "k", "-"), ("import",)])
def test_a_stream_without_end_is_refused(home: Home, tmp_path: Path, command: tuple[str, ...]) -> None:
    with open("/dev/zero", "rb") as endless:
        done = subprocess.run(
            [CREWKEEP, "context", *command],
            stdin=endless,
            env=make_environment(home),
            capture_output=True,
            cwd=tmp_path,
            check=False,
            timeout=20,
        )
    assert done.returncode in (1, 2)
    assert b"more than" in done.stderr
    assert b"bug" not in done.stderr


def test_bytes_that_are_no_text_are_no_import(home: Home, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"\xff\xfe\n")
    done = cli("context", "import", "wrong", home=home, cwd=tmp_path)
    assert done.returncode == 1
    assert "not JSON" in done.stderr
