"""Sentinels, budgets, and telling one mount from another."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import guards, mounts, ownership, paths
from clusterd.errors import Failed, NotPermitted
from clusterd.mounts import Mount
from clusterd.passes import Place, Record
from unit.test_rsync import service

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.mark.parametrize(
    ("text", "entries", "allowed"),
    [("10 %", 100, 10), ("10 %", 5, 1), ("10 %", 0, 0), ("0 %", 50, 0), ("100 %", 7, 7), ("5", 3, 5), ("0", 99, 0)],
)
def test_the_budget(text: str, entries: int, allowed: int) -> None:
    assert guards.budget(text, entries) == allowed


def test_a_sentinel(tmp_path: Path) -> None:
    made = service(f"{tmp_path}/")
    assert guards.read_sentinel(made, f"{tmp_path}/") is None
    sentinel = guards.make_sentinel(made, f"{tmp_path}/")
    assert guards.read_sentinel(made, f"{tmp_path}/") == sentinel
    with pytest.raises(Failed, match="the sentinel of data"):
        guards.read_sentinel(made._replace(name="mail"), f"{tmp_path}/")


@contextlib.contextmanager
def soon() -> Iterator[None]:
    """What hangs fails."""

    def late(*_: object) -> None:
        raise AssertionError("hangs")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_what_users_put_in_the_place_of_a_sentinel(tmp_path: Path) -> None:
    """Whoever may write in the folder can make it anything: it leads nowhere, and nobody waits for it."""
    top = tmp_path / "top"
    made = service(f"{top}/")
    wrong = {"service": "data", "path": f"{top}/", "created": 0, "id": ["x"]}
    for plant, words in (
        (os.mkfifo, "no plain file"),
        (lambda file: file.symlink_to(tmp_path / "elsewhere"), "no plain file"),
        (lambda file: file.symlink_to("/dev/zero"), "no plain file"),
        (lambda file: file.mkdir(), "no plain file"),
        (lambda file: file.write_bytes(bytes(1 << 20)), "no plain file of at most 64 KiB"),
        (lambda file: file.write_text("[" * 50_000), "cannot be read"),
        (lambda file: file.write_bytes(b"\xff"), "cannot be read"),
        (lambda file: file.write_text("[1]"), "not a sentinel"),
        (lambda file: file.write_text(json.dumps(wrong)), "not a sentinel"),
    ):
        top.mkdir()
        guards.make_sentinel(made, f"{top}/")
        os.rename(top / paths.SENTINEL, tmp_path / "elsewhere")
        plant(top / paths.SENTINEL)
        with soon(), pytest.raises(Failed, match=f"{top}/{paths.SENTINEL}: {words}.*; look at it, then remove it"):
            guards.read_sentinel(made, f"{top}/")
        shutil.rmtree(top)


def test_a_sentinel_is_written_under_no_name_that_can_be_guessed(tmp_path: Path) -> None:
    top, precious = tmp_path / "top", tmp_path / "precious"
    top.mkdir()
    precious.write_text("precious")
    precious.chmod(0o600)
    made = service(f"{top}/")
    for number in range(os.getpid() - 5, os.getpid() + 5):
        (top / f"{paths.SENTINEL}.{number}.tmp").symlink_to(precious)
    (top / paths.SENTINEL).symlink_to(precious)
    sentinel = guards.make_sentinel(made, f"{top}/")
    assert (precious.read_text(), precious.stat().st_mode & 0o777) == ("precious", 0o600)
    assert guards.read_sentinel(made, f"{top}/") == sentinel
    assert (top / paths.SENTINEL).lstat().st_mode == 0o100644
    assert len(list(top.iterdir())) == 11, "nothing else is left"


def test_a_sentinel_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder that has become a symlink at the worst moment, say: its sentinel goes nowhere else."""
    made = service(f"{tmp_path}/top/")
    (tmp_path / "other").mkdir()
    (tmp_path / "top").symlink_to("other")
    for do in (guards.make_sentinel, guards.read_sentinel):
        with pytest.raises(Failed, match=f"{tmp_path}/top/{paths.SENTINEL}: cannot be "):
            do(made, f"{tmp_path}/top/")
    assert not list((tmp_path / "other").iterdir())


def test_a_folder_that_is_a_symlink_by_now_has_no_files(tmp_path: Path) -> None:
    (tmp_path / "top" / "sub").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    assert not guards.has_files(f"{tmp_path}/top/")
    with pytest.raises(Failed, match="link/: "):
        guards.has_files(f"{tmp_path}/link/")


def test_what_counts_as_empty(tmp_path: Path) -> None:
    top = f"{tmp_path}/"
    assert not guards.has_files(top)
    (tmp_path / paths.SENTINEL).write_text("")
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "lost+found" / "x").write_text("")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert not guards.has_files(top)
    (tmp_path / "a" / "b" / "link").symlink_to("nowhere")
    assert guards.has_files(top)


def test_a_sender_that_is_not_the_holder(box: "Box") -> None:
    made = service("/srv/a/")
    me = os.uname().nodename.split(".")[0]
    guards.admit_sender(made, "serv8", 3)
    assert ownership.read("serv1").epoch == 3, "a higher epoch is news, and is kept"
    for node, epoch in (("serv8", 2), ("serv9", 3), ("serv8", 0), (me, 9)):
        with pytest.raises(NotPermitted):
            guards.admit_sender(made, node, epoch)
    ownership.enter("serv1", 4, ownership.STARTING)
    with pytest.raises(NotPermitted, match="holds serv1 itself"):
        guards.admit_sender(made, "serv8", 9)


def test_mounts_of_this_machine() -> None:
    table = mounts.table()
    root = mounts.holding("/", table)
    assert root.point == "/"
    assert mounts.holding("/proc/self", table).kind == "proc"
    assert mounts.names("/", table)[0].startswith("/ ")


def test_names_do_not_change_with_a_reboot_but_with_the_disk() -> None:
    overlay = Mount("/", "/", "overlay", "overlay", "rw")
    assert mounts.name(overlay) == "/ overlay overlay /"
    table = [
        overlay,
        Mount("/srv/a", "/", "nfs4", "nas:/export", "rw"),
        Mount("/srv/a/cache", "/", "tmpfs", "tmpfs", "rw"),
        Mount("/srv/a/big", "/", "nfs4", "nas:/big", "rw"),
        Mount("/srv/ab", "/", "nfs4", "nas:/other", "rw"),
    ]
    assert mounts.names("/srv/a/", table) == ("/srv/a nfs4 nas:/export /", "/srv/a/big nfs4 nas:/big /")
    assert mounts.names("/srv/abc/", table) == ("/ overlay overlay /",)
    assert mounts.names("/srv/a/x.conf", table) == ("/srv/a nfs4 nas:/export /",)


@pytest.mark.parametrize(
    ("kind", "source", "more", "counts"),
    [
        ("zfs", "tank/home/alice", "rw,xattr,posixacl", True),
        ("zfs", "tank/home/alice@hourly", "ro,xattr,posixacl", False),
        ("btrfs", "/dev/sdb1", "rw,subvol=/alice", True),
        ("virtiofs", "home", "rw", True),
        ("9p", "home", "rw,trans=virtio", True),
        ("fuse.mergerfs", "1/disk:2/disk", "rw,user_id=0,group_id=0,allow_other", True),
        ("fuse.s3fs", "s3fs", "rw,user_id=0,group_id=0", True),
        ("fuse.gocryptfs", "/home/alice/.c", "rw,user_id=1000,group_id=1000", False),
        ("fuse.sshfs", "nas:/x", "rw,user_id=1000,group_id=1000", True),
        ("fuseblk", "/dev/sdc1", "rw,user_id=0,group_id=0,blksize=4096", True),
        ("fuse.portal", "portal", "rw,user_id=0,group_id=0", False),
        ("fuse.gvfsd-fuse", "gvfsd-fuse", "rw,user_id=0,group_id=0", False),
        ("fuse.lxcfs", "lxcfs", "rw,user_id=0,group_id=0,allow_other", False),
        ("fuse.fuse-overlayfs", "fuse-overlayfs", "rw,user_id=0,group_id=0", False),
        ("fusectl", "fusectl", "rw", False),
        ("tmpfs", "tmpfs", "rw", False),
        ("overlay", "overlay", "rw,lowerdir=/a", False),
        ("autofs", "systemd-1", "rw,fd=31", False),
        ("proc", "proc", "rw", False),
    ],
)
def test_what_counts_as_a_store_of_files(
    kind: str, source: str, more: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is not mounted looks empty, and the peer's copies would be deleted. What comes and goes is none."""
    (tmp_path / "self").mkdir()
    lines = ("27 1 254:0 / / rw - overlay overlay rw", f"95 27 0:60 / /home/alice rw shared:1 - {kind} {source} {more}")
    (tmp_path / "self" / "mountinfo").write_text("".join(f"{line}\n" for line in lines))
    monkeypatch.setattr(paths, "PROC", str(tmp_path))
    monkeypatch.setattr(mounts, "_identity", lambda mount: mount.source)
    table = mounts.table()
    assert table[1] == Mount("/home/alice", "/", kind, source, "rw", more)
    nested = (f"/home/alice {kind} {source} /",) if counts else ()
    assert mounts.names("/home/", table) == ("/ overlay overlay /", *nested)


def test_a_mount_whose_source_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text("27 1 254:0 / /a rw - tmpfs  rw,size=4k\n")
    monkeypatch.setattr(paths, "PROC", str(tmp_path))
    assert mounts.table() == [Mount("/a", "/", "tmpfs", "", "rw", "rw,size=4k")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 file system in a file, mounted."""
    image, point = tmp_path / "image", tmp_path / "disk"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, point], check=False)
    if mounted.returncode:
        pytest.fail("no loop devices")
    yield point
    subprocess.run(["umount", "-l", point], check=False)


def test_a_disk_is_known_again_and_another_one_is_not(disk: Path) -> None:
    first = mounts.names(f"{disk}/", mounts.table())
    assert " ext4 fsid:" in first[0]
    subprocess.run(["umount", disk], check=True)
    unmounted = mounts.names(f"{disk}/", mounts.table())
    assert unmounted != first
    image = disk.parent / "image"
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    assert mounts.names(f"{disk}/", mounts.table()) == first
    subprocess.run(["umount", disk], check=True)
    subprocess.run(["mkfs.ext4", "-qF", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, disk], check=True)
    assert mounts.names(f"{disk}/", mounts.table()) != first


def test_a_disk_below_a_mirrored_folder_may_not_go(box: "Box", disk: Path) -> None:
    top = f"{disk.parent}/"
    made = service(top)
    (disk.parent / "x").write_text("")
    guards.make_sentinel(made, top)
    record = Record("data", places=guards.check_source(made, Record("data")))
    assert len(record.places[top].mounts) == 2
    guards.check_source(made, record)
    subprocess.run(["umount", disk], check=True)
    with pytest.raises(Failed, match="is gone"):
        guards.check_source(made, record)


def test_wrong_kinds_of_paths(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "to-file").symlink_to("file")
    for path, words in (
        (f"{tmp_path}/file/", "not a folder"),
        (f"{tmp_path}/folder", "with a slash at its end"),
        (f"{tmp_path}/link/", "symlink"),
        (f"{tmp_path}/link/x", "symlink"),
        (f"{tmp_path}/nothing", "missing"),
        (f"{tmp_path}/nothing/", "missing"),
    ):
        with pytest.raises(Failed, match=words):
            guards.check_source(service(path), Record("data"))
    found = guards.check_source(service(f"{tmp_path}/to-file"), Record("data"))
    assert isinstance(found[f"{tmp_path}/to-file"], Place)


def test_space(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert guards.needed([str(tmp_path / "sparse"), "/nowhere"]) < 1 << 20
    assert guards.existing(f"{tmp_path}/not/there/") == str(tmp_path)
    assert guards.free_space(f"{tmp_path}/not/there/") > 0
