"""Whether this node could serve the group of another one now: a NIC that fails only then has been broken for long."""

from functools import partial

from clusterd import network, nic, parking
from clusterd.errors import Failed
from clusterd.model import Config
from clusterd.worker import Worker

NIC_EVERY = 1.0
FILES_EVERY = 60.0
"""Seconds between two looks at the NICs, and at the distribution's files."""


class Readiness:
    """Looks now and then; what takes a disk is done by the worker."""

    def __init__(self, config: Config, worker: Worker) -> None:
        self.config = config
        self.worker = worker
        self.me = config.me()
        self.needed = _needed(config)
        self._nics: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._nics_at = 0.0
        self._files_at = 0.0 if self.me.driver == "ifupdown" else float("inf")

    def lacking(self, now: float) -> dict[str, str]:
        """What is not in order, by NIC or file, in words."""
        if now >= self._nics_at:
            self._nics_at = now + NIC_EVERY
            self._nics = self._look()
        if now >= self._files_at:
            self._files_at = now + FILES_EVERY
            self.worker.do(self._read)
        return self._nics | self._files

    def _look(self) -> dict[str, str]:
        """What is the matter with the NICs to which the peers' groups would go: not there, no link.

        What is down and idle, as a NIC is that has come only now, is to be up before it is needed.
        """
        found = {}
        for interface, groups in self.needed.items():
            if not network.reachable(interface):
                what = "has no link" if nic.exists(interface) else "no such network interface"
                found[interface] = f"{interface}: {what}: {', '.join(groups)} could not be reached here"
            elif not nic.up(interface) and not nic.addresses(interface):
                self.worker.do(partial(parking.park, self.config, self.me, interface))
        return found

    def _read(self) -> None:
        from clusterd import ifupdown

        problems = ifupdown.check(self.config, self.me)
        self._files = {problem.split(": ")[0]: problem for problem in reversed(problems)}  # of a file the first one


def _needed(config: Config) -> dict[str, list[str]]:
    """The NICs that a takeover needs beside the main one, and for which groups."""
    me = config.me()
    groups: dict[str, list[str]] = {}
    for peer in config.peers():
        try:
            where = network.place(config, peer.name, me)
        except Failed:
            continue  # this node has no NIC for it, and that is its configuration
        groups.setdefault(where.link or where.interface, []).append(peer.name)
    groups.pop(me.interface, None)
    return groups
