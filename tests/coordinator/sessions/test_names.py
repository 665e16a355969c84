"""The hint of who bears which name: believed only when it is right, and never a way to two sessions of one name."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_support import end_session, make_launch, make_session

from coordinator.errors import Refused
from coordinator.paths import Home
from coordinator.sessions.model import Hosting, Phase, Restart
from coordinator.sessions.names import Names
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints
from coordinator.system.processes import identify_self


class Reads:
    """Counts the records that are read."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, name: str) -> None:
        self.count += name == "files.read"


def count_reads(do: Callable[[], object]) -> int:
    reads = Reads()
    with failpoints.observe(reads):
        do()
    return reads.count


def test_a_start_reads_no_more_however_many_sessions_there_were(home: Home) -> None:
    registry = Registry(home)
    first = end_session(registry, make_session(home, "first"))
    few = count_reads(lambda: make_session(home, "few"))
    for number in range(60):
        end_session(registry, make_session(home, f"other-{number}"))
    assert count_reads(lambda: make_session(home, "many")) <= few + 1
    assert count_reads(lambda: make_session(home, "first")) <= few + 1, "also the name of one that ended"
    assert first.name == "first"


def test_the_hint_is_weeded_of_those_that_ended(home: Home) -> None:
    registry = Registry(home)
    make_session(home, "stays")
    for number in range(200):
        end_session(registry, make_session(home, f"other-{number}"))
    assert len(home.names.read_bytes().splitlines()) < 80
    with pytest.raises(Refused, match="stays"):
        make_session(home, "stays")


def damage_head(path: Path) -> None:
    path.write_bytes(b"garbage\n" + path.read_bytes())


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def forget_a_line(path: Path) -> None:
    """As if it were of an earlier moment: the directory has changed since."""
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


def make_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_elsewhere(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "spoil", [os.unlink, damage_head, cut, make_a_directory, link_elsewhere, lambda path: path.write_bytes(b"")]
)
def test_a_spoiled_hint_costs_no_name(home: Home, spoil: Callable[[Path], object]) -> None:
    make_session(home, "one")
    make_session(home, "two")
    spoil(home.names)
    for name in ("one", "two"):
        with pytest.raises(Refused, match=name):
            make_session(home, name)
    assert make_session(home, "three").name == "three"


@given(data=st.data())
def test_no_byte_of_the_hint_that_changes_gives_a_name_twice(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = Home.at(tmp_path_factory.mktemp("home"))
    make_session(home, "one")
    content = bytearray(home.names.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    home.names.write_bytes(content)
    with pytest.raises(Refused, match="one"):
        make_session(home, "one")


def test_a_session_that_came_from_elsewhere_keeps_its_name(home: Home, tmp_path: Path) -> None:
    record = make_session(home, "one")
    aside = tmp_path / record.id
    os.rename(home.session(record.id).path, aside)
    make_session(home, "two")
    shutil.move(aside, home.session(record.id).path)
    with pytest.raises(Refused, match="one"):
        make_session(home, "one")


def test_a_hint_of_another_boot_is_not_believed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make_session(home, "one")
    home.names.write_bytes(home.names.read_bytes().splitlines(keepends=True)[0])  # what power loss may leave
    monkeypatch.setattr("coordinator.sessions.names.boot_id", lambda: "another")
    with pytest.raises(Refused, match="one"):
        make_session(home, "one")


class Died(BaseException):
    """As by kill -9, at a step."""


def die_at(place: str) -> Callable[[str], None]:
    def die(name: str) -> None:
        if name == place:
            raise Died

    return die


@pytest.mark.parametrize("place", ["names.write", "registry.create"])
def test_a_start_that_died_leaves_its_name_to_others(home: Home, place: str) -> None:
    make_session(home, "one")
    with failpoints.observe(die_at(place)), pytest.raises(Died):
        make_session(home, "two")
    assert make_session(home, "two").name == "two"
    with pytest.raises(Refused, match="one"):
        make_session(home, "one")


@pytest.mark.parametrize(("place", "is_back"), [("names.write", False), ("registry.journal", False), ("registry.written", True)])
def test_a_bringing_back_that_died_leaves_the_name_to_who_has_it(home: Home, place: str, is_back: bool) -> None:
    registry = Registry(home)
    ended = end_session(registry, make_session(home, "one"))
    with failpoints.observe(die_at(place)), pytest.raises(Died):
        registry.raise_epoch(ended.id, expected=1, reason="again", by=identify_self())
    assert (registry.get(ended.id).phase is not Phase.ENDED) == is_back
    if is_back:
        with pytest.raises(Refused, match=ended.id):
            make_session(home, "one")
    else:
        assert make_session(home, "one").name == "one"


def test_a_disk_that_takes_no_hint_gives_no_name_twice(home: Home) -> None:
    make_session(home, "one")

    def fail(name: str) -> None:
        if name == "names.write":
            raise OSError(28, "No space left on device")

    with failpoints.observe(fail):
        make_session(home, "two")
    assert not home.names.exists()
    with pytest.raises(Refused, match="two"):
        make_session(home, "two")


def test_a_hint_that_cannot_be_settled_does_not_fail_a_start(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    make_session(home, "one")

    def fail(_: Names) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Names, "_build_head", fail)
    assert make_session(home, "two").name == "two"
    assert not home.names.exists()
    with pytest.raises(Refused, match="two"):
        make_session(home, "two")


def test_a_session_that_is_brought_back_bears_its_name_again(home: Home) -> None:
    registry = Registry(home)
    ended = end_session(registry, make_session(home, "one"))
    make_session(home, "two")
    registry.raise_epoch(ended.id, expected=1, reason="again", by=identify_self())
    with pytest.raises(Refused, match=ended.id):
        make_session(home, "one")


def test_a_session_whose_record_is_damaged_keeps_its_name(home: Home) -> None:
    record = make_session(home, "one")
    home.session(record.id).record.write_bytes(b"\0" * 100)
    with pytest.raises(Refused, match=record.id):
        make_session(home, "one")


def test_a_program_that_registers_itself_is_running_from_the_first(home: Home) -> None:
    record = Registry(home).create(
        name="one",
        workspace="shop",
        hosting=Hosting.PROGRAM,
        launch=make_launch(),
        restart=Restart.NEVER,
        owner=identify_self(),
    )
    assert (record.phase, record.version) == (Phase.RUNNING, 1)
    assert record.started_at == record.created_at
