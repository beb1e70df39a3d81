"""The clocks of a simulated machine: one that nobody sets, and one that anybody may; neither goes quite right."""

import random

EPOCH = 1.7e9
"""What a wall clock that is right shows at the beginning of every schedule."""
CRYSTAL = 1e-4
"""By how much the clocks of most machines go too fast or too slowly, at most..."""
WORST = 0.01
"""...and those of the worst. A margin of a hundredth is what all the times of the configuration leave."""
APART = 0.5
"""Seconds by which the wall clocks of nodes differ at most that agree on the time."""


class Clocks:
    """Both clocks of a machine. What is given as `now` is true time."""

    def __init__(self, lot: random.Random) -> None:
        most = WORST if lot.random() < 0.3 else CRYSTAL
        self.rate = 1.0 + lot.uniform(-most, most)
        """Seconds of the boot clock, and of the kernel's timers, in a true one."""
        self.booted_at = 0.0
        self.offset = self.agreed = lot.uniform(-APART, APART) / 2
        """Of the wall clock, by which it is ahead of the true time; and when it is as right as it gets."""

    def boot(self, now: float) -> float:
        """CLOCK_BOOTTIME."""
        return (now - self.booted_at) * self.rate + 1.0

    def wall(self, now: float) -> float:
        """CLOCK_REALTIME, and the times of files. Time servers hold it, between its jumps, to a hundredth of that."""
        return EPOCH + self.offset + now * (1.0 + (self.rate - 1.0) / 100)

    def lasts(self, seconds: float) -> float:
        """For how long a timer of so many seconds really runs."""
        return seconds / self.rate
