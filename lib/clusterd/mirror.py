"""One pass of one service, from the holder to another node: look at everything first, then change it, then say so.

A dry run of rsync compares both sides and changes nothing. Nearly always there is nothing to do, and the pass is
complete. Otherwise its list of changes is the plan: what it would delete is held against the budget before anything
is touched; a second run carries it out, into a backup set at the receiver.
"""

from clusterd import guards, lock, passes, paths, run
from clusterd.errors import Failed
from clusterd.model import Config, Node, Service
from clusterd.transfer import Pass
from clusterd.transfer import Report as Report

HOOK = 3600
"""Seconds that a hook may take."""


def run_pass(
    config: Config,
    service: Service,
    node: Node,
    *,
    max_delete: str | None = None,
    leaving: bool = False,
    last: bool = False,
    progress: bool = False,
    wait: float = 60.0,
) -> Report:
    """Make the copy of `service` on `node` like the files here.

    Args:
        config: the configuration.
        service: what is mirrored.
        node: the receiver.
        max_delete: overrides the configuration; a person says so.
        leaving: for a hand-over, which a node in standby makes, too.
        last: the service is stopped for it; no hooks.
        progress: show how far it is, on stderr.
        wait: seconds to wait for another pass of the same service.

    Returns:
        The report; not `ok` if it began and is not complete. The next one makes it so.

    Raises:
        Busy: another pass of the service runs.
        NotPermitted: this node may not mirror it, or the receiver does not let it.
        Failed: refused, or the peer could not be reached. In any of these cases nothing was changed.
    """
    guards.check_holder(service, leaving=leaving)
    guards.check_settled(service)
    with lock.wait_for(f"mirror-{service.name}", wait):
        epoch = guards.check_holder(service, leaving=leaving)
        if not run.dry_run:
            passes.note_start(service.name)  # first of all: what fails is not tried again every minute
        made = Pass(config, service, node, epoch, max_delete, leaving=leaving)
        if not last:
            _hook(service, node, "before", service.before)
        report = made.run(progress)
        if report.ok and not last and not run.dry_run:
            _after(config, service, node)
    return report


def _hook(service: Service, node: Node, when: str, argv: tuple[str, ...]) -> None:
    """Run the hook of the service that is due `when`; what it says is in a file until it runs again.

    Raises:
        Failed: it failed.
    """
    if not argv:
        return
    env = {"CLUSTERD_SERVICE": service.name, "CLUSTERD_PEER": node.name}
    with run.Words(f"{paths.LOG}/hooks/{service.name}.{when}", fresh=True) as words:
        result = run.run(argv, timeout=HOOK, env=env, output=words.fd)
        said = words.last_line()
    if not result.ok:
        raise Failed(f"{service.name}: the hook failed: {result.why()}" + (f": {said}" if said else ""))


def _after(config: Config, service: Service, node: Node) -> None:
    """The hook after a complete pass: its failure is told, and changes nothing about the pass."""
    if not service.after:
        return
    from clusterd import notify

    try:
        _hook(service, node, "after", service.after)
    except Failed as error:
        notify.tell(config, "hook-failed", str(error), service=service.name, level="warning")
    else:
        notify.clear("hook-failed", service.name)
