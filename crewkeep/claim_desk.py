"""What an agent is told of an edit of something that another session has claimed."""

from __future__ import annotations

import datetime

from coordinator.agents.hook_events import HookEvent
from coordinator.services.claims import Claim, Claims, find_file_target


def find_blocked(claims: Claims, session_id: str, event: HookEvent) -> str | None:
    """Return why the session should not make the edit, ``None`` if nothing of it is claimed by another."""
    for path in event.find_edited_paths():
        target = find_file_target(path, directory=event.cwd or "/")
        claim = claims.find_blocking(session_id, target)
        if claim is not None:
            return tell_claim(path, claim)
    return None


def tell_claim(path: str, claim: Claim) -> str:
    """Return the sentence for an agent: what, who, until when, and what to do."""
    until = datetime.datetime.fromtimestamp(claim.until).astimezone().isoformat(timespec="seconds")
    return (
        f"crewkeep: {path} is claimed by session {claim.name} ({claim.what}) until {until}."
        f" Leave it alone, work on something else, or ask: crewkeep tell {claim.name} TEXT"
    )
