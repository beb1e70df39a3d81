"""Who holds which group, as this node knows it, on disk; and the standby lock.

A record is this node's knowledge of one group. It is written before the address goes up and before it is believed,
so that after a crash at any instant the disk never claims less than what was done.
"""

import os
import time
from typing import NamedTuple

from clusterd import lock, log, model, paths, state
from clusterd.errors import Failed, NotPermitted

ACQUIRING = "acquiring"
"""A takeover has begun here: the epoch is taken, the addresses may be up."""
STARTING = "starting"
"""The addresses are up, services are being started."""
HELD = "held"
"""All is done: this node serves the group."""
RELEASING = "releasing"
"""A release has begun here: still the holder, nothing has been handed over."""
FREE = "free"
"""Not held by this node: `holder` is who held it last, as far as known."""

ANSWERING = (ACQUIRING, STARTING, HELD, RELEASING)
"""Phases in which the group's addresses belong on this node's NIC."""
RENEWED = (STARTING, HELD, RELEASING)
"""Phases in which they are there, and the watchdog renews their lease."""

PERSON = "person"
PROGRAM = "program"


LEAP = 1_000_000
"""By so much an epoch may rise at once: more takeovers than a node can have missed, its disk lost and all."""
PATIENCE = 5.0
"""Seconds to wait for another script that is writing the same record."""


class Record(NamedTuple):
    """What is known of one group."""

    group: str
    epoch: int = 0
    """0: never held by anybody, as far as known."""
    holder: str = ""
    """Who has or had it at `epoch`."""
    phase: str = FREE
    boot: str = ""
    """The boot under which `phase` was true; under another one it means FREE."""
    since: float = 0.0
    """Wall clock, for people."""
    pinned: bool = False
    """A person moved it here: automatic failback leaves it alone."""

    def held_by(self, node: str) -> bool:
        """Whether `node`, which must be this one, answers for the group in this boot."""
        return self.holder == node and self.phase in ANSWERING and self.boot == state.boot_id()


class Standby(NamedTuple):
    """The standby lock's content."""

    cause: str
    """PERSON: only a person lifts it. PROGRAM: failback lifts it as well."""
    reason: str
    since: float
    """Wall clock, for people."""


def path(group: str) -> str:
    """The file of the record of `group`."""
    return f"{paths.GROUPS}/{group}.json"


def read(group: str) -> Record:
    """The record of `group`; an empty one if nothing was ever known.

    Raises:
        Failed: the file is damaged.
    """
    fact = state.read(path(group))
    if fact is None:
        return Record(group)
    try:
        return Record(**fact)
    except TypeError:
        raise Failed(f"{path(group)}: not a group's record; look at it, then remove it") from None


def write(record: Record, *, news: bool = False) -> Record:
    """Put `record` on the disk, durably; the epoch never goes down, and nobody answers with one that is another's.

    Args:
        record: what is to be known from now on.
        news: it is only worth knowing if its epoch is higher than the known one; nothing is written if it is not.

    Returns:
        what is on the disk now.

    Raises:
        NotPermitted: a higher epoch is known already, or that one as another node's.
    """
    with lock.wait_for(f"record-{record.group}", PATIENCE):
        known = read(record.group)
        if news and record.epoch <= known.epoch:
            return known
        if record.epoch < known.epoch:
            raise NotPermitted(f"{record.group}: epoch {known.epoch} is known here, {record.epoch} is older")
        if record.phase in ANSWERING and record.epoch == known.epoch and known.holder not in ("", record.holder):
            raise NotPermitted(f"{record.group}: epoch {known.epoch} is {known.holder}'s")
        state.write(path(record.group), record._asdict())
    return record


def enter(group: str, epoch: int, phase: str, *, pinned: bool = False) -> Record:
    """Record that this node is in `phase` with the group, at `epoch`, in this boot."""
    return write(Record(group, epoch, model.hostname(), phase, state.boot_id(), time.time(), pinned))


def learn(group: str, epoch: int, holder: str) -> Record | None:
    """Record a higher epoch heard from `holder`; None (and nothing written) if it is not news."""
    heard = Record(group, epoch, holder, FREE, "", time.time())
    return heard if write(heard, news=True) is heard else None


def credible(known: int, epoch: int) -> bool:
    """Whether an epoch can be true that a peer names for a group. One that is far too high would be taken for the
    truth for ever: nobody could acquire the group with a higher one that all would believe.
    """
    return epoch <= known + LEAP


def holds(group: str) -> bool:
    """Whether this node is the holder of `group` now."""
    return read(group).held_by(model.hostname())


def known_to_hold(group: str) -> bool:
    """The same, for work that is about other groups as well: a record that cannot be read stops none of it."""
    try:
        return holds(group)
    except Failed as error:
        log.debug(str(error))
        return False


def verify(group: str, how: str) -> None:
    """Note how it was verified, from outside this node, that it answers for the group; "" if it was not."""
    state.write(paths.verified(group), {"boot": state.boot_id(), "how": how}, durable=False)


def verified(group: str) -> str:
    """How it was verified that this node answers for the group, in this boot; "" if it was not."""
    fact = state.read(paths.verified(group))
    return str(fact["how"]) if fact and fact.get("boot") == state.boot_id() else ""


def standby() -> Standby | None:
    """The standby lock, if this node is in standby. A lock that cannot be read counts as one set by a person."""
    if not os.path.lexists(paths.STANDBY):
        return None
    try:
        return Standby(**state.read(paths.STANDBY))
    except (Failed, TypeError):
        return Standby(PERSON, f"{paths.STANDBY} is unreadable", 0.0)


def enter_standby(cause: str, reason: str) -> Standby:
    """Set the standby lock. One set by a person is never weakened."""
    now = standby()
    if now and now.cause == PERSON:
        return now
    made = Standby(cause, reason, time.time())
    state.write(paths.STANDBY, made._asdict())
    return made


def leave_standby(*, person: bool) -> None:
    """Lift the standby lock.

    Raises:
        NotPermitted: a person set it, and the caller is not one.
    """
    if not person:
        check_liftable()
    state.remove(paths.STANDBY)


def check_liftable() -> None:
    """Whether the program may lift the standby lock, if there is one.

    Raises:
        NotPermitted: a person set it.
    """
    now = standby()
    if now and now.cause == PERSON:
        raise NotPermitted(f"standby was set by a person ({now.reason}): only a person lifts it")
