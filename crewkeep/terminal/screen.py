"""A terminal's screen as text: rows of cells that are written, moved over, erased and scrolled; no colours.

A row remembers whether its text goes on in the next one, so that a long line comes out whole whatever the width was.

Invariants:
  - at most ``rows`` rows of at most ``columns`` cells, and ``_CELL_LIMIT`` characters a cell
  - 0 <= y < rows, 0 <= x <= columns; x == columns says that the next character begins a new row
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable

#: Larger terminals are rendered as if they had so many; a bound on memory.
ROW_LIMIT, COLUMN_LIMIT = 500, 1000
#: A character with its accents and joiners.
_CELL_LIMIT = 8
_TAB = 8


class Row:
    """One row. A wide character is followed by an empty cell."""

    __slots__ = ("cells", "emitted", "wrapped")

    def __init__(self) -> None:
        self.cells: list[str] = []
        #: The text goes on in the next row.
        self.wrapped = False
        #: What was already handed out as this row's text; ``None`` if nothing was.
        self.emitted: str | None = None

    def text(self) -> str:
        return "".join(self.cells)

    def put(self, x: int, cells: list[str]) -> None:
        if len(self.cells) < x:
            self.cells += [" "] * (x - len(self.cells))
        end = x + len(cells)
        # Half of a wide character that is overwritten takes the other half with it.
        if x < len(self.cells) and self.cells[x] == "" and x:
            self.cells[x - 1] = " "
        if end < len(self.cells) and self.cells[end] == "":
            self.cells[end] = " "
        self.cells[x:end] = cells

    def cut(self, x: int) -> None:
        """Erase from ``x`` to the end."""
        if x < len(self.cells) and self.cells[x] == "" and x:
            self.cells[x - 1] = " "
        del self.cells[x:]
        self.wrapped = False


class Screen:
    """One screen. ``on_row_out`` is given each row that scrolls out at the top."""

    def __init__(self, rows: int, columns: int, on_row_out: Callable[[Row], None] = lambda row: None) -> None:
        self.rows, self.columns = max(2, min(rows, ROW_LIMIT)), max(2, min(columns, COLUMN_LIMIT))
        self._on_row_out = on_row_out
        self.reset()

    def reset(self) -> None:
        """Be as new; nothing is handed out."""
        self.grid = [Row() for _ in range(self.rows)]
        self.x = self.y = 0
        self.top, self.bottom = 0, self.rows - 1
        self.wraps = True
        self._saved = (0, 0)
        self._last = ""

    def clear_rows(self) -> None:
        """Empty every row and go home; nothing is handed out, all else stays."""
        self.grid = [Row() for _ in range(self.rows)]
        self.x = self.y = 0

    def write(self, text: str) -> None:
        """Put text, without any control character, at the cursor."""
        cells = list(text) if text.isascii() else self._split(text)
        self._last = text[-1]
        at, count = 0, len(cells)
        while at < count:
            if self.x >= self.columns:
                if not self.wraps:
                    self.x = self.columns - 1
                    at = max(at, count - 1)  # all of the rest lands on the last cell
                else:
                    self._wrap()
            end = min(count, at + self.columns - self.x)
            if end < count and cells[end] == "":
                end -= 1  # a wide character does not fit into the last column
                if end == at:
                    self.x = self.columns
                    if not self.wraps:
                        return
                    continue
            self.grid[self.y].put(self.x, cells[at:end])
            self.x += end - at
            at = end

    def repeat(self, count: int) -> None:
        """Write the last character again."""
        if self._last:
            self.write(self._last * min(count, self.columns))

    def move(self, *, x: int | None = None, y: int | None = None) -> None:
        """Put the cursor at a column and row, within the screen."""
        if y is not None:
            self.y = max(0, min(y, self.rows - 1))
        self.x = max(0, min(self.x if x is None else x, self.columns - 1))

    def move_by(self, *, x: int = 0, y: int = 0) -> None:
        """Move the cursor; a scroll region that it is in holds it."""
        low = self.top if self.y >= self.top else 0
        high = self.bottom if self.y <= self.bottom else self.rows - 1
        self.move(x=min(self.x, self.columns - 1) + x, y=max(low, min(self.y + y, high)) if y else None)

    def tab(self, count: int = 1) -> None:
        self.move(x=(min(self.x, self.columns - 1) // _TAB + count) * _TAB)

    def line_feed(self) -> None:
        if self.y == self.bottom:
            self.scroll_up(1)
        else:
            self.move(x=self.x, y=self.y + 1)

    def reverse_line_feed(self) -> None:
        if self.y == self.top:
            self.scroll_down(1)
        else:
            self.move(y=self.y - 1)

    def save(self) -> None:
        self._saved = (self.x, self.y)

    def restore(self) -> None:
        self.move(x=self._saved[0], y=self._saved[1])

    def set_region(self, top: int, bottom: int) -> None:
        """Scroll only these rows from now on; the cursor goes home."""
        top, bottom = max(0, top), min(bottom, self.rows - 1)
        if top < bottom:
            self.top, self.bottom = top, bottom
            self.move(x=0, y=0)

    def scroll_up(self, count: int) -> None:
        self._remove_rows(self.top, count, on_row_out=self._on_row_out if self.top == 0 else None)

    def scroll_down(self, count: int) -> None:
        self._add_rows(self.top, count)

    def insert_rows(self, count: int) -> None:
        if self.top <= self.y <= self.bottom:
            self._add_rows(self.y, count)

    def delete_rows(self, count: int) -> None:
        if self.top <= self.y <= self.bottom:
            self._remove_rows(self.y, count)

    def _remove_rows(self, at: int, count: int, on_row_out: Callable[[Row], None] | None = None) -> None:
        count = min(count, self.bottom - at + 1)
        out = self.grid[at : at + count]
        del self.grid[at : at + count]
        self.grid[self.bottom + 1 - count : self.bottom + 1 - count] = [Row() for _ in range(count)]
        if on_row_out is not None:
            for row in out:
                on_row_out(row)

    def _add_rows(self, at: int, count: int) -> None:
        count = min(count, self.bottom - at + 1)
        del self.grid[self.bottom + 1 - count : self.bottom + 1]
        self.grid[at:at] = [Row() for _ in range(count)]

    def erase_in_row(self, part: int) -> None:
        """0: from the cursor on, 1: up to it, 2: the whole row."""
        row = self.grid[self.y]
        if part == 0:
            row.cut(self.x)
        elif part == 1:
            row.put(0, [" "] * (min(self.x, self.columns - 1) + 1))
        elif part == 2:
            row.cut(0)

    def erase_in_screen(self, part: int) -> None:
        """0: from the cursor on, 1: up to it, 2: everything."""
        self.erase_in_row(part)
        for row in self.grid[self.y + 1 :] if part == 0 else self.grid[: self.y] if part == 1 else self.grid if part == 2 else ():
            row.cut(0)

    def insert_cells(self, count: int) -> None:
        row = self.grid[self.y]
        if self.x < len(row.cells):
            row.cells[self.x : self.x] = [" "] * min(count, self.columns)
            row.cut(self.columns)

    def delete_cells(self, count: int) -> None:
        del self.grid[self.y].cells[self.x : self.x + count]

    def erase_cells(self, count: int) -> None:
        row = self.grid[self.y]
        end = min(self.x + count, len(row.cells))
        if end > self.x:
            row.put(self.x, [" "] * (end - self.x))

    def _wrap(self) -> None:
        self.grid[self.y].wrapped = True
        self.x = 0
        self.line_feed()

    def _split(self, text: str) -> list[str]:
        """Cut text into cells: a character with its accents; behind a wide one an empty cell."""
        cells: list[str] = []
        for character in text:
            width = find_width(character)
            if width == 0:
                self._join(cells, character)
            else:
                cells.append(character)
                if width == 2:
                    cells.append("")
        return cells

    def _join(self, cells: list[str], character: str) -> None:
        """Add an accent to the character before it, which may stand on the screen already."""
        row = cells if cells else self.grid[self.y].cells
        at = len(cells) - 1 if cells else min(self.x, len(row)) - 1
        if at > 0 and row[at] == "":
            at -= 1
        if at >= 0 and len(row[at]) < _CELL_LIMIT:
            row[at] += character


@functools.lru_cache(maxsize=4096)
def find_width(character: str) -> int:
    """Return how many cells a character takes: 0, 1 or 2."""
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
