"""What rsync leaves in the tree of the receiver when a pass is cut: half a file, and whole ones that wait for the rest.

No file under its own name is ever half written. What has a temporary name and can be nothing else, or waits in
clusterd's folder of delayed updates, is removed; what may be a user's goes to the backup set.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Sequence

from clusterd import backups, generation, log, manifest, paths, rsync, run, state
from clusterd.beneath import Opened, copy
from clusterd.errors import Failed
from clusterd.model import Service
from clusterd.passes import Unfinished
from clusterd.treewalk import walk

_LAG = 0.01
"""Seconds by which file times lag behind the clock, which are those of the kernel's last tick."""
_KNOWN = 200
"""Bytes of a name that tell which one it is: rsync cuts the temporary one to what a file system takes."""


def tidy(service: Service, cut: Unfinished) -> None:
    """Remove what rsync has left of a cut pass: every other file is whole, the old one or the new one.

    A file that is called like a temporary one, and came while the pass ran, is rsync's own if it is root's alone and
    is called after one that was sent; else it may be a user's, and goes to the pass's backup set. What is excluded
    stays where it is.
    """
    sent = _sent(cut.set)
    delayed, doubtful = _look(service, cut)
    own = {path for path, about in doubtful.items() if sent and _is_private(about) and _stem(path) in sent}
    into = {folder for folder, _ in sent or ()}
    with Opened() as opened:
        mirrored: set[str] = set()
        if doubtful.keys() - own or delayed - into:
            try:
                mirrored = {path for path, _ in generation.walk(service, opened)}
            except Failed as error:
                log.debug(str(error))
        for folder in delayed & (into | mirrored):
            with contextlib.suppress(OSError):
                shutil.rmtree(paths.PARTIAL, dir_fd=opened.folder(folder))
        for path in own:
            with contextlib.suppress(OSError):
                fd, name = opened.above(path)
                os.unlink(name, dir_fd=fd)
        if cut.set and not backups.ended(cut.set):
            for path in (doubtful.keys() - own) & mirrored:
                with contextlib.suppress(OSError):
                    _keep(opened, path, os.path.realpath(backups.files_folder(cut.set)))


def _look(service: Service, cut: Unfinished) -> tuple[set[str], dict[str, os.stat_result]]:
    """The folders with delayed updates in them, and what is called like a temporary file and came with the pass."""
    # After a setback of the clock something may stay, until a pass is complete; what a user made before never goes.
    since = cut.began - _LAG
    delayed, found = set(), {}
    for path, about in walk(service):
        parts = path.split("/")
        if paths.PARTIAL in parts:
            delayed.add("/".join(parts[: parts.index(paths.PARTIAL)]))
        elif rsync.TEMPORARY.match(parts[-1]) and stat.S_ISREG(about.st_mode) and about.st_ctime >= since:
            found[path] = about
    # A user's file may be called like that: one that was sent under this name, or was here before.
    for path in cut.named:
        found.pop(path, None)
    born = dict(zip(found, births(list(found)), strict=True))
    # Where the file system does not know: rsync gives an old time to what is whole only.
    return delayed, {
        path: about
        for path, about in found.items()
        if born[path] >= since or (born[path] == 0 and about.st_mtime >= since and about.st_nlink == 1)
    }


def _is_private(about: os.stat_result) -> bool:
    """Whether a file has what rsync gives to one that is not whole yet."""
    return about.st_uid == 0 and not about.st_mode & 0o077


def _stem(path: str) -> tuple[str, bytes]:
    """The folder, and after whom a temporary file is called; its own first dot is not doubled."""
    folder, name = os.path.split(path)
    return folder, os.fsencode(name[1:-7])[:_KNOWN]


def _keep(opened: Opened, path: str, files: str) -> None:
    """Move a file into the set, unless there is one of that name."""
    if os.path.lexists(files + path):
        return
    manifest.copy_folder(os.path.dirname(path), files)
    fd, name = opened.above(path)
    with Opened() as store:
        into, _ = store.above(files + path)
        try:
            os.rename(name, name, src_dir_fd=fd, dst_dir_fd=into)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            try:
                copy(fd, name, into, name)
            except OSError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=into)
                raise
            os.unlink(name, dir_fd=fd)


def note_sent(set_id: str, sent: Sequence[str] | None) -> None:
    """Write down, durably and before it comes, what a pass will send; None: it is not known."""
    if sent is not None:
        state.write(_note(set_id), {"sent": sent})


def forget_sent(set_id: str) -> None:
    """The pass is over and tidied up."""
    if set_id and os.path.isdir(backups.folder(set_id)):
        state.remove(_note(set_id))


def _sent(set_id: str) -> set[tuple[str, bytes]] | None:
    """What was to be sent: in which folder, and after which name a temporary file of it is called."""
    try:
        noted = state.read(_note(set_id)) if set_id else None
    except Failed as error:
        log.debug(str(error))
        return None
    if noted is None:
        return None
    split = map(os.path.split, noted["sent"])
    return {(folder, os.fsencode(name.removeprefix("."))[:_KNOWN]) for folder, name in split}


def _note(set_id: str) -> str:
    return f"{backups.folder(set_id)}/sent.json"


def births(found: Sequence[str]) -> list[float]:
    """When each of these files was made, by the file system (where it keeps that); 0: not known."""
    made: list[float] = []
    for start in range(0, len(found), 500):
        part = found[start : start + 500]
        known = run.run(("stat", "--printf=%.W\\n", "--", *part), timeout=60, changes=False).stdout.split()
        made += map(float, known) if len(known) == len(part) else [0.0] * len(part)
    return made
