"""What a pass leaves behind at the receiver when it is cut, and how one that still runs is ended.

No file under its own name is ever half written: rsync writes to a temporary name first. What has such a name, or
waits in rsync's folder of delayed updates, is removed; what was replaced or deleted already is in the backup set.
"""

import contextlib
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterable, Iterator, Sequence

from clusterd import backups, guards, lock, log, model, ownership, passes, rsync, run
from clusterd.beneath import Opened
from clusterd.errors import Busy, Failed
from clusterd.model import Service
from clusterd.passes import Record, Unfinished
from clusterd.setback import Moment
from clusterd.treewalk import walk

PATIENCE = 5.0
"""Seconds that an earlier pass, or its rsync, gets to end."""

_LAG = 0.01
"""Seconds by which file times lag behind the clock, which are those of the kernel's last tick."""
_DELAYED = ".~tmp~"
"""rsync's folder of whole files that are put into place at the end."""


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
        record = tidy(service, record)
    kept = cut.set
    try:
        if not backups.ended(cut.set):
            spare(cut)
        kept = cut.set if backups.recover(cut.set).entries else ""
    except (Failed, Busy) as error:
        log.debug(str(error))
    return passes.write(record._replace(unfinished=cut._replace(closed=True, set=kept)))


def tidy(service: Service, record: Record) -> Record:
    """Remove the temporary files of a cut pass: every other file is whole, the old one or the new one."""
    cut = record.unfinished
    assert cut is not None
    # After a setback of the clock something may stay, until a pass is complete; what a user made before never goes.
    since = cut.began - _LAG
    doubtful = {}
    with Opened() as opened:
        for path, about in list(walk(service)):
            parts = path.split("/")
            if _DELAYED in parts:
                delayed = parts.index(_DELAYED)
                with contextlib.suppress(OSError):
                    shutil.rmtree(_DELAYED, dir_fd=opened.folder("/".join(parts[:delayed])))
            elif rsync.TEMPORARY.match(parts[-1]) and stat.S_ISREG(about.st_mode) and about.st_ctime >= since:
                doubtful[path] = about
        # A user's file may be called like that: one that was sent under this name, or was here before.
        for path in cut.named:
            doubtful.pop(path, None)
        for (path, about), birth in zip(doubtful.items(), births(list(doubtful)), strict=True):
            # Where the file system does not know: rsync gives an old time to what is whole only.
            if birth >= since or (birth == 0 and about.st_mtime >= since and about.st_nlink == 1):
                fd, name = opened.above(path)
                os.unlink(name, dir_fd=fd)
    return record._replace(unfinished=cut._replace(closed=True))


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


def births(found: Sequence[str]) -> list[float]:
    """When each of these files was made, by the file system (where it keeps that); 0: not known."""
    made: list[float] = []
    for start in range(0, len(found), 500):
        part = found[start : start + 500]
        known = run.run(("stat", "--printf=%.W\\n", "--", *part), timeout=60, changes=False).stdout.split()
        made += map(float, known) if len(known) == len(part) else [0.0] * len(part)
    return made


def above(service: Service) -> dict[str, tuple[int, int, int]]:
    """Mode, owner and group of the folders above the mirrored paths, as they are now."""
    found = {}
    for path in sorted(rsync.above(service.paths)):
        if os.path.isdir(path):
            about = os.stat(path)
            found[path] = (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid)
    return found


def put_back(was: dict[str, tuple[int, int, int]]) -> None:
    """Give the folders above the mirrored paths the attributes back that only a hostile sender changes."""
    for path, (mode, uid, gid) in was.items():
        try:
            about = os.stat(path)
        except FileNotFoundError:
            continue
        if (stat.S_IMODE(about.st_mode), about.st_uid, about.st_gid) != (mode, uid, gid):
            os.chown(path, uid, gid)
            os.chmod(path, mode)
            log.event("pass-hostile", f"{path}: a pass changed its owner or mode; put back", level="alert", path=path)


@contextlib.contextmanager
def stopped(service: Service) -> Iterator[Record]:
    """End a pass that is being received now, because this node takes the group over; tidy up after a cut one.

    The group's record must say already that this node has it: no new pass is let in. The record, in which a pass that
    was cut, now or before, is the unfinished one, is good as long as the lock is held: inside the ``with`` statement.

    Raises:
        Failed: its processes do not end.
    """
    end(f"apply-{service.name}")
    end(f"receive-{service.name}")
    with lock.wait_for(f"receive-{service.name}", PATIENCE):
        yield recover(service, before_start=True)


def cut_off(services: Iterable[Service]) -> None:
    """End what still writes to these files from another node, before this node answers for their group.

    Their services start later (`stopped`); but one that could not be stopped before runs still. What does not end is
    told then, and keeps nothing else from being served. The group's record must say already that this node has it.
    """
    for service in services:
        try:
            end(f"apply-{service.name}")
        except Failed as error:
            log.debug(str(error))


def end_rsync(service: str) -> None:
    """Wait until the rsync that receives for `service` has ended; it has not got long."""
    end_at = time.monotonic() + PATIENCE
    while lock.held(f"apply-{service}") and time.monotonic() < end_at:
        time.sleep(0.02)
    end(f"apply-{service}")


def end(name: str) -> None:
    """End the process group that holds the lock `name`, if any: asked first, then killed.

    Raises:
        Failed: it does not end.
    """
    for sent in (signal.SIGTERM, signal.SIGKILL):
        pid = lock.holder(name)
        if pid is None:
            return
        try:
            if os.getpgid(pid) == pid:
                os.killpg(pid, sent)
            else:
                os.kill(pid, sent)
        except ProcessLookupError:
            pass
        end_at = time.monotonic() + PATIENCE / 2
        while time.monotonic() < end_at:
            if not lock.held(name):
                return
            time.sleep(0.01)
    raise Failed(f"{name}: its process does not end, even killed: a disk that hangs?")
