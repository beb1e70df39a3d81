"""A client of the share that stays connected, as a person's does, and connects again after whatever went wrong."""

import os
import re
import select
import shutil
import signal
import subprocess
from pathlib import Path
from time import monotonic

from lab.labnet.lab import Lab
from lab.labnet.proc import environment

SERVER = "10.1.0.1"
PATIENCE = 2.0
"""Seconds within which the server must have acknowledged what is stored; five times as many, connecting included."""


class ShareClient:
    """Samba's own smbclient on the lab's client, told by its standard input what to store.

    with ShareClient(lab, "day") as client:
        client.put("name", "text")
    """

    def __init__(self, lab: Lab, name: str) -> None:
        """`name`: of a folder of the client's for what is to be stored."""
        self.lab = lab
        self.folder = f"/tmp/{name}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ShareClient":
        self._here().mkdir(exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._hang_up()
        shutil.rmtree(self._here(), ignore_errors=True)

    def put(self, name: str, text: str) -> bool:
        """Store a file on the share; whether the server has acknowledged it as closed."""
        end = monotonic() + (PATIENCE if self._process else 5 * PATIENCE)
        (self._here() / name).write_text(text)
        done = re.compile(rf"putting file \S*/{name} as .*\(average [0-9.]+ kb/s\)")
        stored = self._told(f"put {self.folder}/{name} {name}\n", done, end)
        if not stored:
            self._hang_up()
        return stored

    def get(self, name: str) -> str | None:
        """What the share has in a file; None if it does not say, or there is none: then smbclient ends."""
        end = monotonic() + (PATIENCE if self._process else 5 * PATIENCE)
        target = f"{name}.read"
        done = re.compile(rf"getting file \S*{name} of size \d+ as \S+ .*\(average [0-9.]+ \S+\)")
        if not self._told(f"get {name} {self.folder}/{target}\n", done, end):
            self._hang_up()
            return None
        return (self._here() / target).read_text()

    def _here(self) -> Path:
        return self.lab.path("client", self.folder)

    def _told(self, command: str, wanted: re.Pattern[str], end: float) -> bool:
        """Give smbclient a command; whether it says what is wanted, and no error, before `end`.

        It is given one only when it is done with the one before: of two lines that are there at once it sees the first.
        """
        process = self._process or self._connect()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(command.encode())
        except OSError:
            return False
        said = ""
        while not wanted.search(said):
            ready, _, _ = select.select([process.stdout], [], [], max(0.0, end - monotonic()))
            news = os.read(process.stdout.fileno(), 4096) if ready else b""
            said += news.decode(errors="replace")
            if not news or "NT_STATUS" in said:
                return False
        return True

    def _connect(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            self.lab.argv("client", ["smbclient", "-N", f"//{SERVER}/share"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            env=environment(),
        )
        return self._process

    def _hang_up(self) -> None:
        """As one that is killed: the server finds out by itself."""
        process, self._process = self._process, None
        if process is None:
            return
        with process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
