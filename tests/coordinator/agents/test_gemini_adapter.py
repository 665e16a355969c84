"""The Gemini adapter on files and processes of our own making; the real program is driven in tests/agents."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from coordinator.agents import get_agent
from coordinator.agents.gemini import GO_ON, Gemini
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Message, Role
from coordinator.sessions.model import LaunchSpec

ID = "abcdefg_hijklmnop"
OTHER_ID = "1a51c78e-c95b-4df3-a142-6d97929ab329"
AT = "2026-11-21T15:33:29.500Z"
AT_S = 1795275209.5

Json = dict[str, Any]


def meta(id: str = ID, **more: Any) -> Json:
    return {"sessionId": id, "projectHash": "0", "startTime": AT, "kind": "main", **more}


def said(kind: str, text: str, id: str, **more: Any) -> Json:
    content: Any = [{"text": text}] if kind == "user" else text
    return {"id": id, "timestamp": AT, "type": kind, "content": content, **more}


def result(call: str, output: str, id: str) -> Json:
    answer = {"functionResponse": {"id": call, "name": "run_shell_command", "response": {"output": output}}}
    return {"id": id, "timestamp": AT, "type": "user", "content": [answer]}


def tool(call: str, command: str, output: str, status: str = "success") -> Json:
    return {
        "id": call,
        "name": "run_shell_command",
        "args": {"command": command},
        "status": status,
        "timestamp": "2026-11-21T15:33:31.500Z",
        "result": result(call, output, "")["content"],
    }


def rewritten(*messages: Json) -> Json:
    return {"$set": {"messages": list(messages)}}


CONTEXT = said("user", "<session_context>\nThis is the Gemini CLI.</session_context>", "ctx")
TURN = (
    said("user", "do it", "u1"),
    said("gemini", "", "g1"),
    said("gemini", "", "g1", toolCalls=[tool("c1", "echo hi", "hi")]),
    result("c1", "hi", "r1"),
    said("gemini", "did it", "g2"),
)


class World:
    """A user's home with the program's files."""

    def __init__(self, root: Path) -> None:
        self.home, self.work = root / "user", root / "work"
        self.project = self.home / ".gemini" / "tmp" / "work"
        self.work.mkdir()
        (self.project / "chats").mkdir(parents=True)
        (self.project / ".project_root").write_text(str(self.work))

    def launch(self, *words: str, **environment: str) -> LaunchSpec:
        named = {"HOME": str(self.home), "PATH": "/nowhere", **environment}
        return LaunchSpec(argv=("gemini", *words), cwd=str(self.work), environment=named)

    def write(self, *entries: Json, id: str = ID, minute: str = "2026-11-21T15-33") -> Path:
        path = self.project / "chats" / f"session-{minute}-{id[:8]}.jsonl"
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        return path

    def resume(self, talk: Conversation, *words: str, **environment: str) -> list[str]:
        return list(get_agent("gemini").build_resume(self.launch(*words, **environment), talk))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def append(path: Path, *entries: Json) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(entry) + "\n" for entry in entries)


def conversation(path: Path | None = None, id: str = ID) -> Conversation:
    return Conversation(agent="gemini", id=id, transcript=str(path) if path else None)


# -- starting


@pytest.fixture
def install(world: World) -> Callable[[], tuple[Path, Path]]:
    """Lay out what npm does; return the command on the PATH and Node."""

    def lay_out() -> tuple[Path, Path]:
        directory = world.home / "bin"
        directory.mkdir()
        script = world.home / "lib" / "node_modules" / "@google" / "gemini-cli" / "bundle" / "gemini.js"
        script.parent.mkdir(parents=True)
        (directory / "node").write_text("#!/bin/sh\n")
        script.write_text("#!/usr/bin/env node\n")
        for path in (directory / "node", script):
            path.chmod(0o755)
        (directory / "gemini").symlink_to("../lib/node_modules/@google/gemini-cli/bundle/gemini.js")
        return directory / "gemini", directory / "node"

    return lay_out


def test_node_is_started_with_the_wrappers_memory_instead_of_the_wrapper(
    world: World, install: Callable[[], tuple[Path, Path]]
) -> None:
    command, node = install()
    half_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 >> 20
    ready = get_agent("gemini").prepare(world.launch("-y", "x", PATH=str(command.parent)))
    assert ready.argv == (str(node), f"--max-old-space-size={half_mb}", str(command), "-y", "x")
    assert ready.environment["GEMINI_CLI_NO_RELAUNCH"] == "true"
    assert get_agent("gemini").prepare(ready) == ready


@pytest.mark.parametrize(
    ("settings", "environment"),
    [({"advanced": {"autoConfigureMemory": False}}, {}), ({}, {"NODE_OPTIONS": "--max-old-space-size=99999999"})],
)
def test_memory_that_the_user_settled_is_left_alone(
    world: World, install: Callable[[], tuple[Path, Path]], settings: Json, environment: dict[str, str]
) -> None:
    command, node = install()
    (world.home / ".gemini" / "settings.json").write_text(json.dumps(settings))
    ready = get_agent("gemini").prepare(world.launch("x", PATH=str(command.parent), **environment))
    assert ready.argv == (str(node), str(command), "x")


def test_nodes_own_options_are_kept(world: World) -> None:
    launch = world.launch()
    argv = ("node", "-r", "./a.js", "--inspect", "/opt/bundle/gemini.js", "x")
    ready = get_agent("gemini").prepare(LaunchSpec(argv=argv, cwd=launch.cwd, environment=launch.environment))
    assert ready.argv[:4] == argv[:4]
    assert ready.argv[-2:] == argv[-2:]
    assert ready.argv[4].startswith("--max-old-space-size=")


def test_what_is_no_npm_wrapper_is_started_as_it_is(world: World) -> None:
    own = world.work / "gemini"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    for argv in (("gemini", "x"), (str(own), "x"), ("npx", "-y", "@google/gemini-cli", "x")):
        launch = LaunchSpec(argv=argv, cwd="/", environment={"PATH": str(world.work), "HOME": str(world.home)})
        assert get_agent("gemini").prepare(launch) == launch
    by_hand = world.launch("x", GEMINI_CLI_NO_RELAUNCH="1")
    assert get_agent("gemini").prepare(by_hand) == by_hand


def test_the_id_is_chosen_and_the_same_session_gets_the_same(world: World) -> None:
    argv, talk = get_agent("gemini").begin(world.launch("-y", "x"), "01J0")
    assert talk is not None
    assert argv == ("gemini", "--session-id", talk.id, "-y", "x")
    assert get_agent("gemini").begin(world.launch("-y", "x"), "01J0") == (argv, talk)
    assert get_agent("gemini").begin(world.launch("-y", "x"), "01J1")[1] != talk


def test_a_chosen_id_is_none_that_the_programs_retention_takes_apart(world: World) -> None:
    _, talk = get_agent("gemini").begin(world.launch("x"), "01J0")
    assert talk is not None
    assert re.fullmatch(r"[a-zA-Z0-9-_]+", talk.id), "what the program accepts"
    assert not re.search(r"-([a-zA-Z0-9]{8})\.jsonl?$", f"session-2026-11-21T15-33-{talk.id[:8]}.jsonl"), "what it takes apart"


@pytest.mark.parametrize(
    "words", [("mcp", "list"), ("--help",), ("--session-file", "f"), ("--list-sessions",), ("-r", "7"), ("--acp",)]
)
def test_what_has_no_conversation_of_ours_is_started_as_written(world: World, words: tuple[str, ...]) -> None:
    assert get_agent("gemini").begin(world.launch(*words), "01J0") == (("gemini", *words), None)


def test_an_id_that_the_user_chose_is_kept(world: World) -> None:
    path = world.write(meta(), *TURN)
    assert get_agent("gemini").begin(world.launch("-r", ID), "01J0") == (("gemini", "-r", ID), conversation(path))
    assert get_agent("gemini").begin(world.launch("--session-id", "own"), "01J0")[1] == conversation(id="own")


def test_latest_and_numbers_are_settled_at_the_start(world: World) -> None:
    assert get_agent("gemini").begin(world.launch("-r"), "01J0")[0][1] == "--session-id", "there is none yet"
    old = world.write(meta(), *TURN)
    new = world.write(meta(OTHER_ID, startTime="2026-11-21T16:00:00Z"), *TURN, id=OTHER_ID)
    for asked, path, id in ((["latest"], new, OTHER_ID), ([], new, OTHER_ID), (["1"], old, ID), (["2"], new, OTHER_ID)):
        argv, talk = get_agent("gemini").begin(world.launch("-p", "more", "-r", *asked), "01J0")
        assert argv == ("gemini", "--resume", id, "-p", "more")
        assert talk == conversation(path, id)


# -- finding


@contextmanager
def process_named(*argv: str) -> Iterator[int]:
    """A living process with these words as its command line."""
    sleeper = "import sys; print('up', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [argv[0], "-c", sleeper, *argv[1:]], executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        yield process.pid
        process.kill()


@pytest.mark.parametrize("flag", ["--session-id", "--resume"])
def test_the_running_programs_words_prove_its_conversation(world: World, flag: str) -> None:
    gemini, launch = get_agent("gemini"), world.launch("x")
    with process_named("gemini", flag, ID) as pid:
        assert gemini.find_conversation(launch, [pid], 0.0) is None, "nothing is written down yet"
        path = world.write(meta(), *TURN)
        world.write(meta(OTHER_ID), *TURN, id=OTHER_ID)
        found = gemini.find_conversation(launch, [os.getpid(), pid], 0.0)
        assert found is not None
        assert (found.id, found.transcript) == (ID, str(path))
        assert gemini.find_conversation(launch, [os.getpid()], 0.0) is None
        elsewhere = world.launch("x", GEMINI_CLI_HOME=str(world.work))
        assert get_agent("gemini").find_conversation(elsewhere, [pid], 0.0) is None


def test_what_a_program_that_has_ended_was_told_proves_its_conversation(world: World) -> None:
    gemini, launch = get_agent("gemini"), world.launch("-p", "x")
    _, talk = gemini.begin(launch, "01J0")
    assert talk is not None
    assert gemini.find_conversation(launch, [], 0.0) is None, "nothing is written down yet"
    path = world.write(meta(talk.id), *TURN, id=talk.id)
    found = gemini.find_conversation(launch, [], 0.0)
    assert found is not None
    assert (found.id, found.transcript) == (talk.id, str(path))


def test_the_second_file_that_stays_empty_is_not_taken_for_the_conversation(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT), *TURN)
    empty = world.write(meta(), rewritten(CONTEXT), minute="2026-11-21T15-34")
    os.utime(path, (1000, 1000))
    os.utime(empty, (2000, 2000))
    with process_named("gemini", "--resume", ID) as pid:
        found = get_agent("gemini").find_conversation(world.launch("x"), [pid], 0.0)
    assert found is not None
    assert found.transcript == str(path)


def log(world: World, *entries: tuple[str, str, str]) -> None:
    keys = ("sessionId", "message", "timestamp")
    (world.project / "logs.json").write_text(json.dumps([dict(zip(keys, one, strict=True), type="user") for one in entries]))


@pytest.mark.parametrize(
    ("entries", "follows"),
    [
        ([(ID, "do it", AT), (ID, "/clear", AT), (ID, "other", AT)], True),
        ([(ID, "other", AT), (ID, "do it", AT)], False),  # came back, or never left
        ([(ID, "do it", AT)], False),
        ([(ID, "other", "2026-11-21T15:40:00Z")], False),  # the same words at another moment
        ([(ID, "other", AT), (OTHER_ID, "other", AT)], False),  # a program of its own said it
        ([(ID, "other", "no time")], False),
    ],
)
def test_a_conversation_begun_inside_the_program_is_followed_if_its_log_proves_it(
    world: World, entries: list[tuple[str, str, str]], follows: bool
) -> None:
    world.write(meta(), *TURN)
    other = world.write(meta(OTHER_ID), said("user", "other", "o1"), said("gemini", "yes", "o2"), id=OTHER_ID)
    os.utime(other, (AT_S, AT_S))
    log(world, *entries)
    with process_named("gemini", "--session-id", ID) as pid:
        found = get_agent("gemini").find_conversation(world.launch("x"), [pid], AT_S - 60)
    assert found is not None
    assert found.id == (OTHER_ID if follows else ID)


def test_a_log_that_cannot_be_read_proves_nothing(world: World) -> None:
    path = world.write(meta(), *TURN)
    for text in ("", "{", "[1, null, {}]", "{}"):
        (world.project / "logs.json").write_text(text)
        with process_named("gemini", "--session-id", ID) as pid:
            found = get_agent("gemini").find_conversation(world.launch("x"), [pid], 0.0)
        assert found is not None
        assert found.transcript == str(path)


# -- resuming


def test_a_turn_that_was_cut_is_told_to_go_on(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT), *TURN[:2])
    assert world.resume(conversation(path), "-y", "do it") == ["gemini", "--resume", ID, "-y", "-i", GO_ON]
    append(path, *TURN[2:])
    assert world.resume(conversation(path), "-y", "do it") == ["gemini", "--resume", ID, "-y"]
    assert world.resume(conversation(path), "-p", "do it") == ["gemini", "--resume", ID, "-p", GO_ON], "headless ends if it waits"


def test_a_conversation_that_was_never_written_down_begins_again_by_the_same_id(world: World) -> None:
    assert world.resume(conversation(), "-y", "do it") == ["gemini", "--session-id", ID, "-y", "-i", "do it"]
    lost = conversation(world.project / "chats" / "session-2026-11-21T15-33-abcdefg_.jsonl")
    assert world.resume(lost, "-p", "do it") == ["gemini", "--session-id", ID, "-p", "do it"]


def test_one_in_which_nothing_was_said_begins_by_another_id_which_is_resumed_next_time(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT))
    argv = world.resume(conversation(path), "-p", "do it")
    assert argv[1] == "--session-id"
    assert argv[2] != ID
    assert argv[3:] == ["-p", "do it"]
    second = world.write(meta(argv[2]), *TURN, id=argv[2])
    assert world.resume(conversation(path), "-p", "do it") == ["gemini", "--resume", argv[2], "-p", GO_ON]
    second.write_text(json.dumps(meta(argv[2])) + "\n")
    assert world.resume(conversation(path), "-p", "do it")[2] not in (ID, argv[2])


def test_a_first_turn_that_failed_is_said_again_and_one_that_was_cancelled_is_not(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT), TURN[0], rewritten(CONTEXT), said("error", "[API Error: x]", "e1"))
    assert world.resume(conversation(path), "do it")[-2:] == ["-i", "do it"]
    path = world.write(meta(), rewritten(CONTEXT), TURN[0], said("info", "Request cancelled.", "i1"), rewritten(CONTEXT))
    argv = world.resume(conversation(path), "do it")
    assert argv[1] == "--session-id"
    assert "do it" not in argv


def test_words_for_an_older_conversation_are_said_until_it_holds_them(world: World) -> None:
    path = world.write(meta(), *TURN)
    assert world.resume(conversation(path), "-r", ID, "-p", "and more")[-1] == "and more"
    append(path, said("user", "and more", "u2"))
    assert world.resume(conversation(path), "-r", ID, "-p", "and more")[-1] == GO_ON


def test_a_conversation_of_a_worktree_is_resumed_there(world: World) -> None:
    path, tree = world.write(meta(), *TURN), world.home / "tree"
    tree.mkdir()
    (world.project / ".project_root").write_text(str(tree))
    argv = world.resume(conversation(path), "-w", "tree", "-p", "do it")
    assert argv[:4] == ["sh", "-c", 'cd "$0" && exec "$@"', str(tree)]
    assert argv[4:] == ["gemini", "--resume", ID, "-p", GO_ON]


@pytest.mark.parametrize("words", [("mcp", "list"), ("--list-sessions",), ("--acp",)])
def test_what_carries_no_conversation_is_repeated(world: World, words: tuple[str, ...]) -> None:
    assert world.resume(conversation(), *words) == ["gemini", *words]


def test_a_resume_killed_while_it_emptied_the_transcript_is_undone(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT), *TURN)
    before = path.read_bytes()
    append(path, meta(), rewritten(CONTEXT))
    assert world.resume(conversation(path), "-p", "do it")[1:3] == ["--resume", ID]
    assert path.read_bytes() == before
    [aside] = [one for one in path.parent.iterdir() if "damaged" in one.name]
    assert aside.read_bytes().startswith(before)


@pytest.mark.parametrize("then", [rewritten(CONTEXT, *TURN), said("user", "said since", "u9")])
def test_a_resume_that_came_further_is_left_alone(world: World, then: Json) -> None:
    path = world.write(meta(), rewritten(CONTEXT), *TURN)
    append(path, meta(), rewritten(CONTEXT), {"$set": {"sessionId": ID}}, then)
    before = path.read_bytes()
    assert world.resume(conversation(path), "-p", "do it")[1:3] == ["--resume", ID]
    assert path.read_bytes() == before


# -- reading


def test_finished_work_counts_once_and_a_resume_does_not_count(world: World) -> None:
    gemini, path = get_agent("gemini"), world.write(meta(), rewritten(CONTEXT), TURN[0], TURN[1])
    talk = conversation(path)
    assert gemini.read_activity(talk).progress == 0
    append(path, TURN[2])
    assert gemini.read_activity(talk).progress == 1, "the tool"
    append(path, TURN[3])
    assert gemini.read_activity(talk).progress == 1, "its result, told to the model"
    append(path, TURN[4])
    assert gemini.read_activity(talk).progress == 2, "an answer"
    asked = {"id": "g1", "type": "gemini", "content": [{"functionCall": {"id": "c1", "name": "x", "args": {}}}]}
    again = rewritten(CONTEXT, TURN[0], asked, result("c1", "hi", "g1_response"), TURN[3], TURN[4])
    append(path, meta(), rewritten(CONTEXT), {"$set": {"sessionId": ID}}, again)
    assert gemini.read_activity(talk).progress == 2
    assert get_agent("gemini").read_activity(talk).progress == 2
    append(path, {"$rewindTo": "u1"}, rewritten(CONTEXT))
    assert gemini.read_activity(talk).progress == 2, "it never falls"


@pytest.mark.parametrize(
    ("entries", "at_prompt"),
    [
        ([], None),
        ([rewritten(CONTEXT)], None),
        ([TURN[0]], False),
        (TURN[:2], False),
        (TURN[:4], False),
        (TURN, True),
        ([TURN[0], said("info", "MCP servers are ready", "i1")], False),
        ([TURN[0], said("info", "Request cancelled.", "i1")], True),
        ([TURN[0], said("error", "[API Error: x]", "e1"), said("info", "This request failed.", "i1")], True),
        ([*TURN, said("user", "<hook_context>x</hook_context>", "u2")], True),
    ],
)
def test_whether_a_turn_is_open_is_read_from_the_transcript(world: World, entries: list[Json], at_prompt: bool | None) -> None:
    assert get_agent("gemini").read_activity(conversation(world.write(meta(), *entries))).at_prompt is at_prompt


def test_a_failure_is_told_until_the_next_turn_begins(world: World) -> None:
    words = "[API Error: quota exceeded] Access resets at 2026-11-21T18:00:00Z"
    gemini, path = get_agent("gemini"), world.write(meta(), TURN[0], said("error", words, "e1"))
    activity = gemini.read_activity(conversation(path))
    assert activity.failure == words
    assert activity.limited_until == AT_S + 2 * 3600 + 26 * 60 + 30.5
    assert activity.failed_at == AT_S
    append(path, said("user", "again", "u2"))
    assert gemini.read_activity(conversation(path)).failure is None


def title(text: str) -> bytes:
    return f"\x1b]0;{text} (work)      \x07".encode()


def test_the_terminals_title_tells_what_the_program_waits_for(world: World) -> None:
    gemini, talk = get_agent("gemini"), conversation(world.write(meta(), *TURN[:2]))
    for text, needs_user, at_prompt in (
        ("\u270b  Action Required", True, False),
        ("\u2726  Working\u2026", False, False),
        ("\u25c7  Ready", False, True),
        ("", False, False),  # it left, or says nothing: the transcript tells
    ):
        for byte in title(text):  # cut anywhere
            gemini.note_output(bytes([byte]))
        activity = gemini.read_activity(talk)
        assert (activity.needs_user, activity.at_prompt) == (needs_user, at_prompt)


def test_a_usage_limit_on_the_screen_is_told_until_the_user_decided(world: World) -> None:
    path = world.write(meta(), *TURN[:2])
    screen = (
        "\r\n\u2502 Usage limit reached for gemini-2.5-pro.   \u2502\r\n\u2502 Access resets at 3:05 PM GMT. \u2502\r\n".encode()
    )
    for answered in ("title", "work"):
        gemini = get_agent("gemini")
        gemini.note_output(title("Working") + screen[:20])
        gemini.note_output(screen[20:])
        activity = gemini.read_activity(conversation(path))
        assert activity.needs_user
        assert activity.failure == "Usage limit reached for gemini-2.5-pro. Access resets at 3:05 PM GMT."
        assert activity.limited_until is not None
        if answered == "title":
            gemini.note_output(title("Ready"))
            gemini.note_output(b"drawn on")
        else:
            append(path, TURN[4])
        assert gemini.read_activity(conversation(path)).needs_user is False


def test_output_without_signs_tells_nothing(world: World) -> None:
    gemini = Gemini()
    for output in (b"", b"\x1b", b"\x1b]0;", b"x" * 5000, b"\x1b]2;unfinished" * 50, bytes(range(256))):
        gemini.note_output(output)
    assert gemini.read_activity(conversation()) == get_agent("gemini").read_activity(conversation())


def test_a_history_is_what_was_said_and_done(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT), *TURN, said("user", "away", "u2"), {"$rewindTo": "u2"})
    system, asked, command, did = get_agent("gemini").read_history(conversation(path))
    assert isinstance(system, Message)
    assert system.role is Role.SYSTEM
    assert asked == Message(role=Role.USER, text="do it", at=AT_S, id="u1", raw=json.dumps(TURN[0]))
    assert isinstance(command, Command)
    assert (command.name, command.text, command.id) == ("run_shell_command", "echo hi", "c1")
    assert (command.output, command.ok, command.duration_s) == ("hi", True, 2.0)
    assert json.loads(command.raw or "") == TURN[2]
    assert did == Message(role=Role.ASSISTANT, text="did it", at=AT_S, id="g2", raw=json.dumps(TURN[4]))


def test_what_a_resume_writes_again_takes_nothing_from_the_history(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT), *TURN)
    before = list(get_agent("gemini").read_history(conversation(path)))
    asked = {"id": "g1", "type": "gemini", "content": [{"functionCall": {"id": "c1", "name": "x", "args": {}}}]}
    append(path, {"$set": {"sessionId": ID}}, rewritten(CONTEXT, TURN[0], asked, result("c1", "hi", "x"), *TURN[3:]))
    assert list(get_agent("gemini").read_history(conversation(path))) == before


def test_calls_and_results_of_a_rewritten_transcript_find_each_other(world: World) -> None:
    asked = {"id": "g1", "type": "gemini", "content": [{"functionCall": {"id": "c1", "name": "look", "args": {"at": 1}}}]}
    path = world.write(meta(), rewritten(TURN[0], asked, result("c1", "seen", "g1_response")))
    _, command = get_agent("gemini").read_history(conversation(path))
    assert isinstance(command, Command)
    assert (command.name, command.text, command.output, command.ok) == ("look", '{"at": 1}', "seen", True)


def test_conversations_are_listed_with_their_titles(world: World) -> None:
    path = world.write(meta(), rewritten(CONTEXT), *TURN)
    world.write(meta(), rewritten(CONTEXT), minute="2026-11-21T15-34")
    world.write(meta("helper-x", kind="subagent"), *TURN, id="helper-x")
    (world.project / "chats" / "session-broken.jsonl").write_text("no JSON")
    [past] = get_agent("gemini").list_conversations({"HOME": str(world.home)})
    assert (past.conversation.id, past.conversation.transcript) == (ID, str(path))
    assert (past.cwd, past.title) == (str(world.work), "do it")
    assert past.changed_at == path.stat().st_mtime
    assert list(get_agent("gemini").list_conversations({"HOME": "/nowhere"})) == []


@pytest.mark.parametrize(
    "lines",
    [
        [b"null", b"[]", b'{"id": 1}', b'{"$set": []}', b'{"$set": {"messages": {}}}'],
        [b'{"id": "x", "type": 7, "content": {"text": []}}', b'{"id": "x", "toolCalls": [1, {}]}'],
        [b'{"$rewindTo": "nowhere"}', b'{"id": "x", "type": "user", "content": [{"functionResponse": 3}]}', b"\xff\xfe"],
        [b'{"id": "x", "type": "gemini", "toolCalls": 5, "timestamp": 3}', b'{"$set": {"messages": [{"id": 3}, 4]}}'],
    ],
)
def test_lines_of_another_shape_are_passed_over(world: World, lines: list[bytes]) -> None:
    path = world.write(meta())
    with path.open("ab") as file:
        file.write(b"\n".join(lines) + b"\n")
    append(path, *TURN)
    gemini = get_agent("gemini")
    assert gemini.read_activity(conversation(path)).progress == 2
    assert [item for item in gemini.read_history(conversation(path)) if isinstance(item, Message) and item.text == "did it"]
    assert list(gemini.list_conversations({"HOME": str(world.home)}))
    assert world.resume(conversation(path), "-p", "do it")[1] == "--resume"


# -- putting back


def test_a_transcript_is_put_back_only_if_it_is_missing_or_damaged(world: World, tmp_path: Path) -> None:
    gemini, path = get_agent("gemini"), world.write(meta(), *TURN)
    saved = tmp_path / "saved"
    whole = path.read_bytes()
    saved.write_bytes(whole)
    append(path, said("user", "more", "u2"))
    longer = path.read_bytes()
    assert gemini.restore_transcript(conversation(path), saved) is False
    assert path.read_bytes() == longer
    for damaged in (None, whole[:100], b"\0" * 300, whole[:-50] + b"\0" * 50, b"no JSON\n"):
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        assert gemini.restore_transcript(conversation(path), saved) is True
        assert path.read_bytes() == whole
    kept = [one.read_bytes() for one in path.parent.iterdir() if "damaged" in one.name]
    assert sorted(kept) == sorted([whole[:100], b"\0" * 300, whole[:-50] + b"\0" * 50, b"no JSON\n"])


def test_the_copy_of_another_conversation_is_not_put_back(world: World, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    saved.write_text(json.dumps(meta(OTHER_ID)) + "\n")
    path = world.project / "chats" / "session-x.jsonl"
    assert get_agent("gemini").restore_transcript(conversation(path), saved) is False
    assert get_agent("gemini").restore_transcript(conversation(None, OTHER_ID), saved) is False
    assert not path.exists()


def test_the_permission_mode_is_that_of_the_flags() -> None:
    gemini = get_agent("gemini")
    assert gemini.read_permission_mode(["gemini", "-y"]) == "approval mode yolo"
    assert gemini.read_permission_mode(["gemini", "--approval-mode", "plan"]) == "approval mode plan"
    assert gemini.read_permission_mode(["gemini"]) is None
