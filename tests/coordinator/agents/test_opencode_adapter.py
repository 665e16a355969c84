"""The OpenCode adapter on databases and logs of our own making; the real program is driven in tests/agents."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from opencode_support import HELPER_ID, ID, OTHER_ID, Data

from coordinator.agents import get_agent, opencode_install
from coordinator.agents.base import Activity
from coordinator.agents.opencode import GO_ON, OpenCode
from coordinator.agents.opencode_log import Log, parse_line
from coordinator.errors import StorageError
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Command, Message, Role
from coordinator.sessions.model import LaunchSpec
from coordinator.system.open_files import iter_positions

needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fdinfo"), reason="needs /proc")


@pytest.fixture
def data(tmp_path: Path) -> Data:
    return Data(tmp_path)


def talk(data: Data, id: str = ID) -> Conversation:
    return Conversation(agent="opencode", id=id, store=str(data.path))


def launch(*argv: str, cwd: str = "/", **environment: str) -> LaunchSpec:
    return LaunchSpec(argv=argv, cwd=cwd, environment=environment)


def resume(data: Data, *argv: str) -> list[str]:
    return list(get_agent("opencode").build_resume(launch(*argv), talk(data)))


# -- starting


def install(root: Path, *natives: str) -> tuple[Path, list[Path]]:
    """Lay out what npm does where ``opencode`` is a script; return that command and the native programs."""
    modules = root / "lib" / "node_modules"
    script, found = modules / "opencode-ai" / "bin" / "opencode", [modules / name / "bin" / "opencode" for name in natives]
    for path in (script, *found):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"#!/usr/bin/env node\n" if path == script else b"\x7fELF")
        path.chmod(0o755)
    (root / "bin").mkdir()
    command = root / "bin" / "opencode"
    command.symlink_to("../lib/node_modules/opencode-ai/bin/opencode")
    return command, found


def test_the_native_program_is_started_instead_of_a_script_that_npm_installed(tmp_path: Path) -> None:
    name = next(opencode_install._iter_names(), None)
    if name is None:
        pytest.skip("no native program for this system")
    command, [native] = install(tmp_path, name)
    opencode = get_agent("opencode")
    for program in (("opencode",), (str(command),), ("node", str(command))):
        ready = opencode.prepare(launch(*program, "run", "x", PATH=f"/nowhere:{command.parent}"))
        assert ready.argv == (str(native), "run", "x")
        assert opencode.prepare(ready) == ready


def test_a_program_that_is_native_already_is_started_as_it_is(tmp_path: Path) -> None:
    command, _ = install(tmp_path)
    Path(os.path.realpath(command)).write_bytes(b"\x7fELF")
    for argv in (("opencode", "run", "x"), (str(command), "run", "x"), ("npx", "-y", "opencode-ai", "run", "x")):
        assert get_agent("opencode").prepare(launch(*argv, PATH=str(command.parent))).argv == argv


def test_it_works_where_the_session_was_told_to_and_not_where_the_shell_was() -> None:
    ready = get_agent("opencode").prepare(launch("opencode", "run", "x", cwd="/srv/there", PWD="/srv/here", PATH=""))
    assert ready.environment["PWD"] == "/srv/there"
    assert "PWD" not in get_agent("opencode").prepare(launch("opencode", cwd="/srv/there", PATH="")).environment


def test_a_conversation_named_on_the_command_line_is_known_before_the_start(tmp_path: Path) -> None:
    spec = launch("opencode", "-s", ID, XDG_DATA_HOME=str(tmp_path))
    argv, found = get_agent("opencode").begin(spec, "s1")
    assert argv == spec.argv
    assert found == Conversation(agent="opencode", id=ID, store=str(tmp_path / "opencode" / "opencode.db"))
    for words in (("-s", ID, "--fork"), ("-c",), ("run", "x"), ("run", "--attach", "http://h", "-s", ID, "x")):
        assert get_agent("opencode").begin(launch("opencode", *words), "s1")[1] is None


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        ({"HOME": "/h"}, "/h/.local/share/opencode/opencode.db"),
        ({"HOME": "/h", "XDG_DATA_HOME": "/d"}, "/d/opencode/opencode.db"),
        ({"HOME": "/h", "OPENCODE_DB": "mine.db"}, "/h/.local/share/opencode/mine.db"),
        ({"HOME": "/h", "OPENCODE_DB": "/x/mine.db"}, "/x/mine.db"),
        ({"HOME": "/h", "OPENCODE_DB": ":memory:"}, None),
    ],
)
def test_the_database_is_where_opencode_puts_it(environment: dict[str, str], path: str | None) -> None:
    found = get_agent("opencode").begin(launch("opencode", "-s", ID, **environment), "s1")[1]
    assert (found.store if found is not None else None) == path


def test_the_permission_mode_is_what_the_flags_ask_for() -> None:
    opencode = get_agent("opencode")
    assert opencode.read_permission_mode(("opencode", "run", "x")) is None
    assert "plan" in (opencode.read_permission_mode(("opencode", "--agent", "plan")) or "")
    assert "without asking" in (opencode.read_permission_mode(("opencode", "run", "--yolo", "x")) or "")


# -- finding

#: Holds the log open as OpenCode does and writes to it what comes in, until there is nothing more.
WRITER = """
import os, sys
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for line in sys.stdin.buffer:
    os.write(fd, line)
    print("written", flush=True)
"""


class Writer:
    """Another process that writes a log."""

    def __init__(self, data: Data, **environment: str) -> None:
        self._data = data
        self._process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(data.log)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **environment},
        )
        self.pid = self._process.pid

    def write(self, run: str, message: str, **fields: object) -> None:
        kept = self._data.log.read_bytes() if self._data.log.exists() else b""
        self._data.write_log(run, message, **fields)
        line = self._data.log.read_bytes()[len(kept) :]
        self._data.log.write_bytes(kept)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"written\n"

    def close(self) -> None:
        self._process.communicate(timeout=10)


@needs_proc
def test_of_two_that_share_a_log_each_is_told_its_own_conversation(data: Data) -> None:
    data.session(OTHER_ID)
    data.log.touch()
    one, two, spec = Writer(data), Writer(data), launch("opencode", "run", "x", XDG_DATA_HOME=str(data.path.parent.parent))
    try:
        for writer, run, id in ((one, "aaaa1111", ID), (two, "bbbb2222", OTHER_ID)):
            assert get_agent("opencode").find_conversation(spec, [writer.pid], 0.0) is None
            writer.write(run, "created", id=id, parentID="undefined", title="New session - now")
        for writer, id in ((one, ID), (two, OTHER_ID)):
            found = get_agent("opencode").find_conversation(spec, [writer.pid], 0.0)
            assert found is not None
            assert (found.id, found.store) == (id, str(data.path))
        assert get_agent("opencode").find_conversation(spec, [1 << 30], 0.0) is None
    finally:
        one.close()
        two.close()


@needs_proc
def test_a_newer_conversation_is_followed_and_helpers_are_not(data: Data) -> None:
    data.session(OTHER_ID)
    data.session(HELPER_ID, parent=ID)
    data.log.touch()
    spec, opencode, writer = launch("opencode", XDG_DATA_HOME=str(data.path.parent.parent)), get_agent("opencode"), Writer(data)
    inner = Writer(data, OPENCODE_PID=str(writer.pid))
    try:

        def find() -> str | None:
            found = opencode.find_conversation(spec, [inner.pid, writer.pid], 0.0)
            return found.id if found is not None else None

        writer.write("aaaa1111", "loop", session__id=ID, step=0)
        assert find() == ID
        writer.write("aaaa1111", "created", id=HELPER_ID, parentID=ID)
        writer.write("aaaa1111", "loop", session__id=HELPER_ID, step=0)
        inner.write("cccc3333", "created", id=OTHER_ID, parentID="undefined")
        assert find() == ID, "neither the helper's nor that of a program inside a tool"
        writer.write("aaaa1111", "created", id=OTHER_ID, parentID="undefined")
        assert find() == OTHER_ID
        writer.write("aaaa1111", "created", id="ses_notyetwritten", parentID="undefined")
        assert find() is None, "the database does not hold it yet"
    finally:
        inner.close()
        writer.close()


def test_a_headless_agent_tells_its_conversation_in_its_own_output_however_that_is_cut(data: Data) -> None:
    line = b'{"type":"step_start","timestamp":1,"sessionID":"' + ID.encode() + b'","part":{}}\r\n'
    quoted = b'{"type":"text","text":"{\\"sessionID\\":\\"' + OTHER_ID.encode() + b'\\"}"}\r\n'
    spec = launch("opencode", "run", "--format", "json", "x", XDG_DATA_HOME=str(data.path.parent.parent))
    for cut in range(len(line)):
        opencode = get_agent("opencode")
        for output in (b"words\r\n", quoted, line[:cut], line[cut:], quoted):
            opencode.note_output(output)
        found = opencode.find_conversation(spec, [], 0.0)
        assert found is not None
        assert found.id == ID, cut
    plain = launch("opencode", "run", "x", XDG_DATA_HOME=str(data.path.parent.parent))
    assert opencode.find_conversation(plain, [], 0.0) is None


@needs_proc
def test_a_position_is_told_only_of_files_opened_for_appending(tmp_path: Path) -> None:
    path = tmp_path / "opencode.log"
    with path.open("ab", buffering=0) as file, path.open("rb") as reader:
        file.write(b"12345")
        reader.read(2)
        assert list(iter_positions(os.getpid(), "opencode.log")) == [(str(path), 5)]
    assert list(iter_positions(os.getpid(), "opencode.log")) == []


def test_lines_that_are_none_of_the_log_are_passed_over() -> None:
    assert parse_line(b"") is None
    assert parse_line(b"timestamp=never level=INFO run=x message=y") is None
    assert parse_line(b"timestamp=2026-11-21T15:30:24.031Z level=INFO message=y") is None
    line = parse_line(
        b'timestamp=2026-11-21T15:30:24.031Z level=INFO run=x message="exiting loop" session.id=s a="1 \\"run=z\\""'
    )
    assert line is not None
    assert (line["run"], line["message"], line["session.id"], line["a"]) == ("x", "exiting loop", "s", '1 "run=z"')
    assert line["at"] == 1795275024.031


def test_a_log_remembers_no_more_than_it_must(data: Data) -> None:
    for number in range(3000):
        data.write_log(f"{number:08x}", "created", id=f"ses_{number}", parentID="undefined")
    log = Log(str(data.log))
    log.read_new()
    assert len(log._runs) <= 1000
    assert log.find_conversation([f"{2999:08x}"]) == "ses_2999"
    assert log.find_conversation([f"{0:08x}"]) is None


# -- reading


def test_progress_counts_finished_work_once_and_not_what_was_there(data: Data) -> None:
    data.user(1, "do it")
    data.assistant(2)
    data.said("prt_2a", "msg_2", "before")
    opencode = get_agent("opencode")
    assert opencode.read_activity(talk(data)).progress == 0
    data.tool("prt_2b", "msg_2", status="running")
    assert opencode.read_activity(talk(data)).progress == 0
    data.tool("prt_2b", "msg_2", status="completed", output="done")
    data.said("prt_2c", "msg_2", "did it")
    assert opencode.read_activity(talk(data)).progress == 2
    data.user(3, "more")
    data.tool("prt_3a", "msg_3", status="error", error="Tool execution aborted", metadata={"interrupted": True})
    old_end = data.rows("SELECT data FROM part WHERE id = 'prt_2a'")[0][0]
    data.part("prt_2a", "msg_2", **json.loads(old_end), metadata={"touched": "later"})
    data.tool("prt_2b", "msg_2", status="completed", output="[cleared]")
    assert opencode.read_activity(talk(data)).progress == 2
    data.tool("prt_3b", "msg_3", status="error", error="no such file")
    assert opencode.read_activity(talk(data)).progress == 3


def test_the_work_of_helpers_counts_as_the_conversations(data: Data) -> None:
    data.assistant(1)
    opencode = get_agent("opencode")
    before = opencode.read_activity(talk(data)).progress
    data.session(HELPER_ID, parent=ID)
    data.session(OTHER_ID)
    data.said("prt_h", "msg_h", "helped", session=HELPER_ID)
    data.said("prt_o", "msg_o", "somebody else", session=OTHER_ID)
    assert opencode.read_activity(talk(data)).progress == before + 1


def test_progress_does_not_fall_when_the_user_takes_words_back(data: Data) -> None:
    data.assistant(1)
    opencode = get_agent("opencode")
    opencode.read_activity(talk(data))
    data.said("prt_1", "msg_1", "one")
    assert opencode.read_activity(talk(data)).progress == 1
    data.execute("DELETE FROM part")
    assert opencode.read_activity(talk(data)).progress == 1
    data.said("prt_2", "msg_1", "two")
    assert opencode.read_activity(talk(data)).progress == 2


def test_nothing_is_read_while_nothing_changed(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    data.assistant(1)
    opencode = get_agent("opencode")
    opencode.read_activity(talk(data))
    opened: list[object] = []
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *words, **more: opened.append(words) or connect(*words, **more))
    for _ in range(3):
        opencode.read_activity(talk(data))
    assert opened == []
    data.user(2, "more")
    opened.clear()
    opencode.read_activity(talk(data))
    assert len(opened) == 1


def test_an_agent_between_turns_waits_at_its_prompt(data: Data) -> None:
    opencode = get_agent("opencode")
    assert opencode.read_activity(talk(data)).at_prompt is None
    data.user(1, "do it")
    assert opencode.read_activity(talk(data)).at_prompt is False
    data.assistant(2)
    assert opencode.read_activity(talk(data)).at_prompt is False
    data.assistant(2, done=True, finish="tool-calls")
    assert opencode.read_activity(talk(data)).at_prompt is False
    data.assistant(3, done=True)
    assert opencode.read_activity(talk(data)).at_prompt is True


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_keys_are_not_waited_for_until_the_full_screen_is_drawn(data: Data, size: int) -> None:
    """It clears the screen seconds before it reads its first key; what is typed meanwhile is lost."""
    data.user(1, "do it")
    data.assistant(2, done=True)
    opencode = get_agent("opencode")
    assert opencode.read_activity(talk(data)).at_prompt is True
    for shown, at_prompt in (
        (b"\x1b[?25h\x1b[?2004h\x1b[?1049h", False),
        (b"\x1b]0;OpenCode\x07 Build\x1b[?25h", True),
        (b"\x1b[?25l", True),
    ):
        for at in range(0, len(shown), size):
            opencode.note_output(shown[at : at + size])
        assert opencode.read_activity(talk(data)).at_prompt is at_prompt


def test_an_open_permission_prompt_needs_the_user_until_its_tool_runs(data: Data) -> None:
    opencode = get_agent("opencode")
    data.user(1, "do it")
    data.assistant(2)
    data.write_log("aaaa1111", "loop", session__id=ID, step=0)
    data.tool("prt_2a", "msg_2", status="running", input={"command": "rm x"})
    assert not opencode.read_activity(talk(data)).needs_user
    data.now_ms += 5
    data.write_log("bbbb2222", "asking", id="per_0", permission="bash")
    assert not opencode.read_activity(talk(data)).needs_user, "another program asks"
    data.write_log("aaaa1111", "asking", id="per_1", permission="bash")
    assert opencode.read_activity(talk(data)).needs_user
    data.tool("prt_2a", "msg_2", status="running", input={"command": "rm x"}, metadata={"output": ""})
    assert not opencode.read_activity(talk(data)).needs_user
    data.tool("prt_2b", "msg_2", tool="question", status="running")
    data.write_log("aaaa1111", "asking", id="que_1", questions=1)
    assert opencode.read_activity(talk(data)).needs_user
    data.write_log("aaaa1111", "replied", requestID="que_1")
    assert not opencode.read_activity(talk(data)).needs_user


def test_a_turn_that_failed_tells_it_in_the_programs_words(data: Data) -> None:
    opencode = get_agent("opencode")
    data.user(1, "do it")
    data.assistant(2, done=True, error={"name": "ProviderAuthError", "data": {"message": "no key"}})
    seen = opencode.read_activity(talk(data))
    assert (seen.at_prompt, seen.failure, seen.limited_until) == (True, "ProviderAuthError: no key", None)
    assert seen.failed_at == pytest.approx(data.now_ms / 1000, abs=10)
    data.assistant(3, done=True, error={"name": "MessageAbortedError", "data": {"message": "The operation was aborted."}})
    assert opencode.read_activity(talk(data)) == Activity(at_prompt=True)
    data.assistant(4, error={"name": "UnknownError"})
    assert opencode.read_activity(talk(data)).failure == "UnknownError"


def test_a_usage_limit_ends_when_the_error_says_so(data: Data) -> None:
    opencode = get_agent("opencode")
    told = {"message": "Usage limit reached, try again in 2 hours", "statusCode": 429}
    data.assistant(1, done=True, error={"name": "APIError", "data": told})
    at = data.now_ms / 1000  # the message's completion
    assert opencode.read_activity(talk(data)).limited_until == at + 7200
    data.assistant(
        2, done=True, error={"name": "APIError", "data": {"statusCode": 429, "responseHeaders": {"retry-after": "60"}}}
    )
    assert opencode.read_activity(talk(data)).limited_until == data.now_ms / 1000 + 60
    data.assistant(3, done=True, error={"name": "APIError", "data": {"message": "bad request, try again in 2 hours"}})
    assert opencode.read_activity(talk(data)).limited_until is None


def test_a_limit_that_opencode_waits_for_itself_is_no_failure(data: Data) -> None:
    opencode = get_agent("opencode")
    data.user(1, "do it")
    data.assistant(2)
    told = {"session__id": ID, "small": "false", "error__error": "AI_APICallError: usage limit. Try again in 3 hours"}
    data.write_log("aaaa1111", "stream error", **told)
    seen = opencode.read_activity(talk(data))
    assert (seen.at_prompt, seen.failure) == (False, None)
    assert seen.limited_until == pytest.approx(data.now_ms / 1000 + 3 * 3600)
    data.write_log("aaaa1111", "stream", session__id=ID, small="false")
    assert opencode.read_activity(talk(data)).limited_until is None


def test_a_reader_leaves_no_trace_and_no_lock(data: Data) -> None:
    data.user(1, "do it")
    files = sorted(path.name for path in data.path.parent.iterdir())
    assert get_agent("opencode").holds_text(talk(data), "do") is True
    assert sorted(path.name for path in data.path.parent.iterdir()) == files
    with closing(sqlite3.connect(data.path)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("INSERT INTO migration VALUES ('second', 2)")
        assert get_agent("opencode").holds_text(talk(data), "do") is True
        before = (data.path.parent / "opencode.db-wal").read_bytes()
        assert get_agent("opencode").read_activity(talk(data)).at_prompt is False
        assert (data.path.parent / "opencode.db-wal").read_bytes() == before
        writer.execute("COMMIT")


@pytest.mark.parametrize("damage", ["gone", "garbage", "no tables", "other columns", "nonsense"])
def test_a_database_that_cannot_be_read_tells_nothing_and_raises_nothing(data: Data, damage: str) -> None:
    opencode, found = get_agent("opencode"), talk(data)
    if damage in ("gone", "garbage"):
        data.path.unlink()
    if damage == "garbage":
        data.path.write_bytes(b"garbage" * 1000)
    elif damage == "no tables":
        for table in ("session", "message", "part"):
            data.execute(f"DROP TABLE {table}")
    elif damage == "other columns":
        data.execute("ALTER TABLE part RENAME COLUMN data TO body")
    elif damage == "nonsense":
        data.execute("INSERT INTO message VALUES ('msg_1', ?, 1, 1, x'ff00')", ID)
        data.execute("INSERT INTO part VALUES ('prt_1', 'msg_1', ?, 1, 'soon', '[[[')", ID)
    assert opencode.read_activity(found).progress == 0
    assert list(opencode.read_history(found)) == []
    assert opencode.holds_text(found, "heron") is (False if damage == "nonsense" else None)
    assert len(list(opencode.list_conversations({"XDG_DATA_HOME": str(data.path.parent.parent)}))) in (0, 1)


def test_the_history_is_what_was_said_and_done(data: Data) -> None:
    data.user(1, "do it")
    data.part("prt_1v", "msg_1", type="text", text="the file says", synthetic=True)
    data.assistant(2, done=True, finish="tool-calls")
    data.part("prt_2a", "msg_2", type="step-start")
    data.tool("prt_2b", "msg_2", status="completed", input={"command": "ls"}, output="a b", metadata={"exit": 1}, title="list")
    data.tool("prt_2c", "msg_2", tool="read", status="running", input={"path": "x"})
    data.said("prt_2d", "msg_2", "did it")
    asked, told, ran, runs, said = get_agent("opencode").read_history(talk(data))
    assert isinstance(asked, Message)
    assert (asked.role, asked.text, asked.id) == (Role.USER, "do it", "prt_1u")
    assert asked.at is not None
    assert json.loads(json.loads(asked.raw or "")["data"])["text"] == "do it"
    assert isinstance(told, Message)
    assert told.role is Role.SYSTEM
    assert isinstance(ran, Command)
    assert (ran.name, ran.text, ran.output, ran.ok, ran.exit_code, ran.duration_s) == ("bash", "ls", "a b", False, 1, 1.5)
    assert isinstance(runs, Command)
    assert (runs.text, runs.output, runs.ok) == ('{"path": "x"}', None, None)
    assert isinstance(said, Message)
    assert (said.role, said.text) == (Role.ASSISTANT, "did it")


def test_conversations_are_listed_without_those_of_helpers(data: Data) -> None:
    data.session(HELPER_ID, parent=ID)
    data.session(OTHER_ID, title="New session - 2026", directory="/there")
    data.user(1, "look   for\nthe heron", session=OTHER_ID)
    found = {
        past.conversation.id: past
        for past in get_agent("opencode").list_conversations({"XDG_DATA_HOME": str(data.path.parent.parent)})
    }
    assert set(found) == {ID, OTHER_ID}
    assert (found[ID].title, found[ID].cwd) == ("a title", "/work")
    assert (found[OTHER_ID].title, found[OTHER_ID].cwd) == ("look for the heron", "/there")
    assert found[ID].changed_at == 1_795_275_001.0
    assert found[ID].conversation == talk(data)


def test_text_is_found_wherever_it_stands(data: Data) -> None:
    data.session(HELPER_ID, parent=ID)
    data.said("prt_h", "msg_h", "the-heron-7", session=HELPER_ID)
    assert get_agent("opencode").holds_text(talk(data), "the-heron-7") is True
    assert get_agent("opencode").holds_text(talk(data), "the-crane-7") is False
    assert get_agent("opencode").holds_text(talk(data, OTHER_ID), "the-heron-7") is False


# -- resuming


def test_an_interrupted_turn_is_told_to_go_on_where_that_is_possible(data: Data) -> None:
    data.user(1, '"fix it"')
    data.assistant(2)
    assert resume(data, "opencode", "run", "--thinking", "fix it") == ["opencode", "run", "--thinking", "-s", ID, GO_ON]
    assert resume(data, "opencode", "--mini", "--prompt", "fix it") == ["opencode", "--mini", "-s", ID, "--prompt", GO_ON]
    assert resume(data, "opencode", "--prompt", "fix it") == ["opencode", "-s", ID]


def test_an_interactive_agent_that_waited_waits_again(data: Data) -> None:
    data.user(1, "fix it")
    data.assistant(2, done=True)
    assert resume(data, "opencode", "--mini", "--prompt", "fix it") == ["opencode", "--mini", "-s", ID]
    assert resume(data, "opencode", "run", "fix it") == ["opencode", "run", "-s", ID, GO_ON]


def test_what_was_cut_does_not_count_as_work_that_goes_on(data: Data) -> None:
    data.user(1, "fix it")
    data.assistant(2)
    data.tool("prt_2a", "msg_2", status="running")
    data.write_log("aaaa1111", "loop", session__id=ID, step=0)
    data.now_ms += 5
    data.write_log("aaaa1111", "asking", id="per_1")
    for words, at_prompt in ((("--prompt", "fix it"), True), (("run", "fix it"), None)):
        opencode = get_agent("opencode")
        opencode.build_resume(launch("opencode", *words), talk(data))
        seen = opencode.read_activity(talk(data))
        assert (seen.at_prompt, seen.needs_user, seen.progress) == (at_prompt, False, 0)
    data.user(3, GO_ON)
    assert opencode.read_activity(talk(data)).at_prompt is False


def test_a_conversation_that_was_never_written_down_begins_again(data: Data) -> None:
    data.user(1, "fix it")
    first = ("opencode", "run", "-f", "a.png", "--", "fix it")
    lost = Conversation(agent="opencode", id=OTHER_ID, store=str(data.path))
    assert get_agent("opencode").build_resume(launch(*first), lost) == first
    nowhere = Conversation(agent="opencode", id=ID, store=str(data.path.with_name("none.db")))
    assert get_agent("opencode").build_resume(launch(*first), nowhere) == first
    assert not data.path.with_name("none.db").exists()


def test_a_prompt_that_the_conversation_never_heard_is_said_again(data: Data) -> None:
    assert resume(data, "opencode", "run", "-f", "a.png", "--", "fix it") == [
        "opencode",
        "run",
        "-f",
        "a.png",
        "-s",
        ID,
        "fix it",
    ]
    assert resume(data, "opencode", "--prompt", "fix it") == ["opencode", "--prompt", "fix it"]
    data.user(1, "earlier")
    again = ["opencode", "run", "-s", ID, "fix it"]
    assert resume(data, "opencode", "run", "-c", "fix it") == again
    assert resume(data, "opencode", "run", "-s", ID, "fix it") == again
    data.user(2, '"fix it"')
    assert resume(data, "opencode", "run", "-c", "fix it") == ["opencode", "run", "-s", ID, GO_ON]


def test_a_conversation_that_cannot_be_read_is_still_gone_on_with(data: Data) -> None:
    data.path.write_bytes(b"garbage" * 1000)
    assert resume(data, "opencode", "run", "fix it") == ["opencode", "run", "-s", ID, GO_ON]
    assert resume(data, "opencode", "--prompt", "fix it") == ["opencode", "-s", ID]


def test_a_resume_asks_for_no_more_than_the_last_turn_had(data: Data) -> None:
    data.user(1, "x", agent="build")
    data.user(2, "y", agent="plan")
    argv = resume(data, "opencode", "run", "--agent", "build", "x")
    assert argv[argv.index("--agent") + 1] == "plan"
    argv = resume(data, "opencode", "run", "x")
    assert argv[argv.index("--agent") + 1] == "plan"
    assert "--auto" not in argv


def test_subcommands_without_a_conversation_are_repeated(data: Data) -> None:
    data.user(1, "x")
    assert resume(data, "opencode", "serve", "--port", "7") == ["opencode", "serve", "--port", "7"]


# -- putting back


def export(data: Data, tmp_path: Path, id: str = ID) -> Path:
    exported = get_agent("opencode").export_transcript(talk(data, id))
    assert exported is not None
    saved = tmp_path / "saved"
    saved.write_bytes(exported)
    return saved


def fill(data: Data) -> None:
    data.session(HELPER_ID, parent=ID)
    data.session(OTHER_ID)
    data.user(1, "the heron")
    data.said("prt_h", "msg_h", "helped", session=HELPER_ID)
    data.user(2, "the crane", session=OTHER_ID)
    data.execute("INSERT INTO todo VALUES (?, 'look', 0)", ID)
    data.execute("INSERT INTO session_share VALUES (?, 'a-secret')", ID)


TABLES = ("project", "session", "message", "part", "todo")


def dump(data: Data) -> dict[str, set[tuple[object, ...]]]:
    return {table: set(data.rows(f"SELECT * FROM {table}")) for table in TABLES}


def test_lost_rows_are_put_back_as_they_were(data: Data, tmp_path: Path) -> None:
    fill(data)
    before, saved = dump(data), export(data, tmp_path)
    assert b"a-secret" not in saved.read_bytes()
    assert b"the crane" not in saved.read_bytes()
    for table, column in (("part", "session_id"), ("message", "session_id"), ("todo", "session_id"), ("session", "id")):
        data.execute(f"DELETE FROM {table} WHERE {column} IN (?, ?)", ID, HELPER_ID)
    opencode = get_agent("opencode")
    assert opencode.restore_transcript(talk(data), saved)
    assert dump(data) == before
    assert not opencode.restore_transcript(talk(data), saved)


@pytest.mark.parametrize("damage", ["gone", "garbage", "empty", "empty log left", "a directory", "a link to nothing"])
def test_a_lost_database_is_made_anew_and_what_was_damaged_stands_beside_it(data: Data, tmp_path: Path, damage: str) -> None:
    fill(data)
    saved = export(data, tmp_path)
    data.path.unlink()
    if damage == "garbage":
        data.path.write_bytes(b"garbage" * 1000)
    elif damage == "empty":
        data.path.touch()
    elif damage == "empty log left":
        data.path.with_name("opencode.db-wal").write_bytes(b"of the old one")
    elif damage == "a directory":
        data.path.mkdir()
    elif damage == "a link to nothing":
        data.path.symlink_to("nowhere")
    assert get_agent("opencode").restore_transcript(talk(data), saved)
    assert data.rows("SELECT id FROM session ORDER BY id") == sorted([(ID,), (HELPER_ID,)])
    assert data.rows("SELECT * FROM migration") == [("first", 1)]
    assert data.rows("SELECT * FROM permission") == [], "no permission is granted anew"
    assert data.rows("SELECT name FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL") == [("part_session_idx",)]
    aside = [path.read_bytes() for path in data.path.parent.glob("*.damaged-*") if path.is_file()]
    assert aside == {"garbage": [b"garbage" * 1000], "empty": [b""], "empty log left": [b"of the old one"]}.get(damage, [])
    assert not data.path.with_name("opencode.db-wal").exists()


def test_a_conversation_that_is_there_is_never_replaced_by_an_older_copy(data: Data, tmp_path: Path) -> None:
    fill(data)
    saved = export(data, tmp_path)
    data.execute("DELETE FROM part WHERE session_id = ?", ID)  # the user took words back
    data.user(3, "instead")
    before = dump(data)
    assert not get_agent("opencode").restore_transcript(talk(data), saved)
    assert dump(data) == before


@pytest.mark.parametrize("what", ["another", "cut", "newer", "none"])
def test_what_is_no_copy_of_this_conversation_is_not_put_back(data: Data, tmp_path: Path, what: str) -> None:
    fill(data)
    saved = export(data, tmp_path, OTHER_ID if what == "another" else ID)
    if what == "cut":
        saved.write_bytes(saved.read_bytes()[:-40])
    elif what == "newer":
        saved.write_bytes(saved.read_bytes().replace(b'"format":1', b'"format":2', 1))
    elif what == "none":
        saved.write_bytes(b"")
    data.path.unlink()
    assert not get_agent("opencode").restore_transcript(talk(data), saved)
    assert not data.path.exists()


def test_a_schema_that_grew_takes_the_rows_and_one_that_asks_for_more_is_an_error(data: Data, tmp_path: Path) -> None:
    fill(data)
    saved = export(data, tmp_path)
    data.execute("DELETE FROM session WHERE id = ?", ID)
    data.execute("DROP TABLE todo")
    data.execute("ALTER TABLE session ADD COLUMN colour text")
    assert get_agent("opencode").restore_transcript(talk(data), saved)
    data.execute("DROP TABLE session")
    data.execute("CREATE TABLE session (id text PRIMARY KEY, parent_id text, must text NOT NULL)")
    data.execute("DELETE FROM message")
    with pytest.raises(StorageError):
        get_agent("opencode").restore_transcript(talk(data), saved)
    assert data.rows("SELECT * FROM message") == [], "all or nothing"


def test_a_copy_of_what_cannot_be_read_is_refused_and_of_what_is_not_there_is_none(data: Data) -> None:
    opencode = get_agent("opencode")
    assert opencode.export_transcript(talk(data, OTHER_ID)) is None
    assert opencode.export_transcript(Conversation(agent="opencode", id=ID)) is None
    data.path.write_bytes(b"garbage" * 1000)
    with pytest.raises(StorageError):
        opencode.export_transcript(talk(data))
    data.path.unlink()
    assert opencode.export_transcript(talk(data)) is None


def test_the_adapter_loads_sqlite_only_when_it_reads() -> None:
    program = "import sys; from coordinator.agents import recognise; recognise(['opencode']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "coordinator.agents.opencode" in loaded
    assert "sqlite3" not in loaded
    assert isinstance(get_agent("opencode"), OpenCode)
