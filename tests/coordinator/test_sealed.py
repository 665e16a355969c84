"""A sealed record is whole or refused with the reason."""

import json

import pytest

from coordinator.errors import Damaged, FormatTooNew
from coordinator.sealed import decode_sealed, encode_sealed, read_sealed, write_sealed

BODY = {"name": "planner", "count": 3, "path": "caf\u00e9/\udcff", "list": [1, 2.5, None, True]}


def reason_of(data: bytes) -> str:
    with pytest.raises(Damaged) as caught:
        decode_sealed(data, "session", 1, path="record.json")
    return caught.value.reason


def test_a_body_comes_back_as_it_was_also_with_undecodable_bytes() -> None:
    assert decode_sealed(encode_sealed("session", 1, BODY), "session", 1, path="x") == BODY


def test_each_kind_of_damage_has_its_own_reason() -> None:
    whole = encode_sealed("session", 1, BODY)
    assert reason_of(b"") == "empty"
    assert reason_of(bytes(len(whole))) == "zero-filled"
    assert reason_of(whole[:-1]) == "truncated"
    assert reason_of(whole + b"x" * 1111) == "trailing"
    assert reason_of(b"not json\n") == "unreadable"
    assert reason_of(b"[" * 100_000 + b"\n") == "unreadable"
    for shape in (
        b"[]\n",
        b"null\n",
        b"7\n",
        b"{}\n",
        b'{"kind":"session","body":{}}\n',
        b'{"kind":"other","format":1,"body":{}}\n',
    ):
        assert reason_of(shape) == "wrong-shape"
    assert reason_of(whole.replace(b'"count":3', b'"count":4')) == "wrong-digest"


def test_a_newer_format_is_refused_and_named_not_taken_for_damage() -> None:
    with pytest.raises(FormatTooNew) as caught:
        decode_sealed(encode_sealed("session", 9, BODY), "session", 1, path="record.json")
    assert caught.value.format == 9


def test_every_truncation_is_detected() -> None:
    whole = encode_sealed("session", 1, BODY)
    for length in range(len(whole)):
        assert reason_of(whole[:length]) in ("empty", "truncated")


def test_every_flipped_bit_is_detected_or_changes_nothing() -> None:
    whole = encode_sealed("session", 1, BODY)
    harmless = 0
    for index in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[index] ^= 1 << bit
            try:
                body = decode_sealed(bytes(flipped), "session", 1, path="x")
            except Damaged:
                continue
            assert body == BODY
            harmless += 1
    assert harmless < len(whole) // 10


def test_a_missing_file_is_damage_called_missing(tmp_path) -> None:
    with pytest.raises(Damaged) as caught:
        read_sealed(tmp_path / "none.json", "session", 1)
    assert caught.value.reason == "missing"


def test_what_is_written_is_read_back_and_stays_json_that_people_can_read(tmp_path) -> None:
    write_sealed(tmp_path / "r.json", "session", 1, BODY)
    assert read_sealed(tmp_path / "r.json", "session", 1) == BODY
    assert json.loads((tmp_path / "r.json").read_text())["body"]["name"] == "planner"
