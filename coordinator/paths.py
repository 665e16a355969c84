"""Every path below the home, named once, so that who writes and who looks can never disagree.

A home is resolved once (symlinks, ``..``, relative parts) and handed on as an absolute path; nothing below it is ever
searched with patterns.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """The directory that holds all state."""

    #: Absolute and free of symbolic links.
    path: Path

    @classmethod
    def find(cls, environment: Mapping[str, str] | None = None) -> Home:
        """Return ``CREWKEEP_HOME``, else the XDG state directory's ``crewkeep``. Nothing is created."""
        environment = os.environ if environment is None else environment
        if given := environment.get("CREWKEEP_HOME"):
            return cls.at(given)
        state = environment.get("XDG_STATE_HOME") or os.path.join(os.path.expanduser("~"), ".local", "state")
        return cls.at(os.path.join(state, "crewkeep"))

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> Home:
        """Return the home at ``path``, resolved."""
        return cls(Path(os.path.realpath(path)))

    @property
    def lock(self) -> Path:
        return self.path / "home.lock"

    @property
    def ignore_file(self) -> Path:
        return self.path / ".gitignore"

    @property
    def sessions(self) -> Path:
        return self.path / "sessions"

    @property
    def sessions_lock(self) -> Path:
        return self.path / "sessions.lock"

    @property
    def resume_lock(self) -> Path:
        """Held while a conversation that is no session's becomes one."""
        return self.path / "resume.lock"

    @property
    def names(self) -> Path:
        """A hint of which session bears which name (see ``sessions.names``)."""
        return self.path / "names"

    @property
    def contexts(self) -> Path:
        return self.path / "contexts"

    @property
    def crew(self) -> Path:
        """A shared context of crewkeep's own: what the sessions of the whole home share (claims, letters)."""
        return self.path / "crew"

    @property
    def notify_log(self) -> Path:
        return self.path / "notify.log"

    @property
    def quarantine(self) -> Path:
        return self.path / "quarantine"

    @property
    def patrol(self) -> Path:
        return self.path / "patrol"

    @property
    def patrol_socket(self) -> Path:
        return self.patrol / "patrol.sock"

    @property
    def patrol_log(self) -> Path:
        return self.patrol / "patrol.log"

    @property
    def patrol_record(self) -> Path:
        return self.patrol / "record.json"

    @property
    def patrol_lock(self) -> Path:
        return self.patrol / "lock"

    @property
    def patrol_start_lock(self) -> Path:
        return self.patrol / "start.lock"

    @property
    def breaker(self) -> Path:
        return self.path / "breaker.json"

    @property
    def features(self) -> Path:
        return self.path / "features.json"

    @property
    def summaries(self) -> Path:
        return self.path / "summaries.cache"

    def session(self, session_id: str) -> SessionPaths:
        return SessionPaths(self.sessions / session_id)

    def context(self, workspace_id: str) -> Path:
        return self.contexts / workspace_id


@dataclass(frozen=True, slots=True)
class SessionPaths:
    """The files of one session."""

    path: Path

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def launch(self) -> Path:
        return self.path / "launch.json"

    @property
    def lock(self) -> Path:
        return self.path / "lock"

    @property
    def heartbeat(self) -> Path:
        return self.path / "heartbeat"

    @property
    def journal(self) -> Path:
        return self.path / "journal.jsonl"

    @property
    def conversation(self) -> Path:
        return self.path / "conversation.json"

    @property
    def output(self) -> Path:
        return self.path / "output"

    @property
    def recording(self) -> Path:
        """The directory of what was recorded live (see ``sessions.recording``)."""
        return self.path / "recording"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def socket(self) -> Path:
        return self.path / "keeper.sock"

    @property
    def keeper_log(self) -> Path:
        return self.path / "keeper.log"
