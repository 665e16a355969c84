"""Claude Code's command line taken apart and put together: every flag kept, the old prompt dropped, never more permission."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.agents import claude_command as line


def words(text: str) -> list[str]:
    return shlex.split(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("claude", "claude --resume ID -- go"),
        ("claude 'fix the bug'", "claude --resume ID -- go"),
        ("claude --model opus 'fix the bug' --verbose", "claude --model opus --verbose --resume ID -- go"),
        ("claude -p 'fix it' --allowedTools Bash Edit", "claude -p --allowedTools Bash Edit --resume ID -- go"),
        ("claude --model=opus -d api,hooks -- x", "claude --model=opus -d api,hooks --resume ID -- go"),
        ("claude --add-dir a b --effort high", "claude --add-dir a b --effort high --resume ID -- go"),
        ("claude -c", "claude --resume ID -- go"),
        ("claude -pc 'and now'", "claude -p --resume ID -- go"),
        ("claude -r", "claude --resume ID -- go"),
        ("claude -rOLD -p more", "claude -p --resume ID -- go"),
        ("claude --resume OLD --fork-session more", "claude --resume ID -- go"),
        ("claude --session-id OLD -n mine x", "claude -n mine --resume ID -- go"),
        ("claude -w tree x", "claude --resume ID -- go"),
        ("claude --worktree", "claude --resume ID -- go"),
        ("claude --settings s --mcp-config a b -p x", "claude --settings s --mcp-config a b -p --resume ID -- go"),
        ("node /lib/@anthropic-ai/claude-code/cli.js -p x", "node /lib/@anthropic-ai/claude-code/cli.js -p --resume ID -- go"),
        ("npx -y @anthropic-ai/claude-code x", "npx -y @anthropic-ai/claude-code --resume ID -- go"),
        ("claude --from-the-future -p x", "claude --from-the-future -p --resume ID -- go"),
    ],
)
def test_a_resume_keeps_every_flag_and_drops_the_old_prompt(before: str, after: str) -> None:
    command = line.drop_start(line.parse(words(before)))
    assert list(line.build_resume(command, conversation="ID", prompt="go")) == words(after)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("claude", None),
        ("claude 'fix it'", "fix it"),
        ("claude -- --odd", "--odd"),
        ("claude -- update", "update"),
        ("claude -p 'fix it' --verbose", "fix it"),
        ("claude --allowedTools Bash 'not a prompt'", None),
        ("claude --allowedTools Bash -- 'a prompt'", "a prompt"),
        ("claude -r OLD more", "more"),
        ("claude -d 'a filter'", None),
        ("claude --permission-mode plan 'think'", "think"),
    ],
)
def test_the_prompt_is_told_from_values_and_subcommands(text: str, prompt: str | None) -> None:
    assert line.parse(words(text)).prompt == prompt


@pytest.mark.parametrize("text", ["claude mcp list", "claude update", "claude --debug-file f plugin x", "claude agents"])
def test_what_carries_no_conversation_is_known_as_such(text: str) -> None:
    command = line.parse(words(text))
    assert command.other is not None
    assert command.chooses_itself


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("claude", None),
        ("claude --permission-mode plan x", "plan"),
        ("claude --permission-mode=plan --permission-mode acceptEdits", "acceptEdits"),
        ("claude --dangerously-skip-permissions --permission-mode plan", "bypassPermissions"),
        ("claude --allow-dangerously-skip-permissions", None),
    ],
)
def test_the_permission_mode_is_what_the_program_would_take(text: str, mode: str | None) -> None:
    assert line.read_mode(line.parse(words(text))) == mode


@pytest.mark.parametrize(
    ("text", "had", "after"),
    [
        ("claude --dangerously-skip-permissions", "default", "claude --permission-mode default"),
        ("claude --dangerously-skip-permissions", "bypassPermissions", "claude --dangerously-skip-permissions"),
        ("claude --permission-mode acceptEdits", "bypassPermissions", "claude --permission-mode acceptEdits"),
        ("claude --permission-mode acceptEdits", "plan", "claude --permission-mode plan"),
        ("claude", "acceptEdits", "claude --permission-mode acceptEdits"),
        ("claude", "bypassPermissions", "claude"),
        ("claude --permission-mode auto", "dontAsk", "claude --permission-mode dontAsk"),
        ("claude --permission-mode newest", "plan", "claude --permission-mode plan"),
        ("claude --permission-mode auto", "newest", "claude --permission-mode auto"),
        ("claude --permission-mode auto", None, "claude --permission-mode auto"),
    ],
)
def test_the_last_mode_is_a_ceiling(text: str, had: str | None, after: str) -> None:
    assert list(line.build_start(line.limit_mode(line.parse(words(text)), had))) == words(after)


FLAGS = st.sampled_from([*(f"--permission-mode={mode}" for mode in line.MODES), "--dangerously-skip-permissions", "--verbose"])


@given(flags=st.lists(FLAGS), had=st.sampled_from(line.MODES))
def test_no_flags_are_ever_resumed_above_the_last_mode(flags: list[str], had: str) -> None:
    limited = line.limit_mode(line.parse(["claude", *flags]), had)
    mode = line.read_mode(line.parse(line.build_start(limited)))
    assert mode is None or line.MODES.index(mode) <= line.MODES.index(had)
    assert mode is not None or had == line.MODES[-1]
    assert sum(option.name == "--verbose" for option in limited.options) == flags.count("--verbose")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12)))
@example(["-0="])
@example(["-0-"])
def test_any_words_are_taken_apart_and_keep_their_prompt_when_put_together(some: list[str]) -> None:
    command = line.parse(["claude", *some])
    if command.other is None:
        again = line.parse(line.build_start(command))
        assert again.prompt == command.prompt
        assert [option.name for option in again.options] == [option.name for option in command.options]
