"""What an administrator does to a new machine before it first runs: INSTALL, step by step, as files and commands."""

import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import clusterconf, image, power
from .plan import MACHINES, MAIL_HOST, MAILDIR, NODES, Machine, Place
from .proc import PYTHON
from .record import Record
from .rootfs import Root, run_inside

HERE = Path(__file__).parent
KEYS = """
set -e
cd /run/keys
for machine in serv1 serv2; do
    mkdir -p "$machine/etc/ssh"
    ssh-keygen -q -A -f "$machine"
    ssh-keygen -q -t ed25519 -N '' -C "clusterd@$machine" -f "$machine/clusterd"
done
for machine in serv1 serv2 client; do
    mkdir -p "$machine"
    ssh-keygen -q -t ed25519 -N '' -C "admin@$machine" -f "$machine/admin"
done
"""
NGINX = """server {
    listen 80 default_server;
    listen [::]:80 default_server ipv6only=on;
    root /srv/www;
    location = /node { default_type text/plain; return 200 "$hostname\\n"; }
}
"""
SMB = """[global]
    server role = standalone server
    map to guest = bad user
    disable netbios = yes
    smb ports = 445
    load printers = no
    printcap name = /dev/null
    log file = /var/log/samba/log.smbd
[share]
    path = /srv/samba/share
    guest ok = yes
    read only = no
"""
RSH = "shell stream tcp nowait root /usr/sbin/tcpd /usr/sbin/in.rshd\n"
SYSLOG_INIT = """#!/bin/sh
# Debian 12 has no init script for rsyslog any more.
case "$1" in
start) rsyslogd -i /run/rsyslogd.pid ;;
stop) start-stop-daemon --stop --oknodo --retry 2 --pidfile /run/rsyslogd.pid ;;
rotate) kill -HUP "$(cat /run/rsyslogd.pid)" ;;
esac
"""
TIME_INIT = """#!/bin/sh
# Starts and stops the lab's time server, which is as far off as /etc/lab-time says, and sets no clock (-x).
case "$1" in
start) faketime -f "$(cat /etc/lab-time)" chronyd -x -f /etc/chrony/lab.conf ;;
stop) start-stop-daemon --stop --oknodo --retry 5 --pidfile /run/chronyd.pid ;;
esac
"""
TIME_CONF = "local stratum 3\nallow all\ncmdport 0\nuser root\npidfile /run/chronyd.pid\n"
MAIL_INIT = f"""#!/bin/sh
# Starts and stops the lab's mail sink.
case "$1" in
start) start-stop-daemon --start --background --pidfile /run/lab-mail.pid --make-pidfile \\
    --startas {PYTHON} -- /usr/local/lib/lab/mailsink.py {MAIL_HOST} {MAILDIR} ;;
stop) start-stop-daemon --stop --oknodo --pidfile /run/lab-mail.pid ;;
esac
"""
LIVE_PATHS = ("/etc/cron.d/clusterd", "/etc/cluster.d")


@dataclass
class Delivery:
    """What a machine is given: paths removed, files written, commands run, in this order."""

    remove: list[str] = field(default_factory=list)
    files: dict[str, tuple[str, int]] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)

    def as_json(self) -> str:
        """For apply.py."""
        return json.dumps({"remove": self.remove, "files": self.files, "commands": self.commands})


def hosts() -> str:
    """/etc/hosts of every machine: a node's name is its address on the heartbeat network, but its service's name that
    of its group.
    """
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
    for number, name in enumerate(NODES, 1):
        lines.append(f"192.168.111.{number} {name}")
        lines.append(f"10.1.0.{number} {name}-lan")
    lines += ["10.1.0.1 files www", "10.1.0.2 mail", "10.1.0.100 client", "10.1.0.254 ref1", "10.1.0.253 ref2"]
    return "\n".join(lines) + "\n"


def stanzas(interface: str, addresses: Sequence[str], mac: str = "") -> str:
    """The stanzas of one interface for ifupdown; the MAC, if any, in the IPv4 one."""
    lines = []
    for address in addresses:
        v6 = ":" in address
        lines += [f"iface {interface} {'inet6' if v6 else 'inet'} static", f"    address {address}"]
        lines += ["    dad-attempts 0", "    accept_ra 0"] if v6 else []
        lines += [f"    hwaddress ether {mac}"] if mac and not v6 else []
    return "\n".join(lines) + "\n"


def interfaces(machine: Machine) -> str:
    """/etc/network/interfaces: what comes up at boot, and on nodes what clusterd brings up (no "auto")."""
    text = "auto lo\niface lo inet loopback\n"
    for nic in machine.nics:
        if nic.addresses:
            text += f"\nauto {nic.name}\n{stanzas(nic.name, nic.addresses)}"
    if machine.is_node:
        for number, name in enumerate(NODES, 1):
            own = "eth0" if name == machine.name else name
            note = "" if own == "eth0" else f"# the peer's, on the redundant NIC: ifup eth2={name}\n"
            addresses = (f"10.1.0.{number}/24", f"fd00:10:1::{number}/64")
            text += f"\n{note}{stanzas(own, addresses, MACHINES[name].nic('eth0').mac)}"
    return text


def make_keys(place: Place, merged: Path) -> Path:
    """Make the ssh keys of all machines; returns their folder."""
    folder = place.folder / "keys"
    folder.mkdir()
    scratch = place.folder / "scratch"
    root = Root(scratch, (merged,), scratch / "upper", "image", {str(folder): "/run/keys"})
    run_inside(root, ["sh", "-c", KEYS], timeout=60)
    shutil.rmtree(scratch)
    return folder


def _key(folder: Path, name: str) -> str:
    return (folder / name).read_text()


def ssh_files(machine: Machine, keys: Path) -> dict[str, tuple[str, int]]:
    """Host keys, the administrator's key, and on nodes the cluster's key tied to peer_gate."""
    made: dict[str, tuple[str, int]] = {}
    host_keys = {name: _key(keys, f"{name}/etc/ssh/ssh_host_ed25519_key.pub").split() for name in NODES}
    allowed = [_key(keys, f"{name}/admin.pub") for name in (*NODES, "client")]
    if machine.is_node:
        for file in (keys / machine.name / "etc/ssh").iterdir():
            made[f"/etc/ssh/{file.name}"] = (file.read_text(), 0o644 if file.suffix == ".pub" else 0o600)
        for suffix, mode in (("", 0o600), (".pub", 0o644)):
            made[f"/var/lib/clusterd/ssh/id_ed25519{suffix}"] = (_key(keys, f"{machine.name}/clusterd{suffix}"), mode)
        for peer in NODES:
            if peer != machine.name:
                gate = f'restrict,command="/usr/local/sbin/peer_gate --node {peer}" '
                allowed.append(gate + _key(keys, f"{peer}/clusterd.pub"))
        made["/root/.ssh/authorized_keys"] = ("".join(allowed), 0o600)
        known = "".join(f"{name} {kind} {key}\n" for name, (kind, key, *_) in host_keys.items())
        made["/etc/cluster.d/known_hosts"] = (known, 0o644)
    made["/root/.ssh/id_ed25519"] = (_key(keys, f"{machine.name}/admin"), 0o600)
    made["/root/.ssh/known_hosts"] = (
        "".join(
            f"{name},{name}-lan,192.168.111.{number},10.1.0.{number} {' '.join(host_keys[name][:2])}\n"
            for number, name in enumerate(NODES, 1)
        ),
        0o644,
    )
    return made


def node_files() -> dict[str, tuple[str, int]]:
    """What both nodes have alike: the services' own configuration, and a bit to serve."""
    return {
        "/etc/nginx/sites-enabled/office": (NGINX, 0o644),
        "/etc/samba/smb.conf": (SMB, 0o644),
        "/srv/www/index.html": ("<h1>office</h1>\n", 0o644),
        "/srv/samba/share/readme.txt": ("the office's files\n", 0o644),
        "/etc/init.d/rsyslog": (SYSLOG_INIT, 0o755),
        "/etc/inetd.conf": (RSH, 0o644),
        "/etc/hosts.equiv": ("192.168.111.1\n192.168.111.2\n", 0o644),
        "/root/.rhosts": ("192.168.111.1 root\n192.168.111.2 root\n", 0o600),
        "/etc/dma/dma.conf": (f"SMARTHOST {MAIL_HOST}\nMAILNAME /etc/mailname\n", 0o644),
        "/etc/aliases": ("root: admin@office.example\n", 0o644),
        "/usr/local/sbin/fence_lab": ((HERE / "fence_lab.py").read_text(), 0o755),
    }


NODE_COMMANDS = [
    ["useradd", "--create-home", "--uid", "2001", "alice"],
    ["useradd", "--create-home", "--uid", "2002", "bob"],
    ["chmod", "1777", "/srv/samba/share"],
    ["chmod", "700", "/root/.ssh", "/var/lib/clusterd", "/var/lib/clusterd/ssh"],
    ["chown", "-R", "root:root", "/srv"],
]


def delivery(machine: Machine, keys: Path, secret: str, bare: bool) -> Delivery:
    """Everything that makes the bare image this machine."""
    made = Delivery()
    made.files |= {
        "/etc/hostname": (f"{machine.name}\n", 0o644),
        "/etc/mailname": (f"{machine.name}.office.example\n", 0o644),
        "/etc/hosts": (hosts(), 0o644),
        "/etc/resolv.conf": ("# no name server: /etc/hosts has all names\n", 0o644),
        "/etc/network/interfaces": (interfaces(machine), 0o644),
        "/usr/local/lib/lab/init.py": ((HERE / "init.py").read_text(), 0o644),
    }
    if machine.name in (*NODES, "client"):
        made.files |= ssh_files(machine, keys)
    if machine.is_node:
        made.files |= node_files()
        made.commands += NODE_COMMANDS
        made.files |= clusterconf.files() | {"/etc/cluster.d/key": (f"{secret}\n", 0o600)}
        made.commands.append(["chmod", "700", "/etc/cluster.d"])
        if bare:
            made.commands.append(["rm", "-rf", *LIVE_PATHS])
    if "lab-time" in machine.services:
        made.files["/etc/init.d/lab-time"] = (TIME_INIT, 0o755)
        made.files["/etc/chrony/lab.conf"] = (TIME_CONF, 0o644)
        made.files["/etc/lab-time"] = ("+0\n", 0o644)
    if "lab-mail" in machine.services:
        made.files["/etc/init.d/lab-mail"] = (MAIL_INIT, 0o755)
        made.files["/usr/local/lib/lab/mailsink.py"] = ((HERE / "mailsink.py").read_text(), 0o644)
    return made


def apply_argv() -> list[str]:
    """The command that carries out a Delivery on its stdin."""
    return [PYTHON, "-I", "-c", (HERE / "apply.py").read_text()]


def provision(place: Place, kept: Record) -> None:
    """Make the factory/ layer of every machine's disk."""
    keys, secret = make_keys(place, image.merged_folder(kept.base)), secrets.token_hex(32)
    for machine in MACHINES.values():
        disk = place.disk(machine.name)
        below = power.layers(place, machine, kept)[1:]
        root = Root(disk, below, disk / "factory", machine.name)
        run_inside(root, apply_argv(), text_in=delivery(machine, keys, secret, kept.bare).as_json(), timeout=120)
        shutil.rmtree(disk / "work")
