"""Runs in a machine's root: removes, writes files, runs commands, as the JSON on stdin says. Standard library only."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any


def remove(name: str) -> None:
    """Remove a file or a whole folder, if it is there."""
    path = Path(name)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write(name: str, text: str, mode: int) -> None:
    """Write one file in one step, with its mode, making its folder."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(descriptor, mode)
        file.write(text)
    os.replace(new, path)


def main() -> None:
    """Do it all in order; the first failure ends it."""
    work: dict[str, Any] = json.load(sys.stdin)
    for name in work["remove"]:
        remove(name)
    for name, (text, mode) in work["files"].items():
        write(name, text, mode)
    for argv in work["commands"]:
        result = subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=60)
        if result.returncode != 0:
            sys.exit(f"{' '.join(argv)}: exit {result.returncode}: {result.stderr.decode(errors='replace').strip()}")


if __name__ == "__main__":
    main()
