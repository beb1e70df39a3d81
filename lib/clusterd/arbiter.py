"""The arbiter beyond the reference hosts: what etcd has granted to this node, for whoever has to know it.

The steward (steward.py), a thread of the watchdog, talks to etcd and keeps /run/clusterd/arbiter.json. Everybody else
goes by that: the watchdog's loop, and the scripts, which put no address up without a grant. With ``kind = reference``
nothing here does anything.
"""

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from clusterd import lock, paths, state, view
from clusterd.errors import CannotTell, Failed
from clusterd.grant import SLACK
from clusterd.model import Config, Group
from clusterd.picture import Me

if TYPE_CHECKING:
    from clusterd.places import Place
    from clusterd.steward import Steward

HANDED_OVER = 10.0
"""Seconds in which a group that is handed over must be granted: its holder has just given it back."""
BEYOND = 5.0
"""Seconds after the lifetime of a lease at which a takeover by hand stops waiting for the one of a dead node."""
WAIT = 2.0
"""Seconds in which an endpoint that has just failed to answer may do so again, before a planned move is refused."""
PAUSE = 0.01


class Grants(NamedTuple):
    """What etcd has granted to this node, in this boot. Times of CLOCK_BOOTTIME."""

    boot: str
    lease: int = 0
    """The node's lease in etcd; 0: none yet."""
    until: float = 0.0
    """The lease cannot end before that."""
    groups: dict[str, str] = {}
    """The groups that are ours for as long as the lease is, each with the token of who asked for it."""
    others: dict[str, list[Any]] = {}
    """Who has what we wanted, and since when we know."""
    lost_since: float | None = None
    """Since when no endpoint has answered."""
    why: str = ""
    """What each of them said instead."""
    told: bool = False
    """Etcd has been asked what is ours, and has answered, in this boot."""
    ttl: float = 0.0
    """The lifetime that was asked for the lease."""


class Want(NamedTuple):
    """What the loop wants the steward to have granted."""

    epoch: int
    token: str
    """Of the script that asks: a grant from before its question is none that it may rely on."""


def wanted(config: Config) -> bool:
    """Whether there is an arbiter beside the reference hosts."""
    return config.arbiter.kind != "reference"


def steward(config: Config, places: "Mapping[str, Place]") -> "Steward | None":
    """The watchdog's thread that deals with etcd; None where there is nothing to do for it."""
    if not wanted(config):
        return None
    from clusterd.steward import Steward

    made = Steward(config, places)
    made.start()
    return made


def password(config: Config) -> str:
    """The password of etcd's user, "" without one; the private files are those of this node.

    Raises:
        ConfigError: one of them is missing, or others may read or write it.
    """
    from clusterd.config import read_file

    about = config.arbiter
    for path in filter(None, (about.ca, about.cert)):
        read_file(path)
    if about.key:
        read_file(about.key, forbidden=0o077)
    content = read_file(about.password_file, forbidden=0o077)[0] if about.password_file else b""
    return content.decode("utf-8", "surrogateescape").rstrip("\r\n")


def read() -> Grants | None:
    """What was granted in this boot; None: nothing is known."""
    try:
        fact = state.read(paths.GRANTS)
        found = Grants(**fact) if fact else None
    except (Failed, TypeError):
        return None
    return found if found and found.boot == state.boot_id() else None


def write(grants: Grants) -> None:
    """Publish them."""
    state.write(paths.GRANTS, grants._asdict(), durable=False, mode=0o644)


# --- for the watchdog's loop ---------------------------------------------------------------------------------------


def note(me: Me, grants: Grants, now: float, lease: float) -> Me:
    """The picture of this node with what the arbiter has said. Before its first word nothing is let go of."""
    unasked = not grants.told and grants.lost_since is None
    groups = {}
    for name, own in me.groups.items():
        until = now + lease if unasked else grants.until if name in grants.groups else 0.0
        denied, since = grants.others.get(name, ("", now))
        groups[name] = own._replace(granted_until=until, denied_to=denied, denied_since=since)
    return me._replace(groups=groups, arbiter_lost_since=grants.lost_since, arbiter_why=grants.why)


def wants(me: Me, asks: Mapping[str, int]) -> dict[str, Want]:
    """What this node wants to have granted: what it serves, what it is about to serve, what a script asks for."""
    found = {}
    for name, own in me.groups.items():
        if mark := asking(name) if own.busy else None:
            found[name] = mark
        elif name in asks or own.ordered or (own.held and own.up):
            found[name] = Want(asks.get(name) or own.intended or own.epoch, "")
    return found


def show(config: Config, grants: Grants, now: float) -> dict[str, Any]:
    """What is published of it in the view."""
    good = max(0.0, round(grants.until - now, 1))
    if grants.lost_since is not None:
        text = f"etcd has not answered for {now - grants.lost_since:.0f} s"
    elif not grants.told:
        text = "etcd was not asked yet"
    else:
        text = f"etcd answers; granted here: {', '.join(sorted(grants.groups)) or 'nothing'}"
    return {"kind": config.arbiter.kind, "text": text, "good": good, "granted": sorted(grants.groups)}


# --- for the scripts -----------------------------------------------------------------------------------------------


def obtain(config: Config, group: Group, epoch: int, *, ordered: bool, seconds: float) -> bool:
    """Wait until the group is granted to this node; the watchdog has it asked for as long as this script is at work.

    Args:
        config: the configuration.
        group: which is to be taken, and whose lock this process has.
        epoch: to be taken.
        ordered: the watchdog has ordered this, and has it granted already, or asks for it.
        seconds: how long to wait.

    Returns:
        whether it had to wait.

    Raises:
        Failed: etcd has granted it to another node.
        CannotTell: etcd does not answer.
    """
    if not wanted(config):
        return False
    token = "" if ordered else f"{os.getpid()} {view.now():.6f}"
    if token:
        mark = {"pid": os.getpid(), "epoch": epoch, "token": token}
        state.write(paths.asking(group.name), mark, durable=False)
    began, waited = view.now(), False
    while not _granted(config, group, token):
        if view.now() > began + seconds:
            _refuse(group)
        time.sleep(PAUSE)
        waited = True
    return waited


def still(config: Config, group: Group) -> None:
    """Whether the grant lasts longer than an address that is put up now; a script may have been stopped meanwhile.

    Raises:
        CannotTell: it does not, and nothing may be put up.
    """
    if wanted(config) and not _granted(config, group, ""):
        raise CannotTell(f"the arbiter's grant of {group.name} has ended: nothing is taken")


def check(config: Config, seconds: float = WAIT) -> None:
    """Whether this node can have anything granted now, or in so many seconds: asked before a group is handed to it.

    Raises:
        CannotTell: the arbiter is out of reach from here.
    """
    if not wanted(config):
        return
    until = view.now() + seconds
    while (found := read()) is None or found.lost_since is not None or found.until < view.now():
        if view.now() >= until:
            raise CannotTell(f"the arbiter, etcd, is out of reach from {config.me().name}: nothing can be taken there")
        time.sleep(PAUSE)


def check_answers(config: Config, so: str = "nothing can be taken") -> bool:
    """Whether the arbiter answers at this very moment; asked before anything is done that only a grant makes good.

    That it did so a moment ago says little: a cut may have taken etcd and the peer from this node at once, and the
    peer is missed first. So this waits for the steward's next renewal: a tenth of `ttl` when all is well, `ttl` at
    most, which is longer than an election takes.

    Args:
        config: the configuration.
        so: what follows if it does not answer, in words.

    Returns:
        whether there is an arbiter; then what was known before should be looked at again.

    Raises:
        CannotTell: it does not answer.
    """
    if not wanted(config):
        return False
    asked, last = view.now(), read()
    known = max(asked, last.until if last else 0.0)
    while (found := read()) is None or found.until <= known or found.lost_since is not None:
        if view.now() > asked + config.arbiter.ttl:
            raise CannotTell(f"the arbiter, etcd, does not answer {config.me().name}: {so}")
        time.sleep(PAUSE)
    return True


def asking(group: str) -> Want | None:
    """What the script that is at work on the group asks for; None if it asks for nothing."""
    try:
        mark = state.read(paths.asking(group))
        if not mark or mark["pid"] != lock.holder(f"group-{group}"):
            return None
        return Want(int(mark["epoch"]), str(mark["token"]))
    except (Failed, LookupError, TypeError, ValueError):
        return None


def note_boot_over(node: str, boot: str) -> None:
    """That boot of the node is over: its agent says so. What it was granted ends with it."""
    state.write(_over(node), {"boot": boot}, durable=False)


def boot_over(node: str, boot: str) -> bool:
    """Whether that boot of the node is known to be over."""
    try:
        fact = state.read(_over(node))
    except Failed:
        return False
    return bool(boot) and isinstance(fact, dict) and fact.get("boot") == boot


def _granted(config: Config, group: Group, token: str) -> bool:
    found = read()
    if found is None or group.name not in found.groups or (token and found.groups[group.name] != token):
        return False
    return found.until - view.now() > config.failover.lease + SLACK


def _refuse(group: Group) -> None:
    found = read()
    if found and found.lost_since is None and group.name in found.others:
        node = found.others[group.name][0]
        raise Failed(f"{node} has {group.name} in etcd: nothing is taken over")
    why = f" ({found.why})" if found and found.why else ""
    raise CannotTell(f"etcd has not granted {group.name} to this node: nothing is taken{why}")


def _over(node: str) -> str:
    return f"{paths.BOOTS_OVER}/{node}.json"
