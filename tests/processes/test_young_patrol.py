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
    killed = {0}
    for _ in range(6):
        pid = wait_until(lambda: ({find_patrol(home)} - killed or {0}).pop(), timeout_s=5, what="another patrol")
        os.kill(pid, signal.SIGKILL)
        killed.add(pid)
    assert cli("kill", "quiet", home=home).returncode == 0
