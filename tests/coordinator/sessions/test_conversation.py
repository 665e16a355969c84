"""A session's conversation: kept durably, by right, and rebuilt from the journal."""

import pytest
from session_support import make_session

from coordinator.errors import Damaged, Superseded
from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, read_conversation, rebuild_conversation, write_conversation
from coordinator.sessions.registry import Registry
from coordinator.system.processes import identify_self

FOUND = Conversation(agent="codex", id="0199", transcript="/t/é.jsonl", found_at=3.5)


def test_none_was_found_yet(home: Home) -> None:
    assert read_conversation(home.session(make_session(home).id)) is None


def test_it_is_kept_and_only_the_current_epoch_may(home: Home) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    write_conversation(paths, FOUND, epoch=1)
    Registry(home).raise_epoch(record.id, expected=1, reason="x", by=identify_self())
    with pytest.raises(Superseded):
        write_conversation(paths, Conversation(agent="codex", id="other"), epoch=1)
    assert read_conversation(paths) == FOUND


def test_a_damaged_one_is_set_aside_and_rebuilt(home: Home) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    write_conversation(paths, FOUND, epoch=1)
    paths.conversation.write_bytes(b"[]\n")
    with pytest.raises(Damaged):
        read_conversation(paths)
    assert rebuild_conversation(home, record.id) == FOUND
    assert read_conversation(paths) == FOUND
    assert (home.quarantine / record.id / "conversation.json.damaged-1").read_bytes() == b"[]\n"


def test_nothing_to_rebuild_from_leaves_it_alone(home: Home) -> None:
    record = make_session(home)
    paths = home.session(record.id)
    assert rebuild_conversation(home, record.id) is None
    paths.conversation.write_bytes(b"[]\n")
    assert rebuild_conversation(home, record.id) is None
    assert paths.conversation.read_bytes() == b"[]\n"
