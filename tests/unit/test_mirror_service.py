"""The script: its options, exit codes and output; --due; hooks; what a person is told."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import lock, ownership, passes, paths, state, view
from clusterd.commands import mirror_service
from unit.test_mirror import fill, kept, tree
from unit.twonodes import Two
from unit.twonodes import two_nodes as two_nodes

if TYPE_CHECKING:
    from unit.conftest import Box


FULL = """
if os.uname().nodename == "serv1":
    def full(fd):
        raise OSError(28, "No space left on device")

    os.fsync = full
"""


PEAK = """
from clusterd.commands import mirror_service
assert mirror_service.main(["data"]) == 0
print(*(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")))
"""


def run(two: Two, *words: str) -> "subprocess.CompletedProcess[str]":
    return two.script("mirror_service", *words)


def events(two: Two, name: str) -> list[dict[str, Any]]:
    try:
        lines = (two.node / "log/events.jsonl").read_text().splitlines()
    except FileNotFoundError:
        return []
    return [event for event in map(json.loads, lines) if event["event"] == name]


def test_a_pass_is_quiet_and_verbose_tells(two: Two) -> None:
    first = run(two, "data")
    assert (first.returncode, first.stdout, first.stderr) == (0, "", "")
    assert tree(two.data) == tree(two.copy)
    (two.data / "first").write_text("new")
    second = run(two, "-v", "data")
    assert second.stdout.startswith("data to serv2: 1 changed, 0 deleted, the old ones are kept on serv2 in 2")
    third = run(two, "--json", "data")
    [answer] = json.loads(third.stdout)
    assert (answer["ok"], answer["changed"], answer["backup_set"]) == (True, 0, None)


def test_dry_run_shows_the_plan_and_does_nothing(two: Two) -> None:
    fill(two, 3)
    (two.data / "file0").write_text("changed")
    (two.data / "file1").unlink()
    (two.data / "two\nlines").write_text("x")
    (two.data / "file2").chmod(0o600)
    before = tree(two.copy)
    began = passes.started("data")
    shown = run(two, "--dry-run", "data")
    assert shown.returncode == 0, shown.stderr
    assert set(shown.stdout.splitlines()) == {
        f"would replace: {two.data}/file0",
        f"would delete: {two.data}/file1",
        f"would create: {two.data}/two\\nlines",
        f"would set attributes of: {two.data}/file2",
        f"would set attributes of: {two.data}",
    }
    assert tree(two.copy) == before
    assert list((two.other / "state/backups").iterdir()) == []
    assert passes.started("data") == began, "it does not put off the next pass"
    (two.data / "file0").unlink()
    refused = run(two, "--dry-run", "data")
    assert refused.returncode == 1
    assert f"would delete: {two.data}/file0" in refused.stdout
    assert "2 files would be deleted" in refused.stderr


def test_wrong_words(two: Two) -> None:
    for words in ([], ["nothing"], ["--due", "data"], ["--max-delete", "x", "data"], ["--max-delete", "101 %", "data"]):
        done = run(two, *words)
        assert done.returncode == 2, words
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_exit_codes(two: Two) -> None:
    fill(two)
    ownership.enter("serv1", 1, ownership.FREE)
    done = run(two, "--json", "data")
    assert done.returncode == 77
    assert json.loads(done.stdout)[0]["exit"] == 77
    ownership.enter("serv1", 1, ownership.HELD)
    (two.data / paths.SENTINEL).unlink()
    done = run(two, "data")
    assert done.returncode == 1
    assert done.stderr.startswith("mirror_service: data: ")
    assert len(done.stderr.splitlines()) == 1
    accepted = run(two, "--accept-mounts", "data")
    assert accepted.returncode == 0, accepted.stderr
    assert run(two, "data").returncode == 0
    assert (two.data / paths.SENTINEL).exists()


def test_hooks(two: Two) -> None:
    (two.node / "hook").write_text(
        f'#!/bin/sh\necho "$1 $CLUSTERD_SERVICE $CLUSTERD_PEER" >> {two.top}/hooks\nexit $2\n'
    )
    (two.node / "hook").chmod(0o755)
    two.configure(f"before = {two.node}/hook, before, 0\nafter = {two.node}/hook, after, 0")
    assert run(two, "data").returncode == 0
    assert (two.top / "hooks").read_text() == "before data serv2\nafter data serv2\n"
    (two.data / "first").write_text("changed")
    before = view.now()
    two.configure(f"before = {two.node}/hook, before, 3\nafter = {two.node}/hook, after, 0")
    failed = run(two, "data")
    assert failed.returncode == 1
    assert "the hook failed" in failed.stderr
    assert (passes.started("data") or 0) > before, "it is tried again when the next pass is due"
    assert (two.copy / "first").read_text() == "first"
    two.configure(f"after = {two.node}/hook, after, 3")
    assert run(two, "data").returncode == 0, "the pass is complete all the same"
    assert len(events(two, "hook-failed")) == 1


def test_what_a_hook_says_is_in_a_file_of_its_last_run(two: Two) -> None:
    said = two.node / "log/hooks/data.before"
    (two.node / "hook").write_text("#!/bin/sh\nyes | head -c 50000000\necho the disk >&2\necho is full >&2\nexit $1\n")
    (two.node / "hook").chmod(0o755)
    two.configure(f"before = {two.node}/hook, 3")
    failed = run(two, "data")
    assert failed.stderr == f"mirror_service: data: the hook failed: {two.node}/hook 3: exit 3: is full\n"
    two.configure(f"before = {two.node}/hook, 0")
    usage = ["unshare", "--uts", "sh", "-c", 'hostname serv1 && exec "$@"', "sh", sys.executable, "-c", PEAK]
    done = subprocess.run(usage, env={**os.environ, **two.env}, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 80_000, "KiB; the 50 MB are not among them"
    assert said.stat().st_size == 50_000_000 + len("the disk\nis full\n")
    assert said.stat().st_mode & 0o777 == 0o640
    two.configure(f"before = /bin/echo, ready\nafter = {two.node}/hook, 1")
    assert run(two, "--dry-run", "data").returncode == 0
    assert said.stat().st_size > 50_000_000
    assert run(two, "data").returncode == 0
    assert said.read_text() == "ready\n"
    assert events(two, "hook-failed")[0]["text"].endswith("exit 1: is full")


def test_due(two: Two) -> None:
    assert run(two, "--due").returncode == 0
    assert tree(two.data) == tree(two.copy)
    began = passes.started("data")
    assert began
    assert run(two, "--due").returncode == 0
    assert passes.started("data") == began, "not yet"
    state.write(f"{paths.STARTED}/data.json", {"since_boot": began - 301}, durable=False)
    run(two, "--due")
    assert (passes.started("data") or 0) > began
    state.write(f"{paths.STARTED}/data.json", {"began": time.time()}, durable=False)
    run(two, "--due")
    assert passes.started("data"), "what an earlier version noted says nothing"
    (two.node / "run/passes/data.json").unlink()
    ownership.enter("serv1", 1, ownership.FREE)
    nothing = run(two, "--due")
    assert (nothing.returncode, nothing.stdout, nothing.stderr) == (0, "", "")
    assert not (two.node / "run/passes/data.json").exists()


def test_due_delivers_what_is_spooled_in_standby_too(pair_files: "Box") -> None:
    page = pair_files.program("page", f"cat > {pair_files.root}/paged")
    pair_files.edit("cluster.conf", "# command = /usr/local/bin/page-me, --urgent", f"command = {page}")
    message = {"event": {"event": "fenced"}, "title": "a title", "body": "a text", "told_by": ["mail"], "tries": 1}
    spooled = f"{paths.NOTICES}/{time.time_ns():020d}-1.json"
    state.write(spooled, message)
    ownership.enter_standby(ownership.PERSON, "new disk")
    done = pair_files.script("mirror_service", "--due")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    end = time.monotonic() + 20
    while Path(spooled).exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert json.loads((pair_files.root / "paged").read_text())["title"] == "a title"


def test_due_leaves_a_bad_configuration_to_the_watchdog_to_tell(
    pair_files: "Box", capsys: pytest.CaptureFixture[str]
) -> None:
    """It would be a line a minute, which cron mails. Without a watchdog nobody else says it."""
    pair_files.edit("cluster.conf", "port = 694", "port = 0")

    def said(*words: str) -> str:
        assert mirror_service.main(["--config", str(pair_files.conf), *words]) == 78
        return capsys.readouterr().err

    assert "port" in said("--due")
    with lock.Lock("watchdog"):
        assert said("--due") == said("--quiet", "smbd") == ""
        assert "port" in said("smbd") and "port" in said("--due", "--json") and "port" in said("--due", "-v")


def due(two: Two) -> None:
    Path(paths.STARTED, "data.json").unlink(missing_ok=True)
    done = run(two, "--due")
    assert (done.stdout, done.stderr) == ("", "")


def test_a_person_is_told_once(two: Two) -> None:
    fill(two)
    for number in range(10):
        (two.data / f"file{number}").unlink()
    due(two)
    due(two)
    (two.data / "file11").unlink()
    due(two)
    [told] = events(two, "pass-refused")
    assert "10 files would be deleted" in told["text"]
    assert run(two, "--max-delete", "11", "data").returncode == 0
    assert len(events(two, "pass-well-again")) == 1
    for number in range(12, 22):
        (two.data / f"file{number}").unlink()
    due(two)
    assert len(events(two, "pass-refused")) == 2


def test_a_disk_that_takes_no_record_is_told_once(two: Two) -> None:
    """No line on stderr: cron would mail it every minute."""
    fill(two)
    patched = two.top / "site" / "sitecustomize.py"
    whole = patched.read_text()
    patched.write_text(f"{whole}\n{FULL}")
    due(two)
    due(two)
    [told] = events(two, "pass-refused")
    assert told["text"].startswith(f"data: {two.node}/state/")
    assert told["text"].endswith(": No space left on device")
    shown = run(two, "data")
    assert (shown.returncode, shown.stderr) == (1, f"mirror_service: {told['text']}\n")
    patched.write_text(whole)
    due(two)
    assert len(events(two, "pass-well-again")) == 1
    patched.write_text(f"{whole}\n{FULL}")
    due(two)
    assert len(events(two, "pass-refused")) == 2


def test_a_peer_that_is_down_is_an_event_and_no_notice(two: Two) -> None:
    fill(two)
    two.disconnect()
    assert two.sshd
    two.sshd.kill()
    two.sshd.wait()
    due(two)
    due(two)
    assert len(events(two, "pass-impossible")) == 1
    assert events(two, "pass-refused") == events(two, "pass-failed") == []
    two.start_sshd()
    due(two)
    assert len(events(two, "pass-well-again")) == 1


def test_several_services_at_once(two: Two) -> None:
    for name in ("one", "two", "three"):
        folder = two.node / name
        folder.mkdir()
        (folder / "x").write_text(name)
        for node in (two.node, two.other):
            (node / "conf/services" / f"{name}.conf").write_text(
                f"home = serv1\n[run]\nkind = none\n[mirror]\nevery = 1 minute\npaths = {folder}/\n"
            )
    assert run(two, "--due").returncode == 0
    for name in ("one", "two", "three"):
        assert (two.other / name / "x").read_text() == name


@pytest.mark.parametrize("moment", ["looks", "sends"])
def test_files_that_vanish(two: Two, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for rsync says 24 twice; whether the pass is complete depends on whether the files are really gone."""
    fill(two)
    (two.data / "file1").write_text("changed")
    stand_in = two.node / "bin" / "rsync"
    stand_in.parent.mkdir()
    when = "dry-run" if moment == "looks" else "backup-dir"
    stand_in.write_text(
        f'#!/bin/sh\n/usr/bin/rsync "$@" || exit\n'
        f'case "$*" in *--{when}*) echo \'file has vanished: "{two.data}/gone"\' >&2; exit 24;; esac\n'
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    done = run(two, "-v", "data")
    assert done.returncode == 0, done.stderr
    if moment == "sends":
        assert "1 files were deleted here meanwhile" in done.stdout
        (two.data / "file1").write_text("changed again")
        (two.data / "gone").write_text("it is here after all")
        time.sleep(2 * passes.TICK)
        done = run(two, "data")
        assert done.returncode == 1
        assert "vanished" in done.stderr


def test_what_changes_while_files_vanish_does_not_replace_what_was_kept(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run of the same pass would put the version of the first one into the set, in place of the old one."""
    fill(two)
    (two.data / "file1").write_text("a newer one")
    stand_in = two.node / "bin" / "rsync"
    stand_in.parent.mkdir()
    stand_in.write_text(
        f'#!/bin/sh\n/usr/bin/rsync "$@" || exit\n'
        f'case "$*" in *--backup-dir*) echo "the newest of all" >{two.data}/file1\n'
        f"echo 'directory has vanished: \"{two.data}/gone\"' >&2; exit 24;; esac\n"
    )
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:/usr/sbin:/usr/bin:/sbin:/bin")
    done = run(two, "data")
    assert done.returncode == 0, done.stderr
    assert (two.copy / "file1").read_text() == "a newer one"
    assert kept(two, "file1") == "1"


def test_progress(two: Two) -> None:
    two.configure("bandwidth = 2000\nwhole_file = yes")
    (two.data / "big").write_bytes(b"x" * 3_000_000)
    done = run(two, "--progress", "data")
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr
    assert tree(two.data) == tree(two.copy)
