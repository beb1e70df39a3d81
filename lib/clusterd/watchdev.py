"""The hardware watchdog of a node: it resets the machine unless somebody speaks to it in time.

The interface is the kernel's (Documentation/watchdog/watchdog-api.rst): opening the device arms it, every byte that is
written begins its timeout anew, and closing it disarms it only after a ``V`` ("magic close"). So a program that is
killed, hangs, or crashes leaves it armed, which is the point; one that ends in order disarms it.
"""

import errno
import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable

from clusterd import log
from clusterd.errors import Failed
from clusterd.model import Node

WDIOC_GETSUPPORT = 0x80285700
WDIOC_SETTIMEOUT = 0xC0045706
WDIOC_GETTIMEOUT = 0x80045707
WDIOF_MAGICCLOSE = 0x0100
"""linux/watchdog.h"""
INFO = struct.Struct("=II32s")
"""struct watchdog_info: options, firmware version, identity."""
WORDS = 10
"""So many words within the timeout."""
RETRY = 10.0
"""Seconds between two tries to open a device that could not be: its driver may be loaded later."""


class Dog:
    """Speaks to the device as long as it is asked to, and arms it with the first word.

    Some hardware takes its time (an IPMI controller: a tenth of a second; a broken one: for ever), and the watchdog's
    loop must not wait. So a thread speaks, and only when it is asked. It ends with the process.

    Args:
        node: this one; without a device nothing is done.
        tell: is given what is wrong with the device, for a person, when that changes; "" when it takes words.
    """

    def __init__(self, node: Node, tell: Callable[[str], None]) -> None:
        self.path = node.watchdog_device
        self.seconds = node.watchdog_timeout
        self._tell = tell
        self._told: str | None = None
        self._fd: int | None = None
        self._due = self._open_at = 0.0
        self._asked = threading.Event()
        self._speaking = threading.Lock()
        self._ended = self.path == "none"
        if not self._ended:
            threading.Thread(target=self._work, name="watchdog-device", daemon=True).start()

    def pet(self, now: float, *, well: bool) -> None:
        """The loop turns, at this moment; `well`: and the kernel does what it asks for. Waits for nothing."""
        if well and now >= self._due and not self._ended:
            self._due = now + self.seconds / WORDS
            self._asked.set()

    def disarm(self) -> None:
        """The end, in order: nobody is to be reset. Harmless when repeated."""
        self._ended = True
        if not self._speaking.acquire(timeout=1):
            log.event("watchdog-device-stuck", f"{self.path} takes no word: it stays armed", level="error")
            return
        if self._fd is not None:
            try:
                os.write(self._fd, b"V")
            except OSError as error:
                log.event("watchdog-device-stuck", f"{self.path} stays armed: {error.strerror}", level="error")
            os.close(self._fd)
            self._fd = None
        self._speaking.release()

    def _work(self) -> None:
        while True:
            self._asked.wait()
            self._asked.clear()
            with self._speaking:
                if self._ended:
                    return
                self._speak()

    def _speak(self) -> None:
        try:
            if self._fd is None:
                if time.monotonic() < self._open_at:
                    return
                self._open_at = time.monotonic() + RETRY
                self._fd = self._open()
            os.write(self._fd, b"\0")
            self._say("")
        except Failed as error:
            self._say(str(error))
        except OSError as error:
            self._say(f"{self.path}: {error.strerror}")
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None

    def _say(self, text: str) -> None:
        """Tell it if it is news: it is tried again for as long as the node runs."""
        if text != self._told:
            self._told = text
            self._tell(text)

    def _open(self) -> int:
        """Open it, which arms it, and set its timeout.

        Raises:
            Failed: it is no watchdog device.
            OSError: it cannot be opened.
        """
        fd = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            options, _, identity = INFO.unpack(fcntl.ioctl(fd, WDIOC_GETSUPPORT, bytes(INFO.size)))
            set_to = _timeout(fd, self.seconds)
        except OSError as error:
            os.close(fd)
            if error.errno in (errno.ENOTTY, errno.EINVAL):
                raise Failed(f"{self.path}: is no watchdog device") from None
            raise
        self.seconds = min(self.seconds, set_to)
        name = identity.split(b"\0")[0].decode("ascii", "replace")
        text = f"{self.path} ({name}) resets this node after {set_to} s without a word"
        if not options & WDIOF_MAGICCLOSE:
            text += "; it disarms itself when this program is killed, and resets only one that hangs"
        log.event("watchdog-device-armed", text, level="notice", device=self.path, timeout=set_to)
        return fd


def _timeout(fd: int, seconds: float) -> int:
    """Set the timeout; returns what it is now. Some hardware rounds it, some has one that is fixed."""
    wanted = struct.pack("=i", int(seconds))
    try:
        answer = fcntl.ioctl(fd, WDIOC_SETTIMEOUT, wanted)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
            raise
        answer = fcntl.ioctl(fd, WDIOC_GETTIMEOUT, wanted)
    return int(struct.unpack("=i", answer)[0])
