"""takeover after a cut pass: what is served, what is not started, and what people are told."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clusterd import backups, generation, guards, ownership, passes
from clusterd.errors import NotPermitted
from clusterd.passes import Done, Unfinished
from unit.site import Site
from unit.site import made_site as made_site

pytest_plugins = ["lan"]


@pytest.fixture
def folder(site: Site) -> Path:
    """The files of `first`, which must be consistent; a pass from serv2 that replaced one and made one was cut."""
    made = site.mirror("first")
    configure(site, "yes")
    ownership.write(ownership.Record("serv1", 4, "serv2"))
    service = site.load().services["first"]
    listing = generation.make(service)
    set_id = backups.create("first", "serv2", 4)
    kept = Path(f"{backups.files_folder(set_id)}{made}")
    kept.mkdir(parents=True)
    (made / "letter").rename(kept / "letter")
    (made / "letter").write_text("newer than that")
    (made / "another").write_text("new")
    os.close(backups._held.pop(set_id))
    done = Done("serv2", 4, time.time() - 600, time.time() - 599, 1)
    cut = Unfinished("serv2", 4, time.time() - 1, set_id, listing=listing)
    passes.write(passes.Record("first", received=done, unfinished=cut))
    return made


def configure(site: Site, consistent: str) -> None:
    path = site.box.conf / "services" / "first.conf"
    text = "".join(line for line in path.read_text().splitlines(keepends=True) if "consistent" not in line)
    path.write_text(f"{text}consistent = {consistent}\n")


def events(site: Site, name: str) -> list[dict[str, Any]]:
    return [event for event in site.events() if event["event"] == name]


def test_rolled_back_started_and_told(site: Site, folder: Path) -> None:
    done = site.run("takeover", "serv1")
    assert done.returncode == 0, done.stderr
    assert site.running() == {"first", "second"}
    assert [each.name for each in folder.iterdir()] == ["letter"]
    assert (folder / "letter").read_text() == "as mirrored"
    (cut,) = events(site, "pass-cut")
    stamp = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - 600))
    assert cut["text"].startswith(f"first: the last pass to this node was cut; rolled back to the pass of {stamp[:-1]}")
    assert cut["text"].endswith(", complete")
    kept = backups.load(cut["set"])
    assert (kept.why, kept.entries) == ("rollback", 2)
    (told,) = events(site, "takeover-done")
    assert told["subject"] == "serv1"
    record = passes.read("first")
    assert record.unfinished and record.unfinished.served == passes.ROLLED_BACK
    (folder / "letter").write_text("written since")
    assert site.run("takeover", "--resume", "serv1").returncode == 0
    assert (folder / "letter").read_text() == "written since", "once is enough"


WRITES = """
import signal, subprocess, sys
from clusterd.lock import Lock

def end(*_):
    with open(sys.argv[1], "w") as file:
        subprocess.run(["ip", "-brief", "address"], stdout=file)
    sys.exit()

signal.signal(signal.SIGTERM, end)
held = Lock("apply-first").acquire()
print("writes", flush=True)
signal.pause()
"""
"""In the place of the rsync that receives: when it is told to end, it looks at this node's addresses."""


@pytest.mark.usefixtures("folder")
def test_nothing_writes_to_the_files_any_more_when_the_address_is_up(site: Site, tmp_path: Path) -> None:
    """A service that refused to stop would serve what is replaced below it."""
    seen = tmp_path / "seen"
    argv = [sys.executable, "-c", WRITES, str(seen)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True, env=site.box.env) as writer:
        assert writer.stdout and writer.stdout.readline() == b"writes\n"
        try:
            done = site.run("takeover", "serv1")
            assert done.returncode == 0, done.stderr
            assert writer.wait(10) == 0
        finally:
            writer.kill()
    assert " 10.1.0.1/" not in seen.read_text()
    assert " 10.1.0.11/" in seen.read_text() and site.up("serv1")


def test_what_cannot_be_rolled_back_is_not_started(site: Site, folder: Path) -> None:
    cut = passes.read("first").unfinished
    assert cut
    Path(f"{backups.files_folder(cut.set)}{folder}/letter").unlink()
    done = site.run("takeover", "serv1")
    assert done.returncode == 1
    assert site.running() == {"second"}, "the others are started"
    (failed,) = events(site, "service-failed")
    assert failed["subject"] == "first"
    assert "letter: its old content is in no backup set" in failed["text"]
    assert "takeover serv1 --resume" in failed["text"]
    assert events(site, "pass-cut") == []
    with pytest.raises(NotPermitted, match="is not rolled back yet: such files are not mirrored"):
        guards.check_settled(site.load().services["first"])
    configure(site, "no")
    done = site.run("takeover", "--resume", "serv1")
    assert done.returncode == 0, done.stderr
    assert site.running() == {"first", "second"}
    (told,) = events(site, "pass-cut")
    assert "the newest files are served: every file is whole, some are new, some old" in told["text"]
    configure(site, "yes")
    guards.check_settled(site.load().services["first"])
    assert (folder / "letter").read_text() == "newer than that"
