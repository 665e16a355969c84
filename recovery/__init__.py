"""Is it alive, is it whole, bring it back.

Belongs here: evidence and its judges, checkpoints, the plan of a recovery and the acts that carry it out.
Does not belong here: how an agent is run and seen (crewkeep), or what a session and its shared context are (coordinator).
"""
