"""What every long-lived process of crewkeep's own does first."""

from __future__ import annotations

import os

from coordinator.system import cgroup


def leave_group_of_agent() -> None:
    """Move out of the control group of an agent from within whose tree we were started, so that we do not end with it."""
    group = cgroup.group_of(os.getpid())
    if group is None:
        return
    for part in reversed((group, *group.parents)):
        if part.name.startswith("crewkeep-"):
            cgroup.join(part.parent, os.getpid())
            return
