"""Simulated time: events in their order, and scripts that run as threads, one at a time, between two events.

A script is the program's own code. Where it would wait, or take its time, it gives the turn back and gets it again
later; where its machine loses power, or somebody kills it, the turn comes back as an exception that no handler of
the program stops, and nothing that it does on its way out has any effect.
"""

import heapq
import random
from collections.abc import Callable
from typing import Any

from greenlet import getcurrent, greenlet


class Killed(BaseException):
    """The process has been killed, or its machine has lost power."""


class Clockwork:
    """Events in the order of their time; what is due at the same time happens in the order of its making."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.random = random.Random(seed)
        self.events: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self.made = 0
        self.done = 0

    def at(self, when: float, do: Callable[..., object], *args: Any) -> None:
        """Have `do` called at the time `when`, or now if that is past."""
        self.made += 1
        heapq.heappush(self.events, (max(when, self.now), self.made, do, args))

    def run(self, until: float, check: Callable[[], None]) -> None:
        """Everything that happens before `until`; `check` after each of it."""
        events = self.events
        while events and events[0][0] < until:
            self.now, _, do, args = heapq.heappop(events)
            self.done += 1
            do(*args)
            check()
        self.now = until


class Thread:
    """A thread that runs only while the simulator waits for it: a greenlet, as those take turns the fastest."""

    def __init__(self, main: Callable[[], None]) -> None:
        self.main = main
        self.ended = False
        self._greenlet = greenlet(self._run)

    def resume(self) -> None:
        """Let it run until it gives the turn back, or ends. Called by the simulator, or by another thread."""
        self._greenlet.parent = getcurrent()
        self._greenlet.switch()

    def give_back(self) -> None:
        """Give the turn back until the next `resume`. Called by the thread."""
        parent = self._greenlet.parent
        assert parent
        parent.switch()

    def _run(self) -> None:
        try:
            self.main()
        finally:
            self.ended = True
