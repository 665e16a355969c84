"""``crewkeep tell`` and ``inbox``: messages from session to session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.agents.base import GENERIC
from coordinator.errors import InvalidInput, Refused
from coordinator.sessions.model import Phase, SessionRecord
from crewkeep.cli import output
from crewkeep.cli.claims import find_self
from crewkeep.cli.house import House, list_records, open_house
from crewkeep.cli.options import SESSION_HELP, Json, Workspace, complete_sessions

if TYPE_CHECKING:
    from coordinator.services.mailbox import Letter, Mailbox

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
    to = _find_all(house, sender, workspace) if everybody else [house.registry.find(words[0])]
    text = " ".join(words if everybody else words[1:])
    if text == "-":
        text = sys.stdin.read(_TEXT_LIMIT)
    ended = [record.name for record in to if record.phase is Phase.ENDED]
    if ended:
        raise Refused(
            f"session {ended[0]} has ended and would not read it", hint=f"bring it back first: crewkeep resume {ended[0]}"
        )
    with open_mailbox(house, sender) as mailbox:
        written = [(record, mailbox.write(record.id, text, writer=None if sender is None else sender.writer)) for record in to]
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
    from coordinator.services.mailbox import LetterState

    house = open_house()
    own = find_self(house)
    wanted = own if session in (None, ".") else house.registry.find(session or "")
    if wanted is None:
        raise InvalidInput("an inbox belongs to a session, and this is none", hint="name it: crewkeep inbox SESSION")
    takes = own is not None and wanted.id == own.id and not everything
    with open_mailbox(house, own) as mailbox:
        if takes:
            letters = mailbox.take(wanted.id, wanted.epoch)
        else:
            letters = [one for one in mailbox.list_letters(wanted.id) if everything or one.state is not LetterState.READ]
        _print(letters, as_json=as_json, whole=takes)
        sys.stdout.flush()
        if takes:  # only now are they handed over: had printing them failed, they would come again
            mailbox.note_handed(wanted.id, wanted.epoch, [letter.id for letter in letters])
            if wanted.agent_name == GENERIC:  # no transcript will ever prove it
                mailbox.note_read(wanted.id, wanted.epoch)


@contextmanager
def open_mailbox(house: House, writer: SessionRecord | None) -> Iterator[Mailbox]:
    """Open the home's letters to act as the session ``writer``, or as the user."""
    from coordinator.services.crew import open_crew
    from coordinator.services.mailbox import Mailbox
    from coordinator.system.home import prepare_home

    prepare_home(house.home)
    with open_crew(house.home, None if writer is None else writer.writer) as crew:
        yield Mailbox(crew, house.clock)


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


def _find_all(house: House, sender: SessionRecord | None, workspace: str | None) -> list[SessionRecord]:
    from coordinator.sessions.workspace import resolve_workspace

    if workspace is None and sender is not None:
        meant = sender.workspace
    else:
        meant = resolve_workspace(workspace, os.environ, os.getcwd())
    return [
        record
        for record in list_records(house)
        if record.workspace == meant and record.phase is not Phase.ENDED and (sender is None or record.id != sender.id)
    ]


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
