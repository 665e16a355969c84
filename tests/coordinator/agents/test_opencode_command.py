"""OpenCode's command line taken apart and put together: every flag kept, the old prompt dropped, never more permission."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.agents import opencode_command as line
from coordinator.agents.opencode_command import Permission


def words(text: str) -> list[str]:
    return shlex.split(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("opencode run 'fix it'", "opencode run -s ID go"),
        ("opencode run fix the bug", "opencode run -s ID go"),
        ("opencode run -m p/m --format json 'fix it'", "opencode run -m p/m --format json -s ID go"),
        ("opencode run 'fix it' -m p/m --auto", "opencode run -m p/m --auto -s ID go"),
        ("opencode run --model=p/m --agent plan --variant hi x", "opencode run --model=p/m --agent plan --variant hi -s ID go"),
        ("opencode run look -f a.png b.png --thinking", "opencode run --thinking -s ID go"),
        ("opencode run --file a.png -- look", "opencode run -s ID go"),
        ("opencode run -c more", "opencode run -s ID go"),
        ("opencode run -s OLD --fork more", "opencode run -s ID go"),
        ("opencode run --session=OLD more", "opencode run -s ID go"),
        ("opencode run --command review --title mine src", "opencode run --title mine -s ID go"),
        ("opencode run --dir sub --port 7 --print-logs --log-level DEBUG x",
         "opencode run --dir sub --port 7 --print-logs --log-level DEBUG -s ID go"),
        ("opencode run --auto false x", "opencode run --auto false -s ID go"),
        ("opencode", "opencode -s ID"),
        ("opencode --prompt 'fix it'", "opencode -s ID"),
        ("opencode sub --prompt 'fix it' -m p/m --agent plan", "opencode sub -m p/m --agent plan -s ID"),
        ("opencode -c", "opencode -s ID"),
        ("opencode --mini --prompt 'fix it'", "opencode --mini -s ID --prompt go"),
        ("opencode --port 7 --mdns --cors a b --hostname h", "opencode --port 7 --mdns --cors a b --hostname h -s ID"),
        ("node /lib/opencode run x", "node /lib/opencode run -s ID go"),
        ("npx -y opencode-ai@1.18.33 run x", "npx -y opencode-ai@1.18.33 run -s ID go"),
        ("opencode run --from-the-future 7 'fix it'", "opencode run --from-the-future 7 -s ID go"),
        ("opencode run --logLevel DEBUG -ci more", "opencode run --logLevel DEBUG -i -s ID go"),
        ("opencode run --from-the-future", "opencode run --from-the-future -s ID go"),
    ],
)  # fmt: skip
def test_a_resume_keeps_every_flag_and_drops_the_old_prompt(before: str, after: str) -> None:
    command = line.drop_start(line.parse(words(before)))
    assert list(line.build(command, conversation="ID", words=["go"])) == words(after)


def test_a_prompt_that_was_not_heard_is_said_again_with_its_files() -> None:
    command = line.parse(words("opencode run -c -f a.png --command review --pure -- --odd 'two words'"))
    built = line.build(command, conversation="ID", words=command.words)
    assert list(built) == words("opencode run -f a.png --command review --pure -s ID -- --odd 'two words'")
    mini = line.parse(words("opencode --mini --prompt=--odd"))
    assert list(line.build(mini, conversation="ID", words=mini.words)) == words("opencode --mini -s ID --prompt=--odd")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("opencode run fix it", "fix it"),
        ("opencode run 'fix it' now", '"fix it" now'),
        ("""opencode run 'say "no"'""", '"say \\"no\\""'),
        ("opencode run -- --odd", "--odd"),
        ("opencode run -m run fix", "fix"),
        ("opencode --prompt 'fix it'", "fix it"),
        ("opencode run", ""),
        ("opencode sub", ""),
    ],
)
def test_what_is_said_is_told_from_values_and_subcommands(text: str, said: str) -> None:
    assert line.parse(words(text)).text == said


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("opencode -s ses_1", "ses_1"),
        ("opencode run --session=ses_1 more", "ses_1"),
        ("opencode -s ses_1 --fork", None),
        ("opencode -c", None),
        ("opencode run x", None),
    ],
)
def test_a_command_may_name_its_conversation(text: str, chosen: str | None) -> None:
    assert line.parse(words(text)).conversation == chosen


@pytest.mark.parametrize(
    "text", ["opencode serve", "opencode auth login", "opencode run --attach http://h x", "opencode acp", "opencode --pure web"]
)
def test_what_carries_no_conversation_is_known_as_such(text: str) -> None:
    command = line.parse(words(text))
    assert command.other is not None
    assert not command.is_interactive
    assert not command.can_say


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("opencode run x", Permission()),
        ("opencode run --agent plan x", Permission(agent="plan")),
        ("opencode run --agent plan --agent=build x", Permission(agent="build")),
        ("opencode --auto", Permission(auto=True)),
        ("opencode --yolo --prompt x", Permission(auto=True)),
        ("opencode run --dangerously-skip-permissions x", Permission(auto=True)),
        ("opencode run --auto=false x", Permission()),
        ("opencode run --auto false x", Permission()),
    ],
)
def test_the_permission_is_read_from_every_way_to_ask_for_it(text: str, asked: Permission) -> None:
    assert line.read_permission(line.parse(words(text))) == asked


@given(
    asked=st.sampled_from([None, "plan", "build", "mine"]),
    had=st.sampled_from([None, "plan", "build", "mine"]),
    auto=st.sampled_from(["", "--auto", "--yolo", "--auto=false"]),
    runs=st.booleans(),
)
def test_no_resume_raises_the_permission(asked: str | None, had: str | None, auto: str, runs: bool) -> None:
    flags = [*([f"--agent={asked}"] if asked else []), *([auto] if auto else [])]
    command = line.parse(["opencode", *(["run"] if runs else []), *flags])
    after = line.read_permission(line.parse(line.build(line.limit_permission(command, had), conversation="ID", words=())))
    assert after.auto == line.read_permission(command).auto
    assert after.agent in (asked, had)
    if had == "plan":
        assert after.agent == "plan"
    elif asked is not None:
        assert after.agent == asked


@given(st.lists(st.sampled_from(words("opencode run -s -f -- --fork --auto true x '' - -- --prompt=y -m serve")), max_size=8))
def test_no_command_line_is_too_odd(argv: list[str]) -> None:
    command = line.parse(argv)
    line.read_permission(command)
    line.build(line.drop_start(command), conversation="ID", words=["go"])
