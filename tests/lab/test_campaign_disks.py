"""Campaign: disks that are full, read-only, broken, gone or empty; clocks that are an hour off."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import pytest

from lab.campaign import AWAY_AND_BACK, Day, fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.labnet.proc import LabError, run
from lab.story import (
    ADDRESS,
    LONG,
    SHARE,
    come_home,
    mirror,
    must,
    stays,
    wait_event,
    wait_home,
    wait_standby,
    wait_told,
)

STAYED = ("serv1",)
DISK = "/srv/samba"
SIZE = 40 << 20
STATE = "/var/lib/clusterd/groups"
HOME = {"serv1": "serv1", "serv2": "serv2"}
MOUNT = f"""#!/bin/sh
# The disk of the share, at each boot.
mountpoint -q {DISK} && exit 0
test -e /dev/share || mknod /dev/share b 7 NUMBER
mount /dev/share {DISK}
"""


# --- the disk of the share -------------------------------------------------------------------------------------------


REPAIR = f"""
mountpoint -q {DISK} && touch {DISK}/.writable && rm {DISK}/.writable && exit 0
umount {DISK} && e2fsck -f -y /dev/share >/dev/null
mountpoint -q {DISK} || mount /dev/share {DISK}
rm {DISK}/.writable 2>/dev/null; touch {DISK}/.writable && rm {DISK}/.writable
"""
"""What an administrator does about a file system that has met errors; fails until it has helped."""


def repair(lab: Lab, node: str, seconds: float = LONG) -> None:
    """The node's disk takes writes again."""
    done = lambda: lab.run(node, ["sh", "-c", REPAIR], check=False).returncode == 0  # noqa: E731 read once
    lab.wait_for(done, seconds, f"the disk of {node} to be repaired")


@pytest.fixture
def disks(lab: Lab, devices: dict[str, str]) -> Lab:
    """The pair whose share lies on a disk of its own on either node: ext4 on a loop device without a cache.

    Made anew where a test before has failed, and left what cannot be put in order.
    """
    if not (len(devices) == len(NODES) and in_order(lab)):
        make_disks(lab, devices)
    return lab


@pytest.fixture(scope="module")
def devices(lab: Lab) -> Iterator[dict[str, str]]:
    """The host's loop device of each node's disk, once it is made."""
    made: dict[str, str] = {}
    yield made
    discard(lab, made)
    lab.reset()


def in_order(lab: Lab) -> bool:
    """Whether both disks are whole and take writes, and the pair is home with them."""
    if any(os.path.getsize(image(lab, node)) != SIZE for node in NODES):
        return False
    try:
        for node in NODES:
            repair(lab, node, 10)
        wait_home(lab, 10)
    except LabError:
        return False
    return True


def make_disks(lab: Lab, devices: dict[str, str]) -> None:
    """New disks with the share as delivered on them, mirrored."""
    discard(lab, devices)
    come_home(lab, new=True)
    for node in NODES:
        lab.sh(node, "/etc/init.d/smbd stop; cp -a /srv/samba /srv/copy")
        devices[node] = new_disk(lab, node)
        old = f"cd {SHARE}; mkdir -p old; touch -d 2020-01-01 old/{{1..500}} old"
        lab.sh(node, f"{mount_script(devices[node])}; cp -a /srv/copy/. {DISK}/; {old}")
        accept(lab, node)
    lab.sh("serv1", "/etc/init.d/smbd start")
    mirror(lab, "serv1", "smbd")
    wait_home(lab)


def discard(lab: Lab, devices: dict[str, str]) -> None:
    """Give the loop devices back; a node that has mounted one has no power any more."""
    for node, device in devices.items():
        if lab.is_on(node):
            lab.power_off(node)
        run(["losetup", "--detach", device])
    devices.clear()


def accept(lab: Lab, node: str) -> None:
    """The administrator says that the disk is meant to be another one."""
    lab.run(node, ["mirror_service", "smbd", "--accept-mounts"])


def new_disk(lab: Lab, node: str) -> str:
    """An empty disk; returns the host's loop device."""
    file = image(lab, node)
    run(["truncate", f"--size={SIZE}", file])
    run(["mkfs.ext4", "-q", "-F", "-m", "0", file])
    return run(["losetup", "--find", "--show", "--direct-io=on", file]).stdout.strip()


def image(lab: Lab, node: str) -> str:
    """The host's file that is the node's disk."""
    return str(lab.place.disk(node) / "share.img")


def mount_script(device: str) -> str:
    """What has a node mount it now and at each boot."""
    text = MOUNT.replace("NUMBER", device.removeprefix("/dev/loop"))
    file = "/etc/network/if-pre-up.d/share"
    return f"printf %s '{text}' >{file}; chmod 755 {file}; {file}"


@contextmanager
def told(lab: Lab, words: str, again: Callable[[], object] = lambda: None) -> Iterator[None]:
    """After the block passes fail, and the mail that cron's pass sends says why; `again` is done before each."""
    yield

    def failed() -> bool:
        again()
        return lab.run("serv1", ["mirror_service", "--quiet", "smbd"], timeout=LONG, check=False).returncode == 1

    lab.wait_for(failed, LONG, "a pass to fail")
    wait_told(lab, words)


def fill(lab: Lab, node: str) -> None:
    """Leave no room on the node's disk, whatever has been freed meanwhile by a pass that ended."""
    small = f"while echo x >{DISK}/filler.$RANDOM; do :; done"
    lab.sh(node, f"(head -c {SIZE} /dev/zero >>{DISK}/filler || true; {small}) 2>/dev/null || true")


def empty(lab: Lab, node: str) -> None:
    """Make room again."""
    lab.sh(node, f"rm {DISK}/filler*")


def all_mirrored(day: Day) -> None:
    """No more writes, and everything that was written is mirrored."""
    day.writer.hold()
    passes_go_on(day)


def test_full_at_the_receiver(disks: Lab) -> None:
    with fault(disks, "receiver's disk full", "disks", answers=STAYED, quiet=True) as day:
        with told(disks, "make room there", lambda: fill(disks, "serv2")):
            disks.sh("serv1", f"head -c 1000000 /dev/urandom >{SHARE}/much")
        day.writer.more()
        empty(disks, "serv2")
        day.another_pass()


def test_full_at_the_receiver_and_the_holder_dies(disks: Lab) -> None:
    with fault(disks, "receiver's disk full, then power of the holder", "disks", answers=AWAY_AND_BACK) as day:
        with told(disks, "make room there", lambda: fill(disks, "serv2")):
            disks.sh("serv1", f"head -c 1000000 /dev/urandom >{SHARE}/more")
        disks.power_off("serv1")
        day.serves("serv2")
        empty(disks, "serv2")
        day.writer.more()


def test_read_only_at_the_receiver(disks: Lab) -> None:
    with fault(disks, "receiver's disk read-only", "disks", answers=STAYED, quiet=True) as day:
        with told(disks, "Read-only file system"):
            disks.sh("serv2", f"mount -o remount,ro {DISK}")
            day.writer.more()
        disks.sh("serv2", f"mount -o remount,rw {DISK}")
        day.another_pass()


def test_errors_of_the_receivers_disk(disks: Lab) -> None:
    """It takes no write any more: no pass has counted as complete whose files are not on the disk.

    The loop device's file is made immutable, so that every write to it fails; this kernel has no device-mapper.
    """
    with fault(disks, "receiver's disk gives I/O errors on write", "disks", answers=STAYED, quiet=True) as day:
        try:
            with told(disks, "smbd"):
                run(["chattr", "+i", image(disks, "serv2")])
                day.writer.more()
            copied = set(day.passes.copied)
        finally:
            run(["chattr", "-i", image(disks, "serv2")])
            repair(disks, "serv2")
        gone = copied & day.writer.lost(str(disks.path("serv2", SHARE)))
        must(not gone, "counted as mirrored, and not on the disk:", *sorted(gone))
        day.another_pass()


def passes_go_on(day: Day) -> None:
    """Wait until a pass has completed that has begun since."""
    enough = day.passes.count + 2
    day.lab.wait_for(lambda: day.passes.count >= enough, LONG, "two passes")


def refused(lab: Lab) -> None:
    """Wait until a client's write is refused."""
    put = ["timeout", "5", "smbclient", "-N", f"//{ADDRESS['serv1']}/share", "-c", "put /dev/stdin refused"]
    lab.wait_for(lambda: lab.run("client", put, text_in="x\n", check=False).returncode, LONG, "a write to be refused")


def test_full_at_the_holder(disks: Lab) -> None:
    """Clients are refused, passes go on, and nothing moves: the other node's disk is as large, and would be as full."""
    with fault(disks, "holder's disk full", "disks", answers=STAYED, quiet=True) as day:
        fill(disks, "serv1")
        try:
            refused(disks)
            passes_go_on(day)
            stays(disks, 3, **HOME)
        finally:
            empty(disks, "serv1")
        day.another_pass()


def test_read_only_at_the_holder(disks: Lab) -> None:
    """As ext4 does by itself after an error: clients are refused, what there is can be mirrored, nothing moves."""
    with fault(disks, "holder's disk read-only", "disks", answers=STAYED, quiet=True) as day:
        day.writer.hold()
        remount = ["mount", "-o", "remount,ro", DISK]
        disks.wait_for(lambda: disks.run("serv1", remount, check=False).returncode == 0, LONG, "no file to be open")
        day.writer.go_on()
        try:
            refused(disks)
            passes_go_on(day)
            stays(disks, 3, **HOME)
        finally:
            disks.sh("serv1", f"mount -o remount,rw {DISK}")
        day.another_pass()


def test_write_errors_of_the_holders_disk(disks: Lab) -> None:
    """What it holds only in memory it has lost when it returns; what was mirrored before is not touched by that."""
    with fault(disks, "holder's disk gives I/O errors on write, then its power", "disks", answers=AWAY_AND_BACK) as day:
        all_mirrored(day)
        try:
            run(["chattr", "+i", image(disks, "serv1")])
            broken = f"for n in $(seq 20); do head -c 20000 /dev/urandom >{SHARE}/broken.$n; done; sync -f {SHARE}"
            assert disks.run("serv1", ["sh", "-c", broken], check=False).returncode, "the disk takes writes"
            stays(disks, 4, **HOME)
            gone = day.passes.copied & day.writer.lost(str(disks.path("serv2", SHARE)))
            must(not gone, "mirrored, and no longer at the other node:", *sorted(gone))
            disks.power_off("serv1")
        finally:
            run(["chattr", "-i", image(disks, "serv1")])
        run(["e2fsck", "-f", "-y", image(disks, "serv1")], check=False)
        day.serves("serv2")
        day.writer.go_on()
        day.writer.more()
        disks.power_on("serv1")


def test_unmounted_at_the_holder(disks: Lab) -> None:
    """The empty folder below it is no wish to delete everything."""
    with fault(disks, "holder's disk unmounted", "disks", answers=STAYED, quiet=True) as day:
        all_mirrored(day)
        before = disks.sh("serv2", f"ls -R {SHARE}")
        try:
            with told(disks, "no longer the mount that it was"):
                disks.sh("serv1", f"umount --lazy {DISK}")
            must(disks.sh("serv2", f"ls -R {SHARE}") == before, "files were deleted at the other node")
        finally:
            disks.sh("serv1", f"mount /dev/share {DISK}")
        day.writer.go_on()
        day.another_pass()


@pytest.mark.parametrize("left", ["nothing", "one file"])
def test_emptied_at_the_holder(disks: Lab, left: str) -> None:
    """A person's mistake, or a broken disk that was made anew: the other node keeps everything."""
    with fault(disks, f"holder's files deleted, {left} is left", "disks", answers=STAYED, quiet=True) as day:
        all_mirrored(day)
        before = disks.sh("serv2", f"ls -R {SHARE}")
        try:
            with told(disks, "smbd: "):
                spare = "" if left == "nothing" else "-not -name readme.txt -not -name .clusterd"
                disks.sh("serv1", f"find {SHARE} -mindepth 1 {spare} -delete || true")
            must(disks.sh("serv2", f"ls -R {SHARE}") == before, "files were deleted at the other node")
        finally:
            copy_back(disks)
        day.writer.go_on()
        day.another_pass()


def copy_back(lab: Lab) -> None:
    """The administrator copies everything back from the other node."""
    run(["cp", "-a", f"{lab.path('serv2', SHARE)}/.", str(lab.path("serv1", SHARE))])


def half_gone(lab: Lab) -> None:
    """Most of serv1's disk is gone, and the next pass has to read there.

    To be done before each: a pass that came between has read the files already, and a write makes the disk whole
    again, with zeros.
    """
    forget = f"for file in {SHARE}/big/*; do dd if=$file iflag=nocache count=0; done"
    lab.run("serv1", ["sh", "-c", f"touch {SHARE}/big/*; sync"], check=False)
    run(["truncate", "--size=4M", image(lab, "serv1")])
    lab.run("serv1", ["sh", "-c", f"{forget} 2>/dev/null"], check=False)


def test_errors_of_the_holders_disk_and_a_new_one(disks: Lab) -> None:
    """Half of it cannot be read any more: nothing is deleted at the other node, which then serves what it has."""
    with fault(disks, "holder's disk cannot be read, is replaced by an empty one", "disks") as day:
        disks.sh(
            "serv1", f"mkdir {SHARE}/big; for n in $(seq 100); do head -c 60000 /dev/urandom >{SHARE}/big/$n; done"
        )
        all_mirrored(day)
        before = disks.sh("serv2", f"ls -R {SHARE}")
        with told(disks, "smbd", lambda: half_gone(disks)):
            half_gone(disks)
        must(disks.sh("serv2", f"ls -R {SHARE}") == before, "files were deleted at the other node")
        disks.power_off("serv1")
        day.serves("serv2")
        run(["truncate", f"--size={SIZE}", image(disks, "serv1")])
        run(["mkfs.ext4", "-q", "-F", "-m", "0", image(disks, "serv1")])
        day.writer.go_on()
        day.writer.more()
        back = monotonic()
        disks.power_on("serv1")
        wait_standby(disks, "serv1")
        failed = wait_event(disks, "serv2", "failback-failed", back)
        assert "smbd" in failed["text"] and "--accept-mounts" in failed["text"], failed
        for node in NODES:
            accept(disks, node)


# --- the disk of the state -------------------------------------------------------------------------------------------


@contextmanager
def full_state(lab: Lab, node: str) -> Iterator[None]:
    """No record of a group can be written on the node any more."""
    small = (
        f"cp -a {STATE} /run/groups; mount -t tmpfs -o size=64k,mode=755 small {STATE}; cp -a /run/groups/. {STATE}/"
    )
    fill = f"head -c 64k /dev/zero >{STATE}/filler || true; n=0; while echo x >{STATE}/filler.$n; do n=$((n+1)); done"
    lab.sh(node, f"{small}; {fill} 2>/dev/null; sleep 0.5; {fill} 2>/dev/null")
    try:
        yield
    finally:
        lab.sh(node, f"cp -a {STATE}/*.json /run/groups/; umount {STATE}; cp -a /run/groups/. {STATE}/")


def test_full_state_of_the_holder(disks: Lab) -> None:
    with (
        fault(disks, "holder's state disk full", "disks", answers=STAYED, quiet=True) as day,
        full_state(disks, "serv1"),
    ):
        stays(disks, 4, **HOME)
        day.writer.more()


def test_full_state_of_the_successor(disks: Lab) -> None:
    """No epoch, no takeover: a person is told, and it is done as soon as it can be."""
    with fault(disks, "power of the holder, successor's state disk full", "disks") as day:
        with full_state(disks, "serv2"):
            cut = disks.power_off("serv1")
            failed = wait_event(disks, "serv2", "takeover-failed", cut)
            assert "No space left on device" in failed["text"], failed
        day.serves("serv2")
        day.writer.more()


# --- clocks ----------------------------------------------------------------------------------------------------------

OFFSET = "/etc/lab-offset"
SITE = "/usr/local/lib/clusterd/venv/lib/python3.*/site-packages"
SHIFT = f"""
import time
def shifted(real=time.time):
    with open("{OFFSET}") as file:
        return real() + float(file.read())
time.time = shifted
"""
"""A stand-in for the machine's clock, which all machines of the lab share with the host, and which none of them may
set: what clusterd's programs on the node take for the time. (libfaketime knows no CLOCK_BOOTTIME.)"""


def set_clock(lab: Lab, node: str, offset: str) -> None:
    """Make the node's clock wrong by so many seconds, "+0" for right; SHIFT has to be there."""
    lab.sh(node, f"echo '{offset}' >{OFFSET}.new; mv {OFFSET}.new {OFFSET}")


@pytest.fixture(scope="module")
def clocks(lab: Lab) -> Iterator[Lab]:
    """The pair; serv2's clock can be set."""
    come_home(lab, new=True)
    set_clock(lab, "serv2", "+0")
    put = f"cd {SITE}; cat >lab_clock.py; echo 'import lab_clock' >lab_clock.pth"
    lab.run("serv2", ["sh", "-c", put], text_in=SHIFT)
    lab.power_off("serv2")
    lab.power_on("serv2")
    wait_home(lab)
    yield lab
    lab.reset()


def test_an_hour_off(clocks: Lab) -> None:
    """No pass is made, and a person is told; a takeover asks no wall clock."""
    with fault(clocks, "clock of the other node jumps by an hour, then power of the holder", "clocks") as day:
        set_clock(clocks, "serv2", "+3600")
        clocks.wait_for(lambda: clocks_apart(clocks), LONG, "a pass to be refused")
        stays(clocks, 1, **HOME)
        assert not {"address-up", "suspended", "release-began"} & set(day.moved())
        day.writer.more()
        clocks.power_off("serv1")
        day.serves("serv2")
        day.writer.more()
        set_clock(clocks, "serv2", "+0")


def clocks_apart(lab: Lab) -> bool:
    """Whether a pass is refused for the clocks."""
    done = lab.run("serv1", ["mirror_service", "smbd"], timeout=LONG, check=False)
    return done.returncode == 1 and "clock" in done.stderr


def test_jumps(clocks: Lab) -> None:
    with fault(clocks, "clock of the other node jumps to and fro", "clocks", answers=STAYED, quiet=True) as day:
        for offset in ("+3600", "-3600", "+86400", "+0"):
            set_clock(clocks, "serv2", offset)
            sleep(1.2)
        day.another_pass()
