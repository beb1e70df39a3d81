"""The lab's campaign: what a second try may not hide, and what the table makes of several tries."""

import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lab import campaign, story
from lab.campaign import Row
from lab.labnet.answers import Summary, summarise
from lab.labnet.lab import Lab
from lab.labnet.plan import CHECKOUT
from lab.labnet.proc import LabError
from lab.story import Behind

TESTS = """
from pathlib import Path
from lab.labnet.proc import LabError
from lab.story import Violated, must

def tried(name):
    with (Path(__file__).parent / name).open("a") as file:
        file.write("x")

def test_a_wait():
    tried("wait")
    raise LabError("waited 60 s for serv2 to answer")

def test_a_move():
    tried("move")
    assert ["address-up"] == []

def test_two_answers():
    tried("answers")
    must(False, "two nodes answered")

def test_two_answers_and_then_a_wait():
    tried("both")
    try:
        must(False, "two nodes answered")
    finally:
        raise LabError("waited 60 s for the pair to be whole")

def test_two_answers_seen_after_a_wait():
    tried("after")
    try:
        raise LabError("waited 60 s for the pair to be whole")
    finally:
        must(False, "two nodes answered")
"""


def tries_again() -> list[str]:
    """The options with which `make test` runs what fails in the lab again."""
    argv = ["make", "--dry-run", "test"]
    steps = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=30, check=True).stdout
    (words,) = [shlex.split(step) for step in steps.splitlines() if '-m "not alone" tests/lab' in step]
    start = words.index("--rerun-except")
    assert words[start + 2] == "--reruns"
    return words[start : start + 4]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Tests that fail for several reasons, run as `make test` runs those of the lab."""
    folder = tmp_path_factory.mktemp("reruns")
    (folder / "test_reruns.py").write_text(TESTS)
    argv = [sys.executable, "-m", "pytest", "-p", "lab.conftest", "-p", "no:cacheprovider", *tries_again(), str(folder)]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT / "tests")}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return folder, done.stdout


@pytest.mark.parametrize("name", ["wait", "move", "answers", "both", "after"])
def test_what_must_not_be_is_never_run_again(session: tuple[Path, str], name: str) -> None:
    again = int(tries_again()[-1]) if name in ("wait", "move") else 0
    assert len((session[0] / name).read_text()) == 1 + again


def test_the_report_says_why_a_test_was_run_again(session: tuple[Path, str]) -> None:
    _, report = session[1].split("run again, and why")
    again = [line for line in report.splitlines() if "::test_a_wait: " in line]
    assert len(again) == int(tries_again()[-1]) > 0 and all("waited 60 s for serv2 to answer" in line for line in again)


def test_a_violation_is_found_below_other_errors() -> None:
    wrong = story.Violated("two nodes answered")
    outer = LabError("the pair is not whole again")
    outer.__context__ = wrong
    assert story.cause(outer) is wrong
    assert story.cause(LabError("a wait")) is None


def answers(*lines: tuple[float, str, str]) -> dict[str, Summary]:
    """What a probe of three seconds makes of these frames for serv1's address: (when, node, what)."""
    address = story.ADDRESS["serv1"]
    wire = [{"t": when, "k": "wire", "node": node, "what": what} for when, node, what in lines]
    return {address: summarise(address, [{"t": 0.0, "k": "start"}, *wire, {"t": 3.0, "k": "end"}])}


PINGED = [(0.5 + number / 50, "serv2", "echo-reply") for number in range(100)]
"""serv2 answers for two seconds."""


def test_a_single_answer_of_a_second_node_is_a_violation() -> None:
    row = Row("power", "of the holder")
    with pytest.raises(story.Violated):
        campaign.answered(row, answers(*PINGED, (1.501, "serv1", "arp-reply")), 0.0, 3.0)
    assert row.double == campaign.INSTANT and row.violations()
    assert "0.01 s" in campaign.cells(row)
    assert not campaign.rows([row, GOOD])[0].holds
    assert "two nodes answered for 0.01 s" in campaign.totals([row, GOOD])


def test_a_last_answer_before_the_first_one_of_the_successor_is_none() -> None:
    row = Row("power", "of the holder")
    campaign.answered(row, answers((0.4, "serv1", "echo-reply"), (0.499, "serv1", "arp-reply"), *PINGED), 0.0, 3.0)
    assert row.double == 0 and not row.violations() and row.answers == ["serv1", "serv2"]


def test_frames_count_by_the_time_at_which_they_came() -> None:
    """Not by that at which they were read: the successor's port may be read first."""
    row = Row("power", "of the holder")
    campaign.answered(row, answers(*PINGED, (0.499, "serv1", "arp-reply"), (0.3, "serv1", "arp-reply")), 0.0, 3.0)
    assert row.double == 0 and row.answers == ["serv1", "serv2"]


def test_a_stated_exception_has_its_time() -> None:
    both = answers(*PINGED, (1.0, "serv1", "arp-reply"), (1.1, "serv1", "arp-reply"))
    campaign.answered(Row("power", "of a paused holder", excepted=0.2), both, 0.0, 3.0)
    with pytest.raises(story.Violated):
        campaign.answered(Row("power", "of a paused holder", excepted=0.05), both, 0.0, 3.0)


def test_a_move_of_what_may_not_move_is_tried_again_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(campaign, "MOVED", set())
    with pytest.raises(AssertionError, match="though nothing may") as first:
        campaign.stayed("switch off", ["address-up"])
    assert not isinstance(first.value, story.Violated)
    campaign.stayed("switch off", [])
    with pytest.raises(AssertionError, match="though nothing may"):
        campaign.stayed("another fault", ["address-up"])
    with pytest.raises(story.Violated, match="in a second try"):
        campaign.stayed("switch off", ["address-up"])


@pytest.mark.parametrize(
    ("behind", "kept", "is_stale"),
    [
        (Behind(7, 5, 5, 8), "00007\n", False),
        (Behind(7, 5, 6, 8), "00007\n", True),  # a pass had copied a later one than is served
        (Behind(7, 5, 5, 8), "00005\n", True),  # the one that was acknowledged is nowhere
        (Behind(7, 5, 5, 8), None, True),
        (Behind(7, 5, 5, 9), "00008\n", False),  # written, and not acknowledged before the node died
        (Behind(7, 5, 5, 9), "", False),
        (Behind(7, 5, 5, 8), "", True),  # nothing was being written that could have cut it
        (Behind(7, 5, 0, 8), "00009\n", True),  # of a later time, in which it was written again
    ],
)
def test_an_older_version_over_a_later_one(tmp_path: Path, behind: Behind, kept: str | None, is_stale: bool) -> None:
    writer = story.Writer(Lab("unit"), "day")
    writer.behind = [behind]
    writer.attempted = [*range(1, behind.following + 1)]
    if kept is not None:
        (tmp_path / "day-current").write_text(kept)
    assert bool(writer.stale(str(tmp_path))) == is_stale
    assert writer.now_in(str(tmp_path)) == int(kept or "0")


GOOD = Row("power", "of the holder", ["serv1", "serv2"], written=10, mirrored=6, unmirrored=2, found=2, holds=True)


@pytest.mark.parametrize(
    ("wrong", "cell"),
    [
        (Row("power", "of the holder", double=0.3, why="Violated: two"), "0.30 s"),
        (Row("power", "of the holder", written=5, mirrored=5, lost=3, why="Violated: lost"), "3"),
        (Row("power", "of the holder", written=5, unmirrored=4, found=3, why="Violated: not found"), "4"),
        (
            Row("power", "of the holder", written=5, stale=1, why="Violated: an older version"),
            "of the holder DOES NOT HOLD",
        ),
    ],
)
def test_a_later_try_that_goes_well_hides_nothing(wrong: Row, cell: str) -> None:
    for tries in ([wrong, GOOD], [GOOD, wrong], [GOOD, wrong, GOOD]):
        (row,) = campaign.rows(tries)
        assert row.violations() == wrong.violations()
        assert not row.holds and row.tries == len(tries)
        assert cell in campaign.cells(row)
        text = "\n".join(campaign.table(tries))
        assert "DOES NOT HOLD" in text and wrong.why in text
        assert f"1 faults in {len(tries)} tries, 0 held" in text


def test_a_try_that_took_too_long_is_counted_and_told() -> None:
    slow = Row("power", "of the holder", written=4, why="LabError: waited 60 s")
    (row,) = campaign.rows([slow, GOOD])
    assert row.holds and row.tries == 2
    text = "\n".join(campaign.table([slow, GOOD]))
    assert "1 faults in 2 tries, 1 held; two nodes answered for 0.00 s" in text
    assert "; 14 writes acknowledged" in text
    assert "a try of *of the holder* failed: LabError: waited 60 s" in text


def test_a_stated_exception_is_counted_apart() -> None:
    known = Row("power", "of a paused holder", double=0.1, excepted=2.0, holds=True)
    (row,) = campaign.rows([known])
    assert row.holds and not row.violations()
    assert "answered for 0.00 s, and for 0.10 s in the stated exception" in campaign.totals([known, GOOD])
    assert replace(known, double=2.1).violations()


def test_the_table_goes_between_the_markers() -> None:
    text = f"before\n{campaign.BEGIN}\noutdated\n{campaign.END}\nafter\n"
    made = campaign.put_into(text, campaign.table([GOOD], pad=False))
    assert made.startswith(f"before\n{campaign.BEGIN}\n") and made.endswith(f"{campaign.END}\nafter\n")
    assert "| of the holder | 1 | 1-2 | 0.00 s |" in made and "outdated" not in made
    assert campaign.put_into(made, ["new"]) == text.replace("outdated", "new")
    for wrong in ("", campaign.BEGIN, f"{campaign.END}{campaign.BEGIN}", text * 2):
        with pytest.raises(LabError):
            campaign.put_into(wrong, [])


def test_the_document_has_the_markers() -> None:
    assert campaign.put_into((CHECKOUT / "docs/reliability.md").read_text(), [])
