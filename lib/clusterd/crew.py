"""The scripts that the watchdog starts: takeover and release, at most one a group, and what became of them.

A takeover is *armed* while the evidence is still being collected: the script is started, loads everything and waits
for one word on its stdin. Python's start-up is thus no part of the outage. End of file there means: go away quietly.
"""

import os
import signal
import subprocess
import sys
from typing import NamedTuple

from clusterd import log, paths, run, state
from clusterd.errors import FAILED, Failed
from clusterd.picture import ACQUIRE, RESUME

HURRY = ("nice", "-n", "-15")
"""A takeover comes first on a busy machine until the address is up; it sets itself back for the services."""
RETRY = 5.0
"""Seconds before the first repetition of what failed; doubles each time."""
RETRY_AT_MOST = 300.0
AFTER_KILL = 0.2
"""Seconds before a script is started again that was killed, and did not fail by itself; the first time only."""


class Ended(NamedTuple):
    """A script that has come to its end."""

    group: str
    program: str
    code: int
    said: str
    """The last line that it wrote to stderr."""
    stopped: bool = False
    """It was told to end; what it had put up may be there still."""


Task = tuple[str, str]
"""A program, and the group that it works on."""


class Again(NamedTuple):
    """A release that has failed, and must succeed in the end: the group is another's."""

    options: tuple[str, ...]
    tries: int = 0
    due: float = float("inf")
    """When it is tried again; not while it runs."""


class Unborn(subprocess.Popen[bytes]):
    """A script that could not be started, for want of memory, or of processes: it has failed, like any other."""

    def __init__(self, why: str) -> None:
        self.why = why
        self.stdin = None
        self.pid = 0
        self.returncode = FAILED


class Crew:
    """Starts scripts and tells when they have ended."""

    def __init__(self, conf: str) -> None:
        self.conf = conf
        self.running: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        self.armed: dict[str, subprocess.Popen[bytes]] = {}
        self.leaving: list[subprocess.Popen[bytes]] = []
        self.stopped: set[str] = set()
        self.epochs: dict[str, int] = {}
        self.unheard: dict[str, set[str]] = {}
        """The peers that were silent when the takeover of a group was ordered."""
        self.intentions: dict[str, tuple[int, int]] = {}
        """Of more than two nodes: the epoch with which a group is to be taken, and the word that told the peers so."""
        self.failures: dict[Task, int] = {}
        self.retry_at: dict[Task, float] = {}
        self.failed: dict[str, str] = {}
        """What the last takeover of a group said that failed here."""
        self.again = _left_over()

    def intended(self, group: str) -> int:
        """The epoch of the takeover that we have under way for the group; 0 if there is none."""
        return self.epochs.get(group, 0) if group in self.running else 0

    def intending(self, group: str) -> int:
        """The epoch with which the group is to be taken as soon as the peers know it; 0 if it is not."""
        return self.intentions.get(group, (0, 0))[0]

    def intend(self, taking: dict[str, int], word: int) -> None:
        """These groups are to be taken, with these epochs; `word` is the number of the next one that tells of it."""
        before = self.intentions
        if not (before or taking):
            return
        known = {group: before[group] for group, epoch in taking.items() if before.get(group, (0, 0))[0] == epoch}
        self.intentions = {group: known.get(group, (epoch, word)) for group, epoch in taking.items()}

    def ordered(self, group: str) -> str:
        """What our takeover of the group is doing, as in picture.Own; nothing any more if it was told to end."""
        program, _ = self.running.get(group, ("", None))
        if program != "takeover" or group in self.stopped:
            return ""
        return ACQUIRE if group in self.epochs else RESUME

    def stop(self, group: str) -> None:
        """End a takeover that is under way, with what it has started: its reason is gone. That is no failure."""
        program, process = self.running.get(group, ("", None))
        if process is None or program != "takeover" or process.poll() is not None or group in self.stopped:
            return
        self.stopped.add(group)
        try:
            os.killpg(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass

    def busy(self, group: str) -> bool:
        """Whether a script that we started is at work on the group."""
        return group in self.running

    def arm(self, group: str) -> None:
        """Have a takeover of the group ready."""
        if group not in self.armed and group not in self.running:
            self.armed[group] = self._start("takeover", group, ["--on-go"], HURRY)

    def disarm(self, only: str = "") -> None:
        """Send armed takeovers away: that of the group `only`, or all."""
        for group in [name for name in self.armed if only in ("", name)]:
            process = self.armed.pop(group)
            _close(process)
            self.leaving.append(process)

    def takeover(self, group: str, epoch: int, why: str, unheard: set[str]) -> None:
        """Take the group over with `epoch` while `unheard` peers are silent: tell the armed script, or start one."""
        self.intentions.pop(group, None)
        process = self.armed.pop(group, None)
        if process is None or process.poll() is not None:
            process = self._start("takeover", group, ["--on-go"], HURRY)
        words = [f"epoch {epoch}", f"why {why}", f"unheard {' '.join(sorted(unheard))}", "go"]
        try:
            if process.stdin is not None:
                process.stdin.write("".join(f"{line}\n" for line in words).encode())
                process.stdin.flush()
        except OSError as error:
            log.debug(f"takeover {group}: {error}")
        self.running[group] = ("takeover", process)
        self.epochs[group] = epoch
        self.unheard[group] = unheard

    def start(self, program: str, group: str, *options: str) -> None:
        """Start another script on the group."""
        self.disarm(group)
        if "--let-go" in options and group not in self.again:
            self.again[group] = Again(options)
            self._remember()
        process = self._start(program, group, list(options))
        _close(process)
        self.running[group] = (program, process)
        self.stopped.discard(group)  # it was the takeover before this that was told to end
        self.epochs.pop(group, None)

    def repeat(self, held: set[str], now: float) -> None:
        """Once more what must succeed in the end; not for what is `held` here again."""
        for group, again in list(self.again.items()):
            if group in held:
                del self.again[group]
                self._remember()
            elif now >= again.due and group not in self.running:
                self.again[group] = again._replace(due=float("inf"))
                self.start("release", group, *again.options)

    def reap(self, now: float) -> list[Ended]:
        """The scripts that have ended since the last call; a failure sets when the same may be tried again."""
        self.leaving = [process for process in self.leaving if process.poll() is None]
        ended = []
        for group, (program, process) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[group]
            _close(process)
            said = process.why if isinstance(process, Unborn) else _last_line(_output(program, group))
            if group in self.stopped:
                self.stopped.discard(group)
                ended.append(Ended(group, program, code, "", stopped=True))
                continue
            again = self.again.get(group) if program == "release" else None
            if code and again:  # a service that does not stop here need not keep the group from being taken
                self.again[group] = again._replace(tries=again.tries + 1, due=now + _wait(again.tries + 1))
            elif code:
                self.failed[group] = said.removeprefix("takeover: ") if program == "takeover" else ""
                self._put_off((program, group), code, now)
            else:
                if self.again.pop(group, None):
                    self._remember()
                self.failed.pop(group, None)
                self.failures.pop((program, group), None)
                self.retry_at.pop((program, group), None)
            ended.append(Ended(group, program, code, said))
        return ended

    def _put_off(self, task: Task, code: int, now: float) -> None:
        """It has failed: the more often of late, the longer until it is tried again.

        After a hand-over the successor may still be on its way: for a moment nothing is taken from it either.
        """
        long_ago = now - self.retry_at.get(task, now) > RETRY_AT_MOST
        self.failures[task] = 1 if long_ago else self.failures.get(task, 0) + 1
        killed = code < 0 and self.failures[task] == 1
        pause = AFTER_KILL if killed else _wait(self.failures[task])
        self.retry_at[task] = now + pause
        taking = "takeover", task[1]
        self.retry_at[taking] = max(self.not_before(*taking), now + min(pause, RETRY))

    def not_before(self, program: str, group: str) -> float:
        """When the program may be started on the group again, after it has failed; 0.0 if it has not."""
        return self.retry_at.get((program, group), 0.0)

    def _remember(self) -> None:
        """For a loop that starts anew in this boot."""
        state.write(paths.LEAVING, {group: again.options for group, again in self.again.items()}, durable=False)

    def _start(
        self, program: str, group: str, options: list[str], before: tuple[str, ...] = ()
    ) -> "subprocess.Popen[bytes]":
        argv = [*before, script(program), "--config", self.conf, *options, group]
        log.debug("start: " + " ".join(argv))
        try:
            os.makedirs(paths.RUN, mode=0o755, exist_ok=True)
            with open(_output(program, group), "wb") as output:
                return subprocess.Popen(
                    argv,
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    env=run.environment(),
                    start_new_session=True,
                )
        except OSError as error:
            return Unborn(f"{program}: cannot be started: {error}")


def _wait(failures: int) -> float:
    """Seconds until the next try, after so many failures."""
    return min(RETRY * 2.0 ** (failures - 1), RETRY_AT_MOST)


def _left_over() -> dict[str, Again]:
    """What an earlier loop of this boot had to see through."""
    try:
        known = state.read(paths.LEAVING) or {}
        return {group: Again(tuple(options), due=0.0) for group, options in known.items()}
    except (Failed, TypeError) as error:
        log.debug(f"{paths.LEAVING}: {error}")
        return {}


def script(program: str) -> str:
    """The script `program`, beside the one that is running."""
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), program)
    return beside if os.path.exists(beside) else program


def _output(program: str, group: str) -> str:
    return f"{paths.RUN}/{program}-{group}.log"


def _last_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return (file.read()[-2000:].strip().splitlines() or [""])[-1]
    except OSError:
        return ""


def _close(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        try:
            process.stdin.close()
        except OSError:
            pass
