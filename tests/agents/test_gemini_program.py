"""What the adapter believes of Gemini CLI, held against the pinned program itself: no keeper here, only the two of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gemini_home import GeminiHome
from model_server import Ask, Cut, Fault, Hang, ModelServer, Shell
from running import Running, Start
from support import require_program, wait_until

from coordinator.agents import get_agent
from coordinator.agents.base import Activity
from coordinator.agents.gemini import GO_ON, Gemini
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.model import LaunchSpec

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

Make = Callable[[str], GeminiHome]


def make_launch(home: GeminiHome, *words: str, environment: dict[str, str] | None = None) -> LaunchSpec:
    plain = LaunchSpec(argv=("gemini", *words), cwd=str(home.work), environment=environment or home.environment, agent="gemini")
    return get_agent("gemini").prepare(plain)


def begin(launch: LaunchSpec, session_id: str = "one") -> tuple[tuple[str, ...], Conversation]:
    argv, talk = get_agent("gemini").begin(launch, session_id)
    assert talk is not None
    return argv, talk


def answer(ask: Ask) -> str | Shell | Fault | Cut | Hang:
    if ask.after_tool:
        return f"the tool said {ask.tool_outputs[-1][-30:]}"
    if "SLOWLY" in ask.last_user:
        return Shell("echo begun > begun.txt; sleep 30; echo late > late.txt")
    if "SHELL" in ask.last_user:
        return Shell("echo x > asked.txt")
    return f"answered {ask.last_user[-30:]}"


class Watched:
    """A program and what the adapter sees of it."""

    def __init__(self, running: Running, talk: Conversation) -> None:
        self.gemini, self.running, self.talk, self._seen = Gemini(), running, talk, 0

    def activity(self) -> Activity:
        output = self.running.output[self._seen :]
        self._seen += len(output)
        self.gemini.note_output(output)
        return self.gemini.read_activity(self.talk)

    def type(self, text: str) -> None:
        """Type a line. Enter right behind other keys counts as pasted text, and keys in its first moment are lost."""
        keys = itertools.cycle([f"\x15{text}", "\r"])
        before = self.talk.transcript and Path(self.talk.transcript).parent.parent.joinpath("logs.json")
        wait_until(
            lambda: self.running.type(next(keys)) or (before and before.exists() and json.dumps(text) in before.read_text()),
            what=f"the program's taking in {text!r}",
            every_s=0.4,
            timeout_s=15,
        )


def test_headless_it_comes_back_in_its_own_conversation_with_its_flags(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home, "-m", "gemini-2.5-pro", "--approval-mode=yolo", "-p", "do it SLOWLY")
        argv, chosen = begin(launch)
        first = start(launch, argv)
        wait_until((home.work / "begun.txt").exists, what="the tool call", timeout_s=20)
        assert [process.name() for process in first.tree() if "node" in process.name()] == [first.process.name()], "no wrapper"
        assert f"--max-old-space-size={os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') // 2 >> 20}" in argv
        talk = first.wait_conversation(Gemini())
        assert talk.id == chosen.id
        first.kill()

        gemini = get_agent("gemini")
        before = gemini.read_activity(talk)
        assert before.at_prompt is False
        argv = gemini.build_resume(launch, talk)
        assert start(launch, argv).wait() == 0
        ask = model.working_asks()[-1]
        assert "do it SLOWLY" in ask.said_by("user")
        assert ask.last_user == GO_ON
        assert gemini.read_activity(talk).progress == before.progress + 1, "one answer, and nothing for the resume itself"
        assert {"gemini-2.5-pro", "--approval-mode=yolo"} < set(argv)
        assert not (home.work / "late.txt").exists()


def test_no_transcript_is_lost_to_a_resume_in_a_later_minute_and_another_sessions_start(
    make_gemini_home: Make, start: Start
) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)

        def launch_at(seconds: float, word: str) -> LaunchSpec:
            return make_launch(home, "-p", word, environment=home.shifted(seconds))

        launch = launch_at(0, "remember the heron")
        argv, talk = begin(launch)
        assert start(launch, argv).wait() == 0
        own = home.transcripts
        for minute in (1, 2):
            launch = launch_at(60 * minute, "remember the heron")
            assert start(launch, get_agent("gemini").build_resume(launch, talk)).wait() == 0
            assert "answered remember the heron" in model.working_asks()[-1].said_by("assistant"), f"lost in minute {minute}"
            empty = set(home.transcripts) - set(own)
            assert len(empty) == 1, "the program makes an empty second file each time; if not, the trick with the id can go"
            other = launch_at(60 * minute, "something else")
            argv, another = begin(other, f"another {minute}")
            assert start(other, argv).wait() == 0
            assert not [path for path in empty if path.exists()], "another session's start deletes what it takes for damaged"
            own += [path for path in home.transcripts if another.id[:8] in path.name]
        assert get_agent("gemini").restore_transcript(dataclasses.replace(talk, transcript=str(own[0])), own[0]) is False


def test_a_resume_killed_while_it_emptied_the_transcript_loses_nothing(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        minute = (time.time() // 60 + 2) * 60

        def launch_at(second: float) -> LaunchSpec:
            return make_launch(home, "-p", "remember the heron", environment=home.shifted(minute + second - time.time()))

        launch = launch_at(5)
        argv, talk = begin(launch)
        assert start(launch, argv).wait() == 0
        [path] = home.transcripts
        whole = path.read_bytes()
        launch = launch_at(25)
        assert start(launch, get_agent("gemini").build_resume(launch, talk)).wait() == 0
        assert home.transcripts == [path], "born in this minute: there is no second file"
        lines = path.read_bytes()[len(whole) :].splitlines(keepends=True)
        path.write_bytes(whole + b"".join(lines[:2]))  # as if it had been killed there

        resumed = start(launch, ("gemini", "--resume", talk.id, "-p", "x"))
        assert resumed.wait() == 42, "the program itself finds nothing"
        assert start(launch, get_agent("gemini").build_resume(launch, talk)).wait() == 0
        assert "answered remember the heron" in model.working_asks()[-1].said_by("assistant")


def test_a_conversation_of_a_worktree_is_resumed_in_it(make_gemini_home: Make, start: Start) -> None:
    git = require_program("git")
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        settings = home.home / ".gemini" / "settings.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "experimental": {"worktrees": True}}))
        for words in (["init", "-q"], ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"]):
            subprocess.run([git, *words], cwd=home.work, env=home.environment, check=True)
        launch = make_launch(home, "-w", "tree", "-y", "-p", "use the SHELL")
        argv, talk = begin(launch)
        assert start(launch, argv).wait() == 0
        tree = home.work / ".gemini" / "worktrees" / "tree"
        assert (tree / "asked.txt").exists()
        (tree / "asked.txt").unlink()
        running = start(launch, get_agent("gemini").build_resume(launch, talk))
        assert running.wait_conversation(Gemini()).id == talk.id
        assert running.wait() == 0
        ask = model.working_asks()[-1]
        assert "use the SHELL" in ask.said_by("user")
        assert ask.last_user == GO_ON


def test_a_lost_transcript_put_back_is_found_by_gemini(make_gemini_home: Make, start: Start, tmp_path: Path) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home, "-p", "remember the heron")
        argv, talk = begin(launch)
        assert start(launch, argv).wait() == 0
        [path] = home.transcripts
        saved = tmp_path / "saved"
        saved.write_bytes(path.read_bytes())
        for found in (home.home / ".gemini").rglob("*"):
            if found.is_file() and found.name != "settings.json":
                found.unlink()

        gemini, talk = get_agent("gemini"), dataclasses.replace(talk, transcript=str(path))
        assert gemini.restore_transcript(talk, saved) is True
        assert start(launch, gemini.build_resume(launch, talk)).wait() == 0
        assert "answered remember the heron" in model.working_asks()[-1].said_by("assistant")


def test_the_interactive_program_goes_on_if_it_was_at_work_and_waits_if_it_waited(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home, "-y", "do it SLOWLY")
        argv, _ = begin(launch)
        first = start(launch, argv)
        wait_until((home.work / "begun.txt").exists, what="the tool call", timeout_s=20)
        talk = first.wait_conversation(Gemini())
        first.kill()

        second = start(launch, get_agent("gemini").build_resume(launch, talk))
        wait_until(lambda: model.working_asks()[-1].last_user == GO_ON, what="the word to go on", timeout_s=20)
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")
        watched = Watched(second, talk)
        wait_until(lambda: watched.activity().at_prompt, what="the end of the turn")
        second.kill()

        asked = len(model.working_asks())
        third = start(launch, get_agent("gemini").build_resume(launch, talk))
        watched = Watched(third, talk)
        wait_until(lambda: watched.activity().at_prompt, what="the prompt", timeout_s=20)
        assert len(model.working_asks()) == asked, "one that waited for its user waits again"
        watched.type("and now")
        wait_until(lambda: model.working_asks()[-1].last_user == "and now", what="the user's words")
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")


def test_where_the_user_goes_on_in_another_conversation_the_session_follows(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home, "-i", "the first thing")
        argv, chosen = begin(launch)
        began_at, running, gemini = time.time(), start(launch, argv), Gemini()
        watched = Watched(running, running.wait_conversation(Gemini()))
        wait_until(lambda: watched.activity().at_prompt and watched.activity().progress, what="the first answer", timeout_s=20)
        watched.type("/clear")
        watched.type("the second thing")
        wait_until(lambda: model.working_asks()[-1].last_user == "the second thing", what="the second question")

        def look() -> Conversation | None:
            return gemini.find_conversation(launch, [running.pid], began_at)

        talk = wait_until(lambda: (found := look()) and found.id != chosen.id and found, what="the other conversation")
        assert "the second thing" in Path(talk.transcript or "").read_text()
        assert ("--resume", talk.id) == gemini.build_resume(launch, talk)[-2:]


def test_an_open_permission_prompt_needs_the_user(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home, "-i", "use the SHELL")
        argv, _ = begin(launch)
        running = start(launch, argv)
        watched = Watched(running, running.wait_conversation(Gemini()))
        wait_until(lambda: watched.activity().needs_user, what="the permission prompt", timeout_s=20)
        assert watched.activity().at_prompt is False
        assert not (home.work / "asked.txt").exists()
        wait_until(lambda: running.type("\r") or not watched.activity().needs_user, what="its end", every_s=0.5)
        wait_until((home.work / "asked.txt").exists, what="the tool's file")
        wait_until(lambda: watched.activity().at_prompt, what="the prompt")
        assert watched.activity().needs_user is False


def test_what_was_killed_before_anything_was_said_begins_by_another_id(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home)
        argv, chosen = begin(launch)
        first = start(launch, argv)
        talk = first.wait_conversation(Gemini())
        assert talk.id == chosen.id
        first.kill()
        running = start(launch, get_agent("gemini").build_resume(launch, talk))
        second = running.wait_conversation(Gemini())
        assert second.id != chosen.id
        watched = Watched(running, second)
        wait_until(lambda: watched.activity().at_prompt, what="the prompt", timeout_s=20)
        watched.type("hello there")
        wait_until(lambda: model.working_asks() and model.working_asks()[-1].last_user == "hello there", what="the question")


QUOTA = Fault(
    429,
    "You exceeded your current quota. Please retry in 3600s.",
    more={"details": [{"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaId": "RequestsPerDay"}]}]},
)


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (QUOTA, 1, "Please retry in 3600s"),
        (Fault(400, "so not"), 1, "so not"),
        (Cut(), 1, "terminated"),
    ],
)
def test_a_headless_failure_is_told_and_the_prompt_is_said_again(
    make_gemini_home: Make, start: Start, fault: Fault | Cut, code: int, words: str
) -> None:
    failing = True
    with ModelServer(lambda ask: fault if failing else "done now") as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home, "-p", "count the herons")
        argv, talk = begin(launch)
        running = start(launch, argv)
        watched = Watched(running, talk)
        assert running.wait() == code
        wait_until(lambda: words in (watched.activity().failure or ""), what="the failure")
        if fault is QUOTA:
            assert watched.activity().limited_until == pytest.approx(time.time() + 3600, abs=60)
        failing = False
        again = get_agent("gemini").build_resume(launch, talk)
        assert start(launch, again).wait() == 0
        assert model.working_asks()[-1].said_by("user").count("count the herons") == 1


def test_a_usage_limit_on_the_screen_needs_the_user(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: QUOTA) as model:
        home = make_gemini_home(model.root)
        launch = make_launch(home, "-i", "count the herons")
        argv, _ = begin(launch)
        running = start(launch, argv)
        watched = Watched(running, running.wait_conversation(Gemini()))
        wait_until(lambda: watched.activity().needs_user, what="the dialog", timeout_s=20)
        assert "Usage limit reached for gemini-2.5-flash" in (watched.activity().failure or "")
        wait_until(lambda: running.type("\x1b[B\r") or watched.activity().at_prompt, what="the prompt", every_s=0.5)
        assert watched.activity().needs_user is False
        assert "quota" in (watched.activity().failure or "")


def test_a_model_that_hangs_or_is_not_there_shows_as_an_open_turn(make_gemini_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: Hang()) as model:
        home = make_gemini_home(model.root)
        for number, url in enumerate((model.root, "http://127.0.0.1:9")):
            launch = make_launch(home, "-p", "anybody?", environment={**home.environment, "GOOGLE_GEMINI_BASE_URL": url})
            argv, _ = begin(launch, str(number))
            running = start(launch, argv)
            watched = Watched(running, running.wait_conversation(Gemini()))
            wait_until(lambda: watched.activity().at_prompt is False, what="the open turn", timeout_s=20)  # noqa: B023
            assert watched.activity().failure is None, "it tries again and again"
            os.kill(running.pid, signal.SIGTERM)
            assert running.wait() == 0, "without its wrapper it heeds SIGTERM"
