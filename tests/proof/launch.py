"""Starts a module of the proof in a process of its own: ``python -m proof.launch BUG MODULE ARGUMENTS...``, ``-`` for no bug.

The bug is planted before anything of the engine is loaded.
"""

from __future__ import annotations

import importlib
import sys

from proof.planted import plant


def make_command(module: str, *arguments: object, bug: str | None = None) -> list[str]:
    """Return the command that calls ``module.main(*arguments)``, all of them text."""
    return [sys.executable, "-m", "proof.launch", bug or "-", module, *map(str, arguments)]


if __name__ == "__main__":
    _, chosen, wanted, *rest = sys.argv
    if chosen != "-":
        plant(chosen)
    from proof import engine  # what it knows is loaded with the bug in it

    engine.make_narrow()
    importlib.import_module(wanted).main(*rest)
