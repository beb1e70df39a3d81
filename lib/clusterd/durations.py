"""Durations (``200 ms``), ages (``30 days``) and sizes of time as people write them.

A duration is a length of time in seconds; an age is a distance in the calendar, where a month is a month.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dateutil.relativedelta import relativedelta

UNITS = {
    "ms": 0.001,
    "s": 1.0,
    "second": 1.0,
    "seconds": 1.0,
    "min": 60.0,
    "minute": 60.0,
    "minutes": 60.0,
    "h": 3600.0,
    "hour": 3600.0,
    "hours": 3600.0,
    "day": 86400.0,
    "days": 86400.0,
    "week": 604800.0,
    "weeks": 604800.0,
}
"""Seconds of each unit of a duration."""
CALENDAR = ("seconds", "minutes", "hours", "days", "weeks", "months", "years")
"""Units of an age, as dateutil names them; the singular is accepted as well."""
ALLOWED = "a number and a unit: ms, seconds, minutes, hours, days, weeks (as in '200 ms', '5 minutes')"
ALLOWED_AGE = "a whole number and a unit: days, weeks, months, years (as in '30 days', '1 month')"

_TEXT = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)\s*\Z")


def parse(text: str) -> float:
    """The length in seconds of a duration such as ``200 ms``.

    Raises:
        ValueError: not a duration; the message says what is allowed.
    """
    match = _TEXT.match(text)
    if not match or match[2] not in UNITS:
        raise ValueError(ALLOWED)
    return float(match[1]) * UNITS[match[2]]


def parse_age(text: str) -> "relativedelta":
    """The calendar distance of an age such as ``30 days`` or ``1 month``, to be taken from a date.

    Raises:
        ValueError: not an age; the message says what is allowed.
    """
    from dateutil.relativedelta import relativedelta

    match = _TEXT.match(text)
    unit = match[2].rstrip("s") + "s" if match else ""
    if not match or unit not in CALENDAR or "." in match[1]:
        raise ValueError(ALLOWED_AGE)
    amount = {unit: int(match[1])}
    return relativedelta(**amount)  # type: ignore[arg-type]


def show(seconds: float) -> str:
    """A duration for people: ``180 ms``, ``1.5 s``, ``5 min``, ``3 h 20 min``, ``2 days 4 h``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    plural = "s" if days > 1 else ""
    return f"{days} day{plural} {hours} h" if hours else f"{days} day{plural}"
