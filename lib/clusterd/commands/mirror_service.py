"""mirror_service SERVICE…: one pass, from the holder to the other node or nodes."""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from clusterd import cli, config, errors, lock, log, ownership, passes, paths, run, state, view
from clusterd.errors import FAILED, OK, Busy, ClusterdError, ConfigError, Failed, Usage
from clusterd.model import Config, Node, Service

if TYPE_CHECKING:
    from clusterd.mirror import Report
    from clusterd.rsync import Item

DESCRIPTION = """\
Make the copies of a service's files on the other nodes like the files here, on the node that holds its group. What is
replaced or deleted there goes into a backup set. A pass that would delete more than max_delete, or whose source or
target is not what it was, changes nothing and says why."""
EPILOG = """\
examples:
  mirror_service smbd                   one pass, now
  mirror_service --dry-run smbd         what it would replace and delete
  mirror_service --max-delete 5000 smbd so many deletions are right, this once
  mirror_service --due                  what cron calls every minute"""

EARLY = 5.0
"""Seconds: cron is not that exact."""


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("mirror_service", DESCRIPTION, EPILOG)
    made.add_argument("services", metavar="SERVICE", nargs="*", help="the services to mirror")
    made.add_argument("--due", action="store_true", help="all services of this node whose time has come; quiet")
    made.add_argument(
        "--max-delete", metavar="N", help="allow so many deletions (or '20 %%'), and an empty source, in this pass"
    )
    made.add_argument(
        "--accept-mounts",
        action="store_true",
        help="take the disks and sentinels of this node as they are now for the right ones; no pass",
    )
    made.add_argument(
        "--progress", action="store_true", default=None, help="show how far it is (default on a terminal)"
    )
    made.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), mirror_service, argv)


def mirror_service(options: argparse.Namespace) -> int:
    """Mirror what the options name, to every other node."""
    try:
        settings = config.load(options.config)
    except ConfigError as error:
        if options.json or not (options.due or options.quiet) or not lock.held("watchdog"):
            raise
        log.debug(f"the watchdog tells it: {error}")
        return error.exit_code
    if options.due:
        if options.services or options.max_delete or options.accept_mounts:
            raise Usage("--due goes without services and their options")
        return due(settings)
    chosen = [_service(settings, name) for name in dict.fromkeys(options.services)]
    if not chosen:
        mirrored = ", ".join(name for name, service in settings.services.items() if service.paths)
        raise Usage(f"which service? There are {mirrored or 'none that is mirrored'}")
    if options.accept_mounts:
        return accept(chosen)
    limit = _limit(options.max_delete)
    outcomes = [_one(settings, service, node, options, limit) for service in chosen for node in settings.peers()]
    if options.json:
        cli.show_json([fact for fact, _ in outcomes])
    return max((code for _, code in outcomes), default=OK)


def accept(chosen: Sequence[Service]) -> int:
    """--accept-mounts: forget what the places were like; the next pass looks at them as for the first time."""
    cli.answer(accepted=[] if run.dry_run else [service.name for service in chosen])
    for service in chosen:
        if run.dry_run:
            print(f"would forget: {', '.join(passes.read(service.name).places)}")
            continue
        passes.forget_places(service.name)
        log.event("mounts-accepted", f"{service.name}: mounts and sentinels accepted", service=service.name)
    return OK


def _one(
    settings: Config, service: Service, node: Node, options: argparse.Namespace, limit: str | None
) -> tuple[dict[str, object], int]:
    """One pass to one node; what came of it, and the exit code."""
    from clusterd import mirror

    shown = options.progress if options.progress is not None else sys.stderr.isatty() and not options.quiet
    try:
        report = mirror.run_pass(settings, service, node, max_delete=limit, progress=shown, wait=0)
    except (ClusterdError, OSError) as why:
        error = why if isinstance(why, ClusterdError) else Failed(f"{service.name}: {errors.text(why)}")
        if options.quiet:
            _trouble(settings, service, node, "pass-refused", error)
        if not options.quiet:
            cli.complain("mirror_service", error)
        return {"service": service.name, "peer": node.name, "error": str(error), "exit": error.exit_code}, (
            error.exit_code
        )
    if options.quiet or (report.ok and not run.dry_run):
        _trouble(settings, service, node, "pass-failed", None if report.ok else Failed(report.problem))
    if not options.json:
        _show(report, options.verbose, shown)
    if not report.ok and not options.quiet:
        print(log.shown(f"mirror_service: {service.name} to {node.name}: {report.problem}"), file=sys.stderr)
    fact = report._asdict()
    fact["plan"] = [{"code": item.code, "path": item.path} for item in report.plan]
    return fact, OK if report.ok else FAILED


def _show(report: "Report", verbose: int, progress: bool) -> None:
    """On a terminal, or asked for more: what was done. With --dry-run: what would be."""
    from clusterd import durations

    if progress:
        print(file=sys.stderr)
    for item in report.plan:
        print(f"would {_what(item)}: {log.shown(item.path)}")
    if verbose or sys.stdout.isatty():
        kept = f", the old ones are kept on {report.peer} in {report.backup_set}" if report.backup_set else ""
        note = f" ({report.problem})" if report.ok and report.problem else ""
        print(
            f"{report.service} to {report.peer}: {report.changed} changed, {report.deleted} deleted{kept}; "
            f"{durations.show(report.seconds)}{note}"
        )
    for path in report.unmirrored:
        print(f"only {report.peer} had: {log.shown(path)}{' (changed here as well)' if path in report.both else ''}")


def _what(item: "Item") -> str:
    """What would be done to one path, in a word or two."""
    if item.deleted or item.replaced:
        return "delete" if item.deleted else "replace"
    return "create" if "+" in item.code else "set attributes of"


def due(settings: Config) -> int:
    """--due: a pass of every service that is held here and whose time has come, `parallel` at once; quiet.

    First, and in standby too: notices that could not be delivered before. Nobody else tries them again.
    """
    from clusterd import notify

    cli.answer(mirrored={})
    notify.retry(settings)
    if ownership.standby():
        return OK
    now = view.now()
    waiting = [service for service in settings.services.values() if _is_due(service, now)]
    if run.dry_run:
        for service in waiting:
            print(f"would mirror {service.name}")
        return OK
    running: dict[str, subprocess.Popen[bytes]] = {}
    codes: dict[str, int] = {}
    while waiting or running:
        while waiting and len(running) < settings.mirror.parallel:
            service = waiting.pop(0)
            running[service.name] = _start(settings, service)
        time.sleep(0.02)
        codes |= {name: code for name, process in running.items() if (code := process.poll()) is not None}
        running = {name: process for name, process in running.items() if process.returncode is None}
    cli.answer(mirrored=codes)
    return FAILED if any(codes.values()) else OK


def _is_due(service: Service, now: float) -> bool:
    """Whether `every` has elapsed since the last start in this boot, or there was none."""
    if not service.paths or service.every is None or not ownership.known_to_hold(service.home):
        return False
    began = passes.started(service.name)
    return began is None or now >= began + service.every - EARLY


def _start(settings: Config, service: Service) -> "subprocess.Popen[bytes]":
    """A pass in a process of its own, which tells what there is to tell."""
    argv = [sys.executable, sys.argv[0], "--config", settings.folder, "--quiet", service.name]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL)


def _trouble(settings: Config, service: Service, node: Node, name: str, error: ClusterdError | None) -> None:
    """Tell a person when the trouble of a service begins, becomes another one, and ends; not every minute."""
    from clusterd import notify

    if isinstance(error, Busy):
        return
    kept, spare = (f"{folder}/{service.name}.{node.name}.json" for folder in (paths.TROUBLE, paths.BOOT_TROUBLE))
    before = (state.read(spare) or state.read(kept) or {}).get("kind", "")
    now, notice = _kind(error, name)
    if before == now:
        return
    subject = f"{service.name} to {node.name}"
    if error is None:
        state.remove(kept)
        state.remove(spare)
        for ended in ("pass-refused", "pass-failed", "clock-skew"):
            notify.clear(ended, subject)
        log.event("pass-well-again", f"{subject}: passes are complete again", service=service.name, peer=node.name)
        return
    fact = {"kind": now, "text": str(error)}
    try:
        state.write(kept, fact)
        state.remove(spare)
    except OSError:
        state.write(spare, fact, durable=False)
    if notice:
        notify.tell(settings, notice, str(error), subject=subject, service=service.name, peer=node.name)
    else:
        log.event("pass-impossible", str(error), level="warning", service=service.name, peer=node.name)


def _kind(error: ClusterdError | None, name: str) -> tuple[str, str]:
    """What sort of trouble it is, and the notice for it; the numbers in its text do not count."""
    from clusterd import peer, transfer

    if error is None:
        return "", ""
    if isinstance(error, peer.Unreachable):
        # The watchdog tells that a node is gone.
        return "unreachable", ""
    if isinstance(error, transfer.ClocksApart):
        return "clocks", "clock-skew"
    return "".join(letter for letter in str(error) if not letter.isdigit()), name


def _limit(text: str | None) -> str | None:
    """--max-delete, as in the configuration."""
    if text is None:
        return None
    amount, percent = text.rstrip("% "), text.endswith("%")
    if not amount.isascii() or not amount.isdigit() or (percent and int(amount) > 100):
        raise Usage(f"--max-delete {text}: a number, or a percentage from 0 % to 100 %")
    return f"{int(amount)} %" if percent else f"{int(amount)}"


def _service(settings: Config, name: str) -> Service:
    service = settings.services.get(name)
    if service is None:
        raise Usage(f"{name}: no such service; there are {', '.join(settings.services)}")
    if not service.paths:
        raise Usage(f"{name}: nothing of it is mirrored: {settings.folder}/services/{name}.conf has no paths")
    return service
