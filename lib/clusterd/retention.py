"""How long backup sets are kept: until a person confirms that nothing is missed, and then [backups] keep.

An age is a distance in the calendar (see durations.parse_age): a month after 31 January is the last day of
February, and a day later is the same time on the wall, also when the clocks were changed that night.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from clusterd import backups, durations
from clusterd.errors import Busy
from clusterd.manifest import Summary

if TYPE_CHECKING:
    from dateutil.relativedelta import relativedelta

REMINDER = 7 * 86400.0
"""Seconds after which an unconfirmed set with unmirrored files is mentioned again."""


def confirm(set_id: str, who: str) -> Summary:
    """Record that a person has looked and misses nothing. A set that a crash left open is finished first.

    Returns:
        The set; with `entries` 0 there was nothing in it, and it is gone.

    Raises:
        Busy: its pass is running.
    """
    found = backups.recover(set_id)
    if found.entries and found.confirmed is None:
        found = found._replace(confirmed=time.time(), confirmed_by=who)
        backups.save(found)
    return found


def due_at(confirmed: float, keep: "relativedelta") -> datetime:
    """When a set confirmed at `confirmed` (wall clock, seconds) may be deleted, in UTC.

    Years, months and days are counted on the calendar of this machine's time zone, hours and less in real time.
    """
    exact = timedelta(hours=keep.hours, minutes=keep.minutes, seconds=keep.seconds)
    local: datetime = datetime.fromtimestamp(confirmed) + keep
    return datetime.fromtimestamp((local - exact).timestamp(), UTC) + exact


def due(sets: list[Summary], keep: str, now: float) -> list[Summary]:
    """The sets that may be deleted at `now` (wall clock, seconds): confirmed, and that longer than `keep` ago."""
    distance = durations.parse_age(keep)
    moment = datetime.fromtimestamp(now, UTC)
    return [one for one in sets if one.confirmed is not None and due_at(one.confirmed, distance) <= moment]


def forgotten(sets: list[Summary], now: float) -> list[Summary]:
    """The unconfirmed sets with files that nobody else has, older than REMINDER at `now`."""
    return [one for one in sets if one.confirmed is None and one.unmirrored and now - one.created > REMINDER]


def purge(sets: list[Summary]) -> tuple[list[Summary], list[Summary]]:
    """Delete `sets`, which `due` has found.

    Returns:
        The deleted ones, and those that another process is using now: the next purge takes them.

    Raises:
        Failed: files could not be deleted.
    """
    gone, kept = [], []
    for one in sets:
        try:
            with backups.hold(one.set):
                backups.withdraw(one.set)
            gone.append(one)
        except Busy:
            kept.append(one)
    backups.sweep()
    return gone, kept
