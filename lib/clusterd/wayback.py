"""The way back from a cut pass: the files become what the list says, and what the pass had brought is kept.

Contents come out of the backup sets of the cut passes, by renaming where that is possible; all else is in the list
(generation.py). No symlink is followed, neither in the tree nor in a set. Every step looks first whether it is done
already: killed at any instant and run again, it finishes.
"""

import errno
import os
import re
import stat
from collections.abc import Iterable

from clusterd import beneath, generation, log, manifest
from clusterd.beneath import Attributes, Opened
from clusterd.errors import Failed
from clusterd.generation import Was
from clusterd.model import Service

_HALF = re.compile(r"\.clusterd-half-[0-9a-f]{24}\Z")
"""The name of a copy until it is whole; nobody else calls a file like that."""


class Way:
    """From whatever a cut pass has left to the listed generation."""

    def __init__(self, service: Service, then: Service, known: dict[str, Was], sets: list[str], kept: str) -> None:
        """`then`: the service as it was configured for the list `known`; `sets`: where the cut passes' backup sets have
        their files; `kept`: where what they brought is to go.
        """
        self.service = service
        self.then = then
        self.known = known
        self.sets = [os.path.realpath(each) for each in sets]
        """Where the old contents are, the oldest first: the first one that has a path has it as it was."""
        self.found: dict[str, list[str]] = {}
        """Which of the sets have a listed path, the oldest first."""
        self.left: dict[str, int] = {}
        """How many files stay in each set."""
        self.kept = os.path.realpath(kept)
        self.inodes: set[int] = set()
        """Of the listed files."""
        self.restored = 0

    def go(self) -> None:
        """All of it.

        Raises:
            Failed: an old content is nowhere.
            OSError: the disk does not take it.
        """
        with Opened() as self.tree, Opened() as self.store:
            self._forget_halves(self.store, (path for path, _ in self.store.walk(self.kept)))
            present = self._present()
            self.inodes = {was.inode for was in self.known.values() if was.kind != stat.S_IFDIR}
            self._look_into_sets()
            new = present - self.known.keys()
            new -= self._forget_halves(self.tree, new)
            for path in sorted(new, reverse=True):
                self._away(path)
            folders = sorted(was for was in self.known.values() if was.kind == stat.S_IFDIR)
            for was in folders:
                self._folder(was)
            for group in self._groups():
                self._group(group)
            for was in reversed(folders):
                self.tree.give(was.path, was.attributes)

    def _present(self) -> set[str]:
        """What is there of what was mirrored for the list and still is. What is mirrored only since is in no list, and
        what is not any more is another's to change: neither is touched.
        """
        then = {path for path, _ in generation.walk(self.then, self.tree)}
        if self.then == self.service:
            return then
        now = {path for path, _ in generation.walk(self.service, self.tree)}
        gone = then - now
        self.known = {
            path: was for path, was in self.known.items() if path not in gone and generation.covers(self.service, path)
        }
        return then & now

    def _forget_halves(self, opened: Opened, found: Iterable[str]) -> set[str]:
        """Remove half copies of a roll back that was killed; returns them."""
        halves = {path for path in found if _HALF.match(os.path.basename(path))}
        for path in halves:
            fd, name = opened.above(path)
            os.unlink(name, dir_fd=fd)
        return halves

    def _look_into_sets(self) -> None:
        """Each set is walked once: there may be one of every minute, and few of them have a given file."""
        for below in self.sets:
            self.left[below] = 0
            for path, about in self.store.walk(below):
                inside = path[len(below) :]
                self.left[below] += not stat.S_ISDIR(about.st_mode)
                if inside in self.known and self.known[inside].kind != stat.S_IFDIR:
                    self.found.setdefault(inside, []).append(below)

    def _groups(self) -> Iterable[list[Was]]:
        """What is no folder, the names of one file together."""
        groups: dict[tuple[int, ...], list[Was]] = {}
        for number, was in enumerate(self.known.values()):
            if was.kind != stat.S_IFDIR:
                groups.setdefault((was.device, was.inode) if was.links > 1 else (number,), []).append(was)
        return groups.values()

    def _folder(self, was: Was) -> None:
        about = self.tree.lstat(was.path)
        if about is None or not stat.S_ISDIR(about.st_mode):
            self._away(was.path)
            fd, name = self.tree.above(was.path)
            beneath.make(fd, name, was.attributes)

    def _group(self, group: list[Was]) -> None:
        """One file, under all its names."""
        kept = {was.path: found for was in group if (found := self._in_sets(was))}
        leader = next((was for was in group if self._is_back(was, kept.get(was.path))), None)
        leader = leader or next((was for was in group if self._bring_back(was, kept.get(was.path))), None)
        if leader is None:
            raise Failed(f"{manifest.shown(group[0].path)}: its old content is in no backup set of the cut pass")
        led = self.tree.lstat(leader.path)
        assert led is not None
        regular = leader.kind == stat.S_IFREG
        # Numbers may change with a reboot, on some file systems: but nothing is given away to whoever swapped a file.
        # What has grown was written into by somebody of this node, and by no pass: its time is its own.
        same_owner = (led.st_uid, led.st_gid) == (leader.uid, leader.gid)
        mine = led.st_ino == leader.inode or same_owner
        if not regular or (mine and led.st_size == leader.size):
            # A number that is freed may be the next file's; and who owned it meanwhile may have written into it.
            wanted = leader.attributes if same_owner else leader.plainly()
            self.tree.give(leader.path, wanted, led.st_ino)
            if wanted != leader.attributes:
                text = (
                    f"{manifest.shown(leader.path)}: had the rights of its owner for whoever runs it: not given again"
                )
                log.event("rights-not-given", text, level="warning", path=leader.path)
        for was in group:
            about = self.tree.lstat(was.path)
            if about is None or (about.st_dev, about.st_ino) != (led.st_dev, led.st_ino):
                self._away(was.path)
                self._link(leader.path, was.path)
        # Last, so that whoever is killed before finds it again.
        for path in kept.values():
            if self.store.lstat(path):
                fd, name = self.store.above(path)
                os.unlink(name, dir_fd=fd)

    def _in_sets(self, was: Was) -> str | None:
        """Where in the sets the listed file is, whole: from there it goes. To be asked once a file."""
        for below in self.found.get(was.path, ()):
            about = self.store.lstat(below + was.path)
            if about is None or stat.S_IFMT(about.st_mode) != was.kind:
                continue
            same = (about.st_dev, about.st_ino) == (was.device, was.inode) or about.st_mtime_ns == was.mtime
            if was.kind != stat.S_IFREG:
                same = _points(self.store, below + was.path, about) == (was.target, was.number)
            elif about.st_size != was.size:
                same = False
            if same:
                self.left[below] -= 1
                return below + was.path
        return None

    def _is_back(self, was: Was, kept: str | None) -> bool:
        """Whether what is there is the listed file: rsync writes into none, it puts another one in its place."""
        about = self.tree.lstat(was.path)
        if about is None or stat.S_IFMT(about.st_mode) != was.kind:
            return False
        if was.kind != stat.S_IFREG:
            return _points(self.tree, was.path, about) == (was.target, was.number)
        alike = (about.st_size, about.st_mtime_ns) == (was.size, was.mtime)
        if kept is None:
            return alike or about.st_ino == was.inode  # a device's number may be another one after a reboot
        old = self.store.lstat(kept)
        assert old is not None
        if (old.st_dev, old.st_ino) == (about.st_dev, about.st_ino):
            return True
        # The number of a file that is gone is soon another one's; only the content tells, and whose it is: a link to a
        # new file may have taken its place that has another owner.
        alike = alike and (about.st_uid, about.st_gid) == (was.uid, was.gid)
        return alike and self._alike(kept, was.path)

    def _alike(self, kept: str, path: str) -> bool:
        store, store_name = self.store.above(kept)
        tree, tree_name = self.tree.above(path)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        with (
            open(os.open(store_name, flags, dir_fd=store), "rb") as first,
            open(os.open(tree_name, flags, dir_fd=tree), "rb") as second,
        ):
            while piece := first.read(1 << 20):
                if second.read(1 << 20) != piece:
                    return False
            return not second.read(1)

    def _link(self, old: str, new: str) -> None:
        with Opened() as other:
            source, name = other.above(old)
            target, new_name = self.tree.above(new)
            os.link(name, new_name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
        self.restored += 1

    def _bring_back(self, was: Was, kept: str | None) -> bool:
        """Put it in its place; a file only if its content is in a set."""
        if was.kind == stat.S_IFREG and kept is None:
            return False
        self._away(was.path)
        fd, name = self.tree.above(was.path)
        if was.kind != stat.S_IFREG or kept is None:
            beneath.make(fd, name, was.attributes, was.target, was.number)
        else:
            old, old_name = self.store.above(kept)
            if not _rename(old, old_name, fd, name):
                _copy(old, old_name, fd, name, was.attributes)
        self.restored += 1
        return True

    def _away(self, path: str) -> None:
        """Take from the tree what the cut pass has brought: into the set, below the same path."""
        about = self.tree.lstat(path)
        if about is None:
            return
        if stat.S_ISDIR(about.st_mode):
            self._folder_away(path)
            return
        target, new_name = self._room(path)
        fd, name = self.tree.above(path)
        if about.st_nlink > 1 and about.st_ino in self.inodes:
            os.unlink(name, dir_fd=fd)  # one more name of a file that is left under another one
        elif not _rename(fd, name, target, new_name):
            _copy(fd, name, target, new_name, self.tree.attributes(path))
            os.unlink(name, dir_fd=fd)

    def _folder_away(self, path: str) -> None:
        wanted = self.tree.attributes(path)
        with os.scandir(self.tree.folder(path)) as inside:
            empty = next(inside, None) is None
        if not empty and path not in self.known:
            return  # something that is not mirrored is in it
        target, new_name = self._room(path)
        fd, name = self.tree.above(path)
        if empty:
            if self.store.lstat(self.kept + path) is None:
                beneath.make(target, new_name, wanted)
            self.store.give(self.kept + path, wanted)
            os.rmdir(name, dir_fd=fd)
        elif not _rename(fd, name, target, new_name):
            raise Failed(f"{manifest.shown(path)}: a folder, with something that is not mirrored: move it away")
        self.tree.forget()
        self.store.forget()

    def _room(self, path: str) -> tuple[int, str]:
        """The place for it in the set; the folders above are made, with what those in the tree have."""
        above, name = os.path.split(path)
        try:
            return self.store.folder(self.kept + above), name
        except FileNotFoundError:
            pass
        inside = ""
        for part in above.strip("/").split("/"):
            inside += f"/{part}"
            if self.store.lstat(self.kept + inside) is None:
                wanted = self.tree.attributes(inside)
                fd, made = self.store.above(self.kept + inside)
                beneath.make(fd, made, wanted)
                self.store.give(self.kept + inside, wanted)
        return self.store.folder(self.kept + above), name


def _points(opened: Opened, path: str, about: os.stat_result) -> tuple[str, int]:
    """What a symlink points to, and which device a node stands for."""
    if not stat.S_ISLNK(about.st_mode):
        return "", about.st_rdev
    fd, name = opened.above(path)
    return os.readlink(name, dir_fd=fd), about.st_rdev


def _rename(old: int, name: str, new: int, new_name: str) -> bool:
    """Move between open folders; False if they are on different disks."""
    try:
        os.rename(name, new_name, src_dir_fd=old, dst_dir_fd=new)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        return False
    return True


def _copy(old: int, name: str, new: int, new_name: str, wanted: Attributes) -> None:
    """Copy to a temporary name, then rename: `new_name` is there whole, as `wanted`, and durably, or not at all."""
    half = f".clusterd-half-{os.urandom(12).hex()}"
    beneath.copy(old, name, new, half)
    itself = os.open(half, beneath.ITSELF, dir_fd=new)
    try:
        beneath.give_attributes(itself, wanted)
    finally:
        os.close(itself)
    os.rename(half, new_name, src_dir_fd=new, dst_dir_fd=new)
    os.fsync(new)
