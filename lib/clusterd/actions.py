"""What may be decided about a group, or about the node as a whole; verdict.py decides, watch.py carries it out."""

from typing import NamedTuple


class Suspend(NamedTuple):
    """Let go of the group's addresses at once; the group stays ours unless somebody takes it."""

    group: str
    why: str


class Resume(NamedTuple):
    """Put the addresses up again: nobody took the group meanwhile."""

    group: str
    why: str


class Desist(NamedTuple):
    """End the takeover that is under way here: its reason is gone, and no address is up yet."""

    group: str
    why: str


class LetGo(NamedTuple):
    """The group is another's: addresses at once, then the services."""

    group: str
    epoch: int
    holder: str
    why: str


class Acquire(NamedTuple):
    """Take the group over with this epoch."""

    group: str
    epoch: int
    why: str


class HandOver(NamedTuple):
    """Hand the group to the peer without loss, then go to standby."""

    group: str
    to: str
    why: str


class Failback(NamedTuple):
    """Hand the group back to its home node."""

    group: str
    to: str


class EnterStandby(NamedTuple):
    """Set the standby lock, cause PROGRAM."""

    why: str


class LeaveStandby(NamedTuple):
    """Lift the standby lock, if its cause is PROGRAM."""

    why: str


Action = Suspend | Resume | Desist | LetGo | Acquire | HandOver | Failback | EnterStandby | LeaveStandby
