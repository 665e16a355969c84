"""Claude Code's command line, taken apart and put together again. Pure.

``claude [OPTIONS] [PROMPT]`` carries a conversation: with ``-p`` it answers once and ends, without it is interactive. Options
and prompt may stand in any order. ``claude SUBCOMMAND ...`` carries none.

Tried with 2.1.197: ``--resume ID`` takes every option that a first start takes, but ``--session-id``; it takes its permission
from flags and settings as they are *now*, and looks for the conversation among those of the directory it is started in. Options
that take several values swallow a prompt that stands behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coordinator.agents.options import Library, Options, Syntax, table
from coordinator.agents.program import Program, split_program

PROGRAM = Program(commands=table("claude claude.exe"), package="@anthropic-ai/claude-code")

SYNTAX = Syntax(
    library=Library.COMMANDER,
    one=table(
        "--advisor --agent --agents --append-system-prompt --append-system-prompt-file --debug-file --effort --fallback-model"
        " --input-format --json-schema --managed-settings --max-budget-usd --max-thinking-tokens --max-turns --model -n --name"
        " --output-format --permission-mode --permission-prompt-tool --plan-mode-instructions --plugin-dir --plugin-dir-no-mcp"
        " --plugin-url --prefill --remote-control-session-name-prefix --resume-session-at --rewind-files --sdk-url --session-id"
        " --setting-sources --settings --system-prompt --system-prompt-file --task-budget --teammate-mode --thinking"
        " --thinking-display --workload"
    ),
    optional=table(
        "--cloud -d --debug --from-pr --prompt-suggestions --rc --remote --remote-control -r --resume --teleport -w --worktree"
    ),
    several=table(
        "--add-dir --allowedTools --allowed-tools --betas --channels --dangerously-load-development-channels --disallowedTools"
        " --disallowed-tools --file --mcp-config --tools"
    ),
    subcommands=table(
        "agents attach auth auto-mode daemon doctor gateway install logs mcp plugin plugins project rc remote-control respawn rm"
        " setup-token stop ultrareview update upgrade"
    ),
)
#: Belong to the first prompt or to the choice of a conversation, not to how the agent works.
_OF_THE_START = table(
    "-c --continue --file --fork-session --from-pr --prefill -r --resume --resume-session-at --session-id --teleport -w"
    " --worktree"
)
#: With one of these the conversation is not a new one, is kept nowhere, or there is none.
_CHOOSES_ITSELF = table(
    "-c --continue --cloud --fork-session --from-pr -h --help --init-only --no-session-persistence -r --remote --resume"
    " --rewind-files --session-id --teleport -v --version"
)
#: What hands the work to a process that outlives this one.
_LETS_GO = table("--bg --background --tmux")

#: Least permission first. ``dontAsk`` refuses whatever it would have to ask for.
MODES = ("plan", "dontAsk", "default", "acceptEdits", "auto", "bypassPermissions")
_BYPASS = "--dangerously-skip-permissions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line of Claude Code's."""

    #: The program, with its interpreter if one was written.
    program: tuple[str, ...]
    options: Options = field(default_factory=Options)
    prompt: str | None = None
    #: The subcommand that carries no conversation; then nothing else but ``program`` was parsed.
    other: str | None = None

    @property
    def is_headless(self) -> bool:
        return self.options.has("-p", "--print")

    @property
    def chooses_itself(self) -> bool:
        """Whether which conversation it is was said already, or there is none to come back to."""
        return self.other is not None or self.options.has(*_CHOOSES_ITSELF)

    @property
    def takes_prompt(self) -> bool:
        """Whether a prompt on the command line is taken: with JSON on standard input it is not."""
        return self.options.find_value("--input-format") != "stream-json"


def parse(argv: Sequence[str]) -> Command:
    """Take a command line apart. Total: what is not understood ends up as an option or a prompt."""
    program, words = split_program(argv)
    options, alone, rest = SYNTAX.read(words)
    if rest:
        return Command(program=program, other=rest[0])
    return Command(program=program, options=options, prompt=alone[0] if alone else None)


def build_start(command: Command, *, conversation: str | None = None) -> tuple[str, ...]:
    """Return the command line of a first start whose conversation gets the id ``conversation``, if one is given.

    The id stands first, where no option that takes several values can swallow it.
    """
    chosen = ("--session-id", conversation) if conversation is not None else ()
    return (*command.program, *chosen, *command.options.words, *_say(command.prompt))


def build_resume(command: Command, *, conversation: str, prompt: str | None) -> tuple[str, ...]:
    """Return the command line that goes on with ``conversation``, saying ``prompt`` if there is one."""
    return (*command.program, *command.options.words, "--resume", conversation, *_say(prompt))


def drop_start(command: Command) -> Command:
    """Return the command without its prompt and the options that only belonged to its first start."""
    return replace(command, options=command.options.without(_OF_THE_START), prompt=None)


def drop_choice(command: Command) -> Command:
    """Return the command without the id that was chosen for its conversation."""
    return replace(command, options=command.options.without({"--session-id"}))


def keep_in(command: Command) -> Command:
    """Return the command without what would hand its work to a process that outlives it."""
    if not command.options.has(*_LETS_GO):
        return command
    return replace(command, options=command.options.without(_LETS_GO))


def add_option(command: Command, name: str, value: str) -> Command:
    """Return the command with one more option."""
    return replace(command, options=command.options.plus(name, value))


def read_mode(command: Command) -> str | None:
    """Return the permission mode that the flags ask for, ``None`` if they leave it to the settings."""
    return "bypassPermissions" if command.options.has(_BYPASS) else command.options.find_value("--permission-mode")


def limit_mode(command: Command, had: str | None) -> Command:
    """Return the command so that it asks for no more than the conversation had when it ended.

    The settings may have changed since, and a user may have lowered the mode inside the session; flags that already ask for no
    more stay as they were written. A mode that is not known limits nothing.
    """
    asked = read_mode(command)
    if had not in MODES or (asked is None and had == MODES[-1]):
        return command  # above the last there is nothing that the settings could have been raised to
    if asked in MODES and MODES.index(asked) <= MODES.index(had):
        return command
    kept = command.options.without({_BYPASS, "--permission-mode"})
    return replace(command, options=kept.plus("--permission-mode", had))


def _say(prompt: str | None) -> tuple[str, ...]:
    """Return the words of a prompt, behind ``--`` so that neither it nor an option before it is misread."""
    return () if prompt is None else ("--", prompt)
