"""Codex CLI (``@openai/codex``): started natively, resumed by its thread id, read through its rollout file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from coordinator.agents.generic import Generic


class Codex(Generic):
    """The Codex command line."""

    name = "codex"

    def recognises(self, argv: Sequence[str]) -> bool:
        return bool(argv) and os.path.basename(argv[0]) == "codex"
