"""The steps of one pass on the sender: look, hold the plan against the budget, carry it out, remember it."""

import os
import time
from typing import Any, NamedTuple

from clusterd import deletions, durable, guards, log, passes, paths, peer, rehome, rsync, run, setback, strays
from clusterd.asked import Begin
from clusterd.deletions import Plan
from clusterd.errors import ClusterdError, Failed
from clusterd.model import Config, Node, Service
from clusterd.passes import Done, Place
from clusterd.sender import Control, Run
from clusterd.setback import Moment

SLACK = 10
"""Deletions beyond the plan that are let through: files go while a pass runs."""
LISTED = 100_000
"""Files to be sent of which the receiver is told the names..."""
KEPT = 500_000
"""...and files to be replaced or deleted: one message does not take any number, and each costs it a look."""


class ClocksApart(Failed):
    """The clocks of the two nodes are further apart than [mirror] max_skew."""


class Report(NamedTuple):
    """What a pass did."""

    service: str
    peer: str
    ok: bool
    """It is complete."""
    changed: int = 0
    """Files and folders created, replaced, or given other attributes."""
    deleted: int = 0
    bytes: int = 0
    """Sent over the network."""
    seconds: float = 0.0
    backup_set: str | None = None
    """At the receiver, if anything was replaced or deleted."""
    unmirrored: tuple[str, ...] = ()
    """Files that only the receiver had, and that are in the backup set now."""
    both: tuple[str, ...] = ()
    """Those among them that had been changed here as well."""
    problem: str = ""
    """Why it is not complete, or what else is to be said."""
    plan: tuple[rsync.Item, ...] = ()
    """With --dry-run: what would be done."""


class Pass:
    """One pass under way."""

    def __init__(
        self,
        config: Config,
        service: Service,
        node: Node,
        epoch: int,
        max_delete: str | None,
        *,
        leaving: bool = False,
    ) -> None:
        self.config = config
        self.service = service
        self.node = node
        self.epoch = epoch
        self.by_hand = max_delete
        self.leaving = leaving
        self.began = setback.now()
        self.watch = time.monotonic()
        self.known = passes.read(service.name)
        self.record = rehome.sending(self.known, service, epoch)
        self.places: dict[str, Place] = {}

    def run(self, progress: bool) -> Report:
        """From the guards to the records."""
        self._check_source()
        with Control(self.config, self.service, self.node, self.epoch) as control:
            # Both at once, over one connection: what the gate says can still end the look.
            control.connected()
            looking = Run(self._argv(control))
            try:
                control.hello()
                self._check_peer(control)
                seen = looking.finish(control)
            finally:
                looking.end()
            seen = self._again(control, seen)
            if run.dry_run:
                return self._dry(control, seen)
            plan = self._hold(control, seen)
            if not seen.output.items and seen.code == 0 and all(place.id for place in self._folders().values()):
                control.finish(complete=True, entries=self._entries(seen))
                self._remember(seen)
                return self._report(True, bytes=seen.output.sent, problem=seen.note)
            return self._apply(control, plan, progress)

    def _dry(self, control: Control, seen: Run) -> Report:
        """What would be done, or would be refused."""
        try:
            self._hold(control, seen)
        except Failed as error:
            return self._report(False, plan=seen.output.items, problem=str(error))
        return self._report(True, plan=seen.output.items)

    def _check_source(self) -> None:
        self.places = guards.check_source(self.service, self.record, by_hand=self.by_hand is not None)

    def _check_peer(self, control: Control) -> None:
        """What the peer's first answer says."""
        skew = control.skew()
        if abs(skew) > self.config.mirror.max_skew:
            raise ClocksApart(
                f"{self.service.name}: the clock of {self.node.name} is {abs(skew):.1f} s "
                f"{'ahead' if skew > 0 else 'behind'}: no pass; run timesync on both nodes"
            )
        rehome.check_receiver(self.known, self.service, self.node.name, control.said)
        theirs = tuple(control.said["paths"])
        if theirs != self.service.paths:
            raise Failed(
                f"{self.service.name}: {self.node.name} has other paths in its configuration "
                f"({', '.join(theirs)}): run cluster push"
            )
        for path, place in self._folders().items():
            there = control.said["ids"].get(path)
            if there and place.id and there != place.id:
                raise Failed(
                    f"{self.service.name}: {path}: another sentinel on {self.node.name}: is the right disk mounted?"
                )

    def _folders(self) -> dict[str, Place]:
        return {path: place for path, place in self.places.items() if path.endswith("/")}

    def _again(self, control: Control, seen: Run) -> Run:
        """Files that vanish while they are looked at are no trouble, unless they are still there: look again once."""
        if seen.code == rsync.VANISHED:
            seen = Run(self._argv(control)).finish(control)
        if seen.code is None:
            raise control.lost()
        if seen.code not in (0, rsync.ERRORS, rsync.VANISHED):
            raise Failed(f"{self.service.name} to {self.node.name}: {seen.why()}; nothing was changed")
        if seen.code and not seen.harmless(self.began.at) and not seen.output.items:
            raise Failed(f"{self.service.name} to {self.node.name}: {seen.why()}; nothing was changed")
        return seen

    def _hold(self, control: Control, seen: Run) -> Plan:
        return deletions.hold(control, self.service, seen.output, self.record.entries(), self.by_hand)

    def _apply(self, control: Control, plan: Plan, progress: bool) -> Report:
        """Carry the plan out."""
        self._check_source()
        for path, place in self._folders().items():
            if not place.id:
                self.places[path] = place._replace(id=guards.make_sentinel(self.service, path).id)
        backup = control.begin(self._said(control, plan.output))
        try:
            return self._send(control, plan, backup, progress)
        except ClusterdError as error:
            return self._report(False, backup_set=backup[0], problem=str(error))

    def _said(self, control: Control, output: rsync.Output) -> Begin:
        """What the receiver is to know before files change."""
        sent = [item.path for item in output.items if item.sent]
        kept = [item.path for item in output.items if item.kept]
        gone = [item.path for item in output.deleted] if control.said["returns"] else []
        return Begin(
            self._space(sent),
            folders=[item.path for item in output.deleted if item.folder],
            both=self._both(control),
            named=[item.path for item in output.items if rsync.TEMPORARY.match(os.path.basename(item.path))],
            sent=sent if len(sent) <= LISTED else None,
            kept=kept if len(kept) <= KEPT else (),
            gone=gone if len(gone) <= KEPT or control.channel.parts else (),
        )

    def _send(self, control: Control, plan: Plan, backup: tuple[str, str], progress: bool) -> Report:
        cap = min(plan.limit, len(plan.output.deleted) + SLACK)
        # What a program has mapped and written gets a new time with its next store only if the disk has it before.
        durable.settle([item.path for item in plan.output.items if item.sent], self.service.paths)
        # One run only: a second one would put its old versions in the place of the first one's, in the same set.
        late = rsync.LATE in control.said.get("can", ()) and not _folded(plan.output)
        argv = self._argv(control, backup=backup, max_delete=cap, progress=progress, late=late)
        made = Run(argv, progress).finish(control)
        items = made.output.items
        failed = made.code != 0 and not made.harmless(self.began.at)
        problem = made.why() if failed else self._still(cap, [item.path for item in items if item.sent])
        kept = [
            (item.path, "deleted" if item.deleted else "replaced") for item in items if item.deleted or item.replaced
        ]
        ended = control.finish(complete=not problem, entries=self._entries(made), changes=kept)
        if ended["unmirrored"] or ended["both"]:
            found = (ended["set"], ended["unmirrored"], ended["both"], ended.get("attributes", ()))
            strays.tell(self.config, self.service.name, self.node.name, *found)
            control.told()
        if failed:
            problem = made.why(ended.get("why", ""))
        if not problem:
            self._remember(made)
        deleted = sum(item.deleted for item in items)
        return self._report(
            not problem,
            changed=len(items) - deleted,
            deleted=deleted,
            bytes=plan.output.sent + made.output.sent,
            backup_set=ended["set"] or None,
            unmirrored=tuple(ended["unmirrored"]),
            both=tuple(ended["both"]),
            problem=problem or made.note,
        )

    def _still(self, cap: int, sent: list[str]) -> str:
        """What is wrong now that these files are sent, "" if nothing is: the disk may have gone in the meantime."""
        try:
            durable.settle(sent, self.service.paths)
            guards.check_holder(self.service, leaving=self.leaving)
            guards.check_source(self.service, self.record._replace(places=self.places), by_hand=cap > 0)
        except ClusterdError as error:
            return str(error)
        return ""

    def _argv(self, control: Control, **how: Any) -> list[str]:
        shell, target = peer.shell(self.config, self.node)
        return rsync.argv(
            self.service,
            f"[{target}]" if ":" in target else target,
            shell,
            self.epoch,
            gate=peer.gate(self.config),
            timeout=self.config.mirror.timeout,
            partial=control.said.get("partial") == paths.PARTIAL,
            **how,
        )

    def _space(self, sent: list[str]) -> dict[str, int]:
        """Bytes that are to be written at the receiver, by configured path."""
        return {
            path: guards.needed(each for each in sent if each == path or each.startswith(path))
            for path in self.service.paths
        }

    def _both(self, control: Control) -> list[str]:
        """What was written there and never mirrored, and was changed here since the last pass from there."""
        received, cut = self.record.received, self.record.unfinished
        if received is None:
            return []
        # What a roll back has put back since was changed by nobody.
        since = Moment(max(received.ended, cut.decided if cut else 0.0), received.setbacks).earliest()
        found = []
        for path, old in control.unmirrored.items():
            try:
                changed = os.lstat(path).st_ctime > since + passes.TICK
            except OSError:
                changed = old
            if changed:
                found.append(path)
        return found

    def _entries(self, made: Run) -> int:
        """How many files, folders and all else are mirrored; rsync counts the folders above them as well."""
        return max(0, made.output.entries - len(rsync.above(self.service.paths)))

    def _remember(self, made: Run) -> None:
        entries, (began, setbacks) = self._entries(made), self.began
        done = Done(self.node.name, self.epoch, began, time.time(), entries, setbacks)
        passes.complete_sent(self.record, done, self.places)

    def _report(self, ok: bool, **facts: object) -> Report:
        report = Report(self.service.name, self.node.name, ok, seconds=time.monotonic() - self.watch, **facts)  # type: ignore[arg-type]
        if report.changed or report.deleted or not ok:
            text = f"{report.service} to {report.peer}: {report.changed} changed, {report.deleted} deleted" + (
                f"; {report.problem}" if report.problem else ""
            )
            log.event(
                "pass-done" if ok else "pass-incomplete",
                text,
                level="info" if ok else "error",
                service=report.service,
                peer=report.peer,
                set=report.backup_set,
                bytes=report.bytes,
                seconds=round(report.seconds, 2),
            )
        return report


def _folded(output: rsync.Output) -> bool:
    """Whether a name that is to go stands here for another file: in a casefolded folder the two differ in case only.
    There the old one has to go first, or the new one is taken for it, and goes with it.
    """
    return any(os.path.lexists(item.path) for item in output.deleted)
