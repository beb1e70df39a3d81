"""What a watchdog costs while nothing happens, at 100 ms heartbeats."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bench import keepalived
from bench.labs import HOME, Labs, ask, say, wait_well
from bench.report import Figure, Row

from lab.labnet.plan import NODES

PERCENT = 1.0
MEGABYTES = 30.0
SETTLE = 3.0
"""Seconds after a start before it is called idle."""


def idle(labs: Labs, lasting: float) -> tuple[list[Row], dict[str, Any]]:
    """CPU time and memory of the watchdogs of both nodes, and of a keepalived that holds the address."""
    wait_well(labs.pair)
    keepalived.start_all(labs.bare, vmac=False)
    time.sleep(SETTLE)
    say(f"idle watchdogs, {lasting:g} s")
    wanted = [(labs.pair, node, "watchdog") for node in NODES] + [(labs.bare, HOME, "keepalived")]
    with ThreadPoolExecutor() as pool:
        *ours, peer = pool.map(
            lambda each: ask(each[0], each[1], "idle", {"program": each[2], "seconds": lasting}, lasting + 30), wanted
        )
    keepalived.stop(labs.bare)

    def row(what: str, key: str, unit: str, limit: float | None = None) -> Row:
        figure = Figure(tuple(each[key] for each in ours), unit)
        return Row(what, figure, Figure((peer[key],), unit), "keepalived 0.1 s", limit=limit)

    rows = [
        row("idle watchdog, of a core (all its processes, both nodes)", "percent", "%", PERCENT),
        row("  of it: programs that it started", "ended", "%"),
        row("idle watchdog, memory (PSS)", "pss", "MB", MEGABYTES),
    ]
    return rows, {"clusterd": dict(zip(NODES, ours, strict=True)), "keepalived": peer}
