#!/usr/bin/env python3
"""Two or three nodes through as many bad days as asked: the watchdog's real code in a simulated world.

`make venv` once; the system's own Python has not all that it needs. Then:

.venv/bin/python tests/simulation/simulate.py --schedules 2000 --jobs 2
.venv/bin/python tests/simulation/simulate.py --seed 4711 -v      one of them again, with its whole story
.venv/bin/python tests/simulation/simulate.py --seed 7 --nodes 3  three nodes instead of two
"""

import argparse
import functools
import gc
import multiprocessing
import os
import random
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(_HERE))
sys.path.append(os.path.join(_HERE, "../../lib"))

from clusterd import ownership, passes  # noqa: E402
from simulation import edges, etcdworld, faults, lone, mutants, present, scripts  # noqa: E402
from simulation.checks import Checks  # noqa: E402
from simulation.files import PASS_EVERY, Files  # noqa: E402
from simulation.machine import Machine  # noqa: E402
from simulation.whole import left_to_a_person, missing, settled  # noqa: E402
from simulation.world import PAIR, World  # noqa: E402

BOUND = 60.0
"""Seconds after the last fault in which the cluster is whole again; failed scripts are tried again ever more rarely."""
CALM = 0.3
"""Seconds for which it must be whole..."""
SETTLED = 2.0
"""Seconds for which all must be well, and nobody at work, before that."""
MISTAKEN = 0.2
"""How often a pass of a group begins on a node that does not hold it."""
AT_ONCE = 4
"""On one day of so many the watchdog's worker does at once what it can; see World.at_once."""
ALONE = 8
"""After every day of so many one node is left alone for good."""
WATCHED = 9
"""...and on every day of so many for longer than anything takes that may come due..."""
LONGER = 6.0
"""...which is this beyond its lease and twice its hold_down: then nothing may move any more."""


class Outcome(NamedTuple):
    """What became of one schedule."""

    seed: int
    violations: list[str]
    faults: list[faults.Fault]
    exceptions: dict[str, int]
    guarded: bool
    """There was a fence agent, or an arbiter."""
    failsafe: bool
    """The arbiter was not needed while the peer was heard."""
    doubled: float
    moves: int
    events: int
    seconds: float
    """Simulated."""
    healed_in: float
    copies: int
    backed_up: int
    backwards: int
    story: list[str]
    again: str
    """The words of the command line that replay it."""


def simulate(seed: int, mutant: str = "", *, nodes: int = PAIR, verbose: bool = False) -> Outcome:
    """One schedule, of the kind that shows `mutant` soon if one is named. The program's edges must be replaced."""
    lot = random.Random(seed)
    kind = mutants.named(mutant)
    settings = faults.settings(lot, max(nodes, kind.nodes))
    if settings.nodes == PAIR:
        settings = faults.fenced(seed, settings, always=kind.fenced)
    if settings.nodes == PAIR and (kind.etcd or not mutant):
        settings = etcdworld.chosen(settings, seed, always=kind.etcd)
    world = World(seed, settings)
    world.at_once = not mutant and seed % AT_ONCE == 1
    present.enter(world)
    if verbose:
        world.story = [f"seed {seed}: {world.settings}"]
    checks = world.checks = Checks(world)
    files = world.files = Files(world)
    _begin(world, warm=lot.random() < 0.7)
    bad = _drawn(lot, world, kind)
    over = faults.plan(world, bad)
    watched = seed % WATCHED == 0
    if watched:
        over = max(over, world.etcd.over)
    world.clock.run(over, checks.after)
    world.trace("", "all faults are over")
    faults.heal(world, lift=lot.random() < 0.7)
    whole_at = _heal(world, checks, over)
    if not world.violations and watched and not left_to_a_person(world):
        _watch(world, LONGER + settings.lease + 2 * settings.hold_down)
    if lost := files.lost():
        world.violated(lost)
    if seed % ALONE == 0:
        lone.watch(world, seed)
    world.close()
    return Outcome(
        seed,
        world.violations,
        bad,
        checks.exceptions,
        world.settings.guarded(),
        world.settings.etcd and world.settings.failsafe and world.settings.agent == "none",
        checks.doubled,
        checks.moves,
        world.clock.done,
        world.clock.now,
        whole_at - over,
        files.copies,
        files.backed_up,
        files.backwards,
        world.story or [],
        f"--seed {seed} --nodes {settings.nodes}" + (f" --mutant {shlex.quote(mutant)}" if mutant else ""),
    )


def _heal(world: World, checks: Checks, over: float) -> float:
    """All faults are over: wait until all is well for a moment, for as long as that may take; since when it is."""
    whole_since = None
    while not world.violations and world.clock.now < over + BOUND:
        world.clock.run(world.clock.now + CALM / 2, checks.after)
        if missing(world):
            whole_since = None
        elif whole_since is None:
            whole_since = world.clock.now
        elif world.clock.now - whole_since >= CALM:
            return whole_since
    if not world.violations:
        world.violated(f"not whole {BOUND:.0f} s after the last fault: {missing(world)}")
    return world.clock.now


def _watch(world: World, seconds: float) -> None:
    """All is well, and stays so: once nothing is at work any more, nothing moves without a reason."""
    until, settled_at, moves = world.clock.now + BOUND, world.clock.now, -1
    while not world.violations and world.clock.now < until:
        world.clock.run(world.clock.now + CALM, world.checks.after)
        if moves < 0:  # not settled yet
            settled_at = settled_at if settled(world) else world.clock.now
            if world.clock.now - settled_at > SETTLED:
                until, moves = world.clock.now + seconds, world.checks.moves
        elif world.checks.moves != moves:
            world.violated("all was well, no fault came, and an address has moved")
    if not world.violations and moves < 0:
        world.violated(f"all was well, and does not come to rest in {BOUND:.0f} s: {missing(world)}")


def _drawn(lot: random.Random, world: World, kind: mutants.Mutant) -> list[faults.Fault]:
    """The faults of that day."""
    if kind.together:
        return faults.company(lot, world.config, kind.faults)
    bad = faults.draw(lot, world.config, kind.faults)
    nodes = tuple(world.config.nodes)
    return bad if kind.name else faults.damaged(world.seed, nodes, faults.filled(world.seed, nodes, bad))


def _begin(world: World, *, warm: bool) -> None:
    """All nodes are up for long and hold their own, or are switched on."""
    for number, machine in enumerate(world.machines.values()):
        machine.power_on()
        world.clock.at(0.4 + 0.3 * number, _cron, world, machine)
        if warm:
            group = machine.name
            fact = {"group": group, "epoch": 3, "holder": group, "phase": "held", "boot": machine.boot}
            world.on(machine, functools.partial(_remember, fact))
            world.on(machine, functools.partial(passes.hold, f"files{group}", 3))
            machine.kernel[group] = world.settings.lease
            machine.serving[group] = True
            machine.start_watchdog(machine.boot)


def _remember(fact: dict[str, object]) -> None:
    ownership.write(ownership.Record(**fact))  # type: ignore[arg-type]


def _cron(world: World, machine: Machine) -> None:
    """A pass of everything that is held here; now and then one of what is not, which is refused."""
    if machine.powered and not machine.frozen:
        held = [group for group in world.holds(machine) if machine.has(group)]
        for group in world.nodes:
            if group in held or world.clock.random.random() < MISTAKEN:
                scripts.mirror_due(world, machine, group)
    world.clock.at(world.clock.now + PASS_EVERY, _cron, world, machine)


def several(seeds: Sequence[int], mutant: str = "", sound: bool = False, nodes: int = PAIR) -> list[Outcome]:
    """Those schedules, one after the other, in this process. `sound`: of that kind, but with nothing weakened."""
    with edges.replaced(), mutants.weakened("" if sound else mutant):
        return [_tidily(seed, mutant, nodes) for seed in seeds]


def _tidily(seed: int, mutant: str, nodes: int) -> Outcome:
    """One schedule, and then its world is thrown away: nothing is to be looked for among what it is made of before."""
    gc.freeze()
    gc.disable()
    try:
        return simulate(seed, mutant, nodes=nodes)
    finally:
        gc.enable()
        gc.collect()


def run(
    first: int, schedules: int, jobs: int, mutant: str = "", sound: bool = False, nodes: int = PAIR, size: int = 50
) -> Iterator[Outcome]:
    """So many schedules, from the seed `first` on, in `jobs` processes, `size` at a time; in their order."""
    size = max(1, min(size, schedules // (4 * jobs) or 1))
    seeds = range(first, first + schedules)
    parts = [seeds[at : at + size] for at in range(0, schedules, size)]
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for part in pool.imap(functools.partial(several, mutant=mutant, sound=sound, nodes=nodes), parts):
            yield from part


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="one schedule, or the first of several")
    parser.add_argument("--schedules", type=int, default=0, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--nodes", type=int, default=PAIR, choices=(2, 3), help="how many each cluster has")
    parser.add_argument("--mutant", default="", metavar="NAME", help="with that rule weakened (mutants.py)")
    parser.add_argument("--sound", action="store_true", help="schedules of that kind, with nothing weakened")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell the whole story of --seed")
    options = parser.parse_args(argv)
    if not options.schedules and options.seed is None:
        parser.error("--seed or --schedules")
    began = time.monotonic()
    if not options.schedules:
        with edges.replaced(), mutants.weakened("" if options.sound else options.mutant):
            outcomes = [simulate(options.seed, options.mutant, nodes=options.nodes, verbose=options.verbose)]
    else:
        how = options.mutant, options.sound, options.nodes
        outcomes = list(run(options.seed or 0, options.schedules, options.jobs, *how))
    return report(outcomes, time.monotonic() - began)


def report(outcomes: list[Outcome], took: float | None = None) -> int:
    """Say what was found; 1 if any of it never may be."""
    bad = [outcome for outcome in outcomes if outcome.violations]
    for outcome in outcomes:
        print("\n".join(outcome.story), end="\n" if outcome.story else "")
    for outcome in bad:
        print(f"seed {outcome.seed}: {'; '.join(outcome.violations[:3])}")
        print(f"    again: simulate.py {outcome.again} -v")
        print("\n".join(f"    {fault}" for fault in outcome.faults))
    count = len(outcomes)
    kinds = sorted({kind for outcome in outcomes for kind in outcome.exceptions})
    exceptions = ", ".join(f"{sum(outcome.exceptions[kind] for outcome in outcomes)} {kind}" for kind in kinds)
    print(
        f"{count} schedules, {sum(len(outcome.faults) for outcome in outcomes)} faults, "
        f"{sum(outcome.moves for outcome in outcomes)} takeovers, {sum(outcome.copies for outcome in outcomes)} passes "
        f"({sum(outcome.backed_up for outcome in outcomes)} with a backup set, "
        f"{sum(outcome.backwards for outcome in outcomes)} of newer files), "
        f"{sum(outcome.events for outcome in outcomes)} events, {sum(outcome.seconds for outcome in outcomes):.0f} s "
        f"simulated{f' in {took:.1f} s ({count / took:.1f} schedules a second)' if took else ''}"
    )
    print(f"whole again after {max(outcome.healed_in for outcome in outcomes):.1f} s at most")
    print(
        f"two holders in the stated exceptions: {exceptions}; elsewhere: see above"
        if bad
        else f"two holders in the stated exceptions: {exceptions}; elsewhere: none"
    )
    print(f"{len(bad)} of {count} schedules violated something" if bad else "nothing was violated")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
