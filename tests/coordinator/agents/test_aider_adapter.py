"""The aider adapter on chat histories in the form that 0.86.2 writes; the program is too large to be installed for the tests."""

from __future__ import annotations

import datetime
import os
import time
from pathlib import Path

import pytest

from coordinator.agents import get_agent
from coordinator.agents.aider import GO_ON
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Message, Role
from coordinator.sessions.model import LaunchSpec

NAME = ".aider.chat.history.md"
AT_S = 1795274474.0


def run(*parts: str, at_s: float = AT_S, argv: str = "aider --yes-always") -> str:
    heading = datetime.datetime.fromtimestamp(at_s).strftime("%Y-%m-%d %H:%M:%S")
    header = f"\n# aider chat started at {heading}\n\n> {argv}  \n> Aider v0.86.2  \n> Model: x with whole edit format  \n"
    return header + "".join(parts)


def said(*lines: str) -> str:
    return "\n#### " + "  \n#### ".join(lines) + "  \n"


def answered(text: str) -> str:
    return f"\n{text}\n\n> Tokens: 598 sent, 6 received.  \n"


def refused(text: str) -> str:
    return (
        f"> litellm.RateLimitError: {text}  \n> The API provider has rate limited you. Try again later or check your quotas.  \n"
    )


def launch(cwd: Path, *argv: str, **environment: str) -> LaunchSpec:
    return LaunchSpec(argv=argv, cwd=str(cwd), environment=environment)


def talk(path: Path, found_at: float = AT_S) -> Conversation:
    return Conversation(agent="aider", id=str(path), transcript=str(path), found_at=found_at)


def write(directory: Path, *runs: str, name: str = NAME) -> Path:
    path = directory / name
    path.write_text("".join(runs))
    return path


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize(
    ("argv", "known"),
    [
        (("aider",), True),
        (("/opt/bin/aider", "--message", "x"), True),
        (("python3.11", "-m", "aider", "x.py"), True),
        (("python", "aider"), False),
        (("aider-helper",), False),
    ],
)
def test_a_command_is_recognised_by_its_words_alone(argv: tuple[str, ...], known: bool) -> None:
    assert get_agent("aider").recognises(argv) is known


@pytest.mark.parametrize(
    ("argv", "environment", "expected"),
    [
        (("aider",), {}, f"project/{NAME}"),
        (("aider", "--chat-history-file", "mine.md"), {}, "project/deep/mine.md"),
        (("aider", "--chat-history-file=../mine.md"), {"AIDER_CHAT_HISTORY_FILE": "other.md"}, "project/mine.md"),
        (("aider", "--chat-hist", "a.md", "--chat-history-file", "b.md"), {}, "project/deep/b.md"),
        (("aider", "--model", "--chat-history-file"), {"AIDER_CHAT_HISTORY_FILE": "other.md"}, "project/deep/other.md"),
    ],
)
def test_the_conversation_is_the_file_that_aider_writes(
    tmp_path: Path, argv: tuple[str, ...], environment: dict[str, str], expected: str
) -> None:
    deep = tmp_path / "project" / "deep"
    deep.mkdir(parents=True)
    (tmp_path / "project" / ".git").mkdir()
    same, conversation = get_agent("aider").begin(launch(deep, *argv, **environment), "session-1")
    assert same == argv
    assert conversation is not None
    assert conversation.id == str(tmp_path / expected)
    assert conversation.transcript is None


def test_a_conversation_is_found_once_a_run_of_this_start_stands_in_the_file(tmp_path: Path) -> None:
    aider, start = get_agent("aider"), launch(tmp_path, "aider")
    assert aider.find_conversation(start, [], AT_S) is None
    path = write(tmp_path, run(said("x"), at_s=AT_S - 60))
    assert aider.find_conversation(start, [], AT_S) is None
    append(path, run())
    found = aider.find_conversation(start, [], AT_S + 0.7)
    assert found is not None
    assert (found.id, found.transcript) == (str(path), str(path))
    assert aider.find_conversation(launch(tmp_path, "aider", "--version"), [], AT_S) is None


def test_a_resume_restores_the_chat_and_keeps_every_flag(tmp_path: Path) -> None:
    path = write(tmp_path, run(said("fix it"), answered("done")))
    resume = get_agent("aider").build_resume
    assert resume(launch(tmp_path, "aider", "--model", "x", "a.py"), talk(path)) == (
        "aider", "--restore-chat-history", "--model", "x", "a.py",
    )  # fmt: skip
    assert resume(launch(tmp_path, "aider", "--restore-chat-history"), talk(path)) == ("aider", "--restore-chat-history")
    assert resume(launch(tmp_path, "python", "-m", "aider"), talk(path)) == ("python", "-m", "aider", "--restore-chat-history")


@pytest.mark.parametrize(
    "flags",
    [("--message", "fix\nit"), ("-m", "fix\nit"), ("--msg=fix\nit",), ("-m=fix\nit",), ("-mfix\nit",), ("-f", "todo.txt")],
)
def test_a_message_that_the_chat_holds_is_not_said_again(tmp_path: Path, flags: tuple[str, ...]) -> None:
    (tmp_path / "todo.txt").write_text("fix\nit\n")
    path = write(tmp_path, run(argv="aider --message fix\nit"))
    start = launch(tmp_path, "aider", *flags, "--yes-always", "--", "a.py")
    assert get_agent("aider").build_resume(start, talk(path)) == ("aider", "--restore-chat-history", *start.argv[1:])
    append(path, said("fix", "it"))
    assert get_agent("aider").build_resume(start, talk(path)) == (
        "aider", "--restore-chat-history", "--message", GO_ON, "--yes-always", "--", "a.py",
    )  # fmt: skip


def test_a_message_of_an_earlier_session_in_the_same_directory_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, run(said("fix it"), answered("done"), at_s=AT_S - 60), run())
    argv = get_agent("aider").build_resume(launch(tmp_path, "aider", "-m", "fix it"), talk(path))
    assert argv == ("aider", "--restore-chat-history", "-m", "fix it")


def test_a_chat_that_was_never_written_begins_as_it_was_started(tmp_path: Path) -> None:
    start = launch(tmp_path, "aider", "-m", "fix it")
    conversation = get_agent("aider").begin(start, "session-1")[1]
    assert get_agent("aider").build_resume(start, conversation) == start.argv
    for words in (("--version",), ("--commit",), ("--gui",)):
        start = launch(tmp_path, "aider", *words)
        assert get_agent("aider").begin(start, "session-1") == (start.argv, None)


def test_permission_is_what_the_flags_say() -> None:
    assert get_agent("aider").read_permission_mode(["aider", "--yes"]) == "yes-always"
    assert get_agent("aider").read_permission_mode(["aider", "--message", "--yes-always"]) is None


def test_progress_is_what_the_model_answered_and_what_was_edited_and_not_what_a_resume_writes(tmp_path: Path) -> None:
    aider, path = get_agent("aider"), write(tmp_path, run(said("fix it")))
    before = aider.read_activity(talk(path)).progress
    append(path, answered("one\ntwo") + "> Applied edit to a.py  \n")
    after = aider.read_activity(talk(path)).progress
    assert after == before + 3
    append(path, run(argv="aider --message many\nlines\nof words") + said(GO_ON))
    assert aider.read_activity(talk(path)).progress == after


def test_an_aider_whose_user_has_the_word_waits_at_its_prompt(tmp_path: Path) -> None:
    aider, path = get_agent("aider"), write(tmp_path, run())
    for text, at_prompt in (("", None), (said("x"), False), (answered("y"), True), (said("z"), False), (refused("no"), True)):
        append(path, text)
        assert aider.read_activity(talk(path)).at_prompt is at_prompt, text


def test_a_failure_is_told_unless_aider_tries_again(tmp_path: Path) -> None:
    aider, path = get_agent("aider"), write(tmp_path, run(said("x"), refused("slow down"), "> Retrying in 0.5 seconds...  \n"))
    assert (aider.read_activity(talk(path)).failure, aider.read_activity(talk(path)).at_prompt) == (None, False)
    append(path, refused("limit reached, try again in 2 hours"))
    activity = aider.read_activity(talk(path))
    assert activity.failure is not None
    assert activity.failure.startswith("litellm.RateLimitError: limit reached")
    assert activity.limited_until == pytest.approx(path.stat().st_mtime + 7200)
    append(path, said("again"))
    assert aider.read_activity(talk(path)).failure is None


def test_a_question_on_the_terminal_needs_the_user_however_the_output_is_cut(tmp_path: Path) -> None:
    path = write(tmp_path, run(said("x"), answered("y")))
    asking = b"\r\nnew.txt\r\n\x1b[?2004hCreate new file? (Y)es/(N)o [Yes]:      \r\x1b[35C\x1b[?25h"
    for cut in range(len(asking) + 1):
        aider = get_agent("aider")
        for output in (b"words\r\n", asking[:cut], asking[cut:], b"\x1b[?25ly \x08"):
            aider.note_output(output)
        activity = aider.read_activity(talk(path))
        assert (activity.needs_user, activity.at_prompt) == (True, False), cut
        aider.note_output(b"\x1b[0m\r\r\n> ")
        assert not aider.read_activity(talk(path)).needs_user


def test_history_is_told_by_speakers(tmp_path: Path) -> None:
    path = write(tmp_path, run(said("fix", "", "it"), answered("first\n\nsecond"), argv="aider -m fix\nit"), run(said("more")))
    items = list(get_agent("aider").read_history(talk(path)))
    assert all(isinstance(item, Message) for item in items)
    assert [(item.role, item.text) for item in items if isinstance(item, Message)] == [
        (Role.SYSTEM, "Model: x with whole edit format"),
        (Role.USER, "fix\n\nit"),
        (Role.ASSISTANT, "first\n\nsecond"),
        (Role.SYSTEM, "Tokens: 598 sent, 6 received."),
        (Role.SYSTEM, "Model: x with whole edit format"),
        (Role.USER, "more"),
    ]
    assert (items[1].raw or "").rstrip("\n") == "#### fix  \n####   \n#### it  "


def test_the_chat_of_the_directory_is_listed(tmp_path: Path) -> None:
    environment = {"PWD": str(tmp_path), "HOME": str(tmp_path)}
    assert list(get_agent("aider").list_conversations(environment)) == []
    path = write(tmp_path, run(said("fix", "it")))
    [past] = get_agent("aider").list_conversations(environment)
    assert (past.conversation.id, past.cwd, past.title) == (str(path), str(tmp_path), "fix it")
    assert past.changed_at == pytest.approx(time.time(), abs=60)


@pytest.mark.parametrize("damage", ["gone", "empty", "cut", "hole"])
def test_a_damaged_file_is_set_aside_and_the_copy_put_back(tmp_path: Path, damage: str) -> None:
    path, saved = write(tmp_path, run(said("x"), answered("y"))), tmp_path / "saved"
    whole = path.read_bytes()
    saved.write_bytes(whole)
    broken = {"gone": None, "empty": b"", "cut": whole[:40], "hole": whole[:-9] + b"\0" * 9}[damage]
    if broken is None:
        path.unlink()
    else:
        path.write_bytes(broken)
    assert get_agent("aider").restore_transcript(talk(path), saved)
    assert path.read_bytes() == whole
    assert [found.read_bytes() for found in tmp_path.glob(f"{NAME}.damaged-*")] == ([] if broken is None else [broken])


def test_a_whole_file_is_never_replaced_by_an_older_copy(tmp_path: Path) -> None:
    path, saved = write(tmp_path, run(said("x"))), tmp_path / "saved"
    saved.write_bytes(path.read_bytes())
    append(path, answered("y"))
    assert not get_agent("aider").restore_transcript(talk(path), saved)
    saved.write_text("no chat")
    os.unlink(path)
    assert not get_agent("aider").restore_transcript(talk(path), saved)
