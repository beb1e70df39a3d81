"""The shared secret of the heartbeats, and its successor while it is being replaced.

The file has one line as long as nothing changes. While a new secret is on its way (rotation.py) it has two::

    the secret that signs
    coming the secret that will sign          or:    going the secret that has signed

Whatever is in the file opens a datagram. So two nodes that are one step apart always understand each other.
"""

import hashlib
import hmac
import os
from base64 import b64encode
from typing import NamedTuple

from clusterd import config as configuration
from clusterd import paths, state
from clusterd.errors import ConfigError, Failed
from clusterd.model import Config

LEAST = 16
"""Bytes of a secret."""

_COMING, _GOING = b"coming", b"going"

Marks = tuple[str, str, str]
"""The fingerprints of the first, the coming and the going secret; "" for one that there is not."""


class Keys(NamedTuple):
    """What is in the file."""

    first: bytes
    """It signs."""
    coming: bytes = b""
    """It is to sign next; "" if none is coming."""
    going: bytes = b""
    """It has signed before; "" if none is going."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """All that open, the one that signs first."""
        return tuple(filter(None, self))

    @property
    def marks(self) -> Marks:
        """What tells these from others, and tells nobody what they are."""
        first, coming, going = (_mark(secret) if secret else "" for secret in self)
        return first, coming, going


def read(config: Config) -> Keys:
    """The secrets of the cluster.

    Raises:
        ConfigError: missing, too short, or others may read or write the file.
    """
    path = paths.heartbeat_key(config.folder)
    text, _ = configuration.read_file(path, forbidden=0o077)
    return parse(path, text)


def parse(path: str, text: bytes) -> Keys:
    """What a file at `path` with this content says.

    Raises:
        ConfigError: a secret is too short, or there is a line that is none of the three.
    """
    first, *further = text.rstrip(b"\r\n").split(b"\n")
    found = {b"": first.rstrip(b"\r")}
    for number, line in enumerate(further, 2):
        word, _, secret = line.rstrip(b"\r").partition(b" ")
        if word not in (_COMING, _GOING) or len(found) > 1:
            allowed = "one line; or, while the key is being rotated, a second one that begins with coming or going"
            raise ConfigError(f"{path}: line {number}: found something else; allowed: {allowed}")
        found[word] = secret
    for secret in found.values():
        if len(secret) < LEAST:
            make = f"(umask 077; head -c 32 /dev/urandom | base64 > {path})"
            raise ConfigError(
                f"{path}: found {len(secret)} bytes; allowed: at least {LEAST}, the same on all nodes: {make}"
            )
    return Keys(found[b""], found.get(_COMING, b""), found.get(_GOING, b""))


def write(folder: str, keys: Keys) -> None:
    """Replace the file in one step, durably."""
    state.write_text(paths.heartbeat_key(folder), content(keys).decode("utf-8", "surrogateescape"))


def content(keys: Keys) -> bytes:
    """What is in the file then."""
    lines = [keys.first]
    lines += [b" ".join((word, secret)) for word, secret in ((_COMING, keys.coming), (_GOING, keys.going)) if secret]
    return b"".join(line + b"\n" for line in lines)


def make() -> bytes:
    """A new secret."""
    return b64encode(os.urandom(32))


def _mark(secret: bytes) -> str:
    """Says nothing about the secret to who has not got it."""
    return hmac.digest(secret, b"clusterd: which key is it?", hashlib.sha256).hex()[:16]


class Ring:
    """The secrets that a running watchdog uses: it takes up a change of the file without starting again."""

    def __init__(self, config: Config, keys: Keys) -> None:
        self.config = config
        self.keys = keys
        self.stamp = _stamp(config)
        self._publish()

    def look(self) -> bool:
        """Whether the file has changed, and what is in it is used from now on.

        Raises:
            ConfigError: it has changed and cannot be used: what was there before is used on.
        """
        stamp = _stamp(self.config)
        if stamp == self.stamp:
            return False
        self.stamp = stamp
        keys = read(self.config)
        changed, self.keys = keys != self.keys, keys
        self._publish()
        return changed

    def _publish(self) -> None:
        fact = {"boot": state.boot_id(), "marks": self.keys.marks}
        state.write(paths.KEYS_IN_USE, fact, durable=False)


def in_use() -> Marks | None:
    """The secrets that the watchdog of this boot has taken up, if it has written that down."""
    try:
        fact = state.read(paths.KEYS_IN_USE)
        first, coming, going = fact["marks"]
        return (first, coming, going) if fact["boot"] == state.boot_id() else None
    except (Failed, TypeError, KeyError, ValueError):
        return None


def _stamp(config: Config) -> tuple[int, ...]:
    try:
        found = os.stat(paths.heartbeat_key(config.folder))
    except OSError:
        return ()
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
