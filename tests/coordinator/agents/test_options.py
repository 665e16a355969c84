"""Options cut out of words: what each parsing library takes for a value, and that nothing is lost when they are written again."""

from __future__ import annotations

import shlex

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from coordinator.agents import claude_command, codex_command, gemini_command, opencode_command
from coordinator.agents.options import Library, Options, Syntax, table

Read = list[tuple[str, str | None]]


def make_syntax(library: Library) -> Syntax:
    return Syntax(
        library=library,
        one=table("-m --model -s --log-level"),
        optional=table("-r --resume"),
        several=table("-f --file"),
        none=table("-y --yes -v"),
        subcommands=table("exec list"),
    )


def read(library: Library, text: str) -> tuple[Read, tuple[str, ...]]:
    options, alone, _ = make_syntax(library).read(shlex.split(text))
    return [(option.name, option.value) for option in options], alone


@pytest.mark.parametrize("library", Library)
@pytest.mark.parametrize(
    ("text", "options", "alone"),
    [
        ("--model x go", [("--model", "x")], ("go",)),
        ("--model=x=y", [("--model", "x=y")], ()),
        ("-m --odd go", [("-m", "--odd")], ("go",)),
        ("-m", [("-m", None)], ()),
        ("-r ID go", [("-r", "ID")], ("go",)),
        ("-r -y go", [("-r", None), ("-y", None)], ("go",)),
        ("-f a b -y go", [("-f", None), ("-y", None)], ("go",)),
        ("-f a -- go", [("-f", None)], ("go",)),
        ("-yv go", [("-y", None), ("-v", None)], ("go",)),
        ("-y -0- go", [("-y", None), ("-0-", None)], ("go",)),
        ("go - -y -- -v", [("-y", None)], ("go", "-", "-v")),
        ("--yes go", [("--yes", None)], ("go",)),
        ("--future 7 go", [("--future", "7")], ("go",)),
        ("--future go", [("--future", None)], ("go",)),
        ("--future list x", [("--future", None)], ()),
    ],
)
def test_every_library_reads_alike(library: Library, text: str, options: Read, alone: tuple[str, ...]) -> None:
    assert read(library, text) == (options, alone)


@pytest.mark.parametrize(
    ("library", "text", "options"),
    [
        (Library.COMMANDER, "-mo3 -m=o3", [("-m", "o3"), ("-m", "=o3")]),
        (Library.CLAP, "-mo3 -m=o3", [("-m", "o3"), ("-m", "o3")]),
        (Library.YARGS, "-m=o3 -mr ID", [("-m", "o3"), ("-m", None), ("-r", "ID")]),
        (Library.COMMANDER, "-yrID", [("-y", None), ("-r", "ID")]),
        (Library.CLAP, "-yfa b", [("-y", None), ("-f", "a")]),
        (Library.COMMANDER, "-ym x", [("-y", None), ("-m", "x")]),
        (Library.YARGS, "--logLevel x --yes false -v true", [("--log-level", "x"), ("--yes", "false"), ("-v", "true")]),
        (Library.CLAP, "--logLevel x --yes false", [("--logLevel", "x"), ("--yes", None)]),
        (Library.COMMANDER, "-0=", [("-0=", None)]),
        (Library.CLAP, "-0=", [("-0", "")]),
    ],
)
def test_each_library_reads_letters_and_switches_its_own_way(library: Library, text: str, options: Read) -> None:
    assert read(library, text)[0] == options


def test_a_first_subcommand_ends_the_reading_and_a_later_word_does_not() -> None:
    syntax = make_syntax(Library.CLAP)
    options, alone, rest = syntax.read(["-m", "exec", "exec", "-y", "list"])
    assert (options.words, alone, rest) == (("-m", "exec"), (), ("exec", "-y", "list"))
    assert syntax.read(["go", "exec"])[1:] == (("go", "exec"), ())
    assert syntax.read(["--", "exec"])[1:] == (("exec",), ())
    assert syntax.read(["exec", "list"], stop_at=table("list"))[1:] == (("exec", "list"), ())


def test_options_are_looked_up_dropped_and_added() -> None:
    options, _, _ = make_syntax(Library.CLAP).read(["-m", "a", "-y", "--model=b"])
    assert options.has("-x", "-y")
    assert not options.has("-x")
    assert options.find_value("-m", "--model") == "b"
    assert options.find("-x") is None
    assert options.without({"-m", "--model"}).plus("-s", "c").plus("-v").words == ("-y", "-s", "c", "-v")
    assert (options + Options().plus("-v")).words == ("-m", "a", "-y", "--model=b", "-v")


SYNTAXES = [module.SYNTAX for module in (claude_command, codex_command, gemini_command, opencode_command)]
KNOWN = sorted(frozenset().union(*(s.one | s.optional | s.several | (s.none or frozenset()) | s.subcommands for s in SYNTAXES)))
WORDS = st.sampled_from([*KNOWN, "x", "-yp", "true", "-", "--future", "-0-", "--outputFormat=a=b"]) | st.text(max_size=8)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=["claude", "codex", "gemini", "opencode"])
@given(words=st.lists(WORDS, max_size=8))
@example(words=["-0="])
@example(words=["-0-"])
def test_any_words_are_read_and_what_was_read_is_read_again(syntax: Syntax, words: list[str]) -> None:
    options, alone, rest = syntax.read(words)
    assume(not any(option.value is None and option.name in syntax.one for option in options))  # the program refuses that
    assert syntax.read([*options.words, "--", *alone]) == (options, alone, ())
    again, _, inner = syntax.read([*options.words, *rest])
    assert not rest or (again, inner) == (options, rest)
