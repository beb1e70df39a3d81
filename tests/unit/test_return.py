"""The way back: what a dead node had written and never mirrored, and what both sides changed, is found and kept."""

import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clusterd import attributes, beneath, channel, passes, paths, sender, setback, state, strays
from clusterd.errors import Failed
from clusterd.passes import Done
from clusterd.peer import Unreachable
from unit.test_mirror import fill, go, kept, refused, sets, tree
from unit.twonodes import ROOT, Two
from unit.twonodes import two_nodes as two_nodes


@contextmanager
def cut_at_the_end(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pass that changes something is cut when all its files are there: the receiver hears no more of the sender."""
    finish = sender.Run.finish

    def cut(self: sender.Run, control: sender.Control) -> sender.Run:
        made = finish(self, control)
        if "--backup" in self.process.args:  # type: ignore[operator]
            control.process.kill()
            raise Failed("cut")
        return made

    with monkeypatch.context() as patch:
        patch.setattr(sender.Run, "finish", cut)
        yield


def swap(two: Two) -> None:
    """As if serv2 had been the holder, with epoch 1, and had mirrored to serv1; it died, serv1 has taken over."""
    time.sleep(2 * passes.TICK)
    now = time.time()
    code = (
        "from clusterd import passes; from clusterd.passes import Done; r = passes.read('data');"
        f"passes.write(r._replace(sent={{'serv1': r.received._replace(node='serv1', began={now})}}, received=None))"
    )
    two.there_python(code)
    mine = passes.read("data")
    entries = mine.sent["serv2"].entries
    passes.write(mine._replace(sent={}, received=Done("serv2", 1, now, time.time(), entries)))
    time.sleep(2 * passes.TICK)
    two.hold(2)


def set_back(two: Two, seconds: float) -> None:
    """As if serv2's clock had been set back after its last pass: that pass is in its future by now."""
    code = (
        "import time; from clusterd import channel, passes, setback; r = passes.read('data');"
        f"d = r.sent['serv1']; passes.write(r._replace(sent={{'serv1': d._replace(began=d.began + {seconds})}}));"
    )
    two.there_python(code + f"setback.note({time.time()})")


def told(two: Two) -> list[dict[str, Any]]:
    """The notices about files that were never mirrored."""
    logs = [Path(node / "log" / "events.jsonl") for node in (two.node, two.other)]
    events = [json.loads(line) for log in logs if log.exists() for line in log.read_text().splitlines()]
    return [event for event in events if event["event"] == "unmirrored-found"]


def test_unmirrored_files_are_found_listed_and_kept(two: Two) -> None:
    fill(two)
    (two.data / "edited-on-both").write_text("as mirrored")
    (two.data / "edited-there").write_text("as mirrored")
    (two.data / "edited-here").write_text("as mirrored")
    (two.data / "gone-here").write_text("as mirrored")
    (two.data / "gone-here-edited-there").write_text("as mirrored")
    assert go(two).ok
    swap(two)
    # The last seconds of serv2, after its last pass.
    (two.copy / "new-there").write_text("written on serv2, never mirrored")
    (two.copy / "edited-on-both").write_text("serv2's")
    (two.copy / "edited-there").write_text("serv2's")
    (two.copy / "gone-here-edited-there").write_text("serv2's")
    # serv1 has taken over.
    (two.data / "edited-on-both").write_text("serv1's, longer")
    (two.data / "edited-here").write_text("serv1's, longer")
    (two.data / "gone-here").unlink()
    (two.data / "gone-here-edited-there").unlink()
    (two.data / "new-here").write_text("new")
    report = go(two)
    assert report.ok, report.problem
    assert tree(two.data) == tree(two.copy)
    lost = {Path(path).name for path in report.unmirrored}
    assert lost == {"new-there", "edited-on-both", "edited-there", "gone-here-edited-there"}
    assert {Path(path).name for path in report.both} == {"edited-on-both", "gone-here-edited-there"}
    found = sets(two)
    assert {name for name, entry in found.items() if entry["unmirrored"]} == lost
    assert {name for name, entry in found.items() if entry["both"]} == {"edited-on-both", "gone-here-edited-there"}
    assert not found["edited-here"]["unmirrored"]
    assert not found["gone-here"]["unmirrored"]
    assert kept(two, "new-there") == "written on serv2, never mirrored"
    assert kept(two, "edited-on-both") == "serv2's"
    [notice] = told(two)
    assert {Path(path).name for path in notice["files"]} == lost
    assert notice["set"] == report.backup_set
    # From now on it is an ordinary mirror.
    (two.data / "edited-here").write_text("again")
    report = go(two)
    assert (report.ok, report.unmirrored, report.both) == (True, (), ())


def test_a_folder_that_was_moved_in_is_found(two: Two) -> None:
    """The files in it have kept their times; the folder's change time tells. Made in it is what its two times tell."""
    fill(two)
    (two.data / "above" / "old").mkdir(parents=True)
    (two.data / "above" / "old" / "gone-here").write_text("as mirrored")
    project = two.other / "project"
    (project / "below").mkdir(parents=True)
    (project / "plan").write_text("written long ago, elsewhere")
    (project / "below" / "part").write_text("likewise")
    assert go(two).ok
    swap(two)
    project.rename(two.copy / "project")
    (two.copy / "above" / "old" / "new-there").write_text("written on serv2, never mirrored")
    (two.data / "above" / "old" / "gone-here").unlink()
    report = go(two, max_delete="10")
    assert report.ok, report.problem
    assert {Path(path).name for path in report.unmirrored} == {"plan", "part", "new-there"}
    assert kept(two, "project/below/part") == "likewise"


def test_a_folder_that_was_moved_in_and_written_in_since_is_found(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its times it is like any other in which something was made: so that counts which the pass deletes."""
    fill(two)
    (two.data / "old").mkdir()
    (two.data / "old" / "edited-here").write_text("as mirrored")
    project = two.other / "project"
    (project / "below").mkdir(parents=True)
    (project / "plan").write_text("written long ago, elsewhere")
    (project / "below" / "part").write_text("likewise")
    assert go(two).ok
    swap(two)
    project.rename(two.copy / "project")
    (two.copy / "project" / "saved").write_text("written on serv2")
    (two.copy / "old" / "new-there").write_text("written on serv2")
    (two.data / "old" / "edited-here").write_text("serv1's, longer")
    with cut_at_the_end(monkeypatch):
        assert not go(two, max_delete="10").ok
    (two.data / "old" / "first").write_text("made after what was cut")
    assert go(two).ok
    (two.data / "old" / "first").unlink()
    assert go(two).ok
    wanted = {"plan", "part", "saved", "new-there"}
    assert {Path(path).name for notice in told(two) for path in notice["files"]} == wanted
    assert {Path(name).name for name, entry in sets(two).items() if entry["unmirrored"]} == wanted
    assert {Path(name).name for name, entry in sets(two).items()} == {*wanted, "edited-here", "first"}


def give_attributes(two: Two) -> dict[str, str]:
    """What an administrator of serv2, and Samba there, did after its last pass; returns what that is like."""
    os.setxattr(two.copy / "stream", "user.DosStream.note:$DATA", b"mine")
    subprocess.run(["setfacl", "-m", "u:12345:rw", two.copy / "shared"], check=True)
    (two.copy / "secret").chmod(0o600)
    (two.copy / "folder").chmod(0o700)
    (two.copy / "empty").chmod(0o700)
    os.lchown(two.copy / "link", 12345, 12345)
    (two.copy / "edited").write_text("longer")
    (two.copy / "edited").chmod(0o600)
    return {name: "attributes" for name in ("stream", "shared", "secret", "folder", "empty", "link")}


def attributed(two: Two) -> None:
    """What `give_attributes` gives attributes to, mirrored."""
    for name in ("stream", "shared", "secret", "edited", "touched-here"):
        (two.data / name).write_text(name)
    (two.data / "empty").mkdir()
    (two.data / "folder").mkdir()
    (two.data / "folder" / "file").write_text("x")
    (two.data / "link").symlink_to("file1")
    fill(two)
    swap(two)


def test_attributes_that_only_the_returning_node_had_are_found_and_kept(two: Two) -> None:
    """They are changed in place: nothing of them is in the files of the set."""
    attributed(two)
    changed = give_attributes(two)
    (two.data / "touched-here").chmod(0o600)
    (two.copy / "file2").chmod(0o640)
    (two.data / "file2").chmod(0o640)
    report = go(two)
    assert report.ok, report.problem
    assert tree(two.data) == tree(two.copy)
    entries = sets(two)
    assert {name: entry["what"] for name, entry in entries.items()} == {**changed, "edited": "replaced"}
    assert all(entry["unmirrored"] for entry in entries.values())
    assert entries["secret"]["mode"] == 0o600
    lost = {Path(path).name for path in report.unmirrored}
    assert lost == {*changed, "edited"}
    [notice] = told(two)
    assert {Path(path).name for path in notice["files"]} == lost
    assert "of 6 only owner, mode or other attributes had been changed" in notice["text"]
    folder = two.other / "state/backups" / notice["set"]
    assert json.loads((folder / "manifest.json").read_text())["unmirrored"] == 7
    noted = {Path(line[0]).name: line for line in map(json.loads, (folder / "attributes.jsonl").open())}
    assert noted["stream"][-1]["user.DosStream.note:$DATA"] == "mine"
    assert "system.posix_acl_access" in noted["shared"][-1]
    assert go(two).unmirrored == ()


def test_attributes_that_only_the_returning_node_had_can_be_given_again(two: Two) -> None:
    attributed(two)
    give_attributes(two)
    two.copy.chmod(0o750)  # the mirrored folder itself
    names = (".", "stream", "shared", "secret", "folder", "empty", "link", "edited")
    had = {name: looks(two.copy / name) for name in names}
    assert go(two).ok
    [notice] = told(two)
    now = {name: looks(two.copy / name) for name in had}

    def restore(*words: str) -> subprocess.CompletedProcess[str]:
        return two.there(sys.executable, f"{ROOT}/scripts/restore_backup", "--force", *words, check=False)

    done = restore("--all", "--to", str(two.other), notice["set"])
    assert done.returncode == 0
    assert done.stderr.startswith("7 left out: of these only owner, mode or other attributes were changed")
    done = restore("--to", str(two.other), notice["set"], f"{two.data}/secret")
    assert done.returncode == 2
    assert "so there is no content to put there; what they were: " in done.stderr
    done = restore("--dry-run", notice["set"], f"{two.data}/secret")
    assert done.stdout == f"would give its owner, mode and other attributes again: {two.data}/secret\n"
    assert {name: looks(two.copy / name) for name in had} == now
    done = restore("--all", "-v", notice["set"])
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"1 put back from {notice['set']}, 7 given their owner, mode and other attributes")
    assert {name: looks(two.copy / name) for name in had} == had
    # And what they had before that is kept again.
    [kept] = re.findall(r"what they replaced is in (\S+)", done.stdout)
    assert json.loads((two.other / "state/backups" / kept / "manifest.json").read_text())["unmirrored"] == 0
    assert restore("--all", kept).returncode == 0
    assert {name: looks(two.copy / name) for name in had} == now


def test_who_owns_the_folder_gets_no_attributes_for_another_file(two: Two) -> None:
    """Nothing is taken for what it was because it bears the name; and one that fails does not keep the others."""
    for name in ("gone", "kind", "linked", "mine", "theirs", "theirs.d/", "runs", "caps", "kept", "last"):
        (two.data / name).mkdir() if name.endswith("/") else (two.data / name).write_text(name)
    fill(two)
    swap(two)
    for name in ("gone", "kind", "linked", "theirs", "theirs.d", "runs", "caps", "kept", "last"):
        os.chown(two.copy / name, 12345, 12345)
    (two.copy / "mine").chmod(0o640)
    (two.copy / "runs").chmod(0o4755)
    os.setxattr(two.copy / "caps", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
    assert go(two).ok
    [notice] = told(two)
    assert "of 10 only owner" in notice["text"]
    (two.copy / "gone").unlink()
    (two.copy / "kind").unlink()
    (two.copy / "kind").mkdir()
    for name, owner in (("linked", 1), ("mine", 0), ("theirs", 1)):
        swapped = two.other / "swapped"
        swapped.write_text(name)
        os.chown(swapped, owner, owner)
        if name == "linked":
            (two.copy / name).unlink()
            os.link(swapped, two.copy / name)
            swapped.rename(two.other / "linked-there")
        else:
            swapped.rename(two.copy / name)
    (two.other / "swapped.d").mkdir()
    (two.copy / "theirs.d").rmdir()
    (two.other / "swapped.d").rename(two.copy / "theirs.d")
    os.chown(two.copy / "theirs.d", 1, 1)
    subprocess.run(["chattr", "+i", two.copy / "kept"], check=True)
    refused = ("gone", "kind", "linked", "theirs", "theirs.d", "runs", "caps", "kept")
    before = {name: looks(two.copy / name) for name in refused[1:]}
    try:
        done = two.there(
            sys.executable, f"{ROOT}/scripts/restore_backup", "--force", "--all", notice["set"], check=False
        )
    finally:
        subprocess.run(["chattr", "-i", two.copy / "kept"], check=True)
    assert done.returncode == 1
    for name in refused:
        assert f"{two.data}/{name}: " in done.stderr
    assert f"{two.data}/gone: it is gone; " in done.stderr
    assert f"{two.data}/kind: it is a folder now, and was a file; " in done.stderr
    assert f"{two.data}/theirs: it is another one now, of another owner; " in done.stderr
    assert f"{two.data}/kept: Operation not permitted" in done.stderr
    assert {name: looks(two.copy / name) for name in before} == before
    assert (two.copy / "mine").stat().st_mode & 0o777 == 0o640, "another file of the same owner"
    assert (two.copy / "last").stat().st_uid == 12345


def test_what_is_written_meanwhile_does_not_look_as_if_it_were_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next pass goes by size and time."""
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o600)
    attributes.note(str(tmp_path), [str(file)])
    file.chmod(0o644)
    os.utime(file, ns=(1, 1))
    real = os.chmod

    def meanwhile(path: Any, mode: int, **words: Any) -> None:
        file.write_text("new")
        real(path, mode, **words)

    monkeypatch.setattr(os, "chmod", meanwhile)
    assert attributes.give(str(tmp_path), [str(file), "/odd"]) == (
        [str(file)],
        {"/odd": "what it had is not written down"},
    )
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.stat().st_mtime_ns > 1


def looks(path: Path) -> tuple[object, ...]:
    """Owner, mode and extended attributes, ACLs among them; no times."""
    about = path.lstat()
    return about.st_mode, about.st_uid, about.st_gid, beneath.read_xattrs(str(path), follow=False)


def test_attributes_that_a_cut_return_has_changed_are_told(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    attributed(two)
    changed = give_attributes(two)
    with cut_at_the_end(monkeypatch):
        assert not go(two).ok
    assert go(two).ok
    assert {name for name, entry in sets(two).items() if entry["what"] == "attributes"} == {*changed}
    assert {Path(path).name for notice in told(two) for path in notice["files"]} == {*changed, "edited"}


def test_what_the_sender_did_not_live_to_tell_is_told_by_the_receiver(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(two)
    assert go(two).ok
    swap(two)
    (two.copy / "new-there").write_text("written on serv2, never mirrored")

    def die(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(strays, "tell", die)
        go(two)
    end = time.monotonic() + 20
    while not told(two) and time.monotonic() < end:
        time.sleep(0.05)
    [notice] = told(two)
    assert notice["node"] == "serv2"
    assert notice["files"] == [str(two.data / "new-there")]
    assert go(two).ok
    assert len(told(two)) == 1, "once"


def test_what_neither_lived_to_tell_is_told_with_the_next_pass(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(two)
    assert go(two).ok
    swap(two)
    (two.copy / "new-there").write_text("written on serv2, never mirrored")
    found = go(two).backup_set
    assert len(told(two)) == 1
    two.there_python(f"from clusterd import strays; strays.note('data', {found!r})")
    assert go(two).ok
    assert [notice["set"] for notice in told(two)] == [found, found]
    assert go(two).ok
    assert len(told(two)) == 2


def test_a_note_that_a_broken_disk_keeps_stops_nothing(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """A takeover recalls it: services must start whatever becomes of it."""
    strays.note("data", "20260101T000000.000Z-data-0000")

    def broken(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    with monkeypatch.context() as patch:
        patch.setattr(state, "remove", broken)
        strays.recall(two.load(), "data")
    with monkeypatch.context() as patch:
        patch.setattr(state, "read", broken)
        strays.recall(two.load(), "data")
    strays.recall(two.load(), "data")
    assert os.listdir(paths.STRAYS) == []


def test_nothing_unmirrored_nothing_told(two: Two) -> None:
    fill(two)
    swap(two)
    (two.data / "file1").write_text("changed after the takeover")
    report = go(two)
    assert (report.ok, report.unmirrored, report.both) == (True, (), ())
    assert told(two) == []


def test_a_return_without_any_change_is_complete_at_once(two: Two) -> None:
    fill(two)
    swap(two)
    report = go(two)
    assert (report.ok, report.changed, report.backup_set) == (True, 0, None)
    code = "from clusterd import passes; r = passes.read('data'); print(r.received.epoch, r.returns(2), r.returned)"
    assert two.there_python(code).split() == ["2", "False", "None"]


def long_list(two: Two) -> int:
    """More was written on serv2 than one message of the test takes; returns how many files."""
    fill(two)
    swap(two)
    for number in range(6000):
        (two.copy / f"{number}".rjust(200, "n")).write_text("x")
    return 6000


def test_very_many_files_only_there_are_told_in_parts(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    count = long_list(two)
    monkeypatch.setattr(channel, "LONGEST", 1_300_000)
    report = go(two, max_delete=str(count))
    assert report.ok, report.problem
    assert (report.deleted, len(set(report.unmirrored))) == (count, count)


def test_too_many_files_only_there_for_an_older_program_are_a_trouble_of_their_own(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told: a peer that cannot be reached is not."""
    long_list(two)
    send = channel.Channel.send
    monkeypatch.setattr(channel, "LONGEST", 1_000_000)
    monkeypatch.setattr(channel.Channel, "send", lambda self, **said: send(self, **{**said, "parts": False}))
    with pytest.raises(Failed, match="too many files") as caught:
        go(two, max_delete="6000")
    assert not isinstance(caught.value, Unreachable)


def test_files_only_there_have_a_budget_of_their_own(two: Two) -> None:
    fill(two)
    swap(two)
    for number in range(6):
        (two.copy / f"new-there{number}").write_text("x")
        (two.data / f"file{number}").unlink()
    report = go(two)
    assert report.ok, report.problem
    assert (report.deleted, len(report.unmirrored)) == (12, 6)


def test_too_many_files_only_there_wait_for_a_person(two: Two) -> None:
    fill(two)
    swap(two)
    for number in range(7):
        (two.copy / f"new-there{number}").write_text("x")
    text = refused(two, Failed, "7 files would be deleted on serv2, 7 of them written there and never mirrored")
    assert "kept in a backup set" in text
    report = go(two, max_delete="7")
    assert (report.ok, len(report.unmirrored)) == (True, 7)


def test_a_cut_return_forgets_nothing(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first attempt wrote is not taken for the dead node's work, and what it found is not forgotten."""
    fill(two)
    swap(two)
    (two.copy / "new-there").write_text("x")
    (two.copy / "file1").write_text("serv2's")
    (two.data / "file2").write_text("serv1's")
    with cut_at_the_end(monkeypatch):
        report = go(two)
    assert not report.ok
    (two.data / "file1").write_text("changed here after the first attempt")
    (two.data / "file3").write_text("and this one")
    report = go(two)
    assert report.ok, report.problem
    assert tree(two.data) == tree(two.copy)
    marked = {name for name, entry in sets(two).items() if entry["unmirrored"]}
    assert marked == {"new-there", "file1"}
    listed = {(Path(path).name, notice["set"]) for notice in told(two) for path in notice["files"]}
    assert {name for name, _ in listed} == marked, "by whoever knew it: the pass that was cut, or the next one"
    for name, set_id in listed:
        assert list((two.other / "state/backups" / set_id / "files").rglob(name)), f"{name}: not in {set_id}"
    assert "file3" in sets(two)


def test_what_was_written_after_the_clock_was_set_back_is_found(two: Two) -> None:
    """Its time is before that of the last pass, which had it not."""
    fill(two)
    (two.data / "edited-on-both").write_text("as mirrored")
    assert go(two).ok
    swap(two)
    set_back(two, 3600)
    time.sleep(2 * passes.TICK)
    (two.copy / "new-there").write_text("written on serv2, never mirrored")
    (two.copy / "edited-on-both").write_text("serv2's")
    (two.data / "edited-on-both").write_text("serv1's, longer")
    (two.data / "file1").write_text("changed after the takeover")
    report = go(two)
    assert report.ok, report.problem
    assert {Path(path).name for path in report.unmirrored} == {"new-there", "edited-on-both"}
    # By its time the new one may have been there at the last pass, and been deleted here since.
    assert {Path(path).name for path in report.both} == {"new-there", "edited-on-both"}
    assert kept(two, "new-there") == "written on serv2, never mirrored"


def test_what_the_survivor_changed_after_its_clock_was_set_back_counts_as_changed_on_both_sides(two: Two) -> None:
    fill(two)
    swap(two)
    mine = passes.read("data")
    assert mine.received
    passes.write(mine._replace(received=mine.received._replace(ended=time.time() + 3600)))
    setback.note(time.time())
    time.sleep(2 * passes.TICK)
    (two.copy / "file1").write_text("serv2's")
    (two.data / "file1").write_text("serv1's, longer")
    report = go(two)
    assert {Path(path).name for path in report.both} == {"file1"}
