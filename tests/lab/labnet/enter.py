"""First program of a new set of namespaces: builds the root file system, moves into it and becomes the given program.

Started by rootfs.py with the description of the root as JSON in its only argument. Runs by itself (standard
library, no package) because it must need nothing of the world that it leaves.
"""

import ctypes
import json
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND = 1, 2, 4, 8, 4096
MNT_DETACH = 2
PR_CAPBSET_DROP = 24
SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
FORBIDDEN = {"CAP_SYS_MODULE": 16, "CAP_SYS_RAWIO": 17, "CAP_SYS_TIME": 25}
"""The clock, the kernel's modules and its memory are the host's: no machine of the lab may touch them."""
DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


def check(result: int, what: str) -> None:
    """Raise OSError with the C library's errno when a call returned an error."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    """mount(2), the mount point made first."""
    if not os.path.lexists(target):
        os.makedirs(target)
    args = (os.fsencode(source), os.fsencode(target), kind.encode(), ctypes.c_ulong(flags), options.encode())
    check(LIBC.mount(*args), f"mount {kind} on {target}")


def bind(source: str, target: str) -> None:
    """Make `source` visible at `target` as well."""
    mount(source, target, "none", MS_BIND)


def fill_dev(dev: str) -> None:
    """A private /dev with what ordinary programs need."""
    mount("dev", dev, "tmpfs", MS_NOSUID, "mode=755")
    old = os.umask(0)
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"{dev}/{name}", 0o666 | stat.S_IFCHR, os.makedev(major, minor))
    os.umask(old)
    for name, target in LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620,gid=5")
    os.symlink("pts/ptmx", f"{dev}/ptmx")
    mount("shm", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")


def keep_resolver(root: str) -> None:
    """Where the host's resolv.conf is a link into /run, give the new /run a copy."""
    real = os.path.realpath("/etc/resolv.conf")
    if real.startswith("/run/") and os.path.exists(real):
        copy = Path(root + real)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(Path(real).read_text())


def own_machine(root: str, run: str) -> None:
    """What makes it a machine of its own: a new boot id at each start."""
    boot_id = Path(run, "boot_id")
    boot_id.write_text(Path("/proc/sys/kernel/random/uuid").read_text())
    bind(str(boot_id), f"{root}/proc/sys/kernel/random/boot_id")
    if os.path.exists("/proc/sysrq-trigger"):
        bind("/dev/null", f"{root}/proc/sysrq-trigger")


def drop_capabilities() -> None:
    """No hand on the host's levers: what is gone from the bounding set cannot come back."""
    for name, number in FORBIDDEN.items():
        check(LIBC.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), f"drop {name}")


def build_root(spec: dict[str, Any]) -> str:
    """Mount the overlay and the file systems in it; returns the new root."""
    root = str(spec["root"])
    layers = f"lowerdir={':'.join(spec['lower'])},upperdir={spec['upper']},workdir={spec['work']}"
    mount("overlay", root, "overlay", 0, layers)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("sys", f"{root}/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    fill_dev(f"{root}/dev")
    mount("run", f"{root}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    mount("tmp", f"{root}/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    os.makedirs(f"{root}/run/lock", mode=0o1777)
    os.chmod(f"{root}/run/lock", 0o1777)
    for source, target in spec["binds"].items():
        if not os.path.isdir(source) and not os.path.exists(root + target):
            Path(root + target).touch()
        bind(source, root + target)
    return root


def move_in(root: str) -> None:
    """Make `root` the root; nothing of the old one stays mounted here."""
    os.chdir(root)
    check(LIBC.syscall(SYS_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    check(LIBC.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def main() -> None:
    """Build, move, become."""
    spec = json.loads(sys.argv[1])
    if spec["pid_file"]:
        Path(spec["pid_file"]).write_text(os.readlink("/proc/self"))
    root = build_root(spec)
    socket.sethostname(spec["hostname"])
    if spec["boot"]:
        own_machine(root, f"{root}/run")
    else:
        keep_resolver(root)
    move_in(root)
    drop_capabilities()
    os.umask(0o022)
    os.execvpe(spec["argv"][0], spec["argv"], spec["env"])


if __name__ == "__main__":
    main()
