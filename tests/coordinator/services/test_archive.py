"""Past conversations are one list, whoever was in them; each is read once, searched by Unicode's rules, and listed quickly."""

import dataclasses
import json
import os
import time
from collections import Counter
from pathlib import Path

import pytest
from diary_agent import write_diary
from hypothesis import given
from hypothesis import strategies as st
from session_support import change_session, end_session, make_launch, make_session

from coordinator.agents import base
from coordinator.errors import InvalidInput, NotFound
from coordinator.paths import Home
from coordinator.services.archive import combine, find_past, fold, list_past, read_past, read_session, search
from coordinator.sessions import summaries
from coordinator.sessions.conversation import Conversation, write_conversation
from coordinator.sessions.history import Command, Item, Message, Role
from coordinator.sessions.model import Hosting, Restart, SessionRecord
from coordinator.sessions.recordable import encode_command, encode_message
from coordinator.sessions.recorded import Mark, Note
from coordinator.sessions.recording import Recorder
from coordinator.sessions.registry import Registry


@pytest.fixture(autouse=True)
def _diary_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_ADAPTERS", {"diary": "diary_agent:Diary", "generic": base._ADAPTERS["generic"]})


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    return tmp_path / "shelf"


def say(text: str, at: float | None = None, role: Role = Role.USER, id: str | None = None) -> Message:
    return Message(role=role, text=text, at=at, id=id)


def record_all(home: Home, record: SessionRecord, *items: Item) -> None:
    recorder = Recorder(home.session(record.id), record.id, record.epoch, limit_bytes=1 << 20)
    for item in items:
        fields = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        recorder.append(encode_message(**fields) if isinstance(item, Message) else encode_command(**fields))
    recorder.close()


def make_diary_session(home: Home, shelf: Path, id: str, *items: Item, name: str | None = None) -> SessionRecord:
    record = change_session(Registry(home), make_session(home, name), agent_name="diary")
    path = write_diary(shelf, id, items, at=time.time(), title=f"about {id}", cwd="/")
    write_conversation(home.session(record.id), Conversation(agent="diary", id=id, transcript=str(path)), epoch=1)
    return record


def environment_of(shelf: Path) -> dict[str, str]:
    return {"DIARY_HOME": str(shelf)}


def test_sessions_and_what_programs_keep_are_one_list_newest_first(home: Home, shelf: Path) -> None:
    registry = Registry(home)
    old = end_session(registry, make_session(home, "old"))
    write_diary(shelf, "0aa", [say("x")], at=time.time() + 50, title="from outside", cwd="/src")
    known = make_diary_session(home, shelf, "0bb", say("y"), name="known")
    outside, mine, last = list_past(home, environment_of(shelf))
    assert (outside.ref, outside.agent, outside.cwd, outside.title) == ("diary:0aa", "diary", "/src", "from outside")
    assert (mine.ref, mine.name, mine.title, mine.state) == (known.id, "known", "about 0bb", "starting")
    assert mine.conversation_ids == ("0bb",) and outside.name is None
    assert (last.ref, last.state, last.title) == (old.id, "done", "/usr/bin/agent --fast")


def test_a_conversation_that_was_left_for_another_is_still_its_sessions(home: Home, shelf: Path) -> None:
    record = make_diary_session(home, shelf, "first", say("one", 1.0))
    path = write_diary(shelf, "second", [say("two", 2.0)], at=time.time(), title="then", cwd="/")
    write_conversation(home.session(record.id), Conversation(agent="diary", id="second", transcript=str(path)), epoch=1)
    (past,) = list_past(home, environment_of(shelf))
    assert past.conversation_ids == ("first", "second") and past.title == "then"
    assert [entry.text for entry in read_past(home, past) if isinstance(entry, Message)] == ["one", "two"]


def test_a_session_that_does_not_know_where_its_transcript_is_asks_the_agents_program(home: Home, shelf: Path) -> None:
    record = change_session(Registry(home), make_session(home), agent_name="diary")
    write_diary(shelf, "0aa", [say("y", 1.0)], at=time.time(), title="mine", cwd="/")
    write_conversation(home.session(record.id), Conversation(agent="diary", id="0aa"), epoch=1)
    (past,) = list_past(home, environment_of(shelf))
    assert past.ref == record.id
    for one in (past, find_past(home, record.id, environment_of(shelf))):
        assert read_past(home, one) == [say("y", 1.0)]


def test_a_transcript_that_is_gone_is_told_beside_what_was_recorded(home: Home, shelf: Path) -> None:
    record = make_diary_session(home, shelf, "0aa", say("told", 1.0))
    record_all(home, record, say("live", 2.0))
    (shelf / "0aa.jsonl").unlink()
    mark, live = read_session(home, record)
    assert isinstance(mark, Mark) and mark.what is Note.DAMAGED and str(shelf / "0aa.jsonl") in (mark.detail or "")
    assert live == say("live", 2.0)


def test_what_was_recorded_and_told_is_shown_once_and_the_rest_at_its_time(home: Home, shelf: Path) -> None:
    told = [say("mend it", 10.0), say("I look", 20.0, Role.ASSISTANT), say("done", 40.0, Role.ASSISTANT)]
    record = make_diary_session(home, shelf, "0cc", *told)
    test = Command(name="shell", text="make test", at=30.0, exit_code=0)
    record_all(home, record, say("mend it", 10.2), test, say("done", 40.1, Role.ASSISTANT), say("thanks", 50.0))
    assert read_session(home, record) == [*told[:2], test, told[2], say("thanks", 50.0)]


def test_what_is_said_more_often_live_than_told_keeps_the_rest() -> None:
    yes = [say("yes", float(number)) for number in range(3)]
    assert combine(yes[:2], yes) == yes


def test_a_command_that_ended_takes_the_place_of_its_beginning() -> None:
    begun = Command(name="shell", text="make", at=1.0, id="c1")
    ended = dataclasses.replace(begun, at=3.0, output="ok", ok=True)
    assert combine([], [begun, say("meanwhile", 2.0), ended]) == [ended, say("meanwhile", 2.0)]


def test_a_mark_stays_where_it_was() -> None:
    mark = Mark(what=Note.PAUSED, at=2.0)
    assert combine([say("a", 1.0), say("b", 3.0)], [say("a", 1.0), mark]) == [say("a", 1.0), mark, say("b", 3.0)]


SOME_ITEM = st.builds(Message, role=st.sampled_from(Role), text=st.sampled_from("abc"), at=st.none() | st.floats(0, 9))
ITEMS = st.lists(SOME_ITEM, max_size=6)


@given(told=ITEMS, recorded=ITEMS)
def test_nothing_is_lost_or_doubled_when_both_are_combined(told: list[Message], recorded: list[Message]) -> None:
    found = combine(told, recorded)
    counts = [Counter((item.role, item.text) for item in items if isinstance(item, Message)) for items in (told, recorded, found)]
    assert counts[2] == counts[0] | counts[1]
    rest = iter(found)
    assert all(item in rest for item in told), "a transcript's order stands"


def test_an_adapter_that_fails_hides_nothing_else(home: Home, shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base._ADAPTERS, "broken", "diary_agent:Broken")
    record = change_session(Registry(home), make_session(home), agent_name="broken")
    write_conversation(home.session(record.id), Conversation(agent="broken", id="b"), epoch=1)
    record_all(home, record, say("kept", 1.0))
    told: list[str] = []
    assert [past.ref for past in list_past(home, environment_of(shelf), report=told.append)] == [record.id]
    assert told == ["the conversations of broken cannot be listed: RuntimeError: no shelf"]
    damaged, kept = read_session(home, record)
    assert isinstance(damaged, Mark) and "torn page" in (damaged.detail or "") and kept == say("kept", 1.0)


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("Größe", "GRÖSSE"),
        ("e\u0301tude", "ÉTUDE"),
        ("ΣΊΣΥΦΟΣ", "σίσυφος"),
        ("日本語", "本"),
        ("İstanbul", "i\u0307stanbul"),
        ("😀!", "😀"),
    ],
)
def test_a_search_minds_neither_case_nor_composition(home: Home, shelf: Path, text: str, typed: str) -> None:
    record_all(home, make_session(home, "a"), say(f"before {text} after", 1.0))
    (hit,) = search(home, typed, environment_of(shelf))
    assert hit.index == 0 and hit.entry == say(f"before {text} after", 1.0) and text in hit.excerpt


@pytest.mark.parametrize("before", ["cafe\u0301 " * 500, "Stra\u00dfe\n" * 500, "\u1112\u1161\u11ab" * 900, "\ufb03" * 500, ""])
def test_an_excerpt_shows_the_place_however_much_before_it_folds_to_another_length(home: Home, before: str) -> None:
    record_all(home, make_session(home, "a"), say(f"{before} the needle stands here", 1.0))
    (hit,) = search(home, "NEEDLE", {})
    assert "the needle stands" in hit.excerpt and len(hit.excerpt) < 200


LISTING = Command(name="bash", text="ls", output="needle.txt")


def test_a_search_goes_through_every_agent_and_through_what_commands_put_out(home: Home, shelf: Path) -> None:
    write_diary(shelf, "0dd", [say("nothing"), LISTING], at=time.time() + 9, title="t")
    record_all(home, make_session(home, "mine"), Command(name="shell", text="cat Needle", at=1.0))
    make_session(home, "needle-work")
    found = [(hit.past.name or hit.past.ref, hit.index) for hit in search(home, "needle", environment_of(shelf))]
    assert found[0] == ("diary:0dd", 1)
    assert sorted(found[1:], key=str) == [("mine", 0), ("needle-work", None)]


def test_a_search_hands_out_what_it_found_before_it_reads_on(home: Home, shelf: Path) -> None:
    write_diary(shelf, "new", [say("needle")], at=time.time() + 9, title="t")
    (shelf / "old.jsonl").write_text('{"title": "o"}\n"no item"\n', encoding="utf-8")
    os.utime(shelf / "old.jsonl", (1, 1))
    hits = search(home, "needle", environment_of(shelf))
    assert next(hits).past.ref == "diary:new"
    assert list(hits) == []


def test_an_empty_search_is_refused(home: Home, shelf: Path) -> None:
    with pytest.raises(InvalidInput):
        list(search(home, "", environment_of(shelf)))


@given(st.text())
def test_folding_twice_changes_nothing_more(text: str) -> None:
    assert fold(fold(text)) == fold(text)


def test_a_conversation_is_named_as_a_session_or_by_its_agent(home: Home, shelf: Path) -> None:
    record = make_diary_session(home, shelf, "0bb", name="known")
    write_diary(shelf, "0aa1", [], at=1.0)
    write_diary(shelf, "0aa2", [], at=1.0)
    write_diary(shelf, "0aa", [], at=1.0)
    environment = environment_of(shelf)
    for text in ("known", record.id, record.id[:11], "diary:0bb", "diary:0b"):
        assert find_past(home, text, environment).ref == record.id
    assert find_past(home, "diary:0aa", environment).ref == "diary:0aa"
    assert find_past(home, "diary:0aa1", environment).ref == "diary:0aa1"
    with pytest.raises(InvalidInput) as several:
        find_past(home, "diary:0a", environment)
    assert "diary:0aa1" in several.value.message
    for text in ("nobody", "diary:zz", "codex:0aa", "diary:"):
        with pytest.raises(NotFound):
            find_past(home, text, environment)


def age_directories(home: Home) -> None:
    """Let every session's directory have been changed long ago, as after a pause."""
    for path in home.sessions.iterdir():
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 5))


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    before = summaries._summarise

    def count(home: Home, session_id: str) -> object:
        read.append(session_id)
        return before(home, session_id)

    monkeypatch.setattr(summaries, "_summarise", count)
    return read


def test_only_what_changed_is_read_anew(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "_WRITE_ABOVE", 0)
    registry = Registry(home)
    records = [make_session(home, f"s{number}") for number in range(4)]
    age_directories(home)
    read = count_reads(monkeypatch)
    first = list_past(home, {})
    assert len(read) == 4
    read.clear()
    assert list_past(home, {}) == first and read == []
    end_session(registry, records[2])
    record_all(home, records[1], say("a new title"))
    registry.remove(records[2].id)
    by_name = {past.name: past for past in list_past(home, {})}
    assert read == [records[1].id]
    assert by_name.keys() == {"s0", "s1", "s3"} and by_name["s1"].title == "a new title"


def test_a_change_that_came_within_the_clocks_grain_is_not_missed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summaries, "_WRITE_ABOVE", 0)
    record = make_session(home, "a")
    before = home.session(record.id).path.stat()
    list_past(home, {})
    end_session(Registry(home), record)
    os.utime(home.session(record.id).path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if it were the same instant
    assert [past.state for past in list_past(home, {})] == ["done"]


@pytest.mark.parametrize("harm", [b"", b"\0" * 400, b"12345678{}", b"zz", None])
def test_a_damaged_cache_is_made_anew(home: Home, monkeypatch: pytest.MonkeyPatch, harm: bytes | None) -> None:
    monkeypatch.setattr(summaries, "_WRITE_ABOVE", 0)
    make_session(home, "a")
    age_directories(home)
    right = list_past(home, {})
    data = home.summaries.read_bytes()
    home.summaries.write_bytes(data.replace(b'"a"', b'"b"') if harm is None else harm)
    assert list_past(home, {}) == right
    assert home.summaries.read_bytes() == data


def test_a_session_that_is_named_has_the_title_that_its_program_tells(home: Home, shelf: Path) -> None:
    make_diary_session(home, shelf, "0bb", name="known")
    assert find_past(home, "known", environment_of(shelf)).title == "about 0bb"


def test_a_session_whose_record_is_damaged_is_listed_as_its_journal_has_it(home: Home) -> None:
    whole, harmed, lost = (make_session(home, name) for name in ("whole", "harmed", "lost"))
    record_all(home, harmed, say("mend it"))
    for one in (harmed, lost):
        path = home.session(one.id).record
        path.write_bytes(path.read_bytes().replace(one.name.encode(), b"other"))
    home.session(lost.id).journal.unlink()
    (home.session(whole.id).path.parent / "stranger").mkdir()
    assert {past.name: past.title for past in list_past(home, {})} == {"whole": "/usr/bin/agent --fast", "harmed": "mend it"}
    assert [hit.past.name for hit in search(home, "mend", {})] == ["harmed"]


def test_a_name_that_is_no_unicode_is_listed(home: Home) -> None:
    registry = Registry(home)
    launch = make_launch("/bin/\udcffprogram")
    registry.create(name="odd", workspace="shop", hosting=Hosting.KEEPER, launch=launch, restart=Restart.NEVER)
    (past,) = list_past(home, {})
    assert json.dumps(past.title) == '"/bin/?program"'
