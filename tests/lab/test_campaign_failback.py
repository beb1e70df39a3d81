"""Campaign: the power is cut at every step of a failback."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

import pytest

from lab.campaign import AWAY_AND_BACK, FOLLOW, RELEASE, Day, at, fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import LONG, standby


@contextmanager
def away(day: Day) -> Iterator[None]:
    """serv1 was dead, and is on its way back; the block happens while its group goes home."""
    day.lab.power_off("serv1")
    day.serves("serv2")
    day.writer.more()
    day.lab.power_on("serv1")
    with_standby = lambda: standby(day.lab, "serv1")  # noqa: E731 read once
    day.lab.wait_for(with_standby, LONG, "serv1 to be in standby")
    yield


@pytest.mark.parametrize("step", RELEASE)
@pytest.mark.parametrize("dies", NODES)
def test_in_a_failback(lab: Lab, step: str, dies: str) -> None:
    who = {"serv1": "the node that has returned", "serv2": "the holder"}[dies]
    with fault(lab, f"power of {who}, at the holder's {step}", "power, failback", moves=4) as day, away(day):
        with at(lab, "serv2", step, lambda: lab.power_off(dies), after="release-began"):
            pass
        if dies == "serv1":
            day.serves("serv2")
        else:
            sleep(1)  # serv1 may be in standby still, and then takes nothing


@pytest.mark.parametrize("step", FOLLOW)
def test_of_the_node_that_has_returned_at_its_own_steps_of_a_failback(lab: Lab, step: str) -> None:
    with (
        fault(lab, f"power of the node that has returned, at its {step}", "power, failback", moves=4) as day,
        away(day),
    ):
        with at(lab, "serv1", step, lambda: lab.power_off("serv1")):
            pass
        day.serves("serv2")


def test_of_the_node_that_has_returned_in_standby(lab: Lab) -> None:
    with fault(lab, "power of the node that has returned, in standby", "power, failback", answers=AWAY_AND_BACK) as day:
        with away(day):
            lab.power_off("serv1")
        day.serves("serv2")
