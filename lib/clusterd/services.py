"""Services: started, stopped and asked for their state, each by the means that its description names.

Starting what runs and stopping what does not run is no error: a script that was killed halfway is run again.
A stop that did not end well leaves a mark: what runs then may still go down, and is started only when it has.
What a start or stop says is kept in /var/log/clusterd/services/NAME.log, where a person can read it.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NamedTuple

from clusterd import durations, lock, log, notify, paths, run, state, view
from clusterd.errors import Busy, Failed
from clusterd.model import Service

INIT_D = "/etc/init.d"
OCF_ROOT = "/usr/lib/ocf"
STATUS_TIMEOUT = 10.0
"""Seconds; a service that does not say in this time how it is, is not known to run."""
ENDING = 5.0
"""Seconds, at least, that a service whose stop failed is given to go down before it is started again."""
LOOK = 0.2
"""Seconds between two questions whether it has ended."""
QUEUED = ("systemd", "none")
"""Kinds whose stop needs no mark: systemd does one job of a unit after the other, and of nothing nothing goes down."""

OCF_RUNNING = (0, 8)
"""OCF_SUCCESS and OCF_RUNNING_MASTER of the resource agent API."""
OCF_STOPPED = 7
"""OCF_NOT_RUNNING."""
LSB_STOPPED = (1, 2, 3)
"""Dead with a pid file, dead with a lock, not running: LSB core specification, "Init Script Actions"."""
SYSTEMD_STOPPED = 3
"""What ``systemctl is-active`` says of an inactive unit, after LSB."""


class Outcome(NamedTuple):
    """How one start or stop ended."""

    service: str
    ok: bool
    text: str
    """One line for people."""
    seconds: float


def start(service: Service) -> None:
    """Start the service; nothing happens if it runs. One that is still going down is waited for.

    Raises:
        Failed: it did not start, or not within its timeout (then what was begun has been killed).
    """
    _let_end(service)
    if service.kind == "command" and service.status and status(service):
        return  # systemctl, init scripts and agents look for themselves
    _change(service, "start", wanted=True)


def stop(service: Service) -> None:
    """Stop the service; nothing happens if it does not run.

    Raises:
        Failed: it did not stop, or not within its timeout.
    """
    if service.kind in QUEUED or run.dry_run:
        _change(service, "stop", wanted=False)
        return
    _mark(service, service.timeout)
    began = time.monotonic()
    at_work = lock.Lock(_at_work(service))
    with suppress(Busy, OSError):
        at_work.acquire()
    try:
        _change(service, "stop", wanted=False, keeps=at_work.fd)
    except Failed:
        if status(service) is False:
            _unmark(service)
        else:  # one that refuses at once keeps those behind it waiting less than one that is slow
            _mark(service, time.monotonic() - began)
        raise
    finally:
        at_work.release()
    _unmark(service)


def status(service: Service) -> bool | None:
    """Whether the service runs; None if that cannot be told (or it has nothing that runs)."""
    argv = _argv(service, "status")
    if not argv:
        return None
    result = run.run(argv, timeout=STATUS_TIMEOUT, changes=False, env=_environment(service))
    if service.kind == "ocf":
        return True if result.code in OCF_RUNNING else False if result.code == OCF_STOPPED else None
    if service.kind == "systemd":
        return True if result.ok else False if result.code == SYSTEMD_STOPPED else None
    return True if result.ok else False if result.code in LSB_STOPPED else None


def start_all(services: Iterable[Service]) -> list[Outcome]:
    """Start them in their order; one that fails does not keep the others from running."""
    return [_outcome(service, start, "started") for service in sorted(services, key=_order)]


def stop_all(services: Iterable[Service]) -> list[Outcome]:
    """Stop them in reverse order; one that fails does not keep the others running."""
    return [_outcome(service, stop, "stopped") for service in sorted(services, key=_order, reverse=True)]


def _order(service: Service) -> tuple[int, str]:
    return service.order, service.name


def _outcome(service: Service, action: Callable[[Service], None], done: str) -> Outcome:
    """Carry out `action`; one event, whatever comes of it."""
    begun = time.monotonic()
    try:
        action(service)
    except Failed as error:
        ok, text = False, str(error)
    else:
        ok, text = True, f"{service.name}: {done}" if service.kind != "none" else f"{service.name}: nothing to run"
    seconds = time.monotonic() - begun
    if ok and service.kind != "none":
        text += f" in {durations.show(seconds)}"
    if not run.dry_run:
        name = f"service-{done}" if ok else f"service-not-{done}"
        log.event(name, text, level="info" if ok else "error", service=service.name, seconds=round(seconds, 3))
        if ok:
            notify.clear("service-failed", service.name)
    return Outcome(service.name, ok, text, seconds)


def _let_end(service: Service) -> None:
    """After a stop that did not end well: wait until the service is down, as long as that stop took.

    It may have been told to end and take longer than its timeout; or the script that stopped it was killed, and the
    stop command goes on by itself. What has not ended in all that time is taken to run, and to stay.
    """
    if run.dry_run or not os.path.lexists(_mark_of(service)):
        return
    most = _marked(service)
    if most <= 0:
        _unmark(service)
        return
    text = f"{service.name}: its last stop did not end well: started when it is down, or after {durations.show(most)}"
    log.event("service-ending", text, level="warning", service=service.name)
    end_at = time.monotonic() + most
    while _ending(service) and time.monotonic() < end_at:
        time.sleep(LOOK)
    _unmark(service)


def _ending(service: Service) -> bool:
    """Whether it may still go down: its stop command is at work, or it does not say that it is down, and could."""
    if lock.held(_at_work(service)):
        return True
    return bool(_argv(service, "status")) and status(service) is not False


def _at_work(service: Service) -> str:
    """The lock that a stop command has for as long as it runs, whatever becomes of who started it."""
    return f"stop-{service.name}"


def _mark_of(service: Service) -> str:
    return f"{paths.STOPPING}/{service.name}"


def _mark(service: Service, seconds: float) -> None:
    """From here on the service may go down, within about `seconds`. A disk that does not take that stops no stop."""
    try:
        state.write(_mark_of(service), {"until": view.now() + max(seconds, ENDING)}, durable=False)
    except OSError as error:
        log.debug(f"{_mark_of(service)}: {error.strerror}")


def _marked(service: Service) -> float:
    """The seconds that are left of what the mark says: that stop may have been long ago."""
    try:
        return float(state.read(_mark_of(service))["until"]) - view.now()
    except (Failed, TypeError, ValueError, KeyError):
        return service.timeout


def _unmark(service: Service) -> None:
    with suppress(OSError):
        os.unlink(_mark_of(service))


def _change(service: Service, action: str, *, wanted: bool, keeps: int | None = None) -> None:
    """Start or stop; a refusal by what is already as wanted is no failure."""
    argv = _argv(service, action)
    if not argv:
        return
    with run.Words(f"{paths.LOG}/services/{service.name}.log") as words:
        result = run.run(argv, timeout=service.timeout, env=_environment(service), output=words.fd, keeps=keeps)
        if result.ok or (not result.timed_out and status(service) is wanted):
            return
        why = f"timed out after {durations.show(service.timeout)}" if result.timed_out else result.why()
        said = words.last_line()
    raise Failed(f"{service.name}: {action} failed: {why}" + (f": {said}" if said else ""))


def _argv(service: Service, action: str) -> tuple[str, ...]:
    """The command that does `action` (start, stop or status); empty if there is none."""
    if service.kind == "systemd":
        return (
            ("systemctl", "is-active", "--quiet", service.unit)
            if action == "status"
            else ("systemctl", action, service.unit)
        )
    if service.kind == "sysv":
        script = f"{INIT_D}/{service.unit}"
        return (script, action) if os.path.exists(script) else ("service", service.unit, action)
    if service.kind == "ocf":
        return service.unit, "monitor" if action == "status" else action
    if service.kind == "command":
        return {"start": service.start, "stop": service.stop, "status": service.status}[action]
    return ()


def _environment(service: Service) -> dict[str, str]:
    """What resource agents want to be told."""
    if service.kind != "ocf":
        return {}
    parameters = (word.partition("=") for word in service.parameters)
    return {
        "OCF_ROOT": OCF_ROOT,
        "OCF_RA_VERSION_MAJOR": "1",
        "OCF_RA_VERSION_MINOR": "0",
        "OCF_RESOURCE_INSTANCE": service.name,
        "OCF_RESOURCE_TYPE": os.path.basename(service.unit),
        **{f"OCF_RESKEY_{name}": value for name, _, value in parameters},
    }
