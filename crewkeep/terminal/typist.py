"""Texts typed into a program's terminal, each with its Enter, one after another.

A program that draws its own input takes an Enter that comes together with a text as part of a paste; so Enter comes a
moment later, and no other text in between: a moment after the program has read the text, since a busy one would find both
at once. A permission prompt may have opened meanwhile: it is looked for before each.

Invariants:
  - nothing is typed while a permission prompt is known to be open, or while no agent runs
  - an Enter goes to the agent that got the text, never to its successor
  - texts of several senders never mix
"""

from __future__ import annotations

import collections
import functools
import re
import sys
from collections.abc import Callable
from typing import Any, Protocol

from coordinator.errors import Busy, CrewkeepError, InvalidInput, Refused
from crewkeep.terminal.answers import Later

ENTER = b"\r"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PASTE_START, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
#: A kernel's line editing drops what is beyond this many bytes of one line.
_LINE_LIMIT_BYTES = 1023 if sys.platform == "darwin" else 4095
TEXT_LIMIT_BYTES = 1 << 20
#: Texts waiting to be typed.
WAITING_LIMIT = 32
#: Codex takes keys within 120 ms as parts of one paste.
_ENTER_DELAY_S = 0.2
#: A program that has not read the text after so long gets its Enter all the same. Arbitrary, below what `send` waits for.
_READ_LIMIT_S = 3.0


class Timers(Protocol):
    """What is needed of the loop."""

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Any: ...


class Typist:
    """Types for those who send."""

    def __init__(
        self,
        timers: Timers,
        press: Callable[[bytes], None],
        is_running: Callable[[], bool],
        is_asking: Callable[[], bool],
        is_line_mode: Callable[[], bool],
        has_unread: Callable[[], bool],
        *,
        name: str,
    ) -> None:
        self._timers, self._press, self._name = timers, press, name
        self._is_running, self._is_asking, self._is_line_mode = is_running, is_asking, is_line_mode
        self._has_unread = has_unread
        self._waiting: collections.deque[tuple[bytes, Later]] = collections.deque()
        #: Rises when another agent sits at the terminal, or nobody any more.
        self._turn = 0

    def take(self, keys: bytes, later: Later) -> None:
        """Type ``keys`` and Enter in turn, then answer.

        Raises ``Refused`` while a permission prompt is open, ``Busy`` while no agent runs or too many wait.
        """
        self._check("nothing was typed")
        if len(self._waiting) >= WAITING_LIMIT:
            raise Busy(f"{WAITING_LIMIT} texts are waiting to be typed already", hint="try again in a moment")
        self._waiting.append((keys, later))
        if len(self._waiting) == 1:
            self._type_next()

    def begin_anew(self) -> None:
        """Another agent sits there now, or none: what is waiting for the last one is not typed any more."""
        self._turn += 1
        waiting, self._waiting = self._waiting, collections.deque()
        for _, later in waiting:
            later.fail(Busy(f"the agent of session {self._name} ended before the text was typed whole", hint="send it again"))

    def _type_next(self) -> None:
        while self._waiting:
            keys, later = self._waiting[0]
            try:
                self._check("nothing was typed")
            except CrewkeepError as error:
                self._waiting.popleft()
                later.fail(error)
                continue
            self._press(keys)
            if not self._is_line_mode():
                self._timers.call_later(_ENTER_DELAY_S, functools.partial(self._go_on, self._turn, 0.0, was_unread=False))
                return
            self._press_enter()

    def _go_on(self, turn: int, waited_s: float, *, was_unread: bool) -> None:
        if turn != self._turn:
            return
        is_unread = waited_s < _READ_LIMIT_S and self._has_unread()
        if is_unread or was_unread:  # it read the text only now: the moment begins here
            again = functools.partial(self._go_on, turn, waited_s + _ENTER_DELAY_S, was_unread=is_unread)
            self._timers.call_later(_ENTER_DELAY_S, again)
            return
        self._press_enter()
        self._type_next()

    def _press_enter(self) -> None:
        keys, later = self._waiting.popleft()
        try:
            self._check("the text was typed, Enter was not")
        except CrewkeepError as error:
            later.fail(error)
            return
        self._press(ENTER)
        later.answer({"typed_bytes": len(keys)})

    def _check(self, what: str) -> None:
        if not self._is_running():
            raise Busy(f"no agent of session {self._name} runs now; {what}", hint="try again in a moment")
        if self._is_asking():
            raise Refused(
                f"the agent of session {self._name} asks for a permission; {what}",
                hint=f"answer it yourself: crewkeep attach {self._name}",
            )


def make_keys(text: object, *, bracketed: bool, line_mode: bool) -> bytes:
    """Return the bytes that type ``text``, without the Enter behind it.

    ``bracketed``: the program asked that pasted text be marked, so that its line ends are not taken for Enter.
    ``line_mode``: the program reads whole lines. Raises ``InvalidInput`` for what cannot be typed whole: control
    characters (they are keys, not text), and lines that the kernel would cut.
    """
    if not isinstance(text, str):
        raise InvalidInput("there is no text to type", hint="crewkeep send SESSION TEXT")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if found := _CONTROL.search(text):
        raise InvalidInput(
            f"the text holds a control character ({found[0]!r} at {found.start()}); only plain text is typed",
            hint="press keys yourself: crewkeep attach SESSION",
        )
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput("the text is not Unicode that can be encoded", hint="give UTF-8") from error
    if len(data) > TEXT_LIMIT_BYTES:
        raise InvalidInput(
            f"the text has {len(data)} bytes, more than {TEXT_LIMIT_BYTES}", hint="put it into a file and send its path"
        )
    if line_mode and (longest := max(map(len, data.split(b"\n")))) >= _LINE_LIMIT_BYTES:
        raise InvalidInput(
            f"a line of {longest} bytes is more than the agent's terminal takes ({_LINE_LIMIT_BYTES - 1})",
            hint="put it into a file and send its path",
        )
    if bracketed and "\n" in text and not line_mode:  # one line may be a command (`:q`), which pasted would be mere text
        return _PASTE_START + data + _PASTE_END
    return data.replace(b"\n", ENTER)
