"""The plan of the lab: which machines there are, their NICs, MACs and addresses, and where each thing lies on disk."""

import re
from pathlib import Path
from typing import NamedTuple

from .proc import LabError

STATE = Path("/var/lib/clusterd-lab")
IMAGE = STATE / "image"
CHECKOUT = Path(__file__).resolve().parents[3]
NODES = ("serv1", "serv2")
REFERENCES = ("ref1", "ref2")
MAIL_HOST = "10.1.0.253"
"""ref2: a real SMTP server that keeps every message."""
PDU, PDU_PORT = "10.1.0.252", 8023
"""The power switch, when there is one (pdu.py)."""
BMC_PORT, BMC_LOGIN = 443, ("admin", "calvin")
"""At the same address: the nodes' management controllers, and who may use them (bmc.py)."""
WITNESS = "00:10:4b:00:0f:0f"
"""Who asks on a probe's behalf, from the client's cable, and is never heard to be answered: see faults.rules."""
TIME_SERVERS = ("ref1", "ref2", "client")
"""Real NTP servers; their clock can be made wrong."""
MAILDIR = "/var/spool/lab-mail"


class Nic(NamedTuple):
    """One network card: its factory MAC, the segment that it is plugged into, the addresses it has by itself."""

    name: str
    mac: str
    segment: str
    """"lan" or "heartbeat"."""
    addresses: tuple[str, ...] = ()


class Machine(NamedTuple):
    """One machine of the lab."""

    name: str
    nics: tuple[Nic, ...]
    services: tuple[str, ...] = ()
    """Init scripts started at boot, in this order."""

    @property
    def is_node(self) -> bool:
        """One of the cluster's two nodes."""
        return self.name in NODES

    def nic(self, name: str) -> Nic:
        """Its NIC called `name`; "main", "heartbeat" and "redundant" mean eth0, eth1 and eth2."""
        wanted = {"main": "eth0", "heartbeat": "eth1", "redundant": "eth2"}.get(name, name)
        for nic in self.nics:
            if nic.name == wanted:
                return nic
        raise LabError(f"{self.name} has no NIC {name}: it has {', '.join(nic.name for nic in self.nics)}")


def _node(name: str, number: int, macs: tuple[str, str, str]) -> Machine:
    return Machine(
        name,
        (
            Nic("eth0", macs[0], "lan"),
            Nic("eth1", macs[1], "heartbeat", (f"192.168.111.{number}/24",)),
            Nic("eth2", macs[2], "lan"),
        ),
        ("rsyslog", "ssh", "cron"),
    )


def _host(name: str, number: int, services: tuple[str, ...] = ()) -> Machine:
    mac = f"00:10:4b:00:00:{number:02x}"
    addresses = (f"10.1.0.{number}/24", f"fd00:10:1::{number}/64")
    return Machine(name, (Nic("eth0", mac, "lan", addresses),), services)


MACHINES = {
    machine.name: machine
    for machine in (
        _node("serv1", 1, ("00:10:4b:63:1c:08", "00:10:4b:63:1c:09", "00:10:4b:63:1c:0a")),
        _node("serv2", 2, ("00:10:4b:69:5e:10", "00:10:4b:69:5e:11", "00:10:4b:69:5e:12")),
        _host("client", 100, ("lab-time",)),
        _host("ref1", 254, ("lab-time",)),
        _host("ref2", 253, ("lab-time", "lab-mail")),
    )
}


class Place(NamedTuple):
    """Where one lab keeps its things. Everything is named after it, so that `down` finds it without a record."""

    name: str

    @property
    def folder(self) -> Path:
        """Its disks and its record."""
        return STATE / self.name

    @property
    def lock(self) -> Path:
        """Held by whatever changes the lab."""
        return STATE / f"{self.name}.lock"

    @property
    def switch(self) -> str:
        """The network namespace of the switch."""
        return self.netns("switch")

    def netns(self, machine: str) -> str:
        """The network namespace of a machine."""
        return f"{self.name}-{machine}"

    def disk(self, machine: str) -> Path:
        """The folder of a machine's disk: factory/ as delivered, upper/ what was written since."""
        return self.folder / machine


def place(name: str) -> Place:
    """The place of the lab `name`; raises LabError when the name would not do."""
    if not re.fullmatch(r"[a-z][a-z0-9]{0,11}", name) or name == "image":
        raise LabError(f"lab name {name!r}: at most 12 small letters and digits, a letter first, not 'image'")
    return Place(name)


def machine(name: str) -> Machine:
    """The machine called `name`; raises LabError with the names there are."""
    if name not in MACHINES:
        raise LabError(f"no machine {name}: there are {', '.join(MACHINES)}")
    return MACHINES[name]
