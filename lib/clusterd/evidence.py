"""What must be certain before a group is taken: nobody claims it, nobody answers for it, who is silent is off.

The watchdog has decided on the same evidence a moment ago; a takeover by hand has only this. With an arbiter, its
grant comes last.
"""

import time

from clusterd import arbiter, arp, durations, fence, log, network, notify, ownership, reach, view
from clusterd.errors import Busy, CannotTell, Failed, NotPermitted
from clusterd.model import Config, Group
from clusterd.picture import NOT_FENCED

ASK_FOR = 0.15
"""Seconds during which a takeover by hand asks the LAN whether somebody answers for the address."""


def check_standby() -> None:
    """A node in standby acquires nothing.

    Raises:
        NotPermitted: it is in standby.
    """
    standby = ownership.standby()
    if standby:
        raise NotPermitted(f"this node is in standby ({standby.cause}: {standby.reason}): it acquires nothing")


def make_sure(config: Config, group: Group) -> int:
    """For a takeover by hand: whether nobody has the group, as far as can be known; returns the epoch to take.

    Raises:
        Failed: somebody has it.
        CannotTell: the evidence does not suffice.
    """
    _check_claims(config, group, view.need())
    # This may take its time, if the watchdog is just starting again; so the LAN comes last, for it is not to be old.
    _check_claims(config, group, view.need_new())
    answering = _who_answers(config, group)
    if answering:
        raise Failed(f"{answering} still answers for {group.name}: nothing is taken over")
    now = view.need()
    _check_claims(config, group, now)
    _check_not_isolated(now)
    known = [ownership.read(group.name).epoch]
    known += [peer.groups.get(group.name, {}).get("epoch", 0) for peer in now.peers.values()]
    return max(known) + 1


def _check_not_isolated(now: view.View) -> None:
    silent = [peer.name for peer in now.peers.values() if not peer.heard]
    if silent and not now.reach:
        raise CannotTell(
            "not every peer is heard, and no reference host answers: this node may be the isolated one, and would let "
            "go again. If it is not: name a machine that answers in [reference] hosts"
        )
    if now.outnumbered():
        raise CannotTell("fewer than half of the nodes that count are heard: the others may have it")


def check_let_go(config: Config, group: Group, *, by_hand: bool) -> None:
    """Whether a group that is held here by its record, and whose addresses are not up, is nobody else's by now.

    Raises:
        Failed: somebody claims it, or answers for it.
        CannotTell: the watchdog is not running; or, by hand, it would let go again.
    """
    if not network.missing(network.place(config, group.name, config.me())):
        return
    _check_claims(config, group, view.need())
    answering = _who_answers(config, group)
    if answering:
        raise Failed(f"{answering} answers for {group.name}, which this node has let go of: it is not put up again")
    if by_hand:
        now = view.need()
        _check_claims(config, group, now)
        _check_not_isolated(now)


def _check_claims(config: Config, group: Group, now: view.View) -> None:
    holder = now.holder(group.name)
    if holder and holder != config.me().name:
        raise Failed(f"{holder} holds {group.name}: run `release {group.name} --to {config.me().name}` there")
    for peer in now.peers.values():
        if peer.heard and peer.groups.get(group.name, {}).get("taking"):
            raise Failed(f"{peer.name} is taking {group.name} over just now")
        if peer.rumours.get(group.name, 0) >= ownership.read(group.name).epoch > 0:
            raise Failed(
                f"{peer.name} says that it has {group.name}, and does not hear this node: look at it, "
                "and at the cables; switch it off if it is to be taken from"
            )
        if peer.vouched and ownership.read(group.name).holder == peer.name:
            raise Failed(f"{peer.name}, which had {group.name} last, is not heard here, but by another node")


def _who_answers(config: Config, group: Group) -> str:
    """The address of the group and the MAC that answers for it on the LAN; "" if nobody does."""
    interface = config.me().interface
    addresses = [address.split("/")[0] for address in group.addresses]
    with arp.Socket(interface) as sock:
        end = time.monotonic() + ASK_FOR
        while time.monotonic() < end:
            for address in addresses:
                sock.probe(address)
            time.sleep(reach.URGENT)
            for answer in sock.read():
                if answer.address in addresses:
                    return f"{answer.address} at {answer.mac}"
    return ""


def fence_silent(config: Config, group: Group, unheard: tuple[str, ...] | None) -> tuple[str, ...]:
    """With a fence agent: switch every silent peer off before anything of it is taken; returns those.

    None: by hand; ask the view who is silent, and leave out the delay, which is for two that act at once.
    With an arbiter nobody is switched off in vain: first it must answer.

    Raises:
        Busy: one of them was heard again before its turn came: the watchdog is to decide anew.
        CannotTell: the arbiter does not answer; nobody was switched off.
        Failed: one of them is not known to be off. A notice has been sent; nothing may be taken over.
    """
    if not fence.wanted(config):
        return ()
    if unheard is None:
        unheard = tuple(peer.name for peer in view.need().peers.values() if not peer.heard)
        _wait_turn(config, unheard, 0.0)
    else:
        _wait_turn(config, unheard, max((config.nodes[name].fence_delay for name in unheard), default=0.0))
    for name in unheard:
        try:
            fence.off(config, config.nodes[name], owed=config.fence.action == "reboot")
            _check_silence(config, group, name)
        except Failed as error:
            notify.tell_detached(config, "fence-failed", str(error), group=group.name, subject=name, peer=name)
            raise
        seen = view.read()
        if arbiter.wanted(config) and seen and name in seen.peers:
            arbiter.note_boot_over(name, seen.peers[name].boot)
        notify.tell_detached(config, "fenced", f"{name} is off", group=group.name, subject=name, peer=name)
    return unheard


def _wait_turn(config: Config, unheard: tuple[str, ...], delay: float) -> None:
    """The delay of those who are to be fenced, in which they may fence this node, and the arbiter's answer; then look
    again.
    """
    if delay:
        log.event("fence-waits", f"{', '.join(unheard)}: to be fenced in {durations.show(delay)}")
        time.sleep(delay)
    so = f"{', '.join(unheard)} is not switched off, nothing is taken"
    asked = bool(unheard) and arbiter.check_answers(config, so)
    if not (delay or asked):
        return
    now = view.need_new()
    back = [name for name in unheard if now.peers[name].heard]
    if back:
        raise Busy(f"{', '.join(back)}: heard again, not fenced")


def _check_silence(config: Config, group: Group, name: str) -> None:
    """What is off does not answer: an agent with the wrong plug has switched off another machine.

    Raises:
        Failed: it, or somebody else, does.
    """
    answering = _who_answers(config, group)
    if answering:
        raise Failed(f"{NOT_FENCED}the agent says that {name} is off, but {answering} still answers for {group.name}")


def switch_on(config: Config) -> None:
    """With [fence] action = reboot: give those who were fenced their power back, by this takeover, or by one before it
    that was cut. A failure is told, and tried again with the next takeover.
    """
    for node in fence.owed_on(config) if fence.wanted(config) else ():
        try:
            fence.on(config, node)
            log.event("power-on", f"{node.name} is switched on again", level="notice", peer=node.name)
        except (Failed, OSError) as error:
            notify.tell_detached(config, "power-on-failed", str(error), subject=node.name, peer=node.name)


def granted(config: Config, group: Group, epoch: int, *, ordered: bool = False, by_hand: bool = False) -> bool:
    """With an arbiter: wait until it grants the group to this node, which nothing may be taken without.

    Returns:
        whether that took its time, and what was known before it has to be asked again.

    Raises:
        Failed: it is another node's there.
        CannotTell: the arbiter does not answer.
    """
    patience = config.arbiter.ttl + arbiter.BEYOND if ordered or by_hand else arbiter.HANDED_OVER
    return arbiter.obtain(config, group, epoch, ordered=ordered, seconds=patience)
