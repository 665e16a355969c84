"""``crewkeep service``: have all sessions recovered at login or boot."""

from __future__ import annotations

import dataclasses

import typer

from coordinator.paths import Home
from crewkeep.cli import output
from crewkeep.cli.options import Json


def register(app: typer.Typer) -> None:
    """Add the group."""
    from crewkeep.cli.app import make_group

    group = make_group("Recover all sessions at login or boot: a systemd user unit, on macOS a launchd agent.")
    group.command("install")(install)
    group.command("remove")(remove)
    group.command("status")(status)
    app.add_typer(group, name="service")


def install(as_json: Json = False) -> None:
    """Write the unit and enable it."""
    from crewkeep import service

    found = service.install(Home.find())
    _print(found, as_json)
    if found.lingers is False:
        output.note("it runs at login; for a start at boot: loginctl enable-linger")


def remove(as_json: Json = False) -> None:
    """Disable the unit and delete its file; sessions that run go on."""
    from crewkeep import service

    _print(service.remove(Home.find()), as_json)


def status(as_json: Json = False) -> None:
    """Show whether the unit is there; exit code 69 if it is not."""
    from crewkeep import service

    found = service.read_status(Home.find())
    _print(found, as_json)
    if not found.installed:
        raise typer.Exit(69)


def _print(found: object, as_json: bool) -> None:
    from crewkeep.service import ServiceStatus

    assert isinstance(found, ServiceStatus)
    if as_json:
        output.print_json(dataclasses.asdict(found))
        return
    if not found.installed:
        output.print_line(f"not installed ({found.manager}); install it: crewkeep service install")
        return
    enabled = {True: "enabled", False: "not enabled", None: f"{found.manager} does not answer"}[found.enabled]
    output.print_line(f"{enabled}: {found.path}" + ("" if found.current else " (of another home or version; install it again)"))
