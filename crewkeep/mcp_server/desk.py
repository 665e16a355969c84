"""What the MCP tools do, each a plain call that returns JSON: for one session, or for somebody outside of any.

Who we are is asked anew at each call, so what is left of a session that was superseded meanwhile is refused. Any thread may call.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from coordinator.agents.base import GENERIC
from coordinator.config import CHANGES_LIMIT, load_settings
from coordinator.context import SharedContext, merge
from coordinator.context.model import Entry
from coordinator.errors import InvalidInput, NotFound, Refused
from coordinator.paths import Home
from coordinator.services.claims import Claim
from coordinator.sessions.model import Hosting, Phase, SessionRecord
from coordinator.sessions.registry import Damage, Registry
from coordinator.sessions.sight import show_state
from coordinator.sessions.workspace import resolve_workspace
from coordinator.system.clock import SYSTEM
from crewkeep.crew import Crew
from crewkeep.program import find_inside, open_for

Json = dict[str, Any]
#: The longest that one call waits for changes: agents give up on tools that take longer.
_WAIT_LIMIT_S = 30.0
_CHECKPOINT_TIMEOUT_S = 60.0


class Desk:
    """One MCP server's view of its home."""

    def __init__(self, environment: Mapping[str, str], directory: str) -> None:
        """``environment`` names home and session; ``directory`` is where the agent works."""
        self._environment, self._directory = environment, directory
        self._home = Home.find(environment)
        self._registry = Registry(self._home)
        self._lock = threading.Lock()
        self._opened: tuple[str, SharedContext] | None = None

    def close(self) -> None:
        """Close the shared context."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened[1].close()

    # The shared context

    def get(self, key: str) -> Json:
        """Return one entry, or that there is none."""
        entry = self._context().get(key)
        return {"key": key, "found": False, "version": 0} if entry is None else {"found": True, **_encode(entry)}

    def put(self, key: str, value: Any, expected_version: int | None) -> Json:
        """Write a value; without a version the write is unconditional."""
        if expected_version is None:
            return _encode(self._context().put(key, value, unconditional=True))
        return _encode(self._context().put(key, value, expected_version=expected_version))

    def update(self, key: str, rule: str, value: Any) -> Json:
        """Bring ``value`` into what is there, by a merge rule; no update of others is lost."""
        merging = merge.get_rule(rule)

        def bring_in(current: Any) -> Any:
            try:
                return merge.apply_delta(merging, current, value)
            except merge.Irreconcilable as error:
                raise InvalidInput(f"{rule} cannot bring that into {key!r}: {error}", hint="use another rule, or put") from error

        return _encode(self._context().update(key, bring_in))

    def delete(self, key: str, expected_version: int | None) -> Json:
        """Delete a key."""
        context = self._context()
        if expected_version is None:
            return _encode(context.delete(key, unconditional=True))
        return _encode(context.delete(key, expected_version=expected_version))

    def list_keys(self, prefix: str) -> Json:
        """Return keys and versions below a prefix."""
        entries = self._context().snapshot(prefix)
        return {"keys": [{"key": key, "version": entry.version, "author": entry.author} for key, entry in entries.items()]}

    def history(self, key: str) -> Json:
        """Return the kept versions of a key, newest first."""
        return {"versions": [_encode(entry) for entry in self._context().history(key)]}

    def changes(self, prefix: str, since: dict[str, int] | None, wait_s: float) -> Json:
        """Return what was committed below ``prefix`` after ``since``, waiting up to ``wait_s`` for something; and where to go on.

        Without ``since`` nothing is waited for: the answer says where now is.
        """
        context = self._context()
        if since is None:
            return {"changes": [], "since": _encode_position(context.revisions())}
        position = _decode_position(since, context.revisions())
        changes = list(context.read_changes(prefix, position, CHANGES_LIMIT))
        deadline_s = SYSTEM.monotonic_s() + min(max(wait_s, 0.0), _WAIT_LIMIT_S)
        while not changes and (rest_s := deadline_s - SYSTEM.monotonic_s()) > 0:
            seen = context.bell(prefix)
            changes = list(context.read_changes(prefix, position, CHANGES_LIMIT))
            if not changes:
                context.wait_bell(seen, rest_s, prefix)
                changes = list(context.read_changes(prefix, position, CHANGES_LIMIT))
        for change in changes:
            position[change.shard] = max(position.get(change.shard, 0), change.revision)
        told = [
            {
                "key": change.key,
                "version": change.version,
                "author": change.author,
                "shard": change.shard,
                "revision": change.revision,
                **({"deleted": True} if change.deleted else {"value": change.value}),
            }
            for change in changes
        ]
        return {"changes": told, "since": _encode_position(position)}

    # The crew

    def sessions(self) -> Json:
        """Return the sessions of the home that have not ended, with what they do."""
        own = self._find_self()
        settings = load_settings()
        rows = []
        for known in self._registry.list_all():
            record = known.known if isinstance(known, Damage) else known
            if record is None or record.phase is Phase.ENDED:
                continue
            state, reason = show_state(self._home, record, settings)
            rows.append(
                {
                    "id": record.id,
                    "name": record.name,
                    "agent": record.agent_name,
                    "workspace": record.workspace,
                    "state": str(state),
                    "reason": reason,
                    "cwd": record.cwd,
                    "is_you": own is not None and record.id == own.id,
                }
            )
        return {"sessions": rows}

    def claim(self, what: str, minutes: float, shared: bool) -> Json:
        """Claim a path, pattern or name for this session."""
        return _encode_claim(self._crew().claim(what, lease_s=minutes * 60, shared=shared))

    def release(self, what: str) -> Json:
        """Give a claim of this session back."""
        return {"released": [_encode_claim(claim) for claim in self._crew().release(what)]}

    def claims(self) -> Json:
        """Return the claims of all sessions."""
        return {"claims": [_encode_claim(claim) for claim in self._crew().list_claims()]}

    def tell(self, session: str, text: str) -> Json:
        """Leave a message for another session."""
        return {"id": self._crew().tell(session, text).id}

    def inbox(self) -> Json:
        """Take the messages that wait for this session.

        That they reached the conversation is settled by the session's keeper, from the transcript; a program without one has
        read them now.
        """
        own, crew = self._get_self("an inbox"), self._crew()
        letters = crew.inbox() if own.agent_name == GENERIC else crew.take_letters()
        return {"messages": [{"id": letter.id, "from": letter.sender, "text": letter.tell()} for letter in letters]}

    def checkpoint(self) -> Json:
        """Save this session's state now."""
        from crewkeep import control

        own = self._get_self("a checkpoint")
        if own.hosting is Hosting.PROGRAM:
            raise Refused(f"session {own.name} is a Python program; only it knows its state", hint="session.checkpoint(...)")
        answer = control.request(self._home.session(own.id), "checkpoint", timeout_s=_CHECKPOINT_TIMEOUT_S)
        return {"number": answer.get("number"), "bytes": answer.get("bytes")}

    # Who we are

    def _find_self(self) -> SessionRecord | None:
        try:
            return find_inside(self._home, self._environment)
        except NotFound:
            return None

    def _get_self(self, what: str) -> SessionRecord:
        own = self._find_self()
        if own is None:
            raise Refused(f"{what} belongs to a session, and this agent is in none", hint="start it with: crewkeep run -- AGENT")
        return own

    def _crew(self) -> Crew:
        return Crew(self._home, self._registry, self._find_self(), directory=self._directory)

    def _context(self) -> SharedContext:
        own = self._find_self()
        workspace = own.workspace if own is not None else resolve_workspace(None, self._environment, self._directory)
        with self._lock:
            if self._opened is not None and self._opened[0] == workspace and not self._opened[1].closed:
                return self._opened[1]
            opened = open_for(self._home, workspace, own)
            self._opened = workspace, opened
            return opened


def _encode(entry: Entry) -> Json:
    told: Json = {"key": entry.key, "version": entry.version, "author": entry.author}
    return told | ({"deleted": True} if entry.deleted else {"value": entry.value})


def _encode_claim(claim: Claim) -> Json:
    return {
        "what": claim.what,
        "form": str(claim.target.form),
        "target": claim.target.value,
        "shared": claim.shared,
        "session": claim.name,
        "until": claim.until,
    }


def _encode_position(position: Mapping[int, int]) -> dict[str, int]:
    return {str(shard): revision for shard, revision in position.items()}


def _decode_position(since: Mapping[str, int], now: Mapping[int, int]) -> dict[int, int]:
    try:
        given = {int(shard): int(revision) for shard, revision in since.items()}
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{since!r:.100} is no position", hint="give what an earlier call returned as `since`") from error
    if set(given) - set(now):
        raise InvalidInput(
            f"there is no shard {min(set(given) - set(now))}", hint="give what an earlier call returned as `since`"
        )
    return {shard: given.get(shard, 0) for shard in now}
