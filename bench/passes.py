"""A pass with nothing changed, 50,000 files, against the bare rsync command doing the same."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.labs import HOME, OTHER, Labs, ask, say, wait_well
from bench.report import Row, milliseconds

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES

TIMES = 1.05
NAME = "bench"
FOLDER = "/srv/bench/"
SERVICE = {"home": HOME, "run.kind": "none", "mirror.every": "never", "mirror.paths": FOLDER}
MAKE = """
import os, sys
folder, count = sys.argv[1], int(sys.argv[2])
for number in range(count):
    if number % 100 == 0:
        os.makedirs(f"{folder}{number // 1000:03d}/{number // 100 % 10}", exist_ok=True)
    with open(f"{folder}{number // 1000:03d}/{number // 100 % 10}/file-{number:06d}.txt", "w") as file:
        file.write(f"{number}\\n" * (number % 200))
"""
OPTIONS = [
    *("-aHAX", "--numeric-ids", "--sparse", "--modify-window=-1", "--relative", "--no-implied-dirs"),
    *("--delete", "--delay-updates", "--backup", "--backup-dir=/var/lib/bench-backup", "--max-delete=5000"),
    *("--timeout=60", "--no-whole-file"),
]
"""What clusterd's own rsync is told, as an administrator would write it in a crontab."""
SSH = "ssh -F none -T -o BatchMode=yes -o Compression=no"
KEPT = " -o ControlMaster=auto -o ControlPersist=60 -o ControlPath=/run/bench-ssh"
BARE = "rsync over ssh"
SHARED = "rsync over a kept ssh connection"


def passes(labs: Labs, rounds: int, files: int) -> tuple[list[Row], dict[str, Any]]:
    """Ours and the bare ones in turn, from the same node to the same node."""
    lab = labs.pair
    wait_well(lab)
    prepare(lab, files)
    commands = {
        "clusterd": ["mirror_service", NAME],
        BARE: bare(SSH),
        SHARED: bare(SSH + KEPT),
    }
    with cron_off(lab):
        say(f"passes of {files} files with nothing changed, {rounds} rounds")
        taken = ask(lab, HOME, "race", {"commands": commands, "rounds": rounds, "warm": 1}, 600)
    figures = {name: milliseconds(each[0] for each in samples) for name, samples in taken.items()}
    what = f"pass of {files} files, nothing changed"
    rows = [
        Row(what, figures["clusterd"], figures[BARE], BARE, times=TIMES),
        Row(what, figures["clusterd"], figures[SHARED], SHARED),
    ]
    return rows, taken


def bare(shell: str, *options: str) -> list[str]:
    """The bare rsync's command line; the heartbeat network, and an ed25519 key as ours."""
    return ["rsync", *OPTIONS, *options, "-e", shell, FOLDER, f"{OTHER}:/"]


def prepare(lab: Lab, files: int) -> None:
    """Make the files, have them mirrored, and see that both ways of asking find nothing to do then."""
    say(f"{files} files are made and mirrored")
    lab.run(HOME, ["python3", "-c", MAKE, FOLDER, str(files)], timeout=300)
    lab.configure(services={NAME: SERVICE})
    wait_well(lab)
    first = report(lab)
    again = report(lab)
    told = lab.run(HOME, bare(SSH, "--itemize-changes"), timeout=300).stdout
    if first["changed"] < files or again["changed"] or again["deleted"] or told.strip():
        raise ValueError(
            f"{NAME}: the passes before the measurement are not as they should be: {first} {again} {told[:200]}"
        )


def report(lab: Lab) -> dict[str, Any]:
    """One pass, and what it says of itself."""
    made: dict[str, Any] = json.loads(lab.run(HOME, ["mirror_service", "--json", NAME], timeout=600).stdout)[0]
    return made


@contextmanager
def cron_off(lab: Lab) -> Iterator[None]:
    """Without the passes that cron starts every minute."""
    for node in NODES:
        lab.sh(node, "/etc/init.d/cron stop")
    try:
        yield
    finally:
        for node in NODES:
            lab.sh(node, "/etc/init.d/cron start")
