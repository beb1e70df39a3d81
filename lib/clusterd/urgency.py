"""Who comes first on a busy machine: what keeps an address, or brings it up; nothing of what is started after that."""

import os
from contextlib import suppress

FIRST = -15
ORDINARY = 0


def come_first() -> None:
    """Before others, as far as that is allowed."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, FIRST)


def no_hurry() -> None:
    """Come first no longer: what is started from here on inherits it."""
    if os.getpriority(os.PRIO_PROCESS, 0) < ORDINARY:
        os.setpriority(os.PRIO_PROCESS, 0, ORDINARY)
