"""Ask a running keeper for something, and get its answer or its error."""

from __future__ import annotations

import time
from typing import Any

from coordinator import errors
from coordinator.errors import CrewkeepError, Missing, StorageError, TimedOut
from coordinator.paths import SessionPaths
from coordinator.system import sockets
from crewkeep.terminal import frames
from crewkeep.terminal.frames import FrameReader, Kind

_KINDS: dict[str, type[CrewkeepError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    # The others' makers take facts that do not travel.
    if isinstance(kind, type) and issubclass(kind, CrewkeepError) and kind.__init__ is CrewkeepError.__init__
}


def request(paths: SessionPaths, verb: str, timeout_s: float = 2.0, **arguments: Any) -> dict[str, Any]:
    """Ask the keeper of the session at ``paths`` and return its answer.

    Raises ``Missing`` if there is no keeper, ``TimedOut`` if it does not answer in ``timeout_s`` (it may be stopped, and
    may still act on the request later), and whatever error it answers with.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        connection = sockets.connect(paths.socket, timeout_s)
    except Missing as error:
        raise Missing(f"no keeper answers for session {paths.path.name}", hint="see: crewkeep ps -a") from error
    reader = FrameReader()
    with connection:
        try:
            connection.sendall(frames.encode(Kind.REQUEST, {**arguments, "verb": verb}))
            while True:
                rest_s = deadline_s - time.monotonic()
                if rest_s <= 0:
                    raise TimeoutError
                connection.settimeout(rest_s)
                data = connection.recv(1 << 16)
                if not data:
                    raise Missing(
                        f"the keeper of session {paths.path.name} ended before it answered {verb!r}", hint="see: crewkeep ps -a"
                    )
                for frame in reader.feed(data):
                    if frame.kind == Kind.ANSWER:
                        return _open(frame.words())
        except TimeoutError as error:
            raise TimedOut(
                f"the keeper of session {paths.path.name} did not answer {verb!r} within {timeout_s:g} s",
                hint=f"see: crewkeep why {paths.path.name}",
            ) from error
        except ConnectionError as error:
            raise Missing(f"the keeper of session {paths.path.name} hung up", hint="see: crewkeep ps -a") from error
        except OSError as error:
            if isinstance(error, CrewkeepError):
                raise
            raise StorageError.from_os(error, "talk to", paths.socket) from error


def _open(answer: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(found := answer.get("error"), dict):
        return answer
    kind = _KINDS.get(str(found.get("code")), CrewkeepError)
    raise kind(str(found.get("message", "the keeper refused")), hint=str(found.get("hint", "")))
