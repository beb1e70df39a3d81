"""The probe's process: a client that never stops asking, and a witness at the switch's ports.

Argument: a JSON object with netns paths, address, intervals and the log file. Lines on stdin are marks; its end is
the end. Everything seen becomes one JSON line with "t", CLOCK_MONOTONIC in seconds. Runs by itself in the client's
network namespace (it may be root, and cheap: standard library only).
"""

import asyncio
import ctypes
import json
import os
import socket
import struct
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from time import monotonic, time
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import frames  # type: ignore[import-not-found]

CLONE_NEWNET = 0x40000000
ETH_P_ALL = 3
SO_ATTACH_FILTER = 26
SO_TIMESTAMPNS = 35
RTMGRP_NEIGH = 4
STALL = 0.03
"""Seconds by which the probe itself may be late before it says so."""


def enter_netns(path: str) -> None:
    """Move this process into a network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(path, "rb") as file:
        if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")


def come_first() -> None:
    """A client is a machine of its own in real life: do not let this one wait for the nodes' processes."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        os.setpriority(os.PRIO_PROCESS, 0, -15)


def packet_socket(interface: str, wanted: bytes) -> socket.socket:
    """A socket that sees the frames of an interface that a filter (struct sock_filter) takes."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
    program = ctypes.create_string_buffer(wanted, len(wanted))
    sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(wanted) // 8, ctypes.addressof(program)))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    sock.bind((interface, ETH_P_ALL))
    return sock


def neighbour_socket() -> socket.socket:
    """A socket that hears of every change of the neighbour table, the present entries first."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    sock.bind((0, RTMGRP_NEIGH))
    sock.send(frames.neighbour_dump())
    return sock


class Agent:
    """One probe of one address."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.address = str(spec["address"])
        self.v6 = ":" in self.address
        self.spec = spec
        self.log = open(spec["log"], "w", encoding="utf-8", buffering=1)  # noqa: SIM115 open until the process ends
        self.identity = os.getpid() & 0xFFFF
        self.sent: dict[int, float] = {}
        self.mac = ""
        self.tasks: set[asyncio.Task[None]] = set()

    def note(self, kind: str, when: float | None = None, **what: object) -> None:
        """One line of the log: of now, or of an earlier moment."""
        when = monotonic() if when is None else when
        self.log.write(json.dumps({"t": round(when, 6), "k": kind, **what}) + "\n")

    def witnesses(self) -> list[tuple[socket.socket, str, str]]:
        """Sockets at the nodes' ports of the switch: (socket, node, NIC)."""
        wanted = frames.only(self.address, claims=True)
        return [(packet_socket(f"w-{node}-{nic}", wanted), node, nic) for node, nic in self.spec["ports"]]

    def on_wire(self, sock: socket.socket, node: str, nic: str) -> None:
        """Frames that a node sends into the switch."""
        for frame, when in self.received(sock):
            claim = frames.claim(frame, self.address)
            if claim and claim.what != "frame":
                self.note("wire", when, node=node, nic=nic, what=claim.what, mac=claim.mac, source=claim.source)

    def on_client_wire(self, sock: socket.socket) -> None:
        """ARP and ND messages that reach the client."""
        for frame, when in self.received(sock):
            claim = frames.claim(frame, self.address)
            if claim and claim.what.startswith("a"):
                self.note("arp", when, what=claim.what, mac=claim.mac, source=claim.source)

    @staticmethod
    def received(sock: socket.socket) -> list[tuple[bytes, float]]:
        """The frames that wait on a packet socket, and when the kernel got them.

        By its clock, for a probe that is late finds frames on several sockets, and would mistake their order.
        """
        found: list[tuple[bytes, float]] = []
        try:
            while len(found) < 200:
                frame, ((_, _, stamp),), _, _ = sock.recvmsg(256, socket.CMSG_SPACE(16))
                seconds, nanoseconds = struct.unpack("qq", stamp)
                found.append((frame, monotonic() - (time() - seconds - nanoseconds / 1e9)))
        except OSError:
            pass
        return found

    def on_neighbour(self, sock: socket.socket) -> None:
        """The client's own entry for the address."""
        for message in self.netlink(sock):
            mac = frames.neighbour(message, self.address)
            if mac and mac != self.mac:
                self.mac = mac
                self.note("neigh", mac=self.mac)

    @staticmethod
    def netlink(sock: socket.socket) -> list[bytes]:
        """The messages that wait on a netlink socket."""
        found: list[bytes] = []
        try:
            while True:
                data = sock.recv(65536)
                while len(data) >= 16:
                    length = int.from_bytes(data[:4], sys.byteorder)
                    found.append(data[:length])
                    data = data[(length + 3) & ~3 :]
        except OSError:
            return found

    def on_echo(self, sock: socket.socket) -> None:
        """Answers to the pings."""
        try:
            while True:
                packet, where = sock.recvfrom(2048)
                sequence = frames.echo_reply(packet, self.v6, self.identity)
                if sequence is not None and where[0] == self.address:
                    now = monotonic()
                    self.note("icmp", seq=sequence, ms=round((now - self.sent.get(sequence, now)) * 1000, 3))
        except OSError:
            pass

    async def ping(self) -> None:
        """One echo request at each tick."""
        kind = socket.IPPROTO_ICMPV6 if self.v6 else socket.IPPROTO_ICMP
        family = socket.AF_INET6 if self.v6 else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, kind)
        asyncio.get_running_loop().add_reader(sock, self.on_echo, sock)
        async for number in self.ticks(self.spec["icmp_ms"] / 1000):
            self.sent[number & 0xFFFF] = monotonic()
            try:
                sock.sendto(frames.echo_request(self.v6, self.identity, number), (self.address, 0))
            except OSError:
                continue

    async def who_has(self) -> None:
        """One question to everybody at each tick: who has an entry for the address, as the client, asks only one."""
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
        sock.bind(("eth0", 0))
        question = frames.question(self.address, self.spec["witness"])
        async for _ in self.ticks(self.spec["who_has_ms"] / 1000):
            try:
                sock.send(question)
            except OSError:
                continue

    async def ticks(self, every: float) -> Any:
        """Count up at fixed times, however long the work in between takes."""
        start, number = monotonic(), 0
        while True:
            yield number
            number += 1
            late = monotonic() - (start + number * every)
            if late > STALL:
                self.note("stall", ms=round(late * 1000))
                number += int(late / every)
            await asyncio.sleep(max(0.0, start + number * every - monotonic()))

    async def ask(self) -> None:
        """One HTTP request at each tick, several under way at once."""
        async for _ in self.ticks(self.spec["http_ms"] / 1000):
            self.spawn(self.request())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Start a task and keep it alive."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def request(self) -> None:
        """GET /node, over a connection of its own."""
        start = monotonic()
        try:
            async with asyncio.timeout(self.spec["http_timeout_ms"] / 1000):
                answer = await self.get()
            head, _, body = answer.partition(b"\r\n\r\n")
            if b" 200 " not in head[:16]:
                raise OSError(head[:40].decode(errors="replace"))
            self.note("http", start=round(start, 6), node=body.decode(errors="replace").strip())
        except (OSError, TimeoutError) as error:
            self.note("http-fail", start=round(start, 6), why=str(error) or type(error).__name__)

    async def get(self) -> bytes:
        """The whole answer."""
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if self.v6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
            await loop.sock_connect(sock, (self.address, self.spec["http_port"]))
            await loop.sock_sendall(sock, b"GET /node HTTP/1.0\r\nHost: probe\r\n\r\n")
            answer = b""
            while data := await loop.sock_recv(sock, 4096):
                answer += data
            return answer

    async def commands(self) -> None:
        """Marks come on stdin; its end is the end."""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
        while line := await reader.readline():
            self.note("mark", name=line.decode().strip())

    async def run(self, witnesses: list[tuple[socket.socket, str, str]]) -> None:
        """Watch and ask until stdin ends."""
        loop = asyncio.get_running_loop()
        for sock, node, nic in witnesses:
            loop.add_reader(sock, self.on_wire, sock, node, nic)
        readers: list[tuple[socket.socket, Callable[[socket.socket], None]]] = [
            (packet_socket("eth0", frames.only(self.address, claims=False)), self.on_client_wire),
            (neighbour_socket(), self.on_neighbour),
        ]
        for sock, handler in readers:
            loop.add_reader(sock, handler, sock)
        self.note("start")
        if self.spec["who_has_ms"]:
            self.spawn(self.who_has())
        if self.spec["icmp_ms"]:
            self.spawn(self.ping())
        if self.spec["http_ms"]:
            self.spawn(self.ask())
        await self.commands()
        self.note("end")


def main() -> None:
    """Enter the namespaces, then run."""
    spec = json.loads(sys.argv[1])
    come_first()
    agent = Agent(spec)
    enter_netns(spec["switch"])
    witnesses = agent.witnesses()
    enter_netns(spec["client"])
    asyncio.run(agent.run(witnesses))


if __name__ == "__main__":
    main()
