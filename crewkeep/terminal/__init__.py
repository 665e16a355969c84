"""A session's terminal, from both sides: the keeper's that serves it, and a person's that attaches to it.

Belongs here: the kept output, its readable form, the words that keeper and attached terminals exchange.
Does not belong here: the agent's pseudo-terminal itself (coordinator.system), and what an end means (keeper).
"""
