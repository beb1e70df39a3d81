"""Handing a group over without loss, step by step.

The order is what makes it safe: everything is copied while the services still run, then they stop, what changed
meanwhile is copied, and only then does the address move. While this node answers for it every failure is put back: the
services run here again, as if nothing had been tried. The successor hears the word only when no address is here.
"""

import time
from collections.abc import Iterable
from typing import NamedTuple

from clusterd import acquire, errors, evidence, log, mirror, network, ownership, services, view
from clusterd.errors import ClusterdError, Failed
from clusterd.model import Config, Group, Node, Service
from clusterd.successor import SUCCESSOR_TIMEOUT, Successor, Unclear, known_to, ready

HEARSAY = 3.0
"""Seconds in which a successor that has failed must hear, by heartbeat, with what epoch the group is taken again."""


class Handed(NamedTuple):
    """A group that has been handed over."""

    group: str
    to: str
    unmirrored: tuple[str, ...]
    """Files that the successor had written before and that had never been mirrored; they are in its backup sets."""
    sets: tuple[str, ...]
    """Backup sets that the passes made."""
    down: float
    """Seconds from the stop of the services to the successor's answering."""


def copy(config: Config, among: Iterable[Service], node: Node, *, last: bool) -> list[mirror.Report]:
    """One pass of every mirrored service of those to `node`, `parallel` at once.

    Raises:
        Failed: a pass was refused or did not complete; the first one that did not.
    """
    from concurrent.futures import ThreadPoolExecutor

    mirrored = [service for service in among if service.paths]

    def one(service: Service) -> mirror.Report | ClusterdError:
        try:
            return mirror.run_pass(config, service, node, leaving=True, last=last)
        except ClusterdError as error:
            return error

    with ThreadPoolExecutor(max_workers=config.mirror.parallel) as pool:
        results = list(pool.map(one, mirrored))
    reports = []
    for result in results:
        if isinstance(result, ClusterdError):
            raise result
        if not result.ok:
            raise Failed(f"the pass of {result.service} to {node.name} did not complete: {result.problem}")
        reports.append(result)
    return reports


def hand_over(
    config: Config, group: Group, node: Node, *, pinned: bool = False, standby: tuple[str, str] | None = None
) -> Handed:
    """Hand the group to `node`.

    Args:
        config: the configuration.
        group: what is handed over.
        node: to whom.
        pinned: it stays there.
        standby: cause and reason of the standby that this node enters, before the successor could give it back.

    Raises:
        Unclear: the successor failed after the address was dropped, and may have the group all the same. Nobody serves
            it here; the watchdog goes by what the successor claims.
        ClusterdError: it was not handed over. Before the address was dropped: it is served here as before; an address
            of several that was gone already the watchdog puts up again. After that, if the successor surely has not
            got it: it was taken again here, with a higher epoch; or that failed as well, and the error is that one's.
    """
    record = ownership.read(group.name)
    ready(config, node, group)
    reports = copy(config, _copied_first(group), node, last=False)
    ownership.enter(group.name, record.epoch, ownership.RELEASING, pinned=record.pinned)
    successor = Successor(config, node, group, record.epoch, pinned=pinned)
    began = time.monotonic()
    try:
        _stop(group)
        reports += copy(config, group.services, node, last=True)
        if not successor.ready():
            raise Failed(f"{node.name} cannot take it: {successor.why()}")
        _let_go(config, group, record)
    except BaseException:
        successor.dismiss()
        put_back(config, group, record)
        raise
    before = ownership.standby()
    # Of a person the successor must know before it could give the group back. Else only when it has it: a node in
    # standby would not take it again if this ended here.
    person = standby is not None and standby[0] == ownership.PERSON
    if standby and person:
        ownership.enter_standby(*standby)
    try:
        successor.go()
    except Failed as error:
        if person and not before:
            ownership.leave_standby(person=True)
        _take_back(config, group, node, record, error)
        raise
    if standby and not person:
        ownership.enter_standby(*standby)
    down = time.monotonic() - began
    log.event("handed-over", f"{group.name}: {node.name} answers", group=group.name, to=node.name, down=round(down, 3))
    trouble = successor.finish(sum(service.timeout for service in group.services) + SUCCESSOR_TIMEOUT)
    if trouble:
        log.event("handed-over-partly", f"{node.name}: {trouble}", level="error", group=group.name)
    unmirrored = tuple(path for report in reports for path in report.unmirrored)
    sets = tuple(report.backup_set for report in reports if report.backup_set)
    return Handed(group.name, node.name, unmirrored, sets, down)


def _copied_first(group: Group) -> Iterable[Service]:
    """What is copied while the services still run, so that they stand still for a short last pass only.

    That gains nothing on a node that reaches nobody, as with its LAN cable out: no client reaches it either, and waits
    for the successor. There only what a hook prepares is copied first, for the last pass runs no hooks.
    """
    seen = view.read()
    reached = seen is None or seen.reach != 0
    return group.services if reached else [service for service in group.services if service.before]


def let_go(config: Config, group: Group) -> tuple[str, list[services.Outcome]]:
    """The group is another's: drop what is left of its address, stop what still runs of it here.

    Returns:
        why something of its address has stayed, "" if all is gone; and the services that did not stop.
    """
    why = ""
    try:
        network.drop_group(config, network.place(config, group.name, config.me()))
    except (ClusterdError, OSError) as error:
        why = errors.text(error)
    return why, [outcome for outcome in services.stop_all(group.services) if not outcome.ok]


def _stop(group: Group) -> None:
    failed = [outcome for outcome in services.stop_all(group.services) if not outcome.ok]
    if failed:
        raise Failed(f"{failed[0].service} did not stop: {failed[0].text}")


def _let_go(config: Config, group: Group, record: ownership.Record) -> None:
    """First the record, so that the watchdog renews nothing any more, then the address.

    Raises:
        Failed: an address is still there, and the watchdog renews it again. What else may stay, a rule or the group's
            MAC on a NIC without its address, is no reason to take back what nobody answers for any more.
    """
    ownership.enter(group.name, record.epoch, ownership.FREE)
    where = network.place(config, group.name, config.me())
    try:
        network.drop_group(config, where)
    except (Failed, OSError) as error:
        if set(network.missing(where)) != set(where.addresses):
            ownership.enter(group.name, record.epoch, ownership.RELEASING, pinned=record.pinned)
            raise
        text = f"{group.name}: its addresses are gone from here, but not all else: {error}"
        log.event("drop-incomplete", text, level="error", group=group.name)


def put_back(config: Config, group: Group, record: ownership.Record) -> None:
    """Nothing was handed over: the services run again, and the record says what it said."""
    outcomes = services.start_all(group.services)
    ownership.enter(group.name, record.epoch, ownership.HELD, pinned=record.pinned)
    acquire.tell_failed(config, group.name, outcomes)


def _take_back(config: Config, group: Group, node: Node, record: ownership.Record, error: Failed) -> None:
    """The successor failed after the address was dropped. Take it again only if it surely has not got it, and will not.

    The word that it may can still be on its way, on a connection that is gone here. It obeys no such word any more
    once it knows of a higher epoch.

    Raises:
        Unclear: it may have it.
    """
    me = config.me().name
    try:
        known, _ = known_to(config, group, node)
        epoch = max(record.epoch, known) + 1
        evidence.granted(config, group, epoch)
        if ownership.read(group.name).epoch > record.epoch:
            raise Unclear("a higher epoch was heard of meanwhile")
        ownership.enter(group.name, epoch, ownership.FREE, pinned=record.pinned)
        end_at = time.monotonic() + max(HEARSAY, 5 * config.heartbeat.interval)
        while known_to(config, group, node) != (epoch, me):
            time.sleep(config.heartbeat.interval)
            if time.monotonic() > end_at:
                raise Unclear(f"{node.name} does not hear that it is taken again")
    except Unclear as why:
        log.event("hand-over-unclear", f"{group.name}: {error}; waiting for what {node.name} claims", level="error")
        raise Unclear(f"{error}; {why}: {node.name} may have it, nobody serves it here") from error
    acquire.take(config, group, epoch, pinned=record.pinned)
    acquire.tell_failed(config, group.name, acquire.serve(config, group, epoch).failed)
