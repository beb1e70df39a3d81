"""What must be in order before a pass may touch anything. Each refusal is one line that says what to do.

An empty, unmounted or foreign folder looks like a wish to delete everything. So a file, the sentinel, lies in every
mirrored folder on both sides, the file system that it is on is remembered, and deletions have a budget.
"""

import errno
import math
import os
import stat
from collections.abc import Iterable

from clusterd import model, mounts, ownership, passes, paths
from clusterd.beneath import Opened
from clusterd.errors import Failed, NotPermitted
from clusterd.model import Service
from clusterd.passes import Place, Record
from clusterd.sentinel import make_sentinel as make_sentinel
from clusterd.sentinel import read_sentinel as read_sentinel

_BLOCK = 4096
"""Bytes that a file system gives at least to a file with any content, and to a folder."""
_MARGIN, _OWN = 1 << 20, 10
"""Bytes and inodes for what a backup set has beside the old files, and for what is written there meanwhile."""


def check_holder(service: Service, *, leaving: bool = False) -> int:
    """Only the holder mirrors; returns the epoch.

    Args:
        service: what is mirrored.
        leaving: the group is being handed over, which is just what a holder in standby has to do.

    Raises:
        NotPermitted: this node is in standby, or does not hold the service's group.
    """
    standby = ownership.standby()
    if standby and not leaving:
        raise NotPermitted(f"{service.name}: this node is in standby ({standby.reason}): it mirrors nothing")
    record = ownership.read(service.home)
    if not record.held_by(model.hostname()):
        holder = record.holder if record.holder not in ("", model.hostname()) else "another node, or nobody"
        raise NotPermitted(
            f"{service.name}: {model.hostname()} does not hold {service.home}, {holder} does: only the holder mirrors"
        )
    return record.epoch


def check_settled(service: Service) -> None:
    """Whether the files here are one generation, if they must be, or at least those that a takeover has decided on.

    Raises:
        NotPermitted: the last pass to here was cut, and has not been rolled back.
    """
    if service.consistent and passes.read(service.name).unsettled():
        raise NotPermitted(
            f"{service.name}: the last pass to here was cut and is not rolled back yet: such files are not mirrored; "
            f"takeover {service.home} --resume"
        )


def admit_sender(service: Service, node: str, epoch: int) -> None:
    """Old never overwrites new: only the holder, at the highest epoch known, may mirror to here.

    A sender that is let in with a higher epoch than this node knew is the holder: that is put on the disk, durably, so
    that nobody with a lower one is let in any more, whatever happens next.

    Raises:
        NotPermitted: `node` is not the holder, as far as this node knows.
    """
    me, record = model.hostname(), ownership.read(service.home)
    if node == me:
        raise NotPermitted(f"{me} does not mirror to itself")
    if record.held_by(me):
        raise NotPermitted(f"{me} holds {service.home} itself, with epoch {record.epoch}: no pass is taken")
    if epoch < record.epoch or epoch == 0:
        raise NotPermitted(
            f"epoch {epoch} of {service.home} is over: {record.holder or 'nobody'} has it with epoch {record.epoch}"
        )
    if not ownership.credible(record.epoch, epoch):
        raise NotPermitted(f"epoch {epoch} of {service.home} cannot be: {record.epoch} is known here")
    if epoch == record.epoch and record.holder not in ("", node):
        raise NotPermitted(f"{record.holder}, not {node}, has epoch {epoch} of {service.home}")
    ownership.learn(service.home, epoch, node)


def check_source(service: Service, record: Record, *, by_hand: bool = False) -> dict[str, Place]:
    """Whether everything that is to be mirrored is there and is what it was; returns what it is like now.

    A folder without a sentinel, that no pass has seen yet, has an empty `id`. `by_hand`: a person has said how many
    deletions are right, so an empty folder may be meant. So it may before the first pass, which deletes nothing.

    Raises:
        Failed: it is not.
    """
    table = mounts.table()
    found = {}
    for path in service.paths:
        known = record.places.get(path)
        place = check_place(service, path, known, table, "the source")
        if path.endswith("/"):
            if known and not place.id:
                raise Failed(_no_sentinel(service, path))
            if place.empty and record.places and not by_hand and not (known and known.empty):
                raise Failed(
                    f"{service.name}: {path}: the source is empty; if it is meant to be: "
                    f"mirror_service {service.name} --max-delete N"
                )
        found[path] = place
    return found


def check_target(service: Service, record: Record) -> dict[str, Place]:
    """Whether the receiver's folders are what they were; one that no pass has seen yet may be missing.

    Nor may a disk have come with files on it that no pass has seen: they are not the source's, and would be deleted.

    Raises:
        Failed: they are not.
    """
    table = mounts.table()
    found = {}
    for path in service.paths:
        known = record.places.get(path)
        if known is None and not os.path.lexists(path):
            found[path] = Place(mounts.names(path, table), empty=True)
            continue
        place = check_place(service, path, known, table, "the target")
        if known and path.endswith("/") and not place.id:
            raise Failed(_no_sentinel(service, path))
        if known and path.endswith("/"):
            _check_new(service, path, known, table)
        found[path] = place
    return found


def check_still(service: Service, places: dict[str, Place]) -> None:
    """Whether the same is mounted as when the places were looked at, a moment ago.

    Raises:
        Failed: it is not.
    """
    table = mounts.table()
    for path, place in places.items():
        if mounts.names(path, table) != place.mounts:
            raise Failed(f"{service.name}: {path}: what is mounted there has changed since the pass began")


def check_mounts(service: Service, record: Record) -> None:
    """Whether what a pass has left behind lies where the pass has left it: the same file systems are mounted.

    Raises:
        Failed: they are not.
    """
    table = mounts.table()
    for path, known in record.places.items():
        if path in service.paths:
            _check_mounts(f"{service.name}: {path}", known.mounts, mounts.names(path, table), path, service)


def check_place(service: Service, path: str, known: Place | None, table: list[mounts.Mount], what: str) -> Place:
    """One mirrored path, on either side."""
    where = f"{service.name}: {path}"
    plain = path.rstrip("/")
    folder = plain if path.endswith("/") else os.path.dirname(plain)
    if os.path.realpath(folder) != folder:
        straight = os.path.realpath(folder)
        raise Failed(f"{where}: {folder} leads through a symlink; write {straight} in the configuration instead")
    if path.endswith("/") != os.path.isdir(plain) and os.path.lexists(plain):
        kind = "not a folder" if path.endswith("/") else "a folder: write it with a slash at its end"
        raise Failed(f"{where}: {what} is {kind}")
    if not os.path.lexists(plain) and (what == "the source" or path.endswith("/")):
        raise Failed(f"{where}: {what} is missing: is its disk mounted?")
    now = mounts.names(path, table)
    if known:
        _check_mounts(where, known.mounts, now, path, service)
    if not path.endswith("/"):
        return Place(now)
    sentinel = read_sentinel(service, path)
    if sentinel and known and known.id not in ("", sentinel.id):
        raise Failed(
            f"{where}: holds another sentinel than at the last pass: is this the right disk? {_accept(service)}"
        )
    return Place(now, not has_files(path), sentinel.id if sentinel else "")


def _check_mounts(where: str, was: tuple[str, ...], now: tuple[str, ...], path: str, service: Service) -> None:
    """The file system itself is the same, and none that was mounted below it is gone."""
    missing = [name for name in was[1:] if name not in now]
    if now[0] == was[0] and not missing:
        return
    change = f"was {was[0]}, is {now[0]}" if now[0] != was[0] else f"{missing[0]} is gone"
    raise Failed(f"{where}: no longer the mount that it was ({change}): is its disk mounted? {_accept(service)}")


def _check_new(service: Service, path: str, known: Place, table: list[mounts.Mount]) -> None:
    """None is mounted below the folder with files on it, that was not there at the last pass."""
    for mount in mounts.below(path, table):
        if mounts.stores(mount) and mounts.name(mount) not in known.mounts and _may_lose(mount.point):
            raise Failed(
                f"{service.name}: {path}: {mount.point} was not mounted at the last pass: what is on it and not at the "
                f"source would be deleted; unmount it. {_accept(service)}"
            )


def _may_lose(point: str) -> bool:
    """Whether there are files at a mount point that a pass could delete."""
    try:
        return has_files(point)
    except (Failed, PermissionError):  # hidden by another mount, or closed to root: so it is to rsync
        return False
    except OSError:
        return True


def _no_sentinel(service: Service, path: str) -> str:
    return f"{service.name}: {path}: no sentinel ({path}{paths.SENTINEL}): is its disk mounted? {_accept(service)}"


def _accept(service: Service) -> str:
    return f"If all is right: mirror_service {service.name} --accept-mounts on {model.hostname()}"


def has_files(folder: str) -> bool:
    """Whether anything but folders, the sentinel and lost+found is in `folder`.

    Raises:
        Failed: it is not there, or no folder (any more).
    """
    top = folder.rstrip("/")
    pending = [top]
    with Opened() as opened:
        while pending:
            inside = pending.pop()
            try:
                found = os.scandir(opened.folder(inside))
            except OSError as error:
                if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    raise
                if inside == top:
                    raise Failed(f"{folder}: {error.strerror}") from None
                continue  # gone meanwhile, or swapped for a symlink
            with found:
                for each in found:
                    if inside == top and each.name in (paths.SENTINEL, "lost+found"):
                        continue
                    if not each.is_dir(follow_symlinks=False):
                        return True
                    pending.append(f"{inside}/{each.name}")
    return False


def budget(max_delete: str, entries: int) -> int:
    """How many deletions "10 %" (rounded up) or "5" allows, of so many files last seen."""
    if max_delete.endswith("%"):
        return math.ceil(entries * int(max_delete.rstrip("% ")) / 100)
    return int(max_delete)


def free_space(path: str) -> int:
    """Bytes that root can still write where `path` is or will be."""
    found = os.statvfs(existing(path))
    return found.f_bfree * found.f_frsize


def check_room(service: Service, old: Iterable[str]) -> None:
    """Whether the disk of the backup sets takes copies of these old files; those of the same disk are only moved.

    rsync itself would not notice in time: a symlink that could not be copied there it takes for kept.

    Raises:
        Failed: it does not.
    """
    sets = existing(paths.BACKUPS)
    device = os.stat(sets).st_dev
    size, names = 0, set()
    for path in old:
        try:
            about = os.lstat(path)
        except OSError:
            continue
        if about.st_dev != device and path not in names:
            names.add(path)
            # rsync fills the holes of what it copies there.
            size += math.ceil(about.st_size / _BLOCK) * _BLOCK if stat.S_ISREG(about.st_mode) else 0
            while (path := os.path.dirname(path)) not in names and path != "/":
                names.add(path)
                size += _BLOCK
    if not names:
        return
    size, inodes = size + _MARGIN, len(names) + _OWN
    free, left = free_space(sets), os.statvfs(sets)
    if size > free or (left.f_files and inodes > left.f_ffree):
        raise Failed(
            f"{service.name}: {paths.BACKUPS}: the old files take {size / 2**20:.1f} MiB and {inodes} inodes, "
            f"{free / 2**20:.1f} MiB and {left.f_ffree} are free on {model.hostname()}: nothing was changed; make room "
            "there (purge_backups)"
        )


def existing(path: str) -> str:
    """The folder `path` itself, or the nearest one above it that exists."""
    while not os.path.isdir(path):
        path = os.path.dirname(path.rstrip("/"))
    return path


def needed(files: Iterable[str]) -> int:
    """Bytes that copies of `files` take on a disk, holes not counted."""
    total = 0
    for each in files:
        try:
            about = os.lstat(each)
        except OSError:
            continue
        total += min(about.st_size, about.st_blocks * 512)
    return total
