"""Readable lines out of what a program wrote to its terminal, whatever it wrote.

The bytes are played on a small screen (``screen``): progress bars overwrite themselves, full-screen programs draw, and
what scrolls out at the top, is cleared or is left behind becomes lines. Of an alternate screen its last frame is kept.
Colours, titles, links, pictures and questions are dropped.

Invariants:
  - never raises, for any bytes; memory is bounded by the screen and one held sequence
  - no control character, and nothing that turns the direction of text, comes out: lines are safe to print
  - the lines are the same however the bytes were cut into pieces
Not promised: what the terminal really showed if its size was another than the one given.
"""

from __future__ import annotations

import codecs
import collections
import re

from crewkeep.terminal.screen import Row, Screen

#: Large enough for most: a program that draws by moving up is then right also in a smaller window.
DEFAULT_ROWS, DEFAULT_COLUMNS = 60, 200
_LEAST_ROWS = 24
_HELD_LIMIT = 4096
#: A string (title, picture) that does not end is text again after so many characters.
_STRING_LIMIT = 1 << 20
_NUMBER_LIMIT = 10_000
#: Several empty lines in a row are cut to this; programs that scroll emptiness must not fill the log.
_EMPTY_RUN_LIMIT = 100
#: `render_text` keeps the newest lines, up to so many characters; only hostile bytes reach it. Arbitrary.
_CHARACTERS_LIMIT = 64 << 20
_PIECE = 1 << 16

_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f-\x9f]+)"
    r"|(?P<control>(?:\x1b\[|\x9b)(?P<marks>[<-?]*)(?P<numbers>[0-9;:]*)(?P<between>[ -/]*)(?P<final>[@-~]))"
    r"|(?P<string>\x1b[\]PX^_k]|[\x90\x98\x9d-\x9f])"
    r"|\x1b(?P<charset>[()])(?P<set>[ -~])"
    r"|\x1b(?P<escape>[ -/]+[0-~]|[0-OQ-WYZ\\`-jl-~])"
    r"|(?P<single>[\x00-\x1f\x7f-\x9f])"
)
#: Lines without anything special, as most logs are made of.
_PLAIN = re.compile(r"(?:[ -~]*+\r\n)++")
_PLAIN_LINE_LIMIT = 4096
_PLAIN_EVERY = 512
_UNFINISHED = re.compile(r"(?:\x1b\[|\x9b)[0-?]*[ -/]*|\x1b[ -/]*")
_TITLE_END = re.compile(r"[\x07\x1b\x18\x1a\x9c\n]")
_STRING_END = re.compile(r"[\x1b\x18\x1a\x9c]")
#: Marks of direction, separators of lines, annotations, invisible tags: text that is not what it seems.
_DECEPTIVE = re.compile("[\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]")
_LINE_DRAWING = str.maketrans("`afgjklmnopqrstuvwxyz{|}~", "◆▒°±┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£·")


def render_text(raw: bytes, *, rows: int = DEFAULT_ROWS, columns: int = DEFAULT_COLUMNS) -> list[str]:
    """Return the readable lines of ``raw``; ``rows`` and ``columns`` are those of the terminal it was meant for."""
    renderer = Renderer(rows, columns)
    lines: collections.deque[str] = collections.deque()
    characters = 0
    for start in range(0, len(raw), _PIECE):
        renderer.feed(raw[start : start + _PIECE])
        for line in renderer.take_lines():
            lines.append(line)
            characters += len(line) + 1
            while characters > _CHARACTERS_LIMIT:
                characters -= len(lines.popleft()) + 1
    lines.extend(renderer.finish())
    return list(lines)


def find_cursor(raw: bytes, rows: int, columns: int) -> tuple[int, int]:
    """Return row and column, counted from 1, of the cursor after ``raw`` on a new screen."""
    renderer = Renderer(rows, columns, least_rows=2)
    renderer.feed(raw)
    screen = renderer.screen
    return screen.y + 1, min(screen.x, screen.columns - 1) + 1


class Renderer:
    """Renders a stream piece by piece."""

    def __init__(self, rows: int = DEFAULT_ROWS, columns: int = DEFAULT_COLUMNS, *, least_rows: int = _LEAST_ROWS) -> None:
        self._lines: list[str] = []
        self._empty_run = 0
        #: The beginning of a long line whose first rows are out already, and what was handed out for it.
        self._begun: list[str] = []
        self._begun_emitted: str | None = None
        self._begun_length = 0
        self._main = Screen(max(rows, least_rows), columns, self._on_row_out)
        self._alternate: Screen | None = None
        #: The main screen was drawn by position, not written line by line, since it was last cleared.
        self._is_drawn = False
        self._charsets = ["B", "B"]
        self._charset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        #: Within a string: what ends it, and how much more is skipped.
        self._string_end: re.Pattern[str] | None = None
        self._string_left = 0
        self._took_plain = False

    @property
    def screen(self) -> Screen:
        """The one that is shown now."""
        return self._alternate or self._main

    def feed(self, data: bytes) -> None:
        """Play more bytes."""
        text = self._held + self._decoder.decode(data)
        self._held = ""
        at, end, plain_at = 0, len(text), 0
        while at < end:
            if self._string_end is not None:
                at = self._skip_string(text, at)
                continue
            if at >= plain_at and self._main.x == 0 and (at == 0 or text[at - 1] == "\n"):
                plain_at = self._take_plain(text, at)
                if self._took_plain:
                    at = plain_at
                    continue
            match = _TOKEN.match(text, at)
            assert match is not None, "every character begins a token"
            if match["single"] in ("\x1b", "\x9b"):
                begun = _UNFINISHED.match(text, at)
                assert begun is not None
                if begun.end() == end and end - at < _HELD_LIMIT:
                    self._held = text[at:]
                    return
                at = begun.end()  # it goes on as no sequence may: what there was of it is dropped
                continue
            self._play(match)
            at = match.end()

    def take_lines(self) -> list[str]:
        """Return the lines that are final, once."""
        lines, self._lines = self._lines, []
        return lines

    def take_settled(self) -> list[str]:
        """Return the final lines and those that stand on the screen above the cursor and were not handed out so before.

        For following live: a line that is redrawn afterwards is handed out again.
        """
        limit = len(self._alternate.grid) if self._alternate else self._main.y
        if self._alternate:
            self._hand_out_settled(self._main.grid, self._main.y)
        self._hand_out_settled(self.screen.grid, limit)
        return self.take_lines()

    def finish(self) -> list[str]:
        """Return all that is left, with what stands on the screen."""
        self._leave_alternate()
        self._commit()
        return self.take_lines()

    def _hand_out_settled(self, grid: list[Row], limit: int) -> None:
        begun = list(self._begun) if grid is self._main.grid else []
        emitted = self._begun_emitted if begun else None
        first: Row | None = None
        limit = min(limit, _find_last(grid))
        for index, row in enumerate(grid[:limit]):
            if first is None and not begun:
                first, emitted = row, row.emitted
            begun.append(row.text())
            if row.wrapped and index + 1 < len(grid):
                continue
            text = "".join(begun).rstrip()
            if self._emit(text, emitted):
                if first is None:
                    self._begun_emitted = text
                else:
                    first.emitted = text
            begun, first = [], None

    # Lines

    def _on_row_out(self, row: Row) -> None:
        if not self._begun:
            self._begun_emitted = row.emitted
        text = row.text()
        self._begun.append(text)
        self._begun_length += len(text)
        if not row.wrapped or self._begun_length > _STRING_LIMIT:
            self._end_line()

    def _end_line(self) -> None:
        self._emit("".join(self._begun).rstrip(), self._begun_emitted)
        self._begun, self._begun_emitted, self._begun_length = [], None, 0

    def _emit(self, text: str, emitted: str | None) -> bool:
        """Hand out a line unless it was already, or is now empty; tell whether."""
        if text == emitted or (not text and emitted is not None):
            return False
        self._empty_run = 0 if text else self._empty_run + 1
        if self._empty_run <= _EMPTY_RUN_LIMIT:
            self._lines.append(text)
        return True

    def _commit(self) -> None:
        """Let what stands on the main screen become lines, and begin a new one."""
        last = _find_last(self._main.grid)
        for row in self._main.grid[:last]:
            self._on_row_out(row)
        if self._begun:
            self._end_line()
        column = self._main.x
        wraps = self._main.wraps
        self._main.reset()
        self._main.wraps = wraps
        self._main.move(x=column)
        self._is_drawn = False

    def _enter_alternate(self) -> None:
        if self._alternate is None:
            self._alternate = Screen(self._main.rows, self._main.columns)

    def _leave_alternate(self) -> None:
        if self._alternate is None:
            return
        grid, self._alternate = self._alternate.grid, None
        last = _find_last(grid)
        if last == 0:
            return
        self._commit()
        first = next(index for index, row in enumerate(grid) if row.text().strip())
        for row in grid[first:last]:
            self._on_row_out(row)
        if self._begun:
            self._end_line()

    def _take_plain(self, text: str, at: int) -> int:
        """Let many plain lines become lines at once, if the screen allows it: the same result, far sooner.

        Returns where they end (``_took_plain``), or else where it is worth trying again.
        """
        self._took_plain = False
        found = _PLAIN.match(text, at)
        if found is None:
            return at + _PLAIN_EVERY if at else 1
        screen, lines = self._main, found[0].split("\r\n")
        lines.pop()
        y, grid = screen.y, screen.grid
        if (
            len(lines) < 2 * screen.rows
            or self._alternate is not None
            or self._charsets[self._charset] == "0"
            or (screen.top, screen.bottom, screen.wraps) != (0, screen.rows - 1, True)
            or _find_last(grid) > y
            or grid[y].cells
            or (y > 0 and grid[y - 1].wrapped)
            or self._begun
            or max(map(len, lines)) > _PLAIN_LINE_LIMIT
        ):
            return found.end()
        for row in grid[:y]:
            self._on_row_out(row)
        for line in lines[: -screen.rows]:
            self._emit(line.rstrip(), None)
        screen.clear_rows()
        for line in lines[-screen.rows :]:
            if line:
                screen.write(line)
            screen.move(x=0)
            screen.line_feed()
        self._took_plain = True
        return found.end()

    # Sequences

    def _skip_string(self, text: str, at: int) -> int:
        assert self._string_end is not None
        found = self._string_end.search(text, at, at + self._string_left)
        if found is None:
            skipped = min(len(text) - at, self._string_left)
            self._string_left -= skipped
            if self._string_left <= 0:
                self._string_end = None
            return at + skipped
        self._string_end = None
        # An escape begins the end mark or something new; a line end is one, whatever it stands in.
        return found.start() if found[0] in "\x1b\n" else found.end()

    def _play(self, match: re.Match[str]) -> None:
        if (text := match["text"]) is not None:
            if not text.isascii():
                text = _DECEPTIVE.sub("", text)
            if self._charsets[self._charset] == "0":
                text = text.translate(_LINE_DRAWING)
            if text:
                self.screen.write(text)
        elif match["control"] is not None:
            self._play_control(match["marks"], match["numbers"], match["between"], match["final"])
        elif (string := match["string"]) is not None:
            self._string_end = _TITLE_END if string in ("\x1b]", "\x1bk", "\x9d") else _STRING_END
            self._string_left = _STRING_LIMIT
        elif match["charset"] is not None:
            self._charsets["()".index(match["charset"])] = match["set"]
        elif (escape := match["escape"]) is not None:
            self._play_escape(escape)
        else:
            self._play_single(match["single"])

    def _play_single(self, single: str) -> None:
        screen = self.screen
        if single in "\n\x0b\x0c\x84":
            screen.line_feed()
        elif single == "\x85":
            screen.move(x=0)
            screen.line_feed()
        elif single == "\r":
            screen.move(x=0)
        elif single == "\b":
            screen.move_by(x=-1)
        elif single == "\t":
            screen.tab()
        elif single in "\x0e\x0f":
            self._charset = 1 if single == "\x0e" else 0
        elif single == "\x8d":
            screen.reverse_line_feed()

    def _play_escape(self, escape: str) -> None:
        screen = self.screen
        if escape == "7":
            screen.save()
        elif escape == "8":
            screen.restore()
        elif escape == "D":
            screen.line_feed()
        elif escape == "E":
            screen.move(x=0)
            screen.line_feed()
        elif escape == "M":
            screen.reverse_line_feed()
        elif escape == "c":
            self._leave_alternate()
            self._commit()
            self._main.reset()
            self._charsets, self._charset = ["B", "B"], 0

    def _play_control(self, marks: str, numbers: str, between: str, final: str) -> None:
        if marks == "?" and final in "hl" and not between:
            self._switch(numbers, final == "h")
            return
        if marks or between or ":" in numbers:
            return  # keyboard protocols, styles, questions: nothing that puts text anywhere
        screen = self.screen
        given = [min(int(number[:9]), _NUMBER_LIMIT) if number else None for number in numbers.split(";")[:4]]
        first = given[0]
        count = first or 1
        if act := _MOVES.get(final):
            screen.move_by(x=act[0] * count, y=act[1] * count)
            if final in "EF":
                screen.move(x=0)
        elif final in "G`":
            screen.move(x=count - 1)
        elif final in "Hf":
            row = count - 1
            screen.move(x=((given[1] if len(given) > 1 else None) or 1) - 1, y=row)
            self._is_drawn = self._is_drawn or row > 0
        elif final == "d":
            screen.move(y=count - 1)
            self._is_drawn = True
        elif final == "J":
            self._erase_in_screen(first or 0)
        elif final == "K":
            screen.erase_in_row(first or 0)
        elif final == "r":
            screen.set_region(count - 1, ((given[1] if len(given) > 1 else None) or screen.rows) - 1)
        elif final == "I":
            screen.tab(count)
        elif final == "Z":
            screen.tab(1 - count - (screen.x % 8 == 0))
        elif final == "s":
            screen.save()
        elif final == "u":
            screen.restore()
        elif name := _EDITS.get(final):
            getattr(screen, name)(count)

    def _erase_in_screen(self, part: int) -> None:
        whole = part == 2 or (part == 0 and self.screen.x == 0 and self.screen.y == 0)
        if whole and self._alternate is None and not self._is_drawn:
            # Written line by line: somebody reading a log wants what `clear` took away.
            x, y = self._main.x, self._main.y
            self._commit()
            self._main.move(x=x, y=y)
        else:
            self.screen.erase_in_screen(part)
        if whole:
            self._is_drawn = False

    def _switch(self, numbers: str, on: bool) -> None:
        for number in numbers.split(";"):
            if number in ("47", "1047", "1049"):
                self._enter_alternate() if on else self._leave_alternate()
            elif number == "7":
                self.screen.wraps = on
            elif number == "1048":
                self.screen.save() if on else self.screen.restore()


def _find_last(grid: list[Row]) -> int:
    """Return the count of rows up to the last that holds text."""
    return next((index + 1 for index in reversed(range(len(grid))) if grid[index].text().strip()), 0)


#: Final characters that move the cursor by so many columns and rows.
_MOVES = {
    "A": (0, -1),
    "B": (0, 1),
    "C": (1, 0),
    "D": (-1, 0),
    "E": (0, 1),
    "F": (0, -1),
    "a": (1, 0),
    "e": (0, 1),
}
#: Final characters that edit, with a count.
_EDITS = {
    "@": "insert_cells",
    "L": "insert_rows",
    "M": "delete_rows",
    "P": "delete_cells",
    "S": "scroll_up",
    "T": "scroll_down",
    "X": "erase_cells",
    "b": "repeat",
}
