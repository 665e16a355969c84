"""What the adapter believes of Claude Code, held against the program itself: no keeper here, only the two of them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from claude_home import ClaudeHome
from model_server import Answer, Ask, Call, Cut, Fault, Hang, ModelServer, Shell
from running import Running, Start
from support import wait_until

from coordinator.agents import get_agent
from coordinator.agents.claude import GO_ON
from coordinator.sessions.model import LaunchSpec

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

Make = Callable[[str], ClaudeHome]


def make_launch(home: ClaudeHome, *words: str) -> LaunchSpec:
    argv = ("claude", "--model", "scripted", *words)
    return get_agent("claude").prepare(LaunchSpec(argv=argv, cwd=str(home.work), environment=home.environment, agent="claude"))


def answer(ask: Ask) -> Answer:
    if ask.after_tool:
        return f"the tool said {ask.tool_outputs[-1][-30:]}"
    if "SLOWLY" in ask.last_user:
        return Shell("echo begun > begun.txt; sleep 30; echo late > late.txt")
    return f"answered {ask.last_user[-30:]}"


def say(running: Running, words: str, heard: Callable[[], object]) -> None:
    """Type ``words`` until they are ``heard``: Enter right behind other keys counts as pasted text."""
    keys = itertools.cycle([f"\x15{words}", "\r"])
    wait_until(lambda: running.type(next(keys)) or heard(), what=words, every_s=0.4, timeout_s=15)


def test_a_headless_run_comes_back_in_its_own_conversation_with_its_flags(make_claude_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "--dangerously-skip-permissions", "-p", "do it SLOWLY", "--allowedTools", "Bash")
        argv, conversation = claude.begin(launch, "session-1")
        assert conversation is not None
        first = start(launch, argv)
        wait_until((home.work / "begun.txt").exists, what="the tool call")
        talk = first.wait_conversation(claude)
        assert talk.id == conversation.id
        first.kill()

        before = claude.read_activity(talk)
        argv = claude.build_resume(launch, talk)
        assert start(launch, argv).wait() == 0
        ask = model.working_asks()[-1]
        assert "do it SLOWLY" in ask.said_by("user")
        assert ask.last_user == GO_ON
        after = claude.read_activity(talk)
        assert after.progress == before.progress + 1, "one answer, and nothing for the resume itself"
        assert [str(path) for path in home.transcripts] == [talk.transcript]
        assert "--dangerously-skip-permissions" in argv


def test_the_interactive_program_goes_on_if_it_was_at_work_and_waits_if_it_waited(make_claude_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "--dangerously-skip-permissions", "do it SLOWLY")
        first = start(launch, claude.begin(launch, "session-1")[0])
        wait_until((home.work / "begun.txt").exists, what="the tool call")
        talk = first.wait_conversation(claude)
        before = claude.read_activity(talk)
        assert before.at_prompt is False
        first.kill()

        second = start(launch, claude.build_resume(launch, talk))
        wait_until(lambda: model.working_asks()[-1].last_user == GO_ON, what="the word to go on")
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")
        wait_until(  # what the process says of itself is ahead of its transcript
            lambda: (seen := claude.read_activity(talk)).at_prompt and seen.progress > before.progress, what="the end of the turn"
        )
        second.kill()

        asked = len(model.working_asks())
        third = start(launch, claude.build_resume(launch, talk))
        wait_until(lambda: b"answered" in third.output, what="the conversation on the screen")
        assert third.wait_conversation(claude).id == talk.id
        assert len(model.working_asks()) == asked, "one that waited for its user waits again"
        say(third, "and now", lambda: model.working_asks()[-1].last_user == "and now")
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")


def test_a_permission_prompt_and_a_question_need_the_user(make_claude_home: Make, start: Start) -> None:
    question = {"question": "Which?", "header": "Pick", "multiSelect": False}
    question["options"] = [{"label": "left", "description": "L"}, {"label": "right", "description": "R"}]

    def ask_back(ask: Ask) -> Answer:
        if ask.after_tool:
            return "fine" if "left" in ask.tool_outputs[-1] else Call("AskUserQuestion", {"questions": [question]})
        return Shell("touch asked.txt")

    with ModelServer(ask_back) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "write it")
        running = start(launch, claude.begin(launch, "session-1")[0])
        talk = running.wait_conversation(claude)
        wait_until(lambda: claude.read_activity(talk).needs_user, what="the permission prompt")
        assert not (home.work / "asked.txt").exists()
        running.type("1")
        wait_until((home.work / "asked.txt").exists, what="the tool's file")
        wait_until(lambda: b"Which?" in running.output and claude.read_activity(talk).needs_user, what="the question")
        wait_until(lambda: running.type("\r") or claude.read_activity(talk).at_prompt, what="the end of the turn", every_s=0.5)
        assert not claude.read_activity(talk).needs_user


def test_a_cleared_conversation_is_left_for_the_new_one(make_claude_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "the old words")
        running = start(launch, claude.begin(launch, "session-1")[0])
        old = running.wait_conversation(claude)
        wait_until(lambda: claude.read_activity(old).at_prompt, what="the end of the turn")
        said_at_s = time.monotonic()
        say(running, "/clear", lambda: time.monotonic() - said_at_s > 0.7)
        say(running, "the new words", lambda: model.working_asks()[-1].last_user == "the new words")
        assert "the old words" not in model.working_asks()[-1].said_by("user")
        new = wait_until(lambda: (found := running.wait_conversation(claude)).id != old.id and found, what="the new conversation")
        running.kill()
        argv = claude.build_resume(launch, new)
        assert argv[argv.index("--resume") + 1] == new.id


def test_a_session_that_another_claude_starts_has_a_conversation_of_its_own(make_claude_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: "noted" if ask.after_tool else Shell("env > inherited.txt")) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        outer = make_launch(home, "--dangerously-skip-permissions", "-p", "tell")
        assert start(outer, claude.begin(outer, "session-1")[0]).wait() == 0
        inherited = dict(line.split("=", 1) for line in (home.work / "inherited.txt").read_text().splitlines() if "=" in line)
        assert "CLAUDE_CODE_CHILD_SESSION" in inherited
        home.environment.update({name: value for name, value in inherited.items() if name.startswith("CLAUDE")})
        inner = make_launch(home, "--dangerously-skip-permissions", "remember")
        claude = get_agent("claude")
        argv, conversation = claude.begin(inner, "session-2")
        talk = start(inner, argv).wait_conversation(claude)
        assert conversation is not None
        assert talk.id == conversation.id
        assert talk.transcript is not None


def test_a_start_that_was_killed_before_anything_was_said_begins_anew(make_claude_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "-p", "remember the heron")
        argv, conversation = claude.begin(launch, "session-1")
        assert conversation is not None
        assert start(launch, argv).wait() == 0
        [path] = home.transcripts
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))  # as SIGKILL in its first moment leaves it
        assert start(launch, claude.build_resume(launch, conversation)).wait() == 0
        assert model.working_asks()[-1].last_user == "remember the heron"
        assert len(home.transcripts) == 2
        found = claude.find_conversation(launch, [], 0.0)
        assert found is not None
        assert found.transcript == str(home.transcripts[-1])


def test_a_lost_transcript_put_back_is_found_by_claude(make_claude_home: Make, start: Start, tmp_path: Path) -> None:
    with ModelServer(answer) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "-p", "remember the heron")
        assert start(launch, claude.begin(launch, "session-1")[0]).wait() == 0
        talk = claude.find_conversation(launch, [], 0.0)
        assert talk is not None
        [path], saved = home.transcripts, tmp_path / "saved"
        path.rename(saved)
        assert claude.restore_transcript(talk, saved)
        assert start(launch, claude.build_resume(launch, talk)).wait() == 0
        assert "remember the heron" in model.working_asks()[-1].said_by("user")
        assert "answered" in model.working_asks()[-1].said_by("assistant")
        assert [item.text for item in claude.read_history(talk) if item.text] == [
            "remember the heron", "answered remember the heron", GO_ON, f"answered {GO_ON[-30:]}"
        ]  # fmt: skip
        [past] = claude.list_conversations(launch.environment)
        assert (past.conversation.id, past.cwd, past.title) == (talk.id, str(home.work), "remember the heron")


@pytest.mark.parametrize("fault", [Fault(429, "slow down"), Fault(500, "broken"), Fault(401, "who are you"), Cut()])
def test_a_failed_turn_tells_its_failure(make_claude_home: Make, start: Start, fault: Fault | Cut) -> None:
    with ModelServer(lambda ask: fault) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "-p", "do it")
        assert start(launch, claude.begin(launch, "session-1")[0]).wait() == 1
        talk = claude.find_conversation(launch, [], 0.0)
        assert talk is not None
        activity = claude.read_activity(talk)
        assert "API" in (activity.failure or "")
        assert (activity.progress, activity.limited_until) == (0, None)


def test_a_usage_limit_tells_when_it_ends(make_claude_home: Make, start: Start) -> None:
    ends_at = int(time.time()) // 60 * 60 + 7200  # it is told to the minute
    limit = {"anthropic-ratelimit-unified-status": "rejected", "anthropic-ratelimit-unified-reset": str(ends_at)}
    limit["anthropic-ratelimit-unified-representative-claim"] = "five_hour"
    with ModelServer(lambda ask: Fault(429, "too much", headers=limit)) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "-p", "do it")
        del launch.environment["ANTHROPIC_API_KEY"]  # only users of a subscription have such limits
        launch.environment["CLAUDE_CODE_OAUTH_TOKEN"] = "sk-ant-oat01-nobody-asks"
        assert start(launch, claude.begin(launch, "session-1")[0]).wait() == 1
        talk = claude.find_conversation(launch, [], 0.0)
        assert talk is not None
        assert claude.read_activity(talk).limited_until == ends_at


def test_a_hanging_model_is_no_failure(make_claude_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: Hang()) as model:
        home, claude = make_claude_home(model.root), get_agent("claude")
        launch = make_launch(home, "-p", "do it")
        running = start(launch, claude.begin(launch, "session-1")[0])
        wait_until(model.working_asks, what="the request")
        talk = running.wait_conversation(claude)
        activity = wait_until(lambda: (seen := claude.read_activity(talk)).at_prompt is False and seen, what="the open turn")
        assert activity.failure is None
