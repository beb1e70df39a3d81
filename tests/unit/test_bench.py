"""The benchmarks' pure parts: figures and the table, what runs on the nodes, the peer's configuration."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench import agent, backups, keepalived, main
from bench.report import Figure, Row, milliseconds, number, seconds, table

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.2871, "0.287"), (1.456, "1.46"), (45.67, "45.7"), (1234.5, "1234"), (-0.5, "-0.500")]
)
def test_numbers_have_three_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


def test_a_figure_is_the_median_and_the_range() -> None:
    assert seconds([0.3, 0.1, 0.2]).text() == "0.200 s (0.100-0.300)"
    assert milliseconds([0.02]).text() == "20.0 ms"


def test_a_row_holds_by_its_ratio() -> None:
    row = Row("outage", seconds([0.2]), seconds([0.4]), "peer", times=1.0)
    assert row.ratio == pytest.approx(0.5) and row.holds and row.budget == "1 x"
    assert not Row("outage", seconds([0.5]), seconds([0.4]), "peer", times=1.0).holds


def test_a_row_holds_by_its_limit_whatever_the_peer_does() -> None:
    row = Row("idle", Figure((1.5,), "%"), Figure((0.2,), "%"), "peer", limit=1.0)
    assert row.holds is False and row.budget == "1 %"
    assert Row("idle", Figure((0.9,), "%"), limit=1.0).holds


def test_a_row_without_a_budget_is_information() -> None:
    row = Row("Fabric", seconds([1]), seconds([0.1]), "python3")
    assert row.holds is None and row.verdict == "(information)" and row.facts()["ratio"] == pytest.approx(10)


def test_a_peer_that_takes_no_time_gives_no_ratio() -> None:
    assert not Row("start", seconds([1]), seconds([0.0]), "peer", times=5).holds


def test_the_table_is_in_columns() -> None:
    shown = table([Row("short", seconds([1])), Row("quite a bit longer", seconds([1]), limit=2)])
    lines = shown.splitlines()
    assert len(lines) == 4 and lines[0].startswith("what")
    assert lines[2].index("1.00 s") == lines[3].index("1.00 s")
    assert lines[3].endswith("holds")


def test_a_race_runs_every_command_as_often_and_tells_time_and_cpu() -> None:
    taken = agent.race({"quick": ["true"], "slow": ["sleep", "0.05"]}, rounds=3)
    assert {name: len(samples) for name, samples in taken.items()} == {"quick": 3, "slow": 3}
    assert all(wall >= 0.05 and cpu < wall for wall, cpu in taken["slow"])


def test_in_a_race_the_disk_settles_before_each_command_if_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def timed(argv: list[str]) -> list[float]:
        done.append(argv[0])
        return [1.0, 0.5]

    monkeypatch.setattr(os, "sync", lambda: done.append("sync"))
    monkeypatch.setattr(agent, "timed", timed)
    agent.race({"a": ["a"], "b": ["b"]}, rounds=1, warm=0, settle=True)
    agent.race({"a": ["a"]}, rounds=1, warm=0)
    assert done == ["sync", "a", "sync", "b", "a"]


class NoLab:
    """A lab without machines: keeps what it is told to run."""

    def __init__(self) -> None:
        self.pair = self
        self.made: list[str] = []

    def run(self, _node: str, argv: list[str], timeout: float) -> None:
        """A tree is made, in argv[3]."""
        assert timeout
        self.made.append(argv[3])

    def sh(self, _node: str, _line: str) -> str:
        """How many sets are left."""
        return "0"


def test_both_ways_to_delete_are_first_once_each_on_new_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    lab, deleted = NoLab(), []
    times = iter((3.0, 1.0, 2.0, 5.0))

    def ask(
        _lab: object, _node: str, _what: str, spec: dict[str, Any], _timeout: float
    ) -> dict[str, list[list[float]]]:
        if backups.LISTED in spec["commands"]:
            return {backups.LISTED: [[0.5, 0.1]] * spec["rounds"]}
        assert (spec["rounds"], spec["warm"], spec["settle"]) == (1, 0, True)
        deleted.append(list(spec["commands"]))
        return {name: [[next(times), 0.1]] for name in spec["commands"]}

    monkeypatch.setattr(backups, "ask", ask)
    monkeypatch.setattr(backups, "wait_well", lambda _lab: None)
    monkeypatch.setattr(backups, "interpreter", lambda _lab: "python")
    (listed, purged), taken = backups.backups(lab, 2000)  # type: ignore[arg-type]
    assert deleted == [[backups.PURGED, backups.FOUND], [backups.FOUND, backups.PURGED]]
    assert lab.made == [backups.OURS, backups.OTHERS, backups.OTHERS, backups.OURS]
    assert listed.ours.samples == (0.5,) * 5
    assert (purged.ours.samples, purged.peer and purged.peer.samples) == ((3.0, 5.0), (1.0, 2.0))
    assert len(taken[backups.PURGED]) == 2


def test_a_race_ends_with_what_a_failing_command_says() -> None:
    with pytest.raises(SystemExit, match="exit 3: it is so"):
        agent.race({"failing": ["sh", "-c", "echo it is so; exit 3"]}, rounds=1)


def test_a_programs_children_count_and_idleness_costs_nothing(tmp_path: Path) -> None:
    program = tmp_path / "clusterd-bench-test"
    program.write_text('#!/bin/sh\n(while [ -e "$1" ]; do :; done)\nsleep 20 & echo; wait\n')
    program.chmod(0o755)
    busy = tmp_path / "busy"
    busy.touch()
    with subprocess.Popen([program, busy], stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            end = time.monotonic() + 10  # the kernel shows its words a moment after it has begun
            while len(agent.running(program.name)) < 2 and time.monotonic() < end:
                time.sleep(0.01)
            assert agent.idle(program.name, 0.5)["percent"] > 2
            busy.unlink()
            assert process.stdout and process.stdout.readline()
            found = agent.idle(program.name, 0.5)
            assert (
                found["percent"] < 5
                and found["ended"] <= found["percent"]
                and found["processes"] == 2
                and 0 < found["pss"] <= found["rss"]
            )
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_program_that_does_not_run_is_said_so() -> None:
    with pytest.raises(SystemExit, match="does not run"):
        agent.idle("no-such-program-of-clusterd", 0)


@pytest.mark.parametrize("vmac", [False, True])
def test_keepalived_is_configured_alike_on_both_nodes(vmac: bool) -> None:
    for node in ("serv1", "serv2"):
        text = keepalived.configuration(node, vmac)
        assert "advert_int 0.1" in text and ("use_vmac" in text) is vmac
    assert "priority 150" in keepalived.configuration("serv1", vmac)


def test_one_item_alone_can_be_chosen() -> None:
    assert main.parser().parse_args(["--only", "pass", "--only", "start"]).only == ["pass", "start"]
    with pytest.raises(SystemExit):
        main.parser().parse_args(["--only", "everything"])


@pytest.mark.parametrize(("took", "strict", "code"), [(1.0, True, 0), (3.0, False, 0), (3.0, True, 1)])
def test_a_broken_budget_is_an_error_only_if_it_is_to_be(
    took: float, strict: bool, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [Row("list", seconds([took]), limit=1.5), Row("Fabric", seconds([1]))]
    monkeypatch.setattr(main, "Labs", lambda _name: nullcontext())
    monkeypatch.setattr(main, "plan", lambda *_: {"backups": lambda: (rows, {})})
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert main.main(["--strict"] if strict else []) == code
    assert ("DOES NOT HOLD" in capsys.readouterr().out) is (took > 1.5)


def test_the_door_opens() -> None:
    said = subprocess.run([ROOT / "bench/run", "--help"], capture_output=True, text=True, check=True, timeout=30)
    assert "--rounds" in said.stdout
