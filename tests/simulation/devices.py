"""The watchdog's devices, replaced: sockets, the lease's keeper, the worker, the clock. Each belongs to the machine
whose code made it.
"""

import types
from collections.abc import Iterable
from typing import Any

from clusterd import arp, worker
from clusterd.actions import Action
from clusterd.conditions import Condition
from clusterd.network import Place
from clusterd.word import Word
from simulation import present


class Path:
    """In place of heartbeat.Path: one network."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.machine = present.world.here()

    def send(self, data: Word) -> bool:
        return present.world.broadcast(self.machine, self.name, data)

    def receive(self) -> list[Word]:
        loop = self.machine.loop
        return loop.inbox.pop(self.name, []) if loop else []


class Socket:
    """In place of arp.Socket, for the watchdog's loop and for scripts."""

    def __init__(self, interface: str, *, ipv6: bool = False) -> None:
        self.machine = present.world.here()
        self.answers: list[tuple[str, str]] = []

    def probe(self, target: str) -> bool:
        loop = self.machine.loop
        hear = loop.answer if present.world.process is None and loop else self._hear
        present.world.probe(self.machine, target, hear)
        return True

    def _hear(self, address: str, mac: str) -> None:
        self.answers.append((address, mac))

    def read(self) -> list[arp.Answer]:
        loop = self.machine.loop
        if present.world.process is None and loop:
            answers, loop.answers = loop.answers, []
        else:
            answers, self.answers = self.answers, []
        return [arp.Answer(*answer) for answer in answers]

    def __enter__(self) -> "Socket":
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Selector:
    """In place of selectors.DefaultSelector: the simulator wakes the loop only when something is there, or due."""

    def __init__(self) -> None:
        self.machine = present.world.here()
        self.keys: dict[str, Any] = {}

    def register(self, _sock: object, _events: int, data: object) -> None:
        pass

    def select(self, _timeout: float | None = None) -> list[tuple[Any, int]]:
        loop = self.machine.loop
        if loop is None:
            return []
        ready = [path for path in loop.watch.paths if path.name in loop.inbox]
        events = [(types.SimpleNamespace(data=path), 1) for path in ready]
        return [*events, (types.SimpleNamespace(data=None), 1)] if loop.answers else events


class Keeper:
    """In place of lease.Keeper: renews what the kernel has, creates nothing, and knows of a failure only afterwards."""

    def __init__(self, seconds: float) -> None:
        self.machine = present.world.here()
        self.seconds = seconds
        self.trouble = False
        self.was_trouble = False

    def renew(self, places: Iterable[Place]) -> None:
        machine, now, lot = self.machine, present.world.clock.now, present.world.clock.random
        self.was_trouble = self.trouble
        for where in places:
            if machine.has(where.group):
                machine.kernel[where.group] = now + machine.clocks.lasts(self.seconds) + 0.05 * lot.random()
            else:
                self.trouble = True

    def drop(self, where: Place) -> None:
        present.fall_silent(where)

    def failed(self) -> bool:
        return self.was_trouble

    def waited(self, _now: float) -> float:
        return 0.0

    def why(self) -> str:
        return "it has lapsed"

    def forgive(self) -> None:
        self.trouble = self.was_trouble = False

    def close(self) -> None:
        pass


class Worker(worker.Worker):
    """In place of its thread: the jobs are done a little later, in their order."""

    def __init__(self) -> None:
        self.owed: dict[str, Any] = {}
        self.machine = present.world.here()
        self.loop = self.machine.loop

    def do(self, job: Any) -> None:
        if self.machine.loop is not None:
            self.machine.loop.hire(job)

    def idle(self) -> bool:
        """Never, but on the days on which that may be so."""
        loop = self.machine.loop
        return present.world.at_once and loop is not None and not loop.jobs and not self.owed

    def _attempt(self, what: str, job: Any) -> None:
        try:
            super()._attempt(what, job)
        finally:
            if self.owed.get(what) is job:
                present.world.clock.at(present.world.clock.now + worker.AGAIN, self._due, what, job)

    def _due(self, what: str, job: worker.Job) -> None:
        if self.machine.loop is self.loop and self.owed.get(what) is job:
            self.must(what, job)


class Teller:
    """In place of tell.Teller: the simulator reads no mail."""

    def __init__(self, *_: object) -> None:
        self.dead: set[str] = set()

    def conditions(self, found: tuple[Condition, ...], _now: float) -> list[Condition]:
        """Returns what has begun: of peers that are not heard, the rest is of no consequence here."""
        present.world.here().told = {(condition.name, condition.subject) for condition in found}
        silent = [condition for condition in found if condition.name == "peer-dead"]
        news = [condition for condition in silent if condition.subject not in self.dead]
        self.dead = {condition.subject for condition in silent}
        return news

    def decided(self, action: Action) -> None:
        present.world.trace(present.world.here().name, f"decided {action}")
        present.world.checks.duties.decided(present.world.here(), action)

    def __getattr__(self, _name: str) -> Any:
        return lambda *_, **__: None


class Clock:
    """In place of the module `time`."""

    CLOCK_BOOTTIME = 7

    @staticmethod
    def time() -> float:
        return present.world.here().clocks.wall(present.world.clock.now)

    @staticmethod
    def monotonic() -> float:
        return present.world.here().now()

    @staticmethod
    def sleep(seconds: float) -> None:
        really = present.world.here().clocks.lasts(seconds)
        present.world.spend(really, really)


class Pool:
    """In place of ThreadPoolExecutor: one after the other."""

    def __init__(self, **_: object) -> None:
        pass

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    map = map
