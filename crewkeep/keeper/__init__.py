"""The keeper: the process that owns one session's agent, its terminal and its process tree.

Belongs here: one incarnation after the other in one process: starting the agent, watching it, deciding at its end.
Does not belong here: how dead keepers are noticed (``patrol``), what a recovery consists of (``recovery``), what visitors
of the terminal say (``terminal``).
"""
