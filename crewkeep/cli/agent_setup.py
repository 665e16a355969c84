"""What ``hooks`` and ``mcp`` share: changes of agents' configurations are shown, asked for, made, and told."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coordinator.errors import CrewkeepError, Missing
from crewkeep.cli import output

if TYPE_CHECKING:
    from crewkeep.setup.edits import Edit
    from crewkeep.setup.targets import Status

EXIT_FAILED = 1

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it; else the changes are shown and, on a terminal, asked for.")]
Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What can be set up in agents' configurations."""

    #: The word for it in questions: ``hooks``.
    what: str
    agents: Sequence[str]
    plan: Callable[[str, bool], Edit]
    read_status: Callable[[str], Status]


def change(part: Part, agents: list[str] | None, *, yes: bool, install: bool, as_json: bool) -> Rows:
    """Show the changes and, if that is wanted, make them; returns a row for each agent."""
    edits: dict[str, Edit] = {}
    rows: Rows = []
    for agent in agents or _find_present(part, install=install):
        try:
            edits[agent] = part.plan(agent, install)
        except CrewkeepError as error:
            if agents or isinstance(error, Missing):
                raise
            path = str(part.read_status(agent).path)  # the others are seen to all the same
            rows.append({"agent": agent, "path": path, "changes": False, "done": False, "problem": error.message})
    for edit in edits.values():
        if edit.changes and not as_json:
            output.note(output.make_printable_lines(edit.show()))
    wanted = [agent for agent, edit in edits.items() if edit.changes]
    acts = bool(wanted) and (yes or _ask(part.what, wanted, install=install, as_json=as_json))
    for agent, edit in edits.items():
        if acts:
            edit.apply()
        rows.append({"agent": agent, "path": str(edit.path), "changes": edit.changes, "done": acts or not edit.changes})
    return rows


def tell(rows: Rows, *, as_json: bool) -> None:
    """Print what was done; exit code 1 if something of it does not work yet."""
    if as_json:
        output.print_json(rows)
    else:
        for row in rows:
            if row["done"]:
                output.print_line(f"{row['agent']}: {'done' if row['changes'] else 'nothing to change'} ({row['path']})")
            if row.get("problem"):
                output.note(f"{row['agent']}: {row['problem']}")
    if any(row.get("problem") for row in rows):
        raise typer.Exit(EXIT_FAILED)


def list_status(part: Part, agents: list[str] | None) -> Rows:
    """Return a row for each agent: how its configuration stands."""
    rows = []
    for agent in agents or part.agents:
        found = part.read_status(agent)
        row = {"agent": agent, "installed": str(found.installed), "path": str(found.path), "problem": found.problem}
        rows.append(row)
    return rows


def print_status(rows: Rows, *, as_json: bool) -> None:
    """Print the rows of ``list_status``."""
    if as_json:
        output.print_json(rows)
    else:
        cells = ((row["agent"], row["installed"], row["path"], row["problem"]) for row in rows)
        output.print_table(("AGENT", "INSTALLED", "PATH", "PROBLEM"), cells)


def _find_present(part: Part, *, install: bool) -> list[str]:
    """Return the agents to act for if none was named: those on PATH or with a configuration; those that have ours or may."""
    found = []
    for agent in part.agents:
        known = part.read_status(agent)
        ours = known.installed != "no"
        if ours or (install and (shutil.which(agent, path=os.environ.get("PATH")) or known.path.exists())):
            found.append(agent)
    if not found and install:
        raise Missing(f"no agent program that takes {part.what} was found", hint=f"name one: --agent {'|'.join(part.agents)}")
    return found


def _ask(what: str, wanted: list[str], *, install: bool, as_json: bool) -> bool:
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        output.note("nothing was changed; do it: add --yes")
        return False
    verb = "Install" if install else "Remove"
    return typer.confirm(f"{verb} the {what} of {', '.join(wanted)}?", err=True)
