"""The simulation as a test: nothing is violated, and whatever rule is weakened, something is."""

import os

import pytest

from simulation import mutants, simulate

SCHEDULES = {2: 20000}
"""By nodes. Three are simulated by hand (simulate.py --nodes 3): some of their schedules are still violated."""
"""By the number of nodes; those of three cost more."""
ENOUGH = 1000
"""Schedules in which a weakened rule must have shown itself."""
JOBS = len(os.sched_getaffinity(0))


@pytest.mark.parametrize("nodes", SCHEDULES)
def test_nothing_is_violated(nodes: int, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = list(simulate.run(0, SCHEDULES[nodes], JOBS, nodes=nodes))
    failed = simulate.report(outcomes)
    said = capsys.readouterr().out
    with capsys.disabled():
        print(f"\n{nodes} nodes: {said}", end="")
    assert not failed, said
    assert len(outcomes) == SCHEDULES[nodes]


def test_a_schedule_can_be_replayed() -> None:
    once, again = simulate.run(7, 1, 1), simulate.run(7, 1, 1)
    assert list(once) == list(again)


@pytest.mark.parametrize("mutant", [mutant.name for mutant in mutants.MUTANTS if mutant.nodes in SCHEDULES])
def test_a_weakened_rule_is_found_out(mutant: str) -> None:
    found = next((outcome for outcome in simulate.run(0, ENOUGH, JOBS, mutant) if outcome.violations), None)
    assert found is not None, f"{ENOUGH} schedules did not notice"
    (without,) = simulate.run(found.seed, 1, 1, mutant, sound=True)
    assert without.violations == []
