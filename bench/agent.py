"""What measures on a node: runs by itself there, without anything of this project. Standard library only.

Argument: `race` or `idle`; stdin: a JSON object with what to measure; stdout: a JSON object with what was measured.
"""

import json
import os
import sys
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Do what is asked."""
    spec = json.load(sys.stdin)
    answer = race(**spec) if sys.argv[1] == "race" else idle(**spec)
    json.dump(answer, sys.stdout)


def race(
    commands: dict[str, list[str]], rounds: int, warm: int = 1, settle: bool = False
) -> dict[str, list[list[float]]]:
    """Run each command once a round, beginning with another one each time; a few rounds before do not count.

    `settle`: what others have left to be written is on the disk before each command begins.

    Returns [seconds, seconds of CPU time] of each run, by name. Ends with an error if a command fails.
    """
    names = list(commands)
    taken: dict[str, list[list[float]]] = {name: [] for name in names}
    for number in range(-warm, rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if settle:
                os.sync()
            result = timed(commands[name])
            if number >= 0:
                taken[name].append(result)
    return taken


def timed(argv: list[str]) -> list[float]:
    """How long a command takes, and how much CPU time it and its children use."""
    null = os.open(os.devnull, os.O_RDWR)
    said = os.memfd_create("said")
    ends = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, said, 1), (os.POSIX_SPAWN_DUP2, said, 2)]
    began = time.perf_counter()
    pid = os.posix_spawnp(argv[0], argv, os.environ, file_actions=ends)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - began
    words = os.pread(said, 1000, 0).decode("utf-8", "replace").strip()
    os.close(null)
    os.close(said)
    if status:
        sys.exit(f"{' '.join(argv)}: exit {os.waitstatus_to_exitcode(status)}: {words}")
    return [seconds, usage.ru_utime + usage.ru_stime]


def idle(program: str, seconds: float) -> dict[str, float]:
    """What a running program and all that it has started use: percent of a core over so many seconds, and MB now.

    "ended" is the part of it that went into programs that it started and that have ended.
    """
    roots = running(program)
    if not roots:
        sys.exit(f"{program} does not run")
    before, ended_before = used_by(family(roots))
    began = time.monotonic()
    time.sleep(seconds)
    members = family(roots)
    if not roots <= members:
        sys.exit(f"{program} has ended meanwhile")
    used, ended = used_by(members)
    lasted = time.monotonic() - began
    return {
        "percent": 100 * (used - before) / lasted,
        "ended": 100 * (ended - ended_before) / lasted,
        "pss": sum(memory(pid, "Pss:") for pid in members),
        "rss": sum(memory(pid, "Rss:") for pid in members),
        "processes": len(members),
    }


def running(program: str) -> set[int]:
    """The processes of a program, started directly or by an interpreter."""
    return {pid for pid in processes() if program in [os.path.basename(word) for word in words(pid)[:2]]}


def processes() -> list[int]:
    """All of them."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def words(pid: int) -> list[str]:
    """A process's command line; empty if it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on, see proc(5); empty if it has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def family(roots: set[int]) -> set[int]:
    """Processes with all their descendants."""
    parents = {pid: int(fields[1]) for pid in processes() if (fields := stat(pid))}
    members = {pid for pid in roots if pid in parents}
    while more := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= more
    return members


def used_by(members: set[int]) -> tuple[float, float]:
    """Seconds of CPU time that processes have used, with their children that have ended; and of that, the latter."""
    own = ended = 0
    for pid in members:
        fields = [int(field) for field in stat(pid)[11:15]]
        own += sum(fields)
        ended += sum(fields[2:])
    return own / TICKS, ended / TICKS


def memory(pid: int, what: str) -> float:
    """A process's share of memory in MB: Pss or Rss."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024


if __name__ == "__main__":
    main()
