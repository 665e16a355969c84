"""How much is proven: bounded in a default run, all of it with ``PROVE=1``; each number can be given by its own variable."""

from __future__ import annotations

import os
import random

#: Whether this is `make prove`.
PROVE = os.environ.get("PROVE") == "1"


def choose(name: str, bounded: int, whole: int) -> int:
    """Return the number that the environment variable gives, else that of this kind of run."""
    return int(os.environ.get(name) or (whole if PROVE else bounded))


#: Repeats what is drawn by lot. Drawn by lot itself, so that bounded runs together see more and more.
SEED = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
#: Crash states inspected of one scenario.
STATES = choose("STATES", 60, 20_000)
#: Crash states of one scenario from which a recovery is recorded and crashed again.
RECOVERIES = choose("RECOVERIES", 1, 12)
#: System calls of one scenario at which it is killed.
KILLS = choose("KILLS", 12, 1_000_000)
#: System calls that are made to fail, with one error each.
FAILURES = choose("FAILURES", 24, 1_000_000)
#: Truncations and flipped bits.
HARMS = choose("HARMS", 250, 10_000_000)
#: Operations of all members of a crew, and how many members.
OPERATIONS = choose("OPERATIONS", 16_000, 1_000_000)
MEMBERS = choose("MEMBERS", 4, 16)
#: Kills of a crew's members at random instants.
RANDOM_KILLS = choose("RANDOM_KILLS", 40, 10_000)
