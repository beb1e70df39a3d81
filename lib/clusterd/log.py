"""What happened, for people and programs: stderr when asked for, syslog, and events.jsonl.

An *event* is something that changed or needs a person: one JSON object a line in events.jsonl, and one line in
syslog. Everything else is debugging, and shown with ``-v`` only.
"""

import errno
import json
import os
import sys
import time
from contextlib import suppress
from typing import Any, NamedTuple

from clusterd import paths

verbosity = 0
"""How many -v were given; set once by cli.py."""
program = "clusterd"
"""The name of the running script, the tag in syslog; set once by cli.py."""

_DAEMON = 3 << 3
"""The facility."""
_PRIORITY = {"debug": 7, "info": 6, "notice": 5, "warning": 4, "error": 3, "alert": 1}


class Moment(NamedTuple):
    """When something happened, on both clocks."""

    time: str
    """`timestamp`."""
    uptime: float
    """Seconds of the boot clock."""


def debug(text: str) -> None:
    """A line on stderr, with ``-v``."""
    if verbosity:
        complain(shown(f"{program}: {text}"))


def complain(line: str) -> None:
    """A line on stderr. A terminal or a reader that is gone, or a stderr that is closed, stops nothing."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def event(name: str, text: str, *, level: str = "info", at: Moment | None = None, **facts: Any) -> dict[str, Any]:
    """Record that something happened; return the record as written.

    Args:
        name: what kind of thing, in a few hyphenated words: "takeover-done".
        text: one line for people.
        level: debug, info, notice, warning, error or alert, as in syslog(3).
        at: when it happened, if it is written later: by a worker, say. The order of the lines is that of the writing.
        facts: whatever a program would want to read; JSON values. None may be named like the record's own keys.

    ``time`` is the wall clock, which is set now and then; ``uptime``, seconds of the boot clock, is what tells how
    long something took.
    """
    record = {
        **(at or moment())._asdict(),
        "event": name,
        "level": level,
        "text": text,
        "program": program,
        "node": os.uname().nodename,
        **facts,
    }
    debug(text)
    _append(json.dumps(record))
    _syslog(level, f"{name}: {text}")
    return record


def shown(text: str) -> str:
    """Text, or a path, in one line that does no harm on a terminal: what is not printable as Python's escapes."""
    return text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode("ascii")


def moment() -> Moment:
    """Now; the boot clock to the microsecond: a script that was ready begins in the millisecond of its order."""
    return Moment(timestamp(), round(time.clock_gettime(time.CLOCK_BOOTTIME), 6))


def timestamp() -> str:
    """Local time to the millisecond, as in RFC 3339: 2026-01-31T23:59:59.123+01:00."""
    now = time.time()
    local = time.localtime(now)
    zone = time.strftime("%z", local)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{int(now * 1000) % 1000:03d}{zone[:3]}:{zone[3:]}"


def _append(line: str) -> None:
    """One write, in append mode, so that lines of several processes never mix. A full disk stops no takeover."""
    try:
        os.makedirs(paths.LOG, mode=0o750, exist_ok=True)
        fd = os.open(paths.EVENTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            os.write(fd, f"{line}\n".encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)
    except OSError as error:
        complain(f"{program}: {paths.EVENTS}: {error.strerror}")


def _syslog(level: str, text: str) -> None:
    """As syslog(3) says it on the machine itself, but without waiting: that one blocks for as long as a daemon which
    lives does not read, and its caller may hold a group's lock. A line that finds no room is lost; events.jsonl has it.
    """
    import socket

    stamp = time.strftime("%b %e %H:%M:%S", time.localtime())
    line = f"<{_DAEMON | _PRIORITY[level]}>{stamp} {program}[{os.getpid()}]: {text}"
    for kind, end in ((socket.SOCK_DGRAM, ""), (socket.SOCK_STREAM, "\0")):
        try:
            with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as daemon:
                daemon.connect(paths.SYSLOG)
                daemon.send(f"{line}{end}".encode("utf-8", "replace"))
                return
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                return  # no daemon, or no room
