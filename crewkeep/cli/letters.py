"""``crewkeep tell`` and ``inbox``: messages from session to session."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.errors import InvalidInput
from coordinator.sessions.model import SessionRecord
from crewkeep.cli import output
from crewkeep.cli.claims import find_self, open_crew
from crewkeep.cli.house import open_house
from crewkeep.cli.options import SESSION_HELP, Json, Workspace, complete_sessions

if TYPE_CHECKING:
    from coordinator.services.mailbox import Letter

#: More is refused anyhow, and a stream need not end.
_TEXT_LIMIT = 1 << 20


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("tell", context_settings={"allow_interspersed_args": False})(tell)
    app.command("inbox")(inbox)


def tell(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[SESSION] TEXT...",
            help="Who (not with --all), and what; '-' reads it from standard input.",
            autocompletion=complete_sessions,
        ),
    ],
    everybody: Annotated[bool, typer.Option("--all", help="All other sessions of the workspace.")] = False,
    workspace: Workspace = None,
    as_json: Json = False,
) -> None:
    """Leave a message for a session's agent; it is brought into its conversation at its next turn, exactly once.

    Hooks or the MCP server bring it (crewkeep hooks install); else the agent reads it with crewkeep inbox.
    """
    house = open_house()
    sender = find_self(house)
    crew = open_crew(house, sender)
    to = crew.list_others(_find_workspace(sender, workspace)) if everybody else [house.registry.find(words[0])]
    text = " ".join(words if everybody else words[1:])
    if text == "-":
        text = sys.stdin.read(_TEXT_LIMIT)
    written = list(zip(to, crew.tell_all(to, text), strict=True))
    if as_json:
        output.print_json([encode_letter(letter) for _, letter in written])
    elif not written:
        output.note("there is no other session in this workspace")
    else:
        for record, letter in written:
            output.print_line(f"{letter.id} waits for {record.name}")


def inbox(
    session: Annotated[
        str | None,
        typer.Argument(
            metavar="SESSION", help=f"Look at another's, and leave it. {SESSION_HELP}", autocompletion=complete_sessions
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also what was read already.")] = False,
    as_json: Json = False,
) -> None:
    """Read the messages that were left for this session; they count as read.

    With --all, for another session, or outside of one, messages are shown and left as they are.
    """
    house = open_house()
    own = find_self(house)
    wanted = own if session in (None, ".") else house.registry.find(session or "")
    if wanted is None:
        raise InvalidInput("an inbox belongs to a session, and this is none", hint="name it: crewkeep inbox SESSION")
    takes = own is not None and wanted.id == own.id and not everything
    crew = open_crew(house, own)
    letters = crew.take_letters() if takes else crew.list_letters(wanted.id, read_too=everything)
    _print(letters, as_json=as_json, whole=takes)
    sys.stdout.flush()
    if takes:  # only now are they handed over: had printing them failed, they would come again
        crew.note_handed(letters)


def encode_letter(letter: Letter) -> dict[str, Any]:
    """Return the letter's JSON fields."""
    return {
        "id": letter.id,
        "to": letter.to,
        "from": letter.sender,
        "from_id": letter.sender_id,
        "at": output.format_time(letter.written_at),
        "state": str(letter.state),
        "text": letter.text,
    }


def _find_workspace(sender: SessionRecord | None, workspace: str | None) -> str:
    from coordinator.sessions.workspace import resolve_workspace

    if workspace is None and sender is not None:
        return sender.workspace
    return resolve_workspace(workspace, os.environ, os.getcwd())


def _print(letters: list[Letter], *, as_json: bool, whole: bool) -> None:
    if as_json:
        output.print_json([encode_letter(letter) for letter in letters])
    elif not letters:
        output.note("no messages")
    elif whole:
        for letter in letters:
            output.print_line(output.make_printable(letter.tell()) if sys.stdout.isatty() else letter.tell())
    else:
        rows = (
            (letter.id, output.format_time(letter.written_at), letter.sender, letter.state, letter.text) for letter in letters
        )
        output.print_table(("ID", "AT", "FROM", "STATE", "TEXT"), rows)
