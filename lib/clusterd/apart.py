"""A file in a backup set is a file of its own: not one more name of a file in the tree, which changes there.

rsync moves or links what it replaces into the set. Where the tree has a second name of that file (a hard link), the
two would go on being one: whatever is written there later would be in the set as well.
"""

import os
import stat
from contextlib import suppress

from clusterd.beneath import FOLDER, Opened, copy

_ASIDE = "copying"
"""The name, in the folder beside the files, of a copy that is not whole yet."""


def own_files(files: str) -> None:
    """Give every file below the folder `files` an inode that has no name elsewhere; hard links within it stay."""
    names: dict[tuple[int, int], list[str]] = {}
    links: dict[tuple[int, int], int] = {}
    with Opened() as opened:
        for path, about in opened.walk(os.path.realpath(files)):
            if stat.S_ISREG(about.st_mode) and about.st_nlink > 1:
                key = about.st_dev, about.st_ino
                names.setdefault(key, []).append(path)
                links[key] = about.st_nlink
        aside = os.open(os.path.dirname(os.path.realpath(files)), FOLDER)
        try:
            for key, found in names.items():
                if links[key] > len(found):
                    _replace(opened, found, aside)
        finally:
            os.close(aside)


def _replace(opened: Opened, names: list[str], aside: int) -> None:
    """Put a copy of the file in place of each of these names of it."""
    with suppress(FileNotFoundError):
        os.unlink(_ASIDE, dir_fd=aside)
    folder, name = opened.above(names[0])
    copy(folder, name, aside, _ASIDE)
    for each in names[1:]:
        folder, name = opened.above(each)
        os.unlink(name, dir_fd=folder)
        os.link(_ASIDE, name, src_dir_fd=aside, dst_dir_fd=folder, follow_symlinks=False)
    folder, name = opened.above(names[0])
    os.rename(_ASIDE, name, src_dir_fd=aside, dst_dir_fd=folder)
