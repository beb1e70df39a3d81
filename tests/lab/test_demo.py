"""`make demo`: the README's first command does what the README says."""

import re
import subprocess

import pytest

from lab.conftest import NAME
from lab.labnet.plan import CHECKOUT

STEPS = (
    "power cut: serv1",
    "serv2 is sure that serv1 is dead",
    "serv2 answers on 10.1.0.1, with serv1's MAC address",
    "power cut: longest ICMP gap",
    "power cut: longest HTTP gap",
    "serv2 has started nginx and smbd",
    "serv1 is up, in standby: serv2 holds its group",
    "serv1 answers on 10.1.0.1",
    "failback: longest ICMP gap",
    "failback: longest HTTP gap",
)


@pytest.mark.alone
def test_the_demonstration_shows_every_step_and_all_that_it_checks_holds() -> None:
    argv = [str(CHECKOUT / "tests/lab/demo"), "--name", f"{NAME}demo"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    timeline, _, checked = done.stdout.partition("Checked:")
    for step in STEPS:
        assert re.search(rf"^ +[+-]\d+\.\d+ s  {re.escape(step)}", timeline, re.MULTILINE), step
    assert checked.count("holds") >= 10 and "DOES NOT HOLD" not in checked
