"""Gemini CLI's command line, taken apart and put together again. Pure.

``gemini [OPTIONS] [PROMPT..]`` carries a conversation, every subcommand does not. Tried with 0.61.0, whose parser is yargs:
options may stand anywhere, also in camel case, each takes one value at most, and a flag may be followed by ``true`` or ``false``.

``--resume``, ``--session-id`` and ``--session-file`` exclude one another. A resume takes nothing from the conversation's own
settings: its permission is what flags and settings say *now*.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


def _table(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: Options that take one value, whatever it begins with.
_WITH_VALUE = _table(
    "-m --model -p --prompt -i --prompt-interactive --approval-mode --policy --admin-policy --allowed-mcp-server-names"
    " --allowed-tools -e --extensions --session-file --session-id --include-directories -o --output-format"
)
#: Options that take the next word unless it begins with a dash.
_WITH_OPTIONAL_VALUE = _table(
    "-r --resume -w --worktree --delete-session --fake-responses --fake-responses-non-strict --record-responses"
)
#: Flags. What stands in none of the three tables is of another version: see ``_read_option``.
_PLAIN = _table(
    "-d --debug --skip-trust -s --sandbox --no-sandbox -y --yolo --acp --experimental-acp -l --list-extensions"
    " --list-sessions --screen-reader --raw-output --accept-raw-output-risk -h --help -v --version"
)
_SUBCOMMANDS = _table("mcp extensions extension skills skill hooks hook gemma")
#: With these the program holds no conversation of its own, or only at a client's word.
_WITHOUT_CONVERSATION = (
    "-h", "--help", "-v", "--version", "-l", "--list-extensions", "--list-sessions", "--delete-session", "--acp",
    "--experimental-acp",
)  # fmt: skip
_CHOOSE = frozenset({"-r", "--resume", "--session-id", "--session-file"})
_PROMPTS = frozenset({"-p", "--prompt", "-i", "--prompt-interactive"})
_WORKTREE = frozenset({"-w", "--worktree"})

_PACKAGE = re.compile(r"@google/gemini-cli(@[^/]+)?$")
#: Node's own options that take the next word as their value.
_NODE_WITH_VALUE = _table("-r --require --import --loader --experimental-loader -C --conditions --env-file --title")
#: With these it runs what follows them rather than a script.
_NODE_WITHOUT_SCRIPT = _table("-e --eval -p --print -pe -i --interactive")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option as it was written."""

    #: ``--model`` for both ``--model x`` and ``--model=x``; ``--approval-mode`` also for ``--approvalMode``.
    name: str
    value: str | None
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line of Gemini's."""

    #: The program, with its interpreter and the interpreter's options if they were written.
    program: tuple[str, ...]
    options: tuple[Option, ...] = ()
    positionals: tuple[str, ...] = ()
    #: The subcommand that carries no conversation; then nothing else but ``program`` was parsed.
    other: str | None = None

    def has(self, *names: str) -> bool:
        """Tell whether one of the options stands anywhere."""
        return any(option.name in names for option in self.options)

    def find(self, *names: str) -> Option | None:
        """Return the last of the options."""
        return next((option for option in reversed(self.options) if option.name in names), None)

    @property
    def prompt(self) -> str | None:
        """What the user has the agent told first."""
        option = self.find(*_PROMPTS)
        if option is not None:
            return option.value
        return " ".join(self.positionals) or None

    @property
    def carries_conversation(self) -> bool:
        return self.other is None and not self.has(*_WITHOUT_CONVERSATION)

    @property
    def chooses_conversation(self) -> bool:
        """Whether the user said which conversation it is to be."""
        return any(option.name in _CHOOSE for option in self.options)

    @property
    def conversation_id(self) -> str | None:
        """The conversation's id, as far as the words tell it."""
        option = self.find("--session-id", "-r", "--resume")
        value = option.value if option is not None else None
        if option is None or value is None or (option.name != "--session-id" and (value == "latest" or value.isdecimal())):
            return None
        return value.strip() or None

    def is_interactive(self, environment: Mapping[str, str]) -> bool:
        """Whether the program, on a terminal, goes on after the prompt."""
        if self.has("-i", "--prompt-interactive"):
            return True
        in_ci = environment.get("CI") == "true" or environment.get("GITHUB_ACTIONS") == "true"
        return not self.has("-p", "--prompt") and not in_ci


def split_program(argv: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words that name the program and the rest: ``gemini``, ``node [OPTIONS] .../gemini.js``, ``npx [-y] PACKAGE``."""
    name = os.path.basename(argv[0]) if argv else ""
    if name in ("node", "nodejs", "bun"):
        end = _find_word(argv, _NODE_WITH_VALUE) + 1
    elif name in ("npx", "bunx"):
        end = _find_word(argv, frozenset({"-p", "--package", "-c", "--call"})) + 1
    else:
        end = 1
    return tuple(argv[:end]), tuple(argv[end:])


def starts_gemini(argv: Sequence[str]) -> bool:
    """Tell from the words alone whether they start Gemini CLI."""
    program, _ = split_program(argv)
    if not program:
        return False
    if len(program) == 1:
        return os.path.basename(program[0]) == "gemini"
    if os.path.basename(program[0]) in ("npx", "bunx"):  # their plain "gemini" is another package
        return any(_PACKAGE.match(word.removeprefix("--package=")) for word in program[1:])
    return is_script(program[-1]) and _NODE_WITHOUT_SCRIPT.isdisjoint(program)


def is_script(path: str) -> bool:
    """Tell whether a path for Node's is that of the program."""
    return os.path.basename(path) in ("gemini", "gemini.js") or "/@google/gemini-cli/" in path


def parse(argv: Sequence[str]) -> Command:
    """Take a command line apart. Total: what is not understood ends up as an option or a prompt."""
    program, words = split_program(argv)
    options: list[Option] = []
    positionals: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            positionals += words[at + 1 :]
            break
        if not word.startswith("-") or word == "-":
            if not positionals and word in _SUBCOMMANDS:
                return Command(program=program, other=word)
            positionals.append(word)
            at += 1
            continue
        if re.fullmatch("-[a-zA-Z]{2,}", word):  # -yp PROMPT: each letter an option, and the last may take a value
            options += (Option(name=f"-{letter}", value=None, words=(f"-{letter}",)) for letter in word[1:-1])
            words = (*words[:at], f"-{word[-1]}", *words[at + 1 :])
        option = _read_option(words, at)
        options.append(option)
        at += len(option.words)
    return Command(program=program, options=tuple(options), positionals=tuple(positionals))


def add_id(command: Command, argv: Sequence[str], id: str) -> tuple[str, ...]:
    """Return ``argv``, which ``command`` was read from, with the word which conversation it is to begin."""
    count = len(command.program)
    return (*argv[:count], "--session-id", id, *argv[count:])


def build(command: Command, choice: tuple[str, str], *, prompt: str | None, interactive: bool) -> tuple[str, ...]:
    """Return the command line with another conversation and another prompt.

    ``choice`` is ``("--resume", ID)`` or ``("--session-id", ID)``. Every other option is kept.
    """
    argv = [*command.program, *choice]
    for option in command.options:
        if option.name not in _CHOOSE | _PROMPTS:
            argv += option.words
    if prompt is not None:
        short, long = ("-i", "--prompt-interactive") if interactive else ("-p", "--prompt")
        argv += [f"{long}={prompt}"] if prompt.startswith("-") else [short, prompt]
    return tuple(argv)


def without_worktree(command: Command) -> Command:
    """Return the command without the wish for a new worktree, which would not be made twice."""
    kept = tuple(option for option in command.options if option.name not in _WORKTREE)
    return Command(program=command.program, options=kept, positionals=command.positionals, other=command.other)


def read_approval_mode(command: Command) -> str | None:
    """Return ``plan``, ``default``, ``auto_edit`` or ``yolo``, ``None`` if the flags leave it to the settings."""
    mode = command.find("--approval-mode")
    if mode is not None:
        return mode.value
    yolo = command.find("-y", "--yolo")
    return "yolo" if yolo is not None and yolo.value != "false" else None


def _find_word(argv: Sequence[str], with_value: frozenset[str]) -> int:
    """Return the index of the first word after the program's name that is neither an option nor the value of one."""
    at = 1
    while at < len(argv) and argv[at].startswith("-"):
        at += 2 if argv[at] in with_value else 1
    return min(at, len(argv) - 1)


def _read_option(words: Sequence[str], at: int) -> Option:
    word = words[at]
    name, equals, value = word.partition("=")
    name = _CAMEL.sub("-", name).lower() if name.startswith("--") else name
    if equals:
        return Option(name=name, value=value, words=(word,))
    following = words[at + 1] if at + 1 < len(words) else None
    takes = following is not None and (
        name in _WITH_VALUE
        or (name in _WITH_OPTIONAL_VALUE and not following.startswith("-"))
        or (name in _PLAIN and following in ("true", "false"))
        or (name not in _PLAIN and name.startswith("--") and not following.startswith("-") and at + 2 < len(words))
    )  # an unknown option is of another version: the word after it is its value unless it would have to be the prompt
    if takes:
        return Option(name=name, value=following, words=(word, words[at + 1]))
    return Option(name=name, value=None, words=(word,))
