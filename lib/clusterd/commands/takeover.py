"""takeover GROUP: acquire a group on this node."""

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from clusterd import acquire, cli, config, evidence, log, ownership, run, urgency
from clusterd.errors import FAILED, OK, CannotTell, NotPermitted, Usage
from clusterd.lock import Lock
from clusterd.model import Config, Group

DESCRIPTION = """\
Acquire a group on this node: make sure that nobody else has it, take a new epoch, bring up its address and MAC
address, announce them, start its services in order."""


class Order(NamedTuple):
    """What the watchdog has decided."""

    epoch: int
    why: str
    unheard: tuple[str, ...]
    """The peers that are silent: to be fenced first, if there is an agent."""


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("takeover", DESCRIPTION)
    made.add_argument("group", metavar="GROUP", help="the group, named after its home node")
    made.add_argument(
        "--resume", action="store_true", help="put up again what is held here already, finish what was cut"
    )
    made.add_argument(
        "--handed-over", metavar="EPOCH", type=int, help="the holder has let go at EPOCH (used by release)"
    )
    made.add_argument("--pinned", action="store_true", help="a person moved it: automatic failback leaves it here")
    made.add_argument(
        "--on-go", action="store_true", help="be ready, wait for the word on stdin (used by watchdog and release)"
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), takeover, argv)


def takeover(options: argparse.Namespace) -> int:
    """Acquire the group as the options say; 0 if it is held here afterwards and everything runs."""
    settings = config.load(options.config)
    if options.group not in settings.nodes:
        raise Usage(f"{options.group}: no such group; there are {', '.join(settings.nodes)}")
    if options.on_go and options.json:
        raise Usage("--on-go answers in lines: it goes without --json")
    group = settings.group(options.group)
    told = None
    if options.on_go:
        told = wait_for_go()
        if told is None:
            return OK
    with Lock(f"group-{group.name}"):
        return _takeover(settings, group, options, told)


def _takeover(settings: Config, group: Group, options: argparse.Namespace, told: Order | None) -> int:
    record = ownership.read(group.name)
    epoch, why = _epoch(settings, group, options, told)
    if epoch == record.epoch and record.phase == ownership.HELD and not options.resume:
        _check_up(settings, group)
        log.debug(f"{group.name} is held here already")
        cli.answer(group=group.name, epoch=epoch, taken=False, why="held here already")
        return OK
    if run.dry_run:
        cli.answer(group=group.name, epoch=epoch, taken=False, why=why)
        return _plan(settings, group, epoch)
    by_hand = not (options.on_go or options.resume)
    if epoch == record.epoch:
        evidence.check_let_go(settings, group, by_hand=by_hand)
    log.event("takeover-began", f"{group.name}: {why}", group=group.name, epoch=epoch)
    fenced: tuple[str, ...] = ()
    if not options.resume and options.handed_over is None and epoch != record.epoch:
        fenced = evidence.fence_silent(settings, group, told.unheard if told else None)
    try:
        if fenced:
            evidence.check_standby()  # fencing takes its time: a person may have set it meanwhile
        ordered = told is not None and options.handed_over is None
        if evidence.granted(settings, group, epoch, ordered=ordered, by_hand=by_hand):
            epoch, why = _epoch(settings, group, options, told)
        taken = _take(settings, group, epoch, options)
        fresh_start = group.home == settings.me().name and record.holder in ("", group.home)
        news = not (options.resume or fresh_start) and options.handed_over is None
        acquire.tell(settings, taken, why, news=news)
    finally:  # however it ends, who was switched off for it gets its power back, if that is wanted
        evidence.switch_on(settings)
    _answer(taken, why)
    return FAILED if taken.failed and by_hand else OK


def _take(settings: Config, group: Group, epoch: int, options: argparse.Namespace) -> acquire.Taken:
    """Addresses up, then the services."""
    if options.handed_over is not None:
        ownership.leave_standby(person=False)
    by_hand = not (options.on_go or options.resume)
    acquire.take(settings, group, epoch, pinned=options.pinned, by_hand=by_hand)
    print(f"{group.name}: answering", flush=True)
    log.event("address-up", f"{group.name}: answering", group=group.name, epoch=epoch)
    urgency.no_hurry()  # the watchdog has it begin with a better nice value
    try:
        taken = acquire.serve(settings, group, epoch)
    except NotPermitted:  # another node has it by now
        from clusterd import handover

        handover.let_go(settings, group)
        raise
    log.event("takeover-served", f"{group.name}: services started", group=group.name, epoch=epoch)
    return taken


def _check_up(settings: Config, group: Group) -> None:
    """Raises CannotTell if what is held here does not answer: the watchdog has let go of its addresses."""
    from clusterd import network

    if network.missing(network.place(settings, group.name, settings.me())):
        raise CannotTell(
            f"{group.name} is held here, and its addresses are let go of: check_peer says why; the watchdog puts them "
            "up as soon as that is over"
        )


def _answer(taken: acquire.Taken, why: str) -> None:
    cli.answer(
        group=taken.group,
        epoch=taken.epoch,
        taken=True,
        why=why,
        verified=taken.verified,
        failed={outcome.service: outcome.text for outcome in taken.failed},
        files=list(taken.freshness),
    )


def _epoch(settings: Config, group: Group, options: argparse.Namespace, told: Order | None) -> tuple[int, str]:
    """The epoch to take, and in words why it may be taken; changes nothing.

    Raises:
        NotPermitted: this node is in standby; what is handed over it refuses only if a person has set that.
        ClusterdError: it may not be taken, or that is not known.
    """
    if options.resume:
        return acquire.resumable(settings, group).epoch, "resumed"
    if options.handed_over is not None:
        ownership.check_liftable()
        known = ownership.read(group.name)
        if known.epoch > options.handed_over:
            raise NotPermitted(
                f"epoch {known.epoch} of {group.name} is {known.holder}'s: the word that it is handed over, with epoch "
                f"{options.handed_over}, came too late"
            )
        return options.handed_over + 1, "handed over without loss"
    evidence.check_standby()
    if told is not None:
        return told.epoch, told.why
    if ownership.holds(group.name):
        return ownership.read(group.name).epoch, "held already"
    return evidence.make_sure(settings, group), "taken by hand"


def _plan(settings: Config, group: Group, epoch: int) -> int:
    """--dry-run: what would be done, to the address and the service."""
    from clusterd import network

    place = network.place(settings, group.name, settings.me())
    print(f"would take {group.name} with epoch {epoch}")
    print(f"would bring up {', '.join(place.addresses)} on {place.interface}, MAC {place.mac or 'unchanged'}")
    for service in group.services:
        print(f"would start {service.name} ({service.kind})")
    return OK


def wait_for_go() -> Order | None:
    """Wait for "go" on stdin; None at the end of file before it. The lines before it are the order."""
    told: dict[str, str] = {}
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "go":
            return Order(int(told.get("epoch", "0")), told.get("why", ""), tuple(told.get("unheard", "").split()))
        told[word] = rest
    return None
