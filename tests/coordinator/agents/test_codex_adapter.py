"""The Codex adapter on files and processes of our own making; the real program is driven in tests/agents."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from coordinator.agents import get_agent
from coordinator.agents.codex import _PLATFORMS, GO_ON
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Message, Role
from coordinator.sessions.model import LaunchSpec

ID = "01a1fc0b-f621-7a52-9770-6f4a3c8e1669"
OTHER_ID = "01a1fc0c-f621-7a52-9770-6f4a3c8e1669"


def event(kind: str, **payload: Any) -> dict[str, Any]:
    return {"type": "event_msg", "payload": {"type": kind, **payload}}


def said(role: str, text: str) -> dict[str, Any]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "response_item", "payload": {"type": "message", "role": role, "content": content}}


def tool_output(text: str) -> dict[str, Any]:
    return {"type": "response_item", "payload": {"type": "function_call_output", "call_id": "c", "output": text}}


def meta(id: str = ID, source: Any = "cli") -> dict[str, Any]:
    return {"type": "session_meta", "payload": {"id": id, "cwd": "/work", "source": source}}


def context(sandbox: str, approval: str, profile: str | None = None, cwd: str = "/work") -> dict[str, Any]:
    payload: dict[str, Any] = {"cwd": cwd, "approval_policy": approval, "sandbox_policy": {"type": sandbox}}
    if profile is not None:
        payload["active_permission_profile"] = {"id": profile}
    return {"type": "turn_context", "payload": payload}


CALL = {"type": "response_item", "payload": {"type": "function_call", "name": "exec_command", "arguments": "{}"}}


def rollout(directory: Path, *entries: dict[str, Any], id: str = ID) -> Path:
    path = directory / "sessions" / "2026" / "11" / "21" / f"rollout-2026-11-21T03-00-04-{id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def append(path: Path, *entries: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def conversation(path: Path | None, id: str = ID) -> Conversation:
    return Conversation(agent="codex", id=id, transcript=str(path) if path else None)


def launch(*argv: str, cwd: str = "/", **environment: str) -> LaunchSpec:
    return LaunchSpec(argv=argv, cwd=cwd, environment=environment)


def resume(path: Path | None, *argv: str) -> list[str]:
    return list(get_agent("codex").build_resume(launch(*argv), conversation(path)))


# -- starting


def install(root: Path) -> tuple[Path, Path]:
    """Lay out what npm does; return the command on the PATH and the native program."""
    (name, triple), modules = (
        _PLATFORMS[(os.uname().sysname.lower(), os.uname().machine)],
        root / "lib" / "node_modules" / "@openai",
    )
    native = modules / name / "vendor" / triple / "bin" / "codex"
    wrapper = modules / "codex" / "bin" / "codex.js"
    for path in (native, wrapper):
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (root / "bin").mkdir()
    command = root / "bin" / "codex"
    command.symlink_to("../lib/node_modules/@openai/codex/bin/codex.js")
    return command, native


@pytest.mark.skipif(os.uname().sysname not in ("Linux", "Darwin"), reason="no native program for this system")
def test_the_native_program_is_started_instead_of_the_wrapper_that_npm_installs(tmp_path: Path) -> None:
    command, native = install(tmp_path)
    codex = get_agent("codex")
    for first in ("codex", str(command)):
        ready = codex.prepare(launch(first, "exec", "x", PATH=f"/nowhere:{command.parent}"))
        assert ready.argv == (str(native), "exec", "x")
        assert ready.environment["CODEX_MANAGED_BY_NPM"] == "1"
    through_node = codex.prepare(launch("node", str(command), "exec", "x"))
    assert through_node.argv == (str(native), "exec", "x")


def test_what_is_no_npm_wrapper_is_started_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "codex"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    for argv in (("codex", "exec", "x"), (str(own), "exec", "x"), ("npx", "-y", "@openai/codex", "exec", "x")):
        assert get_agent("codex").prepare(launch(*argv, PATH=str(tmp_path))).argv == argv


@pytest.mark.parametrize(
    ("words", "kept_in"),
    [
        (("do it",), True),
        (("resume", "--last"), True),
        ((), True),
        (("exec", "do it"), False),
        (("login",), False),
        (("--version",), False),
        (("--remote", "ws://there:1", "do it"), False),
    ],
)
def test_only_the_interactive_program_is_kept_from_its_background_server(words: tuple[str, ...], kept_in: bool) -> None:
    ready = get_agent("codex").prepare(launch("codex", *words, PATH="/nowhere"))
    assert ready.argv == (("codex", "--no-daemon", *words) if kept_in else ("codex", *words))


# -- finding


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_a_conversation_is_found_only_where_a_process_of_the_session_holds_it_open(tmp_path: Path) -> None:
    codex, path = get_agent("codex"), rollout(tmp_path, meta())
    assert codex.find_conversation(launch("codex"), [os.getpid()], 0.0) is None
    with path.open("a"):
        found = codex.find_conversation(launch("codex"), [os.getpid()], 0.0)
        assert codex.find_conversation(launch("codex"), [1 << 30], 0.0) is None
    assert found is not None
    assert (found.id, found.transcript) == (ID, str(path))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc")
def test_of_several_open_conversations_the_one_written_last_counts_and_helpers_do_not(tmp_path: Path) -> None:
    helper_id = "01a1fc0d-f621-7a52-9770-6f4a3c8e1669"
    old, new = rollout(tmp_path, meta()), rollout(tmp_path, meta(OTHER_ID), id=OTHER_ID)
    helper = rollout(tmp_path, meta(helper_id, source={"subagent": {"thread_spawn": {}}}), id=helper_id)
    for path, at in ((old, 1000), (new, 2000), (helper, 3000)):
        os.utime(path, (at, at))
    with old.open("a"), new.open("a"), helper.open("a"):
        found = get_agent("codex").find_conversation(launch("codex"), [os.getpid()], 0.0)
    assert found is not None
    assert found.id == OTHER_ID


# -- reading


def test_progress_counts_finished_work_and_not_what_a_resume_writes(tmp_path: Path) -> None:
    codex, path = get_agent("codex"), rollout(tmp_path, meta())
    talk = conversation(path)
    assert codex.read_activity(talk).progress == 0
    append(path, event("task_started"), context("read-only", "never"), said("user", "do it"), CALL)
    assert codex.read_activity(talk).progress == 0
    append(path, tool_output("done"), said("assistant", "did it"), event("task_complete"))
    assert codex.read_activity(talk).progress == 2
    append(path, event("thread_settings_applied"), event("task_started"), context("read-only", "never"))
    append(
        path, said("developer", "rules"), said("user", GO_ON), tool_output("aborted"), tool_output("aborted by user after 3 s")
    )
    assert codex.read_activity(talk).progress == 2


def test_an_agent_between_turns_waits_at_its_prompt(tmp_path: Path) -> None:
    codex, path = get_agent("codex"), rollout(tmp_path, meta())
    talk = conversation(path)
    assert codex.read_activity(talk).at_prompt is None
    for kind, at_prompt in (("task_started", False), ("task_complete", True), ("task_started", False), ("turn_aborted", True)):
        append(path, event(kind))
        assert codex.read_activity(talk).at_prompt is at_prompt


def test_an_activity_reading_costs_little_however_long_the_transcript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codex, path = get_agent("codex"), rollout(tmp_path, meta(), *(said("assistant", "x" * 1000) for _ in range(3000)))
    talk = conversation(path)
    before = codex.read_activity(talk).progress
    read: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: read.append(count) or pread(fd, count, at))
    assert codex.read_activity(talk).progress == before
    assert read == []
    append(path, said("assistant", "y"))
    assert codex.read_activity(talk).progress == before + 1
    assert sum(read) < 300


def test_an_open_permission_prompt_is_seen_in_the_title_however_the_output_is_cut(tmp_path: Path) -> None:
    talk = conversation(rollout(tmp_path, meta()))
    working = b"\x1b[1mwords\x1b[0m\x1b]0;\xe2\xa0\x8b work\x07more words"
    asking = b"\x1b[?2026l\x1b]0;[ ! ] Action Required | work\x07\x1b[2K"
    for cut in range(len(asking) + 1):
        codex = get_agent("codex")
        for output in (working, asking[:cut], asking[cut:], b"plain", b"\x1b[31mred"):
            codex.note_output(output)
        assert codex.read_activity(talk).needs_user, cut
        codex.note_output(working)
        assert not codex.read_activity(talk).needs_user
    codex = get_agent("codex")
    codex.note_output(b"the words Action Required, just printed")
    assert not codex.read_activity(talk).needs_user


def failing(
    message: str, info: Any = "other", at: str = "2026-11-21T10:00:00.000Z", kind: str = "task_complete"
) -> dict[str, Any]:
    return {**event(kind, error={"message": message, "codex_error_info": info}), "timestamp": at}


LIMITED = "You’ve hit your usage limit. Visit https://there to purchase more credits or try again at 5:35 PM."


def test_a_failed_turn_tells_why_until_the_next_one_begins(tmp_path: Path) -> None:
    codex, path = get_agent("codex"), rollout(tmp_path, meta(), event("task_started"), said("user", "x"))
    assert codex.read_activity(conversation(path)).failure is None
    append(path, failing("stream disconnected before completion"))
    activity = codex.read_activity(conversation(path))
    assert (activity.failure, activity.limited_until, activity.at_prompt) == ("stream disconnected before completion", None, True)
    assert activity.failed_at == 1795255200
    append(path, event("task_started"))
    assert codex.read_activity(conversation(path)).failure is None
    append(path, {**event("error", message="of an earlier version"), "timestamp": "2026-11-21T10:00:00Z"}, event("turn_aborted"))
    assert codex.read_activity(conversation(path)).failure == "of an earlier version"
    append(path, event("task_started"), {**event("task_complete", error=None), "timestamp": "2026-11-21T10:00:00Z"})
    assert codex.read_activity(conversation(path)).failure is None


def test_the_end_of_a_usage_limit_is_known_from_its_window_or_its_words(tmp_path: Path) -> None:
    def window(used_percent: float, resets_at: int) -> dict[str, Any]:
        return {"used_percent": used_percent, "window_minutes": 300, "resets_at": resets_at}

    limits = {"primary": window(100.0, 1795282528), "secondary": window(40.0, 1799999999)}
    exact = rollout(
        tmp_path / "a",
        meta(),
        event("task_started"),
        event("token_count", rate_limits=limits),
        failing(LIMITED, "usage_limit_exceeded"),
    )
    assert get_agent("codex").read_activity(conversation(exact)).limited_until == 1795282528
    words = rollout(
        tmp_path / "b",
        meta(),
        event("task_started"),
        event("token_count", rate_limits={"primary": None}),
        failing(LIMITED.replace("at 5:35 PM", "in 2 hours"), "usage_limit_exceeded"),
    )
    assert get_agent("codex").read_activity(conversation(words)).limited_until == 1795255200 + 7200
    other = rollout(
        tmp_path / "c", meta(), event("task_started"), event("token_count", rate_limits=limits), failing("try again in 2 hours")
    )
    assert get_agent("codex").read_activity(conversation(other)).limited_until is None


def item(kind: str, at: str = "2026-11-21T10:00:00.000Z", **payload: Any) -> dict[str, Any]:
    return {"type": "response_item", "timestamp": at, "payload": {"type": kind, **payload}}


def test_history_pairs_calls_with_their_outputs_in_the_order_in_which_they_were_made(tmp_path: Path) -> None:
    output = "Chunk ID: 1\nWall time: 1.5000 seconds\nProcess exited with code 3\nOutput:\nProcess exited with code 0\n"
    call = item("function_call", name="exec_command", arguments='{"cmd": "make"}', call_id="a", id="item_1")
    path = rollout(
        tmp_path,
        meta(),
        said("developer", "rules"),
        said("user", "<environment_context>\n  <cwd>/work</cwd>"),
        said("user", "build it"),
        call,
        item("function_call", name="echo", namespace="mcp__tiny", arguments='{"words": 1}', call_id="b"),
        item("function_call_output", call_id="b", output="text"),
        item("reasoning", summary=[]),
        item("function_call_output", call_id="a", output=output),
        item("local_shell_call", action={"command": ["ls", "-l"]}, call_id="c"),
        said("assistant", "built"),
        event("task_complete"),
    )
    with path.open("a") as file:
        file.write('{"type": "response_it')
    items = list(get_agent("codex").read_history(conversation(path)))
    told = [
        (one.role, one.text) if isinstance(one, Message) else (one.name, one.text, one.output, one.exit_code) for one in items
    ]
    assert told == [
        (Role.SYSTEM, "rules"),
        (Role.SYSTEM, "<environment_context>\n  <cwd>/work</cwd>"),
        (Role.USER, "build it"),
        ("exec_command", "make", output, 3),
        ("mcp__tiny__echo", '{"words": 1}', "text", None),
        ("local_shell", "ls -l", None, None),
        (Role.ASSISTANT, "built"),
    ]
    done = items[3]
    assert isinstance(done, Command)
    assert (done.ok, done.duration_s, done.at, json.loads(done.raw or "")) == (False, 1.5, 1795255200.0, call)
    assert items[4].id == "b"


def test_the_outcome_of_a_call_is_told_as_soon_as_it_stands_in_the_rollout(tmp_path: Path) -> None:
    def ended(id: str, status: str) -> dict[str, Any]:
        return event("item_completed", item={"type": "CommandExecution", "id": id, "status": status})

    path = rollout(tmp_path, meta(), ended("call_1", "completed"), ended("call_2", "failed"), ended("call_3", "else"))
    codex, talk = get_agent("codex"), conversation(path)
    assert [codex.find_outcome(talk, f"call_{number}") for number in range(1, 5)] == [True, False, None, None]
    append(path, ended("call_4", "declined"))
    assert codex.find_outcome(talk, "call_4") is False
    assert codex.find_outcome(conversation(tmp_path / "none"), "call_1") is None
    assert get_agent("generic").find_outcome(talk, "call_1") is None


def test_every_conversation_is_listed_but_those_of_helpers_and_those_without_words(tmp_path: Path) -> None:
    home = tmp_path / ".codex"
    path = rollout(home, meta(), said("user", "<environment_context>x"), said("user", " fix\nthe bug "), said("user", "more"))
    rollout(home, meta(OTHER_ID, source={"subagent": {}}), said("user", "help"), id=OTHER_ID)
    rollout(home, meta("01a1fc0e-f621-7a52-9770-6f4a3c8e1669"), id="01a1fc0e-f621-7a52-9770-6f4a3c8e1669")
    for environment in ({"HOME": str(tmp_path)}, {"CODEX_HOME": str(home), "HOME": "/nowhere"}):
        [past] = get_agent("codex").list_conversations(environment)
        assert (past.conversation.id, past.conversation.transcript, past.cwd, past.title) == (
            ID,
            str(path),
            "/work",
            "fix the bug",
        )
        assert past.changed_at == path.stat().st_mtime
    assert list(get_agent("codex").list_conversations({"HOME": "/nowhere"})) == []


# -- resuming


def test_an_interrupted_turn_is_told_to_go_on(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(), event("task_started"), said("user", "fix it"), CALL)
    assert resume(path, "codex", "--no-daemon", "fix it") == ["codex", "--no-daemon", "resume", ID, GO_ON]
    assert resume(path, "codex", "exec", "--json", "fix it") == ["codex", "exec", "--json", "resume", ID, GO_ON]


def test_an_interactive_agent_that_waited_waits_again(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(), event("task_started"), said("user", "fix it"), event("task_complete"))
    assert resume(path, "codex", "fix it") == ["codex", "resume", ID]
    assert resume(path, "codex", "exec", "fix it") == ["codex", "exec", "resume", ID, GO_ON]


def test_a_prompt_that_the_conversation_never_heard_is_said_again(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(), event("task_started"))
    assert resume(path, "codex", "-i", "a.png", "--", "fix it") == ["codex", "-i", "a.png", "resume", ID, "fix it"]
    assert resume(path, "codex", "exec", "fix it") == ["codex", "exec", "resume", ID, "fix it"]
    append(path, said("user", "fix it"))
    assert resume(path, "codex", "exec", "fix it") == ["codex", "exec", "resume", ID, GO_ON]


def test_a_resume_asks_for_no_more_than_the_last_turn_had(tmp_path: Path) -> None:
    path = rollout(
        tmp_path, meta(), context("danger-full-access", "never"), context("read-only", "on-request"), said("user", "x")
    )
    argv = resume(path, "codex", "--yolo", "x")
    assert "--yolo" not in argv
    assert argv[argv.index("-s") + 1] == "read-only"
    assert 'approval_policy="on-request"' in argv


def test_a_permission_profile_of_the_users_own_is_left_to_the_configuration(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(), context("read-only", "never", profile="mine"), said("user", "x"))
    assert resume(path, "codex", "x") == ["codex", "resume", ID]
    append(path, context("workspace-write", "never", profile=":workspace"))
    assert "-s" in resume(path, "codex", "x")


def test_a_managed_worktree_is_entered_again_instead_of_making_another(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(), context("other", "other", cwd="/trees/7"), said("user", "x"))
    assert resume(path, "codex", "exec", "--worktree", "x") == ["codex", "exec", "-C", "/trees/7", "resume", ID, GO_ON]


def test_subcommands_without_a_conversation_are_repeated(tmp_path: Path) -> None:
    assert resume(rollout(tmp_path, meta()), "codex", "exec", "review") == ["codex", "exec", "review"]


# -- putting back


def test_a_lost_transcript_is_put_back_where_codex_looks(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(), said("user", "x"))
    saved = tmp_path / "saved"
    path.rename(saved)
    path.parent.rmdir()
    get_agent("codex").restore_transcript(conversation(path), saved)
    assert path.read_bytes() == saved.read_bytes()


def test_a_whole_transcript_is_never_replaced_by_an_older_copy(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(), said("user", "x"))
    saved = tmp_path / "saved"
    saved.write_bytes(path.read_bytes())
    append(path, said("assistant", "more"))
    before = path.read_bytes()
    get_agent("codex").restore_transcript(conversation(path), saved)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "hole", "foreign"])
def test_a_damaged_transcript_is_set_aside_and_the_copy_put_back(tmp_path: Path, damage: str) -> None:
    path = rollout(tmp_path, meta(), said("user", "x"), said("assistant", "y"))
    whole = path.read_bytes()
    saved = tmp_path / "saved"
    saved.write_bytes(whole)
    broken = {
        "empty": b"",
        "zeros": b"\0" * len(whole),
        "cut": whole[: len(whole) // 2],
        "hole": whole[:-20] + b"\0" * 40 + b"\n",
        "foreign": json.dumps(meta(OTHER_ID)).encode() + b"\n",
    }[damage]
    path.write_bytes(broken)
    get_agent("codex").restore_transcript(conversation(path), saved)
    assert path.read_bytes() == whole
    aside = [found for found in path.parent.iterdir() if found != path]
    assert [found.read_bytes() for found in aside] == [broken]
    assert not aside[0].name.endswith(".jsonl")


def test_a_copy_of_another_conversation_is_not_put_back(tmp_path: Path) -> None:
    path = rollout(tmp_path, meta(OTHER_ID))
    lost = tmp_path / "lost.jsonl"
    get_agent("codex").restore_transcript(conversation(lost), path)
    assert not lost.exists()
