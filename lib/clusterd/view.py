"""The watchdog's latest view, for every other script: /run/clusterd/view.json.

It carries the boot id and the time until which it is good. One that is too old is no view at all: status that has
gone stale is worse than none.
"""

import json
import os
import time
from typing import Any, NamedTuple

from clusterd import paths, state
from clusterd.errors import CannotTell, Failed

GOOD_FOR = 3.0
"""Seconds; the watchdog writes several times in that time."""


class PeerView(NamedTuple):
    """What the watchdog knows of a peer. Seconds."""

    name: str
    heard: bool
    paths: dict[str, float | None]
    """Seconds since it was heard on each expected path."""
    standby: str
    groups: dict[str, dict[str, Any]]
    reach: int | None
    hears_me: bool
    digest_same: bool
    skew: float | None
    """Its wall clock minus ours."""
    stable: float | None
    """For how long it has been heard on every path."""
    boot: str = ""
    arbiter: bool = True
    """The arbiter answers it, or there is none."""
    vouched: bool = False
    """It is not heard here, but by a peer that is."""
    counted: bool = True
    """It counts when it is asked who has the majority."""
    rumours: dict[str, int] = {}
    """The epochs of the groups that it says it has, and it has not heard this node since its boot; see picture.news."""


class View(NamedTuple):
    """What the watchdog knew when it wrote."""

    node: str
    boot: str
    until: float
    """CLOCK_BOOTTIME after which this is no longer known."""
    written: float
    standby: str
    reach: int | None
    asked: int
    groups: dict[str, dict[str, Any]]
    """Of each group: epoch, holder, held, up, pinned, busy, phase, since, interface, verified."""
    peers: dict[str, PeerView]
    conditions: list[list[str]]
    """Name, subject and text of everything that is the matter now."""
    rejected: dict[str, int]
    """Datagrams not believed, by reason."""
    arbiter: dict[str, Any] = {}
    """With an arbiter beside the reference hosts: its kind, how it is in words, seconds for which the lease is good,
    groups granted here."""
    door: dict[str, Any] | None = None
    """What the watchdog's next loop has to know of the datagrams that this one has heard (heartbeat.Doorkeeper)."""
    clock: float = 0.0
    """The wall clock, at `written`."""

    def outnumbered(self) -> bool:
        """Whether fewer than half of the nodes that count are heard; never in a pair."""
        heard = sum(peer.heard for peer in self.peers.values())
        return 2 * (1 + heard) < 1 + sum(peer.counted or peer.heard for peer in self.peers.values())

    def holder(self, group: str) -> str:
        """Who holds the group as far as can be seen from here; "" if nobody does."""
        if self.groups[group]["held"]:
            return self.node
        for peer in self.peers.values():
            if peer.heard and peer.groups.get(group, {}).get("held"):
                return peer.name
        return ""


def now() -> float:
    """Seconds of the clock that counts through suspension and that nobody sets: CLOCK_BOOTTIME."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def write(view: View) -> None:
    """Publish the view."""
    state.write(paths.VIEW, _fact(view), durable=False, mode=0o644)


def text(view: View) -> str:
    """As it is sent to a peer; `parse` reads it."""
    return json.dumps({name: fact for name, fact in _fact(view).items() if name != "door"})


def _fact(view: View) -> dict[str, Any]:
    return {**view._asdict(), "peers": {name: peer._asdict() for name, peer in view.peers.items()}}


def read(*, stale: bool = False) -> View | None:
    """The view, or None if there is none that is still good (`stale`: of this boot, however old)."""
    try:
        view = _view(state.read(paths.VIEW))
    except Failed:
        return None
    if view is None or view.boot != state.boot_id() or (view.until < now() and not stale):
        return None
    return view


def parse(text: str) -> View | None:
    """The view that a peer has sent (peer_gate refuses to send one that is no longer good); None if it is none."""
    try:
        return _view(json.loads(text))
    except ValueError:
        return None


def _view(fact: Any) -> View | None:
    try:
        peers = {name: PeerView(**peer) for name, peer in fact.pop("peers").items()}
        return View(peers=peers, **fact)
    except (TypeError, KeyError, AttributeError):
        return None


def mark_sure(boot: str, at: float) -> None:
    """The watchdog has heard the claims and acted on them, `at` that time of the boot of that name."""
    fd = os.open(paths.SURE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.pwrite(fd, f"{boot} {at:020.6f}\n".encode(), 0)
    finally:
        os.close(fd)


def sure_at() -> float:
    """When it last did that, in this boot; minus infinity if it has not."""
    try:
        with open(paths.SURE, encoding="ascii") as file:
            boot, at = file.read().split()
        return float(at) if boot == state.boot_id() else float("-inf")
    except (OSError, ValueError):
        return float("-inf")


def wait_sure(age: float) -> None:
    """Wait until the watchdog has acted on all claims less than `age` seconds ago.

    A script that was stopped (with the machine, or by a signal) and goes on must not act on what was true before.

    Raises:
        CannotTell: the watchdog does not say so.
    """
    end = now() + GOOD_FOR
    while now() - sure_at() >= age:
        if now() > end:
            raise CannotTell("the watchdog is not sure of the peers' claims: nothing is taken")
        time.sleep(0.005)


def need() -> View:
    """The view.

    Raises:
        CannotTell: the watchdog has not written one lately.
    """
    view = read()
    if view is None:
        raise CannotTell("the watchdog is not running here (cron starts it every minute): nothing is known")
    return view


def need_new() -> View:
    """The first view that is written from now on; what a watchdog that has just started says first is not enough.

    Raises:
        CannotTell: the watchdog writes none.
    """
    called = now()
    while now() - called < GOOD_FOR:
        view = need()
        if view.written > called:
            return view
        time.sleep(0.02)
    raise CannotTell("the watchdog does not say anything new: nothing is known")
