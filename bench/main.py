"""The command line of the benchmarks: what is measured, on which labs, and the report."""

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.backups import backups
from bench.idle import idle
from bench.labs import Labs, say
from bench.outage import Rounds, failback, power_off
from bench.passes import passes
from bench.report import Row, table
from bench.starts import starts

from lab.labnet.proc import LabError

Measured = tuple[list[Row], dict[str, Any]]
ITEMS = ("outage", "failback", "idle", "start", "pass", "backups")
"""In the order in which they are measured: each leaves the pair as the next one expects it."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="bench/run", description="clusterd side by side with its peers, in one run")
    made.add_argument("--only", action="append", choices=ITEMS, help="measure this only; several times: these")
    made.add_argument("--rounds", type=int, default=5, help="power cuts (default: %(default)s)")
    made.add_argument("--pass-rounds", type=int, default=7, help="passes with nothing changed (default: %(default)s)")
    made.add_argument("--files", type=int, default=50_000, help="files of such a pass (default: %(default)s)")
    made.add_argument("--kept", type=int, default=1_000_000, help="files in backup sets (default: %(default)s)")
    made.add_argument("--start-rounds", type=int, default=25, help="starts of each script (default: %(default)s)")
    made.add_argument("--idle", type=float, default=30, metavar="SECONDS", help="idle time (default: %(default)g)")
    made.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured there")
    made.add_argument("--strict", action="store_true", help="exit 1 if a budget does not hold")
    made.add_argument("--name", default="bench", help="of the lab (default: %(default)s)")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, report; 1 if something could not be measured.

    A budget that does not hold is a result, not an error, unless --strict says so.
    """
    options = parser().parse_args(argv)
    if os.geteuid() != 0:
        print("bench: namespaces need root", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))
    chosen = [item for item in ITEMS if item in (options.only or ITEMS)]
    began = time.monotonic()
    rows: list[Row] = []
    details: dict[str, Any] = {}
    failed: dict[str, str] = {}
    try:
        with Labs(options.name) as labs:
            for item, measure in plan(labs, options, chosen).items():
                try:
                    found, details[item] = measure()
                    rows += found
                except (LabError, ValueError, LookupError) as error:
                    failed[item] = str(error) or repr(error)
                    say(f"{item} could not be measured: {failed[item]}")
    except LabError as error:
        failed["lab"] = str(error)
        say(str(error))
    except KeyboardInterrupt:
        return 130
    machine = about(time.monotonic() - began)
    print(headline(machine))
    print(table(rows) if rows else "nothing was measured")
    if options.json:
        facts = {"machine": machine, "rows": [row.facts() for row in rows], "samples": details, "failed": failed}
        options.json.write_text(json.dumps(facts, indent=1) + "\n")
    for item, why in failed.items():
        print(f"NOT MEASURED: {item}: {why}")
    broken = options.strict and any(row.holds is False for row in rows)
    return 1 if failed or broken else 0


def plan(labs: Labs, options: argparse.Namespace, chosen: Sequence[str]) -> dict[str, Callable[[], Measured]]:
    """What is to be done for each item, in order."""
    rounds = Rounds(labs, options.rounds, peers="outage" in chosen)
    every: dict[str, Callable[[], Measured]] = {
        "outage": lambda: power_off(rounds),
        "failback": lambda: failback(rounds),
        "idle": lambda: idle(labs, options.idle),
        "start": lambda: starts(labs, options.start_rounds),
        "pass": lambda: passes(labs, options.pass_rounds, options.files),
        "backups": lambda: backups(labs, options.kept),
    }
    return {item: every[item] for item in chosen}


def about(lasted: float) -> dict[str, Any]:
    """The machine, and how busy it was."""
    return {
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
        "kernel": platform.release(),
        "seconds": round(lasted),
    }


def headline(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"clusterd and its peers, same machine, same run ({machine['cores']} cores, load {machine['load'][0]}, "
        f"Linux {machine['kernel']}, {machine['seconds']} s); median (range)\n"
    )
