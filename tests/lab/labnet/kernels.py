"""Which node's kernel has an address, and exactly when: no client is needed that reaches both halves of a split LAN."""

import os
import re
import signal
import subprocess
import threading
from contextlib import suppress
from datetime import datetime
from types import TracebackType
from typing import NamedTuple

from .lab import Lab
from .plan import NODES
from .proc import environment

_LINE = re.compile(r"^\[(\S+)\] (Deleted )?\d+: \S+ +inet6? ([0-9a-f.:]+)/")


class Spell(NamedTuple):
    """A time for which a node had an address. Wall clock: that of the host, and so of all nodes."""

    node: str
    begin: float
    end: float


class Kernels:
    """Listens to both nodes' kernels; for use in a with statement. A node without power has no address."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.spells: dict[str, list[Spell]] = {}
        self._monitors: dict[str, subprocess.Popen[str]] = {}
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Kernels":
        for node in filter(self.lab.is_on, NODES):
            self._monitors[node] = subprocess.Popen(
                self.lab.argv(node, ["chrt", "--rr", "1", "ip", "-ts", "monitor", "address"]),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=environment(),
                start_new_session=True,
            )
        for node, monitor in self._monitors.items():
            there = set(self.lab.addresses(node))
            thread = threading.Thread(target=self._listen, args=(node, monitor, there, _now()), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for monitor in self._monitors.values():
            with suppress(ProcessLookupError):
                os.killpg(monitor.pid, signal.SIGKILL)  # nsenter, and ip below it
            monitor.wait()
        for thread in self._threads:
            thread.join(10)

    def _listen(self, node: str, monitor: "subprocess.Popen[str]", there: set[str], began: float) -> None:
        since = dict.fromkeys(there, began)
        assert monitor.stdout is not None
        for line in monitor.stdout:
            if not (found := _LINE.match(line)):
                continue
            at, gone, address = datetime.fromisoformat(found[1]).timestamp(), found[2], found[3]
            if not gone:
                since.setdefault(address, at)
            elif address in since:
                self._note(address, node, since.pop(address), at)
        for address, begin in since.items():
            self._note(address, node, begin, _now())

    def _note(self, address: str, node: str, begin: float, end: float) -> None:
        self.spells.setdefault(address, []).append(Spell(node, begin, end))

    def together(self, address: str) -> list[tuple[Spell, Spell]]:
        """When two nodes had the address at once; call it after the with statement."""
        spells = sorted(self.spells.get(address, []), key=lambda spell: spell.begin)
        return [
            (one, other)
            for number, one in enumerate(spells)
            for other in spells[number + 1 :]
            if one.node != other.node and other.begin < one.end
        ]


def _now() -> float:
    return datetime.now().timestamp()
