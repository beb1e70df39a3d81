"""Load the configuration: from the cache in /run if no file has changed since, else from the files themselves.

ConfigObj and its validator cost more time than the rest of a script's start, and a script that cron starts every
minute finds the same files nearly always. So the checked result is kept as JSON, with the identity (inode, size,
times) of every file and folder that it came from. Reading the files is configread.py, which is imported only then.
"""

import errno
import json
import os
import stat
import time
from typing import Any, NamedTuple

from clusterd import __version__, model, paths
from clusterd.errors import ConfigError

CLUSTER_FILE = "cluster.conf"
SERVICES = "services"

_RACY = 0.1
"""Seconds, much more than the kernel's clock tick: a younger file may change once more within the same tick."""
_MODULES = (
    *("config", "configread", "configspec", "configservice", "configtypes", "configforms", "configcheck"),
    *("configarbiter", "configtrust", "durations", "model"),
)
"""A new version of any of these reads the files again."""


class Identity(NamedTuple):
    """What tells one state of a file or folder from another: any write, rename, chmod or chown changes it."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int
    """ctime in ns: unlike mtime, nobody can set it back."""

    @classmethod
    def of(cls, found: os.stat_result) -> "Identity":
        """The identity that a stat shows."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)

    @classmethod
    def at(cls, path: str) -> "Identity":
        """What is there now. Of a folder named with a slash at its end only who may write in it, not what is in it."""
        found = os.stat(path)
        if path.endswith("/"):
            return cls(found.st_dev, found.st_ino, found.st_mode, found.st_uid, 0)
        return cls.of(found)


def load(folder: str, me: str | None = None) -> model.Config:
    """The configuration in `folder`, checked, with every default filled in, for the node `me` (default: this host).

    Raises:
        ConfigError: the first problem, as one line: file, section, key, what was found, what is allowed.
    """
    folder = os.path.abspath(folder)
    config = _recall(folder)
    if config is None:
        from clusterd import configread

        config, seen = configread.read(folder)
        _remember(config, seen)
    me = me or model.hostname()
    if me not in config.nodes:
        nodes = ", ".join(config.nodes)
        raise ConfigError(
            f"{folder}/{CLUSTER_FILE}: nodes: found '{nodes}'; allowed: names that include this host, {me}"
        )
    return config


def stamp_of(folder: str) -> tuple[int, ...]:
    """What changes whenever a .conf file does, comes or goes; quick enough to be asked for every second."""
    stamps = []
    for place in (folder, f"{folder}/{SERVICES}"):
        try:
            with os.scandir(place) as entries:
                stamps += sorted(entry.stat().st_ctime_ns for entry in entries if entry.name.endswith(".conf"))
        except OSError:
            stamps.append(0)
    return tuple(stamps)


def problems(folder: str) -> list[str]:
    """Every problem of the configuration in `folder`, a line each; it need not be this host's."""
    from clusterd import configread

    return configread.problems(os.path.abspath(folder))


def read_file(path: str, *, forbidden: int = 0o022) -> tuple[bytes, Identity]:
    """The content of a file that others cannot have written, and what it was when it was read.

    Raises:
        ConfigError: it cannot be read, is no file, or has another owner or one of the `forbidden` mode bits.
    """
    try:
        # Without O_NONBLOCK a named pipe would wait for a writer.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(f"{path}: found a symlink; allowed: a file, here in the folder") from None
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError(f"{path}: cannot be read: not a file")
        refuse_others(path, found, forbidden)
        return file.read(), Identity.of(found)


def refuse_others(path: str, found: os.stat_result, forbidden: int = 0o022) -> None:
    """Refuse a file or folder of somebody else, or one that others may write (or read, as `forbidden` says).

    Raises:
        ConfigError: found and allowed, with the command that mends it.
    """
    if found.st_uid not in (0, os.geteuid()):
        how = "chown -h" if stat.S_ISLNK(found.st_mode) else "chown"
        raise ConfigError(f"{path}: found owner {found.st_uid}; allowed: root ({how} root {path})")
    mode = stat.S_IMODE(found.st_mode)
    if mode & forbidden:
        safe = mode & ~forbidden
        raise ConfigError(f"{path}: found mode {mode:04o}; allowed: {safe:04o} or less (chmod {safe:04o} {path})")


def _recall(folder: str) -> model.Config | None:
    """The configuration from the cache, or None if it is not exactly that of the files as they are now."""
    try:
        fd = os.open(paths.CONFIG_CACHE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as file:
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o600:
                return None
            kept = json.load(file)
        if kept["folder"] != folder or kept["program"] != _program():
            return None
        if any(list(Identity.at(path)) != seen for path, seen in kept["seen"].items()):
            return None
        return _revive(kept["config"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _remember(config: model.Config, seen: dict[str, Identity]) -> None:
    """Keep `config`, unless a file changed meanwhile, or could still change unseen. A failure does not matter."""
    from clusterd import state

    try:
        if any(Identity.at(path) != then for path, then in seen.items()):
            return
        if any(abs(time.time() - then.changed / 1e9) < _RACY for then in seen.values()):
            return
        os.makedirs(paths.RUN, mode=0o755, exist_ok=True)
        kept = {"folder": config.folder, "program": _program(), "seen": seen, "config": config}
        state.write_text(paths.CONFIG_CACHE, json.dumps(kept), durable=False)
    except OSError:
        pass


def _program() -> list[Any]:
    """What the result depends on besides the files."""
    here = os.path.dirname(__file__)
    return [__version__, paths.STATE, *(list(Identity.of(os.stat(f"{here}/{name}.py"))) for name in _MODULES)]


def _revive(kept: Any) -> model.Config:
    """The records again, from the lists that JSON made of them."""
    config = model.Config(*_frozen(kept))
    nodes = {name: model.Node(*_frozen(node)) for name, node in config.nodes.items()}
    services = {name: model.Service(*_frozen(service)) for name, service in config.services.items()}
    return config._replace(
        nodes={
            name: node._replace(networks=tuple(model.Network(*each) for each in node.networks))
            for name, node in nodes.items()
        },
        heartbeat=model.Heartbeat(*config.heartbeat),
        failover=model.Failover(*config.failover),
        fence=model.Fence(*config.fence),
        arbiter=model.Arbiter(*config.arbiter),
        mirror=model.Mirror(*config.mirror),
        timesync=model.Timesync(*config.timesync),
        notify=model.Notify(*config.notify),
        services=services,
    )


def _frozen(value: Any) -> Any:
    """Lists as tuples, at every depth."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
