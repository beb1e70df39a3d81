"""Heartbeats: what is believed of them, and the sockets that they go through.

A datagram (word.py) is believed only if it names another node of the cluster and is newer than the last one from
there: by the sender's incarnation (a number that rises with every start of its watchdog, kept on its disk and on
ours, so that nothing recorded before a reboot of its can be replayed after it) and the sequence number within it. What
was recorded before a reboot of *ours* is told by our nonce, new at every boot, which the peers repeat: the first word
of a peer's incarnation that we believe has it.
"""

import select
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from clusterd import log, nic, ownership, paths, state, urgency
from clusterd.errors import Failed
from clusterd.word import MAGIC as MAGIC
from clusterd.word import SIZE as SIZE
from clusterd.word import Rejected as Rejected
from clusterd.word import Word as Word
from clusterd.word import body as body
from clusterd.word import decode as decode
from clusterd.word import seal as seal

_INTERNETWORK_CONTROL = 0xC0

AT_ONCE = 500
"""Datagrams taken from a socket in one turn, as many as it holds: more may come for as long as one likes to read."""
HARMLESS = ("own", "duplicate")
"""Reasons that are not counted: our own word by way of an address that moved here, and what came to two addresses."""
LATE = 50
"""Datagrams by which one of the same start may be behind: what goes to an address that is still being resolved waits
in the kernel, while the same words to another address are here already."""
BEHIND = 2
"""Datagrams by which one path may be behind another for its words to be taken in: older ones say what was."""
MEETING = 20
"""Words of a peer that need not repeat our nonce, before they are counted: it has to hear us first."""


class Doorkeeper:
    """Lets each datagram in once: known nodes, the right path, and nothing older than what was heard there."""

    def __init__(
        self,
        me: str,
        nodes: tuple[str, ...],
        keys: Sequence[bytes],
        remember: Callable[[str, int], None] | None = None,
        *,
        nonce: str = "",
        epoch: Callable[[str], int | None] = lambda _group: None,
        rumour: Callable[[Word], None] = lambda _word: None,
    ) -> None:
        """What is kept of the peers begins with what is on the disk.

        Args:
            me: this node.
            nodes: its peers.
            keys: the secrets of the cluster; any of them opens.
            remember: how to keep a node's new incarnation, for a caller that does not wait for disks.
            nonce: what the peers have to repeat; "": nothing.
            epoch: what is known of a group's epoch; None: no such group.
            rumour: is given the words that are signed, but may have been recorded before this boot.
        """
        self.me = me
        self.keys = keys
        self.nonce = nonce
        self.epoch = epoch
        self.rumour = rumour
        self.remember = remember or remember_incarnation
        self.incarnations = {node: _remembered(node) for node in nodes}
        self.last: dict[tuple[str, str], tuple[int, int]] = {}
        self.newest: dict[str, tuple[int, int]] = {}
        self.met: dict[str, tuple[int, str]] = {}
        """The nonce of each peer, with the incarnation that said it: what we repeat."""
        self.unproven: dict[str, int] = {}
        self.rejected: dict[str, int] = {}

    def admit(self, data: bytes, path: str) -> Word | None:
        """The word in `data` that came on `path`; None, counted by reason in `rejected`, if it is not believed."""
        try:
            word = decode(data, path, self.keys)
            self._check(word, path)
        except Rejected as reason:
            if str(reason) in HARMLESS:
                return None
            self.rejected[str(reason)] = self.rejected.get(str(reason), 0) + 1
            return None
        return word

    def echo(self) -> tuple[str, ...]:
        """The peers' nonces, to be repeated."""
        return tuple(nonce for _, nonce in self.met.values() if nonce)

    def _check(self, word: Word, path: str) -> None:
        if word.node == self.me:
            raise Rejected("own")
        if word.node not in self.incarnations:
            raise Rejected("stranger")
        said = (word.incarnation, word.sequence)
        known, newest = self.last.get((word.node, path), (0, 0)), self.newest.get(word.node, (0, 0))
        if word.incarnation < self.incarnations[word.node] or said < (newest[0], newest[1] - LATE):
            raise Rejected("replayed")
        if said <= known or said < (newest[0], newest[1] - BEHIND):
            raise Rejected("duplicate")
        self._believable(word)
        if word.incarnation >= self.met.get(word.node, (0, ""))[0]:
            self.met[word.node] = (word.incarnation, word.nonce)
        if newest[0] != word.incarnation:
            self._prove(word)
        self.last[word.node, path] = said
        self.newest[word.node] = max(newest, said)
        if word.incarnation > self.incarnations[word.node]:
            self.incarnations[word.node] = word.incarnation
            self.remember(word.node, word.incarnation)

    def _believable(self, word: Word) -> None:
        """An epoch that no number of takeovers has made would never be reached again by anybody."""
        for group, claim in word.groups.items():
            known = self.epoch(group)
            if known is not None and not ownership.credible(known, max(claim.epoch, claim.taking)):
                raise Rejected("epoch")

    def _prove(self, word: Word) -> None:
        """The first word of an incarnation: that it repeats our nonce shows that it is of our time."""
        if not self.nonce or not word.nonce or self.nonce in word.echo:
            self.unproven.pop(word.node, None)
            return
        count = self.unproven[word.node] = self.unproven.get(word.node, 0) + 1
        self.rumour(word)
        raise Rejected("unproven" if count > MEETING else "duplicate")

    def kept(self) -> dict[str, Any]:
        """For a loop that goes on in this boot: see `go_on`."""
        last = [[node, path, *said] for (node, path), said in self.last.items()]
        return {"nonce": self.nonce, "last": last, "met": {node: list(met) for node, met in self.met.items()}}

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Go on where another loop of this boot has ended: the peers know its nonce, and what it heard is over."""
        for node, path, incarnation, sequence in kept["last"]:
            if node in self.incarnations:
                self.last[node, path] = (incarnation, sequence)
                self.newest[node] = max(self.newest.get(node, (0, 0)), (incarnation, sequence))
        self.met = {node: (met[0], met[1]) for node, met in kept["met"].items() if node in self.incarnations}
        self.nonce = kept["nonce"]


def next_incarnation() -> int:
    """A number higher than at any earlier start on this disk; on a new disk, the wall clock makes it so.

    A disk that takes nothing keeps nobody from serving: then it is higher than at any earlier start of this boot.
    """
    last = max(int(state.read(path) or 0) for path in (paths.INCARNATION, paths.BOOT_INCARNATION))
    number = max(last + 1, int(time.time()))
    try:
        state.write(paths.INCARNATION, number)
    except OSError as error:
        log.event("incarnation-not-kept", f"{paths.INCARNATION}: {error.strerror}", level="warning")
        state.write(paths.BOOT_INCARNATION, number, durable=False)
    return number


def remember_incarnation(node: str, incarnation: int) -> None:
    """Keep the incarnation of a node on this node's disk."""
    state.write(_peer_file(node), {"incarnation": incarnation}, durable=False)


def _peer_file(node: str) -> str:
    return f"{paths.PEERS}/{node}.json"


def _remembered(node: str) -> int:
    try:
        fact = state.read(_peer_file(node))
        return int(fact["incarnation"]) if fact else 0
    except (Failed, KeyError, TypeError, ValueError):
        return 0


class Path:
    """One network on which the peers are spoken to: UDP sockets bound to a NIC.

    A NIC that is gone or not yet there is no error: sending returns False, receiving nothing, and both work again
    when a NIC of that name is there, even another one. `fileno` is readable when `receive` has something to return.
    """

    def __init__(self, name: str, interface: str, port: int, targets: dict[str, tuple[str, ...]]) -> None:
        """`targets`: the addresses of each peer on this network, without prefix length.

        Raises:
            Failed: the port cannot be had.
        """
        self.name = name
        self.interface = interface
        self.port = port
        self.targets = targets
        self._families = sorted({_family(address) for addresses in targets.values() for address in addresses})
        self._poll = select.epoll()
        self._asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._bound = 0
        self._sockets: dict[int, socket.socket] = {}
        self._follow()

    def fileno(self) -> int:
        """For select, poll and epoll."""
        return self._poll.fileno()

    def send(self, data: bytes) -> bool:
        """Send to every peer; whether the kernel took it for at least one address of each."""
        try:
            self._follow()
        except Failed:
            return False
        taken = True
        for addresses in self.targets.values():
            taken &= any([self._send_one(data, address) for address in addresses])
        return taken

    def _send_one(self, data: bytes, address: str) -> bool:
        try:
            self._sockets[_family(address)].sendto(data, (address, self.port))
        except (OSError, KeyError):
            return False
        return True

    def receive(self) -> list[bytes]:
        """Everything that has come in, or `AT_ONCE` of it; never waits."""
        datagrams = []
        for sock in self._sockets.values():
            for _ in range(AT_ONCE):
                try:
                    datagrams.append(sock.recv(SIZE))
                except BlockingIOError:
                    break
                except OSError:
                    continue
        return datagrams

    def close(self) -> None:
        """Close it all."""
        self._unbind()
        self._asking.close()
        self._poll.close()

    def _follow(self) -> None:
        """Bind to the NIC that has the name now: a socket stays with the NIC that had it before."""
        index = self._index()
        if index == self._bound:
            return
        self._unbind()
        for family in self._families if index else ():
            self._sockets[family] = _open(family, self.interface, self.port)
            self._poll.register(self._sockets[family], select.EPOLLIN)
        self._bound = index

    def _index(self) -> int:
        """The kernel's number of the NIC; 0 if there is none of that name."""
        try:
            return nic.index(self._asking, self.interface)
        except OSError:
            return 0

    def _unbind(self) -> None:
        self._bound = 0
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()


def _family(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _open(family: int, interface: str, port: int) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INTERNETWORK_CONTROL)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, _INTERNETWORK_CONTROL)
        urgency.ahead_of_files(sock)
        sock.bind(("", port))
    except OSError as error:
        sock.close()
        raise Failed(f"heartbeat port {port} on {interface}: {error.strerror}") from None
    return sock
