"""Claims: a session's leased right to a file, a directory, a pattern of paths, or a name.

All claims of a home stand in one entry of the crew's context, so that two who ask at once are answered one after the other,
whatever their patterns have in common. Paths are absolute with links resolved and mean the same in every workspace; a name is its
workspace's.

Invariants:
  - of two sessions that claim what has something in common, at most one gets it, unless both share it
  - a claim ends with its lease, with its release, or with its session; nothing else takes it away
  - a session keeps its claims when it is recovered; its older incarnations can neither make nor release any
  - only proof frees: a session that may come back, or cannot be seen, still holds what it claimed until the lease ends
A lease is measured by the wall clock, since it outlives a reboot. Not promised: that a program which does not ask is kept away.
"""

from __future__ import annotations

import dataclasses
import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from coordinator.config import CLAIM_LEASE_LIMIT_S, CLAIM_LEASE_S, CLAIM_WHAT_LIMIT_BYTES, CLAIMS_LIMIT
from coordinator.context.model import Context, Entry
from coordinator.errors import Busy, Claimed, Damaged, InvalidInput, NotFound, Refused, VersionConflict
from coordinator.services import patterns
from coordinator.services.patterns import Pattern
from coordinator.sessions.model import Phase, Writer
from coordinator.sessions.registry import Registry
from coordinator.system.clock import SYSTEM, Clock

KEY = "claims"
#: Those who try again take turns, so each of them gets through; many more than can be in the way. Arbitrary.
_TRIES = 100


class Form(StrEnum):
    """What a claim's target is."""

    FILE = "file"
    #: A directory with everything in it.
    TREE = "tree"
    PATTERN = "pattern"
    NAME = "name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What is claimed."""

    form: Form
    #: An absolute path with links resolved, a pattern of such, or a name.
    value: str
    #: Only names have one: whose they are.
    workspace: str | None = None

    def meets(self, other: Target) -> bool:
        """Tell whether both have something in common."""
        if Form.NAME in (self.form, other.form):
            return self == other
        return self._pattern().meets(other._pattern())

    def _pattern(self) -> Pattern:
        make = {Form.FILE: patterns.make_file, Form.TREE: patterns.make_tree, Form.PATTERN: patterns.parse_pattern}
        return make[self.form](self.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One claim. Times are wall-clock seconds since 1970."""

    #: As it was asked for.
    what: str
    target: Target
    #: Whether others may claim it as well, if they share too.
    shared: bool
    #: Id, name and epoch of the session that holds it.
    session: str
    name: str
    epoch: int
    since: float
    until: float

    def encode(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def decode(cls, body: dict[str, Any]) -> Claim:
        """Raises ``KeyError``, ``TypeError`` or ``ValueError`` on a wrong shape."""
        known = {item.name: body[item.name] for item in dataclasses.fields(cls)}
        target = body["target"]
        known["target"] = Target(form=Form(target["form"]), value=target["value"], workspace=target.get("workspace"))
        return cls(**known)


def find_target(what: str, *, directory: str, workspace: str) -> Target:
    """Return what ``what`` means to somebody in ``directory`` who works in ``workspace``.

    What holds a slash, a dot or a wildcard, or is there as a file, is a path; any other word is a name. Raises ``InvalidInput``.
    """
    if not what or "\0" in what or len(os.fsencode(what)) > CLAIM_WHAT_LIMIT_BYTES:
        hint = f"give a path, a pattern or a name of 1 to {CLAIM_WHAT_LIMIT_BYTES} bytes"
        raise InvalidInput(f"{what!r:.80} cannot be claimed", hint=hint)
    path = os.path.join(directory, what)
    if not _is_text(path):
        raise InvalidInput(f"{path!r} is not UTF-8 and cannot be claimed", hint="claim a directory above it")
    if os.path.lexists(path):
        is_directory = os.path.isdir(path)
        return Target(form=Form.TREE if is_directory else Form.FILE, value=os.path.realpath(path))
    if (pattern := _find_pattern(path)) is not None:
        return Target(form=Form.PATTERN, value=pattern)
    if what.endswith("/"):
        return Target(form=Form.TREE, value=os.path.realpath(path))
    if "/" in what or "." in what:
        return Target(form=Form.FILE, value=os.path.realpath(path))
    return Target(form=Form.NAME, value=what, workspace=workspace)


def find_file_target(path: str, *, directory: str) -> Target:
    """Return the target that one file is, which may not be there yet."""
    return Target(form=Form.FILE, value=os.path.realpath(os.path.join(directory, path)))


class Claims:
    """The claims of a home, through its crew's context."""

    def __init__(self, registry: Registry, crew: Context, clock: Clock = SYSTEM) -> None:
        self._registry, self._crew, self._clock = registry, crew, clock

    def acquire(
        self, writer: Writer, what: str, target: Target, *, lease_s: float = CLAIM_LEASE_S, shared: bool = False
    ) -> Claim:
        """Claim ``target`` for the session ``writer`` until ``lease_s`` from now; what it holds already is renewed.

        ``crew`` must write as that session, so that an older incarnation is refused. Raises ``Claimed`` naming who has it and
        until when, ``Superseded``, ``InvalidInput`` for a lease that cannot be, ``Refused`` if there are too many,
        ``Busy``, ``StorageError``.
        """
        if not 0 < lease_s <= CLAIM_LEASE_LIMIT_S:
            raise InvalidInput(
                f"a lease cannot be {lease_s:g} s", hint=f"give one of up to {CLAIM_LEASE_LIMIT_S / 86_400:g} days"
            )
        now_s = self._clock.wall_s()
        wanted = Claim(
            what=what,
            target=target,
            shared=shared,
            session=writer.session,
            name=writer.name,
            epoch=writer.epoch,
            since=now_s,
            until=now_s + lease_s,
        )
        is_over = self._make_judge()

        def add(value: Any) -> Any:
            held = [claim for claim in _decode_all(value) if not is_over(claim)]
            for claim in held:
                if claim.session != writer.session and not (claim.shared and shared) and claim.target.meets(target):
                    raise Claimed(
                        f"{what} is claimed by session {claim.name} ({claim.what}) for {_tell_span(claim.until - now_s)}",
                        hint=f"ask it: crewkeep tell {claim.name} TEXT; or see crewkeep claims",
                        what=what,
                        holder=claim.name,
                        holder_id=claim.session,
                        claimed=claim.what,
                        until=claim.until,
                    )
            mine = [claim for claim in held if claim.session == writer.session and claim.target == target]
            kept = [claim for claim in held if claim not in mine]
            if len(kept) >= CLAIMS_LIMIT:
                raise Refused(f"there are {len(kept)} claims already", hint="release some: crewkeep claims")
            since = min((claim.since for claim in mine), default=now_s)
            return _encode_all([*kept, dataclasses.replace(wanted, since=since)])

        entry = self._change(add)
        return next(claim for claim in _decode_all(entry.value) if claim.session == writer.session and claim.target == target)

    def release(self, writer: Writer, target: Target) -> Claim:
        """Give a claim of the session ``writer`` back. Raises ``NotFound`` if it holds no such claim, ``Superseded``."""
        gone = self._drop(lambda claim: claim.session == writer.session and claim.target == target)
        if not gone:
            raise NotFound(f"session {writer.name} does not hold {target.value}", hint="see: crewkeep claims", what=target.value)
        return gone[0]

    def release_all(self, session_id: str) -> list[Claim]:
        """Give every claim of a session back; returns them."""
        return self._drop(lambda claim: claim.session == session_id)

    def list_claims(self) -> list[Claim]:
        """Return the claims in force, oldest first."""
        is_over = self._make_judge()
        return [claim for claim in self._read() if not is_over(claim)]

    def find_blocking(self, session_id: str, target: Target) -> Claim | None:
        """Return another session's claim on ``target``; ``None`` if there is none, or the session itself holds it as well."""
        meeting = [claim for claim in self._read() if claim.target.meets(target)]
        is_over = self._make_judge()
        held = [claim for claim in meeting if not is_over(claim)]
        if any(claim.session == session_id for claim in held):
            return None
        return held[0] if held else None

    def _read(self) -> list[Claim]:
        entry = self._crew.get(KEY)
        return _decode_all(None if entry is None else entry.value)

    def _drop(self, is_meant: Callable[[Claim], bool]) -> list[Claim]:
        if not any(is_meant(claim) for claim in self._read()):
            return []
        is_over = self._make_judge()
        gone: list[Claim] = []

        def drop(value: Any) -> Any:
            claims = _decode_all(value)
            gone[:] = [claim for claim in claims if is_meant(claim)]
            return _encode_all([claim for claim in claims if not is_meant(claim) and not is_over(claim)])

        self._change(drop)
        return gone

    def _change(self, make: Callable[[Any], Any]) -> Entry:
        """Write what ``make`` makes of the entry. All claims are in it, so others often write it in the same moment."""
        try:
            return self._crew.update(KEY, make, tries=_TRIES)
        except VersionConflict as error:
            raise Busy(f"others changed their claims {_TRIES} times meanwhile", hint="try again in a moment") from error

    def _make_judge(self) -> Callable[[Claim], bool]:
        """Return a function that tells whether a claim has ended. It looks at each session once."""
        now_s = self._clock.wall_s()
        ended: dict[str, bool] = {}

        def is_over(claim: Claim) -> bool:
            if claim.until <= now_s:
                return True
            if claim.session not in ended:
                ended[claim.session] = self._has_ended(claim.session)
            return ended[claim.session]

        return is_over

    def _has_ended(self, session_id: str) -> bool:
        try:
            return self._registry.get(session_id).phase is Phase.ENDED
        except NotFound:
            return True
        except (Damaged, Refused):
            return False  # it cannot be seen; its lease ends by itself


def _decode_all(value: Any) -> list[Claim]:
    """Return the claims that the entry holds. One of a newer program's shape is not ours to drop, so it is an error."""
    try:
        return [Claim.decode(body) for body in (value or {}).get("claims", [])]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Damaged(
            "the claims of this home have a shape that is not known here",
            hint="use the newest crewkeep, or begin anew: CREWKEEP_HOME",
            reason="wrong-shape",
        ) from error


def _encode_all(claims: Sequence[Claim]) -> dict[str, Any]:
    return {"claims": [claim.encode() for claim in claims]}


def _is_text(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _find_pattern(path: str) -> str | None:
    """Return the pattern that an absolute path is, with links resolved in front of its wildcards; ``None`` without any.

    Brackets and the like of what is there by that very name are no wildcards (``routes/[id]/*.ts``).
    """
    parts = os.path.normpath(path).split("/")
    for index, part in enumerate(parts):
        if patterns.has_wildcards(part) and not os.path.lexists("/".join(parts[: index + 1])):
            return os.path.join(glob.escape(os.path.realpath("/".join(parts[:index]) or "/")), *parts[index:])
    return None


def _tell_span(seconds: float) -> str:
    for size, unit in ((3600.0, "h"), (60.0, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(seconds, 1):.0f} s"
