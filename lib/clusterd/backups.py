"""Backup sets: what one pass replaced or deleted at the receiver, kept until a person has looked at it.

A set is a folder below paths.BACKUPS::

    20260314T021500.123Z-smbd-3f9a/
        manifest.json    who, when, how it ended, the counts, the confirmation: small, a thousand list in a moment
        entries.jsonl    one line an entry, written when the pass has ended
        files/           the old files, below their absolute path, put there by rsync's --backup-dir

The state in the manifest goes from OPEN to COMPLETE or CUT. A set that is still OPEN although nobody holds its lock
was left behind by a crash: it counts as cut, and `recover` finishes it. Nothing deletes a set that no person has
confirmed (see retention.py).
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterable, Iterator

from clusterd import apart, manifest, model, paths, run, state
from clusterd.errors import Busy, Failed, Usage
from clusterd.manifest import COMPLETE, CUT, DAMAGED, OPEN, PASS, Summary
from clusterd.manifest import Change as Change

_ID = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{3}Z-[A-Za-z0-9_.@+-]+-[0-9a-f]{4}\Z")
_DOOMED = ".deleting-"
_AT_ONCE = 1000
"""Sets that one rm deletes: the kernel takes 2 MB of arguments, and a month of passes every minute is 43,000 sets."""
_LAST_MOMENT = 2.0
"""Seconds for which a set is waited for whose pass is over: its process may not be gone yet, or somebody just looks."""
_held: dict[str, int] = {}
"""The locks of the sets that this process is filling."""


def create(service: str, sender: str, epoch: int, why: str = PASS) -> str:
    """Begin a set, durably, and hold its lock until `finish` or the end of this process.

    Returns:
        The set's id: sortable by time, safe as a file name and as an argument.
    """
    now = time.time()
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z"
    set_id = f"{stamp}-{service}-{os.urandom(2).hex()}"
    state.make_folder(paths.BACKUPS)
    os.mkdir(folder(set_id), 0o700)
    _held[set_id] = _lock(set_id)
    os.mkdir(files_folder(set_id), 0o755)
    save(Summary(set_id, service, sender, model.hostname(), epoch, now, why=why))
    state.sync_folder(paths.BACKUPS)
    return set_id


def reopen(set_id: str) -> None:
    """Go on with a set, to put more into it or to take something out: `finish` ends it again.

    Raises:
        Failed: there is none.
        Busy: another process is at it.
    """
    _held[set_id] = _lock(set_id, _LAST_MOMENT)


def let_go(set_id: str) -> None:
    """Leave a set that was not finished to whoever comes next; harmless if it was."""
    fd = _held.pop(set_id, None)
    if fd is not None:
        os.close(fd)


def folder(set_id: str) -> str:
    """The folder of the set.

    Raises:
        Usage: that is not the id of a set; nothing outside paths.BACKUPS is ever named by one.
    """
    if not _ID.match(set_id):
        raise Usage(f"{set_id}: not a backup set's id; purge_backups lists them")
    return f"{paths.BACKUPS}/{set_id}"


def files_folder(set_id: str) -> str:
    """Where the old files go, each below its absolute path: the argument of rsync's --backup-dir."""
    return f"{folder(set_id)}/files"


def keep_folders(set_id: str, folders: Iterable[str]) -> None:
    """Keep `folders` of this node, which a pass is about to delete: themselves, not what they contain.

    rsync backs up what is in a deleted folder, and with it the folder, but not an empty one. One that is no folder
    (any more) is passed over.
    """
    for name in folders:
        if os.path.isdir(name) and not os.path.islink(name.rstrip("/")):
            manifest.copy_folder(name, files_folder(set_id))


def note(set_id: str, *, unmirrored: Iterable[str] = (), both: Iterable[str] = ()) -> None:
    """Write down, durably and before the pass replaces anything, what only this node has and what both changed.

    `finish` and, after a crash, `recover` mark the entries accordingly.

    Args:
        set_id: the set that this process is filling.
        unmirrored: paths written here that no other node has.
        both: paths changed on both nodes.
    """
    state.write(f"{folder(set_id)}/noted.json", {"unmirrored": list(unmirrored), "both": list(both)})


def finish(
    set_id: str,
    *,
    complete: bool,
    entries_hint: Iterable[Change] = (),
    unmirrored: Iterable[str] = (),
    both: Iterable[str] = (),
) -> Summary:
    """End a set: write down everything that is in it. A set with nothing in it is removed (its `entries` are 0).

    Args:
        set_id: what `create` returned, in this or any other process.
        complete: whether the pass went through; otherwise the set is CUT.
        entries_hint: what the pass said about the paths; without it, what is gone from the tree was deleted.
        unmirrored: as for `note`, added to what was noted.
        both: likewise.

    Raises:
        Busy: another process is filling it.
    """
    fd = _held.pop(set_id, None)
    if fd is None:
        fd = _lock(set_id, _LAST_MOMENT)
    try:
        apart.own_files(files_folder(set_id))
        run.check(("sync", "-f", files_folder(set_id)), timeout=600)
        found = manifest.walk(files_folder(set_id), _known(set_id, dict(entries_hint), unmirrored, both))
        made = manifest.count(load(set_id), manifest.write(f"{folder(set_id)}/entries.jsonl", found))
        # What is put into a set that was confirmed already, nobody has seen.
        made = made._replace(state=COMPLETE if complete else CUT, finished=time.time(), confirmed=None, confirmed_by="")
        if made.entries:
            save(made)
        else:
            _delete([withdraw(set_id)])
        return made
    except OSError:
        with contextlib.suppress(OSError):  # half a list: others may need the room
            os.unlink(f"{folder(set_id)}/entries.jsonl.tmp")
        raise
    finally:
        os.close(fd)


def recover(set_id: str) -> Summary:
    """Finish a set that a crash left open, as CUT; a finished one is returned as it is.

    Raises:
        Busy: not now, it stays open: its pass is running, or the disk does not take the list of what is in it.
    """
    found = load(set_id)
    try:
        return finish(set_id, complete=False) if found.state == OPEN else found
    except OSError as error:
        raise Busy(f"{folder(set_id)}/entries.jsonl: {error}: the set stays open, a later purge closes it") from None


def withdraw(set_id: str) -> str:
    """Take a set out of every list in one step, by renaming its folder; `sweep` deletes what is in it.

    Returns:
        The folder as it is called now.
    """
    doomed = f"{paths.BACKUPS}/{_DOOMED}{set_id}"
    os.rename(folder(set_id), doomed)
    return doomed


def sweep() -> None:
    """Delete what has been withdrawn, by this process or by one that was interrupted.

    Raises:
        Failed: something could not be deleted; the next `sweep` tries again.
    """
    _delete([f"{paths.BACKUPS}/{name}" for name in _names() if name.startswith(_DOOMED)])


def load(set_id: str) -> Summary:
    """The manifest of a set.

    Raises:
        Failed: there is no such set, or its manifest is damaged.
    """
    fact = state.read(f"{folder(set_id)}/manifest.json")
    if fact is None:
        raise Failed(f"{set_id}: there is no such backup set here; purge_backups lists them")
    try:
        return Summary(**fact)
    except TypeError:
        raise Failed(f"{folder(set_id)}/manifest.json: not a backup set's manifest; its files are in files/") from None


def save(made: Summary) -> None:
    """Replace the manifest of a set, durably."""
    state.write(f"{folder(made.set)}/manifest.json", made._asdict())


def every() -> list[Summary]:
    """All sets of this node, the oldest first; one whose manifest cannot be read is among them, as DAMAGED.

    A folder without a manifest is not a set: a crash came before any pass could use it.
    """
    names = sorted(name for name in _names() if _ID.match(name))
    return [_load_any(name) for name in names if os.path.lexists(f"{folder(name)}/manifest.json")]


def find(prefix: str, known: list[Summary] | None = None) -> Summary:
    """The one set (of `known`, or all) whose id begins with `prefix`.

    Raises:
        Usage: none does, or several do.
    """
    found = [one for one in (every() if known is None else known) if one.set.startswith(prefix)]
    if len(found) != 1:
        how = f"{len(found)} backup sets begin" if found else "no backup set begins"
        raise Usage(f"{how} with '{prefix}'; purge_backups lists them")
    return found[0]


def entries(set_id: str) -> Iterator[manifest.Entry]:
    """What is in a set; of one that was never finished, what is there now.

    Raises:
        Failed: its list is damaged.
    """
    path = f"{folder(set_id)}/entries.jsonl"
    if os.path.lexists(path):
        return manifest.read(path)
    with contextlib.suppress(Failed):
        return manifest.walk(files_folder(set_id), _known(set_id, {}))
    return manifest.walk(files_folder(set_id), manifest.Known({}))


def _known(set_id: str, what: dict[str, str], only: Iterable[str] = (), both: Iterable[str] = ()) -> manifest.Known:
    """What was noted, and what is known beside."""
    noted = state.read(f"{folder(set_id)}/noted.json") or {}
    only, both = (*only, *noted.get("unmirrored", ())), (*both, *noted.get("both", ()))
    return manifest.Known(what, frozenset(only), frozenset(both), bool(noted))


def ended(set_id: str) -> bool:
    """Whether the set was finished, or is gone."""
    try:
        return load(set_id).state != OPEN
    except Failed:
        return True


def running(set_id: str) -> bool:
    """Whether some process is filling, restoring or deleting the set now."""
    try:
        os.close(_lock(set_id))
    except Busy:
        return True
    return False


@contextlib.contextmanager
def hold(set_id: str) -> Iterator[None]:
    """Keep every other process off the set for a while.

    Raises:
        Busy: another one is at it.
    """
    fd = _lock(set_id)
    try:
        yield
    finally:
        os.close(fd)


def _lock(set_id: str, wait: float = 0.0) -> int:
    """A lock on the set's folder itself: it needs no file of its own and goes with the set."""
    end_at = time.monotonic() + wait
    try:
        fd = os.open(folder(set_id), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise Failed(f"{set_id}: there is no such backup set here; purge_backups lists them") from None
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except OSError:
            if time.monotonic() >= end_at:
                os.close(fd)
                raise Busy(f"{set_id}: busy, a pass, a restore or a purge is at it") from None
        time.sleep(0.02)


def _names() -> list[str]:
    try:
        return os.listdir(paths.BACKUPS)
    except FileNotFoundError:
        return []


def _load_any(set_id: str) -> Summary:
    try:
        return load(set_id)
    except Failed:
        return Summary(set_id, "?", "?", model.hostname(), 0, os.lstat(folder(set_id)).st_mtime, DAMAGED)


def _delete(doomed: list[str]) -> None:
    """rm follows no symlink, knows no limit of depth, and is as fast as find -delete."""
    if doomed:
        state.sync_folder(paths.BACKUPS)
    for first in range(0, len(doomed), _AT_ONCE):
        batch = doomed[first : first + _AT_ONCE]
        run.check(("rm", "-rf", "--one-file-system", "--", *batch), timeout=6 * 3600)
