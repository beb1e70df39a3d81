"""The sender's two connections of a pass: to the peer's gate, for what is said, and rsync, for the files."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from clusterd import log, passes, peer, rsync, run
from clusterd.asked import Begin
from clusterd.channel import PARTS, Alive, Channel, Ended, Silent
from clusterd.errors import BUSY, NOT_PERMITTED, Busy, ClusterdError, Failed, NotPermitted
from clusterd.model import Config, Node, Service

GRACE = 2.0
"""Seconds that the other end gets to finish."""
_LOOK = 1.0
"""Seconds between two looks whether the other connection still is there."""


class Control:
    """The conversation with the gate session that receives a pass, for use in a ``with`` statement.

    All methods raise Failed, Busy or NotPermitted as the gate says, and peer.Unreachable if it says nothing.
    """

    def __init__(self, config: Config, service: Service, node: Node, epoch: int) -> None:
        self.config = config
        self.service = service
        self.node = node
        self.words = ["pass", service.name, str(epoch)]
        self.said: dict[str, Any] = {}
        """The gate's first answer."""
        self.between = (0.0, 0.0)
        """Our clock before and after the peer looked at its own."""
        self.count = 0
        """Files on the other side, once `look` was asked."""
        self.unmirrored: dict[str, bool] = {}
        """What only the other side has, and whether it is older than the last pass from there."""

    def __enter__(self) -> "Control":
        self.complaints = os.memfd_create("complaints")
        argv = peer.argv(self.config, self.node, self.words)
        log.debug("run: " + " ".join(argv))
        self.began = time.time()
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            env=run.environment(),
            start_new_session=True,
        )
        assert self.process.stdin and self.process.stdout
        self.channel = Channel(self.process.stdout.fileno(), self.process.stdin.fileno())
        self.alive: Alive = self.channel.alive()
        self.alive.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.alive.__exit__()
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        os.close(self.complaints)

    def connected(self) -> None:
        """Wait until the connection can be shared, the gate has answered, or neither will happen."""
        end = time.monotonic() + peer.CONNECT
        while not peer.connected(self.config, self.node) and time.monotonic() < end:
            if self.process.poll() is not None or select.select([self.channel.incoming], [], [], 0.01)[0]:
                return

    def hello(self) -> None:
        """The gate's first answer: the pass is let in, and how things are there."""
        self.said = self._receive(peer.CONNECT + self.config.mirror.timeout)
        self.channel.parts = PARTS in self.said.get("can", ())
        self.between = (self.began, time.time())

    def skew(self) -> float:
        """The peer's clock minus ours, in seconds; at least that, by what is known."""
        least, most = self._skews()
        if max(abs(least), abs(most)) > self.config.mirror.max_skew:
            before = time.time()
            self.said["clock"] = self.ask("clock")["clock"]
            self.between = (before, time.time())
            least, most = self._skews()
        return least if least > 0 else most if most < 0 else 0.0

    def _skews(self) -> tuple[float, float]:
        clock = float(self.said["clock"])
        return clock - self.between[1], clock - self.between[0]

    def look(self) -> None:
        """Ask how much is there, and what of it was never mirrored."""
        answer = self.ask("look")
        self.count = int(answer["count"])
        self.unmirrored = {path: bool(old) for path, old in answer["unmirrored"]}

    def begin(self, said: Begin) -> tuple[str, str]:
        """Files are going to change; returns the backup set and its folder for files."""
        answer = self.ask("begin", **said._asdict())
        return answer["set"], answer["files"]

    def finish(self, *, complete: bool, entries: int, changes: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
        """The pass is over; returns what was kept."""
        return self.ask("end", complete=complete, entries=entries, changes=changes)

    def told(self) -> None:
        """A person is told of what the other side had alone: it need not do that itself."""
        with suppress(Ended):
            self.channel.send(do="told")

    def ask(self, what: str, **facts: Any) -> dict[str, Any]:
        """One question, one answer."""
        try:
            self.channel.send(do=what, parts=True, **facts)
        except Ended as error:
            raise self._gone(error) from None
        return self._receive(self.config.mirror.timeout)

    def _receive(self, timeout: float) -> dict[str, Any]:
        try:
            answer = self.channel.receive(timeout)
        except (Ended, Silent) as error:
            raise self._gone(error) from None
        if "error" not in answer:
            return answer
        kind = {BUSY: Busy, NOT_PERMITTED: NotPermitted}.get(int(answer["exit"]), Failed)
        raise kind(f"{self.node.name} refuses: {answer['error']}")

    def lost(self) -> Failed:
        """The error for a conversation that ended while files were looked at or sent."""
        return self._gone(Ended("the connection ended"))

    def _gone(self, error: ClusterdError) -> Failed:
        """Why there is no answer: ssh says it, or the gate did, or nobody."""
        try:
            code = self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            return peer.Unreachable(f"{self.node.name}: {error}")
        said = os.pread(self.complaints, 1 << 16, 0).decode("utf-8", "replace")
        return peer.unreachable(self.node, code, said)


class Run:
    """One rsync, from its start to what it said."""

    def __init__(self, argv: Sequence[str], progress: bool = False) -> None:
        self.progress = progress
        self.complaints = os.memfd_create("complaints")
        log.debug("run: " + " ".join(argv))
        try:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self.complaints,
                env=_environment(),
                cwd="/",
                start_new_session=True,
            )
        except OSError as error:
            raise Failed(f"{argv[0]}: {error.strerror}: is rsync installed?") from None
        self.code: int | None = None
        self.output = rsync.Output()
        self.stderr = b""

    def finish(self, control: Control) -> "Run":
        """Wait for its end; it is ended if the conversation with the gate ends before."""
        try:
            output = self._read(control)
            if control.process.poll() is None:
                self.code = self.process.wait()
        finally:
            self.end()
        self.output = rsync.parse(output)
        return self

    def _read(self, control: Control) -> bytes:
        """All that it prints, as long as the conversation goes on."""
        assert self.process.stdout
        pieces = []
        while True:
            if select.select([self.process.stdout], [], [], _LOOK)[0]:
                piece = os.read(self.process.stdout.fileno(), 1 << 16)
                if not piece:
                    break
                pieces.append(piece)
                self._show(piece)
            elif control.process.poll() is not None:
                break
        return b"".join(pieces)

    def end(self) -> None:
        """End it, if it still runs; harmless otherwise."""
        if self.complaints < 0:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()
        self.stderr = os.pread(self.complaints, 1 << 20, 0)
        os.close(self.complaints)
        self.complaints = -1

    def harmless(self, began: float) -> bool:
        """Whether all that was amiss is that files were deleted by their owner while they were being sent; they may be
        there again by now, made since the pass `began` (by the wall clock): the next one copies them.
        """
        gone = rsync.vanished(self.stderr)
        return self.code == rsync.VANISHED and bool(gone) and all(_gone_or_new(path, began) for path in gone)

    @property
    def note(self) -> str:
        """What else is to be said about a pass that is complete."""
        return f"{len(rsync.vanished(self.stderr))} files were deleted here meanwhile" if self.code else ""

    def why(self, there: str = "") -> str:
        """How it failed, in words; `there`: what the other end complained of, which it may not have had time to say."""
        return rsync.explain(self.code, there.encode() + b"\n" + self.stderr)

    def _show(self, piece: bytes) -> None:
        """The last line of rsync's progress, in place of the one before."""
        if not self.progress:
            return
        shown = [line for line in piece.replace(b"\n", b"\r").split(b"\r") if b"%" in line[:40]]
        if shown:
            sys.stderr.write("\r" + shown[-1].decode("ascii", "replace").strip().ljust(78))
            sys.stderr.flush()


def _environment() -> dict[str, str]:
    """Output in ASCII only, and no option from outside."""
    return {
        **{name: value for name, value in run.environment().items() if not name.startswith("RSYNC_")},
        "LC_ALL": "C",
    }


def _gone_or_new(path: str, began: float) -> bool:
    try:
        return os.lstat(path).st_ctime >= began - passes.TICK
    except OSError:
        return True
