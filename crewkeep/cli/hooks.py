"""``crewkeep hooks``: let agent programs tell crewkeep what they do, and bring them what other sessions say."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from coordinator.errors import CrewkeepError
from crewkeep.cli import agent_setup, output
from crewkeep.cli.agent_setup import EXIT_FAILED, Part, Rows, Yes
from crewkeep.cli.app import make_group
from crewkeep.cli.options import Json


def complete_agents(incomplete: str) -> list[str]:
    """Return the names of agents with hooks that begin like this."""
    from crewkeep.setup.hooks import find_hook_agents

    return [name for name in find_hook_agents() if name.startswith(incomplete)]


Agents = Annotated[
    list[str] | None,
    typer.Option("--agent", metavar="AGENT", help="Only for this one; may be given again.", autocompletion=complete_agents),
]


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
    from crewkeep.setup.hooks import find_warning

    rows = agent_setup.change(_make_part(), agents, yes=yes, install=True, as_json=as_json)
    if any(row["agent"] == "codex" and row["done"] for row in rows):
        _trust_codex(rows)
    for row in rows:
        if row["done"] and (warning := find_warning(row["agent"], os.environ)):
            output.note(f"{row['agent']}: {warning}")
    agent_setup.tell(rows, as_json=as_json)


def remove(agents: Agents = None, yes: Yes = False, as_json: Json = False) -> None:
    """Take crewkeep's hooks out of the agents' configuration again, and nothing else."""
    trusted = _list_trusted(agents)
    rows = agent_setup.change(_make_part(), agents, yes=yes, install=False, as_json=as_json)
    if trusted and any(row["agent"] == "codex" and row["done"] for row in rows):
        _forget_trust(rows, trusted)
    agent_setup.tell(rows, as_json=as_json)


def status(agents: Agents = None, as_json: Json = False) -> None:
    """Show for which agents hooks are installed, and whether they would run."""
    rows = agent_setup.list_status(_make_part(), agents)
    for row in rows:
        if row["agent"] == "codex" and row["installed"] == "yes":
            row["problem"] = row["problem"] or _find_distrust()
    agent_setup.print_status(rows, as_json=as_json)


def try_hooks(
    agents: Agents = None,
    count: Annotated[int, typer.Option("-n", metavar="N", min=1, max=1000, help="How often.")] = 20,
    as_json: Json = False,
) -> None:
    """Run the hooks as the agents run them, against a stand-in for a keeper, and measure them."""
    from crewkeep.setup.hook_test import run_hook

    part = _make_part()
    rows = []
    for agent in agents or part.agents:
        part.read_status(agent)  # refuses one that has none
        rows.append({"agent": agent, **run_hook(agent, count)})
    if as_json:
        output.print_json(rows)
    else:
        output.print_table(
            ("AGENT", "WORKS", "P50", "MAX", "PROBLEM"),
            (
                (
                    row["agent"],
                    "yes" if row["works"] else "no",
                    f"{row['p50_ms']:.0f} ms",
                    f"{row['max_ms']:.0f} ms",
                    row["problem"],
                )
                for row in rows
            ),
        )
    if not all(row["works"] for row in rows):
        raise typer.Exit(EXIT_FAILED)


def _make_part() -> Part:
    from crewkeep.setup import hooks

    return Part(
        what="hooks",
        agents=hooks.find_hook_agents(),
        plan=lambda agent, install: hooks.plan_hooks(agent, os.environ, install=install),
        read_status=lambda agent: hooks.read_status(agent, os.environ),
    )


def _trust_codex(rows: Rows) -> None:
    """Let Codex trust what was installed; else it would pass it over without a word."""
    from crewkeep.setup.codex_trust import trust_hooks

    row = next(row for row in rows if row["agent"] == "codex")
    try:
        row["trusted"] = len(trust_hooks(os.environ, Path.cwd()))
    except CrewkeepError as error:
        row["problem"] = f"codex does not trust them yet, and passes them over: {error.message}; trust them in codex: /hooks"


def _list_trusted(agents: list[str] | None) -> list[str]:
    """Return the keys of our hooks that Codex knows, where they are to be removed; none if it cannot be asked."""
    from crewkeep.setup.codex_trust import list_ours
    from crewkeep.setup.hooks import read_status

    if "codex" not in (agents or ["codex"]) or read_status("codex", os.environ).installed not in ("yes", "outdated"):
        return []
    try:
        return list_ours(os.environ, Path.cwd())
    except CrewkeepError:
        return []  # what it trusted is of no use to anybody else


def _forget_trust(rows: Rows, keys: list[str]) -> None:
    from crewkeep.setup.codex_trust import forget_hooks

    try:
        forget_hooks(os.environ, Path.cwd(), keys)
    except CrewkeepError as error:
        row = next(row for row in rows if row["agent"] == "codex")
        row["problem"] = f"they are removed; that codex trusted them still stands in its configuration: {error.message}"


def _find_distrust() -> str | None:
    from crewkeep.setup.codex_trust import list_untrusted

    try:
        untrusted = list_untrusted(os.environ, Path.cwd())
    except CrewkeepError as error:
        return f"whether codex trusts them cannot be asked: {error.message}"
    return (
        f"codex passes over {len(untrusted)} of them, untrusted or disabled: crewkeep hooks install, or /hooks in codex"
        if untrusted
        else None
    )
