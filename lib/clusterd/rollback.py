"""After a cut pass: which files a takeover serves, and the way back to the last complete generation.

The receiver of a service with ``consistent = yes`` lists what is there before a pass changes the first file; a takeover
goes back to that (wayback.py). What the cut pass had brought goes into a backup set of its own.
"""

import os
import time

from clusterd import backups, durable, generation, leftovers, log, manifest, passes, services
from clusterd.errors import Busy, ClusterdError, Failed
from clusterd.model import Service
from clusterd.passes import NEWEST, ROLLED_BACK, Record, Unfinished
from clusterd.wayback import Way


def settle(service: Service) -> Unfinished | None:
    """This node takes the service over and has not started it yet: end a pass that is being received, and see to it
    that the files are those that are to be served.

    The group's record must say already that this node has it. Returns the pass that was cut, now or before, with what
    is served; None if the last one was complete.

    Raises:
        Failed: the pass does not end, or the files are neither one generation nor the other: nothing may be started.
    """
    with leftovers.stopped(service) as record:
        cut = record.unfinished
        if cut is None or cut.served:
            return cut
        if not service.consistent or services.status(service):
            # What runs already, started by hand, say, has written since: nothing is taken from under it.
            made = cut._replace(served=NEWEST, decided=time.time())
            return passes.write(record._replace(unfinished=made)).unfinished
        try:
            return roll_back(service, record).unfinished
        except (ClusterdError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
            raise Failed(
                f"the last pass to here was cut, and the way back to the last complete one failed: {where}{why}. "
                f"Put that right, then: takeover {service.home} --resume; or set consistent = no before, which "
                f"serves the newest files, some new, some old"
            ) from None


def roll_back(service: Service, record: Record) -> Record:
    """Make the files what they were before the cut pass; the caller holds the service's lock, nothing else writes.

    Raises:
        Failed: it cannot be done, or not in full; run again, it goes on.
    """
    began = time.monotonic()
    cut = record.unfinished
    assert cut is not None
    complete = record.generation()
    if not cut.listing:
        raise Failed("what was there before was not written down, because consistent was set to yes only afterwards")
    then, known = generation.read(service, cut.listing)
    sets = _sets(cut)
    record, kept = _open_kept(record, cut)
    way = Way(service, then, known, list(sets.values()), backups.files_folder(kept))
    try:
        way.go()
        durable.sync(service.paths)
        for each, files in sets.items():
            _list_anew(each, way.left[os.path.realpath(files)])
        made = backups.finish(kept, complete=True)
    finally:
        backups.let_go(kept)
    done = cut._replace(
        served=ROLLED_BACK, decided=time.time(), generation=complete, kept=made.set if made.entries else ""
    )
    record = passes.write(record._replace(unfinished=done))
    generation.drop(service.name)
    text = f"{service.name}: rolled back to {shown(done)}: {way.restored} files put back, {made.entries} taken away"
    log.event(
        "rolled-back",
        text,
        level="warning",
        service=service.name,
        set=done.kept,
        seconds=round(time.monotonic() - began, 2),
    )
    return record


def shown(cut: Unfinished) -> str:
    """The generation that is served after a roll back, in words."""
    if cut.generation is None:
        return "what this node itself had when it last held the group"
    return time.strftime("the pass of %Y-%m-%d %H:%M:%S, complete", time.localtime(cut.generation))


def _sets(cut: Unfinished) -> dict[str, str]:
    """The backup sets of the cut passes, and where their files are.

    They may be more than this process may have files open, so none stays locked. Nobody else puts anything into them
    or takes it out: a pass needs the service's lock, and a purge leaves them alone (passes.needed).

    Raises:
        Busy: the process that has filled one does not end, or one is being restored.
    """
    sets = [each for each in cut.sets() if os.path.isdir(backups.folder(each))]
    for each in sets:
        backups.reopen(each)
        backups.let_go(each)
    return {each: backups.files_folder(each) for each in sets}


def _list_anew(set_id: str, left: int) -> None:
    """Close a set in which fewer files are left than it lists: some were taken out, now or by a roll back that was
    killed. Whoever copies from it just now does not keep the service from starting.
    """
    listed = backups.load(set_id)
    if listed.state != manifest.OPEN and listed.entries <= left:
        return
    try:
        backups.finish(set_id, complete=False)
    except Busy as error:
        log.debug(str(error))


def _open_kept(record: Record, cut: Unfinished) -> tuple[Record, str]:
    """The set for what the cut pass has brought: the one of a roll back that was killed, or a new one."""
    if cut.kept:
        try:
            backups.reopen(cut.kept)
            return record, cut.kept
        except Failed as error:
            log.debug(str(error))
    kept = backups.create(record.service, cut.node, cut.epoch, manifest.ROLLBACK)
    return passes.write(record._replace(unfinished=cut._replace(kept=kept))), kept
