"""The outage that a client sees: at power-off, against keepalived; at failback, beyond what is the services' own."""

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import cached_property
from typing import Any

from bench import keepalived
from bench.cycle import Cycle, Outages, run_cycle
from bench.labs import Labs, say
from bench.report import Figure, Row, seconds

FAILBACK = 0.5
"""Seconds at failback, beyond the services' own stop and start and one unchanged pass."""
KEEPALIVED = "keepalived 0.1 s"
VMAC = "keepalived 0.1 s, use_vmac"


class Rounds:
    """The cycles of both, measured once, alternating, when first asked for."""

    def __init__(self, labs: Labs, rounds: int, peers: bool) -> None:
        self._labs, self._rounds, self._peers = labs, rounds, peers
        self.ours: list[Cycle] = []
        self.plain: list[Outages] = []
        self.vmac: list[Outages] = []

    @cached_property
    def done(self) -> "Rounds":
        """With everything measured."""
        self.ours, self.plain, self.vmac = [], [], []
        for number in range(1, self._rounds + 1):
            say(f"power cut and return, round {number} of {self._rounds}")
            self.ours.append(run_cycle(self._labs.pair))
            if self._peers:
                self.plain.append(keepalived.run_cycle(self._labs.bare, vmac=False))
                self.vmac.append(keepalived.run_cycle(self._labs.bare, vmac=True))
        return self


def power_off(rounds: Rounds) -> tuple[list[Row], dict[str, Any]]:
    """The outage at power-off."""
    done = rounds.done
    ours = _figure((cycle.outages for cycle in done.ours), lambda each: each.cut_icmp)
    http = _figure((cycle.outages for cycle in done.ours), lambda each: each.cut_http)
    rows = [
        Row("outage at power-off, ping", ours, _figure(done.plain, _cut_icmp), KEEPALIVED, times=1.0),
        Row("outage at power-off, ping", ours, _figure(done.vmac, _cut_icmp), VMAC, times=1.0),
        Row("  of it: until decided", seconds(each.cut["decided"] for each in done.ours)),
        Row("  of it: until the address is up", seconds(each.cut["address-up"] for each in done.ours)),
        Row("  HTTP (ours starts nginx then)", http, _figure(done.plain, lambda each: each.cut_http), KEEPALIVED),
    ]
    detail = {
        "clusterd": [asdict(cycle) for cycle in done.ours],
        "keepalived": [asdict(each) for each in done.plain],
        "keepalived use_vmac": [asdict(each) for each in done.vmac],
    }
    return rows, detail


def failback(rounds: Rounds) -> tuple[list[Row], dict[str, Any]]:
    """The outage at failback."""
    cycles = rounds.done.ours
    beyond = [each.outages.back_http - each.stop - each.start - each.unchanged for each in cycles]
    icmp = seconds(each.outages.back_icmp for each in cycles)
    peer = _figure(rounds.done.plain, lambda each: each.back_icmp) if rounds.done.plain else None
    rows = [
        Row("outage at failback, HTTP, beyond the service's own", seconds(beyond), limit=FAILBACK),
        Row("  all of it", seconds(each.outages.back_http for each in cycles)),
        *(Row(f"  of it: {step}", seconds(each.back[step] for each in cycles)) for step in cycles[0].back),
        Row("  own: nginx stops", seconds(each.stop for each in cycles)),
        Row("  own: nginx starts", seconds(each.start for each in cycles)),
        Row("  own: one unchanged pass", seconds(each.unchanged for each in cycles)),
        Row("outage at failback, ping", icmp, peer, KEEPALIVED, limit=FAILBACK),
    ]
    return rows, {"clusterd": [asdict(cycle) for cycle in cycles]}


def _cut_icmp(each: Outages) -> float:
    return each.cut_icmp


def _figure(of: Iterable[Outages], value: Callable[[Outages], float]) -> Figure:
    return seconds(map(value, of))
