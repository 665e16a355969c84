"""``python -m crewkeep.patrol HOME``: the patrol of one home, of which there is at most one."""

from __future__ import annotations

import os
import signal
import sys

from coordinator.errors import CrewkeepError, StorageError
from coordinator.paths import Home
from coordinator.system import files, locks, sockets
from crewkeep.own_process import leave_group_of_agent
from crewkeep.patrol.watch import Patrol
from crewkeep.patrol_rousing import write_patrol
from crewkeep.process_log import say, say_error


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 when it left in order or another one is there."""
    leave_group_of_agent()
    home = Home.at(arguments[0])
    files.make_directory(home.patrol)
    lock = locks.open_lock(home.patrol_lock)
    if not locks.try_acquire(lock, home.patrol_lock):
        return 0
    try:
        listener = sockets.listen(home.patrol_socket)
        try:
            write_patrol(home)
        except StorageError as error:  # a full disk: it watches all the same
            say_error("writing down who is the patrol", error, whole=False)
        say(f"patrol {os.getpid()} of {home.path} begins")
        Patrol(home, listener).run((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
        say(f"patrol {os.getpid()} leaves")
    finally:
        files.remove_quietly(home.patrol_socket)
        os.close(lock)
    return 0


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except (CrewkeepError, OSError) as error:
        say_error("the patrol cannot go on", error, whole=False)
        code = 1
    except Exception as error:  # noqa: BLE001 - the outermost edge: what nobody expected goes to the log, with its place
        say_error("the patrol failed", error)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # threads that attend are daemons of ours; what they began, another patrol takes up
