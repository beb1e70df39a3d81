"""Owner, mode, ACLs and extended attributes of what is in a backup set by its name only, and the way back to them.

Whatever replaces contents keeps the old file with all that it has; these are changed in place. So who does that, and
somebody may miss what was there before (a pass to a node that returns, a restore), writes them down in the set first.
"""

import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator

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
                    unmirrored=known.alone,
                    both=was.path in known.both,
                )


def give(folder: str, wanted: Collection[str]) -> list[str]:
    """Give the paths `wanted` what was noted of them in the set `folder`; their times stay. Returns which have it now:
    what is gone, or is something else now, is passed over; so is what may be another's file that a user has linked to.

    Raises:
        OSError: it cannot be done; or one was swapped for another file at that moment.
    """
    done = []
    with Opened() as opened:
        for was in noted(folder):
            now = generation.of(opened, was.path) if was.path in wanted else None
            if now is None or now.kind != was.kind:
                continue
            if was.kind != stat.S_IFDIR and now.links > 1 and now.inode != was.inode:
                continue
            opened.give(was.path, was.attributes._replace(mtime=now.mtime), now.inode)
            done.append(was.path)
    return done
