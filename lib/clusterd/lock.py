"""Locks on files, by flock(2): they end with the process that holds them, however it ends."""

import fcntl
import os
import time

from clusterd import paths, state
from clusterd.errors import Busy

GLANCE = 0.02
"""Seconds for which a lock is asked for before it counts as taken: whoever only looks (`held`) has it for a moment."""


class Lock:
    """An exclusive lock named `name`, in /run/clusterd/locks, for use in a ``with`` statement.

    The file holds the pid of the holder, for people; the lock itself is the kernel's.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = f"{paths.LOCKS}/{name}"
        self.fd: int | None = None

    def acquire(self) -> "Lock":
        """Take the lock now.

        Raises:
            Busy: somebody else holds it.
        """
        state.make_folder(paths.LOCKS)
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not _taken(fd):
            holder = os.read(fd, 32).decode("ascii", "replace").strip()
            os.close(fd)
            raise Busy(f"{self.name}: busy, process {holder or '?'} is at it ({self.path})")
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self.fd = fd
        return self

    def release(self) -> None:
        """Let go; harmless if it is not held."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def __enter__(self) -> "Lock":
        return self if self.fd is not None else self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _taken(fd: int) -> bool:
    end_at = time.monotonic() + GLANCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= end_at:
                return False
        time.sleep(0.001)


def wait_for(name: str, seconds: float) -> Lock:
    """The lock `name`, waited for.

    Raises:
        Busy: somebody held it all the time.
    """
    end_at = time.monotonic() + seconds
    while True:
        try:
            return Lock(name).acquire()
        except Busy:
            if time.monotonic() >= end_at:
                raise
        time.sleep(0.02)


def held(name: str) -> bool:
    """Whether some process holds the lock `name` now; looking does not disturb the holder."""
    try:
        fd = os.open(f"{paths.LOCKS}/{name}", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def holder(name: str) -> int | None:
    """The process that holds the lock `name` now; None if none does."""
    if not held(name):
        return None
    try:
        with open(f"{paths.LOCKS}/{name}", encoding="ascii") as file:
            return int(file.read())
    except (OSError, ValueError):
        return None
