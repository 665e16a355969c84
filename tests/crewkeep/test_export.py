"""Whatever a conversation holds, it becomes a document of each kind, and JSON reads back as it was."""

import json
from typing import Any

import pytest
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
    text=TEXTS | st.sampled_from(['{"path": ["a"]}', '{"x": NaN}', '{"x": 1e999}', '{"x": ' + "[" * 3000 + "]" * 3000 + "}"]),
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


def read_strictly(document: bytes) -> Any:
    """Read JSON as its specification has it, without the numbers that only Python knows."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(document, parse_constant=refuse)


@settings(deadline=None)
@given(st.lists(MESSAGES | COMMANDS | MARKS, max_size=10))
def test_every_conversation_becomes_every_document(entries: list[Entry]) -> None:
    past = make_past("a title")
    check_atif(read_strictly(export(Format.ATIF, past, entries)))
    assert export(Format.MARKDOWN, past, entries).startswith(b"# a title\n")
    items = read_strictly(export(Format.JSON, past, entries))["items"]
    read = [decode_item(item) for item in items if item["kind"] != "mark"]
    assert read == [entry for entry in entries if not isinstance(entry, Mark)]


@pytest.mark.parametrize(
    ("text", "closing"),
    [
        ("```python\nnever ended", "```"),
        ("~~~~\n```\n~~~\n", "~~~~"),
        ("```\na\n```", None),
        ("```\n````\n", None),
        ("````\n```\n````", None),
        ("```\n``` no end\n", "```"),
        ("```code``` in a line", None),
        ("    ```\nindented", None),
    ],
)
def test_markdown_ends_the_code_that_a_message_left_open(text: str, closing: str | None) -> None:
    entries = [Message(role=Role.ASSISTANT, text=text), Message(role=Role.USER, text="next")]
    written = export(Format.MARKDOWN, make_past("t"), entries).decode()
    assert f"{text}\n{closing + chr(10) if closing else ''}\n## User\n\nnext\n" in written


def test_markdown_headings_are_one_line_and_tell_no_time_that_is_none() -> None:
    entries = [Command(name="a\n# b", text="x", at=1e300), Mark(what=Note.DAMAGED, detail="c\n# d")]
    written = export(Format.MARKDOWN, make_past("t", cwd="/e\n# f"), entries).decode().splitlines()
    assert [line for line in written if line.startswith("#")] == ["# t", "### a # b"]


def test_the_picker_finds_every_word_that_is_typed_in_any_order() -> None:
    choices = Choices(
        [make_past("Mend the Größe"), make_past("mend the login", "2", "/shop"), make_past("rest\x1b[2J", "3")], 60.0
    )
    assert [choice.past.told.conversation.id for choice in choices.find("") if choice.past.told] == ["1", "2", "3"]
    for typed, ref in (("GRÖSSE mend", "diary:1"), ("shop login", "diary:2"), ("diary:3", "diary:3")):
        assert [choice.past.ref for choice in choices.find(typed)] == [ref]
    assert choices.find("mend nothing") == []
    assert all("\x1b" not in choice.line for choice in choices.find(""))
