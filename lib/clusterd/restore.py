"""Putting back what is in a backup set: exactly as it was, and so that nothing that is there now is lost.

The copying is rsync's. What it replaces goes into a new backup set. While it writes, no symlink is followed on the way
to the folder that it writes to, nor below it: it is bound to itself in a mount namespace of its own, and entered before
rsync starts. A folder that becomes a symlink at the wrong moment, this one or one below it, leads nowhere.
"""

import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from clusterd import attributes, backups, guards, lock, log, manifest, model, mounts, ownership, passes, run
from clusterd.attributes import Given
from clusterd.errors import Busy, Failed, NotPermitted, Usage
from clusterd.manifest import FOLDER, Entry, Summary, shown
from clusterd.model import Service

LIMIT = 24 * 3600.0
"""Seconds that the copying may take."""

WAIT = 30.0
"""Seconds for which a pass is waited for."""

COPY = (
    *("rsync", "-aHAX", "--numeric-ids", "--sparse", "--modify-window=-1", "--checksum"),
    *("--from0", "--files-from=-", "--no-implied-dirs", "--backup"),
)
"""Everything that a file has; the folders above stay as they are, and what is alike already is not written."""

_FOLLOW_NOTHING = """\
mount --rbind "$0" "$0"
cd "$0"
[ "$(pwd -P)" = "$0" ] || { echo "$0: another folder has taken its place" >&2; exit 1; }
while [ "$1" != -- ]; do mount -c -o "remount,bind,nosymfollow,$2" none "$1"; shift 2; done
shift
exec "$@"
"""
"""Who owns the folder above can put a symlink in its place at any moment. So what counts is the folder that has been
entered: its name has no symlink in it, and `.` is a mount point only if it is the one that was bound.
"""


class Place(NamedTuple):
    """Where files go: what lies below `path` in the set belongs below `target`."""

    path: str
    """A mirrored folder, or the folder of a mirrored file, as configured; ends in a slash."""
    target: str
    """Without any symlink in it; ends in a slash."""


class Job(NamedTuple):
    """What is put back below one place."""

    place: Place
    names: tuple[str, ...]
    """Relative paths, with those folders above them that are missing."""
    replaces: tuple[str, ...]
    """Absolute paths that are there now."""
    attributes: tuple[str, ...] = ()
    """Absolute paths that have their contents, and get their owner, mode and other attributes again."""


def choose(entries: Iterable[Entry], wanted: Iterable[str]) -> list[Entry]:
    """The entries that `wanted` names: files, or folders with all that is below them.

    Raises:
        Usage: one of them names nothing in the set.
    """
    known = list(entries)
    chosen: dict[str, Entry] = {}
    for path in wanted:
        name = os.path.normpath(path)
        found = [entry for entry in known if entry.path == name or entry.path.startswith(f"{name.rstrip('/')}/")]
        if not found:
            raise Usage(f"{shown(path)}: not in this backup set (its paths are absolute)")
        chosen.update((entry.path, entry) for entry in found)
    return sorted(chosen.values())


def check_holder(service: Service) -> int:
    """Whether what is put back here stays: on another node than the holder the next pass would replace it again.

    Returns the group's epoch.

    Raises:
        NotPermitted: this node is not the holder.
    """
    record = ownership.read(service.home)
    me = model.hostname()
    if not record.held_by(me):
        holder = record.holder if record.holder not in ("", me) else ""
        where = (
            f"copy it to {holder}, which holds {service.home}" if holder else f"copy it to the holder of {service.home}"
        )
        raise NotPermitted(
            f"{service.name}: not held here, so the next pass would overwrite what is put back; "
            f"put it into a folder with --to DIR and {where}"
        )
    return record.epoch


def places(service: Service) -> list[Place]:
    """Where the files of `service` belong.

    Raises:
        Failed: a mirrored folder is not there, or is a symlink, which no pass follows either (guards.check_place).
    """
    made = []
    for path in service.paths:
        folder = path if path.endswith("/") else f"{os.path.dirname(path)}/"
        if not os.path.isdir(folder):
            raise Failed(f"{folder}: the folder is not there; is it mounted? With --to DIR files go elsewhere")
        place = _place(folder, folder)
        if place.target != folder:
            raise Failed(
                f"{service.name}: {path}: {folder.rstrip('/')} leads through a symlink; write "
                f"{shown(place.target.rstrip('/'))} in the configuration instead. With --to DIR files go elsewhere"
            )
        made.append(place)
    return sorted(set(made), key=lambda place: len(place.path), reverse=True)


def elsewhere(folder: str) -> list[Place]:
    """Everything below `folder`, with its whole path.

    Raises:
        Usage: it is no folder.
    """
    if not os.path.isdir(folder) or os.path.realpath(folder) == "/":
        raise Usage(f"--to {folder}: must be a folder that is there, and not the root")
    return [_place("/", folder)]


def plan(entries: Iterable[Entry], known: list[Place]) -> list[Job]:
    """What is to be copied where, one job a place.

    Raises:
        Failed: something cannot be put back; each reason is a line, and nothing is to be touched.
    """
    names: dict[Place, dict[str, None]] = {}
    replaces: dict[Place, list[str]] = {}
    given: dict[Place, list[str]] = {}
    problems: dict[str, None] = {}
    for entry in entries:
        inside = f"{entry.path}/" if entry.what == manifest.ATTRIBUTES else entry.path  # a mirrored folder itself, too
        place = next((place for place in known if inside.startswith(place.path)), None)
        if place is None:
            problems[f"{shown(entry.path)}: in no mirrored path (any more); use --to DIR"] = None
            continue
        if entry.what == manifest.ATTRIBUTES:
            given.setdefault(place, []).append(entry.path)
            continue
        name = entry.path[len(place.path) :]
        try:
            names.setdefault(place, {}).update(dict.fromkeys([*_missing_above(place, name), name]))
            if _check_way(place.target + name, entry):
                replaces.setdefault(place, []).append(place.target + name)
        except Failed as error:
            problems[str(error)] = None
    if problems:
        raise Failed("; ".join(problems))
    return [
        Job(place, tuple(names.get(place, ())), tuple(replaces.get(place, ())), tuple(given.get(place, ())))
        for place in {**names, **given}
    ]


def put_back(found: Summary, jobs: list[Job]) -> tuple[Summary, Given]:
    """Do what is planned, from the set `found`.

    Returns:
        The backup set of what was replaced; its `entries` are 0, and it is gone, if nothing was. And what came of the
        jobs' `attributes`.

    Raises:
        Failed: rsync could not put back everything; what it replaced is in a backup set all the same.
        Busy: another process uses the set.
    """
    with backups.hold(found.set):
        kept = backups.create(found.service, model.hostname(), found.epoch, manifest.RESTORE)
        complete = False
        try:
            again = {path for job in jobs for path in job.attributes}
            if again:
                attributes.note(backups.folder(kept), sorted(again))
            for job in jobs:
                _copy(found.set, kept, job)
            given = attributes.give(backups.folder(found.set), again)
            complete = True
        finally:
            made = backups.finish(kept, complete=complete)
    count = sum(len(job.names) for job in jobs)
    text = f"{found.service}: {count} files and folders put back from {found.set}"
    text += f", and the attributes of {len(given.done)}" * bool(again)
    text += f"; what they replaced is in {made.set}" * bool(made.entries)
    if count or given.done:
        log.event("backup-restored", text, level="notice", service=found.service, set=found.set, kept=made.set)
    return made, given


def put_back_here(
    found: Summary, jobs: list[Job], service: Service, *, force: bool = False, wait: float = WAIT
) -> tuple[Summary, Given]:
    """The same as `put_back`, into the mirrored folders of `service`: no pass takes them half put back.

    So no hand-over moves the group meanwhile; a takeover may. `force`: this node need not be the holder. `wait`:
    seconds for a pass to end.

    Raises:
        Busy: a pass, a hand-over or a takeover does not end; nothing was put back.
        NotPermitted: this node is not the holder.
        Failed: another disk, or none, is mounted where the last pass found one; or not everything could be put back,
            or another node has taken the group meanwhile.
    """
    try:
        mirror = lock.wait_for(f"mirror-{service.name}", wait)
    except Busy as error:
        raise Busy(f"{service.name}: a pass does not end: nothing was put back ({error})") from None
    with mirror:
        # A hand-over that begins after this finds the lock above taken, before it has stopped anything.
        if lock.held(f"group-{service.home}"):
            raise Busy(f"{service.home} is being handed over or taken over: nothing was put back; try again then")
        epoch = None if force else check_holder(service)
        guards.check_mounts(service, passes.read(service.name))
        done = put_back(found, jobs)
        if epoch is not None:
            _check_stayed(service, epoch, done[0])
    return done


def contained(folder: str) -> list[str]:
    """What to put before a command so that it runs in `folder`, and follows no symlink below it.

    `folder` is not the root and has no symlink in its name, or the command is not run. That it is the folder holds for
    the command's working directory: `folder` may mean another one by the time that the command looks.
    """
    known = mounts.table()
    inside = f"{folder}/"
    touched = {f"./{mount.point[len(inside) :]}": mount.options for mount in mounts.below(inside, known)}
    touched["."] = mounts.holding(folder, known).options
    return [
        *("unshare", "--mount", "--propagation", "private", "sh", "-ec", _FOLLOW_NOTHING),
        *(folder, *(word for mount in sorted(touched.items()) for word in mount), "--"),
    ]


def _check_stayed(service: Service, epoch: int, made: Summary) -> None:
    """Whether this node has been the holder, with that epoch, all the time."""
    record = ownership.read(service.home)
    if record.held_by(model.hostname()) and record.epoch == epoch:
        return
    kept = f" (what it replaced is in {made.set})" if made.entries else ""
    raise Failed(
        f"the group {service.home} has moved meanwhile: what was put back is not where it is served, and the "
        f"next pass takes it away again{kept}; put it into a folder with --to DIR and copy it to the holder"
    )


def _copy(set_id: str, kept: str, job: Job) -> None:
    if not job.names:
        return
    source = os.path.realpath(backups.files_folder(set_id)) + job.place.path
    below = os.path.realpath(backups.files_folder(kept))
    manifest.copy_folder(job.place.target, below)
    argv = [
        *contained(job.place.target.rstrip("/")),
        *(*COPY, f"--backup-dir={below}{job.place.target}", "--", source, "."),
    ]
    names = b"".join(b"./" + os.fsencode(name) + b"\0" for name in job.names)
    run.check(argv, stdin=names, timeout=LIMIT)


def _place(path: str, folder: str) -> Place:
    return Place(path, os.path.realpath(folder).rstrip("/") + "/")


def _missing_above(place: Place, name: str) -> list[str]:
    """The folders above `name` that are not there, the topmost first.

    Raises:
        Failed: one of those that are there is no folder, but a symlink, say.
    """
    missing = []
    parts = name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        inside = "/".join(parts[:count])
        about = _lstat(place.target + inside)
        if about is None:
            missing.append(inside)
        elif not stat.S_ISDIR(about.st_mode):
            raise Failed(f"{shown(place.target + inside)}: is a {_kind(about)} now, not a folder; move it away first")
    return missing


def _check_way(path: str, entry: Entry) -> bool:
    """Whether there is something at `path` that `entry` takes the place of.

    Raises:
        Failed: one of the two is a folder, the other is not.
    """
    about = _lstat(path)
    if about is None:
        return False
    if stat.S_ISDIR(about.st_mode) != (entry.kind == FOLDER):
        raise Failed(f"{shown(path)}: is a {_kind(about)} now, and was a {entry.kind}; move it away first")
    return entry.kind != FOLDER


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except FileNotFoundError:
        return None


def _kind(about: os.stat_result) -> str:
    return manifest.KINDS[stat.S_IFMT(about.st_mode)]
