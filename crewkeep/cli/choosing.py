"""What the picker of past conversations offers, and what matches the words that are typed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.services.archive import Past, fold
from crewkeep.cli import output


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One past conversation."""

    past: Past
    #: How it is told, in one line.
    line: str
    #: What is searched, folded.
    haystack: str


class Choices:
    """Past conversations in the order in which they are offered."""

    def __init__(self, pasts: Sequence[Past], now_s: float) -> None:
        self._all = [_make_choice(past, now_s) for past in pasts]

    def find(self, typed: str) -> list[Choice]:
        """Return those whose line, reference or directory holds every word that is typed, in any order."""
        words = fold(typed).split()
        return [choice for choice in self._all if all(word in choice.haystack for word in words)]


def _make_choice(past: Past, now_s: float) -> Choice:
    age = output.format_age(now_s - past.changed_at)
    who = past.name or past.agent
    line = output.make_printable(f"{age:>4}  {who:<16}  {past.title}  ({past.agent}, {past.cwd or 'directory not known'})")
    return Choice(past=past, line=line, haystack=fold(f"{line} {past.ref}"))
