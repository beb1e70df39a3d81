"""Whom to believe about the time: the agreement of most servers. Pure: nothing here asks or sets a clock.

Every server's answer is an interval, its offset give or take its uncertainty. The true time lies where most of the
intervals overlap (Marzullo's algorithm; RFC 5905, section 11.2.1, builds on the same idea); who is not there is a
falseticker.
"""

from collections.abc import Sequence
from typing import NamedTuple

TOLERANCE = 0.05
"""Seconds: servers closer than that do not contradict each other, however sure of themselves they are."""
MAX_DISTANCE = 1.5
"""Seconds: a server less certain than that has no vote (MAXDIST with its dispersion, RFC 5905)."""


class Sample(NamedTuple):
    """What one server says."""

    server: str
    offset: float
    """Its clock minus ours, seconds: what would have to be added to ours."""
    uncertainty: float
    """Seconds, in both directions."""


class Agreement(NamedTuple):
    """What they say together."""

    offset: float | None
    """Of the most certain of the good ones; None: no agreement, and nothing may be set."""
    good: tuple[Sample, ...]
    """The most certain one first."""
    false: tuple[Sample, ...]
    """Outvoted, or too uncertain to have a vote."""
    why: str = ""
    """Without an agreement: why there is none."""


def agree(samples: Sequence[Sample], asked: int) -> Agreement:
    """The agreement of more than half of `samples`, and of two at least, unless only one server was asked.

    Args:
        samples: the answers, at most one a server.
        asked: how many servers were asked.
    """
    voters = [sample for sample in samples if sample.uncertainty <= MAX_DISTANCE]
    needed = max(len(voters) // 2 + 1, min(asked, 2))
    low, high = _overlap(voters)
    good = [each for each in voters if _low(each) <= low and _high(each) >= high]
    if len(good) < needed:
        return Agreement(None, (), tuple(samples), _why(voters, len(good), needed, asked))
    good.sort(key=lambda sample: (sample.uncertainty, sample.server))
    return Agreement(good[0].offset, tuple(good), tuple(each for each in samples if each not in good))


def _overlap(voters: Sequence[Sample]) -> tuple[float, float]:
    """The interval that lies in the most of the intervals of `voters`; of several the first."""
    edges = sorted([(_low(each), 0) for each in voters] + [(_high(each), 1) for each in voters])
    most, count, found = 0, 0, (0.0, 0.0)
    for number, (at, closes) in enumerate(edges):
        count += -1 if closes else 1
        if count > most:
            most, found = count, (at, edges[number + 1][0])
    return found


def _low(sample: Sample) -> float:
    return sample.offset - max(sample.uncertainty, TOLERANCE)


def _high(sample: Sample) -> float:
    return sample.offset + max(sample.uncertainty, TOLERANCE)


def _why(voters: Sequence[Sample], agreed: int, needed: int, asked: int) -> str:
    if not voters:
        return f"none of {asked} time servers gave a usable answer"
    if len(voters) < needed:
        return f"only {len(voters)} of {asked} time servers gave a usable answer: nobody can tell whether it is right"
    said = ", ".join(f"{each.server} {each.offset:+.3f} s" for each in sorted(voters))
    return f"the time servers contradict each other, at most {agreed} of {len(voters)} agree: {said}"
