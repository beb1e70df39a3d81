"""What the files of a service are like before a pass changes them: the list by which a cut pass is rolled back.

The receiver of a service with ``consistent = yes`` makes it when the first change is due, so an unchanged pass pays
nothing for it. It has every path with all that rsync changes in place (owner, mode, times, ACLs, links); old contents
are in the backup sets. It stays until a pass is complete, over any number of passes that are cut.
"""

import json
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

from clusterd import beneath, paths, rsync, run, state
from clusterd.beneath import Attributes, Opened
from clusterd.errors import Failed
from clusterd.model import Service

SEARCH = 3600.0
"""Seconds that rsync may take to say what is excluded."""

_CAPABILITY = "security.capability"

MIRRORED = ("paths", "include", "exclude")
"""What of a service's configuration says what is in the list."""


class Was(NamedTuple):
    """One path of the list."""

    path: str
    """Absolute, without a slash at its end."""
    mode: int
    """As in stat_result: type and permissions."""
    uid: int
    gid: int
    size: int
    mtime: int
    """Nanoseconds."""
    device: int
    inode: int
    links: int
    number: int
    """Of a device node."""
    target: str
    """Of a symlink."""
    xattrs: dict[str, str]
    """Bytes as Latin-1."""

    @property
    def kind(self) -> int:
        """As stat.S_IFMT gives it."""
        return stat.S_IFMT(self.mode)

    @property
    def attributes(self) -> Attributes:
        """All but content and name."""
        xattrs = {name: value.encode("latin-1") for name, value in self.xattrs.items()}
        return Attributes(self.mode, self.uid, self.gid, self.mtime, xattrs)

    @property
    def privileged(self) -> bool:
        """Whether who runs the file gets rights by that: of its owner or group, or capabilities."""
        special = self.mode & (stat.S_ISUID | stat.S_ISGID) or _CAPABILITY in self.xattrs
        return self.kind == stat.S_IFREG and bool(special)

    def plainly(self) -> Attributes:
        """Its attributes without such rights."""
        wanted = self.attributes
        xattrs = {name: value for name, value in wanted.xattrs.items() if name != _CAPABILITY}
        return wanted._replace(mode=wanted.mode & ~(stat.S_ISUID | stat.S_ISGID), xattrs=xattrs)


def make(service: Service) -> str:
    """Write the list, durably; returns its id."""
    made = os.urandom(8).hex()
    path = _path(service.name)
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
        said = {field: getattr(service, field) for field in MIRRORED}
        file.write(json.dumps({"service": service.name, "id": made, **said}) + "\n")
        for was in look(service):
            file.write(json.dumps(was) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.tmp", path)
    state.sync_folder(os.path.dirname(path))
    return made


def read(service: Service, listing: str) -> tuple[Service, dict[str, Was]]:
    """The list with that id, by path, and the service with the paths and filters by which it was made.

    Raises:
        Failed: it is not there, or damaged.
    """
    path = _path(service.name)
    try:
        with open(path, encoding="ascii") as file:
            head = json.loads(file.readline())
            found = head["id"]
            # An older version of the program did not write them down.
            said: dict[str, Any] = {field: tuple(head[field]) for field in MIRRORED if field in head}
            known = {fields[0]: Was(*fields) for fields in map(json.loads, file)}
    except FileNotFoundError:
        raise Failed(f"{path}: the list of what was there before the pass is gone") from None
    except (ValueError, TypeError, KeyError) as error:
        raise Failed(f"{path}: damaged: {error}") from None
    if found != listing:
        raise Failed(f"{path}: is of another pass")
    return service._replace(**said), known


def drop(service: str) -> None:
    """A pass is complete: the list is of no use any more."""
    try:
        os.unlink(_path(service))
    except FileNotFoundError:
        pass


def look(service: Service) -> Iterator[Was]:
    """What is in the mirrored paths now, as far as a pass can change it."""
    with Opened() as opened:
        for path, about in walk(service, opened):
            yield _was(opened, path, about)


def walk(service: Service, opened: Opened) -> Iterator[tuple[str, os.stat_result]]:
    """Every path that a pass can change, a folder before what is in it; no symlink is followed."""
    if service.exclude:
        for path in included(service):
            about = opened.lstat(path)
            if about:
                yield path, about
        return
    for top in service.paths:
        never = f"{top}lost+found"  # see rsync.filters
        for path, about in opened.walk(top):
            lost = path == never and stat.S_ISDIR(about.st_mode)
            if not lost and not path.startswith(f"{never}/"):
                yield path, about


def covers(service: Service, path: str) -> bool:
    """Whether `path` is below the service's paths, or is one of them; filters are not asked."""
    return any(path == top.rstrip("/") or (top.endswith("/") and path.startswith(top)) for top in service.paths)


def included(service: Service) -> list[str]:
    """The paths that no pattern of the service excludes: only rsync itself can tell.

    Raises:
        Failed: it cannot.
    """
    import tempfile

    there = [path for path in service.paths if os.path.lexists(path.rstrip("/"))]
    if not there:
        return []
    with tempfile.TemporaryDirectory(prefix="clusterd-") as nowhere:
        filters = [f"--filter={rule}" for rule in rsync.filters(service)]
        argv = ["rsync", "-a", "--dry-run", "--relative", "--no-implied-dirs", "--no-inc-recursive"]
        argv += ["--out-format=clusterd %i %n", *filters, "--", *there, f"{nowhere}/"]
        result = run.run(argv, timeout=SEARCH, changes=False, env={"LC_ALL": "C", "LANG": "C"})
    if result.code not in (0, rsync.VANISHED):
        raise Failed(f"{service.name}: {result.why()}")
    found = rsync.parse(os.fsencode(result.stdout)).items
    tops = tuple(path.rstrip("/") for path in service.paths)
    return sorted(item.path for item in found if item.path.startswith(tops))


def of(opened: Opened, path: str) -> Was | None:
    """What one path is now; None if there is nothing."""
    about = opened.lstat(path)
    try:
        return about and _was(opened, path, about)
    except FileNotFoundError:
        return None


def _was(opened: Opened, path: str, about: os.stat_result) -> Was:
    fd, name = opened.above(path)
    target = ""
    if stat.S_ISLNK(about.st_mode):
        target = os.readlink(name, dir_fd=fd)
    found: dict[str, Any] = {}
    try:
        found = beneath.read_xattrs(f"/proc/self/fd/{fd}/{name}", follow=False)
    except FileNotFoundError:
        pass
    return Was(
        path,
        about.st_mode,
        about.st_uid,
        about.st_gid,
        about.st_size,
        about.st_mtime_ns,
        about.st_dev,
        about.st_ino,
        about.st_nlink,
        about.st_rdev,
        target,
        {name: value.decode("latin-1") for name, value in found.items()},
    )


def _path(service: str) -> str:
    return f"{paths.GENERATIONS}/{service}.jsonl"
