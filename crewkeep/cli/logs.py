"""``crewkeep logs``: what a session printed, readable or raw."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from coordinator.sessions.model import FINAL_STATES
from crewkeep.cli import output
from crewkeep.cli.house import House, open_house
from crewkeep.cli.options import Json, Session
from crewkeep.cli.view import describe

_FOLLOW_EVERY_S = 0.1
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
    from crewkeep.terminal.output import OutputLog
    from crewkeep.terminal.render import render_text

    house = open_house()
    record = house.registry.find(session)
    log = OutputLog(house.home.session(record.id).output, house.settings.output_limit_bytes)
    # Where following begins, fixed before anything is read: what comes meanwhile is printed later, not twice.
    end = log.end_offset
    limit = house.settings.output_limit_bytes if lines is None else max(lines * _BYTES_A_LINE, _LEAST_BYTES)
    data = log.tail(limit)
    if raw and not as_json:
        _print_raw(b"".join(data.splitlines(keepends=True)[-lines or len(data) :]) if lines is not None else data)
    else:
        shown = render_text(data)
        _print_lines(shown if lines is None else shown[max(len(shown) - lines, 0) :], as_json)
    if follow:
        _follow(house, record.id, log, end, raw, as_json)


def _follow(house: House, session_id: str, log: object, offset: int, raw: bool, as_json: bool) -> None:
    from crewkeep.terminal.output import OutputLog
    from crewkeep.terminal.render import render_text

    assert isinstance(log, OutputLog)
    pending = b""
    while True:
        state = describe(house, house.registry.get(session_id))["state"]
        piece = log.read_chunk(offset)
        chunk, offset = piece.data, piece.end
        if raw and not as_json:
            _print_raw(chunk)
        else:
            # Only finished lines: what is on the last one may still be overwritten.
            whole, newline, pending = (pending + chunk).rpartition(b"\n")
            _print_lines(render_text(whole + newline) if newline else [], as_json)
        if not chunk and state in FINAL_STATES:
            _print_lines(render_text(pending) if pending else [], as_json)
            return
        if not chunk:
            time.sleep(_FOLLOW_EVERY_S)


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
