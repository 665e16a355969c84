"""The settings of one session, the same whoever starts it again."""

from __future__ import annotations

from pathlib import Path

from coordinator.config import Settings, load_settings
from coordinator.errors import CrewkeepError
from coordinator.sessions.model import LaunchSpec
from coordinator.sessions.registry import Registry


def find_settings(registry: Registry, session_id: str) -> Settings:
    """Return the session's settings, the defaults where its launch cannot be read: a recovery mends that."""
    try:
        return settings_of(registry.get_launch(session_id))
    except CrewkeepError:
        return Settings()


def settings_of(launch: LaunchSpec) -> Settings:
    """Return the settings of the environment and project that the session was launched from.

    Not those of whoever asks: a patrol has another environment. Where they cannot be read, the defaults hold.
    """
    try:
        return load_settings(launch.environment, Path(launch.cwd))
    except CrewkeepError:
        return Settings()
