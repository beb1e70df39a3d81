"""One named fault on the running pair: watched from the LAN, written to all the while, and evaluated as a row.

    with fault(lab, "the holder's power is cut", "power", answers=("serv1", "serv2", "serv1")) as day:
        day.lab.power_off("serv1")
        day.serves("serv2")

A client asks for both groups' addresses all the time, and every ARP answer, echo and HTTP reply is kept with the node
that gave it. Another one stores numbered files on the share. Passes run one after the other, as cron would have them.
When the block ends everything is mended, switched on, and waited for; then it is counted what was lost.
"""

import json
import math
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import monotonic
from typing import Any

from lab.labnet.answers import Summary, spells
from lab.labnet.lab import EVENTS, Lab
from lab.labnet.plan import CHECKOUT, NODES
from lab.labnet.probe import Probe
from lab.labnet.proc import LabError
from lab.story import (
    ADDRESS,
    BACKUPS,
    LONG,
    OTHER,
    SHARE,
    Event,
    Writer,
    come_home,
    events,
    held,
    moved,
    must,
    one_at_a_time,
    probing,
    record,
    serves,
    wait_home,
    wait_serves,
    when,
)

ROWS = CHECKOUT / "build" / "campaign.jsonl"
"""Where the rows are gathered, over several runs; `make` removes it before the first."""
RELEASE = ("release-began", "pass-done", "service-stopped", "handed-over")
"""What the node that hands over logs, step by step..."""
FOLLOW = ("takeover-began", "address-up", "service-started")
"""...and what its successor does."""
AWAY_AND_BACK = ("serv1", "serv2", "serv1")
"""Who answers, where the group is taken over and goes home."""
PASS_EVERY = 4.0
"""Seconds between the end of a pass and the start of the next one, unless it is wanted earlier."""
WRITE_EVERY = 0.4
"""Seconds between two writes."""
INSTANT = 0.001
"""Seconds that two answers count for at least: a single frame of a second node is no length of time."""


@dataclass
class Row:
    """What one fault came to. Times in seconds."""

    area: str
    fault: str
    answers: list[str] = field(default_factory=list)
    """Who answered for serv1's address, one after the other."""
    icmp: float = 0.0
    """The longest time without an echo reply from serv1's address, from the fault to the end."""
    http: float = 0.0
    """The same for HTTP."""
    double: float = 0.0
    """How long two nodes answered for one address, each time at least INSTANT..."""
    excepted: float = 0.0
    """...and how long they may at most: more than 0 for a stated exception only (docs/design.md, Limits)."""
    written: int = 0
    """Writes that the share acknowledged..."""
    mirrored: int = 0
    """...those that a complete pass had copied afterwards..."""
    lost: int = 0
    """...and those of these that are not on the share at the end."""
    unmirrored: int = 0
    """Acknowledged writes that are not on the share at the end, and that no pass had copied..."""
    found: int = 0
    """...and those of these that are whole in a backup set whose notice names them, and that lists them."""
    behind: int = 0
    """How often an older version of a file was served than had been acknowledged..."""
    stale: int = 0
    """...and how often of these one older than a pass had copied, or one whose later version was not found."""
    holds: bool = False
    """Whether everything was as it must be..."""
    why: str = ""
    """...and if not, what was the matter."""
    tries: int = 1
    """How often it was tried; more than once, if a busy machine took too long."""

    def violations(self) -> list[str]:
        """What must not be, however busy the machine was."""
        found = {
            f"two nodes answered for {self.double:.3f} s": self.double > self.excepted,
            f"{self.lost} acknowledged and mirrored writes are lost": self.lost,
            f"{self.unmirrored - self.found} unmirrored writes were not found": self.unmirrored - self.found,
            f"an older version was served {self.stale} times": self.stale,
        }
        return [text for text, wrong in found.items() if wrong]


class Passes(threading.Thread):
    """Mirrors smbd from whoever holds it, again and again; remembers which writes complete passes have copied."""

    def __init__(self, lab: Lab, writer: Writer) -> None:
        super().__init__(daemon=True)
        self.lab = lab
        self.writer = writer
        self.copied: set[str] = set()
        """The acknowledged files that were on the share when a pass began that completed."""
        self.count = 0
        self._wanted = threading.Event()
        self._end = False

    def run(self) -> None:
        """Mirror until told to stop."""
        while not self._end:
            self._wanted.wait(PASS_EVERY)
            for node in NODES:
                if not self._end and self._holds(node):
                    self._mirror(node)
            self._wanted.clear()

    def _holds(self, node: str) -> bool:
        try:
            return held(self.lab, node, "serv1")
        except (LabError, KeyError):
            return False

    def _mirror(self, node: str) -> None:
        try:
            share = str(self.lab.path(node, SHARE))
            before, number = set(self.writer.acknowledged) - self.writer.lost(share), self.writer.now_in(share)
            done = self.lab.run(node, ["mirror_service", "smbd"], timeout=2 * LONG, check=False)
        except LabError:
            return
        if done.returncode == 0:
            self.copied |= before
            self.writer.mirrored = max(self.writer.mirrored, number)
            self.count += 1

    def soon(self) -> None:
        """Begin the next one as soon as none is under way."""
        self._wanted.set()

    def stop(self) -> None:
        """Stop after the pass that is under way."""
        self._end = True
        self._wanted.set()
        self.join()


@dataclass
class Day:
    """A bad day of the pair, while it goes on."""

    lab: Lab
    writer: Writer
    passes: Passes
    probes: dict[str, Probe]
    began: float = field(default_factory=monotonic)
    finished: float | None = None
    """When everything was mended, and the pair in order again."""

    def end(self) -> None:
        """Mend everything, and wait until the pair is whole and serves again."""
        mend(self.lab)
        self.writer.go_on()
        self.writer.more(1)
        self.finished = monotonic()

    def serves(self, node: str, *groups: str) -> None:
        """Wait until the node serves these groups; without any: both."""
        wait_serves(self.lab, node, *(groups or NODES))

    def another_pass(self) -> None:
        """Wait until one more pass has completed, so that what is written now is partly mirrored, partly not."""
        enough = self.passes.count + 1

        def made() -> bool:
            if self.passes.count < enough:
                self.passes.soon()
            return self.passes.count >= enough

        self.lab.wait_for(made, LONG, "a pass")
        self.writer.more()

    def moved(self) -> list[str]:
        """What either node has done about any group since the day began."""
        return moved(self.lab, self.began)

    def silent_between(self, node: str, after: float, event: Event) -> None:
        """Raises Violated if the node answered for serv1's address after a CLOCK_MONOTONIC time, before an event."""
        found = self.answers(node, after, event)
        must(not found, f"{node} answered before {event['event']}:", found)

    def answers(self, node: str, after: float, event: Event) -> list[float]:
        """When the node last answered for serv1's address, in each spell between a time and an event."""
        spells = self.probes[ADDRESS["serv1"]].so_far().spells
        return [spell.end for spell in spells if spell.node == node and spell.end > after and spell.start < when(event)]

    def unmirrored(self) -> list[Event]:
        """What was found that had never been mirrored, as told since the day began."""
        return [event for node in NODES for event in events(self.lab, node, self.began, "unmirrored-found")]

    @staticmethod
    @contextmanager
    def running(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
        """A command of the host's while it runs; what it says is not of interest."""
        with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            yield process


@contextmanager
def fault(
    lab: Lab,
    name: str,
    area: str,
    *,
    answers: tuple[str, ...] | None = None,
    moves: int = 2,
    quiet: bool = False,
    copied: bool = True,
    strays: bool = False,
    excepted: float = 0.0,
    **conf: Any,
) -> Iterator[Day]:
    """One fault, from a pair in order to a pair in order.

    Args:
        lab: the lab.
        name: what the row is called.
        area: under which heading.
        answers: who must have answered for serv1's address, one after the other; None: whoever.
        moves: how often it may have moved, if `answers` does not say.
        quiet: nothing may be done about any group at all; see `stayed`.
        copied: have a complete pass first.
        strays: the holder has to leave writes behind that no pass has copied, or the row says nothing about them.
        excepted: seconds for which two nodes may answer, in a stated exception.
        conf: as for come_home.
    """
    come_home(lab, **conf)
    row = Row(area, name, excepted=excepted)
    try:
        with _evaluated(lab, row) as day:
            if copied:
                day.another_pass()
            day.began = monotonic()
            try:
                yield day
            finally:
                if quiet:
                    stayed(name, day.moved())
        if answers is None:
            assert len(row.answers) - 1 <= moves, row
        else:
            assert tuple(row.answers) == answers, row
        assert row.unmirrored or not strays, row
        row.holds = True
    except Exception as error:
        row.why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise
    finally:
        keep(row)


MOVED: set[str] = set()
"""Of what faults something has moved that may not."""


def stayed(name: str, deeds: list[str]) -> None:
    """Nothing has been done about any group. A busy machine may excuse that once; raises Violated at the second try."""
    again = name in MOVED
    if deeds:
        MOVED.add(name)
    must(not (deeds and again), "moved in a second try, too:", deeds)
    assert not deeds, f"moved, though nothing may: {deeds}"


@contextmanager
def _evaluated(lab: Lab, row: Row) -> Iterator[Day]:
    """Watch, write and mirror during the block; mend then, and count, also if the block has failed.

    Raises Violated, rather than what the block has raised, if what must never happen has happened.
    """
    probes: dict[str, Probe] = {}
    day: Day | None = None
    try:
        with (
            probing(lab) as probes,
            Writer(lab, f"day{os.urandom(3).hex()}", WRITE_EVERY) as writer,
            mirroring(lab, writer) as passes,
        ):
            day = Day(lab, writer, passes, probes)
            try:
                yield day
            except Exception:
                day.end()
                raise
            day.end()
    finally:
        if day:
            _judge(row, day, {address: probe.summary for address, probe in probes.items()})


def _judge(row: Row, day: Day, seen: dict[str, Summary]) -> None:
    """Fill in the row: the writes only of a pair that is in order again, for nothing else tells what is lost."""
    answered(row, seen, day.began, day.finished or monotonic())
    if day.finished:
        _writes(row, day)
    must(not row.violations(), *row.violations(), row)


@contextmanager
def mirroring(lab: Lab, writer: Writer) -> Iterator[Passes]:
    """Passes, one after the other, during the block."""
    passes = Passes(lab, writer)
    passes.start()
    try:
        yield passes
    finally:
        passes.stop()


def mend(lab: Lab) -> None:
    """Mend everything, switch on what is off, and have both groups home."""
    lab.heal()
    off = [node for node in NODES if not lab.is_on(node)]
    if off:
        lab.power_on(*off)
    end = monotonic() + 3 * LONG
    while not _home(lab):
        for group in NODES:
            _send_home(lab, group)
        if monotonic() > end:
            raise LabError("the pair is not whole again")
    wait_home(lab)


def _home(lab: Lab) -> bool:
    try:
        wait_home(lab, 2)
    except LabError:
        return False
    return True


def _send_home(lab: Lab, group: str) -> None:
    """A group that a person has moved stays where it was put, until a person moves it back."""
    away = OTHER[group]
    if serves(lab, away, group) and record(lab, away, group).get("pinned"):
        lab.run(away, ["release", group, "--to", group], timeout=120, check=False)


def answered(row: Row, seen: dict[str, Summary], began: float, finished: float) -> None:
    """What clients saw. Raises Violated if two nodes answered at once, but for a stated exception, or another MAC."""
    mine = seen[ADDRESS["serv1"]]
    row.answers = [spell.node for spell in spells((spell.start, spell.node) for spell in mine.spells)]
    row.icmp = mine.gap("icmp", began, finished).seconds
    row.http = mine.gap("http", began, finished).seconds
    row.double = sum(max(gap.seconds, INSTANT) for summary in seen.values() for gap in summary.double)
    for summary in seen.values():
        one_at_a_time(replace(summary, double=()) if row.excepted and row.double <= row.excepted else summary)


def _writes(row: Row, day: Day) -> None:
    """What became of the acknowledged writes."""
    lab, writer = day.lab, day.writer
    copied = day.passes.copied
    missing = writer.lost(str(lab.path("serv1", SHARE)))
    row.written, row.mirrored = len(writer.acknowledged), len(copied)
    row.lost, row.unmirrored = len(missing & copied), len(missing - copied)
    kept = _named(day)
    whole = {folder: set(writer.acknowledged) - writer.lost(folder) for folder, _ in kept}
    row.found = len((missing - copied) & {name for folder, names in kept for name in whole[folder] & names})
    row.behind = len(writer.behind)
    row.stale = len(writer.stale(*(folder for folder, names in kept if writer.current in names)))


def _named(day: Day) -> list[tuple[str, set[str]]]:
    """The share's folders in backup sets, and which files of each are both in a notice and in the set's list."""
    told: dict[str, set[str]] = {}
    for event in day.unmirrored():
        told.setdefault(event["set"], set()).update(event["files"])
    found = []
    for node in NODES:
        for name, files in told.items():
            folder = day.lab.path(node, f"{BACKUPS}/{name}/files{SHARE}")
            if folder.is_dir():
                listed = day.lab.run(node, ["restore_backup", name]).stdout
                mine = {file.name for file in folder.iterdir() if f"{SHARE}/{file.name}" in files}
                found.append((str(folder), {each for each in mine if f"{SHARE}/{each}" in listed}))
    return found


def keep(row: Row) -> None:
    """Put the row where the table is made from."""
    ROWS.parent.mkdir(exist_ok=True)
    with ROWS.open("a") as file:
        file.write(json.dumps(asdict(row)) + "\n")


# --- at the moment of a step -----------------------------------------------------------------------------------------


@contextmanager
def at(
    lab: Lab, node: str, event: str, deed: Callable[[], object], *, group: str = "serv1", after: str = ""
) -> Iterator[None]:
    """Have `deed` done as soon as the node logs an event about the group.

    With `after`: the first one that follows an event of that name, for passes are made, and logged, at other times too.
    The block makes the event happen. Raises LabError if it does not.
    """
    path = lab.path(node, EVENTS)
    start = path.stat().st_size if path.exists() else 0
    done = threading.Event()
    end = threading.Event()
    trouble: list[BaseException] = []

    def wait() -> None:
        while not end.wait(0.002):
            if _logged(path, start, event, group, after):
                try:
                    deed()
                except (LabError, OSError, AssertionError) as error:
                    trouble.append(error)
                done.set()
                return

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    try:
        yield
        if not done.wait(LONG):
            raise LabError(f"{node} never logged {event}")
    finally:
        end.set()
        thread.join()
    if trouble:
        raise trouble[0]


def _logged(path: Path, start: int, event: str, group: str, after: str) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(start)
            lines = file.read().splitlines()
    except OSError:
        return False
    found = [json.loads(line) for line in lines if b'"event": "' in line and line.endswith(b"}")]
    names = [each["event"] for each in found if each.get("group", group) == group]
    return event in (names[names.index(after) :] if after in names else [] if after else names)


# --- the table -------------------------------------------------------------------------------------------------------


def tries() -> list[Row]:
    """Every single try of this run, in the order in which they ended."""
    return [Row(**json.loads(line)) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def rows(of: list[Row]) -> list[Row]:
    """One row a fault, in the order of areas: of its last try, with the worst that any of its tries has come to."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in of:
        found.setdefault((row.area, row.fault), []).append(row)
    return [worst(found[key]) for key in sorted(found)]


def worst(of: list[Row]) -> Row:
    """What the tries of one fault came to together: a violation in any of them stays one."""
    missed = max(of, key=lambda row: row.unmirrored - row.found)
    last = missed if missed.unmirrored > missed.found else of[-1]
    return replace(
        of[-1],
        double=max(row.double for row in of),
        lost=max(row.lost for row in of),
        stale=max(row.stale for row in of),
        unmirrored=last.unmirrored,
        found=last.found,
        holds=of[-1].holds and not any(row.violations() for row in of),
        tries=len(of),
    )


HEADINGS = (
    *("fault", "tries", "who answered", "ICMP", "HTTP", "two holders"),
    *("writes", "mirrored", "lost", "unmirrored", "found"),
)


def cells(row: Row) -> tuple[str, ...]:
    """One row as text."""
    answers = "-".join(node.removeprefix("serv") for node in row.answers)
    times = (f"{seconds:.2f} s" for seconds in (row.icmp, row.http, _rounded_up(row.double)))
    counts = (row.written, row.mirrored, row.lost, row.unmirrored, row.found)
    name = row.fault if row.holds else f"{row.fault} DOES NOT HOLD"
    return (name, str(row.tries), answers, *times, *map(str, counts))


def _rounded_up(seconds: float) -> float:
    """To hundredths: a single frame is not to be rounded away."""
    return math.ceil(round(seconds * 100, 6)) / 100


def totals(of: list[Row]) -> str:
    """One line about all tries; nothing is left out because a later try went well."""
    names = ("written", "mirrored", "lost", "unmirrored", "found")
    count = {name: sum(getattr(row, name) for row in of) for name in names}
    faults = rows(of)
    double = _rounded_up(sum(row.double for row in of if not row.excepted))
    excepted = _rounded_up(sum(row.double for row in of if row.excepted))
    return (
        f"{len(faults)} faults in {len(of)} tries, {sum(row.holds for row in faults)} held; two nodes answered for "
        f"{double:.2f} s, and for {excepted:.2f} s in the stated exception; {count['written']} writes acknowledged; "
        f"{count['mirrored']} of them mirrored, {count['lost']} of these lost; {count['unmirrored']} others not on the "
        f"share at the end, {count['found']} of these found and listed"
    )


def table(of: list[Row], pad: bool = True) -> list[str]:
    """The faults of these tries as Markdown, the areas one after the other; padded, it is to be read as it is."""
    lines = []
    faults = rows(of)
    for area in dict.fromkeys(row.area for row in faults):
        mine = [cells(row) for row in faults if row.area == area]
        widths = [max(map(len, column)) if pad else 3 for column in zip(HEADINGS, *mine, strict=True)]
        lines += ["", f"**{area[0].upper()}{area[1:]}**", ""]
        lines += [_line(HEADINGS, widths), _line(["-" * width for width in widths], widths)]
        lines += [_line(line, widths if pad else [0] * len(widths)) for line in mine]
    return [*lines, "", totals(of), *_failed(of)] if of else []


def _failed(of: list[Row]) -> list[str]:
    """Why tries failed, a line each."""
    return [f"- a try of *{row.fault}* failed: {row.why}" for row in of if not row.holds]


def _line(words: tuple[str, ...] | list[str], widths: list[int]) -> str:
    return "| " + " | ".join(word.ljust(width) for word, width in zip(words, widths, strict=True)) + " |"


BEGIN, END = "<!-- campaign -->", "<!-- /campaign -->"


def put_into(text: str, lines: list[str]) -> str:
    """A document with these lines between its two markers, instead of what was there.

    Raises:
        LabError: it has not exactly one of each, in their order.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in after:
        raise LabError(f"the document needs {BEGIN} and {END}, once each")
    return "\n".join([f"{before}{BEGIN}", *lines, f"{END}{after}"])
