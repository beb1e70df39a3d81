"""Campaign: the power is cut at every step of a release."""

import pytest

from lab.campaign import FOLLOW, RELEASE, at, fault
from lab.labnet.lab import Lab
from lab.story import LONG, OTHER

WHO = {"serv1": "holder", "serv2": "successor"}
CUTS = [
    *(("serv1", "serv1", step) for step in RELEASE),
    *(("serv2", "serv1", step) for step in RELEASE),
    *(("serv2", "serv2", step) for step in FOLLOW),
]
"""Whose power is cut, and when: the node that logs the step, and the step."""


@pytest.mark.parametrize(("dies", "logs", "step"), CUTS)
def test_in_a_release(lab: Lab, dies: str, logs: str, step: str) -> None:
    """By hand, from serv1 to serv2; the command fails if it must, and the other node serves."""
    whose = "its" if dies == logs else f"the {WHO[logs]}'s"
    after = "release-began" if logs == "serv1" else ""
    with (
        fault(lab, f"power of the {WHO[dies]}, at {whose} {step}", "power, release") as day,
        at(lab, logs, step, lambda: lab.power_off(dies), after=after),
    ):
        lab.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=2 * LONG, check=False)
        day.serves(OTHER[dies])
