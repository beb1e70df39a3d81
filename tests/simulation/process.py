"""A script that runs on a simulated machine: the program's own code, in a thread of the clockwork."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation.clockwork import Killed, Thread

if TYPE_CHECKING:
    from simulation.machine import Loop, Machine


class Stdin:
    """Both ends of a script's standard input; `subprocess.Popen.stdin` to whoever started it."""

    def __init__(self, process: "Process") -> None:
        self.process = process
        self.lines: list[str] = []
        self.closed = False

    def write(self, data: bytes | str) -> None:
        """A line or several, from whoever started it."""
        if self.process.code is not None:
            raise BrokenPipeError
        text = data.decode() if isinstance(data, bytes) else data
        self.lines += text.splitlines(keepends=True)

    def flush(self) -> None:
        """What was written is there now."""
        self.process.prod()

    def close(self) -> None:
        """No more to come."""
        self.closed = True
        self.process.prod()


class Process:
    """One script, from its start to its end. To whoever started it, it looks like a `subprocess.Popen`."""

    def __init__(self, machine: "Machine", name: str, main: Callable[[], int], start: float) -> None:
        """`start`: seconds until it has loaded everything."""
        self.machine = machine
        self.name = name
        self.main = main
        self.stdin = Stdin(self)
        self.said: list[str] = []
        """On its standard output."""
        self.complaint = ""
        self.pid = id(self)
        self.code: int | None = None
        self.returncode: int | None = None
        self.killed = False
        self.told_at = 0.0
        """When it was last told something: a decision is as old as that..."""
        self.heard: dict[str, float] = {}
        """...and when each of the others had been heard until then..."""
        self.answered: dict[str, float] = {}
        """...and had answered for an address..."""
        self.vouched: set[str] = set()
        """...and whom somebody, heard until then, hears."""
        self.ordered_by: Loop | None = None
        """The watchdog's loop that has started it."""
        self.predecessor: Machine | None = None
        """Who hands the group over to it."""
        self.told()
        self.at_end: list[Callable[[], None]] = []
        self._waiting = False
        self._due = False
        self._thread = Thread(self._run)
        machine.processes.append(self)
        machine.sim.clock.at(machine.sim.clock.now + start, self.turn)

    def told(self) -> None:
        """What it does from now on is decided with what is known now."""
        sim = self.machine.sim
        self.told_at = sim.clock.now
        me, others = self.machine.name, [other.name for other in sim.others(self.machine)]
        self.heard = {other: sim.heard.get((other, me), -1.0) for other in others}
        self.answered = {other: sim.answered.get((other, me), -1.0) for other in others}
        near = [other for other in others if self.told_at - self.heard[other] <= sim.settings.isolated_after]
        self.vouched = {name for other in near for name in sim.words[other, me].hears}

    def turn(self) -> None:
        """Let it go on, unless its machine's programs are frozen: then as soon as they are not."""
        if self.code is not None:
            return
        if self.machine.frozen:
            self._due = True
            return
        self._due = False
        self._switch()

    def thaw(self) -> None:
        """The machine's programs go on."""
        if self._due:
            self.turn()

    def sleep(self, seconds: float) -> None:
        """Give the turn back for so long. Called by the script, by way of what it calls."""
        self.machine.sim.clock.at(self.machine.sim.clock.now + seconds, self.turn)
        self._give_back()

    def check(self) -> None:
        """A script that was killed has no effect on anything any more."""
        if self.killed:
            raise Killed

    def read_line(self) -> str:
        """The next line of its standard input; "" at the end."""
        while not self.stdin.lines:
            if self.stdin.closed:
                return ""
            self._waiting = True
            self._give_back()
            self._waiting = False
        return self.stdin.lines.pop(0)

    def prod(self) -> None:
        """Something has come in on its standard input."""
        self.told()
        if self._waiting and self.code is None:
            self._waiting = False
            self.machine.sim.clock.at(self.machine.sim.clock.now + 0.0002, self.turn)

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        """The watchdog waits only for scripts that it sent away before they had done anything."""
        self.kill()
        return -9

    def terminate(self) -> None:
        """SIGTERM: it gets to it a moment later."""
        self.machine.sim.clock.at(self.machine.sim.clock.now + 0.001, self.kill)

    def kill(self) -> None:
        """End it, here and now."""
        if self.code is None:
            self.killed = True
            self._end(-9)
            if not self._thread.ended:
                self._switch()

    def _end(self, code: int) -> None:
        self.code = self.returncode = code
        self.machine.ended(self)
        for do in self.at_end:
            do()

    def _switch(self) -> None:
        sim = self.machine.sim
        before = sim.machine, sim.process
        sim.machine, sim.process = self.machine, self
        self._thread.resume()
        sim.machine, sim.process = before

    def _give_back(self) -> None:
        self.check()
        self._thread.give_back()
        self.check()

    def _run(self) -> None:
        try:
            self.check()
            code = self.main()
            self.check()
        except Killed:
            return
        except OSError as error:
            self.complaint = str(error)  # as cli.run makes of it
            code = 1
        except Exception as error:  # noqa: BLE001 - a traceback of the program is what we are looking for
            self.machine.sim.crashed(self.name, error)
            code = 1
        self._end(code)
