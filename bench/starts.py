"""How long the scripts take to start, against the Python that they run on doing nothing."""

from typing import Any

from bench.labs import HOME, Labs, ask, say, wait_well
from bench.report import Row, milliseconds

from lab.labnet.lab import Lab

TIMES = 5.0
NOTHING = "python3 -c pass"
FABRIC = "python3 -c 'import fabric'"
VERSIONS = (
    *("check_peer", "mirror_service", "purge_backups", "release"),
    *("restore_backup", "takeover", "timesync", "watchdog"),
)
"""Scripts that need no ssh, or not to say who they are."""
REAL = {
    "takeover serv1 --dry-run": ["takeover", HOME, "--dry-run"],
    "release serv1 --dry-run": ["release", HOME, "--dry-run"],
    "mirror_service --due --dry-run": ["mirror_service", "--due", "--dry-run"],
    "purge_backups": ["purge_backups"],
    "peer_gate clock": ["peer_gate", "clock"],
    "watchdog (a second one)": ["watchdog"],
}
"""Whole runs that are over at once: the configuration is read and checked."""


def starts(labs: Labs, rounds: int) -> tuple[list[Row], dict[str, Any]]:
    """All of them, in turn, on a node where they are installed as INSTALL says."""
    lab = labs.pair
    wait_well(lab)
    python = interpreter(lab)
    commands = {NOTHING: [python, "-c", "pass"], FABRIC: [python, "-c", "import fabric"]}
    commands |= {f"{name} --version": [name, "--version"] for name in VERSIONS} | REAL
    say(f"starts of {len(commands)} commands, {rounds} rounds")
    taken = ask(lab, HOME, "race", {"commands": commands, "rounds": rounds, "warm": 2}, 300)
    figures = {name: milliseconds(each[0] for each in samples) for name, samples in taken.items()}
    base = figures.pop(NOTHING)
    fabric = figures.pop(FABRIC)
    names = sorted(figures, key=lambda name: (name in REAL, -figures[name].middle))
    rows = [Row(f"start: {name}", figures[name], base, NOTHING, times=TIMES) for name in names]
    rows.append(by_cpu(taken))
    rows.append(Row("  Fabric alone, imported where it is used", fabric, base, NOTHING))
    return rows, taken


def by_cpu(taken: dict[str, list[list[float]]]) -> Row:
    """The most expensive start by CPU time, which a busy machine changes less than what a clock says."""
    figures = {name: milliseconds(each[1] for each in samples) for name, samples in taken.items() if name != FABRIC}
    base = figures.pop(NOTHING)
    worst = max(figures, key=lambda name: figures[name].middle)
    return Row(f"  most CPU time: {worst}", figures[worst], base, NOTHING)


def interpreter(lab: Lab) -> str:
    """The Python that the installed scripts run on."""
    return lab.sh(HOME, 'sed -n "1s/^#! *//p" "$(readlink -f "$(command -v takeover)")"').split()[0]
