"""Campaign: the power is cut at every step of a release."""

import pytest

from lab.campaign import FOLLOW, RELEASE, at, fault
from lab.labnet.lab import Lab
from lab.story import LONG


def hand_over(lab: Lab) -> None:
    """By hand, to serv2; it fails if it must."""
    lab.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=2 * LONG, check=False)


@pytest.mark.parametrize("step", RELEASE)
def test_of_the_holder_in_a_release(lab: Lab, step: str) -> None:
    with (
        fault(lab, f"power of the holder, at its {step}", "power, release") as day,
        at(lab, "serv1", step, lambda: lab.power_off("serv1"), after="release-began"),
    ):
        hand_over(lab)
        day.serves("serv2")


@pytest.mark.parametrize("step", RELEASE)
def test_of_the_successor_in_a_release(lab: Lab, step: str) -> None:
    with (
        fault(lab, f"power of the successor, at the holder's {step}", "power, release") as day,
        at(lab, "serv1", step, lambda: lab.power_off("serv2"), after="release-began"),
    ):
        hand_over(lab)
        day.serves("serv1")


@pytest.mark.parametrize("step", FOLLOW)
def test_of_the_successor_at_its_own_steps_of_a_release(lab: Lab, step: str) -> None:
    with (
        fault(lab, f"power of the successor, at its {step}", "power, release") as day,
        at(lab, "serv2", step, lambda: lab.power_off("serv2")),
    ):
        hand_over(lab)
        day.serves("serv1")
