"""Claude Code's command line, taken apart and put together again. Pure.

``claude [OPTIONS] [PROMPT]`` carries a conversation: with ``-p`` it answers once and ends, without it is interactive. Options
and prompt may stand in any order. ``claude SUBCOMMAND ...`` carries none.

Tried with 2.1.197: ``--resume ID`` takes every option that a first start takes, but ``--session-id``; it takes its permission
from flags and settings as they are *now*, and looks for the conversation among those of the directory it is started in. Options
that take several values swallow a prompt that stands behind them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from coordinator.agents.codex_command import Option, split_program

PACKAGE = "@anthropic-ai/claude-code"


def _table(words: str) -> frozenset[str]:
    return frozenset(words.split())


#: Options that take one value.
_WITH_VALUE = _table(
    "--advisor --agent --agents --append-system-prompt --append-system-prompt-file --debug-file --effort --fallback-model"
    " --input-format --json-schema --managed-settings --max-budget-usd --max-thinking-tokens --max-turns --model -n --name"
    " --output-format --permission-mode --permission-prompt-tool --plan-mode-instructions --plugin-dir --plugin-dir-no-mcp"
    " --plugin-url --prefill --remote-control-session-name-prefix --resume-session-at --rewind-files --sdk-url --session-id"
    " --setting-sources --settings --system-prompt --system-prompt-file --task-budget --teammate-mode --thinking"
    " --thinking-display --workload"
)
#: Options that take every value up to the next option.
_WITH_VALUES = _table(
    "--add-dir --allowedTools --allowed-tools --betas --channels --dangerously-load-development-channels --disallowedTools"
    " --disallowed-tools --file --mcp-config --tools"
)
#: Options that take the next word unless it is an option.
_WITH_OPTIONAL = _table(
    "--cloud -d --debug --from-pr --prompt-suggestions --rc --remote --remote-control -r --resume --teleport -w --worktree"
)
_SUBCOMMANDS = _table(
    "agents attach auth auto-mode daemon doctor gateway install logs mcp plugin plugins project rc remote-control respawn rm"
    " setup-token stop ultrareview update upgrade"
)
#: Belong to the first prompt or to the choice of a conversation, not to how the agent works.
_OF_THE_START = _table(
    "-c --continue --file --fork-session --from-pr --prefill -r --resume --resume-session-at --session-id --teleport -w"
    " --worktree"
)
#: With one of these the conversation is not a new one, is kept nowhere, or there is none.
_CHOOSES_ITSELF = _table(
    "-c --continue --cloud --fork-session --from-pr -h --help --init-only --no-session-persistence -r --remote --resume"
    " --rewind-files --session-id --teleport -v --version"
)
#: What hands the work to a process that outlives this one.
_LETS_GO = _table("--bg --background --tmux")

#: Least permission first. ``dontAsk`` refuses whatever it would have to ask for.
MODES = ("plan", "dontAsk", "default", "acceptEdits", "auto", "bypassPermissions")
_BYPASS = "--dangerously-skip-permissions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """A command line of Claude Code's."""

    #: The program, with its interpreter if one was written.
    program: tuple[str, ...]
    options: tuple[Option, ...] = ()
    prompt: str | None = None
    #: The subcommand that carries no conversation; then nothing else but ``program`` was parsed.
    other: str | None = None

    @property
    def is_headless(self) -> bool:
        return self.has("-p", "--print")

    @property
    def chooses_itself(self) -> bool:
        """Whether which conversation it is was said already, or there is none to come back to."""
        return self.other is not None or self.has(*_CHOOSES_ITSELF)

    @property
    def takes_prompt(self) -> bool:
        """Whether a prompt on the command line is taken: with JSON on standard input it is not."""
        return self.value("--input-format") != "stream-json"

    def has(self, *names: str) -> bool:
        """Tell whether one of the options stands anywhere."""
        return any(option.name in names for option in self.options)

    def value(self, *names: str) -> str | None:
        """Return the value of the last of these options, ``None`` if there is none or it has none."""
        return next((option.value for option in reversed(self.options) if option.name in names), None)


def starts_claude(argv: Sequence[str]) -> bool:
    """Tell from the words alone whether they start Claude Code."""
    program, _ = split_program(argv)
    if not program:
        return False
    last = program[-1]
    if len(program) == 1:
        return os.path.basename(last) in ("claude", "claude.exe")
    if os.path.basename(program[0]) in ("npx", "bunx"):
        return last == "claude" or last == PACKAGE or last.startswith(PACKAGE + "@")
    return os.path.basename(last) == "claude" or f"{PACKAGE}/" in last


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
        read, at = _read_option(words, at)
        options += read
    return Command(program=program, options=tuple(options), prompt=positionals[0] if positionals else None)


def build_start(command: Command, *, conversation: str | None = None) -> tuple[str, ...]:
    """Return the command line of a first start whose conversation gets the id ``conversation``, if one is given.

    The id stands first, where no option that takes several values can swallow it.
    """
    chosen = ("--session-id", conversation) if conversation is not None else ()
    return (*command.program, *chosen, *_words(command.options), *_say(command.prompt))


def build_resume(command: Command, *, conversation: str, prompt: str | None) -> tuple[str, ...]:
    """Return the command line that goes on with ``conversation``, saying ``prompt`` if there is one."""
    return (*command.program, *_words(command.options), "--resume", conversation, *_say(prompt))


def drop_start(command: Command) -> Command:
    """Return the command without its prompt and the options that only belonged to its first start."""
    return replace(_without(command, _OF_THE_START), prompt=None)


def drop_choice(command: Command) -> Command:
    """Return the command without the id that was chosen for its conversation."""
    return _without(command, frozenset({"--session-id"}))


def keep_in(command: Command) -> Command:
    """Return the command without what would hand its work to a process that outlives it."""
    return _without(command, _LETS_GO) if command.has(*_LETS_GO) else command


def add_option(command: Command, name: str, value: str) -> Command:
    """Return the command with one more option."""
    return replace(command, options=(*command.options, Option(name=name, value=value, words=(name, value))))


def read_mode(command: Command) -> str | None:
    """Return the permission mode that the flags ask for, ``None`` if they leave it to the settings."""
    return "bypassPermissions" if command.has(_BYPASS) else command.value("--permission-mode")


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
    return add_option(_without(command, frozenset({_BYPASS, "--permission-mode"})), "--permission-mode", had)


def _without(command: Command, names: frozenset[str]) -> Command:
    return replace(command, options=tuple(option for option in command.options if option.name not in names))


def _words(options: tuple[Option, ...]) -> list[str]:
    return [word for option in options for word in option.words]


def _say(prompt: str | None) -> tuple[str, ...]:
    """Return the words of a prompt, behind ``--`` so that neither it nor an option before it is misread."""
    return () if prompt is None else ("--", prompt)


def _read_option(words: Sequence[str], at: int) -> tuple[list[Option], int]:
    """Return the options that the word at ``at`` begins, and where the next one is."""
    word = words[at]
    if not word.startswith("--") and len(word) > 2:
        known = _are_letters(word)
        return list(_read_letters(word)) if known else [Option(name=word, value=None, words=(word,))], at + 1
    name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
    if equals:
        return [Option(name=name, value=value, words=(word,))], at + 1
    if name in _WITH_VALUES:
        end = at + 1
        while end < len(words) and not words[end].startswith("-"):
            end += 1
        return [Option(name=name, value=None, words=tuple(words[at:end]))], end
    follows = at + 1 < len(words) and not words[at + 1].startswith("-")
    if (name in _WITH_VALUE and at + 1 < len(words)) or (name in _WITH_OPTIONAL and follows):
        return [Option(name=name, value=words[at + 1], words=tuple(words[at : at + 2]))], at + 2
    return [Option(name=name, value=None, words=(word,))], at + 1


def _are_letters(word: str) -> bool:
    """Tell whether a word is short options written as one (-pc, -rID), rather than something of another kind (-0-)."""
    for letter in word[1:]:
        if f"-{letter}" in _WITH_VALUE | _WITH_OPTIONAL:
            return True  # the rest is its value
        if not letter.isalnum():
            return False
    return True


def _read_letters(word: str) -> Iterator[Option]:
    """Yield the short options that were written as one word."""
    for index, letter in enumerate(word[1:], start=1):
        name, rest = f"-{letter}", word[index + 1 :]
        if rest and name in _WITH_VALUE | _WITH_OPTIONAL:
            yield Option(name=name, value=rest, words=(name + rest,))
            return
        yield Option(name=name, value=None, words=(name,))
