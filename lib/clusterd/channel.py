"""One JSON object a line, both ways: how the two ends of a pass talk to each other."""

import json
import os
import select
import threading
import time
from typing import Any

from clusterd.errors import ClusterdError

LONGEST = 1 << 28
"""Bytes of one message; a list of a million paths has room."""
TICK = 2.0
"""Seconds between two signs of life."""


class Ended(ClusterdError):
    """The other end is gone, or says nothing sensible."""


class Silent(ClusterdError):
    """Nothing came in time."""


class Channel:
    """Messages to and from the other end, over two file descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.buffer = b""
        self.turn = threading.Lock()

    def send(self, **message: Any) -> None:
        """Send one message.

        Raises:
            Ended: nobody reads any more.
        """
        data = memoryview(json.dumps(message).encode() + b"\n")
        try:
            with self.turn:
                while data:
                    data = data[os.write(self.outgoing, data) :]
        except OSError as error:
            raise Ended(f"the connection ended: {error.strerror}") from None

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next message; signs of life only prolong the wait.

        Raises:
            Ended: there will be none.
            Silent: nothing, not even a sign of life, within `timeout` seconds.
        """
        while True:
            line = self._line(time.monotonic() + timeout)
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                raise Ended(f"no sensible answer: {line[:80]!r}") from None
            if not isinstance(message, dict):
                raise Ended(f"no sensible answer: {line[:80]!r}")
            if message:
                return message

    def _line(self, end: float) -> bytes:
        pieces = [self.buffer]
        size = len(self.buffer)
        while b"\n" not in pieces[-1]:
            if not select.select([self.incoming], [], [], max(0.0, end - time.monotonic()))[0]:
                self.buffer = b"".join(pieces)
                raise Silent("no answer in time")
            piece = os.read(self.incoming, 1 << 16)
            size += len(piece)
            if not piece or size > LONGEST:
                raise Ended("the connection ended")
            pieces.append(piece)
        line, _, self.buffer = b"".join(pieces).partition(b"\n")
        return line

    def alive(self) -> "Alive":
        """A sign of life every `TICK` seconds, for use in a ``with`` statement around work that takes its time."""
        return Alive(self)


class Alive:
    """Sends signs of life from a thread of its own while the body of a ``with`` statement runs."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self.over.wait(TICK):
            try:
                self.channel.send()
            except Ended:
                return

    def __enter__(self) -> "Alive":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
