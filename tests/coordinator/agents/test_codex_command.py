"""Codex's command line taken apart and put together: every flag kept, the old prompt dropped, never more permission."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.agents import codex_command as line
from coordinator.agents.codex_command import Permission


def words(text: str) -> list[str]:
    return shlex.split(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("codex", "codex resume ID go"),
        ("codex 'fix the bug'", "codex resume ID go"),
        ("codex -m o3 'fix the bug'", "codex -m o3 resume ID go"),
        ("codex 'fix the bug' -m o3 --search", "codex -m o3 --search resume ID go"),
        ("codex --model=o3 -C sub -s read-only x", "codex --model=o3 -C sub -s read-only resume ID go"),
        ("codex -mo3 -cx=1 -c y=2 x", "codex -mo3 -cx=1 -c y=2 resume ID go"),
        ("codex -i a.png b.png -- look", "codex resume ID go"),
        ("codex -i a.png -m o3 look", "codex -m o3 resume ID go"),
        ("codex resume --last", "codex resume ID go"),
        ("codex -m o3 resume -s read-only OLD 'more'", "codex -m o3 -s read-only resume ID go"),
        ("codex resume --all --include-non-interactive", "codex resume ID go"),
        ("codex fork OLD 'other way'", "codex resume ID go"),
        ("codex exec 'fix it'", "codex exec resume ID go"),
        ("codex e 'fix it'", "codex e resume ID go"),
        (
            "codex -a never exec --json -C sub -s workspace-write 'fix it'",
            "codex -a never exec --json -C sub -s workspace-write resume ID go",
        ),
        ("codex exec 'fix it' --json -o last.txt", "codex exec --json -o last.txt resume ID go"),
        ("codex exec --skip-git-repo-check resume -m o3 --last 'more'", "codex exec --skip-git-repo-check -m o3 resume ID go"),
        ("codex exec -", "codex exec resume ID go"),
        ("codex --worktree x", "codex resume ID go"),
        ("node /lib/codex.js exec x", "node /lib/codex.js exec resume ID go"),
        ("npx -y @openai/codex exec x", "npx -y @openai/codex exec resume ID go"),
        ("codex --enable a --disable b --add-dir ../x p", "codex --enable a --disable b --add-dir ../x resume ID go"),
        ("codex --from-the-future 7 'fix it'", "codex --from-the-future 7 resume ID go"),
        ("node --max-old-space-size=99 /l/codex.js -mo3 x", "node --max-old-space-size=99 /l/codex.js -mo3 resume ID go"),
        ("codex --from-the-future", "codex --from-the-future resume ID go"),
    ],
)
def test_a_resume_keeps_every_flag_and_drops_the_old_prompt(before: str, after: str) -> None:
    command = line.drop_start(line.parse(words(before)))
    assert list(line.build(command, conversation="ID", prompt="go")) == words(after)


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("codex", None),
        ("codex 'fix it'", "fix it"),
        ("codex -- --odd", "--odd"),
        ("codex -- exec", "exec"),
        ("codex exec 'fix it' --json", "fix it"),
        ("codex exec -", "-"),
        ("codex resume OLD", None),
        ("codex resume OLD 'more'", "more"),
        ("codex resume --last 'more'", "more"),
        ("codex exec resume OLD 'more'", "more"),
        ("codex exec resume --last", None),
    ],
)
def test_the_prompt_is_told_from_ids_values_and_subcommands(text: str, prompt: str | None) -> None:
    assert line.parse(words(text)).prompt == prompt


@pytest.mark.parametrize("text", ["codex login", "codex -m x review", "codex exec review", "codex mcp list", "codex app-server"])
def test_what_carries_no_conversation_is_known_as_such(text: str) -> None:
    command = line.parse(words(text))
    assert command.other is not None
    assert not command.is_interactive


def test_a_prompt_that_looks_like_an_option_stays_a_prompt() -> None:
    built = line.build(line.parse(["codex", "exec", "--", "--odd"]), conversation="ID", prompt="--odd")
    assert built == ("codex", "exec", "resume", "ID", "--", "--odd")


@pytest.mark.parametrize(
    ("text", "sandbox", "approval"),
    [
        ("codex x", None, None),
        ("codex -s read-only x", "read-only", None),
        ("codex --sandbox=workspace-write -a on-request x", "workspace-write", "on-request"),
        ("codex --yolo x", "danger-full-access", "never"),
        ("codex --dangerously-bypass-approvals-and-sandbox -s read-only x", "danger-full-access", "never"),
        ("codex -c sandbox_mode=read-only -c 'approval_policy=\"never\"' x", "read-only", "never"),
        ("codex -c sandbox_mode=danger-full-access -s read-only x", "read-only", None),
        ("codex --full-auto x", "workspace-write", "on-request"),
        ("codex -a never exec -s read-only x", "read-only", "never"),
    ],
)
def test_the_permission_is_read_from_every_way_to_ask_for_it(text: str, sandbox: str | None, approval: str | None) -> None:
    assert line.read_permission(line.parse(words(text))) == Permission(sandbox=sandbox, approval=approval)


@pytest.mark.parametrize(
    ("text", "had", "after"),
    [
        # Nothing is known of what it had: as it was written.
        ("codex --yolo x", Permission(), "codex --yolo resume ID"),
        # It had what the flags say: as it was written.
        ("codex --yolo x", Permission(sandbox="danger-full-access", approval="never"), "codex --yolo resume ID"),
        # The user lowered it inside the session.
        (
            "codex --yolo -m o3 x",
            Permission(sandbox="read-only", approval="on-request"),
            "codex -m o3 -s read-only -c 'approval_policy=\"on-request\"' resume ID",
        ),
        # The user raised it inside the session: the flags hold.
        (
            "codex -s read-only -a on-request x",
            Permission(sandbox="danger-full-access", approval="never"),
            "codex -s read-only -a on-request resume ID",
        ),
        # No flags: pinned, in case the configuration allows more by now.
        (
            "codex x",
            Permission(sandbox="workspace-write", approval="on-request"),
            "codex -s workspace-write -c 'approval_policy=\"on-request\"' resume ID",
        ),
        (
            "codex exec -c sandbox_mode=danger-full-access -c a=1 x",
            Permission(sandbox="read-only", approval="never"),
            "codex exec -c a=1 -s read-only -c 'approval_policy=\"never\"' resume ID",
        ),
    ],
)
def test_a_resume_never_asks_for_more_than_the_session_had(text: str, had: Permission, after: str) -> None:
    command = line.limit_permission(line.parse(words(text)), had)
    assert list(line.build(command, conversation="ID", prompt=None)) == words(after)


@given(
    asked=st.sampled_from([None, *line.SANDBOXES]),
    bypass=st.booleans(),
    had=st.sampled_from([None, "external", *line.SANDBOXES]),
    approval=st.sampled_from([None, *line.APPROVALS]),
    execs=st.booleans(),
)
def test_no_mix_of_flags_raises_the_permission(
    asked: str | None, bypass: bool, had: str | None, approval: str | None, execs: bool
) -> None:
    argv = ["codex", *(["exec"] if execs else []), *(["-s", asked] if asked else []), *(["--yolo"] if bypass else []), "do it"]
    limited = line.limit_permission(line.parse(argv), Permission(sandbox=had, approval=approval))
    again = line.read_permission(line.parse(line.build(limited, conversation="ID", prompt="x")))
    if had in line.SANDBOXES:
        assert again.sandbox is not None
        assert line.SANDBOXES.index(again.sandbox) <= line.SANDBOXES.index(had)
    if approval is not None:
        assert again.approval is not None
        assert line.APPROVALS.index(again.approval) <= line.APPROVALS.index(approval)


@given(st.lists(st.text(max_size=12).filter(lambda word: "\0" not in word), max_size=8))
def test_no_command_line_breaks_the_parser(rest: list[str]) -> None:
    command = line.parse(["codex", *rest])
    line.read_permission(command)
    assert line.build(command, conversation="ID", prompt=None)[0] == "codex"
