"""Every path of the system, named once. Environment variables move a whole tree, for tests and odd systems."""

import os
import sys

CONF = os.environ.get("CLUSTERD_CONF", "/etc/cluster.d")
STATE = os.environ.get("CLUSTERD_STATE", "/var/lib/clusterd")
RUN = os.environ.get("CLUSTERD_RUN", "/run/clusterd")
LOG = os.environ.get("CLUSTERD_LOG", "/var/log/clusterd")

GROUPS = f"{STATE}/groups"
"""One JSON record a group: its epoch and holder as this node knows them."""
STANDBY = f"{STATE}/standby"
"""The standby lock: a node that has it acquires nothing."""
PEERS = f"{STATE}/peers"
"""What was last heard of each peer and must survive a reboot: its incarnation."""
INCARNATION = f"{STATE}/incarnation"
"""The number of this node's watchdog's last start, with which its heartbeats are told from those before."""
PASSES = f"{STATE}/passes"
"""One JSON record a service: the passes sent and received."""
GENERATIONS = f"{STATE}/generations"
"""What the files of a service were like before a pass that is not complete yet; one list a service."""
STRAYS = f"{STATE}/strays"
"""The backup set of each service with files that only this node had, until a person is told (strays.py)."""
TROUBLE = f"{STATE}/trouble"
"""What was last wrong with the passes of a service to a node: a person hears of it once."""
NOTICES = f"{STATE}/notices"
"""Notices that are not delivered yet, and below told/ which ones a person has had."""
BACKUPS = f"{STATE}/backups"
"""One folder a backup set: manifest.json and files/."""
SETBACKS = f"{STATE}/setbacks.json"
"""To which times the clock was set back, and how often (setback.py)."""
CLEAN = f"{STATE}/clean-stop"
"""Present if the watchdog was stopped in order: nothing was held when it ended."""
SSH_KEY = f"{STATE}/ssh/id_ed25519"
"""This node's own key, with which its peers let it through peer_gate."""

LEAVING = f"{RUN}/leaving.json"
"""The groups that are another's, and whose services have not all stopped here (crew.py)."""
VIEW = f"{RUN}/view.json"
"""The watchdog's latest view, with the time until which it is good."""
SURE = f"{RUN}/sure"
"""When the watchdog last heard all claims and acted on them (view.mark_sure)."""
BOOT_INCARNATION = f"{RUN}/incarnation"
"""As INCARNATION, if the disk takes nothing."""
BOOT_TROUBLE = f"{RUN}/trouble"
"""As TROUBLE, if the disk takes nothing."""
FENCED = f"{RUN}/fenced"
"""When each node was last known to be off, by the fence agent; one JSON fact a node, true in our boot."""
BOOTS_OVER = f"{RUN}/boots-over"
"""Which boot of each node is over, by its fence agent: what etcd granted to that one is nobody's (arbiter.py)."""
GRANTS = f"{RUN}/arbiter.json"
"""What the arbiter has granted to this node (arbiter.py)."""
FOUND_SETTINGS = f"{RUN}/settings"
"""The kernel's settings as they were before each group came (netsettings.py)."""
NICS = f"{RUN}/nics"
"""The MAC of each NIC as it was first seen (parking.py)."""
KEYS_IN_USE = f"{RUN}/keys.json"
"""Fingerprints of the secrets that the watchdog uses (keyfile.py)."""
CONFIG_CACHE = f"{RUN}/config.json"
"""The checked configuration, with the identity of the files that it was read from (config.py)."""
LOCKS = f"{RUN}/locks"
STOPPING = f"{RUN}/stopping"
"""A mark for each service whose stop has not ended well: what was told to stop may still go down (services.py)."""
STARTED = f"{RUN}/passes"
"""When the last pass of each service from here began."""
CONNECTIONS = f"{RUN}/ssh"
"""Sockets of the shared connections to the peers."""
RSYNC = f"{RUN}/rsync"
"""Settings of the receiving rsync."""
EVENTS = f"{LOG}/events.jsonl"

SENTINEL = ".clusterd"
"""The file that lies in every mirrored tree, on both sides."""
PARTIAL = ".clusterd-partial"
"""The folder, in each one of a mirrored tree, in which rsync keeps what a pass has sent until all of it is there."""

_PREFIX, _INSTALLED, _ = sys.prefix.partition("/lib/clusterd/venv")
SBIN = f"{_PREFIX}/sbin" if _INSTALLED else "/usr/local/sbin"
"""Where this program is installed, and therefore the other nodes' (cluster install carries it to the same place)."""
GATE = f"{SBIN}/peer_gate"
PROGRAMS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs are looked for, behind the caller's PATH."""
PROC = "/proc"
SYSCTL = "/proc/sys/net"
BOOT_ID = "/proc/sys/kernel/random/boot_id"
INTERFACES = os.environ.get("CLUSTERD_INTERFACES", "/etc/network/interfaces")
"""ifupdown's file; tests point it elsewhere."""
IFCFG = os.environ.get("CLUSTERD_IFCFG", "/etc/sysconfig/network-scripts")
"""Red Hat's folder of ifcfg-* files."""
SYSLOG = os.environ.get("CLUSTERD_SYSLOG", "/dev/log")
"""The socket of the syslog daemon."""


def verified(group: str) -> str:
    """How it was verified that this node answers for `group` (ownership.py)."""
    return f"{RUN}/verified-{group}.json"


def asking(group: str) -> str:
    """The mark of the script that waits for the arbiter's grant of `group` (arbiter.py)."""
    return f"{RUN}/asking-{group}.json"


def heartbeat_key(conf: str) -> str:
    """The shared secret of the heartbeats, below the configuration folder `conf`."""
    return f"{conf}/key"


def known_hosts(conf: str) -> str:
    """The nodes' ssh host keys, below the configuration folder `conf`."""
    return f"{conf}/known_hosts"
