"""Who comes first on a busy machine: what keeps an address, or brings it up; nothing of what is started after that.
And on a busy network: what says that a node lives, and what asks who does.
"""

import os
import socket
from contextlib import suppress

FIRST = -15
ORDINARY = 0
_INTERACTIVE = 6
"""TC_PRIO_INTERACTIVE of linux/pkt_sched.h: the first of the three bands of a NIC's queue (pfifo_fast)."""


def come_first() -> None:
    """Before others, as far as that is allowed."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)


def no_hurry() -> None:
    """Come first no longer: what is started from here on inherits it."""
    if os.getpriority(os.PRIO_PROCESS, 0) < ORDINARY:
        os.setpriority(os.PRIO_PROCESS, 0, ORDINARY)


def ahead_of_files(sock: socket.socket) -> None:
    """Have what the socket sends leave the machine first. To be called last: IP_TOS sets the same once more."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, _INTERACTIVE)
