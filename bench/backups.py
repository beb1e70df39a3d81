"""A thousand backup sets with a million files: how long the list takes, and the purge against find -delete."""

from typing import Any

from bench.labs import HOME, Labs, ask, say, wait_well
from bench.report import Row, seconds
from bench.starts import interpreter

LISTED, PURGED, FOUND = "list", "purge", "find -delete"
ORDERS = ((PURGED, FOUND), (FOUND, PURGED))
"""One a round: whoever is first has the older tree, and a disk on which nothing was deleted just before."""
LIMIT = 1.5
"""Seconds that the list may take."""
TIMES = 1.5
SETS = 1000
OURS, OTHERS = "/var/lib/clusterd/backups", "/var/lib/bench-backups"
TREES = {PURGED: OURS, FOUND: OTHERS}
COMMANDS = {PURGED: ["purge_backups", "--purge"], FOUND: ["find", OTHERS, "-delete"]}
MAKE = """
import json, os, sys, time
from clusterd.manifest import COMPLETE, Summary
top, sets, files = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
old = time.time() - 90 * 86400
for number in range(sets):
    name = time.strftime("%Y%m%dT%H%M%S", time.gmtime(old + number)) + f".000Z-bench-{number % 65536:04x}"
    folder = f"{top}/{name}/files/srv/bench"
    os.makedirs(folder, mode=0o700)
    each = files // sets
    for file in range(each):
        if file % 100 == 0:
            os.mkdir(f"{folder}/{file // 100}")
        os.close(os.open(f"{folder}/{file // 100}/{file}.txt", os.O_CREAT | os.O_WRONLY, 0o600))
    made = Summary(name, "bench", "serv1", "serv2", 1, old + number)
    made = made._replace(state=COMPLETE, finished=old + number, entries=each, confirmed=old + number, confirmed_by="b")
    with open(f"{top}/{name}/manifest.json", "w") as file:
        json.dump(made._asdict(), file)
os.sync()
"""


def backups(labs: Labs, files: int) -> tuple[list[Row], dict[str, Any]]:
    """Two equal trees, made anew for each round: the sets of the node, and the same again for find."""
    lab = labs.pair
    wait_well(lab)
    taken: dict[str, list[list[float]]] = {LISTED: [], PURGED: [], FOUND: []}
    for order in ORDERS:
        say(f"twice {SETS} backup sets with {files} files are made, to be deleted by {', then '.join(order)}")
        for name in order:
            lab.run(HOME, [interpreter(lab), "-c", MAKE, TREES[name], str(SETS), str(files)], timeout=3600)
        if not taken[LISTED]:
            taken |= ask(lab, HOME, "race", {"commands": {LISTED: ["purge_backups"]}, "rounds": 5, "warm": 1}, 600)
        commands = {name: COMMANDS[name] for name in order}
        deleted = ask(lab, HOME, "race", {"commands": commands, "rounds": 1, "warm": 0, "settle": True}, 3600)
        for name, samples in deleted.items():
            taken[name] += samples
        left = int(lab.sh(HOME, f"find {OURS} -name '*-bench-*' | wc -l"))
        if left:
            raise ValueError(f"purge_backups left {left} of the sets")
    figures = {name: seconds(each[0] for each in samples) for name, samples in taken.items()}
    what = f"{SETS} backup sets with {files} files"
    rows = [
        Row(f"list of {what}", figures[LISTED], limit=LIMIT),
        Row(f"purge of {what}", figures[PURGED], figures[FOUND], FOUND, times=TIMES),
    ]
    return rows, taken
