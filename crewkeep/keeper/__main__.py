"""``python -m crewkeep.keeper HOME SESSION EPOCH ROWS COLUMNS``: the keeper of one session at one epoch."""

from __future__ import annotations

import os
import sys

from coordinator.config import EXIT_SUPERSEDED
from coordinator.errors import CrewkeepError, Superseded
from coordinator.paths import Home
from coordinator.sessions.registry import Registry
from coordinator.system.terminal import become_subreaper
from crewkeep.keeper.keeper import Keeper
from crewkeep.own_process import leave_group_of_agent
from crewkeep.process_log import say, say_error
from crewkeep.session_settings import settings_of


def main(arguments: list[str]) -> int:
    """Return the exit code: 0 after the session's end, ``EXIT_SUPERSEDED`` when a newer incarnation rules."""
    home, session_id, epoch = Home.at(arguments[0]), arguments[1], int(arguments[2])
    size = int(arguments[3]), int(arguments[4])
    leave_group_of_agent()
    become_subreaper()
    registry = Registry(home)
    record = registry.get(session_id)
    if record.epoch != epoch:
        say(f"asked for epoch {epoch}, but the session is at {record.epoch}")
        return EXIT_SUPERSEDED
    launch = registry.get_launch(session_id)
    return Keeper(home, record, launch, os.environ, settings_of(launch), size=size).run()


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except Superseded as error:
        say(str(error))
        code = EXIT_SUPERSEDED
    except (CrewkeepError, OSError) as error:
        say_error("the keeper cannot go on", error, whole=False)
        code = 1
    except Exception as error:  # noqa: BLE001 - the outermost edge: what nobody expected goes to the log, with its place
        say_error("the keeper failed", error)
        code = 1
    sys.stderr.flush()
    os._exit(code)  # a thread that hangs in a watcher or on the disk must not hold up the end
