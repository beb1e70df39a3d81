"""Who answers on the LAN: the reference hosts, and whoever answers for a group's address.

Both are asked by ARP probe or neighbour solicitation, which needs no address of our own: a node in standby counts
the same hosts in the same way as one that serves, so that the two counts can be compared.
"""

from collections.abc import Iterable
from typing import NamedTuple

CALM = 1.0
"""Seconds between questions to the reference hosts when all is well."""
CLOSE = 0.25
"""The same on a node in standby, which has no path on the LAN whose silence would show that a cable is out."""
URGENT = 0.02
"""Seconds between questions from the first missed datagram on."""
ENOUGH = 3
"""Questions without an answer that make a silence..."""
LONG_ENOUGH = 0.045
"""...if the first of them was asked at least so many seconds ago: a LAN answers in one, a busy host in ten ms."""
RECENT = 0.15
"""Seconds for which an answer counts as the present state of an address that is being asked for."""


class Asked(NamedTuple):
    """The state of the questions to one address. Seconds of the boot clock."""

    last_asked: float = float("-inf")
    unanswered: int = 0
    """Questions since the last answer."""
    first_unanswered: float | None = None
    answered_at: float | None = None

    def ask(self, now: float) -> "Asked":
        """The state after one more question."""
        first = self.first_unanswered if self.first_unanswered is not None else now
        return Asked(now, self.unanswered + 1, first, self.answered_at)

    def answer(self, now: float) -> "Asked":
        """The state after an answer."""
        return Asked(self.last_asked, answered_at=now)

    def silent_since(self, now: float) -> float | None:
        """Since when it does not answer, if it was asked often and long enough to say so."""
        first = self.first_unanswered
        if first is None or self.unanswered < ENOUGH or now - first < LONG_ENOUGH:
            return None
        return first


class Census:
    """Which of a list of addresses answer. Asking and hearing are the caller's: it has the sockets and the clock."""

    def __init__(self, addresses: Iterable[str]) -> None:
        self.asked = {address: Asked() for address in addresses}

    def due(self, now: float, interval: float) -> list[str]:
        """The addresses to ask now. One that owes an answer is asked again at once, whatever the interval."""
        return [
            address
            for address, asked in self.asked.items()
            if now - asked.last_asked >= (URGENT if asked.unanswered and asked.unanswered <= ENOUGH else interval)
        ]

    def ask(self, address: str, now: float) -> None:
        """Note that `address` is being asked."""
        self.asked[address] = self.asked[address].ask(now)

    def answer(self, address: str, now: float) -> None:
        """Note that `address` answered; others than ours are ignored."""
        if address in self.asked:
            self.asked[address] = self.asked[address].answer(now)

    def reached(self, now: float) -> int | None:
        """How many answer; None before each has either answered or been found silent."""
        reached = 0
        for asked in self.asked.values():
            if asked.silent_since(now) is not None:
                continue
            if asked.answered_at is None:
                return None
            reached += 1
        return reached

    def unreached_since(self, now: float) -> float | None:
        """Since when none of them has answered; None while one does, or if there are none."""
        return _latest([asked.silent_since(now) for asked in self.asked.values()])


def silent_since(asked: list[Asked], now: float) -> float | None:
    """Since when a group is silent: every one of its addresses is."""
    return _latest([each.silent_since(now) for each in asked])


def _latest(silences: list[float | None]) -> float | None:
    """Since when all of them have lasted; None if one has not begun, or there are none."""
    begun = [since for since in silences if since is not None]
    return max(begun) if begun and len(begun) == len(silences) else None


def answered(asked: list[Asked], now: float) -> bool:
    """Whether somebody answers for at least one of the addresses, and has done so just now."""
    return any(each.answered_at is not None and now - each.answered_at <= RECENT for each in asked)
