"""The receiving side of a pass: what may come in, what is kept of the old, and what is left behind when it is cut.

The session of the gate that talks with the sender holds the service's lock as long as the pass lasts. rsync itself
runs in another process, started by the gate as well, with a lock of its own, so that a takeover can end both.
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from clusterd import (
    asked,
    attributes,
    backups,
    daemon,
    durable,
    generation,
    guards,
    lock,
    log,
    manifest,
    model,
    passes,
    paths,
    rehome,
    rsync,
    setback,
    strays,
)
from clusterd.channel import PARTS, Channel, Ended, Silent
from clusterd.endpass import PATIENCE, end_rsync
from clusterd.errors import ClusterdError, Failed
from clusterd.leftovers import above, closed, put_back, recover, spare
from clusterd.model import Config, Service
from clusterd.passes import Done, Record, Returned, Unfinished
from clusterd.setback import Moment
from clusterd.tidying import births, forget_sent, note_sent, tidy
from clusterd.treewalk import came_with, walk_since


class Session:
    """One pass, from the first word of the sender to its last."""

    def __init__(self, config: Config, service: Service, node: str, epoch: int, channel: Channel) -> None:
        self.config = config
        self.service = service
        self.node = node
        self.epoch = epoch
        self.channel = channel
        self.began = setback.now()
        self.set = ""
        self.found: tuple[tuple[str, bool], ...] | None = None
        self.folders: list[str] = []
        """Those that may have got other attributes here alone."""
        self.untold = False
        """The sender has been answered what only this node had, and has not said yet that a person is told."""
        self.record = Record(service.name)
        self.places: dict[str, passes.Place] = {}
        """What each path was like at the beginning."""

    def run(self) -> None:
        """Answer the sender until it has ended the pass, or is gone: then the pass is cut."""
        with lock.wait_for(f"receive-{self.service.name}", PATIENCE):
            try:
                guards.admit_sender(self.service, self.node, self.epoch)
                before = self._recover()
                self.record = rehome.receiving(before, self.service, self.epoch)
                self.channel.send(**self._hello(), home=before.home, held=before.last_held())
                while self._answer(self.channel.receive(self.config.mirror.timeout)):
                    pass
            except (Ended, Silent) as error:
                log.debug(f"{self.service.name}: {error}")
            finally:
                if self.set:
                    self._end_cut()
                if self.untold:
                    strays.recall(self.config, self.service.name)

    def _recover(self, *, before_start: bool = False) -> Record:
        """Finish what a cut pass left behind; what it has taken away here that is nowhere else is told at last."""
        before = passes.read(self.service.name).unfinished
        record = recover(self.service, before_start=before_start)
        if before and not before.closed:
            strays.tell_kept(self.config, self.service.name, before.set)
        strays.recall(self.config, self.service.name)
        return record

    def _hello(self) -> dict[str, Any]:
        self.places = places = guards.check_target(self.service, self.record)
        return {
            "clock": time.time(),
            "paths": self.service.paths,
            "ids": {path: place.id for path, place in places.items()},
            "entries": self.record.entries(),
            "first": self.record.received is None and not self.record.sent,
            "new": self.record.new(self.service.paths),
            "returns": self.record.returns(self.epoch),
            "partial": paths.PARTIAL,
            "can": [rsync.LATE, PARTS],
        }

    def _answer(self, message: dict[str, Any]) -> bool:
        """Do what the sender asks; whether more is to come."""
        wanted = message.get("do")
        self.channel.parts = message.get(PARTS) is True
        if wanted == "told" and self.untold:
            strays.forget(self.service.name)
            self.untold = False
            return False
        with self.channel.alive():
            if wanted == "clock":
                answer: dict[str, Any] = {"clock": time.time()}
            elif wanted == "look":
                answer = self._look()
            elif wanted == "begin" and not self.set:
                answer = self._begin(message)
            elif wanted == "end":
                answer = self._end(message)
            else:
                raise Failed(f"{self.node} asks for what there is not: {str(wanted)[:80]!r}")
        self.channel.send(**answer)
        return bool(wanted != "end") or self.untold

    def _look(self) -> dict[str, Any]:
        """What is in the tree: how much, and on the way back, what only this node has."""
        moment = self._since()
        since = None if moment is None else moment.earliest() - passes.TICK
        count, found = 0, []
        self.folders.clear()
        for path, _, new in walk_since(self.service, since, self.folders):
            count += 1
            if new:
                found.append(path)
        if self.record.returned:
            self.found = self.record.returned.unmirrored
        elif moment is not None:
            self.found = tuple(_with_age(found, moment.at - passes.TICK))
        return {"count": count, "unmirrored": self.found or ()}

    def _find_moved(self, gone: Sequence[str]) -> None:
        """Of what is to be deleted, add to what only this node has what may have come here with its folder; but not
        again once a pass has changed folders here. What is replaced, the other node has.
        """
        moment, known = self._since(), dict(self.found or ())
        if moment is None or self.record.returned:
            return
        changed = set(self.folders)
        found = [path for path in gone if path not in known and came_with(path, changed)]
        self.found = (*known.items(), *_with_age(found, moment.at - passes.TICK))

    def _since(self) -> Moment | None:
        """From when on what was written here may never have been mirrored; None if this is no return."""
        return self.record.alone_since(self.node) if self.record.returns(self.epoch) else None

    def _begin(self, message: dict[str, Any]) -> dict[str, Any]:
        """The pass is going to change files: keep what it replaces, and know after a crash that it was cut."""
        guards.admit_sender(self.service, self.node, self.epoch)
        said = asked.begin(self.service, message)
        guards.check_still(self.service, self.places)
        self.check_space(said.space)
        guards.check_room(self.service, said.kept)
        if self._since() is not None and self.found is None:
            self._look()
        self._find_moved(said.gone)
        earlier, listing = self._generation()
        began = setback.now()
        set_id = backups.create(self.service.name, self.node, self.epoch)
        alone = [path for path, _ in self.found or ()]
        backups.note(set_id, unmirrored=alone, both=said.both)
        if self.found or self.folders:
            attributes.note(backups.folder(set_id), dict.fromkeys((*alone, *self.folders)))
        backups.keep_folders(set_id, said.folders)
        note_sent(set_id, said.sent)
        self.record = passes.write(
            self.record._replace(
                unfinished=Unfinished(
                    self.node,
                    self.epoch,
                    began.at,
                    set_id,
                    above=above(self.service),
                    named=tuple(said.named),
                    earlier=earlier,
                    listing=listing,
                    setbacks=began.setbacks,
                ),
                returned=Returned(self.epoch, self.found) if self.found is not None else self.record.returned,
                paths=self.service.paths,  # what is there from now on came from the sender, or may be deleted
            )
        )
        self.set = set_id
        return {"set": set_id, "files": os.path.realpath(backups.files_folder(set_id))}

    def _generation(self) -> tuple[tuple[str, ...], str]:
        """The sets of passes that were cut since the last complete one, and the list of what was here before them."""
        cut = self.record.unfinished
        if cut and not cut.served:
            return cut.sets(), cut.listing
        return (), generation.make(self.service) if self.service.consistent else ""

    def check_space(self, space: dict[str, int]) -> None:
        """Whether so many bytes below each path still go on the disks.

        Raises:
            Failed: they do not.
        """
        wanted: dict[int, tuple[str, int]] = {}
        for path, size in space.items():
            device = os.stat(guards.existing(path)).st_dev
            wanted[device] = (path, wanted.get(device, ("", 0))[1] + size)
        for path, size in wanted.values():
            free = guards.free_space(path)
            if size > free:
                raise Failed(
                    f"{self.service.name}: {path}: {size / 2**20:.1f} MiB are to come and {free / 2**20:.1f} MiB are "
                    f"free on {model.hostname()}: nothing was changed; make room there"
                )

    def _end(self, message: dict[str, Any]) -> dict[str, Any]:
        """The sender says that the pass is over: the set is closed, and a complete pass is remembered as such."""
        guards.admit_sender(self.service, self.node, self.epoch)
        said = asked.end(self.service, message)
        end_rsync(self.service.name)
        if self.set and self.record.unfinished:
            put_back(self.record.unfinished.above)
        found = guards.check_target(self.service, self.record._replace(places={}))
        # What has been mounted, or is gone, since the pass began, the next one is to find.
        places = {path: place._replace(mounts=self.places.get(path, place).mounts) for path, place in found.items()}
        if self.set and said.complete:
            durable.sync(self.service.paths)
        answer = self._close(said)
        if said.complete:
            done = Done(self.node, self.epoch, self.began.at, time.time(), said.entries, self.began.setbacks)
            self.record = passes.complete_received(self.record, done, places)
            generation.drop(self.service.name)
        return answer

    def _close(self, said: asked.End) -> dict[str, Any]:
        if not self.set:
            return {"set": "", "unmirrored": (), "both": (), "attributes": (), "why": ""}
        why = "" if said.complete else daemon.complaints(self.service.name)
        if not said.complete and self.record.unfinished:
            tidy(self.service, self.record.unfinished)
            spare(self.record.unfinished)
        forget_sent(self.set)
        if self.found or self.folders:
            strays.note(self.service.name, self.set)
        summary = backups.finish(self.set, complete=said.complete, entries_hint=said.changes)
        self.set = ""
        if not said.complete and self.record.unfinished:
            self.record = closed(self.record, summary.set if summary.entries else "")
        marked = backups.entries(summary.set) if summary.unmirrored or summary.both else ()
        lost = [entry for entry in marked if entry.unmirrored or entry.both]
        alone = bool(self.found or self.folders)
        self.untold = bool(alone and lost)
        if alone and not lost:
            strays.forget(self.service.name)
        return {
            "set": summary.set if summary.entries else "",
            "unmirrored": [entry.path for entry in lost if entry.unmirrored],
            "both": [entry.path for entry in lost if entry.both],
            "attributes": [entry.path for entry in lost if entry.what == manifest.ATTRIBUTES],
            "why": why,
        }

    def _end_cut(self) -> None:
        """Whoever ends this process because it takes the service over goes on with the set at once."""
        try:
            self._cut()
        finally:
            backups.let_go(self.set)

    def _cut(self) -> None:
        """The sender is gone, or something failed here, in the middle of a pass that changes files."""
        text = f"{self.service.name}: the pass from {self.node} was cut; what it replaced is in {self.set}"
        log.event("pass-interrupted", text, level="warning", service=self.service.name, set=self.set)
        self._recover(before_start=True)


def _with_age(found: list[str], since: float) -> Iterator[tuple[str, bool]]:
    """With each path, whether it was made before `since`, by the file system's birth time (where it keeps one)."""
    yield from ((path, 0 < birth < since) for path, birth in zip(found, births(found), strict=True))


def answer_error(channel: Channel, error: ClusterdError) -> None:
    """Tell the sender why the pass is refused."""
    try:
        channel.send(error=str(error), exit=error.exit_code)
    except Ended:
        pass
