"""What the sender of a pass says on the control channel, held to its form: it may come from a node that has gone wrong.

Every path in it is one below the service's own, in its shortest form: nothing that is named here leads anywhere else.
"""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from clusterd import backups
from clusterd.errors import Failed
from clusterd.manifest import DELETED, REPLACED
from clusterd.model import Service


class Begin(NamedTuple):
    """The pass is going to change files."""

    space: dict[str, int]
    """Bytes that are to come, by configured path."""
    folders: list[str]
    """Those that it will delete."""
    both: list[str]
    """What was changed here and there."""
    named: list[str]
    """What it will send, or touch, under a name as rsync gives to its temporary files."""
    sent: list[str] | None = None
    """All whose content it will send; None: too many, or an older program does not say."""
    kept: Sequence[str] = ()
    """What it will replace or delete; an older program does not say."""
    gone: Sequence[str] = ()
    """On the way back: what of it it will delete; likewise."""


class End(NamedTuple):
    """The pass is over."""

    complete: bool
    entries: int
    changes: list[backups.Change]


def begin(service: Service, message: dict[str, Any]) -> Begin:
    """Read it.

    Raises:
        Failed: it is not what a sender says.
    """
    space = _of(message, "space", dict)
    if not all(path in service.paths and _is_count(size) for path, size in space.items()):
        raise _nonsense("space")
    folders = [path for path in _paths(service, message, "folders") if os.path.realpath(path) == path.rstrip("/")]
    named = _paths(service, message, "named") if "named" in message else []
    sent = _paths(service, message, "sent") if message.get("sent") is not None else None
    kept = _paths(service, message, "kept") if "kept" in message else []
    gone = _paths(service, message, "gone") if "gone" in message else []
    return Begin(space, folders, _paths(service, message, "both"), named, sent, kept, gone)


def end(service: Service, message: dict[str, Any]) -> End:
    """Read it.

    Raises:
        Failed: it is not what a sender says.
    """
    complete = _of(message, "complete", bool)
    changes = []
    for each in _of(message, "changes", list) if "changes" in message else []:
        if not isinstance(each, list) or len(each) != 2 or each[1] not in (REPLACED, DELETED):
            raise _nonsense("changes")
        changes.append(backups.Change(_path(service, each[0], "changes"), each[1]))
    entries = message.get("entries", 0)
    if not _is_count(entries):
        raise _nonsense("entries")
    return End(complete, entries, changes)


def _paths(service: Service, message: dict[str, Any], key: str) -> list[str]:
    return [_path(service, path, key) for path in _of(message, key, list)]


def _path(service: Service, path: Any, key: str) -> str:
    if not isinstance(path, str) or "\0" in path or {"", ".", ".."} & set(path.strip("/").split("/")):
        raise _nonsense(key)
    plain = path.rstrip("/")
    if not any(plain == each.rstrip("/") or (each.endswith("/") and path.startswith(each)) for each in service.paths):
        raise _nonsense(key)
    return path


def _of(message: dict[str, Any], key: str, kind: type) -> Any:
    if not isinstance(message.get(key), kind):
        raise _nonsense(key)
    return message[key]


def _is_count(said: Any) -> bool:
    return type(said) is int and 0 <= said < 1 << 63


def _nonsense(key: str) -> Failed:
    return Failed(f"the sender says nothing sensible: {key}")
