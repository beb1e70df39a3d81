"""Ending the pass that a node receives for a group that it is about to serve, and what its files are to be then.

What is needed only after a pass that was cut (leftovers.py, rollback.py) is loaded only then: a takeover is quick.
"""

import os
import signal
import time
from collections.abc import Iterable

from clusterd import lock, log, passes, services
from clusterd.errors import ClusterdError, Failed
from clusterd.model import Service
from clusterd.passes import NEWEST, Unfinished

PATIENCE = 5.0
"""Seconds that an earlier pass, or its rsync, gets to end."""


def settle(service: Service) -> Unfinished | None:
    """This node takes the service over and has not started it yet: end a pass that is being received, and see to it
    that the files are those that are to be served.

    The group's record must say already that this node has it: no new pass is let in. Returns the pass that was cut,
    now or before, with what is served; None if the last one was complete.

    Raises:
        Failed: the pass does not end, or the files are neither one generation nor the other: nothing may be started.
    """
    end(f"apply-{service.name}")
    end(f"receive-{service.name}")
    with lock.wait_for(f"receive-{service.name}", PATIENCE):
        return _choose(service) if passes.read(service.name).unfinished else None


def _choose(service: Service) -> Unfinished | None:
    """Tidy up after the pass that was cut, and choose what is served; the caller holds the service's lock."""
    from clusterd import leftovers, rollback

    record = leftovers.recover(service, before_start=True)
    cut = record.unfinished
    if cut is None or cut.served:
        return cut
    if not service.consistent or services.status(service):
        # What runs already, started by hand, say, has written since: nothing is taken from under it.
        made = cut._replace(served=NEWEST, decided=time.time())
        return passes.write(record._replace(unfinished=made)).unfinished
    try:
        return rollback.roll_back(service, record).unfinished
    except (ClusterdError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        raise Failed(
            f"the last pass to here was cut, and the way back to the last complete one failed: {where}{why}. "
            f"Put that right, then: takeover {service.home} --resume; or set consistent = no before, which "
            f"serves the newest files, some new, some old"
        ) from None


def cut_off(services: Iterable[Service]) -> None:
    """End what still writes to these files from another node, before this node answers for their group.

    Their services start later (`settle`); but one that could not be stopped before runs still. What does not end is
    told then, and keeps nothing else from being served. The group's record must say already that this node has it.
    """
    for service in services:
        try:
            end(f"apply-{service.name}")
        except Failed as error:
            log.debug(str(error))


def end_rsync(service: str) -> None:
    """Wait until the rsync that receives for `service` has ended; it has not got long."""
    end_at = time.monotonic() + PATIENCE
    while lock.held(f"apply-{service}") and time.monotonic() < end_at:
        time.sleep(0.02)
    end(f"apply-{service}")


def end(name: str) -> None:
    """End the process group that holds the lock `name`, if any: asked first, then killed.

    Raises:
        Failed: it does not end.
    """
    for sent in (signal.SIGTERM, signal.SIGKILL):
        pid = lock.holder(name)
        if pid is None:
            return
        try:
            if os.getpgid(pid) == pid:
                os.killpg(pid, sent)
            else:
                os.kill(pid, sent)
        except ProcessLookupError:
            pass
        end_at = time.monotonic() + PATIENCE / 2
        while time.monotonic() < end_at:
            if not lock.held(name):
                return
            time.sleep(0.01)
    raise Failed(f"{name}: its process does not end, even killed: a disk that hangs?")
