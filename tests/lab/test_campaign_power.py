"""Campaign: the power is cut, at rest and at every step of a takeover, and in a pass."""

import pytest

from lab.campaign import AWAY_AND_BACK, at, fault
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import LONG, OTHER, SHARE, standby, wait_event, wait_standby

TAKEOVER = ("decided", "takeover-began", "address-up", "service-started", "takeover-served")


def test_of_the_holder(lab: Lab) -> None:
    with fault(lab, "power of the holder", "power", answers=AWAY_AND_BACK, strays=True) as day:
        lab.power_off("serv1")
        day.serves("serv2")
        day.writer.more()


def test_of_the_holder_and_back_at_once(lab: Lab) -> None:
    with fault(lab, "power of the holder, for a moment", "power") as day:
        lab.power_off("serv1")
        lab.power_on("serv1")
        day.writer.more()


def test_of_the_peer(lab: Lab) -> None:
    with fault(lab, "power of the other node", "power", answers=("serv1",)) as day:
        lab.power_off("serv2")
        day.serves("serv1")
        day.writer.more()


@pytest.mark.parametrize("first", [None, *NODES])
def test_of_both(lab: Lab, first: str | None) -> None:
    order = f"{first} returns first" if first else "both return at once"
    with fault(lab, f"power of both, {order}", "power") as day:
        for node in NODES:
            lab.power_off(node)
        if first:
            lab.power_on(first)
            day.serves(first, first)
            lab.power_on(OTHER[first])
        else:
            lab.power_on(*NODES)


@pytest.mark.parametrize("step", TAKEOVER)
def test_of_the_successor_in_a_takeover(lab: Lab, step: str) -> None:
    """Before its address is up the holder may be the one who serves next, and nothing is astray."""
    with (
        fault(lab, f"power of the successor, at its {step}", "power, takeover", strays=step in TAKEOVER[2:]),
        at(lab, "serv2", step, lambda: lab.power_off("serv2")),
    ):
        lab.power_off("serv1")


SLOW: dict[str, dict[str, str | None] | None] = {"smbd": {"mirror.bandwidth": "1500", "mirror.whole_file": "yes"}}


@pytest.mark.parametrize("dies", NODES)
def test_in_a_pass(lab: Lab, dies: str) -> None:
    who = {"serv1": "the sender", "serv2": "the receiver"}[dies]
    with fault(lab, f"power of {who}, in the middle of a pass", "power, pass", services=SLOW) as day:
        fill = f"mkdir -p {SHARE}/big; for n in $(seq 20); do head -c 300000 /dev/urandom >{SHARE}/big/$n; done"
        lab.sh("serv1", fill)
        coming = ["sh", "-c", f"find {SHARE}/big -name '.*' | grep -q ."]
        lab.wait_for(lambda: lab.run("serv2", coming, check=False).returncode == 0, LONG, "files on their way")
        lab.power_off(dies)
        day.serves(OTHER[dies])


def test_of_the_holder_and_its_successor_one_after_the_other(lab: Lab) -> None:
    """What serv1 had when it died is older than what serv2 wrote after that: serv1, back first, has to wait for it."""
    with fault(
        lab, "power of the holder, then of its successor; the holder returns first", "power", strays=True
    ) as day:
        cut = lab.power_off("serv1")
        day.serves("serv2")
        day.writer.more()
        lab.power_on("serv1")
        wait_standby(lab, "serv1")
        wait_event(lab, "serv1", "standby-entered", cut)
        for node in NODES:
            lab.power_off(node)
        lab.power_on("serv1")
        lab.wait_for(lambda: standby(lab, "serv1"), LONG, "serv1 to be in standby")
