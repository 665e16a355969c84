"""The only room that touches the operating system: clock, files, locks, processes, trees, terminals, wake-ups.

Belongs here: every call whose answer depends on the machine, behind a small function with a stated fallback.
Does not belong here: what the answers mean.
"""
