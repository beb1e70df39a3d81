"""One power cut, takeover, return and failback on the pair with clusterd: the outages that a client sees, and why."""

import json
import random
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from bench.labs import ADDRESS, HOME, OTHER, say, wait_well

from lab.labnet.answers import Summary
from lab.labnet.demo import event, held, moment
from lab.labnet.lab import Lab
from lab.labnet.proc import LabError

PROBE = {"icmp_ms": 5, "http_ms": 10, "http_timeout_ms": 100}
"""Both peers are asked the same way."""
QUIET = 1.0
"""Seconds before and after each event in which nothing else happens."""
TAKEOVER = ("decided", "takeover-began", "address-up", "takeover-served")
"""The survivor's events after a power cut."""
PASSES = 3
"""The quickest of so many passes counts; the first has to connect."""
SERVICE = "web"
"""The service that the HTTP probe asks."""


@dataclass(frozen=True)
class Outages:
    """The longest times without an answer, in seconds, after the cut and at the way back."""

    cut_icmp: float
    cut_http: float
    back_icmp: float
    back_http: float
    stall: float
    """The longest delay of the probe itself."""
    double: int
    """How often two nodes answered at once."""


@dataclass(frozen=True)
class Cycle:
    """What one cycle took, in seconds; the nodes' own events say what the client cannot see."""

    outages: Outages
    cut: dict[str, float]
    """How long after the power cut the survivor had done what."""
    back: dict[str, float]
    """How long each step of the failback took."""
    stop: float
    """The probed service's own stop at the failback."""
    start: float
    """And its own start."""
    unchanged: float
    """A pass of its files, right after the failback, with nothing changed."""


def outages(seen: Summary, cut: float, back: float) -> Outages:
    """The gaps of a probe that began before `cut` and went on well after what `back` began."""
    return Outages(
        cut_icmp=seen.gap("icmp", cut - QUIET / 2, back).seconds,
        cut_http=seen.gap("http", cut - QUIET / 2, back).seconds,
        back_icmp=seen.gap("icmp", back).seconds,
        back_http=seen.gap("http", back).seconds,
        stall=seen.stall,
        double=len(seen.double),
    )


def cut_power(lab: Lab, node: str) -> float:
    """Cut a node's power at no particular moment between two heartbeats."""
    time.sleep(QUIET + random.uniform(0, 0.1))
    return lab.power_off(node)


def run_cycle(lab: Lab) -> Cycle:
    """The whole story, once; all is well before and after it."""
    wait_well(lab)
    with lab.probe(ADDRESS, **PROBE) as probe:
        cut = cut_power(lab, HOME)
        lab.wait_for(lambda: held(lab, OTHER, HOME), 30, f"{OTHER} to take over")
        time.sleep(QUIET)
        back = time.monotonic()
        lab.power_on(HOME)
        lab.wait_for(lambda: held(lab, HOME, HOME), 90, "the group to go home")
        lab.wait_for(lambda: event(lab, OTHER, "failback-done", back), 30, "the end of the failback")
        wait_well(lab)
        time.sleep(QUIET)
    seen = outages(probe.summary, cut, back)
    if seen.double:
        say(f"two nodes answered at once, {seen.double} times")
    return told(lab, seen, cut, back)


def told(lab: Lab, seen: Outages, cut: float, back: float) -> Cycle:
    """The nodes' own account of a cycle."""
    survivor = lab.events(OTHER)
    taking = [each for each in survivor if cut < moment(each) < back]
    giving = [each for each in survivor if moment(each) > back]
    getting = [each for each in lab.events(HOME) if moment(each) > back]
    stops, starts = named(giving, "service-stopped"), named(getting, "service-started")
    points = (
        moment(named(giving, "release-began")[-1]),
        moment(stops[0]) - float(stops[0]["seconds"]),
        moment(stops[-1]),
        moment(named(getting, "address-up")[-1]),
        moment(starts[-1]),
    )
    steps = ("passes, services up", "stop of all services", "last passes, move", "start of all services")
    return Cycle(
        outages=seen,
        cut={name: moment(named(taking, name)[-1]) - cut for name in TAKEOVER},
        back={name: end - begin for name, (begin, end) in zip(steps, pairwise(points), strict=True)},
        stop=own(stops),
        start=own(starts),
        unchanged=min(unchanged(lab) for _ in range(PASSES)),
    )


def unchanged(lab: Lab) -> float:
    """How long a pass of the probed service takes by its own account when nothing has changed."""
    report = json.loads(lab.run(HOME, ["mirror_service", "--json", SERVICE]).stdout)[0]
    if report["changed"] or report["deleted"]:
        raise LabError(f"a pass that should have found nothing to do: {report}")
    return float(report["seconds"])


def named(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The events of one kind, the oldest first. Raises LabError if there is none."""
    found = [each for each in events if each["event"] == name]
    if not found:
        raise LabError(f"no node has logged {name}")
    return found


def own(events: list[dict[str, Any]]) -> float:
    """How long the probed service's own stop or start took, of the last one."""
    return float([each for each in events if each["service"] == SERVICE][-1]["seconds"])
