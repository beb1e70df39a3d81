"""The lab for pytest: `lab` is up for the whole run, `pair` is a clean running pair, `home` any pair that is in order.

A test that fails shows what both nodes looked like: their log, events, view and addresses.
"""

import os
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lab import campaign, story
from lab.labnet.lab import Lab
from lab.labnet.plan import CHECKOUT
from lab.labnet.proc import LabError

NAME = os.environ.get("CLUSTERD_TEST_LAB", "test") + os.environ.get("PYTEST_XDIST_WORKER", "")[2:]
"""Each worker of a run has a lab of its own; another name lets two runs go on side by side."""
FIXTURES = ("pair", "home", "lab", "bare_lab")


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A lab with clusterd installed and running on both nodes; shared, so a test finds it as the last one left it."""
    with fresh(NAME) as made:
        made.up()
        yield made


@pytest.fixture
def pair(lab: Lab) -> Lab:
    """The lab as delivered: both nodes just booted, no faults, no mails."""
    lab.reset()
    return lab


@pytest.fixture
def home(lab: Lab) -> Lab:
    """The running pair in order, each node with its own group; a test finds what others have written. See story.py."""
    story.come_home(lab)
    return lab


@pytest.fixture(scope="session")
def bare_lab() -> Iterator[Lab]:
    """A lab without clusterd: for tests of the lab itself."""
    with fresh(f"{NAME}bare") as made:
        made.up(program=False)
        yield made


@contextmanager
def fresh(name: str) -> Iterator[Lab]:
    """A lab that is gone at the end, and was gone before the start, whatever an earlier run left."""
    lab = Lab(name)
    lab.down()
    try:
        yield lab
    finally:
        lab.down()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put what both nodes look like into the report of a test that failed."""
    if call.excinfo and not isinstance(call.excinfo.value, story.Violated):
        # So that --rerun-except sees it too: it looks at causes, not at what else was raised before.
        call.excinfo.value.__cause__ = story.cause(call.excinfo.value) or call.excinfo.value.__cause__
    report = yield
    if report.failed and report.when != "teardown":
        for name in FIXTURES:
            found = getattr(item, "funcargs", {}).get(name)
            if isinstance(found, Lab):
                report.sections.append(("the nodes", dump(found)))
                break
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What the campaign's faults came to, and why tests were run again."""
    tries = campaign.tries()
    if tries:
        terminalreporter.section("the campaign: faults on the running pair")
        for line in campaign.table(tries):
            terminalreporter.write_line(line)
    again = terminalreporter.stats.get("rerun", [])
    if again:
        terminalreporter.section("run again, and why")
        for report in again:
            terminalreporter.write_line(f"{report.nodeid}: {reason(report)}")
            keep(report)


def keep(report: pytest.TestReport) -> None:
    """Why a test failed, whole, with what the nodes looked like: nobody would see it, for it was well in the end."""
    place = CHECKOUT / "build" / "again"
    place.mkdir(parents=True, exist_ok=True)
    parts = [report.nodeid, str(report.longrepr), *(f"--- {name}\n{text}" for name, text in report.sections)]
    (place / f"{len(os.listdir(place))}.txt").write_text("\n\n".join(parts), errors="backslashreplace")


def reason(report: pytest.TestReport) -> str:
    """Why a test failed, in one line."""
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = str(crash.message if crash else report.longrepr).strip().splitlines()
    return lines[0] if lines else "for no reason given"


def dump(lab: Lab) -> str:
    """What the nodes look like, or why that cannot be told."""
    try:
        return lab.dump()
    except (LabError, OSError) as error:
        return f"cannot tell: {error}"
