"""A simulated machine: its kernel's addresses, its disk, its programs; and the watchdog's loop that runs on it."""

import random
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clusterd import paths, view
from clusterd.keyfile import Keys
from clusterd.watch import Watch
from clusterd.word import Word
from simulation.clocks import Clocks
from simulation.process import Process

if TYPE_CHECKING:
    from simulation.etcdworld import Turns
    from simulation.world import World

HIRED = 0.02
"""Seconds until a job of the watchdog's worker is on the disk, at most; ten times as long on a busy one."""

WOKEN = 0.001
"""Seconds until something that has come in wakes the loop: what was sent at the same time is there by then as well."""


class Later(Exception):
    """The worker would have to wait: its job is done later."""


class Kernel(dict[str, float]):
    """When the lease of each group's address ends. What has lapsed is not renewed, it is put up anew."""

    def __init__(self, machine: "Machine") -> None:
        super().__init__()
        self.machine = machine

    def __setitem__(self, group: str, ends: float) -> None:
        now = self.machine.sim.clock.now
        if self.get(group, now) < now:
            self.machine.sim.violated(f"{self.machine.name} renews {group}, which had lapsed")
        super().__setitem__(group, ends)


class Machine:
    """What one node is made of. Power takes away all but the disk."""

    def __init__(self, sim: "World", name: str) -> None:
        self.sim = sim
        self.name = name
        self.powered = False
        self.boots = 0
        self.boot = ""
        self.clocks = Clocks(random.Random(f"clocks {sim.seed} {name}"))
        self.unnoted_since: float | None = None
        """When its wall clock was set back, and nobody has noted that yet..."""
        self.ahead = 0.0
        """...and by how much it was ahead of the true time before."""
        self.disk: dict[str, Any] = {}
        self.told: set[tuple[str, str]] = set()
        """What its watchdog tells a person now: condition and subject."""
        self.failed: dict[str, float] = {}
        """When a script of its watchdog last failed, by group."""
        self.clean = False
        """Its watchdog was stopped in order before, with nothing held."""
        self.stamps: dict[str, int] = {}
        self.kernel = Kernel(self)
        self.serving: dict[str, bool] = {}
        """Whose services run."""
        self.locks: dict[str, Process | None] = {}
        self.processes: list[Process] = []
        self.view: view.View | None = None
        self.sure_at = float("-inf")
        self.loop: Loop | None = None
        self.supervised = False
        """The watchdog's parent is there: it restarts the loop."""
        self.frozen = 0
        """By how many faults all programs are stopped (SIGSTOP); the kernel goes on."""
        self.starved = 0
        """By how many only the watchdog is."""
        self.thawed = 0.0
        """When something that was stopped went on last."""
        self.slow = 0
        """By how many its disk is slow."""
        self.damaged: set[str] = set()
        """Files that cannot be read any more."""
        self.full = 0
        """By how many no state can be written to its disk."""
        self.calls: list[Any] = []
        """Connections to other machines, of hand-overs from here."""
        self.receiving: dict[str, str] = {}
        """Whose pass of a group is being received."""
        self.tree: dict[str, int] = {}
        """The version of each group's files."""

    def now(self) -> float:
        """Its boot clock."""
        return self.clocks.boot(self.sim.clock.now)

    def set_clock(self, offset: float) -> None:
        """Somebody sets its wall clock: to so many seconds ahead of the true time."""
        self.sim.trace(self.name, f"its clock goes by {offset - self.clocks.offset:+.2f} s")
        if self.powered and offset < self.clocks.offset and self.unnoted_since is None:
            self.unnoted_since = self.sim.clock.now
            self.ahead = self.clocks.offset
        if self.powered and offset > self.clocks.offset and self.unnoted_since is not None:
            self.sim.files.doubtful(self, self.unnoted_since)
            if offset >= self.ahead:
                self.unnoted_since = None
        self.clocks.offset = offset

    def has(self, group: str) -> bool:
        """Whether its kernel answers for the group's address."""
        return self.powered and self.kernel.get(group, 0.0) > self.sim.clock.now

    def stopped(self) -> bool:
        """Whether the watchdog is kept from running."""
        return bool(self.frozen or self.starved)

    def listening(self) -> bool:
        """Whether the watchdog is there and runs."""
        return self.powered and self.loop is not None and not self.stopped()

    def run(self, name: str, main: Callable[[], int], start: float) -> Process:
        """Start a script; `start` seconds until it has loaded everything."""
        self.sim.trace(self.name, f"start {name}")
        return Process(self, name, main, start)

    def ended(self, process: Process) -> None:
        """A script is gone, and its locks with it."""
        if process in self.processes:
            self.processes.remove(process)
        for name in [name for name, holder in self.locks.items() if holder is process]:
            del self.locks[name]
        self.sim.trace(self.name, f"end {process.name}: {process.code} {process.complaint}")

    def power_on(self) -> None:
        """The kernel is there; cron starts the watchdog a little later."""
        if self.powered:
            return
        self.boots += 1
        self.powered = True
        self.clocks.booted_at = self.sim.clock.now
        self.boot = f"{self.name}-boot{self.boots}"
        self.sim.trace(self.name, "power on")
        self.sim.clock.at(self.sim.clock.now + self.sim.clock.random.uniform(0.1, 2.0), self.start_watchdog, self.boot)

    def power_off(self) -> None:
        """All at once."""
        if not self.powered:
            return
        self.sim.trace(self.name, "power off")
        self.powered = False
        if self.unnoted_since is not None:
            self.sim.files.doubtful(self, self.unnoted_since)
            self.unnoted_since = None
        self.end_loop()
        self.supervised = False
        for process in list(self.processes):
            process.kill()
        self.kernel.clear()
        self.serving.clear()
        self.locks.clear()
        self.receiving.clear()
        self.view = None
        self.sure_at = float("-inf")
        for path in [path for path in self.disk if path.startswith(paths.RUN)]:
            del self.disk[path]

    def start_watchdog(self, boot: str) -> None:
        """What cron does every minute and at boot."""
        if not self.powered or self.boot != boot or self.supervised:
            return
        self.supervised = True
        clean = self.disk.pop(paths.CLEAN, None) is not None
        held = self.sim.holds(self)
        for group in [group for group in self.kernel if group not in held]:
            del self.kernel[group]
        self.start_loop(boot, clean)

    def start_loop(self, boot: str, clean: bool) -> None:
        """What the watchdog's parent does."""
        if self.powered and self.boot == boot and self.supervised and self.loop is None:
            self.sim.trace(self.name, "watchdog")
            self.loop = Loop(self, clean)

    def kill_loop(self) -> None:
        """SIGKILL to the loop; its parent starts it again."""
        if self.loop is not None:
            clean = self.loop.watch.clean
            self.end_loop()
            pause = self.sim.clock.random.uniform(0.02, 0.1)
            self.sim.clock.at(self.sim.clock.now + pause, self.start_loop, self.boot, clean)

    def kill_watchdog(self, back: float) -> None:
        """SIGKILL to the parent and the loop; cron starts it again `back` seconds later."""
        self.end_loop()
        self.supervised = False
        self.sim.clock.at(self.sim.clock.now + back, self.start_watchdog, self.boot)

    def stop_watchdog(self, back: float) -> None:
        """SIGTERM: it notes whether it held anything."""
        if self.loop is not None and not self.stopped():
            watch = self.loop.watch
            owns = self.sim.on(self, lambda: watch.estate.owns(watch.crew, watch.last_turn))
            if not any(own.held for own in owns.values()):
                self.disk[paths.CLEAN] = {}
        self.kill_watchdog(back)

    def end_loop(self) -> None:
        """The loop is gone; what it has started and told to go goes on."""
        if self.loop is not None:
            self.loop.dead = True
            self.sim.trace(self.name, "loop ended")
            for process in self.loop.watch.crew.armed.values():
                process.stdin.close()  # type: ignore[union-attr]
            self.loop = None

    def thaw(self) -> None:
        """Programs that were stopped go on, if nothing else stops them."""
        self.thawed = self.sim.clock.now
        if not self.frozen:
            for process in list(self.processes):
                process.thaw()
        if not self.stopped() and self.loop is not None:
            self.loop.wake(self.sim.clock.now + 0.0001)
            self.loop.work()


class Loop:
    """The watchdog's loop: the real one, woken when something has come in or is due."""

    def __init__(self, machine: Machine, clean: bool) -> None:
        self.machine = machine
        self.sim = machine.sim
        self.dead = False
        self.inbox: dict[str, list[Word]] = {}
        self.answers: list[tuple[str, str]] = []
        self.jobs: deque[Callable[[], object]] = deque()
        self.working = False
        self.steward: Turns | None = None
        self.wake_at = float("inf")
        machine.loop = self
        machine.clean = clean
        machine.told = set()
        machine.failed = {}
        self.watch = self.sim.on(machine, lambda: Watch(self.sim.config, Keys(b""), clean=clean))
        self.turn_at = self.sim.clock.now
        self.wake(self.sim.clock.now)

    def wake(self, when: float) -> None:
        """Have its next turn at `when`, or earlier if that was asked for already."""
        if when < self.wake_at:
            self.wake_at = when
            self.sim.clock.at(when, self._turn, when)

    def _turn(self, when: float) -> None:
        if self.dead or when != self.wake_at:
            return
        self.wake_at = float("inf")
        if self.machine.stopped():
            return
        self.turn_at = self.sim.clock.now
        sim = self.sim
        sim.machine, sim.process = self.machine, None
        try:
            self.watch.go_on(self.watch.selector.select())
            wait = self.watch.wait()
        except Exception as error:  # noqa: BLE001 - a traceback of the program is what we are looking for
            sim.crashed("watchdog", error)
            wait = 0.05
        if self.steward is not None and self.steward.steward._news:
            self.steward.soon(0.0)
        sim.machine = None
        self.wake(sim.clock.now + self.machine.clocks.lasts(wait) + 0.002 * sim.clock.random.random())

    def hear(self, path: str, word: Word) -> None:
        """A datagram has come in."""
        self.inbox.setdefault(path, []).append(word)
        if not self.machine.stopped():
            self.wake(self.sim.clock.now + WOKEN)

    def answer(self, address: str, mac: str) -> None:
        """An answer of the LAN has come in."""
        self.answers.append((address, mac))
        if not self.machine.stopped():
            self.wake(self.sim.clock.now + WOKEN)

    def hire(self, job: Callable[[], object]) -> None:
        """A job for the worker's thread."""
        self.jobs.append(job)
        self.work()

    def work(self) -> None:
        """Have the next job done soon."""
        if self.jobs and not self.working and not self.machine.stopped():
            self.working = True
            slow = 10 if self.machine.slow else 1
            self.sim.clock.at(self.sim.clock.now + slow * HIRED * self.sim.clock.random.random(), self._work)

    def _work(self) -> None:
        self.working = False
        if self.dead or self.machine.stopped() or not self.jobs:
            return
        try:
            self.sim.on(self.machine, self.jobs[0])
            self.jobs.popleft()
        except Later:
            pass
        except OSError as error:
            self.sim.trace(self.machine.name, f"worker: {error}")  # as the worker itself: it goes on
            self.jobs.popleft()
        except Exception as error:  # noqa: BLE001 - as the worker itself
            self.sim.crashed("worker", error)
            self.jobs.popleft()
        self.work()
