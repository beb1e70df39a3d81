"""One JSON object a line, both ways: how the two ends of a pass talk to each other."""

import json
import os
import select
import threading
import time
from typing import Any

from clusterd.errors import ClusterdError, Failed

LONGEST = 1 << 28
"""Bytes of one message; a list of a million paths has room."""
PARTS = "parts"
"""What an end says that takes longer lists than that, in several messages."""
PART = 5000
"""So many of a list go in one of them, however long paths are."""
MOST = 1 << 30
"""Bytes of all of them: a peer must not fill the memory here."""
TICK = 2.0
"""Seconds between two signs of life."""


class Ended(ClusterdError):
    """The other end is gone, or says nothing sensible."""


class Silent(ClusterdError):
    """Nothing came in time."""


class TooLong(Failed):
    """There is more to be said than goes in one message, or in all of its parts; a person has to see to it."""

    def __init__(self, most: int) -> None:
        super().__init__(
            f"too many files: the list of them is longer than {most >> 20} MiB; with one version of clusterd on both "
            f"nodes it may have {MOST >> 20} MiB"
        )


class Channel:
    """Messages to and from the other end, over two file descriptors."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.buffer = b""
        self.turn = threading.Lock()
        self.parts = False
        """The other end takes parts."""

    def send(self, **message: Any) -> None:
        """Send one message; long lists go before it, in parts.

        Raises:
            Ended: nobody reads any more.
            TooLong: the other end would not take it.
        """
        for key, value in message.items() if self.parts else ():
            if isinstance(value, list | tuple) and len(value) > PART:
                for first in range(0, len(value), PART):
                    self._write({"part": {key: value[first : first + PART]}})
                message = {**message, key: ()}
        self._write(message)

    def _write(self, message: dict[str, Any]) -> None:
        data = memoryview(json.dumps(message).encode() + b"\n")
        if len(data) > LONGEST:
            raise TooLong(LONGEST)
        try:
            with self.turn:
                while data:
                    data = data[os.write(self.outgoing, data) :]
        except OSError as error:
            raise Ended(f"the connection ended: {error.strerror}") from None

    def receive(self, timeout: float) -> dict[str, Any]:
        """The next message, with its parts; signs of life only prolong the wait.

        Raises:
            Ended: there will be none.
            Silent: nothing, not even a sign of life, within `timeout` seconds.
            TooLong: it is, or they are.
        """
        parts: dict[str, list[Any]] = {}
        size = 0
        while True:
            line = self._line(time.monotonic() + timeout)
            size += len(line)
            if size > MOST:
                raise TooLong(MOST)
            try:
                message = json.loads(line)
            except (ValueError, RecursionError):
                raise Ended(f"no sensible answer: {line[:80]!r}") from None
            if not isinstance(message, dict):
                raise Ended(f"no sensible answer: {line[:80]!r}")
            if message.keys() == {"part"}:
                _add(parts, message["part"])
            elif message:
                _add(parts, {key: message[key] for key in parts if key in message})
                return {**message, **parts}

    def _line(self, end: float) -> bytes:
        pieces = [self.buffer]
        size = len(self.buffer)
        while b"\n" not in pieces[-1]:
            if not select.select([self.incoming], [], [], max(0.0, end - time.monotonic()))[0]:
                self.buffer = b"".join(pieces)
                raise Silent("no answer in time")
            piece = os.read(self.incoming, 1 << 16)
            size += len(piece)
            if not piece:
                raise Ended("the connection ended")
            if size > LONGEST and b"\n" not in piece:
                raise TooLong(LONGEST)
            pieces.append(piece)
        line, _, self.buffer = b"".join(pieces).partition(b"\n")
        return line

    def alive(self) -> "Alive":
        """A sign of life every `TICK` seconds, for use in a ``with`` statement around work that takes its time."""
        return Alive(self)


def _add(parts: dict[str, list[Any]], more: Any) -> None:
    """Put the lists in `more` behind those that came before."""
    if not isinstance(more, dict) or not all(isinstance(value, list) for value in more.values()):
        raise Ended(f"no sensible answer: a part of {str(more)[:80]!r}")
    for key, value in more.items():
        parts.setdefault(key, []).extend(value)


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
