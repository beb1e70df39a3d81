"""Asking time servers and setting clocks, with the programs that do such things: chronyc, ntpdig, date, hwclock.

Where chronyd runs, it is the one who asks and who corrects the clock; otherwise ntpdig (ntpsec) is used once.
"""

import json
import math
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from clusterd import run
from clusterd.clock import Sample
from clusterd.errors import Failed

WAIT = 2
"""Seconds for the answer of one address of a server."""
LIMIT = 20.0
"""Seconds for a server with all its addresses, the look-up of its name included."""
AWAKE = 15.0
"""Seconds for the sources of a chronyd that has just begun to ask them again: the first answers, and its choice."""


class Daemon(NamedTuple):
    """What a running chronyd says of itself."""

    synchronised: bool
    correction: float
    """Seconds that it still has to add to the clock."""


def chronyd() -> Daemon | None:
    """The chronyd that runs here, or None.

    Raises:
        Failed: there is one, and what it says cannot be read.
    """
    result = run.run(("chronyc", "-c", "-n", "tracking"), timeout=LIMIT, changes=False)
    if not result.ok:
        return None
    fields = result.stdout.strip().split(",")
    try:
        return Daemon(fields[13] != "Not synchronised", float(fields[4]))
    except (IndexError, ValueError):
        raise Failed(f"chronyc tracking: not understood: {result.stdout.strip()!r}") from None


def ask_chronyd(daemon: Daemon) -> tuple[Daemon, list[Sample], list[str]]:
    """What the sources of the running chronyd say, and those that are silent; and what it says of itself by then.

    If none answers and chronyd does not even ask all of them, it is told to ask those to which there is a way, and they
    are looked at once more. It stops asking when it is told so (``chronyc onoffline``, by NetworkManager's and other
    hooks) while there is no route to the LAN; of a route that clusterd sets later no hook knows.

    Raises:
        Failed: what it says cannot be read.
    """
    samples, silent = _sources(daemon)
    if samples or not _activity().offline:
        return daemon, samples, silent
    run.run(("chronyc", "onoffline"), timeout=LIMIT)
    end_at = time.monotonic() + AWAKE
    while not run.dry_run and _activity().online and time.monotonic() < end_at:
        time.sleep(0.25)
        daemon = chronyd() or daemon
        samples, silent = _sources(daemon)
        if len(samples) > len(silent) and daemon.synchronised:
            break
    return daemon, samples, silent


class _Activity(NamedTuple):
    """How many sources chronyd asks, and how many it does not."""

    online: int
    offline: int


def _activity() -> _Activity:
    said = run.check(("chronyc", "-c", "activity"), timeout=LIMIT, changes=False)
    try:
        online, offline, burst, burst_offline = map(int, said.strip().split(",")[:4])
    except ValueError:
        raise Failed(f"chronyc activity: not understood: {said.strip()!r}") from None
    return _Activity(online + burst, offline + burst_offline)


def _sources(daemon: Daemon) -> tuple[list[Sample], list[str]]:
    samples, silent = [], []
    for line in run.check(("chronyc", "-c", "-N", "sources"), timeout=LIMIT, changes=False).splitlines():
        fields = line.split(",")
        try:
            name, reach, ahead, uncertainty = fields[2], int(fields[5], 8), float(fields[7]), float(fields[9])
        except (IndexError, ValueError):
            raise Failed(f"chronyc sources: not understood: {line!r}") from None
        if reach:
            # chronyc counts from the corrected clock, and says how much that one is ahead of the source.
            samples.append(Sample(name, daemon.correction - ahead, uncertainty))
        else:
            silent.append(name)
    return samples, silent


def ask(servers: Sequence[str]) -> tuple[list[Sample], list[str]]:
    """Ask all `servers` at once, by ntpdig; their answers, and those that gave none.

    Raises:
        Failed: ntpdig is not installed.
    """
    results: dict[str, run.Result] = {}

    def one(server: str) -> None:
        argv = ("ntpdig", "--json", "--timeout", str(WAIT), "--", server)
        results[server] = run.run(argv, timeout=LIMIT, changes=False)

    names = list(dict.fromkeys(servers))
    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if any(result.code == 127 for result in results.values()):
        raise Failed(
            "neither chronyd runs here nor is ntpdig installed (Debian: ntpsec-ntpdig): no server can be asked"
        )
    samples = {name: _sample(name, results[name]) for name in names}
    return [each for each in samples.values() if each], [name for name, each in samples.items() if each is None]


def correct(server: str, *, step: bool) -> None:
    """Step or slew the clock to that of `server`.

    Raises:
        Failed: it was not set.
    """
    how = "--step" if step else "--slew"
    run.check(("ntpdig", how, "--timeout", str(WAIT), "--", server), timeout=LIMIT)


def makestep() -> None:
    """Have chronyd step the clock by all that it would otherwise slew.

    Raises:
        Failed: it does not.
    """
    run.check(("chronyc", "makestep"), timeout=LIMIT)


def add(seconds: float) -> None:
    """Step the clock by `seconds`, by date(1).

    Raises:
        Failed: it was not set.
    """
    run.check(("date", "--utc", f"--set=@{time.time() + seconds:.6f}"), timeout=LIMIT)


def to_hardware() -> str:
    """Set the machine's CMOS clock by the system's; returns why that was not possible, or "" if it was."""
    result = run.run(("hwclock", "--systohc"), timeout=LIMIT)
    return "" if result.ok else result.why()


def _sample(server: str, result: run.Result) -> Sample | None:
    try:
        said = json.loads(result.stdout)
        made = Sample(server, float(said["offset"]), float(said["precision"]))
    except (ValueError, KeyError, TypeError):
        return None
    return made if result.ok and math.isfinite(made.offset) and math.isfinite(made.uncertainty) else None
