"""A pass cut at any moment or any byte leaves whole files only, is known as cut, and the next one completes it."""

import contextlib
import fcntl
import functools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clusterd import channel, mirror, sender
from clusterd.errors import Failed
from unit.site import wait
from unit.test_mirror import go, tree
from unit.twonodes import ROOT, Two
from unit.twonodes import two_nodes as two_nodes

FILES = 40
SIZE = 100_000
CUTS = int(os.environ.get("CUTS", "3"))
"""Places at which each conversation of a pass is cut, and about as many of its last bytes; CUTS=50: all of these."""


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
            "import json; from clusterd import config, endpass, paths;"
            "cut = endpass.settle(config.load(paths.CONF).services['data']); print(json.dumps(cut and cut._asdict()))"
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
        said = process.wait()
        cut = take_over(two)
        assert said or not cut, "complete here, and cut there"
        if not cut:
            assert tree(two.copy) == tree(two.data)
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


CUTTER = """\
# ssh, but that each connection of one kind ends after so many bytes in one direction.
import os, select, signal, sys

kind, way, left = open("{top}/cut").read().split()
ssh = ["/usr/bin/ssh", *sys.argv[1:]]
words = " ".join(ssh).split()
mine = "control" if "pass" in words else "plan" if "plan" in words else "files"
if mine != kind:
    os.execv(ssh[0], ssh)
there, here = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    os.dup2(there[0], 0)
    os.dup2(here[1], 1)
    os.execv(ssh[0], ssh)
os.close(there[0])
os.close(here[1])
left, counts = int(left), dict(to=0, back=0)
ways = {{0: ("to", there[1]), here[0]: ("back", 1)}}
while left and here[0] in ways:
    for fd in select.select(list(ways), [], [])[0]:
        name, other = ways[fd]
        size = min(1 << 16, left) if name == way else 1 << 16
        data = os.read(fd, size)
        try:
            at = 0
            while at < len(data):
                at += os.write(other, data[at:])
        except BrokenPipeError:
            data = b""
        if not data:
            os.close(other)
            del ways[fd]
        counts[name] += len(data)
        if name == way and data:
            left -= len(data)
            if not left:
                break
with open("{top}/counted", "w") as file:
    print(counts["to"], counts["back"], file=file)
if left:
    os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
# What has been sent so far arrives, and nothing after it. What the other end says from now on is lost.
if way == "back":
    os.kill(pid, signal.SIGKILL)
os._exit(255)
"""
ALL = 1 << 40
TAIL = 50
"""Bytes at the end of a conversation: the last words are said there. Of these, too, some are chosen."""


class Cutter:
    """Passes from one version to the next, over and over, whose connections can be cut."""

    def __init__(self, two: Two) -> None:
        self.two = two
        program = two.top / "bin" / "ssh"
        program.parent.mkdir()
        program.write_text(f"#!{sys.executable} -IS\n" + CUTTER.format(top=two.top))
        program.chmod(0o755)
        self.cut_after("none", "to", ALL)
        two.configure("consistent = yes\nmax_delete = 5", shell=f"{program} -p {two.port} -o HostName=127.0.0.1")
        data = two.data
        for name in ("changed", "large", "touched", "gone", "folder/gone"):
            (data / name).parent.mkdir(exist_ok=True)
            (data / name).write_text(f"{name} old " * 30)
        assert go(two).ok
        shutil.rmtree(data / "folder")
        (data / "gone").unlink()
        (data / "new").mkdir()
        for name in ("changed", "new/file", "new/other"):
            (data / name).write_text(f"{name} newer " * 40)
        (data / "large").write_bytes(os.urandom(20_000))
        (data / "touched").chmod(0o600)
        (data / "new" / "link").symlink_to("file")
        self.before, self.after = tree(two.copy), tree(two.data)
        self.folders = (two.copy, two.other / "state", two.node / "state" / "passes")
        for number, folder in enumerate(self.folders):
            self._copy(folder, two.top / f"base{number}")

    def cut_after(self, kind: str, way: str, size: int) -> None:
        (self.two.top / "cut").write_text(f"{kind} {way} {size}")

    def reset(self) -> None:
        """Both nodes are again as they were before any pass to the next version."""
        for number, folder in enumerate(self.folders):
            self._copy(self.two.top / f"base{number}", folder)

    def count(self, kind: str, way: str) -> int:
        """Bytes in that direction if nothing is cut."""
        self.cut_after(kind, way, ALL)
        assert go(self.two).ok
        assert tree(self.two.copy) == self.after
        to, back = map(int, (self.two.top / "counted").read_text().split())
        return to if way == "to" else back

    def go(self, kind: str, way: str, size: int) -> str:
        """A pass that is cut there: what has become of it, all being well."""
        self.reset()
        self.cut_after(kind, way, size)
        try:
            ok = go(self.two).ok
        except Failed:
            ok = False
        wait(lambda: not any(self._held(name) for name in ("receive-data", "apply-data")), 60)
        record, copy = self._record(), tree(self.two.copy)
        if record["unfinished"]:
            assert not ok
            assert record["unfinished"]["closed"]
            found = take_over(self.two)
            assert found and found["served"] == "rolled back"
            assert tree(self.two.copy) == self.before
            return "cut"
        if record["received"] == self.received:
            assert not ok
            assert copy == self.before
            return "not begun"
        assert copy == self.after
        return "complete"

    @functools.cached_property
    def received(self) -> Any:
        """The last complete pass, before any to the next version."""
        return json.loads((self.two.top / "base1" / "passes" / "data.json").read_text())["received"]

    def _record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.two.other / "state/passes/data.json").read_text())
        return found

    def _held(self, name: str) -> bool:
        with open(self.two.other / "run/locks" / name, encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        subprocess.run(["rsync", "-aHAX", "--delete", "--modify-window=-1", f"{source}/", f"{target}/"], check=True)


@pytest.mark.parametrize("way", ["to", "back"])
@pytest.mark.parametrize("kind", ["files", "control"])
def test_a_pass_cut_at_any_byte(two: Two, kind: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is complete, or has changed nothing, or is known as cut: then a takeover goes back to what was before."""
    monkeypatch.setattr(sender, "_LOOK", 0.05)
    monkeypatch.setattr(channel, "TICK", 3600.0)  # a slow machine would have more bytes to say
    cutter = Cutter(two)
    total = cutter.count(kind, way)
    sizes = {total * step // CUTS for step in range(1, CUTS + 1)}
    sizes |= set(range(total - 1, max(0, total - TAIL), -max(1, TAIL // max(2, CUTS - 1))))
    found = {size: cutter.go(kind, way, size) for size in sorted(sizes)}
    print(kind, way, total, found)
    # With all its bytes the files' session may be complete, the control channel's is.
    assert "cut" in found.values() and (kind == "files" or "complete" in found.values())
    assert all(size >= total - TAIL for size, end in found.items() if end == "complete" and kind == "files")


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


def test_a_folder_that_was_renamed_is_there_under_one_of_its_names(two: Two) -> None:
    """Its new files come into their place at the very end: until then the old ones stay."""
    two.configure("max_delete = 10\nbandwidth = 500\nwhole_file = yes")
    (two.data / "projects").mkdir()
    names = [f"plan{number}" for number in range(4)]
    for name in names:
        (two.data / "projects" / name).write_bytes(os.urandom(300_000))
    process = begin(two)
    process.wait()
    assert sorted(os.listdir(two.copy / "projects")) == names
    (two.data / "projects").rename(two.data / "archive")
    process = begin(two)
    assert open_set(two)
    wait(lambda: list(two.copy.glob("archive/.plan*")))
    kill_sender(two, process)
    process.wait()
    assert take_over(two)
    assert sorted(os.listdir(two.copy / "projects")) == names
    assert os.listdir(two.copy / "archive") == []
    assert go(two).ok
    assert tree(two.data) == tree(two.copy)


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
