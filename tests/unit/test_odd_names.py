"""Whatever a user calls a file: through a pass, lists, a restore, the way back and a roll back; and terminals."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from clusterd import notify, paths
from unit.randomtree import NAMES, differences, look
from unit.site import wait
from unit.test_mirror import go, sets
from unit.test_receiver import begin, kill_receiver, kill_sender, open_set
from unit.twonodes import ROOT, Two
from unit.twonodes import two_nodes as two_nodes

ESC = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""What no line for people may have."""


def path(folder: Path, name: bytes) -> Path:
    return folder / os.fsdecode(name)


def on_serv2(two: Two, script: str, *words: str | bytes) -> str:
    """What the script prints there; arguments are bytes, as from a shell."""
    done = two.there(sys.executable, f"{ROOT}/scripts/{script}", *words, check=False)  # type: ignore[arg-type]
    assert done.returncode == 0, done.stderr
    assert not ESC.search(done.stdout + done.stderr), "nothing of a name gets through to the terminal"
    return done.stdout


def test_from_the_pass_to_the_restore_by_name(two: Two) -> None:
    two.configure("max_delete = 100 %\nexclude = *.~tmp, /[e]x clu\\\\ded*/", mail='""')
    deep = two.data / "/".join([f"{number:02d}" * 50 for number in range(12)])
    deep.mkdir(parents=True)
    for folder in (two.data, deep):
        for name in NAMES:
            path(folder, name).write_text(f"old {name!r}")
    (two.data / "ex clu\\ded\n").mkdir()
    (two.data / "ex clu\\ded\n" / "x").write_text("x")
    assert go(two).ok
    mirrored = look(two.data)
    excluded = [name for name in mirrored if name.startswith("ex clu")]
    assert len(excluded) == 2
    for each in excluded:
        del mirrored[each]
    found = look(two.copy)
    assert differences({**mirrored, ".": ()}, {**found, ".": ()}) == {}
    for number, name in enumerate(NAMES):
        for folder in (two.data, deep):
            if number % 2:
                path(folder, name).write_text(f"newer {name!r}")
            else:
                path(folder, name).unlink()
    report = go(two)
    assert report.ok, report.problem
    assert report.backup_set
    kept = sets(two)
    assert {os.fsencode(os.path.basename(name)) for name in kept} == set(NAMES)
    assert len(kept) == 2 * len(NAMES)
    shown = on_serv2(two, "purge_backups", "--show", report.backup_set)
    assert len(shown.splitlines()) == 2 * len(NAMES)
    (listed,) = json.loads(on_serv2(two, "purge_backups", "--json", "--show", report.backup_set))
    assert sorted(entry["path"] for entry in listed["files"]) == sorted(
        str(path(folder, name)) for folder in (two.data, deep) for name in NAMES
    )
    on_serv2(two, "restore_backup", "--dry-run", "--force", report.backup_set, "--all")
    for name in NAMES:
        words = [os.fsencode(path(folder, name)) for folder in (two.data, deep)]
        on_serv2(two, "restore_backup", "--force", report.backup_set, *words)
    now = look(two.copy)
    assert differences({name: entry for name, entry in mirrored.items() if not entry[0].startswith("0o4")}, {
        name: entry for name, entry in now.items() if not entry[0].startswith("0o4")
    }) == {}  # fmt: skip


def test_on_the_way_back_they_are_found_and_listed(two: Two) -> None:
    for number in range(300):
        (two.data / f"file{number}").write_text("x")
    assert go(two).ok
    # serv2 has been the holder meanwhile: what was written there was never mirrored.
    two.there_python(
        "import time; from clusterd import passes; from clusterd.passes import Held;"
        "passes.write(passes.read('data')._replace(held=Held(1, time.time())))"
    )
    two.hold(2)
    for name in NAMES:
        path(two.copy, name).write_text("only there")
    shown = two.script("mirror_service", "-v", "data")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("only serv2 had: ") == len(NAMES)
    assert not ESC.search(shown.stdout)
    events = [json.loads(line) for line in (two.node / "log/events.jsonl").read_text().splitlines()]
    (found,) = [event for event in events if event["event"] == "unmirrored-found"]
    assert sorted(os.fsencode(os.path.basename(name)) for name in found["files"]) == sorted(NAMES)
    assert {os.fsencode(name) for name, entry in sets(two).items() if entry["unmirrored"]} == set(NAMES)


@pytest.mark.parametrize("kill", [kill_sender, kill_receiver])
def test_a_cut_pass_is_rolled_back(two: Two, kill: object) -> None:
    two.configure("max_delete = 100 %\nconsistent = yes\nbandwidth = 2000\nwhole_file = yes")
    for name in NAMES:
        path(two.data, name).write_bytes(os.urandom(20_000))
    assert go(two).ok
    before = look(two.copy)
    for name in NAMES[::2]:
        path(two.data, name).write_bytes(os.urandom(30_000))
    for name in NAMES[1::2]:
        path(two.data, name).rename(path(two.data, b"new" + name[:200]))
    (two.data / "first").chmod(0o600)
    for number in range(60):
        (two.data / f"more{number}").write_bytes(os.urandom(100_000))
    process = begin(two)
    assert open_set(two)
    wait((two.copy / paths.PARTIAL).exists)
    kill(two, process)  # type: ignore[operator]
    process.wait()
    code = (
        "import json; from clusterd import config, endpass, paths;"
        "print(json.dumps(endpass.settle(config.load(paths.CONF).services['data'])._asdict()))"
    )
    done = json.loads(two.there_python(code))
    assert done["served"] == "rolled back"
    assert differences(before, look(two.copy)) == {}


def test_a_notice_is_lines_that_no_name_can_forge() -> None:
    names = [os.fsdecode(name) for name in NAMES]
    body = notify.compose("unmirrored-found", "text", "", "", "", {"files": names, "set": "a\x1b[2Jb\nnotice: c"})
    assert not ESC.search(body)
    assert body.encode()
    assert body.count("\nnotice: ") == 1
    assert "  two\\nlines\n" in body
