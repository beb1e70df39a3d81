"""/etc/cluster.d of the lab's pair: the article's, with timings for people who wait."""

from collections.abc import Mapping
from typing import Any

from .plan import MACHINES, NODES
from .proc import LabError

Section = dict[str, str]
Files = dict[str, tuple[str, int]]
"""Path: (text, mode)."""

CLUSTER: dict[str, Section] = {
    "": {"name": "office", "nodes": "serv1, serv2"},
    "heartbeat": {"interval": "100 ms", "isolated_after": "180 ms", "dead_after": "300 ms", "port": "694"},
    "reference": {"hosts": "10.1.0.254, 10.1.0.253"},
    "failover": {
        "method": "redundant_nic",
        "failback": "auto",
        "hold_down": "3 seconds",
        "lease": "2 seconds",
        "start_alone": "home",
        "wait_for_peer": "5 seconds",
    },
    "fence": {"agent": "none"},
    "mirror": {"remote_shell": "ssh", "max_delete": "10 %", "parallel": "2", "max_skew": "2 seconds"},
    "backups": {"keep": "30 days"},
    "timesync": {"servers": "10.1.0.254, 10.1.0.253, 10.1.0.100"},
    "notify": {"mail": "root"},
}
FURTHER = {"mirror": ("timeout",), "timesync": ("step",), "notify": ("from", "smtp", "command")}
"""Keys that the lab leaves at their defaults, by section."""

SERVICES: dict[str, dict[str, Section]] = {
    "web": {
        "": {"home": "serv1", "order": "10"},
        "run": {"kind": "sysv", "name": "nginx", "timeout": "30 seconds"},
        "mirror": {"every": "5 minutes", "paths": "/srv/www/"},
    },
    "smbd": {
        "": {"home": "serv1", "order": "20"},
        "run": {"kind": "sysv", "name": "smbd", "timeout": "60 seconds"},
        "mirror": {"every": "5 minutes", "paths": "/srv/samba/, /etc/samba/smb.conf", "exclude": "*.tmp"},
    },
    "mailspool": {
        "": {"home": "serv2"},
        "run": {"kind": "none"},
        "mirror": {"every": "5 minutes", "paths": "/var/mail/"},
    },
    "system": {
        "": {"home": "serv1"},
        "run": {"kind": "none"},
        "mirror": {"every": "1 hour", "paths": "/etc/hosts"},
    },
}


def node_conf(name: str) -> dict[str, Section]:
    """NODE.conf of one node."""
    machine, number = MACHINES[name], NODES.index(name) + 1
    return {
        "": {},
        "main": {
            "interface": "eth0",
            "address": f"10.1.0.{number}/24, fd00:10:1::{number}/64",
            "mac": machine.nic("eth0").mac,
        },
        "heartbeat": {"interface": "eth1", "address": machine.nic("eth1").addresses[0]},
        "redundant": {"interface": "eth2"},
    }


def text(conf: Mapping[str, Mapping[str, str]]) -> str:
    """A configuration as ConfigObj reads it; the section called "" comes first."""
    lines = []
    for section, keys in conf.items():
        lines += [f"[{section}]"] if section else []
        lines += [f"{key} = {value}" for key, value in keys.items()]
    return "\n".join(lines) + "\n"


def changed(conf: Mapping[str, Section], changes: Mapping[str, str | None]) -> dict[str, Section]:
    """`conf` with changes: {"section.key" or "key" before any section: value, or None to leave the key out}."""
    new = {section: dict(keys) for section, keys in conf.items()}
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        keys = new.setdefault(section, {})
        keys.pop(key, None)
        if value is not None:
            keys[key] = value
    return new


def _full_name(key: str) -> str:
    known = {section: {*keys, *FURTHER.get(section, ())} for section, keys in CLUSTER.items()}
    sections = [section for section, keys in known.items() if key in keys]
    if "." in key:
        return key
    if len(sections) != 1:
        raise LabError(f"no key {key} in the lab's cluster.conf: write it as section.key")
    return f"{sections[0]}.{key}" if sections[0] else key


def files(
    *,
    nodes: Mapping[str, Mapping[str, str | None]] | None = None,
    services: Mapping[str, Mapping[str, str | None] | None] | None = None,
    **cluster: str | None,
) -> Files:
    """The files of /etc/cluster.d, except the key and known_hosts.

    `cluster` changes keys of cluster.conf by their name (failback="manual", lease="1 second"); `nodes` and `services`
    change keys of a NODE.conf or a service by "section.key" ({"serv1": {"main.admin_address": "10.1.0.11/24"}}); a
    service that is None is left out, an unknown one is added.
    """
    changes = {_full_name(key.rstrip("_")): value for key, value in cluster.items()}
    made: Files = {"/etc/cluster.d/cluster.conf": (text(changed(CLUSTER, changes)), 0o644)}
    for name in NODES:
        conf = changed(node_conf(name), (nodes or {}).get(name, {}))
        made[f"/etc/cluster.d/{name}.conf"] = (text(conf), 0o644)
    asked: dict[str, Mapping[str, str | None] | None] = {name: {} for name in SERVICES}
    for name, conf_changes in (asked | dict(services or {})).items():
        if conf_changes is not None:
            base: dict[str, Any] = SERVICES.get(name, {"": {}, "run": {}, "mirror": {}})
            made[f"/etc/cluster.d/services/{name}.conf"] = (text(changed(base, conf_changes)), 0o644)
    return made
