"""Any command: crewkeep knows nothing of it but its process, its terminal and what it writes to the shared context.

It is started again exactly as it was started first. What it wants back after a crash it keeps itself, through
``session.checkpoint``. Every other adapter inherits from it and says what more it knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from coordinator.agents import transcript
from coordinator.agents.base import GENERIC, Activity, PastConversation

if TYPE_CHECKING:
    from coordinator.sessions.conversation import Conversation
    from coordinator.sessions.history import Item
    from coordinator.sessions.model import LaunchSpec


class Generic:
    """The agent of which nothing is known but, perhaps, a transcript that is a file."""

    name = GENERIC

    def recognises(self, argv: Sequence[str]) -> bool:
        return bool(argv)

    def prepare(self, launch: LaunchSpec) -> LaunchSpec:
        return launch

    def begin(self, launch: LaunchSpec, session_id: str) -> tuple[tuple[str, ...], Conversation | None]:
        return launch.argv, None

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

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        return iter(())

    def find_outcome(self, conversation: Conversation, call_id: str) -> bool | None:
        return None

    def holds_text(self, conversation: Conversation, text: str) -> bool | None:
        return None if conversation.transcript is None else transcript.holds_text(conversation.transcript, text)

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        return iter(())

    def export_transcript(self, conversation: Conversation) -> bytes | None:
        return None

    def restore_transcript(self, conversation: Conversation, saved: Path) -> bool:
        return False
