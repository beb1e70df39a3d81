"""What there is in the mirrored paths of a service that a pass could delete, and what of it is new."""

import contextlib
import os
from collections.abc import Iterator

from clusterd.model import Service

Found = tuple[str, os.stat_result, bool]
"""Path, what it is, whether it is new."""


def walk(service: Service) -> Iterator[tuple[str, os.stat_result]]:
    """Files of any kind, and empty folders."""
    for path, about, _ in walk_since(service, None):
        yield path, about


def walk_since(service: Service, since: float | None, folders: list[str] | None = None) -> Iterator[Found]:
    """The same, and whether it was changed, or came here, at that time or later (wall clock; None: nothing did).

    What is in a folder that was moved here has kept all its own times. To `folders` those are added that were changed,
    if only by what was made in them.
    """
    changed: list[str] = [] if folders is None else folders
    pending = []
    for path in service.paths:
        if os.path.lexists(path):
            about = os.lstat(path.rstrip("/"))
            if not path.endswith("/"):
                yield path, about, _changed(about, since)
                continue
            pending.append((path.rstrip("/"), False))
            changed += [path.rstrip("/")] if _changed(about, since) else []
    while pending:
        folder, moved = pending.pop()
        inside = _inside(folder)
        if not inside and inside is not None:
            with contextlib.suppress(FileNotFoundError):
                about = os.lstat(folder)
                yield folder, about, moved or _changed(about, since)
        for each in inside or ():
            with contextlib.suppress(FileNotFoundError):
                about = each.stat(follow_symlinks=False)
                if not each.is_dir(follow_symlinks=False):
                    yield each.path, about, moved or _changed(about, since)
                    continue
                pending.append((each.path, moved or _moved(about, since)))
                changed += [each.path] if _changed(about, since) else []


def came_with(path: str, changed: set[str]) -> bool:
    """Whether `path` may have come with a folder that was moved here, in which something was made since: by both its
    times it is then like any other one. `changed`: the folders that `walk_since` has found changed.

    The folder that it has come into is among these, too. Most of what is so has always been there.
    """
    above = os.path.dirname(path)
    while len(above) > 1:
        folder, above = above, os.path.dirname(above)
        if folder in changed and above in changed:
            return True
    return False


def _inside(folder: str) -> "list[os.DirEntry[str]] | None":
    """What is in it; None if it is gone, or is no folder (any more)."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _changed(about: os.stat_result, since: float | None) -> bool:
    return since is not None and about.st_ctime >= since


def _moved(about: os.stat_result, since: float | None) -> bool:
    """Whether a folder may have been moved here: its change time is new, and its modification time is not the same, as
    it is where something was made in it. So it is where its owner or mode was changed: better once too often.
    """
    return _changed(about, since) and about.st_ctime_ns > about.st_mtime_ns
