"""The shared context against what one would take instead, on the same work, in one interleaved run.

Belongs here: the peers, the work, and the table of what must be shown. Does not belong here: asserting a speed. What is
asserted is that nothing was lost; a store that loses a commit has no speed.
"""
