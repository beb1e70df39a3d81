"""The configuration as the program sees it: checked, with every default filled in, times in seconds.

`config.load` makes these from the files; nothing else does. Addresses are text as ``ip`` takes it ("10.1.0.1/24").
"""

import os
from typing import NamedTuple

ALL_PATHS = "all"
"""In NODE/PATH, what a condition is about: no path in particular. No network may be called that."""


class Network(NamedTuple):
    """One network of a node on which the nodes talk to each other."""

    name: str
    """"heartbeat", or the name of the further section."""
    interface: str
    address: str
    """With prefix length; it belongs to the machine and never moves."""


class Node(NamedTuple):
    """One server, from NODE.conf."""

    name: str
    interface: str
    """Main NIC, on the LAN."""
    addresses: tuple[str, ...]
    """Of its group: what clients use, and what moves. With prefix length, IPv4 or IPv6."""
    mac: str | None
    """Moves with the addresses; lower case, colons. None with method = address."""
    admin_addresses: tuple[str, ...]
    """Stay with the machine, on the main NIC."""
    gateway: tuple[str, ...]
    """Default routers on the LAN, at most one of each address family."""
    driver: str
    """"iproute2" or "ifupdown": who brings the main and redundant NICs up."""
    networks: tuple[Network, ...]
    """The heartbeat network first, then any further one; the LAN is not among them."""
    redundant: str | None
    """The NIC that takes a peer's MAC and address; None where the method needs none."""
    fence: tuple[tuple[str, str], ...] = ()
    """The fence agent's options for switching this node off, on top of the cluster's."""
    fence_delay: float = 0.0
    """Seconds that others wait before they fence this node."""
    watchdog_device: str = "none"
    """The hardware watchdog's, or "none"."""
    watchdog_timeout: float = 10.0


class Service(NamedTuple):
    """One service, from services/NAME.conf."""

    name: str
    home: str
    """The group that it belongs to."""
    order: int
    kind: str
    """systemd, sysv, command, ocf or none."""
    unit: str
    """[run] name: of the unit or of the init script; the agent's path for ocf."""
    start: tuple[str, ...]
    stop: tuple[str, ...]
    status: tuple[str, ...]
    """Argument vectors of kind = command."""
    timeout: float
    every: float | None
    """Seconds between passes; None: never by itself."""
    paths: tuple[str, ...]
    """Absolute; a folder ends in a slash. Empty: nothing is mirrored."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    whole_file: bool
    bandwidth: int
    """KiB/s, 0: no limit."""
    max_delete: str
    """"10 %" or a number; the cluster's unless the service has its own."""
    before: tuple[str, ...]
    after: tuple[str, ...]
    """Hooks around a pass, on the sender: argument vectors, or empty."""
    parameters: tuple[str, ...] = ()
    """[run] parameters: name=value, for the resource agent of kind ocf."""
    consistent: bool = False
    """After a cut pass a takeover serves the last complete one, and not the newest files."""


class Failover(NamedTuple):
    method: str
    """redundant_nic, macvlan or address."""
    failback: str
    """auto or manual."""
    hold_down: float
    lease: float
    start_alone: str
    """home, any or never."""
    wait_for_peer: float


class Heartbeat(NamedTuple):
    interval: float
    isolated_after: float
    dead_after: float
    port: int


class Fence(NamedTuple):
    agent: str
    """"none" or the program."""
    options: tuple[tuple[str, str], ...]
    """Its keys, as in the section."""
    action: str = "off"
    """off, or reboot: switched on again when its groups are served elsewhere."""
    timeout: float = 40.0
    """Of one action."""


class Arbiter(NamedTuple):
    kind: str = "reference"
    """"reference": the reference hosts alone; "etcd"."""
    endpoints: tuple[str, ...] = ()
    """URLs."""
    ttl: float = 5.0
    timeout: float = 0.5
    """Seconds that one endpoint may take."""
    failsafe: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    user: str = ""
    password_file: str = ""
    """Files by their absolute paths; empty: none."""


class Mirror(NamedTuple):
    remote_shell: tuple[str, ...]
    """Argument vector, "ssh" or "rsh" first."""
    parallel: int
    max_skew: float
    timeout: float
    """Seconds without any data after which a pass or a request to a peer is given up."""


class Timesync(NamedTuple):
    servers: tuple[str, ...]
    step: float
    """Seconds; a larger offset is stepped, a smaller one slewed."""


class Notify(NamedTuple):
    mail: tuple[str, ...]
    sender: str
    smtp: str
    """"host" or "host:port"; empty: the local sendmail."""
    command: tuple[str, ...]
    """Given each event as JSON on stdin; empty: none."""


class Group(NamedTuple):
    """The unit of failover: what is named after its home node."""

    name: str
    home: str
    addresses: tuple[str, ...]
    mac: str | None
    services: tuple[Service, ...]
    """In the order of their start."""


class Config(NamedTuple):
    """The whole configuration of the cluster, the same on every node."""

    folder: str
    """Where it was read."""
    name: str
    nodes: dict[str, Node]
    heartbeat: Heartbeat
    reference: tuple[str, ...]
    """Addresses of the reference hosts, without prefix length."""
    failover: Failover
    fence: Fence
    mirror: Mirror
    keep: str
    """Of [backups]: an age, see durations.parse_age."""
    timesync: Timesync
    notify: Notify
    services: dict[str, Service]
    digest: str
    """SHA-256 of all the files (the key excepted), hex: nodes compare it."""
    arbiter: Arbiter = Arbiter()

    def group(self, name: str) -> Group:
        """The group `name`. KeyError if there is none: check names that come from outside first."""
        node = self.nodes[name]
        services = sorted(
            (service for service in self.services.values() if service.home == name),
            key=lambda service: (service.order, service.name),
        )
        return Group(name, name, node.addresses, node.mac, tuple(services))

    def groups(self) -> tuple[Group, ...]:
        """All groups, in the order of the nodes."""
        return tuple(self.group(name) for name in self.nodes)

    def me(self) -> Node:
        """This machine's own part; KeyError if its hostname is no node (config.load has refused that)."""
        return self.nodes[hostname()]

    def peers(self) -> tuple[Node, ...]:
        """The other nodes, in the order of the configuration."""
        return tuple(node for node in self.nodes.values() if node.name != hostname())


def hostname() -> str:
    """This node's name: the hostname up to the first dot."""
    return os.uname().nodename.split(".")[0]
