"""``crewkeep hooks``: let agent programs tell crewkeep what they do, and bring them what other sessions say."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from coordinator.errors import CrewkeepError, Missing
from crewkeep.cli import output
from crewkeep.cli.app import make_group
from crewkeep.cli.options import Json

EXIT_FAILED = 1


def complete_agents(incomplete: str) -> list[str]:
    """Return the names of agents with hooks that begin like this."""
    from crewkeep.setup.hooks import find_hook_agents

    return [name for name in find_hook_agents() if name.startswith(incomplete)]


Agents = Annotated[
    list[str] | None,
    typer.Option("--agent", metavar="AGENT", help="Only for this one; may be given again.", autocompletion=complete_agents),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it; else the changes are shown and, on a terminal, asked for.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = make_group("Let agent programs tell crewkeep what they do: claims, messages and progress work through these hooks.")
    group.command("install")(install)
    group.command("remove")(remove)
    group.command("status")(status)
    group.command("test")(try_hooks)
    app.add_typer(group, name="hooks")


def install(agents: Agents = None, yes: Yes = False, as_json: Json = False) -> None:
    """Write crewkeep's hooks into the agents' own configuration; what others have there is kept.

    Without --agent: for every agent program that is found on this machine.
    """
    rows = _change(agents, yes=yes, install=True, as_json=as_json)
    if any(row["agent"] == "codex" and row["done"] for row in rows):
        _trust_codex(rows)
    _tell(rows, as_json=as_json)


def remove(agents: Agents = None, yes: Yes = False, as_json: Json = False) -> None:
    """Take crewkeep's hooks out of the agents' configuration again, and nothing else."""
    _tell(_change(agents, yes=yes, install=False, as_json=as_json), as_json=as_json)


def status(agents: Agents = None, as_json: Json = False) -> None:
    """Show for which agents hooks are installed, and whether they would run."""
    from crewkeep.setup.hooks import Installed, find_hook_agents, read_status

    rows: list[dict[str, Any]] = []
    for agent in agents or find_hook_agents():
        _check(agent)
        found = read_status(agent, os.environ)
        problem = found.problem
        if agent == "codex" and found.installed is Installed.YES:
            problem = _find_distrust()
        rows.append({"agent": agent, "installed": str(found.installed), "path": str(found.path), "problem": problem})
    if as_json:
        output.print_json(rows)
    else:
        output.print_table(
            ("AGENT", "INSTALLED", "PATH", "PROBLEM"),
            ((row["agent"], row["installed"], row["path"], row["problem"]) for row in rows),
        )


def try_hooks(
    agents: Agents = None,
    count: Annotated[int, typer.Option("-n", metavar="N", min=1, max=1000, help="How often.")] = 20,
    as_json: Json = False,
) -> None:
    """Run the hooks as the agents run them, against a stand-in for a keeper, and measure them."""
    from crewkeep.setup.hook_test import run_hook
    from crewkeep.setup.hooks import find_hook_agents

    rows = []
    for agent in agents or find_hook_agents():
        _check(agent)
        rows.append({"agent": agent, **run_hook(agent, count)})
    if as_json:
        output.print_json(rows)
    else:
        output.print_table(
            ("AGENT", "WORKS", "P50", "MAX", "PROBLEM"),
            ((row["agent"], "yes" if row["works"] else "no", f"{row['p50_ms']:.0f} ms", f"{row['max_ms']:.0f} ms", row["problem"])
             for row in rows),
        )  # fmt: skip
    if not all(row["works"] for row in rows):
        raise typer.Exit(EXIT_FAILED)


def _change(agents: list[str] | None, *, yes: bool, install: bool, as_json: bool) -> list[dict[str, Any]]:
    from crewkeep.setup.hooks import plan_hooks

    edits = {}
    for agent in agents or _find_present(install=install):
        _check(agent)
        edits[agent] = plan_hooks(agent, os.environ, install=install)
    for edit in edits.values():
        if edit.changes and not as_json:
            output.note(output.make_printable_lines(edit.show()))
    wanted = [agent for agent, edit in edits.items() if edit.changes]
    acts = bool(wanted) and (yes or _ask(wanted, install=install, as_json=as_json))
    rows = []
    for agent, edit in edits.items():
        if acts:
            edit.apply()
        rows.append({"agent": agent, "path": str(edit.path), "changes": edit.changes, "done": acts or not edit.changes})
    return rows


def _find_present(*, install: bool) -> list[str]:
    """Return the agents to act for if none was named: those that are on PATH or have a configuration, or ours in it."""
    import shutil

    from crewkeep.setup.hooks import Installed, find_hook_agents, read_status

    found = []
    for agent in find_hook_agents():
        known = read_status(agent, os.environ)
        ours = known.installed in (Installed.YES, Installed.OUTDATED)
        if ours or (install and (shutil.which(agent) or known.path.exists())):
            found.append(agent)
    if not found and install:
        raise Missing("no agent program with hooks was found", hint=f"name one: --agent {'|'.join(find_hook_agents())}")
    return found


def _ask(wanted: list[str], *, install: bool, as_json: bool) -> bool:
    if as_json or not (sys.stdin.isatty() and sys.stderr.isatty()):
        output.note("nothing was changed; do it: add --yes")
        return False
    what = "Install" if install else "Remove"
    return typer.confirm(f"{what} the hooks of {', '.join(wanted)}?", err=True)


def _trust_codex(rows: list[dict[str, Any]]) -> None:
    """Let Codex trust what was installed; else it would pass it over without a word."""
    from crewkeep.setup.codex_trust import trust_hooks

    row = next(row for row in rows if row["agent"] == "codex")
    try:
        row["trusted"] = len(trust_hooks(os.environ, Path.cwd()))
    except CrewkeepError as error:
        row["problem"] = f"codex does not trust them yet, and passes them over: {error.message}; trust them in codex: /hooks"


def _find_distrust() -> str | None:
    from crewkeep.setup.codex_trust import list_untrusted

    try:
        untrusted = list_untrusted(os.environ, Path.cwd())
    except CrewkeepError as error:
        return f"whether codex trusts them cannot be asked: {error.message}"
    return f"codex passes over {len(untrusted)} of them, untrusted: crewkeep hooks install" if untrusted else None


def _tell(rows: list[dict[str, Any]], *, as_json: bool) -> None:
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


def _check(agent: str) -> None:
    from crewkeep.setup.hooks import check_agent

    check_agent(agent)
