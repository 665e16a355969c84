"""The hook's program, as an agent runs it: a keeper that hears it, one that hangs, none at all, input of any kind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import CREWKEEP, cli, cli_json, make_environment, wait_until

from coordinator.paths import Home
from coordinator.sessions.journal import Journal
from coordinator.sessions.registry import Registry

HOOK = CREWKEEP.parent / "crewkeep-hook"
EDIT = {"hook_event_name": "PreToolUse", "tool_name": "Edit", "tool_input": {"file_path": "plan.md"}}


def run_hook(home: Home | Path, session: str, event: object, **more: str) -> subprocess.CompletedProcess[str]:
    given = event if isinstance(event, str) else json.dumps(event)
    environment = make_environment(home, {"CREWKEEP_SESSION": session, "CREWKEEP_EPOCH": "1", **more})
    return subprocess.run(
        [str(HOOK), "claude"], input=given, env=environment, capture_output=True, text=True, timeout=30, check=False
    )


def start(home: Home, name: str, *options: str) -> str:
    words = ("run", "-d", "--json", "--name", name, "-w", "shop", *options, "--", "sleep", "300")
    return str(cli_json(*words, home=home)["id"])


def wait_for_epoch(home: Home, session: str, epoch: int) -> None:
    """Wait until the incarnation runs: both are of one record, since its phase and its epoch change on their own."""

    def runs() -> bool:
        record = Registry(home).get(session)
        return (record.phase, record.epoch) == ("running", epoch)

    wait_until(runs, what=f"epoch {epoch}")


def events(home: Home, session: str) -> list[str]:
    return [entry.body["event"] for entry in Journal(home.session(session)).read().entries if entry.kind == "hook"]


def test_a_letter_comes_with_the_first_event_that_takes_one_and_only_there(home: Home) -> None:
    session = start(home, "one")
    cli("tell", "one", "hello", home=home)
    assert run_hook(home, session, {"hook_event_name": "Stop"}).stdout == ""
    first = run_hook(home, session, {"hook_event_name": "UserPromptSubmit", "prompt": "x"})
    assert "hello" in json.loads(first.stdout)["hookSpecificOutput"]["additionalContext"]
    assert run_hook(home, session, {"hook_event_name": "UserPromptSubmit", "prompt": "y"}).stdout == ""
    assert cli_json("inbox", "one", "--json", home=home)[0]["state"] == "handed"
    run_hook(home, session, {"hook_event_name": "Stop"})
    assert cli_json("inbox", "one", "--all", "--json", home=home)[0]["state"] == "read"
    assert events(home, session) == ["turn-end", "prompt", "prompt", "turn-end"]


def test_letters_and_turns_are_the_sessions_own_and_not_those_of_an_agent_that_it_started(home: Home) -> None:
    """A shell stands in for the agent: its hooks are its children, or those of a program that it started."""
    script = (
        "import os, subprocess, sys\n"
        "for line in sys.stdin:\n"
        "    how, event = line.split(' ', 1)\n"
        f"    hook = ['{HOOK}', 'claude']\n"
        "    nested = ['sh', '-c', '$HOOK claude; exit']\n"
        "    done = subprocess.run(hook if how == 'own' else nested, input=event.encode(), capture_output=True)\n"
        "    print('answer', how, done.stdout, flush=True)\n"
    )
    words = ("run", "-d", "--json", "--name", "one", "-w", "shop", "--agent", "claude", "--", sys.executable, "-c", script)
    session = str(cli_json(*words, home=home, env={"HOME": str(home.path.parent), "HOOK": str(HOOK)})["id"])

    def say(how: str, name: str, conversation: str) -> None:
        count = len(events(home, session))
        event = json.dumps({"hook_event_name": name, "session_id": conversation})
        assert cli("send", "one", f"{how} {event}", home=home).returncode == 0
        wait_until(lambda: len(events(home, session)) == count + 1, what="the event")

    say("own", "UserPromptSubmit", "main")
    cli("tell", "one", "hello", home=home)
    say("nested", "UserPromptSubmit", "another")
    say("nested", "Stop", "another")
    (letter,) = cli_json("inbox", "one", "--all", "--json", home=home)
    assert letter["state"] == "new"
    say("own", "UserPromptSubmit", "main")
    wait_until(lambda: cli_json("inbox", "one", "--json", home=home)[0]["state"] == "handed", what="its being handed")
    say("nested", "Stop", "another")
    assert cli_json("inbox", "one", "--json", home=home)[0]["state"] == "handed"
    say("own", "SessionStart", "after /clear")
    say("own", "Stop", "after /clear")
    assert cli_json("inbox", "one", "--all", "--json", home=home)[0]["state"] == "read"
    assert events(home, session) == ["prompt", "other", "other", "prompt", "other", "session-start", "turn-end"]


def test_a_letter_whose_hook_died_before_it_printed_comes_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    session = start(home, "one")
    cli("tell", "one", "hello", home=home)
    question = {"verb": "hook", "agent": "claude", "event": json.dumps({"hook_event_name": "UserPromptSubmit"}), "epoch": "1"}
    program = (
        "import json, sys; from coordinator.system.asking import Line;"
        f" print(json.loads(Line(sys.argv[1], 5).ask(ord('Q'), {json.dumps(question)!r}.encode()))['letters'])"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program, str(home.session(session).socket)], capture_output=True, text=True, check=True, timeout=30
    )
    assert len(json.loads(asked.stdout.replace("'", '"'))) == 1
    assert run_hook(home, session, {"hook_event_name": "UserPromptSubmit"}).stdout == "", "it may still be printed"
    # The keeper starts again, as after a crash: what the old incarnation took and nobody read is new.
    record = Registry(home).get(session)
    assert record.owner is not None
    os.kill(record.owner.pid, signal.SIGKILL)
    wait_for_epoch(home, session, 2)
    again = run_hook(home, session, {"hook_event_name": "UserPromptSubmit"}, CREWKEEP_EPOCH="2")
    assert "hello" in again.stdout


def test_an_older_incarnations_tool_call_is_refused(home: Home) -> None:
    session = start(home, "one")
    Registry(home).get(session)
    record = Registry(home).get(session)
    assert record.owner is not None
    os.kill(record.owner.pid, signal.SIGKILL)
    wait_for_epoch(home, session, 2)
    told = json.loads(run_hook(home, session, {**EDIT, "tool_name": "Bash"}).stdout)["hookSpecificOutput"]
    assert told["permissionDecision"] == "deny"


@pytest.mark.parametrize(
    "event", ["", "no JSON", "[]", "{", '{"hook_event_name": 1}', "\ud800".encode("utf-8", "replace").decode()]
)
def test_an_event_that_is_none_is_passed_over(home: Home, event: str) -> None:
    session = start(home, "one")
    done = run_hook(home, session, event)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_huge_event_is_taken(home: Home) -> None:
    session = start(home, "one")
    event = {"hook_event_name": "PostToolUse", "tool_name": "Read", "tool_response": {"content": "x" * 8_000_000}}
    assert run_hook(home, session, event).returncode == 0
    assert events(home, session) == ["tool-end"]


def test_an_enforced_claim_holds_in_a_patch_of_megabytes(home: Home) -> None:
    session, _ = start(home, "one"), start(home, "two")
    assert cli("claim", "last.md", "-s", "two", home=home, cwd="/").returncode == 0
    lines = "\n".join(f"+line {number}" for number in range(150_000))
    patch = (
        f"cd .. && apply_patch <<'E'\n*** Begin Patch\n*** Add File: first.md\n{lines}\n*** Add File: last.md\n+x\n*** End Patch"
    )
    event = {"hook_event_name": "PreToolUse", "tool_name": "Bash", "tool_input": {"command": patch}, "cwd": "/tmp"}
    owner = Registry(home).get(session).owner
    assert owner is not None
    os.kill(owner.pid, signal.SIGSTOP)  # so that the hook judges by itself
    told = run_hook(home, session, event, CREWKEEP_CLAIM_MODE="enforce").stdout
    os.kill(owner.pid, signal.SIGCONT)
    assert "claimed by session two" in told


def test_an_enforced_claim_holds_if_the_keeper_answers_nonsense(home: Home) -> None:
    import socket
    import threading

    session, _ = start(home, "one", "--restart", "never"), start(home, "two")
    assert cli("claim", "plan.md", "-s", "two", home=home, cwd="/").returncode == 0
    assert cli("kill", "one", home=home).returncode == 0
    path = home.session(session).socket
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        directory = os.open(path.parent, os.O_PATH)
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"A\0\0\0\x03}{]")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        told = run_hook(home, session, {**EDIT, "cwd": "/"}, CREWKEEP_CLAIM_MODE="enforce").stdout
        thread.join(5)
    assert "claimed by session two" in told


@pytest.mark.parametrize("mode", ["advise", "enforce"])
@pytest.mark.parametrize("trouble", ["stopped", "killed", "no home", "no session"])
def test_a_keeper_that_does_not_answer_never_blocks_the_agent_but_for_an_enforced_claim(
    home: Home, mode: str, trouble: str
) -> None:
    one, two = start(home, "one", "--restart", "never"), start(home, "two")
    claimed = cli("claim", "plan.md", "-s", "two", home=home, cwd="/")
    assert claimed.returncode == 0
    at: Home | Path = home
    if trouble in ("stopped", "killed"):
        owner = Registry(home).get(one).owner
        assert owner is not None
        os.kill(owner.pid, signal.SIGSTOP if trouble == "stopped" else signal.SIGKILL)
        if trouble == "killed":
            home.session(one).socket.unlink(missing_ok=True)
    elif trouble == "no home":
        at = home.path.parent / "gone"
    else:
        one = "nobody"
    settings = {"CREWKEEP_CLAIM_MODE": mode}
    for event in ({**EDIT, "cwd": "/", "tool_name": "Read"}, {"hook_event_name": "Stop"}):
        free = run_hook(at, one, event, **settings)
        assert (free.returncode, free.stdout) == (0, ""), "what is no edit goes on"
    edit = run_hook(at, one, {**EDIT, "cwd": "/"}, **settings)
    assert edit.returncode == 0
    assert ("deny" in edit.stdout) is (mode == "enforce"), edit.stdout
    if trouble == "stopped":
        os.kill(owner.pid, signal.SIGCONT)
    assert two


def test_the_hook_loads_next_to_nothing() -> None:
    program = "import sys; import crewkeep.hook, coordinator.system.asking, json; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    heavy = {"typer", "psutil", "filelock", "tenacity", "orjson", "pathlib", "logging", "subprocess", "asyncio", "typing"}
    assert not {name for name in heavy & loaded if name not in _always_loaded()}
    assert not {name for name in loaded if name.startswith(("coordinator.context", "coordinator.sessions", "recovery"))}


def _always_loaded() -> set[str]:
    return set(
        subprocess.run(
            [sys.executable, "-c", "import sys, json, socket; print(*sys.modules)"], capture_output=True, text=True, check=True
        ).stdout.split()
    )
