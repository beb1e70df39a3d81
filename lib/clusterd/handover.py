"""Handing a group over without loss, step by step.

The order is what makes it safe: everything is copied while the services still run, then they stop, what changed
meanwhile is copied, and only then does the address move. While this node answers for it every failure is put back: the
services run here again, as if nothing had been tried. The successor hears the word only when no address is here.
"""

import subprocess
import time
from collections.abc import Iterable
from typing import NamedTuple

from clusterd import acquire, evidence, log, mirror, network, ownership, peer, run, services, view
from clusterd.errors import ClusterdError, Failed
from clusterd.model import Config, Group, Node, Service

SUCCESSOR_TIMEOUT = 30.0
"""Seconds in which the successor must answer for the address, from the word that it may."""


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


class Unclear(Failed):
    """Whether the successor has the group is not known: nobody serves it here."""


class Successor:
    """The other side of a hand-over: `peer_gate acquire` on the successor, started early, told when to go."""

    def __init__(self, config: Config, node: Node, group: Group, epoch: int, *, pinned: bool) -> None:
        words = ["acquire", group.name, str(epoch), *(["pinned"] if pinned else [])]
        self.node = node
        self.group = group.name
        self.argv = peer.argv(config, node, words)
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=run.environment(),
            start_new_session=True,
        )

    def ready(self) -> bool:
        """Whether it is still there, waiting for its word."""
        return self.process.poll() is None

    def go(self) -> None:
        """Tell it to take the group; returns when it answers for the address.

        Raises:
            Failed: it did not.
        """
        assert self.process.stdin is not None
        watch = _Alarm(self.process, SUCCESSOR_TIMEOUT)
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            assert self.process.stdout is not None
            said = self.process.stdout.readline()
        except OSError:
            said = ""
        finally:
            watch.cancel()
        if not said.startswith(f"{self.group}: "):
            raise Failed(f"{self.node.name} did not take it: {self.why(said)}")

    def finish(self, timeout: float) -> str:
        """Wait until its services run; the last line of its complaints, "" if there are none."""
        try:
            _, complaints = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.dismiss()
            return "its services did not all start in time"
        # rsh has no exit code of the other end.
        complained = any(line.startswith("takeover: ") for line in complaints.splitlines())
        return "not all of its services started" if self.process.returncode or complained else ""

    def dismiss(self) -> None:
        """It is not to take the group after all."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except OSError:
                pass
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def why(self, said: str = "") -> str:
        """What it complained of last; `said` is what was read of its answer already."""
        self.dismiss()
        assert self.process.stderr is not None and self.process.stdout is not None
        told = said + self.process.stdout.read(), self.process.stderr.read()
        result = peer.refused(run.Result(tuple(self.argv), self.process.returncode, None, False, *told))
        lines = result.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit {result.code}, no reason was given: see its log"


class _Alarm:
    """Kills a process that does not answer in time."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        import threading

        self.timer = threading.Timer(seconds, process.kill)
        self.timer.daemon = True
        self.timer.start()

    def cancel(self) -> None:
        self.timer.cancel()


def ready(config: Config, node: Node, group: Group) -> None:
    """Ask the successor whether it may and can take the group.

    Raises:
        Failed: it is not reached, or says no, and why.
    """
    answer = peer.ask(config, node, ["ready", group.name], timeout=config.mirror.timeout)
    if answer.timed_out or answer.code == peer.UNREACHABLE:
        raise peer.unreachable(node, answer.code, answer.stderr)
    if not answer.ok or not answer.stdout.strip():  # rsh has no exit code of the other end
        raise Failed(f"{node.name} cannot take {group.name}: {_last(answer)}")


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


def let_go(config: Config, group: Group) -> list[services.Outcome]:
    """The group is another's: drop what is left of its address, stop what still runs of it here.

    Returns:
        the services that did not stop.
    """
    network.drop_group(config, network.place(config, group.name, config.me()))
    return [outcome for outcome in services.stop_all(group.services) if not outcome.ok]


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
    """The successor failed after the address was dropped. Take it again only if it surely has not got it.

    Raises:
        Unclear: it may have it.
    """
    now = view.read()
    heard = not now or now.peers[node.name].heard
    answer = peer.ask(config, node, ["status"], timeout=config.mirror.timeout) if heard else None
    seen = view.parse(answer.stdout) if answer and answer.ok else None
    theirs = seen.groups.get(group.name, {}) if seen else {}
    if seen is None or theirs.get("held") or theirs.get("busy"):
        log.event("hand-over-unclear", f"{group.name}: {error}; waiting for what {node.name} claims", level="error")
        raise Unclear(f"{error}; {node.name} may have it, nobody serves it here") from error
    epoch = max(record.epoch, int(theirs.get("epoch", 0))) + 1
    evidence.granted(config, group, epoch)
    acquire.take(config, group, epoch, pinned=record.pinned)
    acquire.tell_failed(config, group.name, acquire.serve(config, group, epoch).failed)


def _last(result: run.Result) -> str:
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else result.why()
