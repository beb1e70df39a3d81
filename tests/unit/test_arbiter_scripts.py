"""takeover as a real process with an arbiter: what it waits for, and what it does when it waits in vain."""

import threading
import time
from collections.abc import Iterator

import pytest

from clusterd import arbiter, lock, ownership, state, view
from clusterd.arbiter import Grants
from unit.site import Site, wait
from unit.site import made_site as made_site

pytest_plugins = ["lan"]


class Steward(threading.Thread):
    """In its place: grants what a script asks for, and says no while it is told to."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.deny = self.over = self.lost = False
        self.asked: list[int] = []

    def run(self) -> None:
        while not self.over:
            mark = arbiter.asking("serv1")
            if mark and mark.epoch not in self.asked:
                self.asked.append(mark.epoch)
            granted = {"serv1": mark.token} if mark and not self.deny else {}
            others = {"serv1": ["serv2", view.now()]} if self.deny else {}
            if not self.lost:  # what it wrote last looks good for a while
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


@pytest.mark.parametrize("words", [(), ("--on-go",)])
def test_who_has_lost_etcd_switches_nobody_off(site: Site, steward: Steward, words: tuple[str, ...]) -> None:
    """It was cut off from both at once: its peer, which etcd answers, is well, and nothing could be taken from it."""
    agent(site)
    steward.lost = True
    done = site.run("takeover", "serv1", *words, stdin="epoch 3\nwhy serv2 is dead\nunheard serv2\ngo\n")
    assert done.returncode == 3
    assert "the arbiter, etcd, does not answer serv1: serv2 is not switched off, nothing is taken" in done.stderr
    assert site.journal() == [] and ownership.read("serv1").epoch == 0


@pytest.mark.parametrize("words", [(), ("--on-go",)])
def test_who_is_heard_again_while_etcd_is_asked_is_not_switched_off(
    site: Site, steward: Steward, words: tuple[str, ...]
) -> None:
    agent(site)
    steward.lost = True
    process = site.start("takeover", "serv1", *words)
    assert process.stdin
    process.stdin.write("epoch 3\nwhy serv2 is dead\nunheard serv2\ngo\n")
    process.stdin.flush()
    wait(lambda: lock.held("group-serv1"))
    time.sleep(1)
    site.see()
    steward.lost = False
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (75, "takeover: serv2: heard again, not fenced\n")
    assert site.journal() == [] and ownership.read("serv1").epoch == 0


def test_who_has_etcd_fences_and_takes(site: Site, steward: Steward) -> None:
    agent(site)
    done = site.run("takeover", "serv1")
    assert done.returncode == 0, done.stderr
    assert site.journal()[:2] == ["fence off", "fence status"] and site.up("serv1")


def agent(site: Site) -> None:
    """What can switch serv2 off, which is not heard."""
    text = f'action=$(sed -n s/^action=//p); echo "fence $action" >> {site.root}/journal; [ $action = off ] || exit 2'
    site.box.program("fence_test", text)
    site.box.edit("cluster.conf", "agent = none", "agent = fence_test")
    site.see(heard=False)
