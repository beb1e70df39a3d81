"""The machines' root file system: this host's, with an overlay of what they need on top, so that the host stays clean.

Two layers, each made once and kept: the base (Debian packages), keyed by the list of packages; and the program (make
install of the checkout), keyed by the checkout's files.
"""

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

from .plan import CHECKOUT, IMAGE, STATE
from .proc import LabError, locked, run
from .rootfs import Root, run_inside

PACKAGES = [
    "acl",
    "attr",
    "bsd-mailx",
    "chrony",
    "cron",
    "curl",
    "dma",
    "etcd-server",
    "faketime",
    "fence-agents",
    "fping",
    "ifupdown",
    "iproute2",
    "iptables",
    "iputils-arping",
    "iputils-ping",
    "keepalived",
    "less",
    "logrotate",
    "make",
    "nftables",
    "nginx-light",
    "ntpsec-ntpdig",
    "openbsd-inetd",
    "openssh-client",
    "openssh-server",
    "procps",
    "python3",
    "python3-aiosmtpd",
    "python3-pip",
    "python3-venv",
    "rsh-redone-client",
    "rsh-redone-server",
    "rsync",
    "rsyslog",
    "samba",
    "smbclient",
    "tcpdump",
    "util-linux-extra",
]
BUILDING, MOUNTING = IMAGE / "building.lock", IMAGE / "mounting.lock"
"""Two locks: a build takes a while, and labs that need none must not wait for it."""
NO_SERVICES = "#!/bin/sh\nexit 101\n"
"""policy-rc.d while packages are installed: no service is started."""
HIDDEN = (
    *("root", "home", "mnt", "srv", "usr/local", "etc/cron.d", "etc/cluster.d"),
    *("var/lib/clusterd", "var/log/clusterd", STATE.as_posix()[1:]),
)
"""The host's folders that a new machine would not have: shown empty."""
ABSENT = "etc/cluster.d", "var/lib/clusterd", "var/log/clusterd"
"""Those of them that a new machine has not at all, even if the host gets them later."""
TIDY = """
set -e
rm -f /usr/sbin/policy-rc.d /etc/cron.d/* /var/spool/cron/crontabs/* /etc/ssh/ssh_host_*
rm -f /etc/nginx/sites-enabled/* /etc/network/interfaces.d/* /etc/network/if-*.d/chrony /etc/network/if-*.d/ntpsec*
mkdir -p /usr/local/bin /usr/local/sbin /usr/local/lib /usr/local/share
find /var/log -type f -delete
sed -i '/imklog/d' /etc/rsyslog.conf
sed -i 's/^\\(session.*pam_loginuid\\)/# \\1/' /etc/pam.d/cron /etc/pam.d/sshd /etc/pam.d/login
apt-get clean
"""
"""After the packages: nothing of the host's own jobs and keys, and the kernel's log stays the host's."""
BUILD_TIMEOUT = 1200.0

Say = Callable[[str], None]


def base_name() -> str:
    """The name of the base layer: it changes with what goes into it."""
    what = [*PACKAGES, TIDY, *HIDDEN, "absent", *ABSENT, os.uname().machine, Path("/etc/debian_version").read_text()]
    return "base-" + hashlib.sha256("\n".join(what).encode()).hexdigest()[:12]


def sources() -> list[Path]:
    """The checkout's files, tracked or new, without what git ignores; all of them where there is no git."""
    try:
        listing = run(
            ["git", "-c", "safe.directory=*", "-C", CHECKOUT, "ls-files", "-z", "-co", "--exclude-standard"], timeout=30
        ).stdout
        names = {CHECKOUT / name for name in listing.split("\0") if name}
    except LabError:
        names = {path for path in CHECKOUT.rglob("*") if not {".git", ".venv"} & set(path.parts)}
    wanted = (path for path in names if path.relative_to(CHECKOUT).parts[0] not in ("tests", "bench"))
    return sorted(path for path in wanted if path.is_file() or path.is_symlink())


def program_name(base: str, files: list[Path]) -> str:
    """The name of the program layer: it changes with what would be installed, and with the base below it."""
    digest = hashlib.sha256(base.encode())
    for path in files:
        data = os.readlink(path).encode() if path.is_symlink() else path.read_bytes()
        head = f"{path.relative_to(CHECKOUT)} {path.lstat().st_mode:o} {len(data)}\n"
        digest.update(head.encode() + data)
    return f"program-{digest.hexdigest()[:12]}"


def is_mounted(path: Path) -> bool:
    """True when something is mounted at `path`."""
    wanted = str(path)
    return any(line.split(" ")[1] == wanted for line in Path("/proc/self/mounts").read_text().splitlines())


def hide_host_folders(upper: Path) -> None:
    """Make each of HIDDEN an opaque, empty folder in the layer `upper`."""
    for name in HIDDEN:
        folder = upper / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.setxattr(folder, "trusted.overlay.opaque", b"y")
        folder.chmod(0o700 if name == "root" else 0o755)


def deny_host_folders(upper: Path) -> None:
    """Make each of ABSENT a whiteout in the layer `upper`: the kernel writes none for what the host has not (yet)."""
    for name in ABSENT:
        (upper / name).rmdir()
        os.mknod(upper / name, stat.S_IFCHR, os.makedev(0, 0))


def merged_folder(base: str) -> Path:
    """Where the merged view of the host and a base layer is mounted."""
    return IMAGE / base / "merged"


def build_base(folder: Path, say: Say) -> None:
    """Install the packages into a new layer; `folder` appears only when it is whole."""
    say(f"building the image: {len(PACKAGES)} packages and what they need (once)")
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    upper = new / "upper"
    policy = upper / "usr/sbin/policy-rc.d"
    policy.parent.mkdir(parents=True)
    policy.write_text(NO_SERVICES)
    policy.chmod(0o755)
    hide_host_folders(upper)
    root = Root(new, (Path("/"),), upper, "image")
    run_inside(root, ["apt-get", "-q", "update"], timeout=BUILD_TIMEOUT)
    install = ["apt-get", "-qy", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends", *PACKAGES]
    run_inside(root, install, timeout=BUILD_TIMEOUT)
    run_inside(root, ["sh", "-c", TIDY], timeout=120)
    deny_host_folders(upper)
    new.rename(folder)


def base(say: Say) -> str:
    """The name of the base layer, built if need be, and mounted."""
    name = base_name()
    if not (IMAGE / name).is_dir():
        with locked(BUILDING):
            if not (IMAGE / name).is_dir():
                build_base(IMAGE / name, say)
    mount(name)
    return name


def mount(name: str) -> None:
    """Mount the merged view of a base layer, unless it is."""
    folder, merged = IMAGE / name, merged_folder(name)
    with locked(MOUNTING):
        if not folder.is_dir():
            raise LabError(f"{folder} is gone: the lab that stood on it must go down")
        merged.mkdir(exist_ok=True)
        if not is_mounted(merged):
            options = f"lowerdir=/,upperdir={folder / 'upper'},workdir={folder / 'work'}"
            run(["mount", "-t", "overlay", "-o", options, "clusterd-lab", merged])


def export_sources(files: list[Path], target: Path) -> None:
    """Copy the checkout's files to `target`, as an administrator would unpack them there."""
    for path in files:
        copy = target / path.relative_to(CHECKOUT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy, follow_symlinks=False)


def installable() -> bool:
    """True when the checkout has an install target."""
    makefile = CHECKOUT / "Makefile"
    return makefile.is_file() and "\ninstall:" in "\n" + makefile.read_text()


def build_program(folder: Path, merged: Path, files: list[Path], say: Say) -> None:
    """Install the checkout into a new layer over the base, the way INSTALL says; whole or not at all."""
    say("installing clusterd from the checkout into the image")
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    export_sources(files, new / "upper/usr/src/clusterd")
    cache = IMAGE / "pip-cache"
    cache.mkdir(exist_ok=True)
    root = Root(new, (merged,), new / "upper", "image", {str(cache): "/root/.cache/pip"})
    if installable():
        run_inside(
            root, ["make", "-C", "/usr/src/clusterd", "install", "PREFIX=/usr/local", "EXTRAS=etcd"], timeout=600
        )
    new.rename(folder)


def program(base: str, say: Say) -> str:
    """The name of the program layer for the checkout as it is now, built if need be."""
    files = sources()
    folder = IMAGE / program_name(base, files)
    if not folder.is_dir():
        with locked(BUILDING):
            if not folder.is_dir():
                build_program(folder, merged_folder(base), files, say)
    os.utime(folder)
    return folder.name


def tidy(used: set[str], keep: int = 3) -> None:
    """Drop what no lab uses: other bases than today's, all but the `keep` newest program layers.

    `used` has the names of the layers that labs stand on. While somebody builds, nothing is dropped.
    """
    try:
        with locked(BUILDING, timeout=0):
            programs = sorted(IMAGE.glob("program-*"), key=lambda path: path.stat().st_mtime, reverse=True)
            today = used | {base_name()} | {path.name for path in programs[:keep] if path.suffix != ".new"}
            for path in (*programs, *IMAGE.glob("base-*")):
                if path.name not in today:
                    release(path)
                    shutil.rmtree(path, ignore_errors=True)
    except LabError:
        return


def release(folder: Path) -> None:
    """Unmount the merged view of a base; the machines that stand on it keep theirs."""
    if is_mounted(folder / "merged"):
        subprocess.run(["umount", "-l", str(folder / "merged")], check=False, timeout=30)


def release_unused() -> None:
    """Unmount what the image needs mounted, if the last lab is down."""
    with locked(MOUNTING):
        if any(path.is_dir() and path != IMAGE for path in STATE.glob("*")):
            return
        for folder in IMAGE.glob("base-*"):
            release(folder)
