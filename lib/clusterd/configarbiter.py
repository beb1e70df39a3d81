"""What must agree in [arbiter], and between it and the rest. No I/O but one look whether etcd3gw is there."""

from collections.abc import Iterator
from urllib.parse import urlsplit

from clusterd import model
from clusterd.configcheck import Fault

SPARE = 1.0
"""Seconds that the lease in etcd must have left when every endpoint has been asked once in vain."""
PACKAGE = "etcd3gw"


def faults(config: model.Config) -> Iterator[Fault]:
    """What is wrong with the arbiter's part of the configuration."""
    arbiter = config.arbiter
    for one, other in (("cert", "key"), ("key", "cert"), ("user", "password_file"), ("password_file", "user")):
        if getattr(arbiter, one) and not getattr(arbiter, other):
            yield _fault(other, "", f"what belongs to {one}")
    if arbiter.kind != "etcd":
        return
    if not arbiter.endpoints:
        yield _fault("endpoints", "", "where etcd answers, with kind = etcd")
    least = config.failover.lease + len(arbiter.endpoints) * arbiter.timeout + SPARE
    if arbiter.ttl < least:
        found = f"{arbiter.ttl:g} seconds"
        allowed = f"at least [failover] lease + timeout for each endpoint + {SPARE:g} second: {least:g} seconds"
        yield _fault("ttl", found, allowed)
    yield from _reachable(config)
    if not _there():
        yield _fault("kind", "etcd", f"reference; etcd needs the Python package {PACKAGE}: make install EXTRAS=etcd")


def _reachable(config: model.Config) -> Iterator[Fault]:
    """A node must reach etcd before it has a group's address, and after: on the LAN from an address of its own."""
    import ipaddress

    for endpoint in config.arbiter.endpoints:
        try:
            target = ipaddress.ip_address(urlsplit(endpoint).hostname or "")
        except ValueError:
            continue
        for node in config.nodes.values():
            lan = any(target in ipaddress.ip_interface(address).network for address in node.addresses)
            own = [address for address in node.admin_addresses if (":" in address) == (target.version == 6)]
            if lan and not own:
                yield Fault(node.name, ("main",), "admin_address", "", f"an address from which {endpoint} can be asked")


def _there() -> bool:
    from importlib.util import find_spec

    return find_spec(PACKAGE) is not None


def _fault(key: str, found: str, allowed: str) -> Fault:
    return Fault("cluster", ("arbiter",), key, found, allowed)
