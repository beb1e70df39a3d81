"""release GROUP [--to NODE]: hand a group over without loss."""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clusterd import cli, config, errors, lock, log, ownership, run
from clusterd.errors import OK, ClusterdError, Failed, NotPermitted, Usage
from clusterd.lock import Lock
from clusterd.model import Config, Group

if TYPE_CHECKING:
    from clusterd.handover import Handed

DESCRIPTION = """\
Hand a group over: mirror its files while its services run, stop them, mirror what changed meanwhile, drop the
address; the other node takes it. Any step that fails puts things back."""

PATIENCE = 120.0
"""Seconds that --let-go waits for a takeover that is still under way: what it has started is to be stopped."""

WRITTEN = 10.0
"""Seconds in which the watchdog, which has decided that the group is another's, gets that onto a slow disk."""


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("release", DESCRIPTION)
    made.add_argument("group", metavar="GROUP", help="the group, named after its home node")
    made.add_argument("--to", metavar="NODE", help="the successor (default: its home, or the only other node)")
    made.add_argument("--standby", metavar="WHY", help="put this node in standby as well (used by watchdog, cluster)")
    made.add_argument("--person", action="store_true", help="a person wants that standby (used by cluster)")
    made.add_argument("--in-standby", action="store_true", help="this node is in standby (used by watchdog)")
    made.add_argument("--failback", action="store_true", help="it goes home by itself (used by watchdog)")
    made.add_argument(
        "--let-go", action="store_true", help="another node holds it: stop what runs of it here (used by watchdog)"
    )
    made.add_argument("--why", metavar="TEXT", default="", help="the reason, for the record (used by watchdog)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), release, argv)


def release(options: argparse.Namespace) -> int:
    """Hand the group over as the options say."""
    settings = config.load(options.config)
    if options.group not in settings.nodes:
        raise Usage(f"{options.group}: no such group; there are {', '.join(settings.nodes)}")
    group = settings.group(options.group)
    if options.let_go:
        with lock.wait_for(f"group-{group.name}", PATIENCE):
            return _let_go(settings, group, options.why)
    with Lock(f"group-{group.name}"):
        return _hand_over(settings, group, _successor(settings, group, options.to), options)


def _successor(settings: Config, group: Group, to: str | None) -> str:
    me = settings.me().name
    others = [node.name for node in settings.peers()]
    if to is None:
        to = group.home if group.home != me else others[0]
        if group.home == me and len(others) > 1:
            raise Usage(f"--to: one of {', '.join(others)}")
    if to not in others:
        raise Usage(f"--to {to}: not one of the other nodes ({', '.join(others)})")
    return to


def _hand_over(settings: Config, group: Group, to: str, options: argparse.Namespace) -> int:
    record = ownership.read(group.name)
    if not record.held_by(settings.me().name):
        raise NotPermitted(f"{group.name} is not held here but by {record.holder or 'nobody'}: release it there")
    if run.dry_run:
        cli.answer(group=group.name, to=to, released=False)
        return _plan(settings, group, to)
    from clusterd import handover, notify

    by_hand = not (options.failback or options.standby or options.in_standby)
    cause = ownership.PERSON if options.person else ownership.PROGRAM
    standby = (cause, options.standby) if options.standby else None
    already = options.person or ownership.standby()
    log.event("release-began", f"{group.name} to {to}", group=group.name, to=to)
    try:
        pinned = by_hand and to != group.home
        handed = handover.hand_over(settings, group, settings.nodes[to], pinned=pinned, standby=standby)
    except (ClusterdError, OSError) as error:
        name, why = "failback-failed" if options.failback else "release-failed", errors.text(error)
        notify.tell_detached(settings, name, f"{group.name} to {to}: {why}", group=group.name, subject=group.name)
        raise
    if options.standby and not already:
        notify.tell_detached(settings, "standby-entered", f"{settings.me().name}: {options.standby}")
    _tell(settings, handed, options.failback)
    cli.answer(**handed._asdict(), released=True)
    print(f"{group.name}: {to} answers; {handed.down:.1f} s from the stop of the services here")
    return OK


def _tell(settings: Config, handed: "Handed", failback: bool) -> None:
    from clusterd import notify

    name = "failback-done" if failback else "release-done"
    text = f"{handed.group} is served by {handed.to} again" if failback else f"{handed.group} was handed to {handed.to}"
    did = f"it was not served for {handed.down:.1f} s" + (
        f"; backup sets: {', '.join(handed.sets)}" if handed.sets else ""
    )
    notify.tell_detached(settings, name, text, did=did, group=handed.group, subject=handed.group)


def _let_go(settings: Config, group: Group, why: str) -> int:
    given_up = time.monotonic() + WRITTEN
    while ownership.known_to_hold(group.name):
        if time.monotonic() > given_up:
            raise Failed(f"{group.name} is held here: hand it over with --to NODE")
        time.sleep(0.05)
    if run.dry_run:
        print(f"would stop {', '.join(service.name for service in reversed(group.services))} and drop the address")
        return OK
    from clusterd import handover, notify

    there, stuck = handover.let_go(settings, group)
    if there:
        text = f"{group.name} is another node's now, and its address does not go from here: {there}"
        did = "Its services were stopped, but for those that are told on their own."
        notify.tell_detached(settings, "not-let-go", text, did=did, group=group.name, subject=group.name)
    else:
        notify.clear("not-let-go", group.name)
    for outcome in stuck:
        notify.tell_detached(
            settings,
            "service-failed",
            f"{outcome.service} did not stop here, and {group.name} is another node's now: {outcome.text}",
            did="Its stop is tried again, ever more rarely.",
            todo="End it by hand: until then two nodes may run it.",
            group=group.name,
            subject=outcome.service,
        )
    wrong = [there] * bool(there) + [f"{outcome.service} did not stop" for outcome in stuck]
    if wrong:
        raise Failed(f"{group.name}: {'; '.join(wrong)}")
    log.event("let-go", f"{group.name}: services stopped, address dropped ({why})", group=group.name)
    cli.answer(group=group.name, released=True, stopped=[service.name for service in group.services])
    return OK


def _plan(settings: Config, group: Group, to: str) -> int:
    """--dry-run: the steps, in their order."""
    mirrored = [service.name for service in group.services if service.paths]
    print(f"would mirror {', '.join(mirrored)} to {to} while the services run")
    print(f"would stop {', '.join(service.name for service in reversed(group.services))}")
    print(f"would mirror {', '.join(mirrored)} once more")
    print(f"would drop {', '.join(group.addresses)} and have {to} take it over")
    return OK
