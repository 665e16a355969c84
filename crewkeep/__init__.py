"""Keeps a crew of AI agent sessions running on one machine: the public Python names, and the command's parts.

Belongs here: what people and agents touch. Does not belong here: how the context, sessions and recovery work.
The names are loaded when first asked for, so that a keeper or a hook does not pay for what it does not use.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; `typing` itself costs a hook two milliseconds
if TYPE_CHECKING:
    from typing import Any

    from crewkeep.session import Session, open_context

__all__ = ["Session", "__version__", "open_context"]


def __getattr__(name: str) -> Any:
    if name in ("Session", "open_context"):
        from crewkeep import session

        return getattr(session, name)
    if name == "__version__":
        from importlib.metadata import version

        return version("crewkeep")
    raise AttributeError(f"module 'crewkeep' has no attribute {name!r}")
