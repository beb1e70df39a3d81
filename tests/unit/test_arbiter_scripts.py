"""takeover as a real process with an arbiter: what it waits for, and what it does when it waits in vain."""

import threading
import time
from collections.abc import Iterator

import pytest

from clusterd import arbiter, ownership, state, view
from clusterd.arbiter import Grants
from unit.site import Site
from unit.site import made_site as made_site

pytest_plugins = ["lan"]


class Steward(threading.Thread):
    """In its place: grants what a script asks for, and says no while it is told to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.deny = self.over = False
        self.asked: list[int] = []

    def run(self) -> None:
        while not self.over:
            mark = arbiter.asking("serv1")
            if mark and mark.epoch not in self.asked:
                self.asked.append(mark.epoch)
            granted = {"serv1": mark.token} if mark and not self.deny else {}
            others = {"serv1": ["serv2", view.now()]} if self.deny else {}
            arbiter.write(Grants(state.boot_id(), 1, view.now() + 60, granted, others, None, "", True))
            time.sleep(0.02)


@pytest.fixture(name="steward")
def made_steward(site: Site) -> Iterator[Steward]:
    site.configure(lease="10 seconds")
    site.box.edit(
        "cluster.conf", "kind = reference", "kind = etcd\nttl = 12 seconds\nendpoints = http://10.9.0.31:2379"
    )
    site.see()
    made = Steward()
    made.start()
    yield made
    made.over = True
    made.join()


def test_by_hand_it_asks_and_takes(site: Site, steward: Steward) -> None:
    done = site.run("takeover", "serv1")
    assert done.returncode == 0, done.stderr
    assert steward.asked and site.up("serv1")
    assert ownership.read("serv1").phase == ownership.HELD
    assert site.running() == {"first", "second"}


def test_handed_over_it_asks_and_takes(site: Site, steward: Steward) -> None:
    done = site.run("takeover", "serv1", "--on-go", "--handed-over", "6", stdin="go\n")
    assert done.returncode == 0, done.stderr
    assert (ownership.read("serv1").epoch, ownership.read("serv1").phase) == (7, ownership.HELD)
    assert steward.asked == [7]


def test_denied_it_takes_nothing_and_claims_nothing(site: Site, steward: Steward) -> None:
    steward.deny = True
    ownership.enter_standby(ownership.PROGRAM, "serv2 holds serv1")
    done = site.run("takeover", "serv1", "--on-go", "--handed-over", "6", stdin="go\n")
    assert done.returncode == 1
    assert "serv2 has serv1 in etcd: nothing is taken over" in done.stderr
    assert ownership.read("serv1").epoch == 0
    assert not site.up("serv1") and site.running() == set()
    assert ownership.standby(), "its cause is not gone"
