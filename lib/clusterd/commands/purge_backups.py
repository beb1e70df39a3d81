"""purge_backups: list, show and confirm backup sets; delete the confirmed ones past their age."""

import argparse
import os
import sys
import time
from collections.abc import Sequence

from clusterd import backups, cli, config, durations, log, manifest, passes, retention, run
from clusterd.errors import OK, Busy, ClusterdError, Usage
from clusterd.lock import Lock
from clusterd.manifest import Summary
from clusterd.model import Config

DESCRIPTION = """\
Without an option, list the backup sets of this node: what passes to here, or restores, replaced or deleted. A set is
kept until a person confirms that nothing in it is missed, and [backups] keep longer (30 days, unless configured).
No set is deleted unconfirmed, however old it is."""
EPILOG = """\
examples:
  purge_backups                          the table
  purge_backups --show 20260314T0215     what is in the set that begins so
  purge_backups --confirm 20260314T0215  nothing in it is missed; several sets may be named
  purge_backups --confirm --all          nothing in any of them is missed
  purge_backups --purge                  what cron calls daily; says nothing when all is well

States: complete; cut (its pass ended early: some files are new, the others old); filling (its pass is running)."""

FILLING = "filling"


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("purge_backups", DESCRIPTION, EPILOG)
    made.add_argument("sets", metavar="SET", nargs="*", help="backup sets, or how their ids begin")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--show", action="store_true", help="show what is in the sets")
    what.add_argument("--confirm", action="store_true", help="confirm that nothing in the sets is missed")
    what.add_argument(
        "--purge", action="store_true", help="delete the sets confirmed longer than [backups] keep ago; no others"
    )
    made.add_argument("--all", action="store_true", help="with --confirm: all sets")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), purge_backups, argv)


def purge_backups(options: argparse.Namespace) -> int:
    """Do the one thing that the options ask for."""
    if options.all and (options.sets or not options.confirm):
        raise Usage("--all goes with --confirm, and without SET")
    if options.purge:
        if options.sets:
            raise Usage("--purge goes without SET: it deletes what is confirmed and old enough")
        return purge(options)
    known = backups.every()
    chosen = [backups.find(name, known) for name in options.sets] or known
    if options.confirm:
        if not options.sets and not options.all:
            raise Usage("--confirm needs the sets, or --all")
        return confirm(chosen, options.json)
    return (show if options.show else table)(chosen, options)


def table(chosen: list[Summary], options: argparse.Namespace) -> int:
    """The list: one line a set, the oldest first."""
    now = time.time()
    rows = [_row(_counted(one), now) for one in chosen]
    if options.json:
        cli.show_json([{**_counted(one)._asdict(), "state": _state(one)} for one in chosen])
    elif rows:
        head = ("SET", "AGE", "SERVICE", "FROM", "FILES", "SIZE", "ONLY HERE", "STATE", "CONFIRMED")
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        for row in (head, *rows):
            print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    elif sys.stdout.isatty():
        print("no backup sets: no pass to this node has replaced or deleted anything that is still kept")
    return OK


def show(chosen: list[Summary], options: argparse.Namespace) -> int:
    """--show: every entry of the sets."""
    if not options.sets:
        raise Usage("--show needs the sets")
    if options.json:
        found = [(one, [entry._asdict() for entry in backups.entries(one.set)]) for one in chosen]
        cli.show_json([{**one._asdict(), "state": _state(one), "files": entries} for one, entries in found])
        return OK
    for one in chosen:
        if len(chosen) > 1:
            print(f"{one.set}:")
        for entry in backups.entries(one.set):
            print(manifest.line(entry))
    return OK


def confirm(chosen: list[Summary], as_json: bool) -> int:
    """--confirm: one after the other; one whose pass is running is passed over, and said so."""
    who = os.environ.get("SUDO_USER") or os.environ.get("LOGNAME") or f"uid {os.getuid()}"
    done, code = [], OK
    if run.dry_run and as_json:
        cli.show_json({"would_confirm": [one.set for one in chosen]})
        return OK
    for one in chosen:
        if run.dry_run:
            print(f"would confirm: {one.set}")
            continue
        try:
            made = retention.confirm(one.set, who)
        except ClusterdError as error:
            print(f"purge_backups: {error}", file=sys.stderr)
            code = max(code, error.exit_code)
            continue
        done.append(made)
        if made.entries:
            log.event("backup-confirmed", f"{one.set}: confirmed by {who}", service=one.service, set=one.set, who=who)
    if as_json:
        cli.show_json([made._asdict() for made in done])
    return code


def purge(options: argparse.Namespace) -> int:
    """--purge: delete what may go, close what crashes left open, remind of what nobody has looked at."""
    settings = config.load(options.config)
    if run.dry_run:
        due = _due(backups.every(), settings)
        if options.json:
            cli.show_json({"would_delete": [one.set for one in due]})
            return OK
        for one in due:
            print(f"would delete: {one.set}")
        return OK
    with Lock("purge_backups"):
        known = _recovered()
        gone, kept = retention.purge(_due(known, settings))
    for one in gone:
        text = f"{one.set}: deleted; confirmed by {one.confirmed_by} longer than {settings.keep} ago"
        log.event("backup-purged", text, service=one.service, set=one.set, entries=one.entries, bytes=one.bytes)
    for one in kept:
        log.debug(f"{one.set}: in use, left for the next time")
    forgotten = retention.forgotten(known, time.time())
    if forgotten:
        text = f"{len(forgotten)} backup sets with files that only this node has wait for a person"
        log.event("backup-unconfirmed", text, level="notice", sets=[one.set for one in forgotten])
    if options.json:
        cli.show_json({"deleted": [one.set for one in gone], "in_use": [one.set for one in kept]})
    elif options.verbose or sys.stdout.isatty():
        print(f"{len(gone)} backup sets deleted, {len(known) - len(gone)} kept")
    return OK


def _due(known: list[Summary], settings: Config) -> list[Summary]:
    """What may go: confirmed and old enough, and not what a takeover would need for the way back from a cut pass."""
    needed = passes.needed(settings.services)
    return [one for one in retention.due(known, settings.keep, time.time()) if one.set not in needed]


def _recovered() -> list[Summary]:
    """All sets, those that a crash left open closed as cut."""
    made = []
    for one in backups.every():
        try:
            made.append(backups.recover(one.set) if one.state == manifest.OPEN else one)
        except Busy:
            made.append(one)
    return [one for one in made if one.entries or one.state == manifest.OPEN]


def _counted(one: Summary) -> Summary:
    """With the counts of what is in it so far, if it is not finished."""
    return manifest.count(one, backups.entries(one.set)) if one.state in {manifest.OPEN, manifest.DAMAGED} else one


def _state(one: Summary) -> str:
    if one.state == manifest.OPEN:
        return FILLING if backups.running(one.set) else manifest.CUT
    return one.state


def _row(one: Summary, now: float) -> tuple[str, ...]:
    confirmed = time.strftime("%Y-%m-%d", time.localtime(one.confirmed)) if one.confirmed is not None else "no"
    sender = one.sender if one.why == manifest.PASS else one.why
    return (
        one.set,
        durations.show(max(now - one.created, 0)),
        one.service,
        sender,
        str(one.entries),
        _size(one.bytes),
        str(one.unmirrored or "-"),
        _state(one),
        confirmed,
    )


def _size(count: int) -> str:
    """Bytes for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
