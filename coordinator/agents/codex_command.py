"""Codex's command line, taken apart and put together again. Pure.

``codex [OPTIONS] [PROMPT]``, ``codex [OPTIONS] resume|fork [OPTIONS] [ID] [PROMPT]`` (interactive) and ``codex [OPTIONS]
exec [OPTIONS] [PROMPT | resume|fork [OPTIONS] [ID] [PROMPT]]`` carry a conversation; every other subcommand does not.

Tried with 0.169.0: options before a subcommand hold for it, so every option may stand before ``resume``, while ``exec
resume`` itself refuses ``-s``, ``-C``, ``--add-dir`` and others after it. A resume takes nothing from the conversation's
own settings: its permission is what flags and configuration say *now*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from coordinator.agents.options import Library, Options, Syntax, table
from coordinator.agents.program import Program, split_program

PROGRAM = Program(commands=frozenset({"codex"}), scripts=frozenset({"codex.js"}), package="@openai/codex")

_EXEC = frozenset({"exec", "e"})
_CONTINUES = frozenset({"resume", "fork"})
#: Subcommands without a conversation of their own.
_OTHERS = table(
    "agents review login logout mcp plugin app-server remote-control completion update doctor sandbox debug apply a queue"
    " archive delete migrate-rollouts migrate-nfs-db unarchive cloud exec-server features help"
)
SYNTAX = Syntax(
    library=Library.CLAP,
    one=table(
        "-c --config --enable --disable --remote --remote-auth-token-env -m --model --local-provider -p --profile -s --sandbox"
        " -C --cd --add-dir -a --ask-for-approval --thread-source --cyber-access-program --output-schema --color -o"
        " --output-last-message"
    ),
    several=frozenset({"-i", "--image"}),
    none=table(
        "--strict-config --oss --approve-for-me --dangerously-bypass-approvals-and-sandbox --yolo --full-auto --worktree"
        " --dangerously-bypass-hook-trust --search --no-alt-screen --no-daemon --skip-git-repo-check --trust --ephemeral"
        " --ignore-user-config --ignore-rules --json --last --all --include-non-interactive -h --help -V --version"
    ),
    subcommands=_EXEC | _CONTINUES | _OTHERS,
)
#: Belong to the first prompt or to the choice of a conversation, not to how the agent works.
_OF_THE_START = frozenset({"-i", "--image", "--last", "--all", "--include-non-interactive", "--worktree"})

#: Least permission first.
SANDBOXES = ("read-only", "workspace-write", "danger-full-access")
#: Those that ask the user most come first.
APPROVALS = ("untrusted", "on-request", "on-failure", "never")
_BYPASS = frozenset({"--dangerously-bypass-approvals-and-sandbox", "--yolo"})
_PERMISSION_OPTIONS = frozenset({"-s", "--sandbox", "-a", "--ask-for-approval", "--approve-for-me", "--full-auto"}) | _BYPASS


@dataclass(frozen=True, kw_only=True, slots=True)
class Permission:
    """What the agent may do without asking; ``None`` where nothing was said."""

    sandbox: str | None = None
    approval: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line of Codex's."""

    #: The program, with its interpreter if one was written.
    program: tuple[str, ...]
    #: Options before the first subcommand.
    options: Options = field(default_factory=Options)
    #: ``exec`` (also written ``e``), or ``None`` for the interactive program.
    exec: str | None = None
    #: Options after ``exec``.
    exec_options: Options = field(default_factory=Options)
    #: ``resume`` or ``fork``, if the command goes on with a conversation.
    continues: str | None = None
    prompt: str | None = None
    #: The subcommand that carries no conversation; then nothing else but ``program`` was parsed.
    other: str | None = None

    @property
    def is_interactive(self) -> bool:
        return self.exec is None and self.other is None

    @property
    def all_options(self) -> Options:
        return self.options + self.exec_options


def parse(argv: Sequence[str]) -> Command:
    """Take a command line apart. Total: what is not understood ends up as an option or a prompt."""
    program, words = split_program(argv)
    options, alone, rest = SYNTAX.read(words)
    command = Command(program=program, options=options)
    if not rest:
        return replace(command, prompt=alone[-1] if alone else None)
    if rest[0] in _OTHERS:
        return Command(program=program, other=rest[0])
    if rest[0] in _CONTINUES:
        more, alone, _ = SYNTAX.read(rest[1:], stop_at=frozenset())
        return replace(command, options=options + more, continues=rest[0], prompt=_prompt_of_resume(more, alone))
    more, alone, inner = SYNTAX.read(rest[1:], stop_at=_CONTINUES | {"review", "help"})
    command = replace(command, exec=rest[0], exec_options=more)
    if not inner:
        return replace(command, prompt=alone[-1] if alone else None)
    if inner[0] not in _CONTINUES:
        return Command(program=program, other=inner[0])
    last, alone, _ = SYNTAX.read(inner[1:], stop_at=frozenset())
    return replace(command, exec_options=more + last, continues=inner[0], prompt=_prompt_of_resume(last, alone))


def build(command: Command, *, conversation: str, prompt: str | None) -> tuple[str, ...]:
    """Return the command line that goes on with ``conversation``, saying ``prompt`` if there is one."""
    argv = [*command.program, *command.options.words]
    if command.exec is not None:
        argv += [command.exec, *command.exec_options.words]
    argv += ["resume", conversation]
    if prompt is not None:
        argv += ["--", prompt] if prompt.startswith("-") else [prompt]
    return tuple(argv)


def drop_start(command: Command) -> Command:
    """Return the command without the options that only belonged to its first start."""
    return replace(
        command, options=command.options.without(_OF_THE_START), exec_options=command.exec_options.without(_OF_THE_START)
    )


def add_option(command: Command, name: str, value: str) -> Command:
    """Return the command with one more option, where the prompt's subcommand takes it."""
    if command.exec is not None:
        return replace(command, exec_options=command.exec_options.plus(name, value))
    return replace(command, options=command.options.plus(name, value))


def read_permission(command: Command) -> Permission:
    """Return what the options ask for; the last of the same kind holds, as in Codex."""
    sandbox = approval = configured_sandbox = configured_approval = None
    for option in command.all_options:
        if option.name in _BYPASS:
            return Permission(sandbox="danger-full-access", approval="never")
        if option.name in ("-s", "--sandbox"):
            sandbox = option.value
        elif option.name in ("-a", "--ask-for-approval"):
            approval = option.value
        elif option.name == "--full-auto":
            sandbox, approval = sandbox or "workspace-write", approval or "on-request"
        elif option.name == "--approve-for-me":
            sandbox = sandbox or "workspace-write"
        elif option.name in ("-c", "--config") and option.value:
            key, _, value = option.value.partition("=")
            value = value.strip().strip("\"'")
            if key.strip() == "sandbox_mode":
                configured_sandbox = value
            elif key.strip() == "approval_policy":
                configured_approval = value
    return Permission(sandbox=sandbox or configured_sandbox, approval=approval or configured_approval)


def limit_permission(command: Command, had: Permission) -> Command:
    """Return the command so that it asks for no more than the conversation had when it ended.

    The configuration may have changed since, and a user may have lowered the permission inside the session; flags that
    already ask for no more stay as they were written.
    """
    asked = read_permission(command)
    wanted = Permission(
        sandbox=_lesser(SANDBOXES, asked.sandbox, had.sandbox), approval=_lesser(APPROVALS, asked.approval, had.approval)
    )
    if wanted == asked:
        return command
    if asked != Permission():
        command = replace(
            command, options=_without_permission(command.options), exec_options=_without_permission(command.exec_options)
        )
    if wanted.sandbox is not None:
        command = add_option(command, "-s", wanted.sandbox)
    if wanted.approval is not None:  # -a knows fewer words than the configuration does
        command = add_option(command, "-c", f'approval_policy="{wanted.approval}"')
    return command


def _lesser(order: tuple[str, ...], asked: str | None, had: str | None) -> str | None:
    if had not in order:
        return asked
    if asked not in order:
        return had
    return min(asked, had, key=order.index)


def _without_permission(options: Options) -> Options:
    return Options(
        option
        for option in options.without(_PERMISSION_OPTIONS)
        if option.name not in ("-c", "--config")
        or (option.value or "").partition("=")[0].strip() not in ("sandbox_mode", "approval_policy")
    )


def _prompt_of_resume(options: Options, alone: tuple[str, ...]) -> str | None:
    if options.has("--last"):
        return alone[-1] if alone else None
    return alone[1] if len(alone) > 1 else None
