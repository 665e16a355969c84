"""The program that is recorded: ``python -m proof.program SCENARIO ROOT SAID PHASE BOOT [BUG]``.

``PHASE`` is before, during, or recover (open what a crash has left, read everything, check it, write once).
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> None:
    name, root, said, phase, boot, *bug = arguments
    if bug:
        from proof.planted import plant

        plant(bug[0])
    run(name, root, said, phase, boot)


def run(name: str, root: str, said: str, phase: str, boot: str) -> None:
    """Play one phase of a scenario in this process."""
    from proof import engine
    from proof.scenarios import SCENARIOS, Stage
    from proof.witness import Witness

    engine.set_boot(boot)
    scenario = SCENARIOS[name]
    if scenario.small:
        engine.make_small()
    witness = Witness(said, root, ignored=engine.WITHOUT_DATA, who=f"{phase}-{os.getpid()}")
    stage = Stage(root, witness, scenario.durability, scenario.shards)
    if phase == "before":
        scenario.before(stage)
    elif phase == "during":
        scenario.during(stage)
    else:
        assert phase == "recover", phase
        context = stage.context
        if name == "repair":
            context.check(repair=True)
        for key in list(context.keys()):
            context.history(key)
        assert context.check() == []
        stage.put("recovered", boot)
    stage.reopen()


if __name__ == "__main__":
    main(sys.argv[1:])
