"""The options on a program's command line: cut out of its words, looked up, and written again as they were. Pure.

A ``Syntax`` is the table of one program. What is cut where is decided by the library that the program parses its words with;
with each of them ``--name=value`` is one word, ``--`` ends the options, and letters may share a word:

  - commander (Claude Code): what stands behind a letter that takes a value is the value, with its ``=``
  - clap (Codex): the same, but a first ``=`` is left out, as in ``-m=o3``
  - yargs (Gemini CLI, OpenCode): only the last letter takes a value, and behind a ``=`` or in the next word; names may be in
    camel case; an option without a value may be followed by ``true`` or ``false``

Promised: no words are too odd, and what was read of an option keeps its meaning, wherever its words are written again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def table(words: str) -> frozenset[str]:
    """Return the words of a text as a set."""
    return frozenset(words.split())


class Library(Enum):
    """What a program parses its words with."""

    COMMANDER = "commander"
    CLAP = "clap"
    YARGS = "yargs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """One option as it was written."""

    #: ``--model`` for both ``--model x`` and ``--model=x``; with yargs ``--log-level`` also for ``--logLevel``.
    name: str
    #: ``None`` if it has none or takes several.
    value: str | None
    words: tuple[str, ...]


class Options(tuple[Option, ...]):
    """Options in the order in which they were written."""

    __slots__ = ()

    @property
    def words(self) -> tuple[str, ...]:
        """What stands for them on a command line."""
        return tuple(word for option in self for word in option.words)

    def __add__(self, more: Iterable[Option]) -> Options:  # type: ignore[override]  # a tuple would take any other
        return Options((*self, *more))

    def has(self, *names: str) -> bool:
        """Tell whether one of the options is there."""
        return any(option.name in names for option in self)

    def find(self, *names: str) -> Option | None:
        """Return the last of these options."""
        return next((option for option in reversed(self) if option.name in names), None)

    def find_value(self, *names: str) -> str | None:
        """Return the value of the last of these options, ``None`` if there is none or it has none."""
        option = self.find(*names)
        return option.value if option is not None else None

    def without(self, names: Iterable[str]) -> Options:
        """Return the others."""
        dropped = frozenset(names)
        return Options(option for option in self if option.name not in dropped)

    def plus(self, name: str, value: str | None = None) -> Options:
        """Return the options with one more at the end."""
        return Options((*self, Option(name=name, value=value, words=(name,) if value is None else (name, value))))


@dataclass(frozen=True, kw_only=True, slots=True)
class Syntax:
    """How a program's words are cut. The tables hold every name of an option, long and short."""

    library: Library
    #: Options that take one word, whatever it begins with.
    one: frozenset[str]
    #: Options that take the next word unless it begins with a dash.
    optional: frozenset[str] = frozenset()
    #: Options that take every word up to the next that begins with a dash.
    several: frozenset[str] = frozenset()
    #: Options that take none, and then what stands in no table is of another version: the word after it is its value unless
    #: that would have to be the prompt. ``None`` if what stands in no table takes none.
    none: frozenset[str] | None = None
    #: What the first word that stands alone may be, if it is no prompt.
    subcommands: frozenset[str]

    def read(
        self, words: Sequence[str], *, stop_at: frozenset[str] | None = None
    ) -> tuple[Options, tuple[str, ...], tuple[str, ...]]:
        """Return the options, the words that stand alone, and what is left from a first one that stands in ``stop_at``: the
        subcommands if nothing else is said.
        """
        stop_at = self.subcommands if stop_at is None else stop_at
        options: list[Option] = []
        alone: list[str] = []
        at = 0
        while at < len(words):
            word = words[at]
            if word == "--":
                alone += words[at + 1 :]
                break
            if not word.startswith("-") or word == "-":
                if not alone and word in stop_at:
                    return Options(options), (), tuple(words[at:])
                alone.append(word)
                at += 1
                continue
            *letters, word = self._cut_letters(word)
            options += (Option(name=letter, value=None, words=(letter,)) for letter in letters)
            options.append(self._read_one((word, *words[at + 1 :])))
            at += len(options[-1].words)
        return Options(options), tuple(alone), ()

    def _read_one(self, words: Sequence[str]) -> Option:
        """Return the option that the first of the words begins."""
        word, following = words[0], words[1] if len(words) > 1 else None
        if self._holds_value(word):
            value = word[2:] if self.library is Library.COMMANDER else word[2:].removeprefix("=")
            return Option(name=word[:2], value=value, words=(word,))
        parts = word.startswith("--") or self.library is not Library.COMMANDER
        name, equals, value = word.partition("=") if parts else (word, "", "")
        if self.library is Library.YARGS and name.startswith("--"):
            name = _CAMEL.sub("-", name).lower()
        if equals:
            return Option(name=name, value=value, words=(word,))
        if name in self.several:
            end = next((at for at, word in enumerate(words) if at and word.startswith("-")), len(words))
            return Option(name=name, value=None, words=tuple(words[:end]))
        if following is not None and self._takes(name, following, is_last=len(words) == 2):
            return Option(name=name, value=following, words=(word, following))
        return Option(name=name, value=None, words=(word,))

    def _takes(self, name: str, following: str, *, is_last: bool) -> bool:
        """Tell whether the word that follows an option is its value."""
        if name in self.one:
            return True
        if following.startswith("-"):
            return False
        if name in self.optional or (self.library is Library.YARGS and following in ("true", "false")):
            return True
        is_known = self.none is None or name in self.none or not name.startswith("--")
        return not is_known and not is_last and following not in self.subcommands

    def _cut_letters(self, word: str) -> tuple[str, ...]:
        """Return short options that were written as one word each by itself (-pc, -prID), any other word (-0-) as it is."""
        letters: list[str] = []
        for at, letter in enumerate(word[1:], start=1):
            if self._holds_value(rest := f"-{word[at:]}"):
                return (*letters, rest)
            if not letter.isalpha():
                return (word,)
            letters.append(f"-{letter}")
        return tuple(letters)

    def _holds_value(self, word: str) -> bool:
        """Tell whether the word is a letter with its value (-rID)."""
        takes = word[:2] in self.one or word[:2] in self.optional or word[:2] in self.several
        return takes and len(word) > 2 and self.library is not Library.YARGS
