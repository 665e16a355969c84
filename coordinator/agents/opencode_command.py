"""OpenCode's command line, taken apart and put together again. Pure.

``opencode [OPTIONS] [PROJECT]`` (interactive) and ``opencode run [OPTIONS] [WORD...]`` carry a conversation; every other
subcommand does not, nor does ``run --attach``, whose conversation is another program's.

Tried with 1.18.33: ``run`` joins its words with spaces, each that holds a space in quotation marks. ``-s ID --prompt P`` sends
the prompt only in the minimal interface (``--mini``); the full one leaves it out. ``-f`` takes every word up to the next
option. ``--auto`` has two other names, and like every switch it may be followed by ``true`` or ``false``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace


def _table(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: Options that take one value.
_WITH_VALUE = _table(
    "--log-level --port --hostname --mdns-domain -m --model -s --session --prompt --agent --replay-limit --command --format"
    " --title --attach -p --password -u --username --dir --variant"
)
#: Options that take every value up to the next option.
_WITH_VALUES = _table("-f --file --cors")
#: Switches. What stands in none of the three tables is of another version: see ``_read_option``.
_PLAIN = _table(
    "-h --help -v --version --print-logs --pure --mdns --no-mdns -c --continue --fork --auto --yolo"
    " --dangerously-skip-permissions --mini --replay --no-replay --demo --share --thinking -i --interactive"
)
_RUN = "run"
#: Subcommands without a conversation of their own.
_OTHERS = _table(
    "completion acp mcp attach debug providers auth agent upgrade uninstall serve web models stats export import github pr"
    " session plugin plug db help"
)
_AUTO = _table("--auto --yolo --dangerously-skip-permissions")
#: Choose a conversation.
_CHOICE = _table("-c --continue -s --session --fork")
#: Belong to the first prompt or to the choice of a conversation, not to how the agent works.
_OF_THE_START = _CHOICE | _table("-f --file --prompt --command")
_PACKAGE = "opencode-ai"
_PROGRAMS = _table("opencode opencode.exe")


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option as it was written."""

    #: ``--model`` for both ``--model x`` and ``--model=x``.
    name: str
    value: str | None
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Permission:
    """What the flags ask for; nothing else of the permission stands on the command line."""

    #: The OpenCode agent ("build", "plan"), each with rules of its own; ``None`` if the configuration chooses.
    agent: str | None = None
    #: Whether what is not forbidden is allowed without asking.
    auto: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line of OpenCode's."""

    #: The program, with its interpreter if one was written.
    program: tuple[str, ...]
    #: Whether it is ``run``; else it is the interactive program.
    is_run: bool = False
    options: tuple[Option, ...] = ()
    #: The directory that the interactive program is to work in.
    project: str | None = None
    #: What is to be said: the words after ``run``, or the value of ``--prompt``.
    words: tuple[str, ...] = ()
    #: The subcommand that carries no conversation; then nothing else but ``program`` was parsed.
    other: str | None = None

    @property
    def is_interactive(self) -> bool:
        return not self.is_run and self.other is None

    @property
    def can_say(self) -> bool:
        """Whether words on the command line are sent when it goes on with a conversation."""
        return self.is_run or self.has("--mini")

    @property
    def text(self) -> str:
        """What the conversation holds once the words were said."""
        if not self.is_run:
            return " ".join(self.words)
        quoted = ['"' + word.replace('"', '\\"') + '"' if " " in word else word for word in self.words]
        return " ".join(quoted)

    @property
    def conversation(self) -> str | None:
        """The conversation that the command itself goes on with; ``None`` if it does not name one or branches off it."""
        if self.other is not None or self.has("--fork"):
            return None
        return next((option.value for option in reversed(self.options) if option.name in ("-s", "--session")), None)

    @property
    def continues(self) -> bool:
        """Whether it begins with what was said before."""
        return self.has(*_CHOICE)

    def has(self, *names: str) -> bool:
        """Tell whether one of the options stands there and is not switched off."""
        return any(option.name in names and option.value != "false" for option in self.options)

    def find_value(self, name: str) -> str | None:
        """Return what the option was given last, ``None`` if it is not there."""
        return next((option.value for option in reversed(self.options) if option.name == name), None)


def split_program(argv: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words that name the program and the rest: ``opencode``, ``node .../opencode``, ``npx [-y] PACKAGE``."""
    name = os.path.basename(argv[0]) if argv else ""
    if name in ("node", "nodejs", "bun") and len(argv) > 1:
        return tuple(argv[:2]), tuple(argv[2:])
    if name in ("npx", "bunx"):
        at = 1
        while at < len(argv) and argv[at].startswith("-"):
            at += 2 if argv[at] in ("-p", "--package") else 1
        return tuple(argv[: at + 1]), tuple(argv[at + 1 :])
    return tuple(argv[:1]), tuple(argv[1:])


def starts_opencode(argv: Sequence[str]) -> bool:
    """Tell from the words alone whether they start OpenCode."""
    program, _ = split_program(argv)
    if not program:
        return False
    name = os.path.basename(program[-1])
    if os.path.basename(program[0]) in ("npx", "bunx"):
        return len(program) > 1 and program[-1].partition("@")[0] in (_PACKAGE, "opencode")
    return name in _PROGRAMS


def parse(argv: Sequence[str]) -> Command:
    """Take a command line apart. Total: what is not understood ends up as an option or a word of the prompt."""
    program, words = split_program(argv)
    options, positionals, after = _parse_words(words)
    if positionals[:1] == (_RUN,):
        command = Command(program=program, is_run=True, options=options, words=(*positionals[1:], *after))
        return Command(program=program, other=_RUN) if command.has("--attach") else command
    if positionals and positionals[0] in _OTHERS:
        return Command(program=program, other=positionals[0])
    prompts = [option.value for option in options if option.name == "--prompt" and option.value is not None]
    return Command(program=program, options=options, project=positionals[0] if positionals else None, words=tuple(prompts[-1:]))


def build(command: Command, *, conversation: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return the command line that goes on with ``conversation``, saying ``words`` where that is possible."""
    argv = [*command.program]
    if command.is_run:
        argv.append(_RUN)
    elif command.project is not None:
        argv.append(command.project)
    argv += [word for option in command.options if option.name not in _CHOICE | {"--prompt"} for word in option.words]
    argv += ["-s", conversation]
    if not words or not command.can_say:
        return tuple(argv)
    if command.is_run:
        return (*argv, *(["--"] if any(word.startswith("-") for word in words) else []), *words)
    return (*argv, f"--prompt={words[0]}" if words[0].startswith("-") else "--prompt", *words[words[0].startswith("-") :])


def drop_start(command: Command) -> Command:
    """Return the command without the options that only belonged to its first start."""
    return replace(command, options=tuple(option for option in command.options if option.name not in _OF_THE_START))


def read_permission(command: Command) -> Permission:
    """Return what the options ask for."""
    return Permission(agent=command.find_value("--agent"), auto=command.has(*_AUTO))


def limit_permission(command: Command, had_agent: str | None) -> Command:
    """Return the command so that it asks for no more than the conversation had when it ended.

    ``had_agent`` is the OpenCode agent of its last turn. It is pinned where no flag names one, since the configuration may
    have changed; ``plan``, which may only read, is never replaced by another. What a flag asked for beyond that stays.
    """
    asked = command.find_value("--agent")
    if had_agent is None or asked == had_agent or (asked is not None and had_agent != "plan"):
        return command
    kept = tuple(option for option in command.options if option.name != "--agent")
    return replace(command, options=(*kept, Option(name="--agent", value=had_agent, words=("--agent", had_agent))))


def _parse_words(words: Sequence[str]) -> tuple[tuple[Option, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the options, the positionals before ``--``, and what stands after it."""
    options: list[Option] = []
    positionals: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return tuple(options), tuple(positionals), tuple(words[at + 1 :])
        if not word.startswith("-") or word == "-":
            positionals.append(word)
            at += 1
            continue
        options.append(_read_option(words, at))
        at += len(options[-1].words)
    return tuple(options), tuple(positionals), ()


def _read_option(words: Sequence[str], at: int) -> Option:
    word = words[at]
    name, equals, value = word.partition("=")
    if equals:
        return Option(name=name, value=value, words=(word,))
    following = words[at + 1 : at + 2]
    if name in _WITH_VALUES:
        end = at + 1
        while end < len(words) and not words[end].startswith("-"):
            end += 1
        return Option(name=name, value=None, words=tuple(words[at:end]))
    if name in _WITH_VALUE:
        return Option(name=name, value=following[0] if following else None, words=tuple(words[at : at + 2]))
    if following and following[0] in ("true", "false"):
        return Option(name=name, value=following[0], words=tuple(words[at : at + 2]))
    if name in _PLAIN or not name.startswith("--"):
        return Option(name=name, value=None, words=(word,))
    # Unknown: of another version. The word after it is its value unless it would have to be the prompt.
    if len(words) > at + 2 and not following[0].startswith("-") and following[0] not in _OTHERS | {_RUN}:
        return Option(name=name, value=following[0], words=tuple(words[at : at + 2]))
    return Option(name=name, value=None, words=(word,))
