"""The sentinel: the file in every mirrored folder that says of which service it is. Users may write in that folder.

So what bears its name may be anything: a symlink, a fifo that nobody writes to, a file without end. It is read and
written relative to the folder, which is opened without following any symlink, and under no name that can be guessed.
"""

import contextlib
import json
import os
import stat
import time
from typing import NamedTuple

from clusterd import paths
from clusterd.beneath import ITSELF, Opened
from clusterd.errors import Failed
from clusterd.model import Service

_MOST = 1 << 16
"""Bytes of a sentinel, at most: it has one path in it."""
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Sentinel(NamedTuple):
    """What the file says that lies in every mirrored folder."""

    service: str
    path: str
    created: float
    id: str


def read_sentinel(service: Service, path: str) -> Sentinel | None:
    """The sentinel in the folder `path`, or None if there is none.

    Raises:
        Failed: it is unreadable, or no plain file, or that of another service or folder.
    """
    file = f"{path}{paths.SENTINEL}"
    content = _content(path)
    if content is None:
        return None
    try:
        found = Sentinel(**json.loads(content.decode()))
        if not all(isinstance(text, str) for text in (found.service, found.path, found.id)):
            raise TypeError
    except (ValueError, RecursionError) as error:
        raise Failed(f"{file}: cannot be read: {error}; look at it, then remove it") from None
    except TypeError:
        raise Failed(f"{file}: not a sentinel; look at it, then remove it") from None
    if (found.service, found.path) != (service.name, path):
        raise Failed(
            f"{service.name}: {path}: holds the sentinel of {found.service} {found.path}: is this the right disk?"
        )
    return found


def make_sentinel(service: Service, path: str) -> Sentinel:
    """Put the sentinel into the folder `path`, durably.

    Raises:
        Failed: it cannot be done.
    """
    made = Sentinel(service.name, path, time.time(), os.urandom(8).hex())
    text = json.dumps(made._asdict(), indent=1, sort_keys=True) + "\n"
    try:
        with Opened() as opened:
            _replace(opened.folder(path), text.encode("ascii"))
    except OSError as error:
        raise Failed(f"{path}{paths.SENTINEL}: cannot be written: {error.strerror}") from None
    return made


def _content(path: str) -> bytes | None:
    """What is in the sentinel of the folder; None if there is none. It is opened only once it is known what it is."""
    file = f"{path}{paths.SENTINEL}"
    try:
        with Opened() as opened:
            folder = opened.folder(path)
            try:
                itself = os.open(paths.SENTINEL, ITSELF, dir_fd=folder)
            except FileNotFoundError:
                return None
            try:
                about = os.fstat(itself)
                if not stat.S_ISREG(about.st_mode) or about.st_size > _MOST:
                    raise Failed(f"{file}: no plain file of at most {_MOST >> 10} KiB; look at it, then remove it")
                with open(os.open(f"/proc/self/fd/{itself}", _READ), "rb", buffering=0) as opened_file:
                    return opened_file.read(_MOST)
            finally:
                os.close(itself)
    except OSError as error:
        raise Failed(f"{file}: cannot be read: {error.strerror}; look at it, then remove it") from None


def _replace(folder: int, content: bytes) -> None:
    """Replace the sentinel in an open folder in one step, durably."""
    temporary = f"{paths.SENTINEL}.{os.urandom(8).hex()}.tmp"
    fd = os.open(temporary, _NEW, 0o600, dir_fd=folder)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o644)
            file.write(content)
            file.flush()
            os.fsync(fd)
        os.rename(temporary, paths.SENTINEL, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=folder)
        raise
    os.fsync(folder)
