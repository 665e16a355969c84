"""The judge of histories is judged by the textbook's search; then it judges real processes that are killed and stopped."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import pytest

from proof.conftest import Report
from proof.crew import run_crew
from proof.history import FOREVER, GONE, Act, Kind, Outcome
from proof.options import MEMBERS, OPERATIONS, PROVE, RANDOM_KILLS, SEED
from proof.register import is_linearizable, judge_register

PUT, GET, CAS, DELETE, NEWEST = Kind.PUT, Kind.GET, Kind.CAS, Kind.DELETE, Kind.NEWEST
DONE, UNKNOWN, CONFLICT, ABSENT = Outcome.DONE, Outcome.UNKNOWN, Outcome.CONFLICT, Outcome.ABSENT

GOOD: dict[str, list[Act]] = {
    "a write and its read": [Act(PUT, 0, DONE, 1, 2, 1, 7), Act(GET, 0, DONE, 3, 4, 1, 7)],
    "a read of a write under way": [Act(PUT, 0, DONE, 1, 9, 1, 7), Act(GET, 0, DONE, 3, 4, 1, 7)],
    "nothing, while a write is under way": [Act(PUT, 0, DONE, 1, 9, 1, 7), Act(GET, 0, ABSENT, 3, 4)],
    "a killed writer's write, seen later": [Act(PUT, 0, UNKNOWN, 1, FOREVER, 0, 7), Act(GET, 0, DONE, 8, 9, 1, 7)],
    "a killed writer's write, never seen": [Act(PUT, 0, UNKNOWN, 1, FOREVER, 0, 7), Act(GET, 0, ABSENT, 8, 9)],
    "deleted and made again": [
        Act(PUT, 0, DONE, 1, 2, 1, 7),
        Act(DELETE, 0, DONE, 3, 4, 2, GONE),
        Act(GET, 0, ABSENT, 5, 6),
        Act(CAS, 0, DONE, 7, 8, 3, 8, 0),
    ],
    "a killed writer's deletion, seen before another's began": [
        Act(DELETE, 0, UNKNOWN, 8, FOREVER, 0, GONE),
        Act(DELETE, 0, UNKNOWN, 3, FOREVER, 0, GONE),
        Act(PUT, 0, DONE, 1, 2, 1, 7),
        Act(NEWEST, 0, DONE, 4, 5, 2, GONE),
        Act(PUT, 0, DONE, 6, 7, 3, 8),
    ],
    "a killed writer's deletion, after one that was never done": [
        Act(DELETE, 0, UNKNOWN, 1, FOREVER, 0, GONE),
        Act(DELETE, 0, UNKNOWN, 9, FOREVER, 0, GONE),
        Act(PUT, 0, DONE, 2, 3, 1, 7),
        Act(GET, 0, ABSENT, 4, 5),
        Act(PUT, 0, DONE, 6, 7, 3, 8),
        Act(NEWEST, 0, DONE, 10, 11, 4, GONE),
    ],
    "the loser of a compare-and-swap": [Act(CAS, 0, DONE, 1, 4, 1, 7, 0), Act(CAS, 0, CONFLICT, 2, 5, 1, 8, 0)],
}
BAD: dict[str, list[Act]] = {
    "a stale read": [Act(PUT, 0, DONE, 1, 2, 1, 7), Act(PUT, 0, DONE, 3, 4, 2, 8), Act(GET, 0, DONE, 5, 6, 1, 7)],
    "a read of nothing after an acknowledged write": [Act(PUT, 0, DONE, 1, 2, 1, 7), Act(GET, 0, ABSENT, 3, 4)],
    "a read of what nobody wrote": [Act(PUT, 0, DONE, 1, 2, 1, 7), Act(GET, 0, DONE, 3, 4, 1, 9)],
    "a version given twice": [Act(PUT, 0, DONE, 1, 2, 1, 7), Act(PUT, 0, DONE, 3, 4, 1, 8)],
    "a deletion that was seen before it began": [
        Act(PUT, 0, DONE, 1, 2, 1, 7),
        Act(NEWEST, 0, DONE, 3, 4, 2, GONE),
        Act(DELETE, 0, UNKNOWN, 5, FOREVER, 0, GONE),
    ],
    "two deletions, of which one writer is known": [
        Act(PUT, 0, DONE, 1, 2, 1, 7),
        Act(DELETE, 0, UNKNOWN, 3, FOREVER, 0, GONE),
        Act(NEWEST, 0, DONE, 4, 5, 2, GONE),
        Act(PUT, 0, DONE, 6, 7, 3, 8),
        Act(NEWEST, 0, DONE, 8, 9, 4, GONE),
    ],
    "versions against the order of time": [Act(PUT, 0, DONE, 1, 2, 2, 7), Act(PUT, 0, DONE, 3, 4, 1, 8)],
    "a read that goes back": [
        Act(PUT, 0, DONE, 1, 2, 1, 7),
        Act(PUT, 0, DONE, 3, 20, 2, 8),
        Act(GET, 0, DONE, 5, 6, 2, 8),
        Act(GET, 0, DONE, 7, 8, 1, 7),
    ],
    "two winners of one compare-and-swap": [Act(CAS, 0, DONE, 1, 4, 1, 7, 0), Act(CAS, 0, DONE, 2, 5, 2, 8, 0)],
    "a conflict over what was as expected": [Act(PUT, 0, DONE, 1, 2, 1, 7), Act(CAS, 0, CONFLICT, 3, 4, 1, 8, 1)],
    "a conflict with what was not there yet": [Act(CAS, 0, CONFLICT, 1, 2, 1, 8, 0), Act(PUT, 0, DONE, 3, 4, 1, 7)],
    "a lost write": [Act(PUT, 0, DONE, 1, 2, 1, 7), Act(GET, 0, ABSENT, 3, 4), Act(PUT, 0, DONE, 5, 6, 2, 8)],
    "nothing between two deletions that leave no room": [
        Act(PUT, 0, DONE, 1, 2, 1, 7),
        Act(DELETE, 0, DONE, 3, 4, 2, GONE),
        Act(PUT, 0, DONE, 5, 6, 3, 8),
        Act(GET, 0, ABSENT, 7, 8),
        Act(DELETE, 0, DONE, 9, 10, 4, GONE),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_what_a_register_can_answer_is_accepted(name: str) -> None:
    assert is_linearizable(GOOD[name])
    assert judge_register(GOOD[name]) == []


@pytest.mark.parametrize("name", BAD)
def test_what_no_register_can_answer_is_refused(name: str) -> None:
    assert not is_linearizable(BAD[name])
    assert judge_register(BAD[name])


def make_history(chance: random.Random) -> list[Act]:
    """Return what some callers were told by a true register, each act at an instant between its begin and its end."""
    version, token, acts = 0, GONE, []
    for number in range(chance.randint(2, 8)):
        at = number * 10
        begun, ended = at - chance.randint(0, 25), at + chance.randint(0, 25)
        kind = chance.choice(list(Kind))
        met = 0 if token == GONE else version
        if kind in (GET, NEWEST):
            if met == 0 and (kind is GET or version == 0):
                acts.append(Act(kind, 0, ABSENT, begun, ended))
            else:
                acts.append(Act(kind, 0, DONE, begun, ended, version, token))
            continue
        expected = chance.choice((met, met, met + 1, 0)) if kind is CAS else token if kind is Kind.UPDATE else 0
        new = GONE if kind is DELETE else 100 + number
        if kind is CAS and expected != met:
            acts.append(Act(kind, 0, CONFLICT, begun, ended, met, new, expected))
        elif kind is DELETE and met == 0:
            acts.append(Act(kind, 0, ABSENT, begun, ended))
        else:
            version, token = version + 1, new
            acts.append(Act(kind, 0, DONE, begun, ended, version, new, expected))
    return acts


def spoil(acts: list[Act], chance: random.Random) -> list[Act]:
    """Return the history with one answer changed, perhaps to another that is right."""
    at = chance.randrange(len(acts))
    act = acts[at]
    shift = chance.choice((-20, -10, 10, 20))
    changed = chance.choice(
        (
            act._replace(version=max(0, act.version + chance.choice((-1, 1)))),
            act._replace(invoked=act.invoked + shift, returned=act.returned + shift),
            act._replace(token=chance.choice([other.token for other in acts])) if act.kind in (GET, NEWEST) else act,
        )
    )
    if changed.outcome == DONE and changed.version == 0:
        return acts
    return [*acts[:at], changed, *acts[at + 1 :]]


def test_the_quick_judge_agrees_with_the_search() -> None:
    chance = random.Random(SEED)
    verdicts = {True: 0, False: 0}
    for _ in range(20_000 if PROVE else 3000):
        acts = make_history(chance)
        assert judge_register(acts) == [] and is_linearizable(acts), acts
        spoiled = spoil(acts, chance)
        right = is_linearizable(spoiled)
        verdicts[right] += 1
        assert (judge_register(spoiled) == []) is right, (SEED, spoiled)
    assert min(verdicts.values()) > 100


def test_an_unknown_outcome_is_never_held_against_a_register() -> None:
    chance = random.Random(SEED)
    for _ in range(3000 if PROVE else 500):
        acts = make_history(chance)
        killed = [
            act._replace(outcome=UNKNOWN, returned=FOREVER, version=0)
            if act.kind in (PUT, CAS) and act.outcome == DONE and chance.random() < 0.4
            else act
            for act in acts
        ]
        assert judge_register(killed) == [], killed


@pytest.mark.timeout(7200 if PROVE else 120)
def test_many_processes_killed_and_stopped_are_answered_as_by_one_register(report: Report) -> None:
    deadline_s = 3600.0 if PROVE else 40.0
    figures = run_crew(members=MEMBERS, operations=OPERATIONS, seed=SEED, deadline_s=deadline_s, pace_s=0.2 if PROVE else 0.02)
    report(figures)
    assert figures.bad == []
    assert figures.operations >= OPERATIONS * 0.8
    assert figures.kills
    assert figures.stops


@pytest.mark.timeout(3600 if PROVE else 120)
def test_nor_does_compaction_under_them_lose_anything(report: Report) -> None:
    figures = run_crew(members=4, operations=OPERATIONS, seed=SEED, deadline_s=1200 if PROVE else 40, is_small=True)
    report(figures)
    assert figures.bad == []
    assert figures.kills


@pytest.mark.skipif(not PROVE, reason="as above, but rather many kills than many operations; `make prove`")
@pytest.mark.timeout(7200)
def test_ten_thousand_kills_lose_nothing(report: Report) -> None:
    figures = run_crew(members=4, operations=0, seed=SEED, deadline_s=3600, pace_s=0.008, kills=RANDOM_KILLS)
    report(figures)
    assert figures.bad == []
    assert figures.kills >= RANDOM_KILLS


@pytest.mark.skipif(not PROVE, reason="on a disk, where flushes take their time; `make prove`")
@pytest.mark.timeout(1200)
def test_on_a_disk_as_well(report: Report) -> None:
    with tempfile.TemporaryDirectory() as disk:
        figures = run_crew(
            members=MEMBERS, operations=OPERATIONS // 20, seed=SEED, deadline_s=600, pace_s=0.1, directory=Path(disk)
        )
    report(figures)
    assert figures.bad == []
