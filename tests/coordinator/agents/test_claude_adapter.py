"""The Claude Code adapter on files and processes of our own making; the real program is driven in tests/agents."""

from __future__ import annotations

import json
import os
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from coordinator.agents import get_agent
from coordinator.agents.claude import GO_ON
from coordinator.services.archive import combine
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Message, Role
from coordinator.sessions.model import LaunchSpec
from coordinator.system import processes

ID = "0f4bb178-1053-4940-ae04-1ee8d4c5cb8b"
OTHER_ID = "21a48a4c-a9ad-4d9f-a3c6-ceb6fcb4b9cf"
NEEDS_PROC = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")

_numbers = iter(range(1, 1 << 30))
Line = dict[str, Any]


def line(kind: str, **fields: Any) -> Line:
    return {"type": kind, "sessionId": ID, "uuid": str(uuid.UUID(int=next(_numbers))), "isSidechain": False, **fields}


def asked(text: str, mode: str | None = "default", at: str = "2026-11-21T10:00:00.000Z", **fields: Any) -> Line:
    if mode is not None:
        fields["permissionMode"] = mode
    return line("user", timestamp=at, cwd="/work", message={"role": "user", "content": text}, **fields)


def result(text: str, id: str = "toolu_1", **fields: Any) -> Line:
    block = {"type": "tool_result", "tool_use_id": id, "content": text, "is_error": False, **fields}
    return line("user", message={"role": "user", "content": [block]})


def answered(*blocks: Line, stop: str | None = "end_turn", **fields: Any) -> Line:
    return line("assistant", message={"id": "m", "model": "opus", "content": list(blocks), "stop_reason": stop}, **fields)


def text(words: str) -> Line:
    return {"type": "text", "text": words}


def call(id: str = "toolu_1", name: str = "Bash", **arguments: Any) -> Line:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments or {"command": "make"}}


def failed(words: str, error: str = "rate_limit", at: str = "2026-11-21T10:00:00.000Z") -> Line:
    message = {"model": "<synthetic>", "content": [text(words)], "stop_reason": "stop_sequence"}
    return line("assistant", message=message, isApiErrorMessage=True, error=error, timestamp=at)


#: What ``--resume`` writes by itself after a turn that was cut.
CONTINUED = [
    line("user", isMeta=True, message={"role": "user", "content": [text("Continue from where you left off.")]}),
    line(
        "assistant", message={"model": "<synthetic>", "content": [text("No response requested.")], "stop_reason": "stop_sequence"}
    ),
]
QUEUED = [line("queue-operation", operation="enqueue"), line("queue-operation", operation="dequeue")]


class Config:
    """A directory of Claude Code's own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, *lines: Line, id: str = ID, directory: str = "-work") -> Path:
        path = self.path / "projects" / directory / f"{id}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps({**entry, "sessionId": id}) + "\n" for entry in lines))
        return path

    def say(self, pid: int, id: str = ID, *, start: int | None = None, **fields: Any) -> None:
        ticks = processes.start_ticks(pid) if start is None else start
        entry = {"pid": pid, "sessionId": id, "procStart": str(ticks), "startedAt": 1_000, **fields}
        (self.path / "sessions").mkdir(parents=True, exist_ok=True)
        (self.path / "sessions" / f"{pid}.json").write_text(json.dumps(entry))

    def launch(self, *argv: str, cwd: str = "/work", **environment: str) -> LaunchSpec:
        return LaunchSpec(argv=argv, cwd=cwd, environment={"CLAUDE_CONFIG_DIR": str(self.path), **environment})

    def resume(self, path: Path | None, *argv: str, id: str = ID) -> list[str]:
        return list(get_agent("claude").build_resume(self.launch(*argv), talk(path, id)))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(tmp_path / "config")


def append(path: Path, *lines: Line) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in lines)


def talk(path: Path | None, id: str = ID) -> Conversation:
    return Conversation(agent="claude", id=id, transcript=str(path) if path else None)


# -- starting


@pytest.mark.parametrize(
    ("argv", "known"),
    [
        (("claude",), True),
        (("/opt/bin/claude", "-p", "x"), True),
        (("node", "/lib/node_modules/@anthropic-ai/claude-code/cli.js"), True),
        (("npx", "-y", "@anthropic-ai/claude-code@2.1.197", "-p", "x"), True),
        (("npx", "claude"), True),
        (("npx", "@anthropic-ai/claude-code-router"), False),
        (("node", "cli.js"), False),
        (("claude-squad",), False),
        (("sh", "-c", "claude"), False),
    ],
)
def test_a_command_is_recognised_by_its_words_alone(argv: tuple[str, ...], known: bool) -> None:
    assert get_agent("claude").recognises(argv) is known


def test_the_background_server_and_the_updater_are_kept_out(config: Config) -> None:
    ready = get_agent("claude").prepare(config.launch("claude", "--bg", "--tmux", "--model", "x", "do it", PATH="/nowhere"))
    assert ready.argv == ("claude", "--model", "x", "--", "do it")
    assert ready.environment["CLAUDE_CODE_DISABLE_AGENT_VIEW"] == "1"
    assert ready.environment["DISABLE_AUTOUPDATER"] == "1"
    own = config.launch("claude", DISABLE_AUTOUPDATER="0", PATH="/nowhere")
    assert get_agent("claude").prepare(own).environment["DISABLE_AUTOUPDATER"] == "0"
    other = config.launch("claude", "mcp", "list", PATH="/nowhere")
    assert get_agent("claude").prepare(other) == other


def test_a_session_that_another_claude_starts_is_not_taken_for_a_part_of_it(config: Config) -> None:
    inherited = {"CLAUDECODE": "1", "CLAUDE_CODE_CHILD_SESSION": "1", "CLAUDE_CODE_SESSION_ID": OTHER_ID, "PATH": "/nowhere"}
    ready = get_agent("claude").prepare(config.launch("claude", **inherited, ANTHROPIC_MODEL="opus"))
    assert not {"CLAUDECODE", "CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_SESSION_ID"} & set(ready.environment)
    assert (ready.environment["ANTHROPIC_MODEL"], ready.environment["PATH"]) == ("opus", "/nowhere")


def test_the_native_program_is_started_where_its_install_script_was_not_run(config: Config, tmp_path: Path) -> None:
    machine = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(os.uname().machine)
    if machine is None:
        pytest.skip("no native program for this machine")
    modules = tmp_path / "lib" / "node_modules" / "@anthropic-ai"
    native = modules / f"claude-code-{os.uname().sysname.lower()}-{machine}" / "claude"
    placeholder, wrapper = modules / "claude-code" / "bin" / "claude.exe", modules / "claude-code" / "cli-wrapper.cjs"
    for path in (native, placeholder, wrapper):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "claude").symlink_to(placeholder)
    for program in (("claude",), ("node", str(wrapper))):
        ready = get_agent("claude").prepare(config.launch(*program, "-p", "x", PATH=str(tmp_path / "bin")))
        assert ready.argv == (str(native), "-p", "x")
    placeholder.write_bytes(b"\x7fELF" + b"\0" * 5000)  # the install script has put it there
    launch = config.launch("claude", "-p", "x", PATH=str(tmp_path / "bin"))
    assert get_agent("claude").prepare(launch).argv == launch.argv


def test_a_first_start_gets_an_id_that_only_this_session_has(config: Config) -> None:
    claude, launch = get_agent("claude"), config.launch("claude", "-p", "fix it", "--allowedTools", "Bash")
    argv, conversation = claude.begin(launch, "session-1")
    assert conversation is not None
    assert argv == ("claude", "--session-id", conversation.id, "-p", "fix it", "--allowedTools", "Bash")
    assert conversation.transcript is None
    assert str(uuid.UUID(conversation.id)) == conversation.id
    again, other = get_agent("claude").begin(launch, "session-1")[1], claude.begin(launch, "session-2")[1]
    assert again is not None
    assert other is not None
    assert again.id == conversation.id != other.id


@pytest.mark.parametrize("words", [("-c",), ("--resume",), ("mcp", "list"), ("--help",), ("-p", "--no-session-persistence", "x")])
def test_a_command_that_chooses_its_conversation_itself_is_started_as_it_is(config: Config, words: tuple[str, ...]) -> None:
    assert get_agent("claude").begin(config.launch("claude", *words), "session-1") == (("claude", *words), None)


def test_a_conversation_that_the_command_names_is_the_sessions(config: Config) -> None:
    path = config.write(asked("x"))
    for flag in ("--session-id", "--resume", "-r"):
        argv, conversation = get_agent("claude").begin(config.launch("claude", flag, ID), "session-1")
        assert argv == ("claude", flag, ID)
        assert conversation is not None
        assert (conversation.id, conversation.transcript) == (ID, str(path))
    assert get_agent("claude").begin(config.launch("claude", "-r", ID, "--fork-session"), "session-1")[1] is None
    assert get_agent("claude").begin(config.launch("claude", "-r", "the fix"), "session-1")[1] is None


# -- finding


@NEEDS_PROC
def test_a_conversation_is_found_by_what_the_process_says_of_itself(config: Config) -> None:
    claude, launch, me = get_agent("claude"), config.launch("claude", "-c"), os.getpid()
    path = config.write(asked("x"), directory="-some-worktree")
    assert claude.find_conversation(launch, [me], 0.0) is None
    config.say(me, start=12)
    assert claude.find_conversation(launch, [me], 0.0) is None, "the file of an earlier process with this pid"
    config.say(me)
    assert claude.find_conversation(launch, [1 << 22], 0.0) is None
    found = claude.find_conversation(launch, [me], 0.0)
    assert found is not None
    assert (found.id, found.transcript) == (ID, str(path))


@NEEDS_PROC
def test_a_cleared_conversation_is_left_once_another_has_begun(config: Config) -> None:
    claude, launch = get_agent("claude"), config.launch("claude")
    config.write(asked("x"))
    config.say(os.getpid(), OTHER_ID)
    assert claude.find_conversation(launch, [os.getpid()], 0.0) is None
    config.write(asked("y"), id=OTHER_ID)
    found = claude.find_conversation(launch, [os.getpid()], 0.0)
    assert found is not None
    assert found.id == OTHER_ID


@NEEDS_PROC
def test_a_claude_that_the_agents_tools_started_is_not_the_agent(config: Config) -> None:
    config.write(asked("x"))
    config.write(asked("y"), id=OTHER_ID)
    config.say(os.getppid())
    config.say(os.getpid(), OTHER_ID)
    found = get_agent("claude").find_conversation(config.launch("claude"), [os.getpid(), os.getppid()], 0.0)
    assert found is not None
    assert found.id == ID


def test_the_chosen_conversation_is_found_where_no_process_tells(config: Config) -> None:
    claude, launch = get_agent("claude"), config.launch("claude")
    conversation = claude.begin(launch, "session-1")[1]
    assert conversation is not None
    assert claude.find_conversation(launch, [], 0.0) is None
    path = config.write(asked("x"), id=conversation.id)
    found = claude.find_conversation(launch, [], 0.0)
    assert found is not None
    assert (found.id, found.transcript) == (conversation.id, str(path))


# -- reading


def test_progress_counts_finished_work_and_not_what_a_resume_writes(config: Config) -> None:
    claude, path = get_agent("claude"), config.write(*QUEUED, asked("do it"))
    assert claude.read_activity(talk(path)).progress == 0
    append(path, answered(text("I will"), stop="tool_use"), answered(call(), stop="tool_use"), result("done"))
    assert claude.read_activity(talk(path)).progress == 3
    append(path, *CONTINUED, asked(GO_ON), line("attachment"), line("mode", mode="normal"), failed("API Error", "server_error"))
    append(path, result("The user doesn't want to proceed with this tool use."))
    assert claude.read_activity(talk(path)).progress == 3


def test_the_work_of_helpers_is_progress_and_no_turn(config: Config) -> None:
    claude, path = get_agent("claude"), config.write(asked("do it"), answered(call(name="Agent"), stop="tool_use"))
    before = claude.read_activity(talk(path))
    helper = path.with_suffix("") / "subagents" / "agent-a1.jsonl"
    helper.parent.mkdir(parents=True)
    helper.write_text("")
    append(helper, asked("count", isSidechain=True), answered(text("three"), isSidechain=True))
    append(path, answered(text("of an earlier version"), isSidechain=True))
    after = claude.read_activity(talk(path))
    assert after.progress == before.progress + 2
    assert after.at_prompt is False


def test_an_agent_between_turns_waits_at_its_prompt(config: Config) -> None:
    claude, path = get_agent("claude"), config.write(line("mode", mode="normal"))
    assert claude.read_activity(talk(path)).at_prompt is None
    for entry, at_prompt in (
        (asked("do it"), False),
        (answered(call(), stop="tool_use"), False),
        (result("done"), False),
        (answered(text("thinking aloud"), stop=None), False),
        (line("system", subtype="turn_duration"), True),
        (asked("<command-name>/clear</command-name>", mode=None), True),
        (asked("more", mode=None), False),
        (asked("[Request interrupted by user]", mode=None), True),
        (asked("more"), False),
        (answered(text("did it")), True),
    ):
        append(path, entry)
        assert claude.read_activity(talk(path)).at_prompt is at_prompt, entry


@NEEDS_PROC
def test_what_the_process_says_of_itself_goes_before_what_its_transcript_says(config: Config) -> None:
    claude, path = get_agent("claude"), config.write(asked("taken back with Escape"))
    assert claude.read_activity(talk(path)).at_prompt is False
    for state, at_prompt, needs_user in (("idle", True, False), ("busy", False, False), ("waiting", False, True)):
        config.say(os.getpid(), status=state)
        activity = claude.read_activity(talk(path))
        assert (activity.at_prompt, activity.needs_user) == (at_prompt, needs_user)
    config.say(os.getpid(), status="waiting", start=12)
    assert not claude.read_activity(talk(path)).needs_user, "that process is gone"


def test_a_failure_is_told_until_the_next_turn(config: Config) -> None:
    claude, path = get_agent("claude"), config.write(asked("do it"), failed("API Error: 500 broken", "server_error"))
    activity = claude.read_activity(talk(path))
    assert (activity.failure, activity.limited_until, activity.at_prompt) == ("API Error: 500 broken", None, True)
    assert activity.failed_at == 1795255200
    append(path, asked("again"))
    assert claude.read_activity(talk(path)).failure is None


@pytest.mark.parametrize(
    ("words", "until"),
    [
        ("You've hit your session limit · resets 5:33pm (UTC)", 1795282380.0),
        ("You've hit your limit · resets 12pm (Europe/Berlin)", 1795258800.0),
        ("Claude AI usage limit reached|1795282391", 1795282391.0),
        ("API Error: Request rejected (429) · slow down", None),
    ],
)
def test_the_end_of_a_usage_limit_is_known_if_it_is_told(config: Config, words: str, until: float | None) -> None:
    path = config.write(asked("do it"), failed(words))
    activity = get_agent("claude").read_activity(talk(path))
    assert (activity.failure, activity.limited_until) == (words, until)


def test_history_pairs_calls_with_their_results_in_the_order_in_which_they_were_made(config: Config) -> None:
    first, second = answered(call("a", command="make"), stop="tool_use"), answered(call("b", "Read", path="x"), stop="tool_use")
    path = config.write(
        asked("build it"), first, second, result("text", "b"), result("boom", "a", is_error=True), *CONTINUED,
        answered({"type": "thinking", "thinking": "hm"}), answered(text("broken")), answered(text("helper"), isSidechain=True),
        answered(call("c"), stop="tool_use"),
    )  # fmt: skip
    with path.open("a") as file:
        file.write('{"type": "assis')
    items = list(get_agent("claude").read_history(talk(path)))
    told = [
        (item.role, item.text) if isinstance(item, Message) else (item.name, item.text, item.output, item.ok) for item in items
    ]
    assert told == [
        (Role.USER, "build it"),
        ("Bash", "make", "boom", False),
        ("Read", '{"path": "x"}', "text", True),
        (Role.SYSTEM, "Continue from where you left off."),
        (Role.SYSTEM, "No response requested."),
        (Role.ASSISTANT, "broken"),
        ("Bash", "make", None, None),
    ]
    assert items[0].at == 1795255200.0
    assert isinstance(items[1], Command)
    assert json.loads(items[1].raw or "")["uuid"] == first["uuid"]


def test_what_stands_beside_a_prompt_in_its_line_is_a_message_of_its_own(config: Config) -> None:
    prompt = asked("")
    prompt["message"]["content"] = [text("<ide_opened_file>a.py</ide_opened_file>"), text("mend it")]
    path = config.write(prompt, answered(text("done")))
    items = list(get_agent("claude").read_history(talk(path)))
    assert [item.text for item in combine(items, [])] == ["<ide_opened_file>a.py</ide_opened_file>", "mend it", "done"]


def test_lines_without_an_id_are_all_read(config: Config) -> None:
    lines = [{key: value for key, value in one.items() if key != "uuid"} for one in (asked("one"), answered(text("two")))]
    assert [item.text for item in get_agent("claude").read_history(talk(config.write(*lines)))] == ["one", "two"]


def test_a_conversation_that_begins_with_a_very_long_prompt_is_listed(config: Config) -> None:
    config.write(*QUEUED, asked("mend it " * 50_000), answered(text("ok")))
    [past] = get_agent("claude").list_conversations(config.launch("x").environment)
    assert past.title.startswith("mend it")


def test_every_conversation_is_listed_by_its_title_or_its_first_words(config: Config) -> None:
    config.write(*QUEUED, asked("  fix\nthe bug "), answered(text("ok")))
    config.write(asked("x"), line("ai-title", aiTitle="Mend the roof"), id=OTHER_ID, directory="-other")
    config.write(*QUEUED, id=str(uuid.UUID(int=7)))
    config.write(asked("x"), directory="-work").with_name("agent-1.jsonl").write_text("{}\n")
    config.write(asked("fix the bug"))
    past = {found.conversation.id: found for found in get_agent("claude").list_conversations(config.launch("x").environment)}
    assert {id: (found.title, found.cwd) for id, found in past.items()} == {
        ID: ("fix the bug", "/work"),
        OTHER_ID: ("Mend the roof", "/work"),
    }
    assert past[ID].conversation.transcript == str(config.path / "projects" / "-work" / f"{ID}.jsonl")


# -- resuming


def test_an_interrupted_turn_is_told_to_go_on(config: Config) -> None:
    path = config.write(asked("fix it"), answered(call(), stop="tool_use"))
    tail = ["--permission-mode", "default", "--resume", ID, "--", GO_ON]
    assert config.resume(path, "claude", "fix it") == ["claude", *tail]
    assert config.resume(path, "claude", "-p", "fix it", "--verbose") == ["claude", "-p", "--verbose", *tail]


def test_an_interactive_agent_that_waited_waits_again(config: Config) -> None:
    path = config.write(asked("fix it"), answered(text("done")))
    tail = ["--permission-mode", "default", "--resume", ID]
    assert config.resume(path, "claude", "fix it") == ["claude", *tail]
    assert config.resume(path, "claude", "-p", "fix it") == ["claude", "-p", *tail, "--", GO_ON]


@NEEDS_PROC
def test_a_prompt_that_was_taken_back_is_not_gone_on_with(config: Config) -> None:
    path = config.write(asked("never mind"))
    config.say(1 << 22, start=12, status="idle", statusUpdatedAt=1795255201_000)
    assert GO_ON not in config.resume(path, "claude")
    config.say(1 << 22, start=12, status="busy", statusUpdatedAt=1795255201_000)
    assert GO_ON in config.resume(path, "claude")
    config.say(1 << 22, start=12, status="idle", statusUpdatedAt=1795255100_000)
    assert GO_ON in config.resume(path, "claude"), "it was idle before it was asked"


def test_a_prompt_that_the_conversation_never_heard_is_said_again(config: Config) -> None:
    path = config.write(asked("something else"), answered(text("done")))
    assert config.resume(path, "claude", "-p", "fix it")[-2:] == ["--", "fix it"]
    assert config.resume(path, "claude", "/review all")[-2:] == ["--", "/review all"]
    append(path, asked("<command-name>/review</command-name>"), answered(text("done")))
    assert config.resume(path, "claude", "/review all")[-2:] == ["--resume", ID]


def test_prompts_that_come_on_standard_input_are_not_said_on_the_command_line(config: Config) -> None:
    path = config.write(asked("fix it"), answered(call(), stop="tool_use"))
    assert config.resume(path, "claude", "-p", "--input-format", "stream-json")[-2:] == ["--resume", ID]


def test_a_resume_asks_for_no_more_than_the_last_turn_had(config: Config) -> None:
    path = config.write(asked("x", "bypassPermissions"), answered(text("ok")), asked("y", "plan"))
    argv = config.resume(path, "claude", "--dangerously-skip-permissions", "x")
    assert "--dangerously-skip-permissions" not in argv
    assert argv[argv.index("--permission-mode") + 1] == "plan"


def test_a_conversation_that_was_never_written_down_begins_with_the_same_id(config: Config) -> None:
    launch = config.launch("claude", "-p", "fix it", "--verbose")
    conversation = get_agent("claude").begin(launch, "session-1")[1]
    assert conversation is not None
    argv = get_agent("claude").build_resume(launch, conversation)
    assert argv == ("claude", "--session-id", conversation.id, "-p", "--verbose", "--", "fix it")


def test_a_file_in_which_nothing_was_said_yet_costs_the_conversation_its_id(config: Config) -> None:
    path = config.write(*QUEUED)
    for known in (path, None):
        argv = config.resume(known, "claude", "-p", "fix it")
        assert argv[1] == "--session-id"
        assert argv[2] not in (ID, "")
        assert argv[3:] == ["-p", "--", "fix it"]
    config.write(*QUEUED, id=argv[2])
    third = config.resume(path, "claude", "-p", "fix it")[2]
    assert len({ID, argv[2], third}) == 3


def test_a_transcript_that_was_lost_is_not_taken_for_one_that_never_was(config: Config, tmp_path: Path) -> None:
    argv = config.resume(tmp_path / "gone.jsonl", "claude", "-p", "fix it")
    assert argv[:4] == ["claude", "-p", "--resume", ID]


def test_a_worktree_is_entered_again_instead_of_making_another(config: Config) -> None:
    path = config.write(line("worktree-state", worktreeSession={"worktreeName": "heron"}), asked("x"))
    argv = config.resume(path, "claude", "-p", "x", "-w")
    assert argv[argv.index("-w") + 1] == "heron"
    append(path, line("worktree-state", worktreeSession=None))
    assert "-w" not in config.resume(path, "claude", "-p", "x", "-w")


def test_subcommands_and_commands_without_a_conversation_are_repeated(config: Config) -> None:
    assert config.resume(config.write(asked("x")), "claude", "mcp", "list") == ["claude", "mcp", "list"]
    assert get_agent("claude").build_resume(config.launch("claude", "-c"), None) == ("claude", "-c")


# -- putting back


def test_a_lost_transcript_is_put_back_where_claude_looks(config: Config, tmp_path: Path) -> None:
    path, saved = config.write(line("mode"), asked("x")), tmp_path / "saved"
    path.rename(saved)
    path.parent.rmdir()
    assert get_agent("claude").restore_transcript(talk(path), saved)
    assert path.read_bytes() == saved.read_bytes()


def test_a_whole_transcript_is_never_replaced_by_an_older_copy(config: Config, tmp_path: Path) -> None:
    path, saved = config.write(asked("x")), tmp_path / "saved"
    saved.write_bytes(path.read_bytes())
    append(path, answered(text("more")))
    before = path.read_bytes()
    assert not get_agent("claude").restore_transcript(talk(path), saved)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", ["empty", "zeros", "cut", "hole", "foreign"])
def test_a_damaged_transcript_is_set_aside_and_the_copy_put_back(config: Config, tmp_path: Path, damage: str) -> None:
    path, saved = config.write(asked("x"), answered(text("y"))), tmp_path / "saved"
    whole = path.read_bytes()
    saved.write_bytes(whole)
    broken = {
        "empty": b"",
        "zeros": b"\0" * len(whole),
        "cut": whole[: len(whole) // 2],
        "hole": whole[:-20] + b"\0" * 40 + b"\n",
        "foreign": whole.replace(ID.encode(), OTHER_ID.encode()),
    }[damage]
    path.write_bytes(broken)
    assert get_agent("claude").restore_transcript(talk(path), saved)
    assert path.read_bytes() == whole
    aside = [found for found in path.parent.iterdir() if found != path]
    assert [found.read_bytes() for found in aside] == [broken]
    assert not aside[0].name.endswith(".jsonl")


def test_a_copy_of_another_conversation_is_not_put_back(config: Config, tmp_path: Path) -> None:
    foreign = config.write(asked("x"), id=OTHER_ID)
    lost = tmp_path / f"{ID}.jsonl"
    assert not get_agent("claude").restore_transcript(talk(lost), foreign)
    assert not lost.exists()
