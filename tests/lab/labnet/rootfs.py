"""Root file systems made of layers, and programs started inside them."""

import json
from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import NamedTuple

from .proc import PYTHON, environment, run

ENTER = Path(__file__).with_name("enter.py")


class Root(NamedTuple):
    """A root file system: read-only layers, the highest first, and the folder that takes what is written."""

    folder: Path
    """Holds the mount point and the overlay's own folder."""
    lower: tuple[Path, ...]
    upper: Path
    hostname: str
    binds: dict[str, str] = {}
    """Further host paths and where they are seen inside."""

    def spec(self, argv: Sequence[str], *, boot: bool = False, pid_file: Path | None = None) -> str:
        """What enter.py is told."""
        for name in (self.upper, self.folder / "root", self.folder / "work"):
            name.mkdir(parents=True, exist_ok=True)
        return json.dumps(
            {
                "lower": [str(layer) for layer in self.lower],
                "upper": str(self.upper),
                "work": str(self.folder / "work"),
                "root": str(self.folder / "root"),
                "binds": self.binds,
                "hostname": self.hostname,
                "boot": boot,
                "pid_file": str(pid_file or ""),
                "argv": list(argv),
                "env": environment(build=not boot),
            }
        )


UNSHARE = ("unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "--propagation", "private")


def run_inside(root: Root, argv: Sequence[str], *, timeout: float, text_in: str | None = None) -> CompletedProcess[str]:
    """Run one command in `root` with the host's network; whatever it leaves running dies with it."""
    enter = [*UNSHARE, "--kill-child", PYTHON, "-I", str(ENTER), root.spec(argv)]
    return run(enter, timeout=timeout, text_in=text_in)
