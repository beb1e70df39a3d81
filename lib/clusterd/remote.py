"""Commands on other nodes, for an administrator: over ssh with the administrator's own keys, by Fabric.

The only module that knows Fabric, and only inside functions: it takes longer to import than most scripts run.
Host keys are known by the nodes' names (/etc/cluster.d/known_hosts), whichever address they are reached at; a
host that is not in there is refused.
"""

import contextlib
import json
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from clusterd import durations, log, model, paths, run
from clusterd.errors import Failed
from clusterd.model import Config, Node

if TYPE_CHECKING:
    from fabric import Connection
    from paramiko import PKey

USER = "root"
CONNECT = 4
"""Seconds for each step until a connection stands; whole ones, as Fabric wants them."""
ASKED_AFTER = 5
"""Seconds without a packet from a node after which its kernel is asked for one, and again after as many."""
GONE_AFTER = 15
"""Seconds without an answer to anything that was sent, after which the node is taken for gone."""
LAST_WORDS = 1.0
"""Seconds for output that is still on its way when the command has ended."""
POLL = 0.01
TIMED_OUT = (124, 137)
"""What timeout(1) says of a command that it had to end, or to kill."""


class Answer(NamedTuple):
    """What came of a command on a node."""

    node: str
    code: int | None
    """Exit code; None if the command did not come to its end, and `why` says why."""
    stdout: str = ""
    stderr: str = ""
    why: str = ""

    @property
    def ok(self) -> bool:
        """It ran to its end and exited 0."""
        return self.code == 0

    def text(self) -> str:
        """One line for people: what failed, or nothing."""
        if self.ok:
            return ""
        said = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return self.why or (said[-1] if said else f"exit {self.code}")

    def fact(self, *, as_json: bool) -> dict[str, Any]:
        """For --json; `as_json` if the command was asked to answer in JSON itself."""
        fact: dict[str, Any] = {"exit": self.code, "stdout": self.stdout, "stderr": self.stderr}
        if as_json and self.stdout:
            with contextlib.suppress(ValueError):
                fact = {"exit": self.code, "answer": json.loads(self.stdout), "stderr": self.stderr}
        return fact if self.ok else {**fact, "error": self.text()}


def everywhere(ask_one: Callable[[Node], Answer], nodes: Sequence[Node]) -> list[Answer]:
    """Ask all nodes at once, one thread each; the answers come in the order of `nodes`.

    A failure is an answer: nothing that a node does or does not do raises.
    """
    answers: dict[str, Answer] = {}

    def work(node: Node) -> None:
        try:
            answers[node.name] = ask_one(node)
        except Exception as error:  # noqa: BLE001 - one node's trouble is a line, not the end of the others
            answers[node.name] = Answer(node.name, None, why=f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [answers[node.name] for node in nodes]


def ask(
    config: Config,
    node: Node,
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: bytes = b"",
    changes: bool = True,
) -> Answer:
    """Run `argv` on `node` as root, here or over ssh, and give up after `timeout` seconds."""
    if node.name == model.hostname():
        argv = ("env", f"PATH={local_path()}", *argv)
        result = run.run(argv, timeout=timeout, stdin=stdin, changes=changes)
        return Answer(
            node.name, result.code, result.stdout, result.stderr, "" if result.code is not None else result.why()
        )
    argv = ("env", f"PATH={search_path()}", *argv)
    line = shlex.join(("timeout", "--kill-after=5", f"{timeout:.0f}", *argv))
    if run.dry_run and changes:
        run.show(("ssh", f"{USER}@{node.name}", line))
        return Answer(node.name, 0)
    log.debug(f"on {node.name}: {line}")
    connection = None
    try:
        connection = connect(config, node)
        return _converse(connection, node, line, stdin, timeout)
    except Failed as error:
        return Answer(node.name, None, why=str(error))
    except (OSError, EOFError) as error:
        return Answer(node.name, None, why=f"the connection broke: {error or type(error).__name__}")
    finally:
        if connection is not None:
            connection.close()


def search_path() -> str:
    """PATH on every node: where the scripts are if they are installed as here, then the usual folders with sbin."""
    return f"{paths.SBIN}:{run.PATH}"


def local_path() -> str:
    """PATH on this node: the scripts beside the running one come first."""
    return f"{os.path.dirname(os.path.realpath(sys.argv[0]))}:{search_path()}"


def addresses(node: Node) -> list[str]:
    """Where the machine itself can be reached, best first; never a group's address, which may be elsewhere."""
    own = (*(network.address for network in node.networks), *node.admin_addresses)
    return [address.partition("/")[0] for address in own]


def connect(config: Config, node: Node) -> "Connection":
    """An open connection to `node`, by the first of its addresses that answers.

    Raises:
        Failed: none of them does, or it is not the node, or it does not let us in.
    """
    why = []
    for address in addresses(node):
        try:
            return _connect(config, node, address)
        except OSError as error:
            why.append(f"{address}: {'no answer' if isinstance(error, TimeoutError) else error.strerror or error}")
    raise Failed(f"does not answer ({'; '.join(why)})")


def _connect(config: Config, node: Node, address: str, known: "PKey | None" = None) -> "Connection":
    """A connection by one address. OSError: try the next one; Failed: that is final.

    `known`: the one of several host keys of its kind that the node has shown.
    """
    import logging

    import paramiko
    from fabric import Connection

    logging.getLogger("paramiko").setLevel(logging.CRITICAL)  # it prints tracebacks of its threads
    # By name, so that what ~/.ssh/config says of the node holds; then the address of our own configuration.
    connection = Connection(
        node.name,
        user=USER,
        connect_timeout=CONNECT,
        connect_kwargs={"banner_timeout": CONNECT, "auth_timeout": CONNECT},
    )
    connection.host = address
    where = address if connection.port == 22 else f"[{address}]:{connection.port}"
    client: Any = connection.client
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    keys = _host_keys(config, node, connection.port)
    for key in keys if known is None else [*keys, known]:
        client.get_host_keys().add(where, key.get_name(), key)  # the last of a kind counts
    try:
        connection.open()
    except paramiko.BadHostKeyException as error:
        if known is None and error.key in keys:
            return _connect(config, node, address, error.key)
        raise Failed(
            f"{address} has another host key than {paths.known_hosts(config.folder)} says: is it {node.name}?"
        ) from None
    except paramiko.AuthenticationException:
        raise Failed(f"{address} lets {USER} in with none of your ssh keys (ssh-copy-id {USER}@{address})") from None
    except paramiko.ssh_exception.NoValidConnectionsError as error:
        raise next(iter(error.errors.values())) from None
    except (paramiko.SSHException, EOFError) as error:
        raise OSError(0, f"ssh: {error or 'closed'}") from None
    _notice_its_end(connection)
    return connection


def _notice_its_end(connection: "Connection") -> None:
    """Have the kernel break the connection when the node is gone without a word, as in a power cut.

    Not by ssh's own keepalive: paramiko sends it, but waits for no answer. Behind a ProxyJump there is no socket of
    our own; the one to the jump host is ssh's affair.
    """
    sock = connection.transport.sock if connection.transport else None
    if not isinstance(sock, socket.socket):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, ASKED_AFTER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, ASKED_AFTER)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_AFTER * 1000)


def _host_keys(config: Config, node: Node, port: int) -> "list[PKey]":
    """What the cluster's known_hosts says of the node: several keys of a kind while one replaces another."""
    from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

    path = paths.known_hosts(config.folder)
    found = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.readlines()
    except OSError as error:
        raise Failed(f"{path}: {error.strerror}: nodes' host keys are needed (see INSTALL)") from None
    for line in lines:
        one = HostKeys()
        with contextlib.suppress(InvalidHostKey):
            entry = HostKeyEntry.from_line(line)
            for name in entry.hostnames if entry else []:
                one.add(name, entry.key.get_name(), entry.key)
            if one.lookup(node.name) or one.lookup(f"[{node.name}]:{port}"):
                found.append(entry.key)
    if not found:
        raise Failed(f"{path} has no host key of {node.name} (see INSTALL)")
    return found


def _converse(connection: "Connection", node: Node, line: str, stdin: bytes, timeout: float) -> Answer:
    """Run `line`, give it `stdin`, take what it says, until it ends or the time is up."""
    end = time.monotonic() + timeout
    channel = _open(connection, line, timeout)
    try:
        channel.sendall(stdin)
        channel.shutdown_write()
    except OSError:
        pass  # it ended without reading; its exit code says more
    out, err = bytearray(), bytearray()
    too_late = f"no end after {durations.show(timeout)}"
    ended = None
    while True:
        _take(channel, out, err)
        now = time.monotonic()
        if channel.exit_status_ready():
            ended = ended or now
            if channel.eof_received or now > ended + LAST_WORDS:
                break
        elif now > end:
            channel.close()
            return Answer(node.name, None, out.decode("utf-8", "replace"), why=too_late)
        time.sleep(POLL)
    _take(channel, out, err)
    code = channel.recv_exit_status()
    said = out.decode("utf-8", "replace"), err.decode("utf-8", "replace")
    if code < 0:
        return Answer(node.name, None, *said, why="the connection broke")
    if code in TIMED_OUT:
        return Answer(node.name, None, *said, why=too_late)
    return Answer(node.name, code, *said)


def _open(connection: "Connection", line: str, timeout: float) -> Any:
    """A channel on which `line` runs."""
    import paramiko

    try:
        channel: Any = connection.create_session()
        channel.settimeout(timeout)
        channel.exec_command(line)
    except paramiko.SSHException as error:
        raise OSError(0, f"ssh: {error}") from None
    return channel


def _take(channel: Any, out: bytearray, err: bytearray) -> None:
    """What has come in meanwhile."""
    while channel.recv_ready():
        out += channel.recv(65536)
    while channel.recv_stderr_ready():
        err += channel.recv_stderr(65536)
