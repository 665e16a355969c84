"""Tells the user of a session that needs somebody: on the desktop, or wherever Apprise can reach.

Sending is a process of its own, since the library that does it is larger than a keeper, and a server that does not answer must
hold up nobody. Where to send is read by that process from the user's own file, so no address is ever handed on.

Not promised: that a message arrives. What could not be sent is in ``notify.log`` of the home.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from coordinator.config import Notify, load_notify
from coordinator.errors import CrewkeepError, Missing
from coordinator.paths import Home
from coordinator.system.spawn import spawn_detached
from crewkeep.process_log import say, say_error
from recovery.starter import build_own_command, build_own_environment

DESKTOP = "desktop"
_DESKTOP_TIMEOUT_S = 10.0
#: What may be told of an address; what has no kind may be nothing but a secret.
_KIND = re.compile(r"[a-z][a-z0-9+.-]*(?=://)", re.IGNORECASE)
_ACTS = {"waiting": "answer it: crewkeep attach {name}", "parked": "crewkeep why {name}", "crashed": "crewkeep why {name}"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """What came of one address. The address itself may hold a secret and is not told."""

    #: Its kind: ``desktop``, ``slack``; ``unknown`` if it does not tell.
    kind: str
    problem: str | None = None


def notify(home: Home, name: str, state: str, reason: str | None) -> None:
    """Tell the user that the session ``name`` is in ``state``, if that is wanted. Raises nothing and waits for nobody."""
    try:
        wanted = load_notify()
        if wanted.urls and state in wanted.on:
            command = build_own_command("crewkeep.notify", name, state, reason or "")
            spawn_detached(command, environment=build_own_environment(home, "notifier", {}), log=home.notify_log)
    except (CrewkeepError, OSError) as error:
        say_error("telling the user", error, whole=False)


class WaitingNotice:
    """Tells the user once each time that a session comes to wait for a decision."""

    def __init__(self, home: Home, name: str) -> None:
        self._home, self._name = home, name
        self._is_waiting = False

    def note(self, is_waiting: bool) -> None:
        """Say how it stands now."""
        if is_waiting and not self._is_waiting:
            notify(self._home, self._name, "waiting", "it needs a decision")
        self._is_waiting = is_waiting


def send(wanted: Notify, title: str, body: str) -> list[Sent]:
    """Send one message to every address; returns what came of each. Raises ``Missing`` if a package is needed for it."""
    others = [url for url in wanted.urls if url != DESKTOP]
    sent = [_send_to_desktop(title, body)] if DESKTOP in wanted.urls else []
    if others:
        try:
            import apprise
        except ModuleNotFoundError as error:
            hint = "pipx install 'crewkeep[notify]'"
            raise Missing(f"notifications need a package that is not installed ({error.name})", hint=hint) from error
        sent += [_send_by(apprise.Apprise(), url, title, body) for url in others]
    return sent


def _send_by(sender: object, url: str, title: str, body: str) -> Sent:
    found = _KIND.match(url)
    kind = found[0] if found is not None else "unknown"
    if not sender.add(url):  # type: ignore[attr-defined]
        return Sent(kind=kind, problem="the address is not understood")
    return Sent(kind=kind, problem=None if sender.notify(title=title, body=body) else "it was not taken")  # type: ignore[attr-defined]


def _send_to_desktop(title: str, body: str) -> Sent:
    import shutil  # a keeper, which only asks for a message to be sent, need not hold these
    import subprocess

    if sys.platform == "darwin":
        script = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
        command = ["osascript", "-e", script, title, body]
    else:
        command = ["notify-send", "--app-name=crewkeep", "--", title, body]
    if shutil.which(command[0]) is None:
        return Sent(kind=DESKTOP, problem=f"{command[0]} is not installed")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DESKTOP_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Sent(kind=DESKTOP, problem=str(error))
    return Sent(kind=DESKTOP, problem=None if done.returncode == 0 else done.stderr.strip() or f"exit code {done.returncode}")


def main(arguments: list[str]) -> int:
    """Send what a keeper or the patrol has to tell: name, state, reason."""
    name, state, reason = arguments
    act = _ACTS.get(state, "crewkeep logs {name}").format(name=name)
    body = f"{reason}\n{act}" if reason else act
    try:
        for sent in send(load_notify(), f"{name} is {state}", body):
            say(f"{name} is {state}: {sent.kind}: {sent.problem or 'told'}")
    except CrewkeepError as error:
        say_error("telling the user", error, whole=False)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
