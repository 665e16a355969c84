"""The crew's own shared context: what the sessions of a home say to each other and hold from each other.

It is a shared context like those of the workspaces, with the same promises; a recovery fences it with them, so an older
incarnation can neither claim nor write letters. It is apart from them because claims and letters reach across workspaces, and
because nobody wants to meet them among their own keys.
"""

from __future__ import annotations

from coordinator.context import SharedContext, WriterLike
from coordinator.paths import Home


def open_crew(home: Home, writer: WriterLike | None, *, must_exist: bool = False) -> SharedContext:
    """Open the home's crew context to write as ``writer``, making it where there is none (unless ``must_exist``: ``NotFound``).

    Raises what ``SharedContext.open`` does.
    """
    return SharedContext.open(home.crew, writer=writer, must_exist=must_exist)
