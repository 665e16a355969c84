"""Claims: one of two gets it, and only the lease, its release or its session's proven end takes it away."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from session_support import change_session, end_session, make_session

from coordinator.context import MemoryContext
from coordinator.errors import Busy, Claimed, Damaged, InvalidInput, NotFound, Refused, Superseded
from coordinator.paths import Home
from coordinator.services.claims import KEY, Claim, Claims, Form, find_file_target, find_target
from coordinator.services.crew import open_crew
from coordinator.sessions.model import Phase, SessionRecord
from coordinator.sessions.registry import Registry
from coordinator.system.clock import ManualClock


class Crew:
    """A home with two sessions, each with a handle of its own on the claims."""

    def __init__(self, home: Home, directory: Path) -> None:
        self.home, self.directory, self.clock = home, directory, ManualClock()
        self.registry = Registry(home)
        self.one, self.two = make_session(home, "one"), make_session(home, "two")
        self._open = []

    def claims_of(self, record: SessionRecord | None) -> Claims:
        crew = open_crew(self.home, None if record is None else record.writer)
        self._open.append(crew)
        return Claims(self.registry, crew, self.clock)

    def claim(self, record: SessionRecord, what: str, **options: object) -> Claim:
        target = find_target(what, directory=str(self.directory), workspace="shop")
        return self.claims_of(record).acquire(record.writer, what, target, **options)  # type: ignore[arg-type]

    def close(self) -> None:
        for crew in self._open:
            crew.close()


@pytest.fixture
def crew(home: Home, tmp_path: Path) -> Iterator[Crew]:
    directory = tmp_path / "work"
    (directory / "src" / "auth").mkdir(parents=True)
    (directory / "src" / "auth" / "login.py").touch()
    crew = Crew(home, directory)
    yield crew
    crew.close()


@pytest.mark.parametrize(
    ("what", "form"),
    [
        ("src/auth/login.py", Form.FILE),
        ("src/auth", Form.TREE),
        ("src/new/", Form.TREE),
        ("src/**/*.py", Form.PATTERN),
        ("new.py", Form.FILE),
        ("./new", Form.FILE),
        ("migration", Form.NAME),
    ],
)
def test_what_is_claimed_is_a_path_unless_it_is_a_plain_word(crew: Crew, what: str, form: Form) -> None:
    assert find_target(what, directory=str(crew.directory), workspace="shop").form is form


def test_a_link_and_what_it_points_to_are_one(crew: Crew) -> None:
    (crew.directory / "link").symlink_to(crew.directory / "src")
    crew.claim(crew.one, "link/auth")
    with pytest.raises(Claimed):
        crew.claim(crew.two, "src/auth/login.py")


def test_brackets_of_what_is_there_are_no_wildcards(crew: Crew) -> None:
    directory = crew.directory / "[app]"
    (directory / "[id]").mkdir(parents=True)
    claims = crew.claims_of(crew.one)
    for what in ("[id]/*.py", "[id]/new.js"):
        target = find_target(what, directory=str(directory), workspace="shop")
        claims.acquire(crew.one.writer, what, target)
    held = {"[id]/view.py": True, "[id]/new.js": True, "[id]/view.js": False, "i/view.py": False, "../a/[id]/view.py": False}
    for path, is_held in held.items():
        found = crew.claims_of(crew.two).find_blocking(crew.two.id, find_file_target(path, directory=str(directory)))
        assert (found is not None) is is_held, path


def test_a_path_that_is_no_text_is_refused_by_its_name(crew: Crew) -> None:
    with pytest.raises(InvalidInput, match=r"bad\\udcff\.py"):
        find_target("bad\udcff.py", directory=str(crew.directory), workspace="shop")


def test_the_second_is_told_who_has_it_and_until_when(crew: Crew) -> None:
    claim = crew.claim(crew.one, "src/**/*.py", lease_s=60)
    with pytest.raises(Claimed) as refused:
        crew.claim(crew.two, "src/auth")
    assert (refused.value.holder, refused.value.claimed) == ("one", "src/**/*.py")
    assert refused.value.until == claim.until == crew.clock.wall_s() + 60
    assert refused.value.exit_code == 4


def test_a_name_is_its_workspaces_and_meets_no_path(crew: Crew) -> None:
    crew.claim(crew.one, "migration")
    with pytest.raises(Claimed):
        crew.claim(crew.two, "migration")
    elsewhere = find_target("migration", directory=str(crew.directory), workspace="office")
    crew.claims_of(crew.two).acquire(crew.two.writer, "migration", elsewhere)
    crew.claim(crew.two, "./migration")


def test_those_who_share_hold_it_together_and_nobody_alone(crew: Crew) -> None:
    crew.claim(crew.one, "src", shared=True)
    crew.claim(crew.two, "src/auth", shared=True)
    with pytest.raises(Claimed):
        crew.claim(crew.two, "src/auth/login.py")


def test_to_claim_again_is_to_renew(crew: Crew) -> None:
    first = crew.claim(crew.one, "src", lease_s=10)
    crew.clock.advance(5)
    again = crew.claim(crew.one, "src", lease_s=10)
    assert again.since == first.since
    assert again.until == first.until + 5
    assert len(crew.claims_of(None).list_claims()) == 1


def test_the_lease_ends_it(crew: Crew) -> None:
    crew.claim(crew.one, "src", lease_s=10)
    crew.clock.advance(10)
    assert crew.claims_of(None).list_claims() == []
    crew.claim(crew.two, "src")


def test_its_release_ends_it_and_only_its_holder_releases(crew: Crew) -> None:
    claim = crew.claim(crew.one, "src")
    with pytest.raises(NotFound):
        crew.claims_of(crew.two).release(crew.two.writer, claim.target)
    assert crew.claims_of(crew.one).release(crew.one.writer, claim.target) == claim
    crew.claim(crew.two, "src")


def test_the_end_of_its_session_ends_it(crew: Crew) -> None:
    crew.claim(crew.one, "src")
    end_session(crew.registry, crew.one)
    assert crew.claims_of(None).list_claims() == []
    crew.claim(crew.two, "src")


def test_a_session_that_may_come_back_still_holds_it(crew: Crew) -> None:
    crew.claim(crew.one, "src")
    change_session(crew.registry, crew.one, phase=Phase.RECOVERING)
    with pytest.raises(Claimed):
        crew.claim(crew.two, "src")


def test_a_session_whose_record_is_damaged_still_holds_it(crew: Crew) -> None:
    crew.claim(crew.one, "src")
    crew.home.session(crew.one.id).record.write_bytes(b"{")
    with pytest.raises(Claimed):
        crew.claim(crew.two, "src")


def test_an_older_incarnation_can_neither_claim_nor_release(crew: Crew) -> None:
    claim = crew.claim(crew.one, "src")
    with open_crew(crew.home, None) as context:
        context.fence(crew.one.id, crew.one.epoch + 1)
    with pytest.raises(Superseded):
        crew.claim(crew.one, "docs.md")
    with pytest.raises(Superseded):
        crew.claims_of(crew.one).release(crew.one.writer, claim.target)
    assert crew.claims_of(None).list_claims() == [claim]
    newer = dataclasses.replace(crew.one, epoch=crew.one.epoch + 1)
    assert crew.claims_of(newer).release(newer.writer, claim.target) == claim


def test_a_file_is_blocked_for_others_only(crew: Crew) -> None:
    claim = crew.claim(crew.one, "src")
    login = find_file_target("src/auth/login.py", directory=str(crew.directory))
    assert crew.claims_of(crew.two).find_blocking(crew.two.id, login) == claim
    assert crew.claims_of(crew.one).find_blocking(crew.one.id, login) is None
    outside = find_file_target("README.md", directory=str(crew.directory))
    assert crew.claims_of(crew.two).find_blocking(crew.two.id, outside) is None


def test_who_shares_a_file_may_edit_it(crew: Crew) -> None:
    crew.claim(crew.one, "src", shared=True)
    login = find_file_target("src/auth/login.py", directory=str(crew.directory))
    assert crew.claims_of(crew.two).find_blocking(crew.two.id, login) is not None
    crew.claim(crew.two, "src", shared=True)
    assert crew.claims_of(crew.two).find_blocking(crew.two.id, login) is None


@pytest.mark.parametrize("lease_s", [0, -1, 31 * 86_400, float("nan"), float("inf")])
def test_a_lease_that_cannot_be_is_refused(crew: Crew, lease_s: float) -> None:
    with pytest.raises(InvalidInput):
        crew.claim(crew.one, "src", lease_s=lease_s)


@pytest.mark.parametrize("what", ["", "a\0b", "x" * 2000])
def test_what_cannot_be_claimed_is_refused(crew: Crew, what: str) -> None:
    with pytest.raises(InvalidInput):
        crew.claim(crew.one, what)


def test_there_are_not_more_than_the_limit(crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.services.claims.CLAIMS_LIMIT", 2)
    crew.claim(crew.one, "a")
    crew.claim(crew.one, "b")
    crew.claim(crew.one, "b")
    with pytest.raises(Refused):
        crew.claim(crew.one, "c")


def test_claims_of_another_shape_are_told_and_not_dropped(home: Home) -> None:
    record = make_session(home)
    crew = MemoryContext(writer=record.writer)
    crew.put(KEY, {"claims": [{"what": "x"}]}, expected_version=0)
    with pytest.raises(Damaged):
        Claims(Registry(home), crew).list_claims()


class Crowded(MemoryContext):
    """A context in which others write the same entry whenever somebody is about to."""

    def __init__(self, others: int, **options: Any) -> None:
        super().__init__(**options)
        self._others = others

    def update(self, key: str, fn: Any = None, **options: Any) -> Any:
        def disturbed(value: Any) -> Any:
            if self._others:
                self._others -= 1
                self.put(key, value or {"claims": []}, unconditional=True)
            return fn(value)

        return super().update(key, disturbed, **options)


def test_claims_of_other_things_in_the_same_moment_are_no_reason_to_refuse_one(home: Home, tmp_path: Path) -> None:
    record = make_session(home)
    claims = Claims(Registry(home), Crowded(20, writer=record.writer))
    target = find_target("plan", directory=str(tmp_path), workspace="shop")
    assert claims.acquire(record.writer, "plan", target).target == target
    claims = Claims(Registry(home), Crowded(10_000, writer=record.writer))
    with pytest.raises(Busy, match="claims"):
        claims.acquire(record.writer, "plan", target)


def test_of_many_processes_that_ask_at_once_one_gets_it(crew: Crew) -> None:
    records = [make_session(crew.home, f"racer-{number}") for number in range(6)]
    ready_fd, go_fd = os.pipe()
    children = []
    for record in records:
        pid = os.fork()
        if pid == 0:
            os.close(go_fd)
            os.read(ready_fd, 1)  # until every one is there
            try:
                crew.claim(record, "src/auth" if record.name.endswith("0") else "src/**/login.py")
                os._exit(0)
            except Claimed:
                os._exit(4)
            finally:
                os._exit(1)
        children.append(pid)
    os.close(go_fd)
    os.close(ready_fd)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
    assert codes == [0, 4, 4, 4, 4, 4]
    assert len(crew.claims_of(None).list_claims()) == 1
