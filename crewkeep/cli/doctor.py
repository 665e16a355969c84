"""``crewkeep doctor``: what limits crewkeep on this machine, and what to do about it."""

from __future__ import annotations

import dataclasses

import typer

from crewkeep.cli import output
from crewkeep.cli.house import find_directory, open_house
from crewkeep.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(examine)


def examine(as_json: Json = False) -> None:
    """Check the machine, the home, every session record and every shared context. Changes nothing.

    Exit code 1 if something is bad; a warning alone is 0.
    """
    from crewkeep.doctor import examine

    house = open_house()
    checks = examine(house.home, find_directory(), house.clock)
    if as_json:
        output.print_json([dataclasses.asdict(check) for check in checks])
    else:
        width = max(len(check.name) for check in checks)
        colours = {"ok": "green", "warn": "yellow", "bad": "red"}
        for check in checks:
            level = output.paint(check.level.ljust(4), colours[check.level])
            output.print_line(f"{level}  {check.name:<{width}}  {output.make_printable(check.message)}")
            if check.hint:
                output.print_line(f"      {'':<{width}}  next: {output.make_printable(check.hint)}")
    if any(check.level == "bad" for check in checks):
        raise typer.Exit(1)
