"""Letters: durable before they are acknowledged, taken by one, forgotten only once they are proven read."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from session_support import make_session

from coordinator.context import MemoryContext, SharedContext
from coordinator.errors import InvalidInput, Refused, Superseded
from coordinator.paths import Home
from coordinator.services.crew import open_crew
from coordinator.services.mailbox import PREFIX, LetterState, Mailbox
from coordinator.sessions.model import SessionRecord, Writer


class Post:
    """Two sessions and their mailboxes."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.one, self.two = make_session(home, "one"), make_session(home, "two")
        self.contexts: list[SharedContext] = []

    def box(self, writer: Writer | None) -> Mailbox:
        self.contexts.append(open_crew(self.home, writer))
        return Mailbox(self.contexts[-1])

    def write(self, text: str, to: SessionRecord | None = None) -> str:
        return self.box(self.one.writer).write((to or self.two).id, text, writer=self.one.writer).id

    @property
    def states(self) -> list[LetterState]:
        return [letter.state for letter in self.box(None).list_letters(self.two.id)]


@pytest.fixture
def post(home: Home) -> Iterator[Post]:
    post = Post(home)
    yield post
    for context in post.contexts:
        context.close()


def test_a_letter_waits_for_its_session_alone_and_names_its_sender(post: Post) -> None:
    id = post.write("the API is ready ✓")
    (letter,) = post.box(None).list_letters(post.two.id)
    assert (letter.id, letter.sender, letter.sender_id, letter.text) == (id, "one", post.one.id, "the API is ready ✓")
    assert id in letter.tell()
    assert "one" in letter.tell()
    assert post.box(None).list_letters(post.one.id) == []
    assert post.box(None).count_new(post.two.id) == 1


def test_of_two_who_take_one_gets_it(post: Post) -> None:
    post.write("once")
    first, second = post.box(post.two.writer), post.box(post.two.writer)
    assert [letter.text for letter in first.take(post.two.id, 1)] == ["once"]
    assert second.take(post.two.id, 1) == []


def test_letters_come_in_the_order_in_which_they_were_written(post: Post) -> None:
    texts = [f"number {number}" for number in range(12)]
    for text in texts:
        post.write(text)
    assert [letter.text for letter in post.box(post.two.writer).take(post.two.id, 1)] == texts


def test_a_letter_is_read_once_the_turn_that_got_it_has_ended(post: Post) -> None:
    post.write("a")
    post.write("b")
    box = post.box(post.two.writer)
    (first, second) = box.take(post.two.id, 1)
    box.note_handed(post.two.id, 1, [first.id])
    assert post.states == [LetterState.HANDED, LetterState.TAKEN]
    box.note_read(post.two.id, 1)
    assert post.states == [LetterState.READ, LetterState.TAKEN]
    assert second.state is LetterState.TAKEN


def test_what_did_not_arrive_is_new_again_and_what_did_is_read(post: Post) -> None:
    post.write("arrived")
    post.write("lost")
    box = post.box(post.two.writer)
    box.take(post.two.id, 1)
    box.settle(post.two.id, lambda letter: LetterState.READ if letter.text == "arrived" else LetterState.NEW)
    assert post.states == [LetterState.READ, LetterState.NEW]
    assert [letter.text for letter in box.take(post.two.id, 2)] == ["lost"]


def test_an_older_incarnation_takes_nothing(post: Post) -> None:
    post.write("for who rules")
    with open_crew(post.home, None) as crew:
        crew.fence(post.two.id, 2)
    with pytest.raises(Superseded):
        post.box(post.two.writer).take(post.two.id, 1)
    assert post.states == [LetterState.NEW]


def test_of_those_that_were_read_only_the_newest_are_kept(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.services.mailbox.LETTERS_KEPT", 2)
    box = post.box(post.two.writer)
    for number in range(4):
        post.write(str(number))
    box.note_handed(post.two.id, 1, [letter.id for letter in box.take(post.two.id, 1)])
    post.write("unread")
    box.note_read(post.two.id, 1)
    assert [letter.text for letter in box.list_letters(post.two.id)] == ["2", "3", "unread"]


@pytest.mark.parametrize("text", ["", " \n", "x" * (64 << 10) + "y"])
def test_what_cannot_be_told_is_refused(post: Post, text: str) -> None:
    with pytest.raises(InvalidInput):
        post.write(text)
    assert post.states == []


def test_a_full_mailbox_refuses_and_keeps_what_it_has(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coordinator.services.mailbox.LETTERS_LIMIT", 1)
    post.write("first")
    with pytest.raises(Refused):
        post.write("second")
    assert len(post.states) == 1


def test_text_that_is_no_unicode_is_told_as_far_as_it_is(post: Post) -> None:
    post.write("half \ud800 of it")
    (letter,) = post.box(None).list_letters(post.two.id)
    assert letter.text == "half ? of it"


def test_a_newer_programs_letter_is_left_alone() -> None:
    crew = MemoryContext(writer=None)
    crew.put(f"{PREFIX}x/1", {"state": "sealed"}, expected_version=0)
    assert Mailbox(crew).take("x", 1) == []
    assert list(crew.keys(PREFIX)) == [f"{PREFIX}x/1"]
