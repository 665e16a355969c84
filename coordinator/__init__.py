"""The shared context, the sessions, and the thread that keeps each of them in step.

Belongs here: everything that can be understood, tested and imported without recovery and without a user.
Does not belong here: judging whether a session is alive (recovery), and anything a person types or sees (crewkeep).
"""
