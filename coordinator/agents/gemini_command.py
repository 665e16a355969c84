"""Gemini CLI's command line, taken apart and put together again. Pure.

``gemini [OPTIONS] [PROMPT..]`` carries a conversation, every subcommand does not. Tried with 0.61.0, whose parser is yargs:
options may stand anywhere, also in camel case, each takes one value at most, and a flag may be followed by ``true`` or ``false``.

``--resume``, ``--session-id`` and ``--session-file`` exclude one another. A resume takes nothing from the conversation's own
settings: its permission is what flags and settings say *now*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from coordinator.agents.options import Library, Options, Syntax, table
from coordinator.agents.program import Program, split_program

#: npx takes plain "gemini" for another package.
PROGRAM = Program(
    commands=frozenset({"gemini"}), scripts=frozenset({"gemini.js"}), package="@google/gemini-cli", is_known_to_npx=False
)

SYNTAX = Syntax(
    library=Library.YARGS,
    one=table(
        "-m --model -p --prompt -i --prompt-interactive --approval-mode --policy --admin-policy --allowed-mcp-server-names"
        " --allowed-tools -e --extensions --session-file --session-id --include-directories -o --output-format"
    ),
    optional=table("-r --resume -w --worktree --delete-session --fake-responses --fake-responses-non-strict --record-responses"),
    none=table(
        "-d --debug --skip-trust -s --sandbox --no-sandbox -y --yolo --acp --experimental-acp -l --list-extensions"
        " --list-sessions --screen-reader --raw-output --accept-raw-output-risk -h --help -v --version"
    ),
    subcommands=table("mcp extensions extension skills skill hooks hook gemma"),
)
#: With these the program holds no conversation of its own, or only at a client's word.
_WITHOUT_CONVERSATION = (
    "-h", "--help", "-v", "--version", "-l", "--list-extensions", "--list-sessions", "--delete-session", "--acp",
    "--experimental-acp",
)  # fmt: skip
_CHOOSE = frozenset({"-r", "--resume", "--session-id", "--session-file"})
_PROMPTS = frozenset({"-p", "--prompt", "-i", "--prompt-interactive"})
_WORKTREE = frozenset({"-w", "--worktree"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line of Gemini's."""

    #: The program, with its interpreter and the interpreter's options if they were written.
    program: tuple[str, ...]
    options: Options = field(default_factory=Options)
    positionals: tuple[str, ...] = ()
    #: The subcommand that carries no conversation; then nothing else but ``program`` was parsed.
    other: str | None = None

    @property
    def prompt(self) -> str | None:
        """What the user has the agent told first."""
        option = self.options.find(*_PROMPTS)
        if option is not None:
            return option.value
        return " ".join(self.positionals) or None

    @property
    def carries_conversation(self) -> bool:
        return self.other is None and not self.options.has(*_WITHOUT_CONVERSATION)

    @property
    def chooses_conversation(self) -> bool:
        """Whether the user said which conversation it is to be."""
        return self.options.has(*_CHOOSE)

    @property
    def conversation_id(self) -> str | None:
        """The conversation's id, as far as the words tell it."""
        option = self.options.find("--session-id", "-r", "--resume")
        value = option.value if option is not None else None
        if option is None or value is None or (option.name != "--session-id" and (value == "latest" or value.isdecimal())):
            return None
        return value.strip() or None

    def is_interactive(self, environment: Mapping[str, str]) -> bool:
        """Whether the program, on a terminal, goes on after the prompt."""
        if self.options.has("-i", "--prompt-interactive"):
            return True
        in_ci = environment.get("CI") == "true" or environment.get("GITHUB_ACTIONS") == "true"
        return not self.options.has("-p", "--prompt") and not in_ci


def parse(argv: Sequence[str]) -> Command:
    """Take a command line apart. Total: what is not understood ends up as an option or a prompt."""
    program, words = split_program(argv)
    options, alone, rest = SYNTAX.read(words)
    if rest:
        return Command(program=program, other=rest[0])
    return Command(program=program, options=options, positionals=alone)


def add_id(command: Command, argv: Sequence[str], id: str) -> tuple[str, ...]:
    """Return ``argv``, which ``command`` was read from, with the word which conversation it is to begin."""
    count = len(command.program)
    return (*argv[:count], "--session-id", id, *argv[count:])


def build(command: Command, choice: tuple[str, str], *, prompt: str | None, interactive: bool) -> tuple[str, ...]:
    """Return the command line with another conversation and another prompt.

    ``choice`` is ``("--resume", ID)`` or ``("--session-id", ID)``. Every other option is kept.
    """
    argv = [*command.program, *choice, *command.options.without(_CHOOSE | _PROMPTS).words]
    if prompt is not None:
        short, long = ("-i", "--prompt-interactive") if interactive else ("-p", "--prompt")
        argv += [f"{long}={prompt}"] if prompt.startswith("-") else [short, prompt]
    return tuple(argv)


def without_worktree(command: Command) -> Command:
    """Return the command without the wish for a new worktree, which would not be made twice."""
    return replace(command, options=command.options.without(_WORKTREE))


def read_approval_mode(command: Command) -> str | None:
    """Return ``plan``, ``default``, ``auto_edit`` or ``yolo``, ``None`` if the flags leave it to the settings."""
    mode = command.options.find("--approval-mode")
    if mode is not None:
        return mode.value
    yolo = command.options.find("-y", "--yolo")
    return "yolo" if yolo is not None and yolo.value != "false" else None
