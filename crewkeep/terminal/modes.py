"""What a program has asked of its terminal so far: modes switched on, where its present screen began, open questions.

A keeper does not emulate a terminal (that would cost more than the agent's output is worth); it only watches for the few
control sequences that outlive the moment. From them follow what a terminal that attaches late must be told, and what one
that leaves must be put back from. Python sees only the sequences, found by one regular expression, never each byte.

Invariants:
  - what is held back between two calls is at most one unfinished sequence of ``_HELD_LIMIT_BYTES``
  - ``restore`` undoes everything that ``feed`` has seen switched on
Not promised: 8-bit control codes; sequences longer than the limit.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_HELD_LIMIT_BYTES = 512
#: ESC c | CSI ... final | ESC = and > (keypad) | OSC, DCS up to their end | other two-byte escapes.
_SEQUENCE = re.compile(
    rb"\x1b(?:"
    rb"\[(?P<marks>[<-?]?)(?P<numbers>[0-9;:]*)(?P<between>[ -/]*)(?P<final>[@-~])"
    rb"|\](?P<command>[^\x07\x1b]{0,400})(?:\x07|\x1b\\)"
    rb"|P(?P<device>[^\x1b]{0,400})\x1b\\"
    rb"|(?P<simple>[=>c])"
    rb")"
)
#: A sequence that the bytes end in the middle of.
_UNFINISHED = re.compile(rb"\x1b(?:\[[<-?]?[0-9;:]*[ -/]*|[\]P][^\x07\x1b]*\x1b?)?\Z")

_ALTERNATE = frozenset({47, 1047, 1049})
#: Private modes that a terminal has on when it is new; "on" is what must be put back.
_ON_WHEN_NEW = frozenset({7, 25})
#: Private modes worth remembering: cursor keys, origin, wrap, cursor, mouse in its variants, focus, paste, colour scheme,
#: resize reports, win32 keys, synchronized output.
_KNOWN = frozenset(
    {1, 6, 7, 9, 25, 66, 1000, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 2004, 2026, 2031, 2048, 9001} | _ALTERNATE
)
_ORIGIN, _SYNCHRONIZED, _PASTE = 6, 2026, 2004
_KITTY_DEPTH_LIMIT = 64
_COLORS_SET, _COLORS_RESET = frozenset({b"10;", b"11;", b"12;"}), frozenset({b"110", b"111", b"112"})
#: Window operations that report something.
_REPORTS = frozenset({b"11", b"13", b"14", b"15", b"16", b"18", b"19", b"20", b"21"})


class Question(StrEnum):
    """What a program asked its terminal."""

    CURSOR = "cursor"
    STATUS = "status"
    ATTRIBUTES = "attributes"
    #: Something that a plain terminal need not answer.
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Query:
    """A question within a piece of output: the bytes from ``start`` to ``end`` of it."""

    kind: Question
    start: int
    end: int
    #: Offset in the stream behind the question.
    offset: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Output cut at whole sequences: show it as it is, or without its questions."""

    data: bytes
    #: Offset in the stream behind ``data``.
    end: int
    queries: tuple[Query, ...] = ()

    def without_queries(self) -> bytes:
        if not self.queries:
            return self.data
        parts, at = [], 0
        for query in self.queries:
            parts.append(self.data[at : query.start])
            at = query.end
        return b"".join([*parts, self.data[at:]])


class Modes:
    """Follows one stream of output."""

    def __init__(self, offset: int = 0) -> None:
        #: Offset behind everything that was fed.
        self.offset = offset
        #: Offset at which the present screen began: a clear, or the entry into the alternate screen.
        self.screen_offset = offset
        self._cleared = False
        self._held = b""
        self._private: set[int] = set()
        self._kitty = 0
        self._keypad = False
        self._other_keys = False
        self._cursor_style = False
        self._scroll_region = False
        #: Colours of the terminal's own that were set: 10 text, 11 background, 12 cursor.
        self._colors: set[bytes] = set()

    @property
    def is_full_screen(self) -> bool:
        """The program draws on the alternate screen."""
        return bool(self._private & _ALTERNATE)

    @property
    def wants_paste_marks(self) -> bool:
        """The program asked that pasted text be bracketed."""
        return _PASTE in self._private

    def feed(self, data: bytes) -> Piece:
        """Take in output and return what can be shown of it now; an unfinished sequence comes with the next piece."""
        self.offset += len(data)
        if self._held:
            data, self._held = self._held + data, b""
        if b"\x1b" not in data[-_HELD_LIMIT_BYTES:]:
            pass
        elif (unfinished := _UNFINISHED.search(data, max(0, len(data) - _HELD_LIMIT_BYTES))) is not None:
            data, self._held = data[: unfinished.start()], data[unfinished.start() :]
        end = self.offset - len(self._held)
        queries = []
        if b"\x1b" in data:
            base = end - len(data)
            for match in _SEQUENCE.finditer(data):
                kind = self._take(match, base + match.start())
                if kind is not None:
                    queries.append(Query(kind, match.start(), match.end(), base + match.end()))
        return Piece(data, end, tuple(queries))

    def forget(self) -> None:
        """Begin anew at the present offset: the program that switched modes on is gone."""
        self.__init__(self.offset)  # type: ignore[misc]

    def restore(self) -> bytes:
        """Return what puts a terminal back that was shown this stream; harmless on one that was not."""
        parts = [b"\x1b[?2026l"] if _SYNCHRONIZED in self._private else []
        parts += [b"\x1b[<%du" % self._kitty] if self._kitty else []
        parts += [b"\x1b[>4;0m"] if self._other_keys else []
        parts += [b"\x1b>"] if self._keypad else []
        parts += [b"\x1b[?%dl" % mode for mode in sorted(self._private - _ON_WHEN_NEW - _ALTERNATE - {_SYNCHRONIZED})]
        parts += [b"\x1b[?%dh" % mode for mode in sorted(self._private & _ON_WHEN_NEW)]
        parts += [b"\x1b7\x1b[r\x1b8"] if self._scroll_region else []  # it moves the cursor home
        parts += [b"\x1b[?%dl" % mode for mode in sorted(self._private & _ALTERNATE)]
        parts += [b"\x1b[0 q"] if self._cursor_style else []
        parts += [b"\x1b]1%s\x07" % color for color in sorted(self._colors)]
        # What a program drew below its cursor would stand around what is written next; its own screen goes away whole.
        erase = b"\x1b[J" if self._private and not self.is_full_screen else b""
        return b"".join([*parts, b"\x1b(B\x0f\x1b[m", erase])

    def enter(self) -> bytes:
        """Return what a terminal must be told before it is shown the present screen."""
        parts = [b"\x1b[?%dh" % mode for mode in sorted(self._private & _ALTERNATE)]
        # A program goes home before it clears; the screen began with the clear.
        return b"".join([*parts, b"\x1b[H" if self._cleared else b""])

    def settle(self) -> bytes:
        """Return what a terminal must be told after it was shown the present screen, so that its modes are the program's."""
        parts = [b"\x1b[?%dh" % mode for mode in sorted(self._private - _ON_WHEN_NEW - _ALTERNATE - {_ORIGIN, _SYNCHRONIZED})]
        parts += [b"\x1b[?%dl" % mode for mode in sorted(self._private & _ON_WHEN_NEW)]
        parts += [b"\x1b[>1u"] * min(self._kitty, 1)
        parts += [b"\x1b="] if self._keypad else []
        return b"".join(parts)

    def _take(self, match: re.Match[bytes], start: int) -> Question | None:
        """Note what a sequence changes; return the question if it is one."""
        if (final := match["final"]) is not None:
            return self._take_control(match, final, start)
        if (simple := match["simple"]) is not None:
            if simple == b"c":
                offset, self.offset = self.offset, start
                held, self._held = self._held, b""
                self.forget()
                self.offset, self._held = offset, held
            else:
                self._keypad = simple == b"="
        elif (command := match["command"]) is not None:
            if command.endswith(b";?") or b";?;" in command:
                return Question.OTHER
            if command[:3] in _COLORS_SET:
                self._colors.add(command[:2])
            elif command in _COLORS_RESET:
                self._colors.discard(command[1:])
        elif (device := match["device"]) is not None:
            return Question.OTHER if device[:2] in (b"+q", b"$q") else None
        return None

    def _take_control(self, match: re.Match[bytes], final: bytes, start: int) -> Question | None:
        marks, numbers, between = match["marks"], match["numbers"], match["between"]
        if final in b"hl" and marks == b"?" and not between:
            for number in numbers.split(b";"):
                self._switch(int(number) if number.isdigit() and len(number) < 6 else 0, final == b"h", start)
        elif final == b"J" and not marks and numbers == b"2":
            self.screen_offset, self._cleared = start, True
        elif final == b"u" and marks:
            return self._take_kitty(marks, numbers)
        elif final == b"m" and marks == b">" and numbers.startswith(b"4"):
            self._other_keys = numbers not in (b"4", b"4;", b"4;0")
        elif final == b"q" and between == b" ":
            self._cursor_style = numbers not in (b"", b"0")
        elif final == b"r" and not marks and not between:
            self._scroll_region = bool(numbers)
        elif final == b"n" and marks in (b"", b"?"):
            return {b"6": Question.CURSOR, b"5": Question.STATUS}.get(numbers, Question.OTHER) if not marks else Question.OTHER
        elif final == b"c":
            return Question.ATTRIBUTES if not marks else Question.OTHER if marks in b">=" else None
        elif (marks + between + final) in (b">q", b"$p", b"?$p", b"x") or (final == b"t" and numbers[:2] in _REPORTS):
            return Question.OTHER
        return None

    def _take_kitty(self, marks: bytes, numbers: bytes) -> Question | None:
        count = int(numbers[:3]) if numbers[:3].isdigit() else 1
        if marks == b"?":
            return Question.OTHER
        if marks == b">":
            self._kitty = min(self._kitty + 1, _KITTY_DEPTH_LIMIT)
        elif marks == b"<":
            self._kitty = max(self._kitty - max(count, 1), 0)
        elif marks == b"=" and numbers.split(b";")[0] not in (b"", b"0"):
            self._kitty = max(self._kitty, 1)
        return None

    def _switch(self, mode: int, on: bool, start: int) -> None:
        if mode not in _KNOWN:
            return
        if mode in _ALTERNATE:
            self.screen_offset, self._cleared = start, False
            if not on:
                self._private -= _ALTERNATE
                return
        if on != (mode in _ON_WHEN_NEW):
            self._private.add(mode)
        else:
            self._private.discard(mode)
