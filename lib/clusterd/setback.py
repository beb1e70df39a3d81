"""Clocks that are set back: what is written afterwards may have a time before that of the last pass, and is new.

Times of files, and with them the question what was written since the last pass, are those of the wall clock, which
anybody may set. A setback is noted on the disk, with the time to which the clock went; who keeps a wall clock to hold
file times against later keeps with it how many setbacks had been noted by then. Whatever came after that moment has a
time not below the lowest one to which the clock went since. So in doubt more counts as new, never less.
"""

import time
from typing import NamedTuple

from clusterd import lock, paths, state, view
from clusterd.errors import Failed

LEAST = 0.05
"""Seconds by which the wall clock must lag behind the boot clock from one look to the next to have been set back; one
that is only slewed, by 8 % at most (chronyd), does not lag so much in the time of a turn."""
STEADY = 0.005
"""Seconds that reading both clocks may take; a look that was held up in the middle says nothing."""
KEPT = 100
"""Setbacks; of older ones the next one tells."""


class Moment(NamedTuple):
    """A wall clock to hold file times against."""

    at: float
    setbacks: int
    """How many had been noted when it was read."""

    def earliest(self) -> float:
        """The time that a file written later has at least. 0.0 if that is not known, for what was noted is damaged."""
        try:
            count, known = _read()
        except Failed:
            return 0.0
        if count < self.setbacks:
            return 0.0
        return min((self.at, *(to for number, to in known if number > self.setbacks)))


class Witness:
    """Compares the wall clock with the boot clock, which nobody sets, at every turn of the watchdog."""

    def __init__(self, last: tuple[float, float] | None) -> None:
        """`last`: wall and boot clock at the last look of a witness before this one, in this boot."""
        self.last = last

    def look(self) -> float | None:
        """The time to which the clock has been set back since the last look, at the lowest; None: it has not been.

        The first look after a boot says what the clock shows: a clock that has no battery may show anything.
        """
        before = view.now()
        wall = time.time()
        boot = view.now()
        if boot - before > STEADY:
            return None
        last, self.last = self.last, (wall, boot)
        if last is None:
            return wall
        passed = boot - last[1]
        return wall - passed if last[0] + passed - wall > LEAST else None

    def wall(self, boot: float) -> float:
        """The wall clock at that time of the boot clock, which is about that of the last look."""
        return self.last[0] + boot - self.last[1] if self.last else time.time()


def now() -> Moment:
    """This moment. A setback that is not noted yet when it is made counts as one that came later."""
    try:
        count, _ = _read()
    except Failed:
        count = 0
    return Moment(time.time(), count)


def note(to: float) -> None:
    """Note, durably, that the clock has been set back, or is about to be, to the time `to` at the lowest."""
    with lock.wait_for("setbacks", 5.0):
        count, known = _read()
        # An earlier one that went no lower than this one adds nothing to it.
        known = [(number, low) for number, low in known if low < to] + [(count + 1, to)]
        while len(known) > KEPT:
            (_, low), (number, other) = known[:2]
            known[:2] = [(number, min(low, other))]
        state.write(paths.SETBACKS, {"count": count + 1, "known": known})


def _read() -> tuple[int, list[tuple[int, float]]]:
    """How many were noted, and of each that still matters its number and the time to which the clock went.

    Raises:
        Failed: the file is damaged.
    """
    fact = state.read(paths.SETBACKS)
    if fact is None:
        return 0, []
    try:
        return int(fact["count"]), [(int(number), float(to)) for number, to in fact["known"]]
    except (TypeError, KeyError, ValueError):
        raise Failed(f"{paths.SETBACKS}: not a list of setbacks; look at it, then remove it") from None
