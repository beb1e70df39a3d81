"""What counts as complete is on the disk first: at the receiver, after a roll back, and at the sender as well.

What was sent came from the page cache. After a power cut a file that a program overwrites in place may have its new
time and size and its old content, and would be taken for the one that the peer has. And a page that a program has
mapped, and that the disk has not got yet, takes further stores without any new time: so what is going to be sent is
written before it is read as well.
"""

import os
from collections.abc import Iterable, Sequence

from clusterd import guards, run
from clusterd.errors import Failed

_FEW = 500
"""So many files are written to the disk one by one; of more than that, all that their file systems have to write."""
_SYNC = 3600
"""Seconds that this may take."""
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def settle(sent: Sequence[str], paths: Iterable[str]) -> None:
    """Wait until the files `sent`, all of them below `paths`, are on the disk; what is gone by now is passed over.

    Raises:
        Failed: the disk does not take them.
    """
    try:
        if len(sent) <= _FEW:
            for path in sent:
                _fsync(path)
            return
    except OSError as error:
        raise Failed(f"{error.filename or 'sync'}: {error.strerror}: what is sent may not be on this disk") from None
    sync(paths)


def sync(paths: Iterable[str]) -> None:
    """Wait until the file systems of all these paths, or of the folders above them, have written what they have to.

    Raises:
        Failed: one does not take it.
    """
    found = [guards.existing(path) for path in paths]
    for path in {os.stat(path).st_dev: path for path in found}.values():
        run.check(("sync", "-f", path), timeout=_SYNC)


def _fsync(path: str) -> None:
    try:
        fd = os.open(path, _OPEN)
    except OSError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
