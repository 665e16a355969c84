"""Who works, by what right, in what state.

Belongs here: session records, epochs, heartbeats, the journal, and the state that follows from them.
Does not belong here: judging a fault or mending it (recovery), owning a terminal or a process tree (crewkeep).
"""
