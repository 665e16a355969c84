"""The end of a usage limit is read from what the programs say."""

from __future__ import annotations

import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.agents.limits import find_reset

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime.datetime(2026, 11, 21, 14, 30, tzinfo=BERLIN)
NOW_S = NOW.timestamp()


def at(**parts: int) -> float:
    return NOW.replace(second=0, **parts).timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (f"Claude AI usage limit reached|{int(NOW_S) + 7200}", NOW_S + 7200),
        ("You've hit your limit · resets 3pm (Europe/Berlin)", at(hour=15, minute=0)),
        ("5-hour limit reached ∙ resets 1am (Europe/Berlin)", at(day=22, hour=1, minute=0)),
        ("Weekly limit reached ∙ resets Nov 26, 1:30pm (Europe/Berlin)", at(day=26, hour=13, minute=30)),
        ("resets Jan 2, 9am (Europe/Berlin)", datetime.datetime(2027, 1, 2, 9, tzinfo=BERLIN).timestamp()),
        ("You've hit your usage limit. Upgrade to Pro or try again in 3 hours 12 minutes.", NOW_S + 3 * 3600 + 12 * 60),
        ("You've hit your usage limit. try again in 2 days, 1 hour and 5 minutes", NOW_S + 2 * 86400 + 3600 + 300),
        ("Your quota will reset after 12h30m15s.", NOW_S + 12 * 3600 + 30 * 60 + 15),
        ("Please retry in 34.5s.", NOW_S + 34.5),
        ("Rate limit: resets at 2026-11-21T15:00:00+01:00", at(hour=15, minute=0)),
        (f'{{"type":"usage_limit_reached","resets_at":{NOW_S + 60:.0f}}}', NOW_S + 60),
        ("try again at Nov 22nd, 2026 3:05 PM (Europe/Berlin)", at(day=22, hour=15, minute=5)),
        ("Too Many Requests", None),
        ("resets 3", None),
        ("resets 13pm", None),
        ("resets 3pm (Nowhere/Atall)", None),
        ("resets Nov 31, 3pm (Europe/Berlin)", None),
        ("try again in 3 parsecs", None),
        ("wait until 9999-12-31T00:00:00Z", None),
    ],
)
def test_the_end_of_a_limit_is_found_in_what_programs_say(text: str, ends: float | None) -> None:
    found = find_reset(text, NOW_S)
    assert found == (None if ends is None else pytest.approx(ends, abs=1))


def test_a_time_of_day_is_the_next_one_to_come_in_the_zone_of_the_machine() -> None:
    found = find_reset("try again at 3:05 PM.", NOW_S)
    assert found is not None
    assert NOW_S <= found < NOW_S + 86_400
    assert datetime.datetime.fromtimestamp(found).strftime("%H:%M") == "15:05"


@given(st.text(), st.floats(0, 4e9))
def test_no_text_makes_it_fail(text: str, now_s: float) -> None:
    for said in (text, f"resets {text}", f"try again in {text}", f"resets {text} pm (Europe/{text})"):
        found = find_reset(said, now_s)
        assert found is None or found >= now_s - 60
