"""A pass cut at any moment leaves whole files only, is known as cut, and the next one completes it."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clusterd import mirror
from unit.site import wait
from unit.test_mirror import go, tree
from unit.twonodes import ROOT, Two
from unit.twonodes import two_nodes as two_nodes

FILES = 40
SIZE = 100_000


def content(number: int, version: int) -> bytes:
    return (f"{number} {version} ".encode() * SIZE)[:SIZE]


def write(two: Two, version: int) -> None:
    """A new version of every file; some are new, some go."""
    for number in range(FILES):
        (two.data / f"file{number}").write_bytes(content(number, version))
    (two.data / f"new{version}").write_bytes(content(FILES, version))
    (two.data / f"new{version - 1}").unlink(missing_ok=True)


def begin(two: Two) -> "subprocess.Popen[bytes]":
    """A pass on serv1, in a process group of its own."""
    argv = [sys.executable, f"{ROOT}/scripts/mirror_service", "--quiet", "data"]
    become = ["unshare", "--uts", "sh", "-c", 'hostname serv1 && exec "$@"', "sh"]
    return subprocess.Popen([*become, *argv], env={**os.environ, **two.env}, start_new_session=True)


def open_set(two: Two, timeout: float = 20) -> dict[str, Any] | None:
    """The pass that serv2 is receiving; waited for."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            record = json.loads((two.other / "state/passes/data.json").read_text())
        except FileNotFoundError:
            record = {"unfinished": None}
        if record["unfinished"] and not record["unfinished"]["closed"]:
            found: dict[str, Any] = record["unfinished"]
            return found
        time.sleep(0.005)
    return None


def kill_sender(_two: Two, process: "subprocess.Popen[bytes]") -> None:
    """serv1 loses power: all of its processes are gone at once."""
    send_all(process, signal.SIGKILL)


def send_all(process: "subprocess.Popen[bytes]", sent: signal.Signals) -> None:
    """A signal for the pass and its connections."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    for pid in (*map(int, children.stdout.split()), process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, sent)


def kill_receiver(two: Two, _process: "subprocess.Popen[bytes]") -> None:
    """The receiving rsync is killed."""
    holder = (two.other / "run/locks/apply-data").read_text().strip() if two.other.exists() else ""
    if holder:
        subprocess.run(["kill", "-9", "--", f"-{holder}"], check=False, capture_output=True)


def kill_gate(two: Two, _process: "subprocess.Popen[bytes]") -> None:
    """The gate's session is killed, and cannot tidy up."""
    holder = (two.other / "run/locks/receive-data").read_text().strip()
    subprocess.run(["kill", "-9", holder], check=False, capture_output=True)


def take_over(two: Two) -> dict[str, Any] | None:
    """What takeover does on serv2 before it starts the services; returns what it says of a cut pass."""
    found: dict[str, Any] | None = json.loads(
        two.there_python(
            "import json; from clusterd import config, paths, rollback;"
            "cut = rollback.settle(config.load(paths.CONF).services['data']); print(json.dumps(cut and cut._asdict()))"
        )
    )
    return found


def whole(two: Two, versions: tuple[int, int]) -> None:
    """Every file on serv2 is one of the two versions, and there is nothing else."""
    for each in two.copy.iterdir():
        if each.name.startswith("file"):
            assert each.read_bytes() in [content(int(each.name[4:]), version) for version in versions], each
        else:
            assert each.name in {"first", ".clusterd", *(f"new{version}" for version in versions)}, each


@pytest.mark.parametrize("kill", [kill_sender, kill_receiver, kill_gate])
def test_a_pass_cut_at_a_random_moment(two: Two, kill: Any) -> None:
    two.configure("max_delete = 5\nbandwidth = 4000\nwhole_file = yes")
    two.load()
    write(two, 0)
    assert go(two).ok
    write(two, 1)
    process = begin(two)
    assert open_set(two)
    took = time.monotonic()
    assert process.wait(60) == 0
    took = time.monotonic() - took
    chance = random.Random(kill.__name__)
    cuts = 0
    for version in range(2, 8):
        write(two, version)
        process = begin(two)
        opened = open_set(two)
        assert opened
        time.sleep(chance.random() * took)
        kill(two, process)
        process.wait()
        cut = take_over(two)
        record = json.loads((two.other / "state/passes/data.json").read_text())
        if cut:
            cuts += 1
            assert record["unfinished"]["closed"]
            assert cut["set"] in (opened["set"], "")
            freshness = "from clusterd import passes; print(passes.freshness('data')[1])"
            assert two.there_python(freshness).strip() == "True"
        whole(two, (version - 1, version))
        report = go(two)
        assert report.ok, report.problem
        assert tree(two.data) == tree(two.copy)
        assert not json.loads((two.other / "state/passes/data.json").read_text())["unfinished"]
        for manifest in (two.other / "state/backups").glob("*/manifest.json"):
            assert json.loads(manifest.read_text())["state"] in ("complete", "cut")
    assert cuts, "no pass was cut: the moments are chosen badly"


def test_a_sender_that_falls_silent_is_known_at_the_receiver(two: Two) -> None:
    """The network is gone in the middle of a pass: no connection ends, nothing comes."""
    write(two, 0)
    assert go(two).ok
    two.configure("max_delete = 5\nbandwidth = 500\nwhole_file = yes", timeout="4 seconds")
    write(two, 1)
    process = begin(two)
    assert open_set(two)
    wait(lambda: list(two.copy.glob(".*.??????")))
    send_all(process, signal.SIGSTOP)
    try:
        wait(lambda: json.loads((two.other / "state/passes/data.json").read_text())["unfinished"]["closed"], 30)
    finally:
        kill_sender(two, process)
        process.wait()
    whole(two, (0, 1))
    assert not list(two.copy.glob(".*.??????"))
    cut = take_over(two)
    assert cut and cut["served"] == "newest"
    events = [json.loads(line)["event"] for line in (two.other / "log/events.jsonl").read_text().splitlines()]
    assert "pass-interrupted" in events


def test_what_a_cut_pass_replaced_can_be_put_back(two: Two) -> None:
    names = [f"file{number}" for number in range(3000)]
    for name in names:
        (two.data / name).write_text("old")
    assert go(two).ok
    before = tree(two.copy)
    for name in names:
        (two.data / name).write_text("new and longer")
    process = begin(two)
    opened = open_set(two)
    assert opened
    # Once the first files are replaced: all of them are, one after the other, at the end of the pass.
    files = two.other / "state/backups" / opened["set"] / "files"
    end = time.monotonic() + 20
    while not list(files.rglob("file*")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    kill_receiver(two, process)
    process.wait()
    cut = take_over(two)
    assert cut, "the pass was complete before it could be cut"
    done = two.there(sys.executable, f"{ROOT}/scripts/restore_backup", "--all", "--force", cut["set"], check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    after = tree(two.copy)
    assert [name for name in before if name.startswith("file") and before[name] != after[name]] == []


def test_a_takeover_ends_a_pass_and_lets_none_in(two: Two) -> None:
    two.configure("max_delete = 5\nbandwidth = 1000\nwhole_file = yes")
    write(two, 0)
    settings = two.load()
    assert mirror.run_pass(settings._replace(services={}), settings.services["data"], settings.nodes["serv2"]).ok
    write(two, 1)
    process = begin(two)
    assert open_set(two)
    time.sleep(0.3)
    began = time.monotonic()
    two.there_python("from clusterd import ownership; ownership.enter('serv1', 2, ownership.ACQUIRING)")
    cut = take_over(two)
    assert cut
    assert time.monotonic() - began < 10
    before = tree(two.copy)
    assert process.wait(30) != 0
    whole(two, (0, 1))
    again = begin(two)
    assert again.wait(30) != 0
    assert tree(two.copy) == before
    sets = [each.name for each in Path(two.other / "state/backups").iterdir() if not each.name.startswith(".")]
    assert sets == ([cut["set"]] if cut["set"] else [])
