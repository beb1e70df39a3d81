"""Facts on disk that survive a crash at any instant: JSON, written temp, fsync, rename, fsync of the folder."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from clusterd import paths
from clusterd.errors import Failed


def read(path: str) -> Any:
    """The fact at `path`, or None if there is none.

    Raises:
        Failed: the file cannot be read or is no JSON. It is never taken for "nothing there".
    """
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Failed(f"{path}: cannot be read: {error}; look at it, then remove it") from None


def write(path: str, fact: Any, *, durable: bool = True, mode: int = 0o600) -> None:
    """Replace the fact at `path` in one step; `durable` waits until it is on the disk (not needed below /run)."""
    write_text(path, json.dumps(fact, indent=1, sort_keys=True) + "\n", durable=durable, mode=mode)


def write_text(path: str, text: str, *, durable: bool = True, mode: int = 0o600) -> None:
    """Replace the text file at `path` in one step: a reader sees the old one or the new one, whole."""
    folder = os.path.dirname(path)
    make_folder(folder)
    temporary = f"{path}.{os.getpid()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with _naming(path), open(fd, "w", encoding="utf-8", errors="surrogateescape") as file:
            os.fchmod(fd, mode)
            file.write(text)
            file.flush()
            if durable:
                os.fsync(fd)
        os.rename(temporary, path)
    except BaseException:
        _unlink(temporary)
        raise
    if durable:
        sync_folder(folder)


def make_folder(path: str) -> None:
    """Have the folder `path`, for root alone if it is new; and those above it, which only root may change, whatever the
    umask is.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    if not os.path.isdir(above):
        make_folder(above)
        os.chmod(above, 0o755)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise


def remove(path: str) -> None:
    """Remove the fact at `path`, durably; harmless if there is none."""
    if _unlink(path):
        sync_folder(os.path.dirname(path))


def sync_folder(folder: str) -> None:
    """Wait until the names in `folder` are on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _naming(folder):
            os.fsync(fd)
    finally:
        os.close(fd)


def boot_id() -> str:
    """The kernel's name for this boot of this machine: facts about what runs are void under another one."""
    with open(paths.BOOT_ID, encoding="ascii") as file:
        return file.read().strip()


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """An error of what has an open file only, and does not know its name, names `path`: a person can look there."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or path
        raise


def _unlink(path: str) -> bool:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
