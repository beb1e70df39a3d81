"""Copying this node's configuration to the others: compared, shown to a person, checked again where it arrives."""

import argparse
import json
import sys
from typing import Any

from clusterd import fleet, handout, run
from clusterd.model import Config


def push(config: Config, options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Show how the others' files differ, ask unless --yes, copy.

    Returns:
        for each other node what differed, and whether it was copied or why not; whether all went well.

    Raises:
        Usage: nobody is there to be asked.
        Failed: the answer was no.
    """
    mine = handout.pack(config.folder)
    answers = fleet.everywhere(config, fleet.own("give", options), config.peers(), timeout=fleet.QUICK)
    behind = []
    facts: dict[str, Any] = {}
    for answer in answers:
        if not answer.ok:
            facts[answer.node] = {"error": answer.text()}
            print(f"{answer.node}: {answer.text()}")
            continue
        changes = handout.compare(handout.read(answer.stdout), mine)
        facts[answer.node] = {"differs": [change.path for change in changes], "copied": False}
        print(f"{answer.node}: {f'files that differ: {len(changes)}' if changes else 'the same already'}")
        sys.stdout.writelines(change.text for change in changes)
        if changes:
            behind.append(config.nodes[answer.node])
    if behind and not (options.yes or run.dry_run):
        fleet.confirm(f"Copy to {', '.join(node.name for node in behind)}?", "--yes")
    argv = fleet.own("take", options)
    stdin = json.dumps(mine).encode()
    taken = fleet.everywhere(config, argv, tuple(behind), timeout=fleet.QUICK, stdin=stdin, changes=True)
    for answer in taken:
        facts[answer.node] |= {"copied": not run.dry_run} if answer.ok else {"error": answer.text()}
    fleet.report(taken)
    return facts, all(answer.ok for answer in (*answers, *taken))
