"""Any command: crewkeep knows nothing of it but its process, its terminal and what it writes to the shared context.

It is started again exactly as it was started first. What it wants back after a crash it keeps itself, through
``session.checkpoint``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.agents.base import GENERIC, Activity

if TYPE_CHECKING:
    from coordinator.sessions.conversation import Conversation
    from coordinator.sessions.model import LaunchSpec


class Generic:
    """The agent of which nothing is known."""

    name = GENERIC

    def recognises(self, argv: Sequence[str]) -> bool:
        return bool(argv)

    def prepare(self, launch: LaunchSpec) -> LaunchSpec:
        return launch

    def read_permission_mode(self, argv: Sequence[str]) -> str | None:
        return None

    def find_conversation(self, launch: LaunchSpec, pids: Sequence[int], started_at: float) -> Conversation | None:
        return None

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        return launch.argv

    def note_output(self, output: bytes) -> None:
        return None

    def read_activity(self, conversation: Conversation) -> Activity:
        return Activity()

    def restore_transcript(self, conversation: Conversation, saved: Path) -> None:
        return None
