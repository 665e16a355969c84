"""Builds the Typer application: the one command that was asked for, or all of them.

Each module of this room has ``register(app)``, which adds its commands. Help is plain text, so that it is fast and the
same everywhere; it keeps to ``COLUMNS``.
"""

from __future__ import annotations

import importlib
import sys

import typer
from typer.core import TyperGroup

from crewkeep.cli import COMMANDS

#: What every command and group shares: `-h`, and the width that a terminal of today has.
CONTEXT_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

OVERVIEW = """Keep a crew of AI agent sessions running: one shared context, and every crash survived.

A session is named by its name, its id, a unique prefix of the id, or '.' inside a session.
"""


def build_app(only: str | None = None) -> typer.Typer:
    """Return the application with the command ``only``, or with all."""
    app = make_group(OVERVIEW, cls=_Overview)
    app.callback(help=OVERVIEW)(_begin)
    modules = [COMMANDS[only][0]] if only else list(dict.fromkeys(module for module, _ in COMMANDS.values()))
    for module in modules:
        importlib.import_module(f"crewkeep.cli.{module}").register(app)
    for command in app.registered_commands:
        command.short_help = COMMANDS[str(command.name)][1]
    for group in app.registered_groups:
        group.short_help = COMMANDS[str(group.name)][1]
    return app


def make_group(help: str, *, cls: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """Return an empty group in the house's manner."""
    return typer.Typer(
        cls=cls,
        help=help,
        add_completion=True,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=CONTEXT_SETTINGS,
    )


class _Overview(TyperGroup):
    """Lists the commands in the order in which one meets them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
        return [name for name in COMMANDS if name in self.commands]


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        sys.stdout.write(f"crewkeep {version('crewkeep')}\n")
        raise typer.Exit


def _begin(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."),
) -> None:
    """Every command begins here; there is nothing to prepare."""
