"""What the adapter believes of Codex, held against the pinned program itself: no keeper here, only the two of them."""

from __future__ import annotations

import dataclasses
import itertools
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from codex_home import CodexHome
from model_server import Ask, Cut, Fault, Hang, ModelServer, Shell
from running import Start
from support import wait_until

from coordinator.agents import Activity, get_agent
from coordinator.agents.codex import GO_ON
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Message
from coordinator.sessions.model import LaunchSpec

pytestmark = [pytest.mark.agents, pytest.mark.timeout(120)]

Make = Callable[[str], CodexHome]


def make_launch(home: CodexHome, *words: str) -> LaunchSpec:
    plain = LaunchSpec(argv=("codex", *words), cwd=str(home.work), environment=home.environment, agent="codex")
    return get_agent("codex").prepare(plain)


def answer(ask: Ask) -> str | Shell:
    if ask.after_tool:
        return f"the tool said {ask.tool_outputs[-1][-30:]}"
    if "SLOWLY" in ask.last_user:
        return Shell("echo begun > begun.txt; sleep 30; echo late > late.txt")
    return f"answered {ask.last_user[-30:]}"


def test_exec_comes_back_in_its_own_conversation_with_its_flags(make_codex_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_codex_home(model.url)
        launch = make_launch(home, "-m", "special", "exec", "-s", "danger-full-access", "--skip-git-repo-check", "do it SLOWLY")
        first = start(launch)
        assert os.path.realpath(f"/proc/{first.pid}/exe").endswith("/bin/codex"), "the native program, not its wrapper"
        talk = first.wait_conversation(get_agent("codex"))
        wait_until((home.work / "begun.txt").exists, what="the tool call")
        first.kill()

        codex = get_agent("codex")
        before = codex.read_activity(talk)
        argv = codex.build_resume(launch, talk)
        assert start(launch, argv).wait() == 0
        ask = model.working_asks()[-1]
        assert "do it SLOWLY" in ask.said_by("user")
        assert ask.last_user == GO_ON
        assert ask.tool_outputs == ["aborted"]
        assert codex.read_activity(talk).progress == before.progress + 1, "one answer, and nothing for the resume itself"
        assert [path.name for path in home.rollouts] == [Path(talk.transcript or "").name]
        assert "-m" in argv
        assert argv[argv.index("-s") + 1] == "danger-full-access"


def test_a_lost_rollout_put_back_is_found_by_codex(make_codex_home: Make, start: Start, tmp_path: Path) -> None:
    with ModelServer(answer) as model:
        home = make_codex_home(model.url)
        launch = make_launch(home, "exec", "--skip-git-repo-check", "remember the heron")
        assert start(launch).wait() == 0
        rollout = home.rollouts[-1]
        talk = Conversation(agent="codex", id=rollout.stem[-36:], transcript=str(rollout))
        saved = tmp_path / "saved"
        saved.write_bytes(rollout.read_bytes())
        for path in (home.home / ".codex").rglob("*.sqlite*"):
            path.unlink()
        rollout.unlink()

        codex = get_agent("codex")
        codex.restore_transcript(talk, saved)
        assert start(launch, codex.build_resume(launch, talk)).wait() == 0
        assert "remember the heron" in model.working_asks()[-1].said_by("user")
        assert "answered" in model.working_asks()[-1].said_by("assistant")


def test_the_interactive_program_goes_on_if_it_was_at_work_and_waits_if_it_waited(make_codex_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_codex_home(model.url)
        home.configure('sandbox_mode = "danger-full-access"\napproval_policy = "never"\n')
        launch = make_launch(home, "do it SLOWLY")
        assert "--no-daemon" in launch.argv
        first = start(launch)
        talk = first.wait_conversation(get_agent("codex"))
        wait_until((home.work / "begun.txt").exists, what="the tool call")
        first.kill()

        second = start(launch, get_agent("codex").build_resume(launch, talk))
        wait_until(lambda: model.working_asks()[-1].last_user == GO_ON, what="the word to go on")
        codex = get_agent("codex")
        wait_until(lambda: codex.read_activity(talk).at_prompt, what="the end of the turn")
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")
        second.kill()

        asked = len(model.working_asks())
        third = start(launch, get_agent("codex").build_resume(launch, talk))
        assert third.wait_conversation(get_agent("codex")).id == talk.id
        wait_until(lambda: b"answered" in third.output, what="the conversation on the screen")
        assert len(model.working_asks()) == asked, "one that waited for its user waits again"
        # Enter right behind other keys counts as pasted text, and keys in the program's first moment are lost.
        keys = itertools.cycle(["\x15and now", "\r"])
        wait_until(
            lambda: third.type(next(keys)) or model.working_asks()[-1].last_user == "and now",
            what="the user's words",
            every_s=0.3,
        )
        assert "do it SLOWLY" in model.working_asks()[-1].said_by("user")


def test_an_open_permission_prompt_needs_the_user(make_codex_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: "fine" if ask.after_tool else Shell("echo x > asked.txt", escalate=True)) as model:
        home = make_codex_home(model.url)
        launch = make_launch(home, "-a", "on-request", "-s", "read-only", "write it")
        running = start(launch)
        talk, codex = running.wait_conversation(get_agent("codex")), get_agent("codex")
        seen = 0

        def needs_user() -> bool:
            nonlocal seen
            output = running.output[seen:]
            seen += len(output)
            codex.note_output(output)
            return codex.read_activity(talk).needs_user

        wait_until(needs_user, what="the permission prompt")
        assert not (home.work / "asked.txt").exists()
        wait_until(
            lambda: running.type("y") or not needs_user(), what="the end of the permission prompt", every_s=0.3
        )  # keys are not taken in the prompt's first moment
        wait_until((home.work / "asked.txt").exists, what="the tool's file")


def test_a_permission_lowered_by_configuration_since_is_not_raised_by_a_resume(make_codex_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_codex_home(model.url)
        launch = make_launch(home, "exec", "--skip-git-repo-check", "look around")
        home.configure('sandbox_mode = "read-only"\n')
        assert start(launch).wait() == 0
        talk = Conversation(agent="codex", id=home.rollouts[-1].stem[-36:], transcript=str(home.rollouts[-1]))
        home.configure('default_permissions = ":danger-full-access"\n')
        config = home.home / ".codex" / "config.toml"
        config.write_text(config.read_text().replace('sandbox_mode = "read-only"', ""))
        assert start(launch, get_agent("codex").build_resume(launch, talk)).wait() == 0
        assert "`sandbox_mode` is `read-only`" in model.working_asks()[-1].said_by("developer")


def run_out(make_codex_home: Make, start: Start, said: Fault | Cut) -> Activity:
    """Let a model say nothing but ``said``; return what the adapter sees of it once Codex has given up."""
    with ModelServer(lambda ask: said) as model:
        home = make_codex_home(model.url)
        config = home.home / ".codex" / "config.toml"
        retries = 'env_key = "SCRIPTED_KEY"\nrequest_max_retries = 0\nstream_max_retries = 0\n'
        config.write_text(config.read_text().replace('env_key = "SCRIPTED_KEY"\n', retries))
        launch = make_launch(home, "exec", "--skip-git-repo-check", "do it")
        assert start(launch).wait() == 1
        talk = Conversation(agent="codex", id=home.rollouts[-1].stem[-36:], transcript=str(home.rollouts[-1]))
        codex = get_agent("codex")
        [past] = codex.list_conversations(launch.environment)
        assert (past.conversation.id, past.cwd, past.title) == (talk.id, str(home.work), "do it")
        assert "do it" in [item.text for item in codex.read_history(talk) if isinstance(item, Message)]
        return codex.read_activity(talk)


@pytest.mark.parametrize(
    ("said", "words"),
    [(Fault(429, more={"type": "rate_limit_exceeded"}), "429"), (Fault(500), "high demand"), (Cut(), "stream disconnected")],
)
def test_a_failed_turn_tells_its_failure(make_codex_home: Make, start: Start, said: Fault | Cut, words: str) -> None:
    activity = run_out(make_codex_home, start, said)
    assert words in (activity.failure or "")
    assert (activity.limited_until, activity.at_prompt, activity.progress) == (None, True, 0)


@pytest.mark.parametrize("told", ["in words", "exactly"])
def test_a_usage_limit_tells_when_it_ends(make_codex_home: Make, start: Start, told: str) -> None:
    ends_at = int(time.time()) // 60 * 60 + 7200 + (17 if told == "exactly" else 0)  # in words it is told to the minute
    headers = {"x-codex-primary-used-percent": "100", "x-codex-primary-reset-at": str(ends_at)}
    headers["x-codex-primary-window-minutes"] = "300"
    more = {"type": "usage_limit_reached", "plan_type": "pro", "resets_at": ends_at}
    limit = Fault(429, "The usage limit has been reached", headers=headers if told == "exactly" else {}, more=more)
    activity = run_out(make_codex_home, start, limit)
    assert "usage limit" in (activity.failure or "")
    assert activity.limited_until == ends_at


def test_a_hanging_model_is_no_failure(make_codex_home: Make, start: Start) -> None:
    with ModelServer(lambda ask: Hang()) as model:
        home = make_codex_home(model.url)
        launch = make_launch(home, "exec", "--skip-git-repo-check", "do it")
        running = start(launch)
        wait_until(model.working_asks, what="the request")
        talk, codex = running.wait_conversation(get_agent("codex")), get_agent("codex")
        activity = wait_until(lambda: (seen := codex.read_activity(talk)).at_prompt is False and seen, what="the open turn")
        assert activity.failure is None


def test_killing_the_native_program_leaves_no_codex_behind(make_codex_home: Make, start: Start) -> None:
    with ModelServer(answer) as model:
        home = make_codex_home(model.url)
        launch = make_launch(home, "exec", "-s", "danger-full-access", "--skip-git-repo-check", "do it SLOWLY")
        launch = dataclasses.replace(launch, environment={**launch.environment, "MARK": str(home.work)})
        running = start(launch)
        wait_until((home.work / "begun.txt").exists, what="the tool call")
        asked, rest = len(model.asks), running.tree()[1:]
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        assert not [process for process in rest if process.is_running() and "codex" in process.name()]
        running.kill()
        for process in rest:  # the tool's own processes are the keeper's to end
            if process.is_running():
                process.kill()
        assert len(model.asks) == asked
