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


def walk_since(service: Service, since: float | None) -> Iterator[Found]:
    """The same, and whether it was changed, or came here, at that time or later (wall clock; None: nothing did).

    What is in a folder that was moved here has kept all its own times.
    """
    pending = []
    for path in service.paths:
        if path.endswith("/"):
            pending.append((path.rstrip("/"), False))
        elif os.path.lexists(path):
            about = os.lstat(path)
            yield path, about, _changed(about, since)
    while pending:
        folder, moved = pending.pop()
        try:
            with os.scandir(folder) as found:
                inside = list(found)
        except (FileNotFoundError, NotADirectoryError):
            continue
        if not inside:
            with contextlib.suppress(FileNotFoundError):
                about = os.lstat(folder)
                yield folder, about, moved or _changed(about, since)
        for each in inside:
            if each.is_dir(follow_symlinks=False):
                pending.append((each.path, moved or _moved(each, since)))
                continue
            with contextlib.suppress(FileNotFoundError):
                about = each.stat(follow_symlinks=False)
                yield each.path, about, moved or _changed(about, since)


def _changed(about: os.stat_result, since: float | None) -> bool:
    return since is not None and about.st_ctime >= since


def _moved(folder: "os.DirEntry[str]", since: float | None) -> bool:
    """Whether a folder may have been moved here: its change time is new, and its modification time is not the same, as
    it is where something was made in it. So it is where its owner or mode was changed: better once too often.
    """
    if since is None:
        return False
    try:
        about = folder.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    return _changed(about, since) and about.st_ctime_ns > about.st_mtime_ns
