"""Acquiring a group on this node, step by step; each step may be repeated, and is after a crash.

The epoch is on the disk before the address is on the NIC; the address is there before the services start; the record
says at every moment how far it has come.
"""

import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

from clusterd import (
    arbiter,
    durations,
    endpass,
    log,
    model,
    network,
    notify,
    ownership,
    passes,
    rehome,
    services,
    strays,
    view,
)
from clusterd.errors import ClusterdError, Failed, NotPermitted
from clusterd.model import Config, Group
from clusterd.ownership import Record


class Taken(NamedTuple):
    """A group that has been acquired."""

    group: str
    epoch: int
    verified: str
    """How it was verified from outside; "" if nobody could be asked."""
    failed: tuple[services.Outcome, ...]
    """Services that did not start."""
    freshness: tuple[str, ...]
    """A line for each mirrored service: how old its files are here, and whether the last pass was cut."""


def take(config: Config, group: Group, epoch: int, *, pinned: bool = False, by_hand: bool = False) -> None:
    """Take the epoch, bring the addresses up, announce them. From here on this node answers for the group.

    What the watchdog decides it has told the peers; `by_hand`: they are given the time to hear it before it is done.

    Raises:
        NotPermitted: a higher epoch is known.
        CannotTell: the watchdog, which must see it through, is not there or has not heard the peers' claims.
        Failed: the network could not be set up; it is as it was. Nobody is the holder, but who was it before.
    """
    place = network.place(config, group.name, config.me())
    record = ownership.read(group.name)
    again = record.epoch == epoch and record.held_by(config.me().name)
    pinned = pinned or (record.pinned and record.holder == config.me().name)
    if not again:
        ownership.enter(group.name, epoch, ownership.ACQUIRING, pinned=pinned)
    ownership.verify(group.name, "")
    if by_hand:
        time.sleep(2 * config.heartbeat.interval)
    try:
        # May take seconds, so before what must be fresh when the address comes up.
        endpass.cut_off(service for service in group.services if service.paths)
        view.wait_sure(config.heartbeat.isolated_after)
        if not _ours(config, group, epoch):
            raise NotPermitted(f"{group.name} has been taken by another node meanwhile")
        arbiter.still(config, group)
        network.raise_group(config, place)
        network.announce(place)
        ownership.enter(group.name, epoch, ownership.STARTING, pinned=pinned)
    except ClusterdError:
        network.drop_group(config, place)
        if not again and _ours(config, group, epoch):
            ownership.enter(group.name, epoch, ownership.FREE, pinned=pinned)
        raise


def _ours(config: Config, group: Group, epoch: int) -> bool:
    record = ownership.read(group.name)
    return record.epoch == epoch and record.held_by(config.me().name)


def serve(config: Config, group: Group, epoch: int) -> Taken:
    """Start the services in their order, verify from outside, and call it held."""
    mirrored = [service for service in group.services if service.paths]
    blocked = [outcome for service in mirrored if (outcome := _end_pass(config, service))]
    names = {outcome.service for outcome in blocked}
    freshness = tuple(_freshness(service) for service in mirrored)
    for service in mirrored:
        _note_holder(service, epoch)
    outcomes = services.start_all(service for service in group.services if service.name not in names)
    for service in mirrored:
        strays.recall(config, service.name)
    failed = tuple(blocked + [outcome for outcome in outcomes if not outcome.ok])
    for outcome in failed:
        print(f"{outcome.service}: {outcome.text}", file=sys.stderr)
    place = network.place(config, group.name, config.me())
    verified = network.verify(config, place, config.reference) or ""
    ownership.verify(group.name, verified)
    pinned = ownership.read(group.name).pinned
    ownership.enter(group.name, epoch, ownership.HELD, pinned=pinned)
    return Taken(group.name, epoch, verified, failed, freshness)


def _end_pass(config: Config, service: model.Service) -> services.Outcome | None:
    """End a pass that is still being received, roll a cut one back; the outcome of a service that must not start
    because that fails.
    """
    try:
        cut = endpass.settle(service)
    except (ClusterdError, OSError) as error:
        return services.Outcome(service.name, False, f"not started: {error}", 0.0)
    if cut:
        tell_cut(config, service, cut)
        if cut.served == passes.NEWEST:
            strays.tell_kept(config, service.name, cut.set)
    return None


def _note_holder(service: model.Service, epoch: int) -> None:
    """Have it on the disk from when on files are written here. A disk that does not take it stops no service."""
    try:
        rehome.taking(service)
        passes.hold(service.name, epoch)
    except (ClusterdError, OSError) as error:
        log.event("holder-not-noted", f"{service.name}: {error}", level="error", service=service.name)


def _freshness(service: model.Service) -> str:
    """How old the files of the service are on this node; what cannot be told keeps nothing from starting."""
    try:
        return _age(service)
    except (ClusterdError, OSError) as error:
        return f"{service.name}: how old its files are is not known: {error}"


def _age(service: model.Service) -> str:
    cut = passes.read(service.name).unfinished
    if cut and cut.served == passes.ROLLED_BACK:
        return f"{service.name}: the last pass was cut: rolled back to {cut.as_of()}"
    fresh = passes.freshness(service.name)
    if fresh is None:
        return f"{service.name}: never mirrored to this node"
    age = f"{service.name}: files as of {durations.show(fresh[0])} ago"
    if not cut:
        return age
    return f"{age}, the last pass was cut: " + (
        "the newest files are served, some new, some old" if cut.served else "not served, they are not of one pass"
    )


def tell_cut(config: Config, service: model.Service, cut: passes.Unfinished) -> None:
    """The notice that the last pass to this node was cut, which files are served now, and where the others are kept."""
    text = f"{service.name}: the last pass to this node was cut"
    if cut.served == passes.ROLLED_BACK:
        text, kept = f"{text}; rolled back to {cut.as_of()}", cut.kept
        did = f"what the cut pass had brought is in the backup set {kept}" if kept else "it had brought nothing yet"
    else:
        text, kept = f"{text}; the newest files are served: every file is whole, some are new, some old", cut.set
        did = f"what it had replaced is in the backup set {kept}" if kept else "it had replaced nothing yet"
    # Each cut pass is news; the same one, seen again by a takeover that is resumed, is not.
    subject = f"{service.name} {cut.began:.0f}"
    notify.tell_detached(config, "pass-cut", text, did=did, subject=subject, service=service.name, set=kept)


def tell_failed(config: Config, group: str, outcomes: Iterable[services.Outcome]) -> None:
    """A notice for each service that did not start; nothing for those that did."""
    for outcome in outcomes:
        if not outcome.ok:
            text = f"{outcome.service} did not start here: {outcome.text}"
            notify.tell_detached(config, "service-failed", text, group=group, subject=outcome.service)


def tell(config: Config, taken: Taken, why: str, *, news: bool) -> None:
    """The notices of a takeover: which services did not start, and, if it is news, that the group is here now."""
    tell_failed(config, taken.group, taken.failed)
    text = f"{config.me().name} has taken over {taken.group} (epoch {taken.epoch}): {why}"
    did = "; ".join(
        [
            f"addresses are up and announced, {'verified: ' + taken.verified if taken.verified else 'NOT verified'}",
            *taken.freshness,
        ]
    )
    if not news:
        log.event("acquired", text, group=taken.group, epoch=taken.epoch, did=did)
        return
    notify.tell_detached(
        config, "takeover-done", text, did=did, group=taken.group, subject=taken.group, epoch=taken.epoch
    )


def resumable(config: Config, group: Group) -> Record:
    """The record of a group that is ours already.

    Raises:
        Failed: it is not.
    """
    record = ownership.read(group.name)
    if not record.held_by(config.me().name):
        raise Failed(f"{group.name} is not held here: there is nothing to resume")
    return record
