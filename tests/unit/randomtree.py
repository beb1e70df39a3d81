"""Trees as users make them, at random: odd names, links, ACLs, folders that become files; and what a tree is like."""

import contextlib
import os
import random
import shutil
import stat
from pathlib import Path
from typing import Any

NAMES = [
    b"plain",
    b"two\nlines",
    b"-rf",
    b"--delete",
    b'it\'s "quoted"',
    b"trailing ",
    b" ",
    b"back\\slash",
    b"tab\tbed",
    b"\x1b[31mred\x1b[0m",
    b"*?[b]",
    b"\\#012",
    b"\xff\xfe",
    b"\xc3\xa4",
    b".clusterd-like",
    b".clusterd.abc123",
    b".vimrc.backup",
    b".x.AbC123",
    b"$(id)",
    b"; comment",
    b"n" * 255,
    b"~",
    b"...",
]
"""What a user can call a file, and a file system takes."""

State = dict[str, tuple[Any, ...]]


def look(top: Path) -> State:
    """Everything below `top`, and `top`: type, mode, owner, times, content, extended attributes, and which names are
    one file.
    """
    found: State = {}
    first: dict[tuple[int, int], str] = {}
    pending = [os.fsencode(top)]
    while pending:
        path = pending.pop()
        about = os.lstat(path)
        kind = stat.S_IFMT(about.st_mode)
        name = os.fsdecode(os.path.relpath(path, os.fsencode(top)))
        content: Any = ""
        if kind == stat.S_IFDIR:
            pending += sorted((os.path.join(path, each) for each in os.listdir(path)), reverse=True)
        elif kind == stat.S_IFLNK:
            content = os.readlink(path)
        elif kind == stat.S_IFREG:
            content = Path(os.fsdecode(path)).read_bytes()
        else:
            content = about.st_rdev
        one = "" if kind == stat.S_IFDIR else first.setdefault((about.st_dev, about.st_ino), name)
        xattrs = tuple(
            (each, os.getxattr(path, each, follow_symlinks=False))
            for each in sorted(os.listxattr(path, follow_symlinks=False))
        )
        found[name] = (oct(about.st_mode), about.st_uid, about.st_gid, about.st_mtime_ns, content, xattrs, one)
    return found


def differences(left: State, right: State) -> dict[str, tuple[Any, Any]]:
    """Where two trees differ."""
    return {
        name: (_short(left.get(name)), _short(right.get(name)))
        for name in sorted(left.keys() | right.keys())
        if left.get(name) != right.get(name)
    }


def _short(entry: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
    return entry and tuple(part[:20] if isinstance(part, bytes) else part for part in entry)


class Gardener:
    """Makes and changes a tree. The same seed, the same tree."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = os.fsencode(top)
        self.chance = random.Random(seed)
        self.version = 0

    def all(self, *, folders: bool) -> list[bytes]:
        """The folders, or all else."""
        found = [self.top] if folders else []
        for inside, below, files in os.walk(self.top):
            links = [each for each in below if os.path.islink(os.path.join(inside, each))]
            wanted = [each for each in below if each not in links] if folders else [*files, *links]
            found += [os.path.join(inside, each) for each in wanted]
        return sorted(each for each in found if os.path.basename(each) != b".clusterd")

    def free(self) -> bytes:
        """A path where nothing is."""
        while True:
            folder = self.chance.choice(self.all(folders=True))
            name = self.chance.choice([*NAMES, b"f%d" % self.chance.randrange(1000)])
            path = os.path.join(folder, name)
            if not os.path.lexists(path) and len(path) < 900:
                return path

    def write(self, path: bytes) -> None:
        """A new version of a file, which is whole or not for all to see."""
        self.version += 1
        word = b"%d %s " % (self.version, os.path.basename(path)[:20])
        size = self.chance.choice([0, 10, 4000, 60_000])
        new = path + b"~" if len(os.path.basename(path)) < 250 else path
        with open(new, "wb") as file:
            file.write((word * (size // len(word) + 1))[:size])
            if size > 50_000:
                file.truncate(size + (1 << 20))
        os.rename(new, path)

    def grow(self, count: int) -> None:
        """So many new things."""
        for _ in range(count):
            path = self.free()
            kind = self.chance.random()
            if kind < 0.15:
                os.mkdir(path)
            elif kind < 0.25:
                os.symlink(self.chance.choice([b"nowhere", b"/etc/passwd", b"..", b"two\nlines"]), path)
            elif kind < 0.3:
                os.mkfifo(path)
            elif kind < 0.33:
                os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, self.chance.choice([3, 5])))
            elif kind < 0.45 and self.all(folders=False):
                with contextlib.suppress(OSError):
                    os.link(self.chance.choice(self.all(folders=False)), path, follow_symlinks=False)
            else:
                self.write(path)
            self.touch(path)

    def touch(self, path: bytes) -> None:
        """Another mode, owner, time, attribute or ACL."""
        if not os.path.lexists(path):
            return
        what = self.chance.randrange(7)
        plain = not os.path.islink(path)
        if what == 0 and plain:
            # Files without rights for who runs them: the way back does not give these to what has had another owner.
            special = 0o2770 if os.path.isdir(path) else 0o660
            os.chmod(path, self.chance.choice([0o600, 0o755, 0o644, special, 0o1777]))
        elif what == 1:
            os.chown(path, self.chance.randrange(3000), self.chance.randrange(3000), follow_symlinks=False)
        elif what == 2:
            os.utime(path, ns=(1, self.chance.randrange(10**18)), follow_symlinks=False)
        elif what == 3 and plain and (os.path.isdir(path) or os.path.isfile(path)):
            os.setxattr(path, b"user.note", b"%d" % self.chance.randrange(10**6))
        elif what == 4 and plain and (os.path.isdir(path) or os.path.isfile(path)):
            user = self.chance.randrange(1, 99).to_bytes(4, "little")
            none = b"\xff\xff\xff\xff"
            acl = b"\x02\0\0\0" + b"".join(
                tag.to_bytes(2, "little") + rights.to_bytes(2, "little") + who
                for tag, rights, who in ((1, 6, none), (2, 7, user), (4, 4, none), (0x10, 7, none), (0x20, 4, none))
            )
            os.setxattr(path, "system.posix_acl_access", acl)
        elif what == 5 and plain and os.path.isdir(path):
            os.chmod(path, 0o750)

    def change(self, count: int) -> None:
        """So many things replaced, deleted, renamed, turned into something else, touched; and some new ones."""
        deeds = [self._new, self._replace, self._replace, self._delete, self._rename, self._clear, self._turn]
        deeds += [self._touch, self._link]
        for _ in range(count):
            files = self.all(folders=False)
            deed = self.chance.choice(deeds) if len(files) > 1 else self._new
            deed(self.chance.choice(files or [self.top]))

    def _new(self, _file: bytes) -> None:
        self.grow(2)

    def _replace(self, file: bytes) -> None:
        if os.path.isfile(file) and not os.path.islink(file):
            self.write(file)
            self.touch(file)

    def _delete(self, file: bytes) -> None:
        os.unlink(file)

    def _rename(self, file: bytes) -> None:
        with contextlib.suppress(OSError):
            os.rename(file, self.free())

    def _clear(self, _file: bytes) -> None:
        folders = self.all(folders=True)[1:]
        if folders:
            path = self.chance.choice(folders)
            shutil.rmtree(path)
            if self.chance.random() < 0.5:
                self.write(path)

    def _turn(self, file: bytes) -> None:
        os.unlink(file)
        if self.chance.random() < 0.5:
            os.mkdir(file)
            self.write(os.path.join(file, b"inside"))
        else:
            os.symlink(b"elsewhere", file)

    def _touch(self, file: bytes) -> None:
        self.touch(self.chance.choice([file, *self.all(folders=True)]))

    def _link(self, file: bytes) -> None:
        other = self.chance.choice(self.all(folders=False))
        if file != other and not os.path.islink(file):
            os.unlink(other)
            with contextlib.suppress(OSError):
                os.link(file, other, follow_symlinks=False)
