"""Gemini's command line taken apart and put together: every flag kept, the old prompt dropped, never more permission."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from coordinator.agents import gemini_command as line


def words(text: str) -> list[str]:
    return shlex.split(text)


def resume(text: str, prompt: str | None = "go", **environment: str) -> list[str]:
    command = line.parse(words(text))
    return list(line.build(command, ("--resume", "ID"), prompt=prompt, interactive=command.is_interactive(environment)))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("gemini", "gemini --resume ID -i go"),
        ("gemini 'fix the bug'", "gemini --resume ID -i go"),
        ("gemini fix the bug", "gemini --resume ID -i go"),
        ("gemini -m pro -i 'fix the bug' -y", "gemini --resume ID -m pro -y -i go"),
        ("gemini --promptInteractive 'fix it' --approvalMode plan", "gemini --resume ID --approvalMode plan -i go"),
        ("gemini -p 'fix it' -o json", "gemini --resume ID -o json -p go"),
        ("gemini --prompt='fix it' --model=pro", "gemini --resume ID --model=pro -p go"),
        ("gemini -yp 'fix it'", "gemini --resume ID -y -p go"),
        ("gemini -r OLD -p more", "gemini --resume ID -p go"),
        ("gemini --resume -p more", "gemini --resume ID -p go"),
        ("gemini --resume=latest", "gemini --resume ID -i go"),
        ("gemini --session-id OLD x", "gemini --resume ID -i go"),
        ("gemini --session-file f.jsonl -p x", "gemini --resume ID -p go"),
        ("gemini -e one -e two --include-directories a,b x", "gemini --resume ID -e one -e two --include-directories a,b -i go"),
        ("gemini --sandbox false x", "gemini --resume ID --sandbox false -i go"),
        ("gemini -w tree x", "gemini --resume ID -w tree -i go"),
        ("gemini -- -odd", "gemini --resume ID -i go"),
        ("gemini --from-the-future 7 'fix it'", "gemini --resume ID --from-the-future 7 -i go"),
        ("gemini --from-the-future", "gemini --resume ID --from-the-future -i go"),
        ("node --max-old-space-size=99 /l/gemini.js -y x", "node --max-old-space-size=99 /l/gemini.js --resume ID -y -i go"),
        ("npx -y @google/gemini-cli -y -p x", "npx -y @google/gemini-cli --resume ID -y -p go"),
    ],
)
def test_a_resume_keeps_every_flag_and_drops_the_old_prompt(before: str, after: str) -> None:
    assert resume(before) == words(after)


def test_in_ci_a_plain_prompt_is_headless() -> None:
    assert resume("gemini x", CI="true") == words("gemini --resume ID -p go")
    assert resume("gemini -i x", CI="true") == words("gemini --resume ID -i go")


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    assert resume("gemini -y x", prompt=None) == words("gemini --resume ID -y")


def test_a_prompt_that_looks_like_an_option_stays_a_prompt() -> None:
    assert resume("gemini -p x", prompt="-odd") == ["gemini", "--resume", "ID", "--prompt=-odd"]
    assert line.parse(words("gemini -p -odd")).prompt == "-odd"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("gemini", None),
        ("gemini 'fix it'", "fix it"),
        ("gemini fix it", "fix it"),
        ("gemini -m pro fix", "fix"),
        ("gemini -- mcp", "mcp"),
        ("gemini --yolo true fix", "fix"),
        ("gemini -r 5 fix", "fix"),
        ("gemini -p fix", "fix"),
        ("gemini --prompt-interactive=fix", "fix"),
    ],
)
def test_the_prompt_is_told_from_values_and_flags(text: str, prompt: str | None) -> None:
    assert line.parse(words(text)).prompt == prompt


@pytest.mark.parametrize(
    "text",
    [
        "gemini mcp list",
        "gemini extensions install x",
        "gemini -d skills list",
        "gemini --help",
        "gemini -v",
        "gemini --list-sessions",
        "gemini --delete-session 3",
        "gemini -l",
        "gemini --acp",
        "gemini --experimentalAcp",
    ],
)
def test_what_carries_no_conversation_is_known_as_such(text: str) -> None:
    assert not line.parse(words(text)).carries_conversation


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("gemini x", None),
        ("gemini --session-id one", "one"),
        ("gemini -r one", "one"),
        ("gemini --resume=one", "one"),
        ("gemini --resume latest", None),
        ("gemini --resume 5", None),
        ("gemini --resume", None),
    ],
)
def test_the_conversations_id_is_read_where_it_is_one(text: str, id: str | None) -> None:
    assert line.parse(words(text)).conversation_id == id


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("gemini x", None),
        ("gemini -y x", "yolo"),
        ("gemini -dy x", "yolo"),
        ("gemini --yolo=false x", None),
        ("gemini --approval-mode auto_edit x", "auto_edit"),
        ("gemini --approvalMode=plan", "plan"),
    ],
)
def test_the_approval_mode_is_read_from_every_way_to_ask_for_it(text: str, mode: str | None) -> None:
    assert line.read_approval_mode(line.parse(words(text))) == mode


KNOWN = line.SYNTAX.one | line.SYNTAX.optional | (line.SYNTAX.none or frozenset())
WORDS = st.sampled_from([*sorted(KNOWN), "x", "latest", "--", "-yp", "true"])


@given(st.lists(WORDS | st.text(max_size=8).filter(lambda word: "\0" not in word), max_size=8))
def test_no_command_line_breaks_the_parser_or_raises_the_permission(rest: list[str]) -> None:
    command = line.parse(["gemini", *rest])
    built = line.build(command, ("--resume", "ID"), prompt=None, interactive=True)
    assert built[:3] == ("gemini", "--resume", "ID")
    if command.carries_conversation:
        assert line.read_approval_mode(line.parse(built)) == line.read_approval_mode(command)
        assert line.parse(built).conversation_id == "ID"


@given(st.lists(WORDS, max_size=6))
def test_what_was_resumed_once_is_resumed_the_same_way_again(rest: list[str]) -> None:
    command = line.parse(["gemini", *rest])
    assume(not any(option.value is None and option.name in line.SYNTAX.one for option in command.options))  # refused
    once = line.build(command, ("--resume", "ID"), prompt="go", interactive=True)
    if command.carries_conversation:
        assert line.build(line.parse(once), ("--resume", "ID"), prompt="go", interactive=True) == once
