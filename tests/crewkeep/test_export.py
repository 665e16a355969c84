"""Whatever a conversation holds, it becomes a document of each kind, and JSON reads back as it was."""

import json

from atif_support import check_atif
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.agents.base import PastConversation
from coordinator.services.archive import Past
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Message, Role, decode_item
from coordinator.sessions.recorded import Entry, Mark, Note
from crewkeep.cli.choosing import Choices
from crewkeep.export import Format, export

TEXTS = st.text(st.characters(codec=None))
NUMBERS = st.none() | st.floats(allow_nan=False, allow_infinity=False)
MESSAGES = st.builds(Message, role=st.sampled_from(Role), text=TEXTS, at=NUMBERS, id=st.none() | TEXTS)
COMMANDS = st.builds(
    Command,
    name=TEXTS,
    text=TEXTS | st.just('{"path": ["a"]}'),
    at=NUMBERS,
    id=st.sampled_from([None, "", "c1", "call-1"]),
    output=st.none() | TEXTS,
    ok=st.none() | st.booleans(),
    exit_code=st.none() | st.integers(),
    duration_s=NUMBERS,
)
MARKS = st.builds(Mark, what=st.sampled_from(Note), at=NUMBERS, size_bytes=st.none() | st.integers(0), detail=st.none() | TEXTS)


def make_past(title: str, ref: str = "1", cwd: str = "/src") -> Past:
    conversation = Conversation(agent="diary", id=ref)
    return Past(None, PastConversation(conversation=conversation, cwd=cwd, title=title, changed_at=1.0))


@settings(deadline=None)
@given(st.lists(MESSAGES | COMMANDS | MARKS, max_size=10))
def test_every_conversation_becomes_every_document(entries: list[Entry]) -> None:
    past = make_past("a title")
    check_atif(json.loads(export(Format.ATIF, past, entries)))
    assert export(Format.MARKDOWN, past, entries).startswith(b"# a title\n")
    items = json.loads(export(Format.JSON, past, entries))["items"]
    read = [decode_item(item) for item in items if item["kind"] != "mark"]
    assert read == [entry for entry in entries if not isinstance(entry, Mark)]


def test_the_picker_finds_every_word_that_is_typed_in_any_order() -> None:
    choices = Choices(
        [make_past("Mend the Größe"), make_past("mend the login", "2", "/shop"), make_past("rest\x1b[2J", "3")], 60.0
    )
    assert [choice.past.told.conversation.id for choice in choices.find("") if choice.past.told] == ["1", "2", "3"]
    for typed, ref in (("GRÖSSE mend", "diary:1"), ("shop login", "diary:2"), ("diary:3", "diary:3")):
        assert [choice.past.ref for choice in choices.find(typed)] == [ref]
    assert choices.find("mend nothing") == []
    assert all("\x1b" not in choice.line for choice in choices.find(""))
