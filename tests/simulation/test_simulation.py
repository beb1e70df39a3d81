"""The simulation as a test: nothing is violated, and whatever rule is weakened, something is."""

import os
import shlex
import subprocess
import sys

import pytest

from simulation import mutants, simulate
from simulation.checks import HUNG, SPLIT
from simulation.simulate import Outcome

SCHEDULES = {2: int(os.environ.get("CLUSTERD_SCHEDULES", "20000")), 3: 600}
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
    if nodes == 2:
        check_exceptions(outcomes)


def check_exceptions(outcomes: list[Outcome]) -> None:
    """What a pair without a fence agent and without an arbiter cannot know is found, and with either there is none."""
    alone = [outcome.exceptions for outcome in outcomes if not outcome.guarded]
    guarded = [outcome.exceptions for outcome in outcomes if outcome.guarded]
    assert guarded
    assert sum(exceptions[SPLIT] for exceptions in alone) > 0
    assert sum(exceptions[SPLIT] for exceptions in guarded) == 0
    assert sum(outcome.exceptions[HUNG] for outcome in outcomes if outcome.guarded and not outcome.failsafe) == 0


def test_a_schedule_can_be_replayed() -> None:
    once, again = simulate.run(7, 1, 1), simulate.run(7, 1, 1)
    assert list(once) == list(again)


def test_a_failure_prints_the_words_that_replay_it() -> None:
    """In other processes, in which sets and dicts are in another order."""
    mutant = mutants.MUTANTS[0].name
    found = next(
        outcome for seed in range(ENOUGH) for outcome in simulate.run(seed, 1, 1, mutant) if outcome.violations
    )
    words = [sys.executable, str(simulate.__file__), *shlex.split(found.again)]
    for hashes in ("1", "2"):
        again = subprocess.run(words, env={"PYTHONHASHSEED": hashes}, capture_output=True, text=True, check=False)
        assert again.returncode == 1
        assert found.violations[0] in again.stdout


@pytest.mark.parametrize("mutant", [mutant.name for mutant in mutants.MUTANTS])
def test_a_weakened_rule_is_found_out(mutant: str) -> None:
    outcomes = simulate.run(mutants.named(mutant).first, ENOUGH, JOBS, mutant, size=5)
    found = next((outcome for outcome in outcomes if outcome.violations), None)
    assert found is not None, f"{ENOUGH} schedules did not notice"
    (without,) = simulate.run(found.seed, 1, 1, mutant, sound=True)
    assert without.violations == []
