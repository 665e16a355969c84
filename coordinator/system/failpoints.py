"""Named places where tests make the machine fail: the process dies, an errno comes, the call waits.

``CREWKEEP_FAILPOINTS=shard.append=kill@3,files.fsync=ENOSPC`` arms a real process: at the third hit of ``shard.append``
it kills itself, every ``files.fsync`` fails with that errno. ``NAME=pause`` stops the process with SIGSTOP.
In a test's own process ``observe`` calls a function at every hit instead. Unarmed, a hit costs one comparison.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Observer = Callable[[str], None]


#: Whether anybody armed anything. On the hottest paths it is asked before ``hit`` is called.
armed = False


def hit(name: str) -> None:
    """Pass the place called ``name``: nothing happens unless somebody armed it. Raises ``OSError`` when armed so."""
    if _observer is not None:
        _observer(name)


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Call ``observer(name)`` at every hit in this process; what it raises comes out of the place."""
    global _observer, armed
    before, _observer, armed = _observer, observer, True
    try:
        yield
    finally:
        _observer, armed = before, before is not None


def _from_environment(text: str) -> Observer | None:
    """Read ``name=act[@n],...``; ``act`` is kill, pause or an errno name; with ``@n`` only the n-th hit counts."""
    acts: dict[str, tuple[str, int]] = {}
    for part in filter(None, text.split(",")):
        name, _, act = part.partition("=")
        act, _, nth = act.partition("@")
        acts[name.strip()] = (act.strip(), int(nth or 0))
    if not acts:
        return None
    counts = dict.fromkeys(acts, 0)

    def act_on(name: str) -> None:
        if name not in acts:
            return
        act, nth = acts[name]
        counts[name] += 1
        if nth and counts[name] != nth:
            return
        if act == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif act == "pause":
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            number = getattr(errno, act)
            raise OSError(number, os.strerror(number), name)

    return act_on


_observer: Observer | None = _from_environment(os.environ.get("CREWKEEP_FAILPOINTS", ""))
armed = _observer is not None
