"""Many `recover` commands for one dead session: one brings it back, and none of the others calls that a failure."""

from __future__ import annotations

import json
import signal
import subprocess
from collections import Counter

import psutil
from support import CREWKEEP, cli, cli_json, find_home_processes, make_environment

from coordinator.paths import Home

COUNT = 12


def test_one_of_many_recovers_and_the_others_say_so_and_end_with_0(home: Home) -> None:
    assert cli("run", "-d", "--name", "auth", "--", "sleep", "1000", home=home).returncode == 0
    # Chosen before the first of them is ended: its agent goes with it and has no environment any more.
    for process in [process for process in find_home_processes(home) if "CREWKEEP_ROLE" in process.environ()]:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(find_home_processes(home), timeout=0)
    words = [str(CREWKEEP), "recover", "auth", "--yes", "--json"]
    many = [subprocess.Popen(words, env=make_environment(home), stdout=subprocess.PIPE, text=True) for _ in range(COUNT)]
    outcomes = Counter(json.loads(one.communicate(timeout=50)[0])[0]["outcome"] for one in many)
    assert [one.returncode for one in many] == [0] * COUNT
    assert outcomes["recovered"] <= 1, "the patrol that a keeper started may have been the one"
    assert set(outcomes) <= {"recovered", "already recovered", "nothing to do"}, outcomes
    (row,) = cli_json("ps", "--json", home=home)
    assert (row["state"] in ("working", "idle"), row["epoch"]) == (True, 2)
    assert cli("kill", "auth", home=home).returncode == 0
