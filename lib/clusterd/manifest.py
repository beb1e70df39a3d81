"""What is known of a backup set: its summary, and what is in it, entry by entry, in its entries.jsonl.

Names are text with surrogateescape, as os.fsdecode makes them, and JSON in ASCII: any bytes that a file name can
have go through it and back.
"""

import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from clusterd.errors import Failed
from clusterd.log import shown as shown

OPEN = "open"
"""A pass is filling it, or was when the node went down."""
COMPLETE = "complete"
"""The pass went through."""
CUT = "cut"
"""The pass ended early: the mirrored tree is between two states, and this set is the way back."""
DAMAGED = "damaged"
"""Its manifest cannot be read."""

PASS = "pass"
RESTORE = "restore"
ROLLBACK = "rollback"
"""What has replaced or deleted the files."""

REPLACED = "replaced"
DELETED = "deleted"
ATTRIBUTES = "attributes"
"""No content was replaced, but owner, mode or other attributes; see attributes.py."""
FOLDER = "folder"
FILE = "file"

KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}
"""How an entry's type is written."""


class Change(NamedTuple):
    """What a pass did to one path of the receiver."""

    path: str
    what: str
    """REPLACED or DELETED."""


class Entry(NamedTuple):
    """One old file in a set."""

    path: str
    """Absolute, as it was at the receiver."""
    what: str
    """REPLACED, DELETED or ATTRIBUTES."""
    kind: str
    """One of KINDS."""
    size: int
    """Bytes; 0 unless it is a file."""
    mtime: int
    """Nanoseconds."""
    mode: int
    """Permission bits."""
    uid: int
    gid: int
    unmirrored: bool = False
    """It was written here and had never been mirrored: nobody else has it."""
    both: bool = False
    """It had been changed on both nodes."""


class Summary(NamedTuple):
    """The manifest of a set."""

    set: str
    service: str
    sender: str
    """The node that held the group and mirrored."""
    receiver: str
    """The node that keeps the set."""
    epoch: int
    created: float
    """Wall clock, seconds, UTC."""
    state: str = OPEN
    finished: float | None = None
    entries: int = 0
    bytes: int = 0
    replaced: int = 0
    deleted: int = 0
    unmirrored: int = 0
    both: int = 0
    confirmed: float | None = None
    """When a person confirmed that nothing in it is missed."""
    confirmed_by: str = ""
    why: str = PASS
    """PASS, RESTORE or ROLLBACK."""


class Known(NamedTuple):
    """What the pass knew about the paths."""

    what: dict[str, str]
    unmirrored: frozenset[str] = frozenset()
    both: frozenset[str] = frozenset()
    received: bool = True
    """A pass has brought it: what has got other attributes by that was changed here only (see attributes.py)."""


def walk(top: str, known: Known) -> Iterator[Entry]:
    """Everything below the folder `top`; no symlink is followed. Then what has got other attributes.

    A folder is an entry only if it is empty and no longer there: the others merely lead to something.
    """
    from clusterd import attributes

    pending = [""]
    while pending:
        inside = pending.pop()
        with os.scandir(top + inside) as found:
            items = sorted(found, key=lambda item: item.name)
        if inside and not items and not os.path.isdir(inside):
            yield _entry(inside, os.lstat(top + inside), known)
        folders = []
        for item in items:
            path = f"{inside}/{item.name}"
            if item.is_dir(follow_symlinks=False):
                folders.append(path)
            else:
                yield _entry(path, item.stat(follow_symlinks=False), known)
        pending.extend(reversed(folders))
    yield from attributes.changed(os.path.dirname(top), top, known)


def write(path: str, found: Iterable[Entry]) -> Iterator[Entry]:
    """Write the entries to `path` as they pass by; after the last one the list is on the disk, whole."""
    with open(f"{path}.tmp", "w", encoding="ascii") as file:
        for entry in found:
            file.write(json.dumps(entry._asdict()) + "\n")
            yield entry
        file.flush()
        os.fsync(file.fileno())
    os.rename(f"{path}.tmp", path)


def read(path: str) -> Iterator[Entry]:
    """The entries written to `path`.

    Raises:
        Failed: the list is damaged.
    """
    with open(path, "rb") as file:
        try:
            for line in file:
                yield Entry(**json.loads(line))
        except (ValueError, TypeError) as error:
            raise Failed(f"{path}: damaged: {error}; the old files are in files/ beside it") from None


def copy_folder(name: str, below: str) -> None:
    """Make the folder `below` + `name` and those above it, each with the attributes of its original."""
    from shutil import copystat

    made = []
    path = ""
    for part in name.strip("/").split("/"):
        path += f"/{part}"
        if not os.path.lexists(below + path):
            os.mkdir(below + path, 0o700)
            made.append(path)
    for path in reversed(made):
        about = os.stat(path)
        os.chown(below + path, about.st_uid, about.st_gid)
        copystat(path, below + path)


def count(made: Summary, found: Iterable[Entry]) -> Summary:
    """The manifest `made` with the counts of the entries in `found`."""
    counts: dict[str, Any] = dict.fromkeys(("entries", "bytes", "replaced", "deleted", "unmirrored", "both"), 0)
    for entry in found:
        counts["entries"] += 1
        counts["bytes"] += entry.size
        if entry.what in counts:
            counts[entry.what] += 1
        counts["unmirrored"] += entry.unmirrored
        counts["both"] += entry.both
    return made._replace(**counts)


def line(entry: Entry) -> str:
    """An entry for people: what happened to it, mode, owner, size, time, path, and what is remarkable."""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.mtime / 1e9))
    marks = [mark for mark, true in (("only here", entry.unmirrored), ("changed on both", entry.both)) if true]
    size = f"{entry.size}" if entry.kind == FILE else entry.kind
    owner = f"{entry.uid}:{entry.gid}"
    what = "attrs" if entry.what == ATTRIBUTES else entry.what
    text = f"{what:8} {entry.mode:04o} {owner:11} {size:>12} {when} {shown(entry.path)}"
    return f"{text}  ({', '.join(marks)})" if marks else text


def _entry(path: str, about: os.stat_result, known: Known) -> Entry:
    kind = KINDS[stat.S_IFMT(about.st_mode)]
    return Entry(
        path,
        known.what.get(path) or (REPLACED if os.path.lexists(path) else DELETED),
        kind,
        about.st_size if kind == FILE else 0,
        about.st_mtime_ns,
        stat.S_IMODE(about.st_mode),
        about.st_uid,
        about.st_gid,
        path in known.unmirrored,
        path in known.both,
    )
