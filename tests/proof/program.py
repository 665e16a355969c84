"""The program that is recorded: a phase of a scenario, in a process of its own.

A phase is before, during, recover (open what a crash has left, read everything, check it, write once) or errands.
"""

from __future__ import annotations

import os


def run(name: str, root: str, said: str, phase: str, boot: str) -> None:
    """Play one phase of a scenario in this process."""
    from proof import engine
    from proof.scenarios import SCENARIOS, Stage
    from proof.witness import Witness

    engine.set_boot(boot)
    if phase == "errands":
        from proof import errands

        engine.make_small()
        errands.run(root, errands.LimitedWitness(said, root, ignored=engine.WITHOUT_DATA, who="errands"))
        return
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


main = run
