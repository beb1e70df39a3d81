"""After a cut pass: which files a takeover serves, and the way back to the last complete generation.

The receiver of a service with ``consistent = yes`` lists what is there before a pass changes the first file; a takeover
goes back to that (wayback.py). What the cut pass had brought goes into a backup set of its own.
"""

import os
import time

from clusterd import backups, durable, generation, log, manifest, passes
from clusterd.errors import Busy, Failed
from clusterd.model import Service
from clusterd.passes import ROLLED_BACK, Record, Unfinished
from clusterd.wayback import Way


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
    text = f"{service.name}: rolled back to {done.as_of()}: {way.restored} files put back, {made.entries} taken away"
    log.event(
        "rolled-back",
        text,
        level="warning",
        service=service.name,
        set=done.kept,
        seconds=round(time.monotonic() - began, 2),
    )
    return record


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
