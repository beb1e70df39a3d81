"""Every line of the table by which a node decides is broken by a mutant that the simulation has to find out."""

from pathlib import Path

import pytest

from simulation import mutants

ROOT = Path(__file__).resolve().parents[2]
NO_RULE = "nothing of this"
"""The line that says that there is no further one."""


def table() -> list[str]:
    """What a node sees, line by line, from docs/design.md."""
    _, rest = (ROOT / "docs" / "design.md").read_text().split("| what the node sees | action |\n| --- | --- |\n")
    lines = rest.split("\n\n")[0].splitlines()
    return [line.removeprefix("| ").split(" | ")[0] for line in lines]


NAMED = [row for mutant in mutants.MUTANTS for row in mutant.rows]


@pytest.mark.parametrize("line", [line for line in table() if line != NO_RULE])
def test_every_line_of_the_table_has_a_mutant_of_the_pair(line: str) -> None:
    pair = [row for mutant in mutants.MUTANTS if mutant.nodes == 2 for row in mutant.rows]
    assert any(line.startswith(row) for row in pair), f"no mutant breaks: {line}"


@pytest.mark.parametrize("row", sorted(set(NAMED)))
def test_a_mutant_names_one_line_that_there_is(row: str) -> None:
    assert len([line for line in table() if line.startswith(row)]) == 1
