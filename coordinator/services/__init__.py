"""Long-running work, each piece startable and stoppable: the coordinator thread, the breaker, the features.

Belongs here: what runs beside a session's own work and can be turned down without touching data.
Does not belong here: owning an agent's terminal or process tree (crewkeep), judging or mending a fault (recovery).
"""
