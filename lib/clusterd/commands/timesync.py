"""timesync: set the clock by what most trusted servers say, then the CMOS clock; tell how far the nodes differ."""

import argparse
import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from clusterd import cli, clock, config, log, model, notify, ntp, run, setback, view
from clusterd.clock import Agreement
from clusterd.errors import OK, UNKNOWN
from clusterd.lock import Lock
from clusterd.model import Config

DESCRIPTION = """\
Ask the servers of [timesync] for the time. If most of them agree, correct the clock, then the CMOS clock: an offset
above [timesync] step at once, a smaller one slowly. Where chronyd runs, its own sources are asked instead, and it
corrects the clock. A server that the others contradict is outvoted and named. If they do not agree, nothing is set:
exit 3. If none answers, the clock of the first node is followed. Then tell how far the nodes' clocks are apart."""
EPILOG = """\
Three servers or more: with two, nobody can tell which one is wrong, and one alone is believed only if it is the only
one configured. Says nothing when all is well and the output is no terminal; -v shows it all the same."""


class Outcome(NamedTuple):
    """How it went."""

    text: str
    how: str = "none"
    """What was done to the clock: step, slew, chronyd, follow or none."""
    change: float = 0.0
    """Seconds by which it was stepped."""
    trouble: str = ""
    """What a person is told."""
    code: int = OK


class Report(NamedTuple):
    """All there is to say."""

    outcome: Outcome
    agreement: Agreement
    silent: list[str]
    """Servers that gave no answer."""
    skews: dict[str, float | None]
    """How far each peer's clock is ahead of ours; None: not known."""
    hardware: str
    """Why the CMOS clock could not be set, or ""."""


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("timesync", DESCRIPTION, EPILOG)
    made.add_argument("--quiet", action="store_true", help="tell of trouble by notice only, as under cron")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), timesync, argv)


def timesync(options: argparse.Namespace) -> int:
    """Ask, agree, correct, report."""
    settings = config.load(options.config)
    with Lock("timesync"):
        daemon = ntp.chronyd()
        if daemon:
            daemon, samples, silent = ntp.ask_chronyd(daemon)
        else:
            samples, silent = ntp.ask(settings.timesync.servers)
        agreement = clock.agree(samples, len(samples) + len(silent))
        outcome = _correct(settings, agreement, daemon) if samples else _follow(settings, daemon)
        hardware = ntp.to_hardware() if outcome.how != "none" else ""
    _tell(settings, outcome, agreement)
    report = Report(outcome, agreement, silent, _skews(settings, outcome.change), hardware)
    if options.json:
        cli.show_json(_facts(report))
    elif options.verbose or sys.stdout.isatty():
        _show(report)
    if outcome.code and not options.quiet:
        print(f"timesync: {outcome.text}", file=sys.stderr)
    return outcome.code


def _correct(settings: Config, agreement: Agreement, daemon: ntp.Daemon | None) -> Outcome:
    """Set the clock by what most servers say."""
    offset = agreement.offset
    if offset is None:
        return Outcome(f"{agreement.why}: nothing was set", trouble=agreement.why, code=UNKNOWN)
    if daemon and not daemon.synchronised:
        text = "chronyd runs and has not chosen a source (yet): nothing was set"
        return Outcome(text, trouble=text, code=UNKNOWN)
    step = abs(daemon.correction if daemon else offset) > settings.timesync.step
    text = f"the clock was {abs(offset):.6f} s {'behind' if offset > 0 else 'ahead'}"
    if daemon:
        if step:
            _about_to_step(offset)
            ntp.makestep()
            return Outcome(f"{text}: stepped by chronyd", "step", offset)
        return Outcome(f"{text}: chronyd keeps it", "chronyd")
    server = agreement.good[0].server
    if step:
        _about_to_step(offset)
    ntp.correct(server, step=step)
    return Outcome(f"{text}: {'stepped' if step else 'slewed'} to {server}", *(("step", offset) if step else ("slew",)))


def _about_to_step(seconds: float) -> None:
    """What is written after a setback is new, although its time says otherwise: this is noted before."""
    if seconds < 0 and not run.dry_run:
        setback.note(time.time() + seconds - clock.MAX_DISTANCE)


def _follow(settings: Config, daemon: ntp.Daemon | None) -> Outcome:
    """No server answers: all nodes but the first follow the first one, so that two never chase each other."""
    first = next(iter(settings.nodes))
    none = "no time server answers" if settings.timesync.servers else "no time servers are configured"
    if daemon:
        none = "none of chronyd's sources answers"
    trouble = f"{none}: the clocks follow {first}'s" if settings.timesync.servers else ""
    if first == model.hostname():
        text = f"{none}: this clock is left as it is, the other nodes follow it"
        return Outcome(text, trouble=trouble, code=UNKNOWN if trouble else OK)
    skew = _skew(view.read(), first)
    if skew is None:
        text = f"{none}, and the clock of {first} is not known: nothing was set"
        return Outcome(text, trouble=text, code=UNKNOWN)
    if abs(skew) <= settings.timesync.step:
        return Outcome(
            f"{none}: followed {first}, from which this clock differs by {abs(skew):.3f} s only", "follow", 0.0, trouble
        )
    _about_to_step(skew)
    ntp.add(skew)
    return Outcome(f"{none}: stepped by {skew:+.3f} s to the clock of {first}", "follow", skew, trouble)


def _skew(now: view.View | None, node: str) -> float | None:
    """How far the clock of `node` is ahead of ours, by its last datagram; None if it was not heard lately."""
    peer = now.peers.get(node) if now else None
    return peer.skew if peer and peer.heard else None


def _skews(settings: Config, change: float) -> dict[str, float | None]:
    """The offset of each peer's clock from ours, after ours was stepped by `change`."""
    now = view.read()
    skews: dict[str, float | None] = {}
    for node in settings.peers():
        skew = _skew(now, node.name)
        skews[node.name] = None if skew is None else round(skew - change, 6)
        if skew is not None and abs(skew - change) > settings.mirror.max_skew:
            text = f"the clock of {node.name} is {abs(skew - change):.1f} s {_side(skew - change)}: no passes are made"
            log.event("clock-skew", text, level="warning", peer=node.name, skew=round(skew - change, 6))
    return skews


def _tell(settings: Config, outcome: Outcome, agreement: Agreement) -> None:
    """What a person and the log should know."""
    if outcome.trouble:
        notify.tell(settings, "clock-unset", outcome.trouble, subject="clock")
    elif not run.dry_run:
        notify.clear("clock-unset", "clock")
    if run.dry_run:
        return
    if abs(outcome.change) > 0:
        log.event("clock-stepped", outcome.text, level="notice", seconds=round(outcome.change, 6))
    for sample in agreement.false if agreement.good else ():
        text = f"time server {sample.server} is outvoted: it differs by {sample.offset:+.3f} s"
        log.event("clock-falseticker", text, level="warning", server=sample.server, offset=sample.offset)


def _facts(report: Report) -> dict[str, Any]:
    outcome = report.outcome
    servers: list[dict[str, Any]] = [
        {**sample._asdict(), "verdict": verdict} for verdict, found in _verdicts(report.agreement) for sample in found
    ]
    return {
        "offset": report.agreement.offset,
        "action": outcome.how,
        "text": outcome.text,
        "servers": servers + [{"server": name, "verdict": "silent"} for name in report.silent],
        "hardware_clock": report.hardware or ("set" if outcome.how != "none" else "not set"),
        "skew": report.skews,
        "exit": outcome.code,
    }


def _show(report: Report) -> None:
    for verdict, found in _verdicts(report.agreement):
        for sample in found:
            print(f"{verdict:6} {sample.server}: {sample.offset:+.6f} s, +/- {sample.uncertainty:.6f} s")
    for name in report.silent:
        print(f"silent {name}")
    if not report.outcome.code:
        print(report.outcome.text)
    if report.hardware:
        print(f"the CMOS clock was not set: {report.hardware}")
    for name, skew in report.skews.items():
        print(f"the clock of {name} is " + ("not known" if skew is None else f"{abs(skew):.3f} s {_side(skew)}"))


def _verdicts(agreement: Agreement) -> tuple[tuple[str, tuple[clock.Sample, ...]], ...]:
    return ("good", agreement.good), ("false" if agreement.good else "unsure", agreement.false)


def _side(seconds: float) -> str:
    return "ahead" if seconds > 0 else "behind"
