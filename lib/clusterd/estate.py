"""What this node holds: the groups' records, the leases of their addresses, and the questions asked about the rest.

The record on disk is the truth; this follows it, and renews what it says. An address whose lease has lapsed, or that
was let go of in isolation, is *suspended*: the group stays ours, but only `takeover --resume` puts it up again.
"""

import os
import time
from collections.abc import Callable
from functools import partial

from clusterd import lock, log, model, network, notify, ownership, parking, paths, reach, state
from clusterd.crew import Crew
from clusterd.errors import Failed
from clusterd.lease import Keeper
from clusterd.ownership import Record
from clusterd.picture import PROGRAM, Claim, Me, Own
from clusterd.worker import Worker

RENEWALS = 8
"""Renewals in the lifetime of a lease."""
ANNOUNCEMENTS = (0.1, 0.3, 1.0, 2.0, 5.0, 15.0)
"""Seconds after a takeover at which the addresses are announced again (RFC 5227, section 3)..."""
ANNOUNCE_EVERY = 60.0
"""...and after that, now and then: a switch or a client may have slept."""
INSIST_EVERY = 1.0
"""Seconds, while the group's home is away and not heard: its NIC may still have the MAC address, and use it."""


class Estate:
    """The groups, as this node has or has not got them."""

    def __init__(self, config: model.Config, worker: Worker) -> None:
        self.config = config
        self.worker = worker
        self.me = config.me()
        self.boot = state.boot_id()
        self.lease = config.failover.lease
        self.keeper = Keeper(self.lease)
        self.places = {group.name: network.place(config, group.name, self.me) for group in config.groups()}
        self.records: dict[str, Record] = {}
        self.stamps: dict[str, tuple[int, int]] = {}
        self.up: set[str] = set()
        self.up_since: dict[str, float] = {}
        self.announce_at: dict[str, float] = {}
        self.unheld_since: dict[str, float] = {}
        self.asked: dict[str, dict[str, reach.Asked]] = {}
        self.standby = ""
        self.broken: set[str] = set()
        """Groups whose records cannot be read."""
        self.next_renewal = 0.0
        self.look()

    def look(self) -> None:
        """Read the records that have changed on disk, and the standby lock."""
        for group in self.places:
            stamp = _stamp(ownership.path(group))
            if stamp != self.stamps.get(group) or group in self.broken:
                self.stamps[group] = stamp
                self._read(group)
        stamp = _stamp(paths.STANDBY)
        if stamp != self.stamps.get("/standby"):
            self.stamps["/standby"] = stamp
            lock_file = ownership.standby()
            self.standby = lock_file.cause if lock_file else ""

    def _read(self, group: str) -> None:
        """A record that cannot be read says nothing: the group is neither renewed nor acquired until it can."""
        try:
            self._take(ownership.read(group))
            if group in self.broken:
                self.broken.remove(group)
                self.worker.do(lambda: notify.clear("record-unreadable", group))
        except Failed as error:
            self.up.discard(group)
            self.records.setdefault(group, Record(group))
            if group not in self.broken:
                self.broken.add(group)
                tell = partial(notify.tell_detached, self.config, "record-unreadable", str(error), at=log.moment())
                self.worker.do(partial(tell, group=group, subject=group))

    def _take(self, record: Record) -> None:
        self.records[record.group] = record
        if self._held(record) and record.phase in ownership.RENEWED:
            for known in () if record.group in self.up else (self.up_since, self.announce_at):
                known.pop(record.group, None)
            self.up.add(record.group)
        else:
            self.up.discard(record.group)

    def _held(self, record: Record) -> bool:
        """As Record.held_by, without reading the boot id every time."""
        answering = record.phase in ownership.ANSWERING
        return answering and record.holder == self.me.name and record.boot == self.boot

    def owns(self, crew: Crew, now: float) -> dict[str, Own]:
        """The picture of every group."""
        return {group: self._own(group, crew, now) for group in self.places}

    def _own(self, group: str, crew: Crew, now: float) -> Own:
        record = self.records[group]
        held = self._held(record)
        settled = record.phase in (ownership.HELD, ownership.FREE)
        busy = group in self.broken or crew.busy(group) or lock.held(f"group-{group}")
        ordered = crew.ordered(group)
        asked = list(self.asked[group].values()) if group in self.asked else []
        return Own(
            home=group,
            epoch=record.epoch,
            holder=record.holder,
            held=held,
            up=group in self.up,
            unfinished=held and not busy and not settled,
            pinned=record.pinned,
            busy=busy,
            intended=0 if held else crew.intended(group),
            intending=crew.intending(group),
            ordered=ordered,
            unheard=tuple(crew.unheard.get(group, ())) if ordered else (),
            silent_since=reach.silent_since(asked, now),
            answered=reach.answered(asked, now),
            retry_at=crew.not_before("takeover", group),
            move_at=crew.not_before("release", group),
            failed=crew.failed.get(group, ""),
        )

    def unheld(self, group: str, is_unheld: bool, now: float) -> float | None:
        """Since when nobody has held the group; keeps the time."""
        if is_unheld:
            return self.unheld_since.setdefault(group, now)
        self.unheld_since.pop(group, None)
        return None

    def claims(self, crew: Crew) -> dict[str, Claim]:
        """What the peers are told. Suspended addresses are claimed only if they are just coming back; of a group whose
        record cannot be read nothing is said: another node may take it."""
        return {
            group: Claim(
                record.epoch,
                record.holder,
                self._held(record) and (group in self.up or crew.busy(group) or record.phase == ownership.ACQUIRING),
                record.pinned,
                crew.intending(group) or (0 if self._held(record) else crew.intended(group)),
            )
            for group, record in self.records.items()
            if group not in self.broken
        }

    def epoch(self, group: str) -> int | None:
        """The highest epoch known of the group; None: there is no such group."""
        record = self.records.get(group)
        return record.epoch if record else None

    def learn(self, claims: dict[str, Claim]) -> None:
        """Take in the higher epochs that a peer knows, for groups that we do not hold."""
        for group, claim in claims.items():
            record = self.records.get(group)
            if record and claim.epoch > record.epoch and not self._held(record) and not self._ours(group, claim):
                made = Record(group, claim.epoch, claim.holder, since=time.time(), pinned=claim.pinned)
                self._write(made, news=True)

    def _ours(self, group: str, claim: Claim) -> bool:
        """Whether a script has written here, since the last look, what a peer knows already: from a pass."""
        try:
            return claim.holder == self.me.name and ownership.read(group).epoch >= claim.epoch
        except Failed:
            return False

    def _write(self, record: Record, *, news: bool = False) -> None:
        """Believe it at once, have it written soon: as soon as the disk takes it, unless another one is known then."""
        self.records[record.group] = record
        self.up.discard(record.group)
        self.worker.must(record.group, lambda: self._believed(record) and ownership.write(record, news=news))

    def _believed(self, record: Record) -> bool:
        """Whether a script has not written a record since, of that epoch or a higher one."""
        now = self.records[record.group]
        return now is record or now.epoch < record.epoch

    def suspend(self, group: str, why: str) -> None:
        """Let go of the addresses at once, and of the MAC address with them."""
        self.up.discard(group)
        self._drop(group)
        text, at = f"{group}: addresses let go: {why}", log.moment()
        self.worker.do(lambda: log.event("suspended", text, level="warning", at=at))

    def clear(self, group: str) -> None:
        """A takeover that was told to end may have put addresses up, and not said so."""
        if group not in self.up:
            self._drop(group)

    def let_go(self, group: str, epoch: int, holder: str) -> None:
        """The group is another's now."""
        self.up.discard(group)
        self._drop(group)
        self._write(Record(group, epoch, holder, since=time.time()))

    def _drop(self, group: str) -> None:
        """Silence first, which is quick; what the distribution's ifdown does after that may take seconds."""
        place = self.places[group]
        if self.me.driver == "iproute2":
            self._attempt(lambda: network.drop_group(self.config, place))
            return
        self._attempt(lambda: network.drop_addresses(place))
        if place.mac and not place.link:
            self._attempt(lambda: parking.park(self.config, self.me, place.interface))
        self.worker.do(lambda: network.drop_group(self.config, place))

    def _attempt(self, step: Callable[[], None]) -> None:
        """The loop goes on whatever the network says: the kernel ends the lease in any case."""
        try:
            step()
        except Failed as error:
            self.worker.do(partial(log.event, "network-incomplete", str(error), level="error", at=log.moment()))

    def enter_standby(self, why: str) -> None:
        """Set the standby lock, unless there is one."""
        if not self.standby:
            self.standby = PROGRAM
            self.worker.must("/standby", lambda: self.standby and ownership.enter_standby(ownership.PROGRAM, why))

    def leave_standby(self) -> None:
        """Lift the standby lock, unless a person has set one meanwhile."""
        self.standby = ""
        self.worker.must("/standby", self._lift)

    def _lift(self) -> None:
        if not self.standby:
            ownership.leave_standby(person=False)

    def renew(self, now: float, only: set[str] | None = None, *, sure: bool) -> None:
        """Renew the leases that are due, of `only` some groups; `sure`: the claims were heard since the last pause."""
        if not sure or now < self.next_renewal or not self.up:
            return
        self.next_renewal = now + self.lease / RENEWALS
        self.keeper.renew([self.places[group] for group in sorted(self.up if only is None else self.up & only)])
        if self.keeper.failed():
            self.lapsed()

    def renewing(self, now: float) -> bool:
        """Whether the kernel takes renewals; while it does not, it may not remove an address that lapses, either."""
        return self.keeper.waited(now) < self.lease

    def lapsed(self) -> bool:
        """Whether the kernel has let go of an address meanwhile; such groups are suspended, quietly and wholly."""
        self.keeper.forgive()
        gone = [group for group in sorted(self.up) if network.missing(self.places[group])]
        for group in gone:
            self.suspend(group, "their lease has ended, or somebody removed them")
            self.worker.do(partial(self._tell_lapsed, group, log.moment()))
        return bool(gone)

    def _tell_lapsed(self, group: str, at: log.Moment) -> None:
        text = f"the addresses of {group} are gone from this node: their lease has ended, or somebody removed them"
        notify.tell_detached(self.config, "lease-lapsed", text, at=at, group=group, subject=group)

    def questions(self, groups: tuple[str, ...], now: float) -> list[str]:
        """The addresses to ask the LAN for now; what is no longer asked about is forgotten."""
        self.asked = {
            group: self.asked.get(group) or {_plain(a): reach.Asked() for a in self.places[group].addresses}
            for group in groups
        }
        due = []
        for states in self.asked.values():
            for address, asked in states.items():
                if now - asked.last_asked >= reach.URGENT:
                    states[address] = asked.ask(now)
                    due.append(address)
        return due

    def answered(self, address: str, mac: str, now: float) -> None:
        """Somebody answers for an address: note it if it is a group's that we asked about."""
        for states in self.asked.values():
            if address in states:
                states[address] = states[address].answer(now)

    def announce(self, now: float, *, sure: bool, unheard: set[str]) -> None:
        """Announce what has come up lately, and now and then what has been up for long.

        `sure` as for `renew`; `unheard`: the peers that are not heard.
        """
        for group in sorted(self.up) if sure else ():
            if now < self.announce_at.get(group, 0.0):
                continue
            up_since = self.up_since.setdefault(group, now)
            network.announce(self.places[group])
            later = [up_since + delay for delay in ANNOUNCEMENTS if up_since + delay > now]
            every = INSIST_EVERY if group in unheard else ANNOUNCE_EVERY
            self.announce_at[group] = min([*later, now + every])

    def view(self, me: Me) -> dict[str, dict[str, object]]:
        """What is published of the groups."""
        return {
            group: {
                "epoch": own.epoch,
                "holder": own.holder,
                "held": own.held,
                "up": own.up,
                "pinned": own.pinned,
                "busy": own.busy,
                "phase": self.records[group].phase,
                "since": self.records[group].since,
                "interface": self.places[group].interface if own.up else "",
                "verified": ownership.verified(group) if own.up else "",
            }
            for group, own in me.groups.items()
        }


def _plain(address: str) -> str:
    return address.split("/")[0]


def _stamp(path: str) -> tuple[int, int]:
    """Changes with every writing: each of ours makes a new file, and two may come within one tick of a clock."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return 0, 0
    return found.st_ctime_ns, found.st_ino
