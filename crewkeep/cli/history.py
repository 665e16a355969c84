"""``crewkeep history``: past conversations of all agents, whoever started them: listed, searched, shown, exported."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.errors import StorageError
from coordinator.services import archive
from coordinator.services.archive import Past
from coordinator.sessions.history import Command, Message
from coordinator.sessions.recorded import Entry
from coordinator.system import files
from crewkeep.cli import output
from crewkeep.cli.app import CONTEXT_SETTINGS
from crewkeep.cli.conversations import describe, list_pasts
from crewkeep.cli.house import House, open_house
from crewkeep.cli.options import Json
from crewkeep.export import Format, describe_mark, export

REF_HELP = "A session (name, id, unique prefix of the id, '.'), or AGENT:ID of a conversation that is no session's."
Ref = Annotated[str, typer.Argument(metavar="S", help=REF_HELP)]
Count = Annotated[int | None, typer.Option("-n", "--lines", min=0, metavar="N", help="Only the newest N.")]


def register(app: typer.Typer) -> None:
    """Add the group; alone it lists."""
    group = typer.Typer(
        help="Past conversations of all agents, newest first; alone it lists them.",
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=CONTEXT_SETTINGS,
    )
    group.callback(invoke_without_command=True)(begin)
    group.command("search")(search)
    group.command("show")(show)
    group.command("export")(export_past)
    app.add_typer(group, name="history")


def begin(ctx: typer.Context, count: Count = None, as_json: Json = False) -> None:
    """List past conversations of all agents, newest first, or search, show or export them."""
    if ctx.invoked_subcommand is None:
        list_pasts(count, as_json)


def search(
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What was said, done or put out; case does not matter.")],
    count: Annotated[int | None, typer.Option("-n", "--lines", min=1, metavar="N", help="Stop after N places.")] = None,
    as_json: Json = False,
) -> None:
    """Find TEXT in the conversations of all agents, newest first, printed as it is found; 1 if it is nowhere."""
    house = open_house()
    rows = []
    number = 0
    for hit in archive.search(house.home, text, os.environ, report=output.note):
        number += 1
        if as_json:
            item = None if hit.entry is None else encode_entry(hit.entry)
            rows.append({**describe(hit.past), "index": hit.index, "item": item, "excerpt": hit.excerpt})
        else:
            who = "title" if hit.entry is None else name_speaker(hit.entry)
            name = f" ({hit.past.name})" if hit.past.name else ""
            output.print_line(output.make_printable(f"{hit.past.ref}{name}  {who}: {hit.excerpt}"))
            sys.stdout.flush()
        if number == count:
            break
    if as_json:
        output.print_json(rows)
    elif not number:
        output.note(f"{text!r} was found nowhere")
    if not number:
        raise typer.Exit(1)


def show(
    ref: Ref,
    count: Annotated[int | None, typer.Option("-n", "--lines", min=0, metavar="N", help="Only the last N entries.")] = None,
    as_json: Json = False,
) -> None:
    """Print what was said and done in a conversation, oldest first."""
    house = open_house()
    past, entries = read(house, ref)
    shown = entries if count is None else entries[max(len(entries) - count, 0) :]
    if as_json:
        output.print_json({**describe(past), "items": [encode_entry(entry) for entry in shown]})
        return
    for line in _iter_lines(shown):
        output.print_line(line)
    if not entries:
        what_it_printed = f"; what it printed: crewkeep logs {past.ref}" if past.session is not None else ""
        output.note(f"nothing is known of what was said in {past.ref}{what_it_printed}")


def export_past(
    ref: Ref,
    format: Annotated[Format, typer.Option("--format", help="atif for other tools, markdown for people, json as it is kept.")],
    file: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Written as a whole or not at all; default: stdout.")
    ] = None,
) -> None:
    """Write a conversation as one document, in UTF-8."""
    past, entries = read(open_house(), ref)
    data = export(format, past, entries)
    if file is None:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
    else:
        _write(file, data)
        output.note(f"{len(entries)} entries of {past.ref} are in {file}")


def _write(file: Path, data: bytes) -> None:
    """Let ``file`` hold the document; a pipe or a device is written to, not replaced by a file. Raises ``StorageError``."""
    if not os.path.exists(file) or os.path.isfile(file) or os.path.isdir(file):
        files.replace_durably(Path(os.path.realpath(file)), data, mode=0o600)
        return
    try:
        with open(file, "wb") as stream:
            stream.write(data)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError.from_os(error, "write", file) from error


def read(house: House, ref: str) -> tuple[Past, list[Entry]]:
    """Return the conversation that ``ref`` means and what was said and done in it."""
    past = archive.find_past(house.home, ref, os.environ)
    return past, archive.read_past(house.home, past)


def encode_entry(entry: Entry) -> dict[str, Any]:
    """Return the fields of one entry, without what its program wrote verbatim."""
    body = entry.encode()
    body.pop("raw", None)
    return {**body, "at": output.format_time(entry.at)}


def name_speaker(entry: Entry) -> str:
    """Return who said or what did something."""
    return str(entry.role) if isinstance(entry, Message) else entry.name if isinstance(entry, Command) else "recording"


def _iter_lines(entries: list[Entry]) -> Iterator[str]:
    for entry in entries:
        when = output.format_time(entry.at) or "-"
        if isinstance(entry, Message):
            yield output.paint(f"{when}  {entry.role}", "cyan")
            yield from _indent(entry.text)
        elif isinstance(entry, Command):
            end = "" if entry.exit_code is None else f" (exit code {entry.exit_code})"
            yield output.paint(f"{when}  {output.make_printable(entry.name)}{end}", "yellow")
            yield from _indent(entry.text, "  $ ")
            yield from _indent(entry.output or "")
        else:
            yield output.paint(f"{when}  {output.make_printable(describe_mark(entry))}", "dim")


def _indent(text: str, first: str = "    ") -> Iterator[str]:
    for index, line in enumerate(text.splitlines()):
        yield (first if index == 0 else "    ") + output.make_printable(line.replace("\t", "    "))
