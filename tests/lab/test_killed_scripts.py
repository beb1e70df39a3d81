"""Scripts killed at any step, and passes cut by a power cut: the pair settles, and no file is half written."""

import json
import random
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import (
    ADDRESS,
    LONG,
    OTHER,
    SHARE,
    Writer,
    come_home,
    events,
    get,
    mirror,
    must,
    pids,
    serves,
    wait_home,
    wait_serves,
    wait_told,
    watching,
)

KILLER = r"""
import os, re, signal, sys, time
program, event, delay = sys.argv[1], sys.argv[2], float(sys.argv[3])
log = "/var/log/clusterd/events.jsonl"
start, end = os.path.getsize(log), time.monotonic() + 40
print("ready", flush=True)
while event and time.monotonic() < end:
    with open(log) as file:
        file.seek(start)
        if f'"event": "{event}"' in file.read():
            break
    time.sleep(0.002)
time.sleep(delay)
killed = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            words = file.read().split("\0")
        if len(words) > 1 and words[1].endswith(f"/{program}"):
            os.kill(int(pid), signal.SIGKILL)
            killed += 1
    except OSError:
        pass
print(killed)
"""
"""Runs on a node: waits for the next event of that name, a moment longer, and kills every process of the script."""


@contextmanager
def killer(lab: Lab, node: str, program: str, event: str, delay: float = 0) -> Iterator[list[int]]:
    """Has `program` killed on the node as soon as it logs the event; the list then says how many processes."""
    argv = ["python3", "-c", KILLER, program, event, str(delay)]
    killed: list[int] = []
    process = subprocess.Popen(lab.argv(node, argv), stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    yield killed
    out, _ = process.communicate(timeout=60)
    killed.append(int(out))


def holder(lab: Lab, group: str) -> str:
    """The one node that serves the group, nothing being under way; "" if there is none, or more than one claims it."""
    views = {node: lab.view(node) for node in NODES}
    claims = [node for node, view in views.items() if view and view["groups"][group]["held"]]
    return claims[0] if len(claims) == 1 and serves(lab, claims[0], group) else ""


def settles(lab: Lab) -> str:
    """Wait until each group is served by one node and, half a second later, still or again by the same, and no script
    runs; who serves serv1's.
    """
    found: list[str] = []

    def settled() -> bool:
        running = [pid for node in NODES for name in ("release", "takeover") for pid in pids(lab, node, name)]
        found[:] = [holder(lab, group) for group in NODES]
        return not running and all(found)

    def twice() -> bool:
        if not settled():
            return False
        before = list(found)
        sleep(0.5)
        return settled() and found == before

    lab.wait_for(twice, LONG, "each group to be served by one node")
    return found[0]


def release(lab: Lab, check: bool = False) -> None:
    """Hand serv1's group to the node that has not got it."""
    source = settles(lab)
    lab.run(source, ["release", "serv1", "--to", OTHER[source]], timeout=120, check=check)


def home_again(lab: Lab) -> None:
    """Bring serv1's group home by hand: the script that was killed, run again, finishes."""
    if settles(lab) != "serv1":
        release(lab, check=True)
    wait_home(lab)


# --- release and takeover --------------------------------------------------------------------------------------------


def test_release_killed_between_its_steps_and_at_random_moments(home: Lab) -> None:
    chance = random.Random(4711)
    with watching(home), Writer(home, "kill") as writer:
        for event in ("release-began", "service-stopped", "handed-over"):
            with killer(home, settles(home), "release", event) as killed:
                release(home)
            assert killed[0] >= 1, event  # one more is a child of its own that was just being started
        for _ in range(4):
            with killer(home, settles(home), "release", "release-began", chance.uniform(0, 3)):
                release(home)
        home_again(home)
        writer.more()
    writer.lost_nothing("serv1")


@pytest.mark.parametrize("event", ["takeover-began", "address-up", "service-started"])
def test_the_successors_takeover_killed_in_the_middle_of_a_release(home: Lab, event: str) -> None:
    with watching(home):
        with killer(home, "serv2", "takeover", event) as killed:
            release(home)
        assert killed[0] >= 1
        home_again(home)


def test_the_watchdogs_takeover_killed_at_each_step_is_finished(home: Lab) -> None:
    with watching(home):
        with (
            killer(home, "serv2", "takeover", "takeover-began"),
            killer(home, "serv2", "takeover", "address-up", 0.02),
            killer(home, "serv2", "takeover", "service-started", 0.01),
        ):
            cut = home.power_off("serv1")
        wait_serves(home, "serv2", "serv1", "serv2")
        assert events(home, "serv2", cut, "takeover-served")
        assert home.sh("client", f"curl -s http://{ADDRESS['serv1']}/node").strip() == "serv2"
        home.power_on("serv1")
        wait_home(home)


def test_takeover_by_hand_killed_at_random_moments_leaves_what_is_held(home: Lab) -> None:
    chance = random.Random(815)
    with watching(home):
        for _ in range(4):
            with killer(home, "serv1", "takeover", "takeover-began", chance.uniform(0, 0.3)):
                home.run("serv1", ["takeover", "--resume", "serv1"], check=False)
        assert settles(home) == "serv1"
        assert home.run("serv1", ["takeover", "--resume", "serv1"], check=False).returncode == 0
        wait_home(home)


# --- a pass cut by a power cut ---------------------------------------------------------------------------------------

SLOW: dict[str, dict[str, str | None] | None] = {"smbd": {"mirror.bandwidth": "600", "mirror.whole_file": "yes"}}
SIZE = 200_000
COUNT = 50


def fill(lab: Lab, letter: str) -> None:
    """Write all files of the share's folder "cut" anew."""
    text = f"mkdir -p {SHARE}/cut; for n in $(seq {COUNT}); do head -c {SIZE} /dev/zero | tr '\\0' {letter} "
    lab.sh("serv1", text + f">{SHARE}/cut/$n; done")


def versions(lab: Lab, node: str) -> set[str]:
    """What is in these files: the letters, each of them all through a whole file of the right size."""
    found = set()
    for file in lab.path(node, f"{SHARE}/cut").glob("[0-9]*"):
        content = file.read_text()
        must(content == content[0] * SIZE, f"{file}: half written")
        found.add(content[0])
    return found


def passes(lab: Lab, node: str) -> dict[str, object]:
    """What the node remembers of the passes of smbd."""
    return dict(json.loads(lab.text(node, "/var/lib/clusterd/passes/smbd.json") or "{}"))


@contextmanager
def under_way(lab: Lab) -> Iterator[None]:
    """A pass from serv1 to serv2 that has begun to send files, and takes some seconds more."""
    argv = lab.argv("serv1", ["mirror_service", "smbd"])
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        temporary = f"find {SHARE}/cut -name '.*' | grep -q ."
        lab.wait_for(lambda: lab.run("serv2", ["sh", "-c", temporary], check=False).returncode == 0, LONG, "a file")
        sleep(0.5)
        assert process.poll() is None
        yield
        process.wait(LONG)
    assert process.returncode != 0


@pytest.fixture
def slow(lab: Lab) -> Lab:
    """The pair with passes that take some seconds, and files of version a on both nodes."""
    come_home(lab, services=SLOW)
    fill(lab, "a")
    mirror(lab, "serv1", "smbd")
    assert versions(lab, "serv2") == {"a"}
    fill(lab, "b")
    return lab


def test_the_receivers_power_is_cut_in_the_middle_of_a_pass(slow: Lab) -> None:
    with under_way(slow):
        slow.power_off("serv2")
    slow.power_on("serv2")
    assert versions(slow, "serv2") <= {"a", "b"}
    assert passes(slow, "serv2")["unfinished"], "it is known that the pass was cut"
    wait_home(slow)
    mirror(slow, "serv1", "smbd")
    assert versions(slow, "serv2") == {"b"}
    assert not passes(slow, "serv2")["unfinished"]
    assert slow.sh("serv2", f"find {SHARE} -name '.*' -not -name .clusterd").split() == []


def test_the_senders_power_is_cut_in_the_middle_of_a_pass(slow: Lab) -> None:
    fill(slow, "c")
    cut = monotonic()
    with under_way(slow):
        slow.power_off("serv1")
    wait_serves(slow, "serv2", "serv1", "serv2")
    assert versions(slow, "serv2") <= {"a", "b", "c"}
    assert slow.sh("serv2", f"find {SHARE} -name '.*' -not -name .clusterd").split() == []
    (event,) = events(slow, "serv2", cut, "pass-cut")
    wait_told(slow, event["text"])
    assert get(slow, "readme.txt") == "the office's files\n"
    slow.power_on("serv1")
    wait_home(slow, 2 * LONG)
    assert versions(slow, "serv1") == versions(slow, "serv2")
