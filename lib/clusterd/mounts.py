"""What is mounted where, and how a mount is told from another one that takes its place."""

import os
import re
from typing import NamedTuple

from clusterd import paths

_OWN_ID = ("ext2", "ext3", "ext4", "btrfs", "f2fs", "zfs", "bcachefs")
"""File systems whose f_fsid comes from the disk and stays; that of others (xfs) follows the device's number."""
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "fuse.glusterfs", "fuse.sshfs")
_SHARED = ("virtiofs", "9p")
"""What a virtual machine gets from its host."""
_UNASKED = (
    *("fuse.portal", "fuse.gvfsd-fuse", "fuse.kio-fuse", "fuse.xrdp-chansrv", "fuse.lxcfs", "fuse.snapfuse"),
    *("fuse.squashfuse", "fuse.squashfuse_ll", "fuse.revokefs-fuse", "fuse.fuse-overlayfs"),
)
"""What desktops, packages and containers mount by themselves, and take away again."""
_BY_USER = re.compile(r"(^|,)user_id=[1-9]")
_BY_UUID = "/dev/disk/by-uuid"
_OCTAL = re.compile(r"\\([0-7]{3})")


class Mount(NamedTuple):
    """One line of /proc/self/mountinfo."""

    point: str
    root: str
    """The folder of the file system that is mounted."""
    kind: str
    source: str
    options: str
    """Of the mount, not of the file system."""
    more: str = ""
    """Those of the file system."""


def table() -> list[Mount]:
    """All mounts of this mount namespace; of several at one point the last one counts."""
    made = []
    with open(f"{paths.PROC}/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left, _, right = line.partition(" - ")
            fields, (kind, source, more) = left.split(), right.rstrip("\n").split(" ", 2)
            made.append(Mount(_plain(fields[4]), _plain(fields[3]), kind, _plain(source), fields[5], more))
    return made


def holding(path: str, known: list[Mount]) -> Mount:
    """The mount that `path` is on."""
    inside = [mount for mount in known if f"{path.rstrip('/')}/".startswith(f"{mount.point.rstrip('/')}/")]
    longest = max(len(mount.point) for mount in inside)
    return [mount for mount in inside if len(mount.point) == longest][-1]


def below(path: str, known: list[Mount]) -> list[Mount]:
    """What is mounted below the folder `path`."""
    return [mount for mount in known if mount.point.startswith(path) and mount.point != path.rstrip("/")]


def names(path: str, known: list[Mount]) -> tuple[str, ...]:
    """The names of the mount that `path` is on and of disks and other stores of files below it; see `stores`.

    A name stays the same after a reboot, and is another one for another disk.
    """
    nested = [mount for mount in below(path, known) if stores(mount)]
    return tuple(dict.fromkeys(name(mount) for mount in (holding(path, known), *nested)))


def stores(mount: Mount) -> bool:
    """Whether files are kept in it that are missed when it is not mounted: a disk, a dataset, a share.

    Not one that comes and goes by itself: a snapshot of ZFS that somebody looks into, what a user mounts by FUSE, what
    programs make for themselves.
    """
    if mount.kind in _UNASKED:
        return False
    if mount.source.startswith("/dev/") or mount.kind in (*_REMOTE, *_SHARED):
        return True
    if mount.kind == "zfs":
        return "@" not in mount.source
    return mount.kind.partition(".")[0] == "fuse" and not _BY_USER.search(mount.more)


def name(mount: Mount) -> str:
    """What a mount is, in one word each: where, which kind, which file system, which folder of it."""
    return f"{mount.point} {mount.kind} {_identity(mount)} {mount.root}"


def _identity(mount: Mount) -> str:
    if not mount.source.startswith("/dev/"):
        return mount.source
    if mount.kind in _OWN_ID:
        return f"fsid:{os.statvfs(mount.point).f_fsid:x}"
    return _uuid(mount.source) or mount.source


def _uuid(device: str) -> str:
    try:
        number = os.stat(device).st_rdev
        for uuid in os.listdir(_BY_UUID):
            if os.stat(f"{_BY_UUID}/{uuid}").st_rdev == number:
                return f"uuid:{uuid}"
    except OSError:
        pass
    return ""


def _plain(field: str) -> str:
    """A field of mountinfo without its escapes."""
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), field)
