"""Arguments and options that several commands share, each worded once."""

from __future__ import annotations

from typing import Annotated

import typer


def complete_sessions(incomplete: str) -> list[str]:
    """Return the names of sessions that begin like this; a completion never fails."""
    try:
        from crewkeep.cli.house import list_records, open_house

        return sorted({record.name for record in list_records(open_house()) if record.name.startswith(incomplete)})
    except Exception:  # noqa: BLE001 - an error printed into a half-typed line helps nobody
        return []


SESSION_HELP = "Name, id, unique prefix of the id, or '.' inside a session."

Session = Annotated[str, typer.Argument(metavar="SESSION", help=SESSION_HELP, autocompletion=complete_sessions)]
Sessions = Annotated[list[str], typer.Argument(metavar="SESSION", help=SESSION_HELP, autocompletion=complete_sessions)]
SomeSessions = Annotated[list[str] | None, typer.Argument(metavar="SESSION", help=SESSION_HELP, autocompletion=complete_sessions)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Workspace = Annotated[
    str | None,
    typer.Option(
        "--workspace", "-w", metavar="NAME", help="Workspace; default: CREWKEEP_WORKSPACE, the git repository, the directory."
    ),
]
