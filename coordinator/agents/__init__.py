"""One small file per agent program: how it is started, resumed and read, and how its progress shows.

Belongs here: what crewkeep must know of one program's command line, transcript and prompt. Does not belong here:
starting processes, judging faults, keeping copies.
"""

from coordinator.agents.base import Activity, Agent, get_agent, recognise

__all__ = ["Activity", "Agent", "get_agent", "recognise"]
