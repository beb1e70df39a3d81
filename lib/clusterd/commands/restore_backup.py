"""restore_backup SET [PATH…]: put back what a pass replaced or deleted."""

import argparse
import sys
from collections.abc import Sequence

from clusterd import backups, cli, config, manifest, restore, run
from clusterd.attributes import Given
from clusterd.errors import OK, Failed, Usage
from clusterd.manifest import Entry, Summary, shown
from clusterd.model import Service

DESCRIPTION = """\
Put files from a backup set back where they were, with owner, mode, times, ACLs, extended attributes and hard links.
Where only owner, mode, ACLs or extended attributes had been changed, these are given again, and the content stays.
What they replace goes into a new backup set first. A folder that has become a symlink is not followed. On the holder
of the service's group only: anywhere else the next pass would overwrite them again. Without PATH and --all, show what
is in the set."""
EPILOG = """\
examples:
  restore_backup 20260314T0215                        what is in the set that begins so
  restore_backup 20260314T0215 /srv/samba/plan.ods    put one file back
  restore_backup 20260314T0215 /srv/samba/sales/      a folder, with all that is below it in the set
  restore_backup 20260314T0215 --all --to /root/look  everything, below another folder

Names with unprintable characters are shown with escapes; in bash they are written $'...'."""


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("restore_backup", DESCRIPTION, EPILOG)
    made.add_argument("set", metavar="SET", help="a backup set of this node, or how its id begins")
    made.add_argument("paths", metavar="PATH", nargs="*", help="files to put back, or folders; absolute")
    made.add_argument("--all", action="store_true", help="put back everything in the set")
    made.add_argument("--to", metavar="DIR", help="put the files below DIR, with their whole path, on any node")
    made.add_argument("--force", action="store_true", help="put back although this node is not the holder")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), restore_backup, argv)


def restore_backup(options: argparse.Namespace) -> int:
    """Find the set, choose from it, look where it belongs, put it back."""
    if options.all and options.paths:
        raise Usage("--all goes without PATH")
    found = backups.find(options.set)
    if not options.all and not options.paths:
        return _show(found, list(backups.entries(found.set)), options.json)
    entries = list(backups.entries(found.set))
    chosen = entries if options.all else restore.choose(entries, options.paths)
    if options.to:
        chosen = _with_content(found, chosen)
    service = None if options.to else _service(options, found)
    jobs = restore.plan(chosen, restore.places(service) if service else restore.elsewhere(options.to))
    if run.dry_run:
        return _dry(jobs, options.json)
    if service:
        made, given = restore.put_back_here(found, jobs, service, force=options.force)
    else:
        made, given = restore.put_back(found, jobs)
    return _report(found, chosen, given, made, options)


def _with_content(found: Summary, chosen: list[Entry]) -> list[Entry]:
    """Without what has only got other attributes: there is no content to put elsewhere."""
    left = [entry for entry in chosen if entry.what != manifest.ATTRIBUTES]
    if len(left) < len(chosen):
        text = "only owner, mode or other attributes were changed, so there is no content to put there"
        if not left:
            raise Usage(f"--to: {text}; what they were: {backups.folder(found.set)}/attributes.jsonl")
        print(f"{len(chosen) - len(left)} left out: of these {text}", file=sys.stderr)
    return left


def _service(options: argparse.Namespace, found: Summary) -> Service:
    """The service whose files they are, if this is the node to put them back on."""
    settings = config.load(options.config)
    service = settings.services.get(found.service)
    if service is None:
        raise Failed(f"{found.service}: there is no such service (any more): put its files into a folder with --to DIR")
    if not options.force:
        restore.check_holder(service)
    return service


def _show(found: Summary, entries: list[Entry], as_json: bool) -> int:
    if as_json:
        cli.show_json({**found._asdict(), "files": [entry._asdict() for entry in entries]})
        return OK
    for entry in entries:
        print(manifest.line(entry))
    if sys.stdout.isatty():
        print(f"Put them back with: restore_backup {found.set} PATH… (or --all)")
    return OK


def _dry(jobs: list[restore.Job], as_json: bool) -> int:
    """--dry-run: each path, and whether something is there now."""
    would = {job.place.target + name: job.place.target + name in job.replaces for job in jobs for name in job.names}
    given = sorted(path for job in jobs for path in job.attributes)
    if as_json:
        replaced = sorted(path for path in would if would[path])
        cli.show_json({"would_restore": sorted(would), "would_replace": replaced, "would_give_attributes": given})
        return OK
    for path, replaces in would.items():
        print(f"would put back: {shown(path)}" + (" (what is there now goes into a backup set)" if replaces else ""))
    for path in given:
        print(f"would give its owner, mode and other attributes again: {shown(path)}")
    return OK


def _report(found: Summary, chosen: list[Entry], given: Given, made: Summary, options: argparse.Namespace) -> int:
    copied = [entry.path for entry in chosen if entry.what != manifest.ATTRIBUTES]
    kept = f"; what they replaced is in {made.set}" if made.entries else ""
    if given.refused:
        why = "; ".join(f"{shown(path)}: {text}" for path, text in given.refused.items())
        raise Failed(f"not given their owner, mode and other attributes again: {why}. All else was put back{kept}")
    if options.json:
        answer = {"set": found.set, "restored": copied, "attributes": given.done}
        cli.show_json({**answer, "kept": made.entries and made.set})
    elif sys.stdout.isatty() or options.verbose:
        rest = f", {len(given.done)} given their owner, mode and other attributes again" if given.done else ""
        print(f"{len(copied)} put back from {found.set}{rest}{kept}")
    return OK
