"""How the lab starts other programs: argument lists, a timeout each, errors in one line."""

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from time import monotonic, sleep
from typing import IO

PYTHON = "/usr/bin/python3"
CLEAN_ENV = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "USER": "root",
    "LOGNAME": "root",
    "SHELL": "/bin/bash",
    "LANG": "C.UTF-8",
}
PASSED_ENV = re.compile(r"(?i)^(term|colorterm|pip_.*|.*_proxy|ssl_cert_(file|dir)|requests_ca_bundle)$")
"""What a lab program keeps of its caller's environment: the terminal, and how the network is reached."""


class LabError(Exception):
    """Something of the lab failed; the text says what and what to do."""


def environment(build: bool = False) -> dict[str, str]:
    """The environment of a program inside the lab; `build` adds what apt-get and pip need to reach the network."""
    kept = {k: v for k, v in os.environ.items() if PASSED_ENV.match(k) and (build or "term" in k.lower())}
    return CLEAN_ENV | kept | ({"DEBIAN_FRONTEND": "noninteractive"} if build else {})


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = 30,
    text_in: str | None = None,
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one command in a session of its own; past `timeout` seconds its whole session is killed.

    Raises LabError when it cannot start, takes too long, or (with `check`) does not exit 0.
    """
    words = [str(word) for word in argv]
    name = shlex.join(words[:12])[:200]
    try:
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if text_in is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment() if env is None else env,
            start_new_session=True,
        )
    except OSError as error:
        raise LabError(f"cannot start {name}: {error.strerror}") from error
    try:
        out, err = process.communicate(text_in, timeout)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{name}: no end after {timeout:g} s") from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if check and process.returncode != 0:
        last = " / ".join((err.strip() or out.strip()).splitlines()[-6:])
        raise LabError(f"{name}: exit {process.returncode}: {last}")
    return subprocess.CompletedProcess(words, process.returncode, out, err)


def wait_for(true: Callable[[], object], seconds: float, what: str, every: float = 0.02) -> float:
    """Wait until `true()` holds; returns the seconds it took. Raises LabError after `seconds`."""
    start = monotonic()
    while not true():
        if monotonic() - start > seconds:
            raise LabError(f"waited {seconds:g} s for {what}")
        sleep(every)
    return monotonic() - start


@contextmanager
def locked(path: Path, timeout: float = 900) -> Iterator[None]:
    """Hold an exclusive lock on `path`, made if need be; the kernel lets go of it when this process ends.

    Raises LabError when another process still has it after `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = monotonic() + timeout
    while True:
        with path.open("a") as file:
            if _try_lock(file, path):
                yield
                return
        if monotonic() > deadline:
            raise LabError(f"{path}: another lab command has held it for {timeout:g} s")
        sleep(0.02)


def _try_lock(file: IO[str], path: Path) -> bool:
    """Lock the open file, unless another has it or it is no longer the file at `path`."""
    try:
        flock(file, LOCK_EX | LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
