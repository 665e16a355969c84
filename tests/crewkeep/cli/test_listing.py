"""The list of sessions: what it does not show costs one look at a record, and nothing more."""

from session_support import change_session, end_session, make_session

from coordinator.config import Settings
from coordinator.paths import Home
from coordinator.sessions.model import Outcome, Phase
from coordinator.sessions.registry import Registry
from coordinator.system import failpoints
from coordinator.system.clock import SYSTEM
from crewkeep.cli.house import House
from crewkeep.cli.listing import list_rows


def test_sessions_that_ended_well_are_left_out_at_the_cost_of_their_record(home: Home) -> None:
    registry = Registry(home)
    house = House(home=home, registry=registry, settings=Settings(), clock=SYSTEM)
    for number in range(5):
        end_session(registry, make_session(home, f"done-{number}"))
    end_session(registry, make_session(home, "broken"), Outcome.CRASHED)
    change_session(registry, make_session(home, "later"), phase=Phase.PARKED, reason="a limit")
    reads = 0

    def count(name: str) -> None:
        nonlocal reads
        reads += name == "files.read"

    with failpoints.observe(count):
        rows = list_rows(house, everything=False)
    assert [(row["name"], row["state"]) for row in rows] == [("broken", "crashed"), ("later", "parked")]
    assert reads <= 7 + len(rows), "one record each, and the last beat of those that are shown"
    assert len(list_rows(house, everything=True)) == 7
