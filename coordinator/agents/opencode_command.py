"""OpenCode's command line, taken apart and put together again. Pure.

``opencode [OPTIONS] [PROJECT]`` (interactive) and ``opencode run [OPTIONS] [WORD...]`` carry a conversation; every other
subcommand does not, nor does ``run --attach``, whose conversation is another program's.

Tried with 1.18.33: ``run`` joins its words with spaces, each that holds a space in quotation marks. ``-s ID --prompt P`` sends
the prompt only in the minimal interface (``--mini``); the full one leaves it out. ``-f`` takes every word up to the next
option. ``--auto`` has two other names, and like every switch it may be followed by ``true`` or ``false``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coordinator.agents.options import Library, Options, Syntax, table
from coordinator.agents.program import Program, split_program

PROGRAM = Program(commands=table("opencode opencode.exe"), package="opencode-ai")

_RUN = "run"
SYNTAX = Syntax(
    library=Library.YARGS,
    one=table(
        "--log-level --port --hostname --mdns-domain -m --model -s --session --prompt --agent --replay-limit --command --format"
        " --title --attach -p --password -u --username --dir --variant"
    ),
    several=table("-f --file --cors"),
    none=table(
        "-h --help -v --version --print-logs --pure --mdns --no-mdns -c --continue --fork --auto --yolo"
        " --dangerously-skip-permissions --mini --replay --no-replay --demo --share --thinking -i --interactive"
    ),
    subcommands=table(
        "run completion acp mcp attach debug providers auth agent upgrade uninstall serve web models stats export import github"
        " pr session plugin plug db help"
    ),
)
_AUTO = table("--auto --yolo --dangerously-skip-permissions")
#: Choose a conversation.
_CHOICE = table("-c --continue -s --session --fork")
#: Belong to the first prompt or to the choice of a conversation, not to how the agent works.
_OF_THE_START = _CHOICE | table("-f --file --prompt --command")


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
    options: Options = field(default_factory=Options)
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
        return self.options.find_value("-s", "--session")

    @property
    def continues(self) -> bool:
        """Whether it begins with what was said before."""
        return self.has(*_CHOICE)

    def has(self, *names: str) -> bool:
        """Tell whether one of the options stands there and is not switched off."""
        return any(option.name in names and option.value != "false" for option in self.options)


def parse(argv: Sequence[str]) -> Command:
    """Take a command line apart. Total: what is not understood ends up as an option or a word of the prompt."""
    program, words = split_program(argv)
    options, alone, rest = SYNTAX.read(words)
    if not rest:
        prompt = options.find_value("--prompt")
        project = alone[0] if alone else None
        return Command(program=program, options=options, project=project, words=() if prompt is None else (prompt,))
    if rest[0] != _RUN:
        return Command(program=program, other=rest[0])
    more, alone, _ = SYNTAX.read(rest[1:], stop_at=frozenset())
    command = Command(program=program, is_run=True, options=options + more, words=alone)
    return Command(program=program, other=_RUN) if command.has("--attach") else command


def build(command: Command, *, conversation: str, words: Sequence[str]) -> tuple[str, ...]:
    """Return the command line that goes on with ``conversation``, saying ``words`` where that is possible."""
    argv = [*command.program]
    if command.is_run:
        argv.append(_RUN)
    elif command.project is not None:
        argv.append(command.project)
    argv += [*command.options.without(_CHOICE | {"--prompt"}).words, "-s", conversation]
    if not words or not command.can_say:
        return tuple(argv)
    if command.is_run:
        return (*argv, *(["--"] if any(word.startswith("-") for word in words) else []), *words)
    return (*argv, f"--prompt={words[0]}" if words[0].startswith("-") else "--prompt", *words[words[0].startswith("-") :])


def drop_start(command: Command) -> Command:
    """Return the command without the options that only belonged to its first start."""
    return replace(command, options=command.options.without(_OF_THE_START))


def read_permission(command: Command) -> Permission:
    """Return what the options ask for."""
    return Permission(agent=command.options.find_value("--agent"), auto=command.has(*_AUTO))


def limit_permission(command: Command, had_agent: str | None) -> Command:
    """Return the command so that it asks for no more than the conversation had when it ended.

    ``had_agent`` is the OpenCode agent of its last turn. It is pinned where no flag names one, since the configuration may
    have changed; ``plan``, which may only read, is never replaced by another. What a flag asked for beyond that stays.
    """
    asked = command.options.find_value("--agent")
    if had_agent is None or asked == had_agent or (asked is not None and had_agent != "plan"):
        return command
    return replace(command, options=command.options.without({"--agent"}).plus("--agent", had_agent))
