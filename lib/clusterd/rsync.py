"""What is said to rsync, and what it says: command lines, filters, the receiving daemon's settings, its output.

Pure: nothing here starts a process. Names are text with surrogateescape, as os.fsdecode makes them.
"""

import math
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from clusterd import paths
from clusterd.model import Service

VANISHED = 24
"""Exit code: files were gone before they could be sent."""
ERRORS = 23
"""Exit code: some files could not be read or written; the others were."""
CAPPED = 25
"""Exit code: --max-delete stopped the deletions."""
PLAN = "plan"
"""In place of a backup set: a dry run, which changes nothing."""
LATE = "delete-delay"
"""The option by which deletions wait until all updates are in their place."""

TEMPORARY = re.compile(r"\..+\.[A-Za-z0-9]{6}\Z", re.DOTALL)
"""The name that rsync gives a file until it is whole. A user's .vimrc.backup is called like one, too."""

_MARK = "clusterd"
"""Before every line of the list of changes, so that no message is taken for one."""
_ESCAPED = re.compile(rb"\\#([0-7]{3})")
_NUMBER = re.compile(rb"^(Number of files|Total transferred file size|Total bytes sent): ([0-9]+)")
_COMPLAINT = re.compile(rb"\] (rsync(?: error)?: .*)")
_GONE = re.compile(rb'^(?:file|directory) has vanished: "(.*)"')

_EXITS = {
    1: "rsync was called wrongly",
    2: "the rsync programs of the two nodes do not understand each other",
    3: "rsync could not begin with these files or folders",
    4: "the peer's rsync refused an option",
    5: "the peer did not begin the transfer",
    10: "the connection broke (error in socket I/O)",
    11: "error in file I/O",
    12: "the connection ended in the middle of the transfer",
    13: "rsync could not write its messages",
    14: "rsync's processes lost each other",
    20: "rsync was told to end",
    21: "rsync's processes lost each other",
    22: "out of memory",
    ERRORS: "some files could not be read or written",
    VANISHED: "files vanished while they were being sent",
    CAPPED: "more files would have been deleted than was planned: the deletions were stopped",
    30: "nothing came from the peer for too long",
    35: "the peer did not answer in time",
    127: "rsync is not installed",
    255: "ssh could not connect, or the connection broke",
}


class Item(NamedTuple):
    """One line of rsync's list of changes."""

    code: str
    """As --itemize-changes writes it."""
    path: str
    """Absolute, without a slash at its end."""
    folder: bool

    @property
    def deleted(self) -> bool:
        """It is deleted at the receiver."""
        return self.code.startswith("*deleting")

    @property
    def replaced(self) -> bool:
        """Another one takes its place."""
        return self.code[0] in "<>ch" and "+" not in self.code and not self.folder

    @property
    def kept(self) -> bool:
        """The old one goes into the backup set."""
        return self.deleted or self.replaced

    @property
    def sent(self) -> bool:
        """The content of a file goes over the network."""
        return self.code.startswith("<f")


class Output(NamedTuple):
    """What one run said."""

    items: tuple[Item, ...] = ()
    entries: int = 0
    """Files, folders and all else that was looked at in the source, the folders above included."""
    sent: int = 0
    """Bytes."""
    other: tuple[str, ...] = ()
    """Any further lines: messages."""

    @property
    def deleted(self) -> tuple[Item, ...]:
        """What is deleted at the receiver."""
        return tuple(item for item in self.items if item.deleted)


def argv(
    service: Service,
    target: str,
    shell: Sequence[str],
    epoch: int,
    *,
    gate: str,
    timeout: float,
    backup: tuple[str, str] | None = None,
    max_delete: int = 0,
    progress: bool = False,
    partial: bool = True,
    late: bool = True,
) -> list[str]:
    """The command line of one run on the sender.

    Args:
        service: what is mirrored.
        target: the peer, as the remote shell takes it.
        shell: the remote shell and its options.
        epoch: at which the sender holds the group.
        gate: what the peer's gate is called there.
        timeout: seconds without any data after which rsync gives up.
        backup: the backup set's id and its folder for files; None: a dry run.
        max_delete: the cap on deletions, with `backup`.
        progress: have rsync print it.
        partial: the peer takes our name for the folder of delayed updates; an older program does not.
        late: it takes the word by which what is to go goes when all that comes is in its place; likewise.
    """
    set_id = backup[0] if backup else PLAN
    made = [
        "rsync",
        # Everything that a file has; names and times exactly: -1 compares nanoseconds as well.
        *("-aHAX", "--numeric-ids", "--sparse", "--modify-window=-1"),
        # Below the same absolute paths; folders above them are made if missing, and else left alone.
        *("--relative", "--no-implied-dirs", f"--timeout={math.ceil(timeout)}"),
        # A pass that is cut leaves what was moved under its old name, until it is there under the new one.
        f"--{LATE}" if backup and late else "--delete",
        *("--stats", "--no-human-readable", f"--out-format={_MARK} %i %n"),
        "--whole-file" if service.whole_file else "--no-whole-file",
        # The receiver's hook wants to see every word at once.
        "--no-protect-args",
    ]
    if backup:
        made += ["--delay-updates", "--backup", f"--backup-dir={backup[1]}", f"--max-delete={max_delete}"]
        # By rsync's own name for it, .~tmp~, users have folders too: it would leave them out.
        made += [f"--partial-dir={paths.PARTIAL}"] if partial else []
        made += [f"--bwlimit={service.bandwidth}"] if service.bandwidth else []
        made += ["--info=progress2"] if progress else []
    else:
        made += ["--dry-run", "--no-inc-recursive"]
    made += [f"--filter={rule}" for rule in filters(service)]
    made += ["-e", shlex.join(shell), f"--rsync-path={gate} rsync {service.name} {epoch} {set_id}"]
    return [*made, "--", *service.paths, f"{target}::{service.name}/"]


def filters(service: Service) -> list[str]:
    """The filter rules of a service: neither copied nor deleted is what they exclude.

    What is configured as a path is never excluded, only what is below it. A pattern of the configuration that begins
    with a slash is anchored at each mirrored folder, unless it begins with the path of one.
    """
    folders = [path for path in service.paths if path.endswith("/")]
    made = [f"+ {literal(path)}" for path in (*sorted(above(service.paths)), *service.paths)]
    # p: it goes with a folder that is deleted.
    made += [f"- {literal(path)}lost+found/" for path in folders] + [f"-p {paths.PARTIAL}/"]
    made += [f"+ {literal(path)}{paths.SENTINEL}" for path in folders]
    for sign, patterns in (("+", service.include), ("-", service.exclude)):
        for pattern in patterns:
            if pattern.startswith("/") and not pattern.startswith(service.paths):
                made += [f"{sign} {literal(path, pattern)}{pattern[1:]}" for path in folders]
            else:
                made.append(f"{sign} {pattern}")
    return made


def literal(path: str, beside: str = "") -> str:
    """The pattern that matches `path` only, in one rule with the pattern `beside`.

    A backslash escapes in a rule with wildcards only; in one without it stands for itself (rsync(1)).
    """
    if not re.search(r"[*?[]", path + beside):
        return path
    return re.sub(r"([*?[\\])", r"\\\1", path)


def daemon_settings(service: Service, rules: str, hook: str, log: str) -> str:
    """rsyncd.conf(5) for receiving one service, by rsync as daemon over the remote shell.

    Args:
        service: its name is the module.
        rules: the file with the daemon's own filter rules, which no client sees or changes.
        hook: the script that looks at the client's options, before anything is transferred.
        log: the file that takes what it says, which may not reach the client when the connection breaks.
    """
    return f"""\
log file = {log}
use chroot = yes
uid = 0
gid = 0
numeric ids = yes
munge symlinks = no
list = no
read only = no
write only = yes
reverse lookup = no
forward lookup = no
transfer logging = no
max verbosity = 0
refuse options = * {" ".join(f"!{option}" for option in _ACCEPTED)} protect-args
[{service.name}]
path = /
exclude from = {rules}
pre-xfer exec = /bin/sh {hook}
"""


_ACCEPTED = (
    *("recursive", "links", "hard-links", "perms", "times", "owner", "group", "D", "devices", "specials"),
    *("acls", "xattrs", "numeric-ids", "sparse", "modify-window", "relative", "inc-recursive"),
    *("no-implied-dirs", "no-inc-recursive", "no-r", "delete", "delete-during", LATE, "max-delete"),
    *("backup", "backup-dir", "timeout", "whole-file", "no-whole-file", "bwlimit", "stats", "verbose", "info"),
    *("delay-updates", "partial-dir", "itemize-changes", "log-format"),
)
"""Options of the client that the receiving daemon takes; every other ends the transfer before it begins. The asterisk
spares protect-args, with which it would wait for a second list of words.
"""
WORDS = (
    *("server", "numeric-ids", "delete", "delete-during", LATE, "delay-updates", "stats", "no-whole-file"),
    *("no-W", "no-r", "no-inc-recursive"),
)
"""Those that our own sender says, as a word; each rsync from 3.1 on says some of them."""
VALUES = ("log-format", "max-delete", "modify-window", "timeout", "bwlimit", "info")
"""The same, with a value."""


def daemon_rules(service: Service, backup: str | None) -> str:
    """The receiving daemon's filter: the configured paths and what is below them, and nothing else.

    The folders above are let through as such; their attributes stay, because the hook insists on --no-implied-dirs.
    So is the backup set's folder, as the place where backups go: nothing in it can be sent to or deleted.
    """
    allowed = (*service.paths, *([f"{backup}/"] if backup else []))
    made = [f"+ {literal(path)}" for path in (*sorted(above(allowed)), *allowed)]
    made += [f"+ {literal(path, '*')}**" for path in service.paths if path.endswith("/")]
    return "".join(f"{rule}\n" for rule in (*made, "- **"))


def above(allowed: Iterable[str]) -> set[str]:
    """The folders above the paths, without the root, each with a slash at its end."""
    made = set()
    for path in allowed:
        parts = path.strip("/").split("/")
        made |= {f"/{'/'.join(parts[:count])}/" for count in range(1, len(parts))}
    return made


def parse(stdout: bytes) -> Output:
    """The list of changes and the numbers in the output of a run."""
    items: list[Item] = []
    numbers: dict[bytes, int] = {}
    other: list[str] = []
    for line in re.split(rb"[\r\n]", stdout):
        number = _NUMBER.match(line)
        if line.startswith(_MARK.encode()):
            items.append(item(line))
        elif number:
            numbers[number[1]] = int(number[2])
        elif line.strip():
            other.append(line.decode("utf-8", "surrogateescape"))
    return Output(tuple(items), numbers.get(b"Number of files", 0), numbers.get(b"Total bytes sent", 0), tuple(other))


def item(line: bytes) -> Item:
    """One line of the list of changes: the mark, eleven characters, the name."""
    start = len(_MARK) + 1
    name = unescape(line[start + 12 :])
    return Item(line[start : start + 11].decode("ascii", "replace").rstrip(), f"/{name.strip('/')}", name.endswith("/"))


def unescape(name: bytes) -> str:
    """The name that rsync printed: what is not printable ASCII it writes as backslash, # and three octal digits."""
    return _ESCAPED.sub(lambda match: bytes([int(match[1], 8)]), name).decode("utf-8", "surrogateescape")


def vanished(stderr: bytes) -> list[str]:
    """The source files that were gone, by rsync's own words."""
    found = (_GONE.match(line) for line in stderr.splitlines())
    return [unescape(match[1]) for match in found if match]


def complaints(log: bytes) -> bytes:
    """What the receiving daemon complained of, by its log: without the date and the process id before each line."""
    found = (_COMPLAINT.search(line) for line in log.splitlines())
    return b"\n".join(line[1] for line in found if line)


def explain(code: int | None, stderr: bytes) -> str:
    """In words why a run ended as it did: what the exit code means, and the line that says most."""
    words = "rsync was killed" if code is None or code < 0 else _EXITS.get(code, f"rsync: exit {code}")
    lines = [line for line in stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if any("No space left on device" in line or "Disk quota exceeded" in line for line in lines):
        words = "the disk of the peer, or its quota, is full"
    telling = [line for line in lines if not line.startswith(("rsync error:", "rsync warning:", "***"))]
    return f"{words} ({telling[0].strip()})" if telling else words
