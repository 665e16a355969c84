"""A patrol that is killed in its first moments is followed by another at once, not when its start would have timed out."""

from __future__ import annotations

import os
import signal

from support import cli, wait_until

from coordinator.paths import Home
from crewkeep.patrol_client import ask_patrol


def find_patrol(home: Home) -> int:
    answer = ask_patrol(home, "status")
    return int(answer["pid"]) if answer else 0


def test_a_patrol_killed_as_soon_as_it_answers_is_replaced_at_once(home: Home) -> None:
    assert cli("run", "-d", "--name", "quiet", "--", "sleep", "300", home=home).returncode == 0
    old = 0
    for _ in range(6):
        began_s = time.monotonic()
        answer = wait_until(
            lambda: (found := ask_patrol(home, "status")) and found["pid"] != old and found, what="another patrol"
        )
        assert time.monotonic() - began_s < 5
        old = int(answer["pid"])
        os.kill(old, signal.SIGKILL)
    assert cli("kill", "quiet", home=home).returncode == 0
