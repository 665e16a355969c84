"""``crewkeep demo``: four sessions, two ``kill -9``, nothing lost."""

from __future__ import annotations

import typer

from crewkeep.cli import output
from crewkeep.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(as_json: Json = False) -> None:
    """Watch four sessions fill one task board while an agent and a keeper are ended with kill -9.

    Works in a temporary home and leaves nothing behind; about 15 seconds. Exit code 1 if a promise was broken.
    """
    from crewkeep.demo import run_demo

    result = run_demo(show=not as_json)
    if as_json:
        output.print_json(result.encode())
    if not result.kept:
        raise typer.Exit(1)
