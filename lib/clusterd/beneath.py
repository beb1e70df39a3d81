"""Files by their absolute path, whatever symlinks users have put on the way: no folder is entered through one.

Any user may swap a folder of a mirrored tree for a symlink at any moment. So each folder on the way is opened by
itself, and what is done in it is done relative to that open folder (openat(2) and its kind, O_NOFOLLOW).
"""

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
ITSELF = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Opens whatever it is, a symlink too, without any effect on it."""
_CHUNK = 1 << 20
_ACCESS_ACL = "system.posix_acl_access"


class Attributes(NamedTuple):
    """What a file has beside its content."""

    mode: int
    """As in stat_result: type and permissions."""
    uid: int
    gid: int
    mtime: int | None
    """Nanoseconds; None: as it is."""
    xattrs: dict[str, bytes]
    """ACLs are among them."""


class Opened:
    """Folders, opened one after the other; only the last one stays open."""

    def __init__(self) -> None:
        self._path = ""
        self._fd = os.open("/", FOLDER)

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def folder(self, path: str) -> int:
        """A descriptor of the folder `path`, good until the next call.

        Raises:
            OSError: it is not there, or something on the way is no folder (ENOTDIR), but a symlink, say.
        """
        path = path.rstrip("/")
        if path == self._path:
            return self._fd
        inside = path.startswith(f"{self._path}/") and bool(self._path)
        fd = os.dup(self._fd) if inside else os.open("/", FOLDER)
        try:
            for part in path[len(self._path) if inside else 0 :].strip("/").split("/"):
                if part:
                    below = os.open(part, FOLDER, dir_fd=fd)
                    os.close(fd)
                    fd = below
        except OSError:
            os.close(fd)
            raise
        os.close(self._fd)
        self._path, self._fd = path, fd
        return fd

    def above(self, path: str) -> tuple[int, str]:
        """A descriptor of the folder that `path` is in, and its name there."""
        folder, name = os.path.split(path.rstrip("/"))
        return self.folder(folder), name

    def forget(self) -> None:
        """A folder has been removed or moved: open all anew."""
        os.close(self._fd)
        self._path, self._fd = "", os.open("/", FOLDER)

    def lstat(self, path: str) -> os.stat_result | None:
        """What is there; None if nothing is, or if the way to it is no way of folders."""
        try:
            fd, name = self.above(path)
            return os.stat(name, dir_fd=fd, follow_symlinks=False) if name else os.fstat(fd)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return None
            raise

    def scan(self, path: str) -> list[tuple[str, os.stat_result]]:
        """Names in the folder `path`, and what they are; nothing if it is gone, or is no folder (any more)."""
        try:
            with os.scandir(self.folder(path)) as found:
                return [(each.name, each.stat(follow_symlinks=False)) for each in found]
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                return []
            raise

    def walk(self, path: str) -> Iterator[tuple[str, os.stat_result]]:
        """`path` itself and all that is below it; a folder comes before what is in it."""
        about = self.lstat(path)
        pending = [(path.rstrip("/"), about)] if about else []
        while pending:
            inside, about = pending.pop()
            yield inside, about
            if stat.S_ISDIR(about.st_mode):
                pending += [(f"{inside}/{name}", each) for name, each in self.scan(inside)]

    def attributes(self, path: str) -> Attributes:
        """What the file at `path` has."""
        fd, name = self.above(path)
        itself = os.open(name, ITSELF, dir_fd=fd)
        try:
            return read_attributes(itself)
        finally:
            os.close(itself)

    def give(self, path: str, wanted: Attributes, inode: int | None = None) -> None:
        """Make the file at `path`, which has that inode number, have that; what it has already is left alone.

        Raises:
            OSError: another one has been put there meanwhile.
        """
        fd, name = self.above(path)
        itself = os.open(name, ITSELF, dir_fd=fd)
        try:
            about = os.fstat(itself)
            if stat.S_IFMT(about.st_mode) != stat.S_IFMT(wanted.mode) or inode not in (None, about.st_ino):
                raise OSError(errno.ESTALE, "swapped for another file meanwhile", path)
            give_attributes(itself, wanted)
        finally:
            os.close(itself)


def read_attributes(fd: int) -> Attributes:
    """Of an open file, which may be opened by O_PATH."""
    about = os.fstat(fd)
    return Attributes(about.st_mode, about.st_uid, about.st_gid, about.st_mtime_ns, read_xattrs(f"/proc/self/fd/{fd}"))


def read_xattrs(path: str, *, follow: bool = True) -> dict[str, bytes]:
    """All extended attributes; none where the file system has none."""
    try:
        names = os.listxattr(path, follow_symlinks=follow)
        return {name: os.getxattr(path, name, follow_symlinks=follow) for name in names}
    except OSError as error:
        if error.errno in {errno.ENOTSUP, errno.ENODATA, errno.EACCES, errno.EPERM}:
            return {}
        raise


def give_attributes(fd: int, wanted: Attributes) -> None:
    """Make an open file (O_PATH will do) have `wanted`: the owner first, which takes bits of the mode away; then ACLs,
    which set some; the time last.
    """
    path = f"/proc/self/fd/{fd}"
    has = read_attributes(fd)
    if (has.uid, has.gid) != (wanted.uid, wanted.gid):
        os.chown(path, wanted.uid, wanted.gid)
        has = read_attributes(fd)
    for name in has.xattrs.keys() - wanted.xattrs.keys():
        os.removexattr(path, name)
    for name, value in wanted.xattrs.items():
        if has.xattrs.get(name) != value:
            os.setxattr(path, name, value)
    if not stat.S_ISLNK(wanted.mode) and os.fstat(fd).st_mode != wanted.mode:
        os.chmod(path, stat.S_IMODE(wanted.mode))
        if _ACCESS_ACL in wanted.xattrs:
            os.setxattr(path, _ACCESS_ACL, wanted.xattrs[_ACCESS_ACL])
    if wanted.mtime is not None and os.fstat(fd).st_mtime_ns != wanted.mtime:
        os.utime(path, ns=(wanted.mtime, wanted.mtime))


def make(folder: int, name: str, wanted: Attributes, target: str = "", device: int = 0) -> None:
    """Make in an open folder what has no content: a folder, a symlink to `target`, a fifo, a socket, a device."""
    kind = stat.S_IFMT(wanted.mode)
    if kind == stat.S_IFDIR:
        os.mkdir(name, 0o700, dir_fd=folder)
    elif kind == stat.S_IFLNK:
        os.symlink(target, name, dir_fd=folder)
    else:
        os.mknod(name, kind | 0o600, device, dir_fd=folder)


def copy(source: int, source_name: str, target: int, target_name: str) -> None:
    """Copy a file of any kind but a folder from one open folder into another one, where it is on the disk at the end.

    Holes stay holes. `target_name` must not be there.
    """
    itself = os.open(source_name, ITSELF, dir_fd=source)
    try:
        wanted = read_attributes(itself)
        if stat.S_ISREG(wanted.mode):
            _copy_content(itself, target, target_name)
        else:
            link = os.readlink(source_name, dir_fd=source) if stat.S_ISLNK(wanted.mode) else ""
            make(target, target_name, wanted, link, os.fstat(itself).st_rdev)
    finally:
        os.close(itself)
    made = os.open(target_name, ITSELF, dir_fd=target)
    try:
        give_attributes(made, wanted)
    finally:
        os.close(made)
    if stat.S_ISREG(wanted.mode):
        made = os.open(target_name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=target)
        try:
            os.fsync(made)
        finally:
            os.close(made)


def _copy_content(itself: int, target: int, name: str) -> None:
    writing = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with (
        open(os.open(f"/proc/self/fd/{itself}", os.O_RDONLY | os.O_CLOEXEC), "rb", buffering=0) as old,
        open(os.open(name, writing, 0o600, dir_fd=target), "wb", buffering=0) as new,
    ):
        size = os.fstat(old.fileno()).st_size
        os.ftruncate(new.fileno(), size)
        position = 0
        while position < size:
            try:
                position = os.lseek(old.fileno(), position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole is left
                    break
                raise
            end = os.lseek(old.fileno(), position, os.SEEK_HOLE)
            while position < end:
                piece = os.pread(old.fileno(), min(_CHUNK, end - position), position)
                if not piece:
                    raise OSError(errno.EIO, "changed while it was copied", name)
                position += os.pwrite(new.fileno(), piece, position)
