"""What the adapter believes of OpenCode, held against the pinned program itself: no keeper here, only the two of them."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from model_server import Ask, Cut, Fault, Hang, ModelServer, Shell
from opencode_home import OpenCodeHome
from running import SLOW_S, Start
from support import wait_until

from coordinator.agents import get_agent
from coordinator.agents.base import Activity, Agent
from coordinator.agents.opencode import GO_ON
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import LaunchSpec

pytestmark = [pytest.mark.agents, pytest.mark.timeout(180)]

Make = Callable[[str], OpenCodeHome]


def make_launch(home: OpenCodeHome, *words: str) -> LaunchSpec:
    plain = LaunchSpec(argv=("opencode", *words), cwd=str(home.work), environment=home.environment, agent="opencode")
    return get_agent("opencode").prepare(plain)


def wait_activity(agent: Agent, talk: Conversation, shows: Callable[[Activity], object], what: str) -> Activity:
    def look() -> Activity | None:
        activity = agent.read_activity(talk)
        return activity if shows(activity) else None

    found = wait_until(look, what=what, timeout_s=SLOW_S, every_s=0.05)
    assert found is not None
    return found


def answer(ask: Ask) -> str | Shell:
    if "SLOWLY" in ask.last_user and not ask.after_tool:
        return Shell("echo begun > begun.txt; sleep 60; echo late > late.txt")
    return f"answered {ask.last_user[-30:]}"


def test_run_comes_back_in_its_own_conversation_with_its_flags(make_opencode_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_opencode_home(model.url)
        launch = make_launch(home, "run", "--thinking", "--title", "mine", "--agent", "plan", "do it SLOWLY")
        home.configure(agent={"plan": {"permission": {"*": "allow"}}})
        first = start(launch)
        talk = first.wait_conversation(get_agent("opencode"))
        wait_until((home.work / "begun.txt").exists, what="the tool call", timeout_s=SLOW_S)
        first.kill()

        opencode = get_agent("opencode")
        argv = opencode.build_resume(launch, talk)
        before = opencode.read_activity(talk)
        assert before.at_prompt is None, "what was cut does not go on"
        assert start(launch, argv).wait() == 0
        ask = model.working_asks()[-1]
        assert "do it SLOWLY" in ask.said_by("user")
        assert GO_ON in ask.last_user
        assert ask.tool_outputs == ["[Tool execution was interrupted]"]
        after = opencode.read_activity(talk)
        assert (after.progress, after.at_prompt) == (before.progress + 1, True), "one answer, nothing for the resume itself"
        assert [word for word in launch.argv if word not in argv] == ["do it SLOWLY"]
        assert [past.conversation.id for past in opencode.list_conversations(home.environment)] == [talk.id]


def test_two_that_start_together_in_one_directory_are_told_apart(make_opencode_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: Shell("sleep 60")) as model:
        home = make_opencode_home(model.url)
        assert start(make_launch(home, "session", "list")).wait() == 0, "two of them cannot make the first database together"
        launches = [make_launch(home, "run", word) for word in ("heron", "kingfisher")]
        running = [start(launch) for launch in launches]
        talks = [one.wait_conversation(get_agent("opencode")) for launch, one in zip(launches, running, strict=True)]
        opencode = get_agent("opencode")
        for talk, word in zip(talks, ("heron", "kingfisher"), strict=True):
            assert wait_until(lambda: opencode.holds_text(talk, word), what=word, timeout_s=SLOW_S)  # noqa: B023
        assert opencode.holds_text(talks[0], "kingfisher") is False


def test_the_interactive_program_comes_back_waiting_in_its_conversation(make_opencode_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_opencode_home(model.url)
        launch = make_launch(home, "--prompt", "do it SLOWLY")
        first = start(launch)
        wait_until((home.work / "begun.txt").exists, what="the tool call", timeout_s=SLOW_S)
        talk = first.wait_conversation(get_agent("opencode"))
        assert get_agent("opencode").read_activity(talk).at_prompt is False
        first.kill()

        opencode, asked = get_agent("opencode"), len(model.working_asks())
        second = start(launch, opencode.build_resume(launch, talk))
        assert opencode.read_activity(talk).at_prompt is True
        wait_until(lambda: b"interrupt" in second.output or b"begun.txt" in second.output, what="the screen", timeout_s=SLOW_S)
        assert len(model.working_asks()) == asked
        second.type("and now")
        wait_until(lambda: b"now" in second.take_output(), what="the words on the screen", timeout_s=SLOW_S)
        second.type("\r")
        wait_until(lambda: "and now" in model.working_asks()[-1].last_user, what="the user's words", timeout_s=SLOW_S)
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")
        assert second.wait_conversation(opencode).id == talk.id


def test_the_minimal_interface_is_told_to_go_on(make_opencode_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_opencode_home(model.url)
        launch = make_launch(home, "--mini", "--prompt", "do it SLOWLY")
        first = start(launch)
        wait_until((home.work / "begun.txt").exists, what="the tool call", timeout_s=SLOW_S)
        talk = first.wait_conversation(get_agent("opencode"))
        first.kill()
        start(launch, get_agent("opencode").build_resume(launch, talk))
        wait_until(lambda: model.working_asks()[-1].last_user == GO_ON, what="the word to go on", timeout_s=SLOW_S)
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")


def test_an_open_permission_prompt_needs_the_user(make_opencode_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("echo x > asked.txt; sleep 1")) as model:
        home = make_opencode_home(model.url)
        home.configure(permission={"*": "ask"})
        launch = make_launch(home, "--prompt", "write it")
        running, opencode = start(launch), get_agent("opencode")
        talk = running.wait_conversation(opencode)
        wait_activity(opencode, talk, lambda seen: seen.needs_user, "the permission prompt")
        assert not (home.work / "asked.txt").exists()
        wait_until(lambda: b"Permission" in running.output, what="the prompt on the screen", timeout_s=SLOW_S)
        running.type("\r")
        wait_activity(opencode, talk, lambda seen: not seen.needs_user, "the end of the prompt")
        wait_activity(opencode, talk, lambda seen: seen.at_prompt, "the end of the turn")
        assert (home.work / "asked.txt").exists()


@pytest.mark.parametrize("loss", ["rows", "database", "garbage"])
def test_a_lost_conversation_put_back_is_found_by_opencode(
    make_opencode_home: Make, start: Start, tmp_path: Path, loss: str
) -> None:
    with ModelServer(answer) as model:
        home = make_opencode_home(model.url)
        launch = make_launch(home, "run", "remember the heron")
        first, opencode = start(launch), get_agent("opencode")
        talk = first.wait_conversation(opencode)
        assert first.wait() == 0
        exported = opencode.export_transcript(talk)
        assert exported is not None
        saved = tmp_path / "saved"
        saved.write_bytes(exported)
        if loss == "rows":
            with sqlite3.connect(home.database) as connection:
                for table, column in (("part", "session_id"), ("message", "session_id"), ("session", "id")):
                    connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (talk.id,))
            connection.close()
        else:
            for path in home.databases:
                path.unlink()
            if loss == "garbage":
                home.database.write_bytes(b"no database" * 1000)
        assert opencode.restore_transcript(talk, saved)
        assert not opencode.restore_transcript(talk, saved), "a second time there is nothing to put back"
        assert start(launch, opencode.build_resume(launch, talk)).wait() == 0
        ask = model.working_asks()[-1]
        assert "remember the heron" in ask.said_by("user")
        assert "answered" in ask.said_by("assistant")
        assert GO_ON in ask.last_user
        assert bool([path for path in home.databases if "damaged" in path.name]) == (loss == "garbage")


LIMIT = Fault(429, "You have hit your usage limit. Try again in 3 hours", {"retry-after": "10800"})


@pytest.mark.parametrize("fault", [LIMIT, Cut(), Hang()], ids=["429", "cut", "hang"])
def test_a_fault_of_the_model_leaves_the_turn_open(make_opencode_home: Make, start: Start, fault: Fault | Cut | Hang) -> None:
    with ModelServer(lambda ask: fault) as model:
        home = make_opencode_home(model.url)
        launch, opencode = make_launch(home, "run", "go"), get_agent("opencode")
        running = start(launch)
        talk = running.wait_conversation(opencode)
        wait_until(model.working_asks, what="the model request", timeout_s=SLOW_S)
        if fault is LIMIT:
            seen = wait_activity(opencode, talk, lambda seen: seen.limited_until, "the limit's end")
            assert abs((seen.limited_until or 0.0) - (time.time() + 3 * 3600)) < 60
        elif isinstance(fault, Cut):
            wait_until(lambda: len(model.working_asks()) > 1, what="its second try", timeout_s=SLOW_S)
        seen = wait_activity(opencode, talk, lambda seen: seen.at_prompt is False, "the open turn")
        assert (seen.failure, seen.needs_user, seen.progress) == (None, False, 0)


@pytest.mark.parametrize("which", ["limit", "refused"])
def test_a_fault_that_lasts_ends_the_turn_with_its_words(make_opencode_home: Make, start: Start, which: str) -> None:
    fault = Fault(429, "You have hit your usage limit. Try again in 3 hours", {"retry-after-ms": "1"})
    with ModelServer(lambda ask: fault) as model:
        home = make_opencode_home(model.url if which == "limit" else "http://127.0.0.1:9/v1")
        launch, opencode = make_launch(home, "run", "go"), get_agent("opencode")
        running = start(launch)
        talk = running.wait_conversation(opencode)
        if which == "refused":
            seen = wait_activity(opencode, talk, lambda seen: seen.at_prompt is False, "the open turn")
            assert (seen.failure, seen.limited_until) == (None, None), "it tries again, for a minute"
            return
        seen = wait_activity(opencode, talk, lambda seen: seen.failure, "the failure")
        assert seen.at_prompt is True
        assert "usage limit" in (seen.failure or "")
        assert abs((seen.limited_until or 0.0) - (time.time() + 3 * 3600)) < 60
