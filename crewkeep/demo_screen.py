"""What the user sees of the demo: a board that fills, four sessions, what happened; on no terminal, only what happened."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any, TextIO

from coordinator.sessions.model import Phase, SessionRecord
from crewkeep.cli.output import paint, uses_colour
from crewkeep.demo_result import DemoResult, Kill

_COLOURS = ("cyan", "yellow", "green", "blue")
_HEIGHT_OF_HISTORY = 10
_ROW_LENGTH = 20


@dataclass(frozen=True, slots=True)
class State:
    """One frame."""

    seconds: float
    #: The tasks' values, in order.
    board: list[dict[str, Any]]
    records: dict[str, SessionRecord]


class Screen:
    """Draws on ``stream``; on a terminal in place, otherwise line by line; ``None`` draws nothing."""

    def __init__(self, stream: TextIO | None, task_count: int) -> None:
        self._stream, self._task_count = stream, task_count
        self._live = stream is not None and stream.isatty() and uses_colour(stream)
        self._history: list[tuple[str, str]] = []
        self._drawn = 0
        self._last: State | None = None

    def say(self, seconds: float, text: str, colour: str = "") -> None:
        """Tell one thing that happened."""
        self._history.append((f"{seconds:5.1f} s  {text}", colour))
        if self._stream is not None and not self._live:
            self._stream.write(f"{seconds:5.1f} s  {text}\n")
            self._stream.flush()
        elif self._last is not None:
            self.draw(self._last)

    def draw(self, state: State) -> None:
        """Draw one frame in the place of the last."""
        self._last = state
        if self._stream is None or not self._live:
            return
        width = shutil.get_terminal_size().columns
        lines = [*self._build_board(state), "", *self._build_sessions(state), "", *self._build_history(width)]
        # Each line is cleared to its end as it is written: clearing all first would flicker.
        up = f"\x1b[{self._drawn}A\r" if self._drawn else "\r"
        self._stream.write(up + "".join(f"{line}\x1b[K\n" for line in lines) + "\x1b[J")
        self._stream.flush()
        self._drawn = len(lines)

    def close(self) -> None:
        """Leave what was drawn where it is."""
        if self._stream is not None:
            self._stream.flush()

    def show_result(self, result: DemoResult) -> None:
        """Print the table of what was measured."""
        if self._stream is None:
            return
        for line in format_result(result):
            self._stream.write(line + "\n")
        self._stream.flush()

    def _build_board(self, state: State) -> list[str]:
        done = sum(task["state"] == "done" for task in state.board)
        lines = [f"  shared task board: {done} of {self._task_count} done, {state.seconds:.0f} s"]
        names = list(state.records)
        for start in range(0, len(state.board), _ROW_LENGTH):
            cells = []
            for task in state.board[start : start + _ROW_LENGTH]:
                mark = {"open": "·", "taken": "▒", "done": "█"}[task["state"]] * 2
                by = task.get("by")
                cells.append(paint(mark, _COLOURS[names.index(by) % len(_COLOURS)] if by in names else "dim", self._stream))
            lines.append("  " + " ".join(cells))
        return lines

    def _build_sessions(self, state: State) -> list[str]:
        lines = ["  session   state        epoch   agent pid   keeper pid   tasks done"]
        for index, (name, record) in enumerate(state.records.items()):
            done = sum(task["state"] == "done" and task.get("by") == name for task in state.board)
            ended = record.phase is Phase.ENDED
            agent = "-" if ended or record.agent is None else record.agent.pid
            keeper = "-" if ended or record.owner is None else record.owner.pid
            word = str(record.outcome) if ended and record.outcome else str(record.phase)
            colour = {"running": "green", "recovering": "red", "starting": "cyan"}.get(word, "dim")
            painted = paint(name.ljust(8), _COLOURS[index % len(_COLOURS)], self._stream)
            shown = paint(word.ljust(11), colour, self._stream)
            lines.append(f"  {painted}  {shown}  {record.epoch:5}   {agent:>9}   {keeper:>10}   {done:>10}")
        return lines

    def _build_history(self, width: int) -> list[str]:
        shown = self._history[-_HEIGHT_OF_HISTORY:]
        lines = [paint(f"  {text}"[: width - 1], colour, self._stream) for text, colour in shown]
        return lines + [""] * (_HEIGHT_OF_HISTORY - len(lines))


def format_result(result: DemoResult) -> list[str]:
    """Return the closing table."""
    lines = ["", f"  measured{'':28}" + "".join(f"{f'{kill.what} killed':>16}" for kill in result.kills)]
    lines.append(f"  {'death noticed after':<36}" + "".join(_cell(kill, kill.noticed_ms) for kill in result.kills))
    lines.append(f"  {'running again after':<36}" + "".join(_cell(kill, kill.running_ms) for kill in result.kills))
    lines += [
        f"  {'acknowledged writes':<36}{result.writes_acknowledged:>16}",
        f"  {'acknowledged writes lost':<36}{result.writes_lost:>16}",
        f"  {'tasks done':<36}{result.tasks_done:>16}",
        f"  {'wrong results':<36}{result.wrong_results:>16}",
        f"  {'leftovers (processes, files)':<36}{result.leftover_processes + result.leftover_files:>16}",
        f"  {'took':<36}{f'{result.seconds:.1f} s':>16}",
        "",
    ]
    return lines


def _cell(kill: Kill, value_ms: float | None) -> str:
    return f"{'-' if value_ms is None else f'{value_ms:.0f} ms':>16}"
