"""What a pass leaves behind at the receiver when it is cut.

No file under its own name is ever half written: rsync writes to a temporary name first. What is left of that is
removed (tidying.py); what was replaced or deleted already is in the backup set.
"""

import errno
import os
import stat

from clusterd import backups, guards, log, model, ownership, passes, rsync
from clusterd.beneath import Opened
from clusterd.endpass import end_rsync
from clusterd.errors import Busy, Failed
from clusterd.model import Service
from clusterd.passes import Record, Unfinished
from clusterd.setback import Moment
from clusterd.tidying import forget_sent, tidy


def recover(service: Service, *, before_start: bool = False) -> Record:
    """Finish what a cut pass left behind, if there is something; the caller holds the service's lock.

    `before_start`: this node takes the group over, and the service does not run yet. Once it has run here, what looks
    like rsync's temporary files may be its own.

    Raises:
        Failed: the service is to be consistent, and its folders are not those of the pass: no disk is mounted, say.
    """
    record = passes.read(service.name)
    cut = record.unfinished
    if cut is None or cut.closed:
        return record
    end_rsync(service.name)
    put_back(cut.above)
    try:
        guards.check_mounts(service, record)
    except Failed as error:
        if service.consistent:
            raise
        log.event("leftovers-kept", f"what a cut pass has left stays for now: {error}", level="warning")
        return record
    owned = ownership.read(service.home)
    if before_start or owned.epoch <= cut.epoch or owned.holder != model.hostname():
        tidy(service, cut)
    forget_sent(cut.set)
    kept = cut.set
    try:
        if not backups.ended(cut.set):
            spare(cut)
        kept = cut.set if backups.recover(cut.set).entries else ""
    except Failed as error:
        log.debug(str(error))
    except (Busy, OSError) as error:
        # A disk that does not take the list of the set keeps no service from starting.
        log.event("set-left-open", f"{cut.set}: {error}", level="warning", service=service.name, set=cut.set)
    return closed(record, kept)


def closed(record: Record, kept: str) -> Record:
    """Write down that the unfinished pass has nothing left to be tidied up; `kept`: its set, "" if it was empty."""
    assert record.unfinished is not None
    return passes.write(record._replace(unfinished=record.unfinished._replace(closed=True, set=kept)))


def spare(cut: Unfinished) -> None:
    """Take out of the set of a cut pass what it had not replaced yet: half a copy, if the set is on another disk, or
    one more name of the very file, which the service is going to change.
    """
    below = backups.files_folder(cut.set)
    since = Moment(cut.began, cut.setbacks).earliest() - passes.TICK
    with Opened() as tree, Opened() as store:
        for path, kept in list(store.walk(os.path.realpath(below))):
            inside = path[len(os.path.realpath(below)) :]
            about = tree.lstat(inside) if stat.S_ISREG(kept.st_mode) else None
            if about is None or not stat.S_ISREG(about.st_mode):
                continue
            itself = (about.st_dev, about.st_ino) == (kept.st_dev, kept.st_ino)
            if itself or (about.st_dev != kept.st_dev and about.st_ctime < since):
                fd, name = store.above(path)
                os.unlink(name, dir_fd=fd)


def above(service: Service) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and group of the folders above the mirrored paths, as they are now."""
    found = {}
    with Opened() as tree:
        for path in sorted(rsync.above(service.paths)):
            about = tree.lstat(path)
            if about and stat.S_ISDIR(about.st_mode):
                found[path] = (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid)
    return found


def put_back(was: dict[str, tuple[int, int, int]]) -> None:
    """Give the folders above the mirrored paths the attributes back that only a hostile sender changes.

    One that its owner has swapped for a symlink meanwhile leads to none that gets them.
    """
    for path, (mode, uid, gid) in was.items():
        with Opened() as tree:
            try:
                fd = tree.folder(path)
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    raise
                continue
            about = os.fstat(fd)
            if (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) == (mode, uid, gid):
                continue
            os.fchown(fd, uid, gid)
            os.fchmod(fd, mode)
            log.event("pass-hostile", f"{path}: a pass changed its owner or mode; put back", level="alert", path=path)
