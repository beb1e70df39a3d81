"""What always holds, looked at after every event; and what must hold again some time after the last fault."""

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

from clusterd import ownership, paths
from clusterd.picture import UNHELD
from clusterd.reach import RECENT
from simulation.duties import Duties
from simulation.world import PAIR

if TYPE_CHECKING:
    from simulation.machine import Machine
    from simulation.process import Process
    from simulation.world import World

NOTICED = 0.15
"""Seconds that the watchdog may need to see that no reference host answers, beyond isolated_after."""
TOGETHER = 1.0
"""Seconds in which two holders that can talk to each other again must be one."""
STALE = 1.3
"""Seconds after which nothing may be taken on the evidence of then."""
ASKED = 0.6
"""Seconds in which everybody has asked the LAN for the address before it is taken, even a person."""
IN_THE_ACT = 0.1
"""Seconds that it takes to put an address up, at most."""
LATENCY = 0.002
LATE = 1.0
"""Seconds after which a takeover knows of a standby lock."""


SPLIT, HUNG, ACT, CLOCK = "split", "hung", "act", "clock"
"""The exceptions that docs/design.md states: both networks were split, and each half kept a reference host; the
watchdog of the one that was cut off did not run, and its lease had not ended; the one that takes was stopped between
its last look and the act. And one of the files: a clock was set back, and the power failed, or it was put right, before
anybody had noted that."""


class Raised(NamedTuple):
    """An address that a script has put up."""

    at: float
    by: "Process"


class Checks:
    """Watches a world."""

    def __init__(self, world: "World") -> None:
        self.world = world
        self.raised: dict[tuple[str, str], Raised] = {}
        self.standby_at: dict[str, float] = {}
        self.unwell_at: dict[str, float] = {}
        """When the watchdog was last seen not to run."""
        self.doubles: dict[tuple[str, str, str], float] = {}
        """Groups with two holders now, and who these are, and since when these can talk to each other."""
        self.exceptions = dict.fromkeys((SPLIT, HUNG, ACT, CLOCK), 0)
        self.doubled = 0.0
        """Seconds of two holders, in exceptions."""
        self.moves = 0
        self.machines = tuple(world.machines.values())
        self.pairs = list(itertools.combinations(self.machines, 2))
        self.duties = Duties(world)
        self._last = 0.0
        world.wrote = self.wrote

    def up(self, machine: "Machine", group: str) -> None:
        """A script has put an address up."""
        assert self.world.process is not None
        self.raised[group, machine.name] = Raised(self.world.clock.now, self.world.process)
        self.moves += 1

    def wrote(self, machine: "Machine", path: str, before: Any, fact: Any) -> None:
        """Something was written to a disk."""
        if path == paths.STANDBY:
            self.standby_at.setdefault(machine.name, self.world.clock.now)
        if path == paths.SETBACKS:
            machine.unnoted_since = None
        if not path.startswith(paths.GROUPS):
            return
        group = fact["group"]
        self.world.trace(machine.name, f"disk: {group} epoch {fact['epoch']} {fact['phase']} of {fact['holder']}")
        if before and fact["epoch"] < before["epoch"]:
            self.world.violated(f"{machine.name}: epoch of {group} went from {before['epoch']} to {fact['epoch']}")
        process = self.world.process
        if fact["phase"] == ownership.ACQUIRING and process and "--on-go" not in process.name:
            process.told()  # by hand: it has only now made sure
        words = process.name.split() if process else []
        handed = any(word.startswith("--handed") for word in words)
        if fact["phase"] == ownership.ACQUIRING and "--on-go" in words and not handed:
            self.duties.acquires(machine, group, before["holder"] if before else "")
        if fact["phase"] == ownership.ACQUIRING and paths.STANDBY in machine.disk:
            since = self.standby_at.get(machine.name, 0.0)
            takes_back = process is not None and process.name.startswith("release")
            if not takes_back and self.world.clock.now - max(since, 0.0) > LATE:
                self.world.violated(f"{machine.name} acquires {group} although it is in standby")

    def after(self) -> None:
        """After every event."""
        world, now = self.world, self.world.clock.now
        for machine in self.machines:
            if machine.loop is None or machine.frozen or machine.starved:
                self.unwell_at[machine.name] = now
        for name in [name for name in self.standby_at if paths.STANDBY not in world.machines[name].disk]:
            del self.standby_at[name]
        for first, second in self.pairs:
            for group in first.kernel if second.kernel else ():
                if group in second.kernel and first.has(group) and second.has(group):
                    self._two(group, first, second)
        if self.doubles:
            over = [(group, one, other) for group, one, other in self.doubles if not self._both(group, one, other)]
            for each in over:
                del self.doubles[each]
        self._last = now

    def _both(self, group: str, one: str, other: str) -> bool:
        return self.world.machines[one].has(group) and self.world.machines[other].has(group)

    def _two(self, group: str, first: "Machine", second: "Machine") -> None:
        """Both answer for the group."""
        world, now = self.world, self.world.clock.now
        both = group, first.name, second.name
        hear = world.talk(first, second) and first.listening() and second.listening()
        if both in self.doubles and not hear:
            self.doubles[both] = now
        if not world.cables.common(first.name, second.name):
            return
        if both not in self.doubles:
            self.doubles[both] = now
            self._judge(group, first, second)
        else:
            self.doubled += now - self._last
        if now - self.doubles[both] > TOGETHER:
            self.doubles[both] = now
            world.violated(f"{group}: two holders that hear each other go on")

    def _judge(self, group: str, first: "Machine", second: "Machine") -> None:
        """Two holders are a violation, but for what no pair without fencing can know."""
        ups = [
            (self.raised[group, m.name].at if (group, m.name) in self.raised else 0.0, m.name) for m in (first, second)
        ]
        (since, holder), (_, intruder) = sorted(ups)
        raised = self.raised[group, intruder]
        why = self._excuse(holder, raised)
        before = self.raised.get((group, holder))
        if not why and before and self.world.heard.get((holder, intruder), -1.0) < before.by.told_at + LATENCY:
            # Both decided before they could know of each other, and the one that was late has not been told since.
            why = self._excuse(intruder, before)
        warned = self.world.heard.get((intruder, holder), -1.0)
        sent = self.world.sent.get((intruder, holder), -1.0)
        in_time = max(since, raised.by.told_at) < sent and warned < raised.at - IN_THE_ACT / 2
        if in_time and holder not in self._unwell(raised.at):
            why = ""  # it has heard that the other is going to take it, and had the time to let go
        settings = self.world.settings
        if why in (SPLIT, HUNG) and settings.guarded():
            # A fence agent knows what the LAN cannot tell; the lease in etcd is there for just that.
            without = settings.failsafe and settings.agent == "none" and why == HUNG
            why = HUNG if without else ACT if self._in_the_act(raised) else ""
        text = f"{group}: {intruder} answers by {raised.by.name}, {holder} still does"
        if why:
            self.exceptions[why] += 1
            self.world.trace("", f"exception ({why}): {text}")
        else:
            by = raised.by
            about = f"told {by.told_at:.4f}, heard {by.heard}, answered {by.answered}, vouched {by.vouched}"
            self.world.trace("", f"{about}, raised {raised.at:.4f}; not well: {self.unwell_at}")
            self.world.violated(f"two holders: {text}")

    def _unwell(self, since: float) -> set[str]:
        """Whose watchdog did not run some time in the second before `since`."""
        return {name for name, at in self.unwell_at.items() if at > since - 1.0}

    def _excuse(self, holder: str, raised: Raised, before: tuple[Raised, ...] = ()) -> str:
        """Which exception it is, if nothing at all came through from the holder before the decision; else "".

        It is only an excuse while the holder had no reason to let go, because it reached a reference host, or could
        not, because its programs were stopped and its address could not be asked for.
        """
        rules, world, by = self.world.settings, self.world, raised.by
        if raised.at - by.told_at > STALE:
            return ACT if self._in_the_act(raised) else ""
        if by.predecessor is not None and self.world.settings.nodes > PAIR:
            # What is handed on was taken by the predecessor, with an excuse or without.
            taken = self.raised.get((self._group(by), by.predecessor.name))
            known = taken is None or taken in before or by.predecessor.name == holder
            return "" if known or taken is None else self._excuse(holder, taken, (*before, raised))
        handed = by.name.startswith("release") or "--handed-over" in by.name
        quiet = rules.dead_after if "--on-go" in by.name else rules.isolated_after  # a person takes it upon himself
        heard = by.heard[holder] > by.told_at - 0.9 * quiet or by.answered[holder] > by.told_at - 0.9 * RECENT
        if handed or heard or holder in by.vouched:
            return ""
        if self._outnumbered(by.machine.name, by.heard, by.told_at) or self._answering(holder, raised):
            return ""
        lost = world.cables.lost_hosts_at.get(holder)
        if lost is None and holder in world.cables.dark and world.cables.dark[holder][1] > by.told_at:
            lost = world.cables.dark[holder][0]  # it was, when the other decided, and should not have served on
        if self.unwell_at.get(holder, -1.0) > by.told_at - rules.dead_after - NOTICED:
            return HUNG
        heard_by = {other: world.heard.get((other, holder), -1.0) for other in world.nodes if other != holder}
        if all(self._outnumbered(holder, heard_by, at) for at in (raised.at - NOTICED, raised.at)):
            return ""
        recent = by.told_at - rules.isolated_after - NOTICED
        # More than half need no reference host; who is alone takes it only after wait_for_peer.
        majority = rules.nodes > PAIR and max(heard_by.values()) > recent
        if lost is None or lost > recent or majority:
            return SPLIT
        return ""

    def _answering(self, holder: str, raised: Raised) -> bool:
        """Whether the holder's address, and nothing but the LAN between it and the one that took it, was there for as
        long as that has to ask: whatever it did, it would have been answered.
        """
        asked = raised.by.told_at - ASKED
        before = self.raised.get((self._group(raised.by), holder))
        since = max(before.at if before else 0.0, self.world.machines[holder].clocks.booted_at)
        return since < asked and self.world.cables.asked(holder, raised.by.machine.name) < asked

    def _in_the_act(self, raised: Raised) -> bool:
        """Whether its script was stopped in the very act: too late for it to see how late it is."""
        return self.unwell_at.get(raised.by.machine.name, -1.0) > raised.at - IN_THE_ACT

    def _group(self, process: "Process") -> str:
        """What a takeover is about."""
        return next(group for group in self.world.nodes if group in process.name.split())

    def _outnumbered(self, name: str, heard: dict[str, float], at: float) -> bool:
        """Whether the node knew at that time that it heard fewer than half: the others went silent together, and it
        has not waited for them as long as a node does that may start alone.
        """
        rules = self.world.settings
        first, last = min(heard.values()), max(heard.values())
        if rules.nodes == PAIR or first < self.world.machines[name].clocks.booted_at or last - first > UNHELD:
            return False
        patient = rules.start_alone == "never" or at - first < max(rules.dead_after, rules.wait_for_peer)
        return at - last > rules.isolated_after and patient
