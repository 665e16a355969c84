"""What aider's chat history, a Markdown file that only grows, tells of the work. See ``aider`` for its form."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Iterator
from pathlib import Path

from coordinator.sessions.history import Item, Message, Role

#: Begins each run.
HEADING = "# aider chat started at "
_HEADING = re.compile(re.escape(HEADING) + r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)")
#: Ends what a run says of itself before the chat begins: its command line may hold any lines.
_BEGUN = "> Aider v"
_USER, _OWN = "#### ", "> "
#: Lines of aider's own that tell of finished work.
_WORK = ("Applied edit to ", "Commit ")
#: Begins what aider says of a model that gave no answer.
_FAILS = "litellm."
_RETRIES = "Retrying in "
#: The first look begins so far from the file's end; no look reads more.
_LOOK_BYTES = 1 << 20


class Chat:
    """What the lines of a chat history, added one by one, tell."""

    def __init__(self, since_s: float | None = None) -> None:
        """Runs that began before ``since_s`` (wall-clock seconds since 1970) are passed over, if it is given."""
        self._since_s = since_s
        self._in_header = False
        self._passes_over = since_s is not None
        #: Runs that were not passed over.
        self.runs = 0
        #: What the user said in them, line by line.
        self.said: list[str] = []
        #: Lines that the model answered and edits that were made.
        self.work = 0
        #: Whether the user waits for the model; ``None`` when a run has just begun.
        self.in_turn: bool | None = None
        self.failure: str | None = None

    @classmethod
    def read(cls, path: Path, since_s: float | None = None) -> Chat:
        """Return what the whole file tells, nothing of one that cannot be read."""
        chat = cls(since_s)
        for line in _iter_lines(path):
            chat.add(line)
        return chat

    def add(self, line: str) -> None:
        """Take in one line, without its end."""
        if (heading := _HEADING.match(line)) is not None:
            self._in_header, self.in_turn, self.failure = True, None, None
            self._passes_over = self._since_s is not None and _read_time(heading[1]) < self._since_s
            self.runs += not self._passes_over
        elif self._passes_over:
            return
        elif self._in_header:
            self._in_header = not line.startswith(_BEGUN)
        elif line.startswith(_USER):
            self.said.append(line[len(_USER) :].rstrip())
            self.in_turn, self.failure = True, None
        elif line.startswith(_OWN):
            self._add_own(line[len(_OWN) :].rstrip())
        elif line.strip():
            self.work += 1
            self.failure = None

    def _add_own(self, text: str) -> None:
        self.work += text.startswith(_WORK)
        if text.startswith(_FAILS):
            self.in_turn, self.failure = False, text
        elif text.startswith(_RETRIES):
            self.in_turn, self.failure = True, None
        elif text.startswith("Tokens: "):
            self.in_turn = False
        elif self.failure is not None and "\n" not in self.failure:
            self.failure += "\n" + text  # what aider makes of it

    def heard(self, message: str) -> bool:
        """Tell whether the user said ``message`` in one of the runs."""
        wanted = [line.rstrip() for line in message.strip().splitlines()]
        width = len(wanted)
        return bool(wanted) and any(self.said[at : at + width] == wanted for at in range(len(self.said) - width + 1))


class Growth:
    """Reads the file as it grows; remembers where it stopped."""

    def __init__(self, path: str) -> None:
        self.path = path
        #: Wall-clock seconds since 1970.
        self.changed_at = 0.0
        self._chat = Chat()
        self._offset_bytes: int | None = None

    def read_new(self) -> Chat:
        """Return what all lines up to now tell. A file that has shrunk is read on from its new end."""
        try:
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                if self._offset_bytes is None:
                    self._offset_bytes = max(0, found.st_size - _LOOK_BYTES)
                self._offset_bytes = min(self._offset_bytes, found.st_size)
                self.changed_at = found.st_mtime
                file.seek(self._offset_bytes)
                data = file.read(_LOOK_BYTES)
        except OSError:
            return self._chat
        whole = data[: data.rfind(b"\n") + 1] if b"\n" in data or len(data) < _LOOK_BYTES else data
        self._offset_bytes += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            self._chat.add(line)
        return self._chat


def read_history(path: str) -> Iterator[Item]:
    """Yield what the user, the model and aider itself said; the lines of one speaker in a row are one message."""
    role, in_header = Role.SYSTEM, False
    lines: list[tuple[str, str]] = []
    for line in _iter_lines(Path(path)):
        in_header = in_header or _HEADING.match(line) is not None
        spoke, text = (Role.SYSTEM, "") if in_header else _tell_speaker(line)
        if in_header or (spoke is not role and text.strip()):  # an empty line belongs to whoever spoke last
            yield from _say(role, lines)
            role, lines = spoke, []
        if not in_header:
            lines.append((text, line))
        elif line.startswith(_BEGUN):
            in_header = False
    yield from _say(role, lines)


def _say(role: Role, lines: list[tuple[str, str]]) -> Iterator[Item]:
    said = "\n".join(text for text, _ in lines).strip()
    if said:
        yield Message(role=role, text=said, raw="\n".join(line for _, line in lines))


def _tell_speaker(line: str) -> tuple[Role, str]:
    if line.startswith(_USER):
        return Role.USER, line[len(_USER) :].rstrip()
    if line.startswith(_OWN):
        return Role.SYSTEM, line[len(_OWN) :].rstrip()
    return Role.ASSISTANT, line


def _iter_lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                yield line.rstrip("\n")
    except OSError:
        return


def _read_time(text: str) -> float:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()  # local, as aider writes it
    except (ValueError, OverflowError):
        return 0.0
