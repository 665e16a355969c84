"""``crewkeep history`` and ``crewkeep resume``: what is printed, and what is started."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pexpect
import pytest
from atif_support import check_atif
from diary_agent import install, write_diary
from session_support import change_session, end_session, make_session
from support import CREWKEEP, cli, cli_json, make_environment, wait_until

from coordinator.paths import Home
from coordinator.sessions.conversation import Conversation, write_conversation
from coordinator.sessions.history import Command, Message, Role, decode_item
from coordinator.sessions.recording import Recorder
from coordinator.sessions.registry import Registry

TOLD = [
    Message(role=Role.USER, text="Mend the Größe 😀\n```\n# not a heading\n```", at=10.0, id="m1"),
    Command(name="shell", text='{"command": ["ls"]}', at=11.0, id="c1", output="total `0`", ok=True, exit_code=0, duration_s=0.5),
    Command(name="shell", text="make test", at=12.0, id="c1", output="lone \ud800 surrogate", ok=False),
    Command(name="read", text="file.py", at=13.0),
    Message(role=Role.ASSISTANT, text="done", at=14.0, raw='{"verbatim": 1}'),
    Command(name="shell", text="git status", at=15.0, output=""),
    Message(role=Role.SYSTEM, text="be brief", at=None),
]


class Shelf:
    """A home with one session and one conversation from outside, and the agent that both are of."""

    def __init__(self, home: Home, directory: Path) -> None:
        self.home, self.diaries, self.work = home, directory / "diaries", directory / "work"
        self.work.mkdir()
        self.environment = {**install(directory / "site"), "DIARY_HOME": str(self.diaries)}
        registry = Registry(home)
        record = change_session(registry, make_session(home, "auth", registry=registry), agent_name="diary", cwd=str(self.work))
        path = write_diary(self.diaries, "0aa", TOLD, at=time.time(), title="mend the size", cwd=str(self.work))
        write_conversation(home.session(record.id), Conversation(agent="diary", id="0aa", transcript=str(path)), epoch=1)
        recorder = Recorder(home.session(record.id), record.id, 1, limit_bytes=1 << 20)
        recorder.pause()
        recorder.close()
        self.record = end_session(registry, record)
        said = [Message(role=Role.USER, text="from outside")]
        write_diary(self.diaries, "0bb", said, at=5.0, title="out\x1b[2J", cwd=str(self.work))

    def run(self, *arguments: str) -> Any:
        return cli(*arguments, home=self.home, env=self.environment)

    def json(self, *arguments: str) -> Any:
        return cli_json(*arguments, home=self.home, env=self.environment)

    @property
    def starts(self) -> str:
        path = self.diaries / "started"
        return path.read_text(encoding="utf-8") if path.exists() else ""


@pytest.fixture
def shelf(home: Home, tmp_path: Path) -> Shelf:
    return Shelf(home, tmp_path)


def test_the_list_has_every_agents_conversations_newest_first(shelf: Shelf) -> None:
    mine, outside = shelf.json("history", "--json")
    assert mine.pop("changed_at").startswith("20")
    assert mine == {
        "ref": shelf.record.id,
        "agent": "diary",
        "session": shelf.record.id,
        "name": "auth",
        "state": "done",
        "cwd": str(shelf.work),
        "title": "mend the size",
        "conversations": ["0aa"],
    }
    assert (outside["ref"], outside["session"], outside["changed_at"]) == ("diary:0bb", None, "1970-01-01T00:00:05.000Z")
    assert [row["ref"] for row in shelf.json("history", "-n", "1", "--json")] == [shelf.record.id]
    done = shelf.run("history")
    assert done.returncode == 0 and "mend the size" in done.stdout and "diary:0bb" in done.stdout
    assert "\x1b" not in done.stdout
    assert "1 older ones" in shelf.run("history", "-n", "1").stderr


def test_an_empty_home_says_what_to_do(home: Home) -> None:
    done = cli("history", home=home)
    assert done.returncode == 0 and done.stdout == "" and "crewkeep run" in done.stderr
    assert cli_json("history", "--json", home=home) == []


def test_show_prints_everything_in_order(shelf: Shelf) -> None:
    shown = shelf.json("history", "show", "auth", "--json")
    assert shown["ref"] == shelf.record.id
    kinds = [(item["kind"], item.get("text", item.get("what"))) for item in shown["items"]]
    assert kinds[0] == ("message", TOLD[0].text) and ("mark", "paused") in kinds
    assert "raw" not in json.dumps(shown)
    text = shelf.run("history", "show", "auth").stdout
    assert "Größe 😀" in text and "make test" in text and "recording paused" in text
    assert text.index("make test") < text.index("file.py") < text.index("git status")
    assert "from outside" in shelf.run("history", "show", "diary:0b").stdout
    assert len(shelf.json("history", "show", "auth", "-n", "2", "--json")["items"]) == 2


def test_a_conversation_in_which_nothing_was_said_says_so_and_leaving_all_out_does_not(shelf: Shelf) -> None:
    write_diary(shelf.diaries, "0ee", [], at=1.0, title="silent")
    silent = shelf.run("history", "show", "diary:0ee")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "nothing is known of what was said in diary:0ee\n")
    assert shelf.run("history", "show", "auth", "-n", "0").stderr == ""


def test_a_search_prints_where_it_found_what(shelf: Shelf) -> None:
    done = shelf.run("history", "search", "GRÖSSE")
    assert done.returncode == 0 and done.stdout.startswith(f"{shelf.record.id} (auth)  user: Mend the Größe")
    (row,) = shelf.json("history", "search", "outside", "--json")
    assert (row["ref"], row["index"], row["item"]["text"]) == ("diary:0bb", 0, "from outside")
    assert len(shelf.json("history", "search", "m", "-n", "2", "--json")) == 2
    nowhere = shelf.run("history", "search", "no such thing", "--json")
    assert nowhere.returncode == 1 and json.loads(nowhere.stdout) == []
    assert shelf.run("history", "search", "").returncode == 2


def test_an_unknown_conversation_is_named(shelf: Shelf) -> None:
    for arguments in (("show", "nobody"), ("show", "diary:zz"), ("export", "nobody", "--format", "json")):
        done = shelf.run("history", *arguments)
        assert done.returncode == 3 and arguments[1] in done.stderr and "Traceback" not in done.stderr


def test_json_reads_back_as_the_model_had_it(shelf: Shelf, tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    assert shelf.run("history", "export", "auth", "--format", "json", "-o", str(file)).returncode == 0
    items = json.loads(file.read_text(encoding="utf-8"))["items"]
    read = [decode_item(item) for item in items if item["kind"] != "mark"]
    assert [item for item in read if item in TOLD] == [TOLD[0], *TOLD[2:]]  # c1 came twice: the later stands, at its place
    assert json.loads(shelf.run("history", "export", "auth", "--format", "json").stdout)["items"] == items
    assert oct(file.stat().st_mode & 0o777) == "0o600"


def test_atif_has_the_shape_that_its_specification_asks_for(shelf: Shelf) -> None:
    trajectory = json.loads(shelf.run("history", "export", "auth", "--format", "atif").stdout)
    check_atif(trajectory)
    steps = trajectory["steps"]
    assert trajectory["session_id"] == shelf.record.id and trajectory["agent"]["name"] == "diary"
    assert [step["source"] for step in steps] == ["user", "agent", "agent", "system", "system"]
    assert steps[0]["message"] == TOLD[0].text and steps[0]["timestamp"] == "1970-01-01T00:00:10.000Z"
    assert [call["arguments"] for call in steps[1]["tool_calls"]] == [{"command": "make test"}, {"command": "file.py"}]
    assert steps[1]["observation"]["results"] == [{"source_call_id": "c1", "content": "lone \ufffd surrogate"}]
    assert steps[2]["message"] == "done" and steps[2]["tool_calls"][0]["arguments"] == {"command": "git status"}


def test_markdown_lets_no_text_break_out_of_its_fence(shelf: Shelf) -> None:
    text = shelf.run("history", "export", "auth", "--format", "markdown").stdout
    assert text.startswith("# mend the size\n") and "## User · 1970-01-01T00:00:10.000Z" in text
    assert "### shell (failed)" in text and "```\nmake test\n```" in text and "*recording paused" in text


def test_a_file_that_cannot_be_written_is_named_and_nothing_is_left(shelf: Shelf, tmp_path: Path) -> None:
    done = shelf.run("history", "export", "auth", "--format", "json", "-o", str(tmp_path / "no" / "file"))
    assert done.returncode == 1 and "no/file" in done.stderr and "ENOENT" in done.stderr


def test_a_pipe_is_written_to_and_a_link_followed_and_neither_replaced(shelf: Shelf, tmp_path: Path) -> None:
    pipe, link, target = tmp_path / "pipe", tmp_path / "link", tmp_path / "target"
    os.mkfifo(pipe)
    link.symlink_to(target)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    try:
        assert shelf.run("history", "export", "auth", "--format", "json", "-o", str(pipe)).returncode == 0
        document, _ = reader.communicate(timeout=20)
    finally:
        reader.kill()
    assert json.loads(document)["name"] == "auth" and pipe.is_fifo()
    assert shelf.run("history", "export", "auth", "--format", "json", "-o", str(link)).returncode == 0
    assert link.is_symlink() and target.read_bytes() == document
    done = shelf.run("history", "export", "auth", "--format", "json", "-o", str(tmp_path))
    assert done.returncode == 1 and str(tmp_path) in done.stderr and "EISDIR" in done.stderr


def test_a_conversation_from_outside_becomes_a_session_where_it_was_held(shelf: Shelf) -> None:
    row = shelf.json("resume", "diary:0bb", "--name", "back", "--json")
    assert (row["name"], row["epoch"]) == ("back", 1)
    wait_until(lambda: shelf.starts, what="the program")
    assert shelf.starts == f"--go-on 0bb in {shelf.work}\n"
    assert Registry(shelf.home).get(row["id"]).agent_name == "diary"


def test_of_several_who_go_on_with_one_conversation_at_once_one_does(shelf: Shelf) -> None:
    environment = make_environment(shelf.home, shelf.environment)
    command = [str(CREWKEEP), "resume", "diary:0bb", "-d"]
    asked = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    told = [(one.communicate(timeout=60)[1], one.returncode) for one in asked]
    assert sorted(code for _, code in told) == [0, 5, 5], told
    assert all("crewkeep attach" in text for text, code in told if code == 5)
    assert len(shelf.json("ps", "--json")) == 1 and shelf.starts.count("--go-on 0bb") == 1


def test_a_session_that_ended_is_brought_back_and_one_that_runs_is_not(shelf: Shelf) -> None:
    done = shelf.run("run", "-d", "--name", "live", "--agent", "diary", "--cwd", str(shelf.work), "--", "diary")
    assert done.returncode == 0, done.stderr
    refused = shelf.run("resume", "live")
    assert refused.returncode == 5 and "crewkeep attach live" in refused.stderr
    assert shelf.run("kill", "live").returncode == 0
    row = shelf.json("resume", "live", "--json")
    assert row["epoch"] == 2
    wait_until(lambda: shelf.starts.count("\n") == 2, what="the second start")


def test_a_directory_that_is_gone_is_named(shelf: Shelf) -> None:
    write_diary(shelf.diaries, "0cc", [], at=1.0, cwd="/no/such/place")
    done = shelf.run("resume", "diary:0cc")
    assert done.returncode == 5 and "/no/such/place" in done.stderr


def test_without_a_terminal_nobody_is_asked(shelf: Shelf) -> None:
    done = shelf.run("resume")
    assert done.returncode == 2 and "crewkeep history" in done.stderr


def open_picker(shelf: Shelf, environment: dict[str, str]) -> Any:
    return pexpect.spawn(
        str(CREWKEEP),
        ["resume", "-d"],
        env=make_environment(shelf.home, {**shelf.environment, "TERM": "xterm-256color", **environment}),
        encoding="utf-8",
        timeout=20,
        dimensions=(24, 100),
    )


def test_a_missing_picker_names_the_command_that_installs_it(shelf: Shelf, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "textual.py").write_text("raise ModuleNotFoundError('no textual', name='textual')\n", encoding="utf-8")
    child = open_picker(shelf, {"PYTHONPATH": f"{hidden}{os.pathsep}{shelf.environment['PYTHONPATH']}"})
    child.expect(r"pip install 'crewkeep\[tui\]'")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 69


def test_the_picker_takes_what_is_searched_for(shelf: Shelf) -> None:
    pytest.importorskip("textual", reason="the tui extra is not installed")
    child = open_picker(shelf, {})
    child.expect("mend the size")
    child.send("0bb OUT")
    child.expect("0bb OUT")
    child.send("\r")
    wait_until(lambda: shelf.starts, what="the program", timeout_s=20)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0 and shelf.starts == f"--go-on 0bb in {shelf.work}\n"


def test_the_picker_can_be_left(shelf: Shelf) -> None:
    pytest.importorskip("textual", reason="the tui extra is not installed")
    child = open_picker(shelf, {})
    child.expect("mend the size")
    child.send("\x1b")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 1 and shelf.starts == ""
