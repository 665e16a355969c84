"""A session records what is said and done, from threads and coroutines, and reads it back."""

import asyncio
import sys
import threading
from collections.abc import Iterator

import pytest
from support import cli_json, wait_until

import crewkeep
from coordinator.config import Settings
from coordinator.errors import InvalidInput, Superseded
from coordinator.paths import Home
from coordinator.sessions.heartbeat import HeartbeatFile
from coordinator.sessions.history import Command, Message, Role
from coordinator.sessions.recorded import Mark, Note
from coordinator.system import failpoints

QUICK = Settings(heartbeat_interval_s=0.05, lease_s=0.5)


@pytest.fixture
def session(home: Home) -> Iterator[crewkeep.Session]:
    with crewkeep.Session.start("planner", workspace="shop", home=home, settings=QUICK) as session:
        yield session


def test_messages_commands_and_pauses_come_back_in_order(session: crewkeep.Session) -> None:
    assert session.history() == []
    assert session.record_message("user", "Größe 😀 \ud800", at=1.0, id="m1", raw="{}")
    assert session.record_command("shell", "make", at=2.0, id="c1")
    assert session.record_command("shell", "make", at=3.0, id="c1", output="ok", ok=True, exit_code=0, duration_s=1.0)
    assert session.pause_recording()
    assert not session.record_message("user", "secret") and not session.record_command("shell", "secret")
    assert session.resume_recording()
    session.flush_recording()
    said, done, paused, resumed = session.history()
    assert said == Message(role=Role.USER, text="Größe 😀 \ud800", at=1.0, id="m1", raw="{}")
    assert done == Command(name="shell", text="make", at=3.0, id="c1", output="ok", ok=True, exit_code=0, duration_s=1.0)
    assert isinstance(paused, Mark) and paused.what is Note.PAUSED
    assert isinstance(resumed, Mark) and resumed.what is Note.RESUMED


def test_coroutines_record_without_holding_up_the_loop(session: crewkeep.Session) -> None:
    turns = 0

    async def record() -> None:
        for number in range(2000):
            assert await session.record_message_async("assistant", str(number))
        assert await session.record_command_async("shell", "ls", exit_code=0)

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        counting = asyncio.create_task(count())
        await asyncio.gather(record(), record())
        counting.cancel()

    asyncio.run(both())
    texts = [entry.text for entry in session.history() if isinstance(entry, Message)]
    assert len(texts) == 4000 and sorted(map(int, texts)) == sorted([*range(2000), *range(2000)])
    assert turns > 10, "others had their turn"


def test_a_lock_that_is_held_holds_up_no_loop(session: crewkeep.Session) -> None:
    session.record_message("user", "first")
    turns = 0

    async def record_while_held() -> None:
        nonlocal turns
        recording = asyncio.create_task(session.record_message_async("user", "second"))
        while not recording.done():
            turns += 1
            if turns == 50:
                session._recorder._lock.release()
            await asyncio.sleep(0)

    session._recorder._lock.acquire()
    asyncio.run(record_while_held())
    assert turns >= 50
    assert [entry.text for entry in session.history() if isinstance(entry, Message)] == ["first", "second"]


def test_recording_counts_as_progress(session: crewkeep.Session) -> None:
    file = HeartbeatFile(session.home.session(session.id).heartbeat)

    def beat_count() -> int:
        beat = file.read()
        return beat.progress_count if beat is not None else 0

    before = beat_count()
    for number in range(10):
        session.record_message("user", str(number))
    wait_until(lambda: beat_count() >= before + 10, what="the progress")
    beat = file.read()
    assert beat is not None and beat.fruitful
    file.close()


def test_the_coordinator_thread_makes_it_durable_by_itself(session: crewkeep.Session) -> None:
    synced = threading.Event()

    def watch(name: str) -> None:
        if name == "files.fsync" and threading.current_thread().name.startswith("crewkeep-"):
            synced.set()

    with failpoints.observe(watch):
        session.record_message("user", "x")
        assert synced.wait(5)


def test_a_session_that_recorded_nothing_has_no_file_for_it(session: crewkeep.Session) -> None:
    assert not session.home.session(session.id).recording.exists()


def test_a_closed_session_records_nothing_more(home: Home) -> None:
    session = crewkeep.Session.start("planner", home=home, settings=QUICK)
    session.record_message("user", "before")
    session.close()
    with pytest.raises(InvalidInput):
        session.record_message("user", "after")
    assert [entry.text for entry in session.history() if isinstance(entry, Message)] == ["before"]


def test_the_next_incarnation_goes_on_in_the_same_history(home: Home) -> None:
    with crewkeep.Session.start("planner", home=home, settings=QUICK) as first:
        first.record_message("user", "one")
    with crewkeep.Session.resume("planner", home=home, settings=QUICK) as second:
        second.record_message("user", "two")
        with pytest.raises((InvalidInput, Superseded)):
            first.record_message("user", "late")
        assert [entry.text for entry in second.history() if isinstance(entry, Message)] == ["one", "two"]


def test_programs_inside_a_session_record_for_it_and_count_as_its_progress(home: Home) -> None:
    program = (
        "import crewkeep, sys\n"
        "session = crewkeep.Session.current()\n"
        "session.record_message('assistant', 'from ' + sys.argv[1])\n"
        "session.close()\n"
    )
    script = f'{sys.executable} -P -c "$PROGRAM" a; {sys.executable} -P -c "$PROGRAM" b; exec sleep 1000'
    row = cli_json("run", "-d", "--json", "--name", "host", "--", "sh", "-c", script, home=home, env={"PROGRAM": program})

    def texts() -> list[str]:
        shown = cli_json("history", "show", "host", "--json", home=home)
        return [item["text"] for item in shown["items"] if item["kind"] == "message"]

    wait_until(lambda: texts() == ["from a", "from b"], timeout_s=20, what="both messages")
    assert cli_json("history", "--json", home=home)[0]["ref"] == row["id"]
    file = HeartbeatFile(home.session(row["id"]).heartbeat)
    wait_until(lambda: (beat := file.read()) is not None and beat.fruitful, what="the keeper to see it")
    file.close()
