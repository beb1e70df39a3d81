"""The configuration on its way to the other nodes: packed here, checked there, put in place file by file.

Checked with the program that will use it: what another version would refuse never gets into place.
"""

import base64
import json
import os
import shutil
from typing import NamedTuple

from clusterd import config, paths, state
from clusterd.errors import ConfigError

Packed = dict[str, tuple[int, str]]
"""Path below the folder: mode, and content in base64."""


class Change(NamedTuple):
    """One file that a push changes."""

    path: str
    text: str
    """A unified diff, or a line that says what happens; never a secret's content."""


def pack(folder: str) -> Packed:
    """Every file of the configuration: the .conf files, the key, the host keys. No hidden or backup files."""
    packed = {}
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = os.path.join(place, name)
            if not name.startswith(".") and not name.endswith("~") and not os.path.islink(path):
                with open(path, "rb") as file:
                    packed[os.path.relpath(path, folder)] = (
                        os.fstat(file.fileno()).st_mode & 0o777,
                        base64.b64encode(file.read()).decode(),
                    )
    return packed


def read(text: str) -> Packed:
    """What `pack` made, from JSON.

    Raises:
        ConfigError: it is something else.
    """
    try:
        return {str(path): (int(mode), str(content)) for path, (mode, content) in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        raise ConfigError("not a packed configuration: are both nodes' programs of the same version?") from None


def compare(old: Packed, new: Packed) -> list[Change]:
    """What has to change for `old` to become `new`. Files that clusterd does not read are not removed."""
    changes = []
    for path in sorted({*old, *new}):
        if path not in new:
            if path.endswith(".conf"):
                changes.append(Change(path, f"--- {path}\nremoved\n"))
        elif path not in old or old[path][1] != new[path][1]:
            changes.append(Change(path, _diff(path, old.get(path), new[path])))
        elif old[path][0] != new[path][0]:
            changes.append(Change(path, f"--- {path}\nmode {old[path][0]:04o} becomes {new[path][0]:04o}\n"))
    return changes


def accept(folder: str, new: Packed) -> list[str]:
    """Check `new` beside `folder`, then put it in place; returns the files that changed.

    Every file is replaced in one step; cluster.conf, without which nothing is read, comes last.

    Raises:
        ConfigError: it has a problem; nothing was changed.
    """
    os.makedirs(folder, mode=0o700, exist_ok=True)
    changes = [change.path for change in compare(pack(folder), new)]
    beside = f"{folder}/.push.{os.getpid()}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        for path, (mode, content) in new.items():
            _write(f"{beside}/{_inside(path)}", mode, base64.b64decode(content))
        problems = config.problems(beside)
        if problems:
            raise ConfigError("; ".join(problem.replace(beside, folder) for problem in problems))
        for path in sorted(changes, key=lambda path: (path == config.CLUSTER_FILE, path)):
            if path in new:
                os.makedirs(os.path.dirname(f"{folder}/{path}"), mode=0o755, exist_ok=True)
                os.rename(f"{beside}/{path}", f"{folder}/{path}")
            else:
                os.unlink(f"{folder}/{path}")
        state.sync_folder(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return changes


def _inside(path: str) -> str:
    """A path that stays below the folder, whoever packed it.

    Raises:
        ConfigError: it does not.
    """
    if os.path.isabs(path) or any(part in ("", ".", "..") or part.startswith(".") for part in path.split("/")):
        raise ConfigError(f"{path!r}: not a file of the configuration")
    return path


def _write(path: str, mode: int, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(content)
        os.fchmod(fd, mode & 0o777)
        file.flush()
        os.fsync(fd)


def _diff(path: str, old: tuple[int, str] | None, new: tuple[int, str]) -> str:
    if os.path.basename(path) == os.path.basename(paths.heartbeat_key("")):
        return f"--- {path}\n{'differs' if old else 'new'} (a secret: not shown)\n"
    import difflib

    was = _lines(old[1]) if old else []
    return "".join(difflib.unified_diff(was, _lines(new[1]), path if old else "/dev/null", path))


def _lines(content: str) -> list[str]:
    """The lines of a file, each with its end, so that a diff of them can be printed."""
    text = base64.b64decode(content).decode("utf-8", "replace")
    return [f"{line}\n" for line in text.splitlines()]
