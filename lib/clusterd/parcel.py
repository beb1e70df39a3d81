"""The installed program, packed for another node: ``cluster install`` needs neither sources nor a network there.

It is carried as it is, below the same prefix; so the other node must have the same Python and the same machine.
"""

import io
import os
import platform
import sys
import tarfile

from clusterd.errors import Failed

PYTHON = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"
"""The distribution's Python, which the installed program runs with on every node."""
QUESTION = (
    PYTHON,
    "-c",
    "import platform, sys; print(*sys.version_info[:2], platform.machine(), *platform.libc_ver())",
)
"""What another node is asked, to see whether the program would run there."""

_INSIDE = "/lib/clusterd/venv"
_UNPACK = """set -e
mkdir -p "$0" && cd "$0" && umask 022
rm -rf lib/clusterd.new lib/clusterd.old && mkdir -p lib/clusterd.new share sbin share/man
tar -xzf - -C lib/clusterd.new
if [ -e lib/clusterd ]; then mv lib/clusterd lib/clusterd.old; fi
mv lib/clusterd.new/lib/clusterd lib/clusterd
rm -rf share/clusterd && mv lib/clusterd.new/share/clusterd share/clusterd
cp -a lib/clusterd.new/sbin/. sbin/ && cp -a lib/clusterd.new/share/man/. share/man/
rm -rf lib/clusterd.new lib/clusterd.old
share/clusterd/install-host "$0"
sbin/cluster --version
"""


def prefix() -> str:
    """Where this program is installed.

    Raises:
        Failed: it is not: it runs from a checkout.
    """
    found, inside, rest = sys.prefix.rpartition(_INSIDE)
    if not inside or rest:
        raise Failed("this cluster runs from a checkout: make install first, and use the installed one")
    return found


def check(node: str, answer: str) -> None:
    """Whether the program would run on `node`, which gave `answer` to `QUESTION`.

    Raises:
        Failed: it would not.
    """
    here = " ".join(map(str, (*sys.version_info[:2], platform.machine(), *platform.libc_ver())))
    if answer.strip() != here:
        raise Failed(
            f"{node} has another Python or machine ({answer.strip()}, here {here}): "
            "copy the sources there and run make install"
        )


def pack() -> bytes:
    """A compressed tar archive of everything below the prefix that is clusterd's."""
    root = prefix()
    scripts = [f"sbin/{name}" for name in sorted(os.listdir(f"{root}/sbin")) if _ours(f"{root}/sbin/{name}", root)]
    pages = [f"share/man/man8/{os.path.basename(script)}.8" for script in scripts]
    pages += [f"share/man/man5/{name}" for name in ("cluster.conf.5",)]
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=1) as archive:
        for path in ("lib/clusterd", "share/clusterd", *scripts, *pages):
            if os.path.lexists(f"{root}/{path}"):
                archive.add(f"{root}/{path}", path)
    return made.getvalue()


def unpack() -> tuple[str, ...]:
    """The command that takes such an archive on stdin and puts it in place, on another node."""
    return "sh", "-c", _UNPACK, prefix()


def _ours(path: str, root: str) -> bool:
    return os.path.islink(path) and os.readlink(path).startswith(f"{root}{_INSIDE}/")
