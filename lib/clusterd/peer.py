"""Asking a peer over ssh or rsh: what is on the other end is its gate (gate.py), never a shell.

With ssh one connection to each peer is kept for a while and shared by all that is asked (ControlMaster): a key
exchange takes longer than most of the questions. It ends by itself, soon if the peer no longer answers.
"""

import json
import os
from collections.abc import Sequence

from clusterd import model, paths, run, view
from clusterd.errors import Failed
from clusterd.model import Config, Node

KEPT = 600
"""Seconds that an unused connection is kept."""
CONNECT = 10
"""Seconds for a connection to be made, at most."""
ALIVE = 5
"""Seconds without a sign of the peer after which it is asked; three times in vain is the end of the connection."""
UNREACHABLE = 255
"""ssh's exit code for a failure of its own."""
LAN = "lan"
"""The watchdog's name for the path over the main NICs."""


class Unreachable(Failed):
    """The peer cannot be talked to now."""


def address(config: Config, node: Node) -> str:
    """The address of `node` to talk to: on the heartbeat network, unless only another path works now."""
    by_path = _by_path(node)
    seen = view.read()
    ages = seen.peers[node.name].paths if seen and node.name in seen.peers else {}
    working = [
        name
        for name in by_path
        if name in ages and (age := ages[name]) is not None and age < config.heartbeat.dead_after
    ]
    chosen = working[0] if working else next(iter(by_path))
    return by_path[chosen].split("/")[0]


def _by_path(node: Node) -> dict[str, str]:
    """The peer's address, with its prefix length, on each path."""
    by_path = {network.name: network.address for network in node.networks}
    for on_lan in (*node.addresses[:1], *node.admin_addresses[:1]):
        by_path[LAN] = on_lan
    return by_path


def shell(config: Config, node: Node) -> tuple[list[str], str]:
    """The remote shell with its options, and what it calls the peer."""
    words = list(config.mirror.remote_shell)
    where = address(config, node)
    if not uses_ssh(config):
        return words, where
    # Of several values of one option ssh takes the first: those of the configuration come before ours.
    options = {
        "HostName": where,
        "HostKeyAlias": node.name,
        "User": "root",
        "IdentityFile": paths.SSH_KEY,
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": paths.known_hosts(config.folder),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "UpdateHostKeys": "no",
        "BatchMode": "yes",
        "PreferredAuthentications": "publickey",
        "ConnectTimeout": min(CONNECT, max(1, int(config.mirror.timeout))),
        "ConnectionAttempts": 1,
        "ServerAliveInterval": ALIVE,
        "ServerAliveCountMax": 3,
        "Compression": "no",
        "ForwardAgent": "no",
        "ForwardX11": "no",
        "LogLevel": "ERROR",
        "ControlMaster": "auto",
        "ControlPath": connection(config, node, where),
        "ControlPersist": KEPT,
    }
    words[1:1] = ["-F", "none", "-T"]
    for name, value in options.items():
        words += ["-o", f"{name}={value}"]
    return words, node.name


def uses_ssh(config: Config) -> bool:
    """Whether the remote shell is ssh: with another one nothing is shared, and the network is trusted."""
    return os.path.basename(config.mirror.remote_shell[0]) == "ssh"


def connection(config: Config, node: Node, where: str) -> str:
    """The socket of the shared connection to `node` at the address `where`; a path of a socket must be short."""
    import hashlib  # only what connects pays for it

    os.makedirs(paths.CONNECTIONS, mode=0o700, exist_ok=True)
    what = "\0".join((*config.mirror.remote_shell, node.name, where, paths.SSH_KEY))
    return f"{paths.CONNECTIONS}/{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def connected(config: Config, node: Node) -> bool:
    """Whether there is a connection to `node` to share, or seems to be."""
    return uses_ssh(config) and os.path.exists(connection(config, node, address(config, node)))


def hang_up(config: Config, subject: str) -> None:
    """End the shared connection to a peer that is no longer heard; what hangs on it fails at once, not after a while.

    Nothing waits for it: in the seconds of an outage the watchdog's worker has records to write.

    Args:
        config: the configuration.
        subject: the peer's name, or "NODE/PATH" if it is not heard on one path only; ALL_PATHS is as none.
    """
    name, _, path = subject.partition("/")
    node = config.nodes[name]
    if not uses_ssh(config):
        return
    for network, where in _by_path(node).items():
        socket = connection(config, node, where.split("/")[0])
        if path in ("", model.ALL_PATHS, network) and os.path.exists(socket):
            run.detach(["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", name], stdin="")


def argv(config: Config, node: Node, words: Sequence[str]) -> list[str]:
    """The command line that asks the gate of `node`; `words` go through a shell there, and must be plain."""
    remote, target = shell(config, node)
    return [*remote, target, gate(config), *([] if uses_ssh(config) else ["--json"]), *words]


def gate(config: Config) -> str:
    """What the gate is called on the other end.

    Over ssh any word will do, for the key has the gate as its forced command. Another shell has to find it, and the
    PATH that rshd gives it has no sbin.
    """
    return "peer_gate" if uses_ssh(config) else paths.GATE


def ask(config: Config, node: Node, words: Sequence[str], *, timeout: float, stdin: str | None = None) -> run.Result:
    """Ask the gate of `node`, and wait for the answer, `timeout` seconds at most."""
    result = run.run(argv(config, node, words), timeout=timeout, stdin=stdin, changes=False)
    return result if uses_ssh(config) else refused(result)


def refused(result: run.Result) -> run.Result:
    """`result` with what the gate says of an error on stdout (--json): rsh has no exit code for it, some no stderr."""
    try:
        answer = json.loads(result.stdout)
        return result._replace(code=int(answer["exit"]), stdout="", stderr=f"peer_gate: {answer['error']}\n")
    except (ValueError, TypeError, KeyError):
        return result


def unreachable(node: Node, code: int | None, said: str) -> Unreachable:
    """The error for a remote shell that ended with `code` after saying `said`, without an answer from the gate."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    why = lines[-1] if lines else "no answer in time" if code is None else f"exit {code}"
    if "Host key verification failed" in said or "host key" in said:
        why = f"its host key is not the one in known_hosts ({why})"
    elif "Permission denied" in said:
        why = f"it does not take this node's key, {paths.SSH_KEY}.pub ({why})"
    return Unreachable(f"{node.name} cannot be reached from {model.hostname()}: {why}")
