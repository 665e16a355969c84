"""What a hook answers when its session's keeper does not: nothing, unless claims are enforced and the event is an edit.

Then the claims are read here, which takes a tenth of a second; and if they cannot be read either, the edit is refused and the
reason told, since "enforce" means that nobody writes what another may hold.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from coordinator.agents.hook_events import HookEvent, HookKind, HookReply, parse_event, render_reply
from coordinator.config import load_settings
from coordinator.errors import CrewkeepError, NotFound
from coordinator.paths import Home
from crewkeep.claim_desk import find_blocked


def answer_without_keeper(agent: str, payload: bytes, problem: Exception) -> str:
    """Return what is to be printed. ``problem`` is why the keeper could not be asked."""
    event = parse_event(agent, json.loads(payload))
    if event.kind is not HookKind.TOOL_START or not event.find_edited_paths():
        return ""
    directory = Path(event.cwd or os.getcwd())
    try:
        if load_settings(project=directory).claim_mode != "enforce":
            return ""
    except CrewkeepError:
        pass  # settings that cannot be read may say "enforce"
    try:
        reason = _find_reason(event)
    except Exception as error:  # noqa: BLE001 - whatever keeps claims from being read: "enforce" means that nobody writes then
        reason = (
            f"crewkeep: claims are enforced and cannot be asked for ({error}; the keeper: {problem})."
            " Do not write this file now; tell the user to run `crewkeep doctor`."
        )
    return "" if reason is None else render_reply(event, HookReply(deny=reason))


def _find_reason(event: HookEvent) -> str | None:
    from coordinator.services.claims import Claims
    from coordinator.services.crew import open_crew
    from coordinator.sessions.registry import Registry

    home = Home.find()
    if not home.path.is_dir():
        raise NotFound(f"{home.path} is not there", hint="set CREWKEEP_HOME")
    try:
        crew = open_crew(home, None, must_exist=True)
    except NotFound:
        return None  # nothing was ever claimed
    with crew:
        return find_blocked(Claims(Registry(home), crew), os.environ["CREWKEEP_SESSION"], event)
