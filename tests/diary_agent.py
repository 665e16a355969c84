"""An agent program for tests of past conversations: its transcripts are files that a test writes, its adapter reads them.

A conversation ``ID`` is the file ``ID.jsonl`` in ``DIARY_HOME``: first ``{"cwd", "title"}``, then items as the model encodes
them. The program that ``install`` writes notes how it was started, and waits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from coordinator.agents.base import PastConversation
from coordinator.agents.generic import Generic
from coordinator.sessions.conversation import Conversation
from coordinator.sessions.history import Item, decode_item
from coordinator.sessions.model import LaunchSpec


class Diary(Generic):
    """The adapter."""

    name = "diary"

    def recognises(self, argv: Sequence[str]) -> bool:
        return bool(argv) and os.path.basename(argv[0]) == "diary"

    def build_resume(self, launch: LaunchSpec, conversation: Conversation | None) -> tuple[str, ...]:
        return launch.argv if conversation is None else (launch.argv[0], "--go-on", conversation.id)

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        if conversation.transcript is not None and os.path.exists(conversation.transcript):
            for line in Path(conversation.transcript).read_text(encoding="utf-8").splitlines()[1:]:
                yield decode_item(json.loads(line))

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        home = environment.get("DIARY_HOME")
        for path in sorted(Path(home).glob("*.jsonl")) if home else ():
            head = json.loads(path.read_text(encoding="utf-8").splitlines()[0])
            yield PastConversation(
                conversation=Conversation(agent="diary", id=path.stem, transcript=str(path)),
                cwd=head.get("cwd"),
                title=head.get("title", ""),
                changed_at=path.stat().st_mtime,
            )


class Broken(Generic):
    """An adapter that fails whatever it is asked."""

    name = "broken"

    def read_history(self, conversation: Conversation) -> Iterator[Item]:
        raise RuntimeError("torn page")

    def list_conversations(self, environment: Mapping[str, str]) -> Iterator[PastConversation]:
        raise RuntimeError("no shelf")


def write_diary(home: Path, id: str, items: Sequence[Item], *, at: float, **head: Any) -> Path:
    """Write a conversation; ``at`` is when it was changed last."""
    home.mkdir(exist_ok=True)
    path = home / f"{id}.jsonl"
    lines = [head, *(item.encode() for item in items)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    os.utime(path, (at, at))
    return path


def install(site: Path) -> dict[str, str]:
    """Write the adapter's distribution, as pip would, and its program; return what a process needs to see both."""
    info = site / "diary-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: diary\nVersion: 1.0\n", encoding="utf-8")
    (info / "entry_points.txt").write_text("[crewkeep.agents]\ndiary = diary_agent:Diary\n", encoding="utf-8")
    program = site / "bin" / "diary"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@ in $(pwd)" >>"$DIARY_HOME/started"\nexec sleep 1000\n', encoding="utf-8")
    program.chmod(0o755)
    paths = [str(site), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}
