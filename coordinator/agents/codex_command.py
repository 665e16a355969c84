"""Codex's command line, taken apart and put together again. Pure.

``codex [OPTIONS] [PROMPT]``, ``codex [OPTIONS] resume|fork [OPTIONS] [ID] [PROMPT]`` (interactive) and ``codex [OPTIONS]
exec [OPTIONS] [PROMPT | resume|fork [OPTIONS] [ID] [PROMPT]]`` carry a conversation; every other subcommand does not.

Tried with 0.169.0: options before a subcommand hold for it, so every option may stand before ``resume``, while ``exec
resume`` itself refuses ``-s``, ``-C``, ``--add-dir`` and others after it. A resume takes nothing from the conversation's
own settings: its permission is what flags and configuration say *now*.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace


def _table(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: Options that take one value.
_WITH_VALUE = _table(
    "-c --config --enable --disable --remote --remote-auth-token-env -m --model --local-provider -p --profile -s --sandbox"
    " -C --cd --add-dir -a --ask-for-approval --thread-source --cyber-access-program --output-schema --color -o"
    " --output-last-message"
)
#: Options that take every value up to the next option.
_WITH_VALUES = frozenset({"-i", "--image"})
#: Options without a value. What stands in none of the three tables is of another version: see ``_parse_options``.
_PLAIN = _table(
    "--strict-config --oss --approve-for-me --dangerously-bypass-approvals-and-sandbox --yolo --full-auto --worktree"
    " --dangerously-bypass-hook-trust --search --no-alt-screen --no-daemon --skip-git-repo-check --trust --ephemeral"
    " --ignore-user-config --ignore-rules --json --last --all --include-non-interactive -h --help -V --version"
)
_EXEC = frozenset({"exec", "e"})
_CONTINUES = frozenset({"resume", "fork"})
#: Subcommands without a conversation of their own.
_OTHERS = _table(
    "agents review login logout mcp plugin app-server remote-control completion update doctor sandbox debug apply a queue"
    " archive delete migrate-rollouts migrate-nfs-db unarchive cloud exec-server features help"
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
class Option:
    """One option as it was written."""

    #: ``--model`` for both ``--model x`` and ``--model=x``.
    name: str
    value: str | None
    words: tuple[str, ...]


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
    options: tuple[Option, ...] = ()
    #: ``exec`` (also written ``e``), or ``None`` for the interactive program.
    exec: str | None = None
    #: Options after ``exec``.
    exec_options: tuple[Option, ...] = ()
    #: ``resume`` or ``fork``, if the command goes on with a conversation.
    continues: str | None = None
    prompt: str | None = None
    #: The subcommand that carries no conversation; then nothing else but ``program`` was parsed.
    other: str | None = None

    @property
    def is_interactive(self) -> bool:
        return self.exec is None and self.other is None

    def has(self, *names: str) -> bool:
        """Tell whether one of the options stands anywhere."""
        return any(option.name in names for option in self.options + self.exec_options)


def split_program(argv: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the words that name the program and the rest: ``codex``, ``node .../codex.js``, ``npx [-y] PACKAGE``."""
    name = os.path.basename(argv[0]) if argv else ""
    if name in ("node", "nodejs", "bun") and len(argv) > 1:
        return tuple(argv[:2]), tuple(argv[2:])
    if name in ("npx", "bunx"):
        at = next((index for index, word in enumerate(argv) if index and not word.startswith("-")), len(argv) - 1)
        return tuple(argv[: at + 1]), tuple(argv[at + 1 :])
    return tuple(argv[:1]), tuple(argv[1:])


def starts_codex(argv: Sequence[str]) -> bool:
    """Tell from the words alone whether they start Codex."""
    program, _ = split_program(argv)
    if not program:
        return False
    name = os.path.basename(program[-1])
    if len(program) == 1:
        return name == "codex"
    return name in ("codex", "codex.js") or program[-1].partition("@openai/codex")[1] != ""


def parse(argv: Sequence[str]) -> Command:
    """Take a command line apart. Total: what is not understood ends up as an option or a prompt."""
    program, words = split_program(argv)
    options, positionals, rest = _parse_options(words, stop_at=_EXEC | _CONTINUES | _OTHERS)
    command = Command(program=program, options=options)
    if not rest:
        return replace(command, prompt=positionals[-1] if positionals else None)
    if rest[0] in _OTHERS:
        return Command(program=program, other=rest[0])
    if rest[0] in _CONTINUES:
        more, positionals, _ = _parse_options(rest[1:], stop_at=frozenset())
        return replace(command, options=options + more, continues=rest[0], prompt=_prompt_of_resume(more, positionals))
    more, positionals, inner = _parse_options(rest[1:], stop_at=_CONTINUES | {"review", "help"})
    command = replace(command, exec=rest[0], exec_options=more)
    if not inner:
        return replace(command, prompt=positionals[-1] if positionals else None)
    if inner[0] not in _CONTINUES:
        return Command(program=program, other=inner[0])
    last, positionals, _ = _parse_options(inner[1:], stop_at=frozenset())
    return replace(command, exec_options=more + last, continues=inner[0], prompt=_prompt_of_resume(last, positionals))


def build(command: Command, *, conversation: str, prompt: str | None) -> tuple[str, ...]:
    """Return the command line that goes on with ``conversation``, saying ``prompt`` if there is one."""
    argv = [*command.program, *_words(command.options)]
    if command.exec is not None:
        argv += [command.exec, *_words(command.exec_options)]
    argv += ["resume", conversation]
    if prompt is not None:
        argv += ["--", prompt] if prompt.startswith("-") else [prompt]
    return tuple(argv)


def drop_start(command: Command) -> Command:
    """Return the command without the options that only belonged to its first start."""
    return replace(
        command,
        options=tuple(option for option in command.options if option.name not in _OF_THE_START),
        exec_options=tuple(option for option in command.exec_options if option.name not in _OF_THE_START),
    )


def add_option(command: Command, name: str, value: str | None = None) -> Command:
    """Return the command with one more option, where the prompt's subcommand takes it."""
    option = Option(name=name, value=value, words=(name,) if value is None else (name, value))
    if command.exec is not None:
        return replace(command, exec_options=(*command.exec_options, option))
    return replace(command, options=(*command.options, option))


def read_permission(command: Command) -> Permission:
    """Return what the options ask for; the last of the same kind holds, as in Codex."""
    sandbox = approval = configured_sandbox = configured_approval = None
    for option in command.options + command.exec_options:
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


def _without_permission(options: tuple[Option, ...]) -> tuple[Option, ...]:
    return tuple(
        option
        for option in options
        if option.name not in _PERMISSION_OPTIONS
        and not (
            option.name in ("-c", "--config")
            and (option.value or "").partition("=")[0].strip() in ("sandbox_mode", "approval_policy")
        )
    )


def _prompt_of_resume(options: tuple[Option, ...], positionals: tuple[str, ...]) -> str | None:
    if any(option.name == "--last" for option in options):
        return positionals[-1] if positionals else None
    return positionals[1] if len(positionals) > 1 else None


def _words(options: tuple[Option, ...]) -> list[str]:
    return [word for option in options for word in option.words]


def _parse_options(
    words: Sequence[str], *, stop_at: frozenset[str]
) -> tuple[tuple[Option, ...], tuple[str, ...], tuple[str, ...]]:
    """Return the options, the positionals, and what is left from the first positional that stands in ``stop_at``."""
    options: list[Option] = []
    positionals: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            positionals += words[at + 1 :]
            break
        if not word.startswith("-") or word == "-":
            if not positionals and word in stop_at:
                return tuple(options), (), tuple(words[at:])
            positionals.append(word)
            at += 1
            continue
        option = _read_option(words, at)
        options.append(option)
        at += len(option.words)
    return tuple(options), tuple(positionals), ()


def _read_option(words: Sequence[str], at: int) -> Option:
    word = words[at]
    name, equals, value = word.partition("=")
    if not word.startswith("--") and len(word) > 2 and word[:2] in _WITH_VALUE | _WITH_VALUES:  # -mgpt, -m=gpt
        return Option(name=word[:2], value=word[2:].removeprefix("="), words=(word,))
    if equals:
        return Option(name=name, value=value, words=(word,))
    if name in _WITH_VALUE:
        taken = tuple(words[at : at + 2])
        return Option(name=name, value=taken[1] if len(taken) > 1 else None, words=taken)
    if name in _WITH_VALUES:
        end = at + 1
        while end < len(words) and not words[end].startswith("-"):
            end += 1
        return Option(name=name, value=None, words=tuple(words[at:end]))
    if name in _PLAIN or not name.startswith("--"):
        return Option(name=name, value=None, words=(word,))
    # Unknown: of another version. The word after it is its value unless it would have to be the prompt.
    following = words[at + 1 : at + 3]
    if len(following) == 2 and not following[0].startswith("-") and following[0] not in _EXEC | _CONTINUES | _OTHERS:
        return Option(name=name, value=following[0], words=tuple(words[at : at + 2]))
    return Option(name=name, value=None, words=(word,))
