"""A tree of twenty processes that does all that trees do to survive; run as ``grove.py DIRECTORY ENDLESS``.

Every process leaves a file named after its pid in DIRECTORY, and then never ends by itself. With ENDLESS=1 two of them
go on forking.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

DIRECTORY = Path(sys.argv[1])
ENDLESS = sys.argv[2] == "1"


def note(kind: str) -> None:
    (DIRECTORY / f"{os.getpid()}").write_text(kind)


def sleep() -> None:
    while True:
        signal.pause()


def plain() -> None:
    note("plain")
    sleep()


def in_a_session_of_its_own() -> None:
    os.setsid()
    note("setsid")
    sleep()


def in_a_group_of_its_own() -> None:
    os.setpgid(0, 0)
    note("setpgid")
    sleep()


def daemon() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    note("daemon")
    sleep()


def deaf() -> None:
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    note("deaf")
    sleep()


def stopped() -> None:
    note("stopped")
    os.kill(os.getpid(), signal.SIGSTOP)
    sleep()


def without_environment() -> None:
    note("bare")
    os.execve("/bin/sleep", ["sleep", "1000"], {})


def daemon_without_environment() -> None:
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    note("bare daemon")
    os.execve("/bin/sleep", ["sleep", "1000"], {})


def forking() -> None:
    note("forking")
    while ENDLESS:
        if os.fork() == 0:
            os.setsid()
            time.sleep(0.05)
            os._exit(0)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.001)
    sleep()


KINDS: list[tuple[Callable[[], None], int]] = [
    (plain, 4),
    (in_a_session_of_its_own, 3),
    (in_a_group_of_its_own, 1),
    (daemon, 3),
    (deaf, 3),
    (stopped, 2),
    (without_environment, 1),
    (daemon_without_environment, 0 if os.environ.get("MARKED_ONLY") else 1),
    (forking, 2 if not os.environ.get("MARKED_ONLY") else 3),
]

for kind, count in KINDS:
    for _ in range(count):
        if os.fork() == 0:
            kind()
while len(list(DIRECTORY.iterdir())) < sum(count for _, count in KINDS):
    time.sleep(0.005)
(DIRECTORY / "ready").touch()
sleep()
