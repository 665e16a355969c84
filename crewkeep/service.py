"""Brings all sessions back at login or boot: a systemd user unit, on macOS a launchd agent.

There is nothing that has to run all the time: the unit runs ``crewkeep recover --all --yes`` once. The keepers that it
starts belong to its control group, so the unit says that stopping it ends nobody (``KillMode=process``).

Secrets are never written to disk; a session that needs one which the user manager's environment does not have is parked
and names it. They can be given to the user manager in ``ENVIRONMENT_FILE``, which is the user's own decision.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from coordinator.errors import CrewkeepError, Missing, StorageError
from coordinator.paths import Home
from coordinator.system import files, locks
from coordinator.system.home import prepare_home

UNIT_NAME = "crewkeep-recover.service"
LABEL = "io.crewkeep.recover"
ENVIRONMENT_FILE = "environment"
_TIMEOUT_S = 20.0

_UNIT = """\
[Unit]
Description=Bring the sessions of crewkeep back
Documentation=https://pypi.org/project/crewkeep/

[Service]
Type=oneshot
RemainAfterExit=yes
# Sessions live on when this unit is stopped or restarted.
KillMode=process
Environment={home}
EnvironmentFile=-{environment}
ExecStart={command}

[Install]
WantedBy=default.target
"""

_PLIST = """\
<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
  <key>Label</key><string>{label}</string>
  <key>ProgramArguments</key><array>{arguments}</array>
  <key>EnvironmentVariables</key><dict><key>CREWKEEP_HOME</key><string>{home}</string></dict>
  <key>RunAtLoad</key><true/>
  <key>AbandonProcessGroup</key><true/>
</dict>
</plist>
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceStatus:
    """What there is of the unit."""

    #: ``systemd`` or ``launchd``.
    manager: str
    path: str
    installed: bool
    #: Written by this version for this home; a different one is replaced by ``install``.
    current: bool
    #: Started at login (or boot); ``None`` if the manager does not answer.
    enabled: bool | None
    #: User processes go on without a login; ``None`` if unknown.
    lingers: bool | None


def install(home: Home) -> ServiceStatus:
    """Write the unit and enable it. Raises ``Missing`` if the service manager cannot be reached: then nothing is left."""
    path = find_path()
    content = build_unit(home)
    before = _read(path)
    if not _is_manager_there():
        raise Missing(
            f"{_manager()} does not answer for this user, so nothing can be started at login",
            hint="log in with a user session, or run after a boot: crewkeep recover --all --yes",
        )
    prepare_home(home)
    with locks.administrative_lock(home.lock, timeout_s=_TIMEOUT_S):
        _install(path, content, before)
    return read_status(home)


def _install(path: Path, content: str, before: str | None) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.replace_durably(path, content.encode())
    except OSError as error:
        raise error if isinstance(error, StorageError) else StorageError.from_os(error, "write", path) from error
    try:
        if sys.platform == "darwin":
            _call(["launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}"], may_fail=True)
            _call(["launchctl", "bootstrap", f"gui/{os.getuid()}", str(path)])
        else:
            _call(["systemctl", "--user", "daemon-reload"])
            _call(["systemctl", "--user", "enable", UNIT_NAME])
    except CrewkeepError:
        if before is None:
            path.unlink(missing_ok=True)
        raise


def remove(home: Home) -> ServiceStatus:
    """Disable the unit and delete its file; sessions that run are not touched."""
    path = find_path()
    if path.exists():
        prepare_home(home)
        with locks.administrative_lock(home.lock, timeout_s=_TIMEOUT_S):
            _remove(path)
    return read_status(home)


def _remove(path: Path) -> None:
    if sys.platform == "darwin":
        _call(["launchctl", "bootout", f"gui/{os.getuid()}/{LABEL}"], may_fail=True)
    else:
        _call(["systemctl", "--user", "disable", UNIT_NAME], may_fail=True)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError.from_os(error, "remove", path) from error
    if sys.platform != "darwin":
        _call(["systemctl", "--user", "daemon-reload"], may_fail=True)


def read_status(home: Home) -> ServiceStatus:
    """Return what there is. Never raises for a manager that does not answer."""
    path = find_path()
    content = _read(path)
    enabled: bool | None = None
    if sys.platform == "darwin":
        listed = _call(["launchctl", "print", f"gui/{os.getuid()}/{LABEL}"], may_fail=True)
        enabled = None if listed is None else listed.returncode == 0
    else:
        asked = _call(["systemctl", "--user", "is-enabled", UNIT_NAME], may_fail=True)
        # Without a user manager it is answered from the files alone, which is as true as it gets.
        enabled = None if asked is None else asked.stdout.strip() == "enabled"
    return ServiceStatus(
        manager=_manager(),
        path=str(path),
        installed=content is not None,
        current=content == build_unit(home),
        enabled=enabled,
        lingers=_read_linger(),
    )


def build_unit(home: Home) -> str:
    """Return the text of the unit (or property list) for this home and this installation."""
    arguments = [sys.executable, "-m", "crewkeep", "recover", "--all", "--yes"]
    if sys.platform == "darwin":
        from html import escape

        listed = "".join(f"<string>{escape(argument)}</string>" for argument in arguments)
        return _PLIST.format(label=LABEL, arguments=listed, home=escape(str(home.path)))
    environment = _config_directory() / "crewkeep" / ENVIRONMENT_FILE
    return _UNIT.format(
        home=_quote(f"CREWKEEP_HOME={home.path}"),
        environment=str(environment).replace("%", "%%"),
        command=" ".join(map(_quote, arguments)),
    )


def find_path() -> Path:
    """Return where the unit belongs."""
    if sys.platform == "darwin":
        return Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    return _config_directory() / "systemd" / "user" / UNIT_NAME


def _config_directory() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _quote(text: str) -> str:
    """Quote for a unit file: systemd expands % and $ also inside quotes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def _manager() -> str:
    return "launchd" if sys.platform == "darwin" else "systemd"


def _is_manager_there() -> bool:
    if sys.platform == "darwin":
        return shutil.which("launchctl") is not None
    asked = _call(["systemctl", "--user", "is-system-running"], may_fail=True)
    return asked is not None and asked.stdout.strip() in ("running", "degraded", "starting", "initializing", "maintenance")


def _read_linger() -> bool | None:
    if sys.platform == "darwin":
        return None
    import pwd

    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return None
    directory = Path("/var/lib/systemd/linger")
    return (directory / name).exists() if directory.is_dir() else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _call(command: Sequence[str], *, may_fail: bool = False) -> subprocess.CompletedProcess[str] | None:
    """Run a tool of the service manager; ``None`` if it is not there or does not answer and may fail."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if may_fail:
            return None
        raise Missing(f"cannot run {command[0]}: {error}", hint="crewkeep recover --all --yes does the same by hand") from error
    if done.returncode and not may_fail:
        why = (done.stderr or done.stdout).strip().splitlines()
        raise CrewkeepError(
            f"{shlex.join(command)} failed: {why[-1] if why else done.returncode}", hint="crewkeep service status"
        )
    return done
