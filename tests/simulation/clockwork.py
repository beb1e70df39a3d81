"""Simulated time: events in their order, and scripts that run as threads, one at a time, between two events.

A script is the program's own code. Where it would wait, or take its time, it gives the turn back and gets it again
later; where its machine loses power, or somebody kills it, the turn comes back as an exception that no handler of
the program stops, and nothing that it does on its way out has any effect.
"""

import heapq
import random
import threading
from collections.abc import Callable
from typing import Any


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
    """A thread that runs only while the simulator waits for it."""

    def __init__(self, main: Callable[[], None]) -> None:
        self.main = main
        self.ended = False
        self._mine = threading.Lock()
        self._yours = threading.Lock()
        self._mine.acquire()
        self._yours.acquire()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def resume(self) -> None:
        """Let it run until it gives the turn back, or ends. Called by the simulator."""
        self._mine.release()
        self._yours.acquire()

    def give_back(self) -> None:
        """Give the turn back until the next `resume`. Called by the thread."""
        self._yours.release()
        self._mine.acquire()

    def _run(self) -> None:
        self._mine.acquire()
        try:
            self.main()
        finally:
            self.ended = True
            self._yours.release()
