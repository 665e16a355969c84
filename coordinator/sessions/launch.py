"""How an agent was launched, split into what may be written down and what may not; and the environment it gets.

A variable whose name looks like a secret is named in the launch, never held. ``CREWKEEP_*`` of the caller says who the
caller is, so it is not handed on; settings are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields

from coordinator import sealed
from coordinator.config import LAUNCH_LIMIT_BYTES, Settings, is_secret
from coordinator.errors import InvalidInput, Missing
from coordinator.paths import Home
from coordinator.sessions.model import LAUNCH_FORMAT, LAUNCH_KIND, LaunchSpec, SessionRecord

_PREFIX = "CREWKEEP_"
#: The size of the terminal that the session was started from: programs believe it more than the one they run on.
_SIZES = frozenset({"LINES", "COLUMNS"})
#: What a session calls its terminal that was started without one (by cron, in CI).
_TERMINAL = "xterm-256color"
_SETTINGS = frozenset(f"{_PREFIX}{item.name.upper()}" for item in fields(Settings))


def build_launch(argv: Sequence[str], cwd: str | os.PathLike[str], environment: Mapping[str, str]) -> LaunchSpec:
    """Return the launch of ``argv`` in ``cwd`` (made absolute). Raises ``InvalidInput`` with what cannot be accepted."""
    if not argv or not argv[0]:
        raise InvalidInput("there is no command to run", hint="crewkeep run -- COMMAND...")
    if any("\0" in part for part in argv):
        raise InvalidInput("an argument holds a NUL character", hint="remove it")
    directory = os.path.abspath(cwd)
    if not os.path.isdir(directory):
        raise InvalidInput(f"{directory} is not a directory", hint="choose one with --cwd")
    plain, secret = {}, []
    for name, value in environment.items():
        if name.startswith(_PREFIX):
            if name in _SETTINGS:
                plain[name] = value
        elif is_secret(name):
            secret.append(name)
        else:
            plain[name] = value
    launch = LaunchSpec(argv=tuple(argv), cwd=directory, environment=plain, secret_names=tuple(sorted(secret)))
    check_launch(launch)
    return launch


def check_launch(launch: LaunchSpec) -> None:
    """Refuse a launch that must not or cannot be written down."""
    leaked = [name for name in launch.environment if is_secret(name) and name not in _SETTINGS]
    if leaked:
        raise InvalidInput(f"{leaked[0]} looks like a secret and must not be in a launch", hint="name it in secret_names")
    size = len(sealed.encode_sealed(LAUNCH_KIND, LAUNCH_FORMAT, launch.encode()))
    if size > LAUNCH_LIMIT_BYTES:
        largest = max(launch.environment, key=lambda name: len(launch.environment[name]), default="argv")
        raise InvalidInput(
            f"the command and its environment take {size} bytes, more than {LAUNCH_LIMIT_BYTES}",
            hint=f"shorten the arguments or unset variables; the largest is {largest}",
        )


def find_missing_secrets(launch: LaunchSpec, secrets: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the secrets that the launch needs and ``secrets`` does not have."""
    return tuple(name for name in launch.secret_names if name not in secrets)


def build_environment(launch: LaunchSpec, secrets: Mapping[str, str], record: SessionRecord, home: Home) -> dict[str, str]:
    """Return the agent's whole environment: the launch's, its secrets, and who it is.

    Raises ``Missing`` that names the secrets which ``secrets`` does not have.
    """
    missing = find_missing_secrets(launch, secrets)
    if missing:
        raise Missing(
            f"{record.name} needs {', '.join(missing)}, which is never written to disk",
            hint=f"set it and run: crewkeep recover {record.name} --yes",
            missing=missing,
        )
    inherited = {name: value for name, value in launch.environment.items() if name not in _SIZES}
    return {
        "TERM": _TERMINAL,
        **inherited,
        **{name: secrets[name] for name in launch.secret_names},
        "CREWKEEP_HOME": str(home.path),
        "CREWKEEP_WORKSPACE": record.workspace,
        "CREWKEEP_SESSION": record.id,
        "CREWKEEP_EPOCH": str(record.epoch),
        "CREWKEEP_NONCE": record.nonce,
    }
