"""The one runner of external commands: argv list, no shell, stdin closed or given, a timeout always.

``--dry-run`` lives here and nowhere else: with ``dry_run`` set, a command that changes something is shown, not run.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from clusterd import log, paths
from clusterd.errors import Failed

dry_run = False
"""Set once by cli.py; commands with ``changes=True`` are then only shown."""

ENVIRONMENT = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
PATH = paths.PROGRAMS
"""Behind whatever PATH the caller has: cron's has no sbin."""
TAIL = 4096
"""Bytes of a command's last words that are looked at."""


class Result(NamedTuple):
    """How a command ended: `code` is the exit code, or None if `signal` or `timed_out` tells why there is none."""

    argv: tuple[str, ...]
    code: int | None
    signal: int | None
    timed_out: bool
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        """It ran to its end and exited 0."""
        return self.code == 0

    def why(self) -> str:
        """One line for people: how it failed, with the last line that it wrote."""
        if self.timed_out:
            how = "timed out"
        elif self.signal is not None:
            how = f"was killed by {signal.Signals(self.signal).name}"
        else:
            how = f"exit {self.code}"
        said = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return f"{shlex.join(self.argv)}: {how}" + (f": {said[-1]}" if said else "")


class Words:
    """The file that takes what a command says, and what a daemon that it starts says from then on: `run`'s `output`.

    A pipe would not do: the daemon keeps it open, and dies of SIGPIPE once we are gone; and what comes out of one is
    kept in memory, however much it is.

    Args:
        path: the file; its folder is made if need be.
        fresh: what it has from before is not kept.
    """

    def __init__(self, path: str, *, fresh: bool = False) -> None:
        self.path = path
        self.fresh = fresh
        self.fd = -1
        self.begin = 0

    def __enter__(self) -> "Words":
        try:
            os.makedirs(os.path.dirname(self.path), mode=0o750, exist_ok=True)
            self.fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        except OSError as error:  # a full or read-only disk starts services all the same
            log.debug(f"{self.path}: {error.strerror}")
            self.fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        else:
            if self.fresh and not dry_run:
                os.ftruncate(self.fd, 0)
        self.begin = os.fstat(self.fd).st_size
        return self

    def last_line(self) -> str:
        """The last line that was written since."""
        size = os.fstat(self.fd).st_size
        begin = max(self.begin, size - TAIL)
        said = os.pread(self.fd, max(size - begin, 0), begin).decode("utf-8", "replace").strip()
        return said.splitlines()[-1] if said else ""

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every external command gets: the caller's environment, a fixed locale, and a PATH that has sbin."""
    path = os.environ.get("PATH", "")
    return {**os.environ, **ENVIRONMENT, "PATH": f"{path}:{PATH}" if path else PATH, **(extra or {})}


def run(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: str | bytes | None = None,
    changes: bool = True,
    env: Mapping[str, str] | None = None,
    output: int | None = None,
    keeps: int | None = None,
) -> Result:
    """Run `argv` to its end, or kill its whole process group after `timeout` seconds.

    `changes` says whether it alters anything: with ``--dry-run`` such a command is printed and counts as done.
    `output` is for a command that leaves a daemon behind, which may keep its output open for ever: both streams go to
    that open file, the command runs in ``/``, and only its own end is waited for.
    `keeps` is an open file that the command has as well: a lock on it lasts for as long as either of us.
    A program that does not exist gives exit code 127, as from a shell.
    """
    argv = tuple(argv)
    if dry_run and changes:
        show(argv)
        return Result(argv, 0, None, False, "", "")
    log.debug("run: " + shlex.join(argv))
    data = stdin.encode() if isinstance(stdin, str) else stdin
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE if output is None else output,
            stderr=subprocess.PIPE if output is None else output,
            cwd=None if output is None else "/",
            env=environment(env),
            start_new_session=True,
            pass_fds=() if keeps is None else (keeps,),
        )
    except OSError as error:
        return Result(argv, 127, None, False, "", f"{argv[0]}: {error.strerror}")
    timed_out = False
    try:
        out, err = process.communicate(data, timeout=timeout)
    except subprocess.TimeoutExpired:
        timed_out = True
        out, err = _kill(process)
    except BaseException:
        _kill(process)
        raise
    code = process.returncode
    result = Result(
        argv,
        None if timed_out or code < 0 else code,
        None if timed_out or code >= 0 else -code,
        timed_out,
        (out or b"").decode("utf-8", "surrogateescape"),
        (err or b"").decode("utf-8", "surrogateescape"),
    )
    log.debug("ran: " + (result.why() if not result.ok else f"{argv[0]}: exit 0"))
    return result


def check(
    argv: Sequence[str],
    *,
    timeout: float,
    stdin: str | bytes | None = None,
    changes: bool = True,
    env: Mapping[str, str] | None = None,
) -> str:
    """Like `run`, but returns stdout.

    Raises:
        Failed: it did not exit 0; the message is the command, how it ended and its last line.
    """
    result = run(argv, timeout=timeout, stdin=stdin, changes=changes, env=env)
    if not result.ok:
        raise Failed(result.why())
    return result.stdout


def detach(argv: Sequence[str], *, stdin: str, wait: float = 0.0) -> None:
    """Start `argv` in a session of its own, give it `stdin` (less than a pipe holds, 64 KiB) and do not wait for it.

    With `wait`, do so for at most so many seconds; what takes longer goes on by itself.

    Raises:
        Failed: it cannot be started.
    """
    log.debug("start: " + shlex.join(argv))
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=environment(),
            start_new_session=True,
        )
        if wait:
            process.communicate(stdin.encode(), timeout=wait)
            return
        assert process.stdin is not None
        with process.stdin as pipe:
            pipe.write(stdin.encode())
    except BrokenPipeError:
        log.debug(f"{argv[0]} did not read what it was given")
    except subprocess.TimeoutExpired:
        log.debug(f"{argv[0]} goes on")
    except OSError as error:
        raise Failed(f"{argv[0]}: {error.strerror}") from None


def show(argv: Sequence[str]) -> None:
    """Print what would be run, as one could type it."""
    print("would run: " + shlex.join(argv), file=sys.stdout, flush=True)


def _kill(process: "subprocess.Popen[bytes]") -> tuple[bytes, bytes]:
    """End the process group; a grandchild that left it keeps no pipe of ours waiting longer than a second."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    try:
        return process.communicate(timeout=1)
    except subprocess.TimeoutExpired:
        return b"", b""
