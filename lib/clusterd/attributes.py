"""Owner, mode, ACLs and extended attributes of what is in a backup set by its name only, and the way back to them.

Whatever replaces contents keeps the old file with all that it has; these are changed in place. So who does that, and
somebody may miss what was there before (a pass to a node that returns, a restore), writes them down in the set first.
"""

import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from clusterd import generation
from clusterd.beneath import Opened
from clusterd.generation import Was
from clusterd.manifest import ATTRIBUTES, KINDS, Entry, Known

_NOTED = "attributes.jsonl"


def note(folder: str, found: Iterable[str]) -> None:
    """Write down, durably, into the set `folder`, what the paths `found` are like now."""
    with open(f"{folder}/{_NOTED}", "w", encoding="ascii") as file, Opened() as opened:
        for path in found:
            was = generation.of(opened, path)
            if was:
                file.write(json.dumps(was) + "\n")
        file.flush()
        os.fsync(file.fileno())


def noted(folder: str) -> Iterator[Was]:
    """What was written down in the set `folder`; what comes after a damaged line was never changed."""
    try:
        with open(f"{folder}/{_NOTED}", encoding="ascii") as file:
            for line in file:
                yield Was(*json.loads(line))
    except FileNotFoundError:
        return
    except (ValueError, TypeError):
        return  # the node went down while it was written: the pass had changed nothing


def changed(folder: str, files: str, known: Known) -> Iterator[Entry]:
    """What has other attributes now than were noted in the set `folder`; not what is in `files` with its old ones."""
    with Opened() as opened:
        for was in noted(folder):
            now = generation.of(opened, was.path)
            is_folder = was.kind == stat.S_IFDIR
            if now is None or now.kind != was.kind or (not is_folder and os.path.lexists(files + was.path)):
                continue
            # A folder's time is that of what is in it.
            if was.attributes != now.attributes._replace(mtime=was.mtime if is_folder else now.mtime):
                yield Entry(
                    was.path,
                    ATTRIBUTES,
                    KINDS[was.kind],
                    0,
                    was.mtime,
                    stat.S_IMODE(was.mode),
                    was.uid,
                    was.gid,
                    unmirrored=known.received,
                    both=was.path in known.both,
                )


class Given(NamedTuple):
    """What came of giving attributes."""

    done: list[str]
    """The paths that have them now."""
    refused: dict[str, str]
    """The others, and why not."""


def give(folder: str, wanted: Collection[str]) -> Given:
    """Give the paths `wanted` what was noted of them in the set `folder`. Their times stay: whoever writes at that
    moment must not look as if nothing had been written.
    """
    given = Given([], {})
    with Opened() as opened:
        for was in noted(folder):
            if was.path not in wanted:
                continue
            try:
                why = _give(opened, was)
            except OSError as error:
                why = error.strerror or str(error)
            if why:
                given.refused[was.path] = why
            else:
                given.done.append(was.path)
    for path in sorted(set(wanted) - {*given.done, *given.refused}):
        given.refused[path] = "what it had is not written down"
    return given


def _give(opened: Opened, was: Was) -> str:
    """One of them; why not, or "". Who owns the folder may have put another file there, and gets nothing for that:
    neither an owner for what never had it, nor a right that its content could use.
    """
    now = generation.of(opened, was.path)
    if now is None:
        return "it is gone"
    if now.kind != was.kind:
        return f"it is a {KINDS[now.kind]} now, and was a {KINDS[was.kind]}"
    same_owner = (now.uid, now.gid) == (was.uid, was.gid)
    if not same_owner and (now.device, now.inode) != (was.device, was.inode):
        return "it is another one now, of another owner"
    if not same_owner and was.privileged:
        return "it would be run with the rights of an owner that it has not got now"
    opened.give(was.path, was.attributes._replace(mtime=None), now.inode)
    return ""
