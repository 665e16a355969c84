"""``crewkeep logs``: what a session printed, readable or raw."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from crewkeep.cli import output
from crewkeep.cli.house import open_house
from crewkeep.cli.options import Json, Session

#: Raw bytes that are read for each line that was asked for; a redrawn line costs many.
_BYTES_A_LINE = 4096
_LEAST_BYTES = 1 << 18


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("logs")(show_logs)


def show_logs(
    session: Session,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the session ends.")] = False,
    lines: Annotated[int | None, typer.Option("-n", "--lines", min=0, metavar="N", help="Only the last N lines.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="The very bytes that the terminal got.")] = False,
    as_json: Json = False,
) -> None:
    """Print a session's output; the newest is kept, across restarts."""
    from crewkeep.terminal.follow import follow_lines, follow_raw
    from crewkeep.terminal.output import OutputLog
    from crewkeep.terminal.render import DEFAULT_COLUMNS, DEFAULT_ROWS, render_text

    house = open_house()
    record = house.registry.find(session)
    log = OutputLog(house.home.session(record.id).output, house.settings.output_limit_bytes)
    # Where following begins, fixed before anything is read: what comes meanwhile is printed later, not twice.
    end = log.end_offset
    limit = house.settings.output_limit_bytes if lines is None else max(lines * _BYTES_A_LINE, _LEAST_BYTES)
    if raw and not as_json:
        data = log.tail(limit)
        _print_raw(b"".join(data.splitlines(keepends=True)[-lines or len(data) :]) if lines is not None else data)
        if follow:
            for piece in follow_raw(house.home, house.registry, record.id, from_offset=end):
                _print_raw(piece)
    elif follow:
        begin = max(end - limit, 0)
        for line in follow_lines(house.home, house.registry, record.id, from_offset=begin, last=lines):
            _print_lines([line], as_json)
    else:
        rows, columns = log.find_size() or (DEFAULT_ROWS, DEFAULT_COLUMNS)
        shown = render_text(log.tail(limit), rows=rows, columns=columns)
        _print_lines(shown if lines is None else shown[max(len(shown) - lines, 0) :], as_json)


def _print_lines(lines: list[str], as_json: bool) -> None:
    for line in lines:
        if as_json:
            output.print_json_line({"line": line})
        else:
            output.print_line(line)
    sys.stdout.flush()


def _print_raw(data: bytes) -> None:
    sys.stdout.flush()
    descriptor = sys.stdout.fileno()
    while data:
        data = data[os.write(descriptor, data) :]
