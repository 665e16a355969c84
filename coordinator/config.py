"""Every limit and default, named once, and where each value in force came from.

A setting is looked for in this order: the environment (``CREWKEEP_`` and its name in capitals), the project's
``.crewkeep.toml``, the user's ``config.toml`` below the XDG configuration directory, and the default here.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from coordinator.errors import InvalidInput


def _s(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What a user may turn. Units end the names."""

    #: Time between two heartbeats of a coordinator thread.
    heartbeat_interval_s: float = _s(1.0, 0.05, 60)
    #: A heartbeat older than this is stale. At least three intervals.
    lease_s: float = _s(5.0, 0.2, 600)
    #: An agent that shows no progress for so long, and is not waiting for input, is hung.
    hang_after_s: float = _s(30.0, 0.1, 86_400)
    #: What the patrol does with a hung agent: leave | restart.
    hang_policy: str = field(default="leave", metadata={"one_of": ("leave", "restart")})
    #: An agent that shows no progress for so long is no longer `working`.
    quiet_after_s: float = _s(5.0, 0.05, 86_400)
    #: Starts of one session within `start_window_s` that brought no progress; after so many it is parked.
    start_limit: int = field(default=5, metadata={"low": 1, "high": 1000})
    start_window_s: float = _s(600.0, 1, 86_400)
    #: The delay after the second fruitless start in a row (after the first there is none); it doubles from there to
    #: `start_delay_limit_s`.
    start_delay_s: float = _s(0.25, 0.01, 300)
    start_delay_limit_s: float = _s(300.0, 0.01, 3600)
    #: A checkpoint is taken so often when there was progress.
    checkpoint_interval_s: float = _s(30.0, 0.1, 86_400)
    #: `stop` waits so long after SIGTERM before it kills.
    grace_s: float = _s(5.0, 0, 600)
    #: Pause between the starts of several sessions that are recovered together.
    recover_spacing_s: float = _s(0.05, 0, 60)
    #: Failed recoveries in a row after which a sweep halts.
    recover_brake_count: int = field(default=3, metadata={"low": 1, "high": 1000})
    #: How long an old incarnation's processes may take to be proven gone.
    reap_timeout_s: float = _s(6.0, 0.5, 60)
    #: Put each agent in a control group of its own where the system lets us.
    use_cgroup: bool = True
    #: Raw output kept of one session.
    output_limit_bytes: int = field(default=16 << 20, metadata={"low": 1 << 16, "high": 1 << 34})
    #: What a hook does with an edit of what another session has claimed: advise (warn) | enforce (refuse).
    claim_mode: str = field(default="advise", metadata={"one_of": ("advise", "enforce")})
    #: Messages and commands kept of one session's recording.
    recording_limit_bytes: int = field(default=64 << 20, metadata={"low": 1 << 16, "high": 1 << 34})
    #: The key that leaves an attached terminal.
    detach_key: str = "ctrl-]"

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_interval_s <= self.lease_s / 3:
            raise InvalidInput(
                f"heartbeat_interval_s ({self.heartbeat_interval_s:g}) must be at most a third of lease_s ({self.lease_s:g})",
                hint="raise lease_s or lower heartbeat_interval_s",
            )


#: States of a session of which its user can be told.
NOTIFY_STATES = ("waiting", "parked", "failed", "crashed", "stopped", "done")


@dataclass(frozen=True, kw_only=True, slots=True)
class Notify:
    """Where the user wants to be told, and of what."""

    #: Addresses as Apprise knows them (``json://...``, ``slack://...``), or ``desktop``. They may hold secrets.
    urls: tuple[str, ...] = ()
    on: frozenset[str] = frozenset({"waiting", "parked", "failed", "crashed"})


# Limits that are not for turning.

#: Shards of a new shared context. Measured: more files split the kernel's flush batches and gain nothing.
SHARD_COUNT = 4
KEY_LIMIT_BYTES = 512
VALUE_LIMIT_BYTES = 1 << 20
#: Nesting of a value; far below where any JSON reader gives up. Arbitrary.
VALUE_DEPTH_LIMIT = 100
HISTORY_LIMIT = 50
#: Of records that history no longer needs, compaction still keeps the newest so many, for watchers that are a bit behind.
RECENT_COUNT = 10_000
RECENT_LIMIT_BYTES = 4 << 20
#: A log smaller than this is never compacted. Arbitrary.
COMPACT_ABOVE_BYTES = 1 << 20
#: The index of a shard is saved whenever its log has grown by so much; after a reboot no more than that is replayed.
SAVE_EVERY_BYTES = 16 << 20
#: Changes handed out in one call.
CHANGES_LIMIT = 1000
CHANGES_LIMIT_BYTES = 8 << 20
UPDATE_TRIES = 4  # the first and three retries
LOCK_TIMEOUT_S = 10.0
#: Closing a context waits so long for the upkeep of a shard; what is given up is done by the next one.
UPKEEP_TIMEOUT_S = 1.0
#: Starting an agent and seeing it run.
START_TIMEOUT_S = 20.0
#: What the disk or a lock was in the way of is tried again after a pause that doubles from the first to the second. The
#: longest is also how long a user who made room may have to wait. Arbitrary.
TRY_AGAIN_S = 1.0
TRY_AGAIN_LIMIT_S = 30.0
CHECKPOINTS_KEPT = 10
#: A transcript larger than this is not copied into checkpoints. Arbitrary: a long day of an agent is a tenth of it.
TRANSCRIPT_LIMIT_BYTES = 256 << 20
#: Parts of a checkpoint up to this size are verified whenever it is chosen, larger ones when they are used.
PART_VERIFY_BYTES = 1 << 20
#: All git calls of one checkpoint together, and what they save at most.
GIT_TIMEOUT_S = 5.0
GIT_FILE_LIMIT_BYTES = 16 << 20
GIT_TOTAL_LIMIT_BYTES = 128 << 20
#: How long a claim lasts unless said otherwise, and at most.
CLAIM_LEASE_S = 1800.0
CLAIM_LEASE_LIMIT_S = 30 * 86_400.0
#: Claims of a home at a time, and the length of what is claimed. Arbitrary.
CLAIMS_LIMIT = 1000
CLAIM_WHAT_LIMIT_BYTES = 1024
#: A letter to a session; and how many that it has read are still shown. Arbitrary.
LETTER_LIMIT_BYTES = 64 << 10
LETTERS_KEPT = 50
#: Letters that may wait for one session. Arbitrary.
LETTERS_LIMIT = 1000
RECORD_LIMIT_BYTES = 1 << 20
#: A command with its environment, without secrets.
LAUNCH_LIMIT_BYTES = 1 << 19
#: A journal is rotated at this size; one older file is kept. Arbitrary: some hundred changes of a record.
JOURNAL_LIMIT_BYTES = 1 << 20
#: One recorded message or command. Arbitrary: far more than a person reads, or an agent's context holds.
RECORDED_LIMIT_BYTES = 8 << 20
#: A recording is kept in so many files at most beside those that are being written; the oldest goes as a whole.
RECORDING_SEGMENTS = 8
#: What is recorded counts as said by an incarnation of which this was known so short a time before at most.
RECORDING_LOOK_S = 0.01
#: A log of our own processes above this size is set aside when it is next opened; one older file is kept. Arbitrary.
LOG_LIMIT_BYTES = 1 << 20
#: A shutdown that takes longer ends the process at once; the next start recovers.
SHUTDOWN_TIMEOUT_S = 5.0
#: All coordinator threads of a home are quiet so soon after the breaker opened.
BREAKER_QUIET_S = 1.0
#: Consecutive I/O failures that open the breaker, and the pause before its one probe.
BREAKER_FAILURES = 5
BREAKER_PROBE_S = 5.0
#: Files of a sweep younger than this may belong to somebody who is just writing.
SWEEP_AGE_S = 60.0
#: Starting a patrol and hearing it answer.
PATROL_START_TIMEOUT_S = 10.0
#: A patrol looks at all records so often, for dead owners that nobody registered and for hung ones.
PATROL_SWEEP_S = 2.0
#: A patrol with no live session to watch ends after this.
PATROL_IDLE_S = 2.0
#: An owner asks the patrol so often whether it is awake.
PATROL_CHECK_S = 5.0
#: A patrol that has not answered for so long is ended, so that another can be started. Far beyond what a busy machine makes
#: it wait; its loop does nothing that takes long.
PATROL_SILENCE_S = 30.0
#: A keeper that answers takes no longer; one that does not is stopped or hung.
KEEPER_ANSWER_S = 2.0
#: A keeper that lost its epoch exits with this (distinct from every code of the command line).
EXIT_SUPERSEDED = 76

#: The table of notifications in the user's settings file.
_NOTIFY = "notify"

#: Parts of a variable's name that make it a secret: it is never written to disk.
SECRET_MARKS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "CREDENTIAL")


@functools.lru_cache(1024)
def is_secret(name: str) -> bool:
    """Tell whether an environment variable of this name is kept off the disk."""
    upper = name.upper()
    return any(mark in upper for mark in SECRET_MARKS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Where a value in force came from: ``environment``, ``default`` or a file's path."""

    value: object
    origin: str


def load_settings(environment: Mapping[str, str] | None = None, project: Path | None = None) -> Settings:
    """Return the settings in force. Raises ``InvalidInput`` naming the setting, its value and its source."""
    return Settings(**{name: found.value for name, found in find_origins(environment, project).items()})  # type: ignore[arg-type]


def find_origins(environment: Mapping[str, str] | None = None, project: Path | None = None) -> dict[str, Origin]:
    """Return every setting's value and where it came from."""
    environment = os.environ if environment is None else environment
    layers = _read_files(environment, project)
    found = {}
    for item in fields(Settings):
        origin = Origin(value=item.default, origin="default")
        variable = f"CREWKEEP_{item.name.upper()}"
        if variable in environment:
            origin = Origin(value=environment[variable], origin=variable)
        else:
            for source, values in layers:
                if item.name in values:
                    origin = Origin(value=values[item.name], origin=source)
                    break
        found[item.name] = Origin(value=_convert(item, origin), origin=origin.origin)
    return found


def find_unknown(environment: Mapping[str, str] | None = None, project: Path | None = None) -> list[tuple[str, str]]:
    """Return (name, file) of whatever stands in a settings file and is no setting: most often a slip of the keys."""
    known = {item.name for item in fields(Settings)} | {_NOTIFY}
    return [(name, source) for source, values in _read_files(environment, project) for name in values if name not in known]


def load_notify(environment: Mapping[str, str] | None = None) -> Notify:
    """Return whom to tell of what: the table ``notify`` of the user's own file.

    A project's file has no say: whoever writes a repository must not get to know what is done in it. Raises ``InvalidInput``.
    """
    path = _find_user_file(os.environ if environment is None else environment)
    table = _read_toml(path).get(_NOTIFY, {})
    urls = table.get("urls", []) if isinstance(table, dict) else None
    on = table.get("on", sorted(Notify().on)) if isinstance(table, dict) else None
    if not _is_texts(urls) or not _is_texts(on):
        raise InvalidInput(f"`notify` in {path} must hold lists of texts", hint='[notify] urls = ["desktop"] on = ["waiting"]')
    assert urls is not None and on is not None
    if unknown := set(on) - set(NOTIFY_STATES):
        raise InvalidInput(f"`notify.on` in {path} cannot be {min(unknown)!r}", hint=f"of: {', '.join(NOTIFY_STATES)}")
    return Notify(urls=tuple(urls), on=frozenset(on))


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _find_user_file(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "crewkeep" / "config.toml"


def _read_files(environment: Mapping[str, str] | None, project: Path | None) -> list[tuple[str, dict[str, Any]]]:
    environment = os.environ if environment is None else environment
    user_file = _find_user_file(environment)
    return [(str(path), _read_toml(path)) for path in (*_find_project_files(project), user_file)]


def _find_project_files(directory: Path | None) -> list[Path]:
    """Return the project file that holds in ``directory``: the nearest one from there upwards, if any."""
    places = (directory, *directory.parents) if directory else ()
    return [path for place in places if os.path.isfile(path := place / ".crewkeep.toml")][:1]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}", hint="mend or remove the file") from error
    import tomllib  # a millisecond that a process without a file need not pay

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"{path} is not TOML: {error}", hint="mend or remove the file") from error


def _convert(item: Any, origin: Origin) -> object:
    value, kind = origin.value, type(item.default)
    try:
        if kind is bool and isinstance(value, str):
            value = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[value.lower()]
        elif kind is bool:
            value = {True: True, False: False}[value]  # type: ignore[index]
        else:
            value = kind(value)
        low, high = item.metadata.get("low"), item.metadata.get("high")
        if low is not None and not low <= value <= high:
            raise ValueError(f"outside {low:g} to {high:g}")
        if "one_of" in item.metadata and value not in item.metadata["one_of"]:
            raise ValueError(f"not one of {', '.join(item.metadata['one_of'])}")
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(
            f"{item.name} cannot be {origin.value!r} (from {origin.origin}): {error}", hint=f"the default is {item.default!r}"
        ) from error
    return value
