"""Transcripts of JSON lines: read as they grow, put back when they are lost."""

from __future__ import annotations

import json
import os
from pathlib import Path

from coordinator.agents import transcript


def write(path: Path, *entries: object, end: bytes = b"") -> Path:
    path.write_bytes(b"".join(json.dumps(entry).encode() + b"\n" for entry in entries) + end)
    return path


def numbers(tail: transcript.Tail, limit_bytes: int = transcript.READ_LIMIT_BYTES) -> list[int]:
    return [entry["n"] for entry in tail.iter_new(limit_bytes)]


def test_only_what_was_appended_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"n": 1})
    tail = transcript.Tail(path)
    assert numbers(tail) == [1]
    assert numbers(tail) == []
    with path.open("ab") as file:
        file.write(b'{"n": 2}\n{"n": 3}\n')
    assert numbers(tail) == [2, 3]


def test_a_torn_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"n": 1}, end=b'{"n": ')
    tail = transcript.Tail(path)
    assert numbers(tail) == [1]
    with path.open("ab") as file:
        file.write(b"2}\n")
    assert numbers(tail) == [2]


def test_garbage_and_other_json_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"n": 1}, end=b'\xff\xfe\nnull\n[1]\n\0\0\n{"n": 2}\n' + b"[" * 10_000 + b"\n")
    assert numbers(transcript.Tail(path)) == [1, 2]


def test_a_replaced_or_shrunk_file_is_read_from_its_start(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"n": 1}, {"n": 2})
    tail = transcript.Tail(path)
    assert numbers(tail) == [1, 2]
    os.replace(write(tmp_path / "other", {"n": 3}, {"n": 4}, {"n": 5}), path)
    assert numbers(tail) == [3, 4, 5]
    write(path, {"n": 6})
    assert numbers(tail) == [6]


def test_one_look_is_bounded_and_the_next_goes_on(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", *({"n": n} for n in range(100)))
    tail = transcript.Tail(path)
    looks = []
    while look := numbers(tail, limit_bytes=64):
        looks.append(look)
    assert [n for look in looks for n in look] == list(range(100))
    assert len(looks) > 10


def test_a_first_look_may_begin_near_the_end(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", *({"n": n} for n in range(100)))
    tail = transcript.Tail(path, from_end_bytes=30)
    assert numbers(tail) == [98, 99]
    with path.open("ab") as file:
        file.write(b'{"n": 100}\n')
    assert numbers(tail) == [100]


def test_a_line_longer_than_a_look_is_passed_over_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "t.jsonl", {"n": 1}, {"n": 0, "pasted": "x" * 500}, {"n": 2})
    tail = transcript.Tail(path)
    seen = [n for _ in range(20) for n in numbers(tail, limit_bytes=100)]
    assert seen == [1, 2]


def test_a_copy_is_put_back_whole_and_private(tmp_path: Path) -> None:
    saved = write(tmp_path / "saved", {"n": 1})
    target = tmp_path / "gone" / "deep" / "t.jsonl"
    transcript.put_back(saved, target)
    assert target.read_bytes() == saved.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in target.parent.iterdir()] == ["t.jsonl"]


def test_cut_short_means_the_same_beginning_and_nothing_else(tmp_path: Path) -> None:
    saved = write(tmp_path / "saved", {"n": 1}, {"n": 2})
    assert transcript.is_cut_short(write(tmp_path / "a", {"n": 1}), saved)
    assert transcript.is_cut_short(write(tmp_path / "b"), saved)
    assert not transcript.is_cut_short(write(tmp_path / "c", {"n": 7}), saved)
    assert not transcript.is_cut_short(write(tmp_path / "d", {"n": 1}, {"n": 2}, {"n": 3}), saved)
    assert not transcript.is_cut_short(tmp_path / "missing", saved)


def test_the_first_bytes_alone_can_be_put_back(tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.write_bytes(b"0123456789" * 300_000)
    for count in (0, 7, 2_000_003, 5_000_000):
        transcript.put_back(saved, tmp_path / "new" / "t.jsonl", first_bytes=count)
        assert (tmp_path / "new" / "t.jsonl").read_bytes() == saved.read_bytes()[:count]
