"""Five judges, one fault class each. Pure, total, and unaware of one another.

Belongs here: ``judge(evidence) -> Finding`` for one layer.
Does not belong here: looking (recovery.evidence) or weighing one layer against another (recovery.cascade).
"""
