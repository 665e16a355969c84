"""When a usage limit ends, read from the sentence in which an agent program tells it. Pure.

The programs say it in many ways: as seconds since 1970, as an ISO time, as a span ("in 3 hours 12 minutes", "after 2h5m10s"),
as a time of day ("resets 3pm (Europe/Berlin)", "try again at Oct 9th, 2025 3:05 PM"). A time of day without a date is the next
one to come; without a zone it is the machine's.

Not promised: that a sentence in a language other than English is understood. What is not understood has no end that is known.
"""

from __future__ import annotations

import datetime
import re
from zoneinfo import ZoneInfo

#: An end further away is taken for a misreading: the longest limits known are monthly ones.
FURTHEST_S = 62 * 86_400.0
#: A sentence is shorter.
_TEXT_LIMIT = 4096

_EPOCH = re.compile(r"(?:\||reset(?:s|s_at|_at)?\D{0,5})(1[6-9]\d{8}|[2-9]\d{9})(?:\.\d+)?\b")
_ISO = re.compile(r"\b(\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)")
_SPAN = re.compile(r"\b(?:in|after|within)\s+(?:about\s+|~\s*)?((?:\d+(?:\.\d+)?\s*[a-z]+[\s,]*(?:and\s+)?)+)", re.IGNORECASE)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)
_UNITS_S = {"ms": 0.001, "s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hr": 3600.0,
            "hour": 3600.0, "d": 86_400.0, "day": 86_400.0, "w": 604_800.0, "week": 604_800.0}  # fmt: skip
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = re.compile(
    r"\b(?:resets?|again|until|available)(?:\s+(?:at|on|by))?\s+"
    r"(?:(?P<month>[A-Z][a-z]{2})[a-z]*\s+(?P<day>\d{1,2})(?:st|nd|rd|th)?,?\s+(?:(?P<year>\d{4}),?\s+)?(?:at\s+)?)?"
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s*(?P<half>[ap]\.?m\b\.?)?(?:\s*\((?P<zone>[A-Za-z_]+(?:/[A-Za-z_+\-0-9]+)*)\))?",
    re.IGNORECASE,
)


def find_reset(text: str, now_s: float) -> float | None:
    """Return the wall-clock second at which the limit told in ``text`` ends, ``None`` if it does not say or cannot mean it.

    ``now_s`` is when it was said, in wall-clock seconds since 1970.
    """
    for find in (_find_epoch, _find_iso, _find_span, _find_clock):
        found = find(text[:_TEXT_LIMIT], now_s)
        if found is not None and now_s - 60 <= found <= now_s + FURTHEST_S:
            return found
    return None


def _find_epoch(text: str, now_s: float) -> float | None:
    match = _EPOCH.search(text)
    return float(match[1]) if match else None


def _find_iso(text: str, now_s: float) -> float | None:
    match = _ISO.search(text)
    if match is None:
        return None
    try:
        return datetime.datetime.fromisoformat(match[1]).timestamp()
    except (ValueError, OverflowError):
        return None


def _find_span(text: str, now_s: float) -> float | None:
    for match in _SPAN.finditer(text):
        total_s = 0.0
        for number, unit in _PART.findall(match[1]):
            word = unit.lower()
            unit_s = _UNITS_S.get(word, _UNITS_S.get(word.removesuffix("s")))
            if unit_s is None:
                break
            total_s += float(number) * unit_s
        if total_s > 0:
            return now_s + total_s
    return None


def _find_clock(text: str, now_s: float) -> float | None:
    match = _CLOCK.search(text)
    if match is None or (match["half"] is None and match["minute"] is None):
        return None
    hour, minute = int(match["hour"]), int(match["minute"] or 0)
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"][0] in "pP" else 0)
    try:
        zone = ZoneInfo(match["zone"]) if match["zone"] else None
        now = datetime.datetime.fromtimestamp(now_s, zone)
        then = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
        if match["month"]:
            then = then.replace(
                month=_MONTHS.index(match["month"].lower()) + 1,
                day=int(match["day"]),
                year=int(match["year"]) if match["year"] else now.year,
            )
            if not match["year"] and then.timestamp() < now_s - 86_400:
                then = then.replace(year=now.year + 1)
        elif then.timestamp() < now_s:
            then += datetime.timedelta(days=1)
        return then.timestamp()
    except (ValueError, KeyError, OSError, OverflowError):  # no such zone, month, day or hour
        return None
