"""A file in a backup set is a file of its own: not one more name of a file in the tree, which changes there.

rsync moves or links what it replaces into the set. Where the tree has a second name of that file (a hard link), the
two would go on being one: whatever is written there later would be in the set as well.
"""

import os
import stat
from contextlib import suppress

from clusterd import log
from clusterd.beneath import FOLDER, Opened, copy

_ASIDE, _NAME = "copying", "naming"
"""Names in the folder beside the files: of a copy that is not whole yet, and of a name that is not in place yet."""
_MOST = 1 << 28
"""Bytes that are copied for one set: of snapshots made of hard links nothing is, for it would take the room twice."""


def own_files(files: str) -> None:
    """Give every file below the folder `files` an inode that has no name elsewhere; hard links within it stay.

    Where that needs more room than there is, or than _MOST, the files are left as they are, and that is logged.
    """
    names: dict[tuple[int, int], list[str]] = {}
    known: dict[tuple[int, int], os.stat_result] = {}
    with Opened() as opened:
        for path, about in opened.walk(os.path.realpath(files)):
            if stat.S_ISREG(about.st_mode) and about.st_nlink > 1:
                key = about.st_dev, about.st_ino
                names.setdefault(key, []).append(path)
                known[key] = about
        shared = {key: found for key, found in names.items() if known[key].st_nlink > len(found)}
        if not shared:
            return
        aside = os.open(os.path.dirname(os.path.realpath(files)), FOLDER)
        try:
            size = sum(known[key].st_blocks * 512 for key in shared)
            disk = os.fstatvfs(aside)
            if size > min(_MOST, disk.f_bavail * disk.f_frsize // 2):
                raise OSError(None, f"{size / 2**20:.0f} MiB would have to be copied")
            for found in shared.values():
                _replace(opened, found, aside)
        except OSError as error:
            text = f"{files}: {len(shared)} files have names in the tree as well, and change with it: {error.strerror}"
            log.event("set-shares-files", text, level="warning")
        finally:
            for name in (_ASIDE, _NAME):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=aside)
            os.close(aside)


def _replace(opened: Opened, names: list[str], aside: int) -> None:
    """Put a copy of the file in place of each of these names of it; at any moment each name is there."""
    for name in (_ASIDE, _NAME):
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=aside)
    folder, name = opened.above(names[0])
    copy(folder, name, aside, _ASIDE)
    for each in names:
        folder, name = opened.above(each)
        os.link(_ASIDE, _NAME, src_dir_fd=aside, dst_dir_fd=aside, follow_symlinks=False)
        os.rename(_NAME, name, src_dir_fd=aside, dst_dir_fd=folder)
    os.unlink(_ASIDE, dir_fd=aside)
