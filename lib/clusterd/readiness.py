"""Whether this node could serve the group of another one now: a NIC that fails only then has been broken for long."""

from functools import partial

from clusterd import nic, parking, places
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
        self._nics: dict[str, str] = {}
        self._files: dict[str, str] = {}
        self._nics_at = self._files_at = 0.0

    def lacking(self, now: float) -> dict[str, str]:
        """What is not in order, by NIC or file, in words."""
        if now >= self._nics_at:
            self._nics_at = now + NIC_EVERY
            self._nics = nics(self.config)
            for interface in _down(self.config):
                self.worker.do(partial(parking.park, self.config, self.config.me(), interface))
        if now >= self._files_at and self.config.me().driver == "ifupdown":
            self._files_at = now + FILES_EVERY
            self.worker.do(self._read)
        return {**self._nics, **self._files}

    def _read(self) -> None:
        from clusterd import ifupdown

        problems = ifupdown.check(self.config, self.config.me())
        self._files = {problem.split(": ")[0]: problem for problem in reversed(problems)}  # of a file the first one


def nics(config: Config) -> dict[str, str]:
    """What is the matter with the NICs to which the peers' groups would go: not there, no link."""
    found = {}
    for interface, names in _needed(config).items():
        if not nic.exists(interface) or (nic.up(interface) and not nic.carrier(interface)):
            what = "has no link" if nic.exists(interface) else "no such network interface"
            found[interface] = f"{interface}: {what}: {', '.join(names)} could not be reached here"
    return found


def _down(config: Config) -> list[str]:
    """Of these, what is down and idle, as a NIC is that has come only now: to be up before it is needed."""
    return [each for each in _needed(config) if nic.exists(each) and not nic.up(each) and not nic.addresses(each)]


def _needed(config: Config) -> dict[str, list[str]]:
    """The NICs that a takeover needs beside the main one, and for which groups."""
    me = config.me()
    groups: dict[str, list[str]] = {}
    for peer in config.peers():
        try:
            where = places.place(config, peer.name, me)
        except Failed:
            continue  # this node has no NIC for it, and that is its configuration
        groups.setdefault(where.link or where.interface, []).append(peer.name)
    return {interface: names for interface, names in groups.items() if interface != me.interface}
