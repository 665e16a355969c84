"""Python programs claim and write to each other as other sessions do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from session_support import make_session

from coordinator.errors import Claimed, InvalidInput, NotFound, Refused, Superseded
from coordinator.paths import Home
from coordinator.sessions.registry import Registry
from crewkeep import Session
from crewkeep.crew import Crew


@pytest.fixture
def session(home: Home) -> Iterator[Session]:
    with Session.start("planner", workspace="shop", home=home) as session:
        yield session


def test_a_claim_lasts_as_long_as_the_block(home: Home, session: Session, tmp_path: Path) -> None:
    other = Crew(home, Registry(home), make_session(home, "other"), directory=str(tmp_path))
    with session.crew.claimed(str(tmp_path / "a.py")):
        with pytest.raises(Claimed) as refused:
            other.claim("a.py")
        assert refused.value.holder == "planner"
    assert other.claim("a.py").name == "other"
    assert [claim.name for claim in session.crew.list_claims()] == ["other"]


def test_messages_come_once_and_name_their_sender(home: Home, session: Session) -> None:
    Crew(home, Registry(home), make_session(home, "other")).tell("planner", "hello ✓")
    (letter,) = session.crew.inbox()
    assert (letter.sender, letter.text) == ("other", "hello ✓")
    assert session.crew.inbox() == []
    assert session.crew.tell("other", "hello yourself").sender == "planner"


def test_a_message_for_all_goes_to_none_if_it_cannot_go_to_one(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(home)
    first, second = make_session(home, "first"), make_session(home, "second")
    crew = Crew(home, registry, None)
    crew.tell("second", "one")
    monkeypatch.setattr("coordinator.services.mailbox.LETTERS_LIMIT", 1)
    with pytest.raises(Refused, match="second"):
        crew.tell_all([first, second], "two")
    crew.tell("first", "one")
    assert [letter.text for letter in Crew(home, registry, first).inbox()] == ["one"]


def test_what_is_not_held_cannot_be_released(session: Session) -> None:
    with pytest.raises(NotFound):
        session.crew.release("nothing-of-mine")
    session.crew.claim("one")
    session.crew.claim("two")
    assert [claim.what for claim in session.crew.release()] == ["one", "two"]
    assert session.crew.release() == []


def test_a_session_that_has_ended_is_not_written_to_and_claims_nothing(home: Home) -> None:
    with Session.start("short", workspace="shop", home=home) as short:
        record = Registry(home).find("short")
        short.crew.claim("x")
    ended = Registry(home).get(record.id)
    with pytest.raises(Refused):
        Crew(home, Registry(home), None).tell("short", "too late")
    with pytest.raises(Refused):
        Crew(home, Registry(home), ended).claim("x")
    assert Crew(home, Registry(home), None).list_claims() == []


def test_outside_of_a_session_nothing_is_claimed(home: Home) -> None:
    with pytest.raises(InvalidInput):
        Crew(home, Registry(home), None).claim("x")


def test_a_superseded_program_neither_claims_nor_tells(home: Home) -> None:
    record = make_session(home, "twice")
    crew = Crew(home, Registry(home), record)
    crew.claim("mine")
    newer = Registry(home).raise_epoch(record.id, expected=1, reason="test", by=record.owner, phase=record.phase)
    from recovery.fencing import fence, list_fenced

    fence(newer, list_fenced(home, newer))
    with pytest.raises(Superseded):
        crew.claim("more")
    with pytest.raises(Superseded):
        crew.tell("twice", "from the past")
    assert [claim.what for claim in Crew(home, Registry(home), newer).release()] == ["mine"]
