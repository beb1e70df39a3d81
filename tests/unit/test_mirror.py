"""Passes between two nodes, over real ssh and rsync: what is copied, what is kept, what is refused."""

import errno
import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clusterd import lock, mirror, ownership, passes, paths, run, sender, state
from clusterd.errors import Busy, ClusterdError, Failed, NotPermitted
from clusterd.peer import Unreachable
from unit.twonodes import ROOT, Two
from unit.twonodes import two_nodes as two_nodes

ODD = [b"plain", b"with space", b"two\nlines", b"-rf", b"--delete", b'it\'s "quoted"', b"\xff\xfe", b"$(id)", b"\\#012"]
"""What a user can call a file."""


def go(two: Two, **options: Any) -> mirror.Report:
    """One pass."""
    settings = two.load()
    return mirror.run_pass(settings, settings.services["data"], settings.nodes["serv2"], wait=0, **options)


def tree(folder: Path) -> dict[str, str]:
    """What is below `folder`: type, mode, owner, time, and content."""
    found = {}
    for each in [folder, *sorted(folder.rglob("*"))]:
        about = each.lstat()
        content = os.readlink(each) if each.is_symlink() else each.read_bytes().hex() if each.is_file() else ""
        found[str(each.relative_to(folder))] = (
            f"{about.st_mode:o} {about.st_uid} {about.st_gid} {about.st_mtime_ns} {content}"
        )
    return found


def everything(two: Two) -> dict[str, Any]:
    """All that a refused pass must leave as it is, on both nodes."""
    return {
        "data": tree(two.data),
        "copy": tree(two.copy),
        "etc": tree(two.other / "etc"),
        "sets": sorted(str(each) for each in (two.other / "state").glob("backups/*")),
        "records": [
            (each / "state/passes/data.json").read_text() if (each / "state/passes/data.json").exists() else ""
            for each in (two.node, two.other)
        ],
    }


def refused(two: Two, kind: type[ClusterdError], words: str, **options: Any) -> str:
    """A pass is refused with one line, and nothing is touched."""
    before = everything(two)
    with pytest.raises(kind, match=words) as caught:
        go(two, **options)
    assert everything(two) == before
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 500
    return text


def sets(two: Two) -> dict[str, dict[str, Any]]:
    """The entries of all backup sets on serv2, by path below the mirrored folder."""
    found = {}
    for each in sorted((two.other / "state" / "backups").glob("*/entries.jsonl")):
        for line in each.read_text().splitlines():
            entry = json.loads(line)
            found[entry["path"].removeprefix(f"{two.data}/")] = entry
    return found


def kept(two: Two, name: str) -> str:
    """The old content of a file, from whatever backup set has it."""
    [found] = (two.other / "state" / "backups").glob(f"*/files{two.data}/{name}")
    return found.read_text()


def fill(two: Two, count: int = 50) -> None:
    """Some files, mirrored."""
    for number in range(count):
        (two.data / f"file{number}").write_text(str(number))
    assert go(two).ok


def test_first_pass_then_nothing_to_do(two: Two) -> None:
    report = go(two)
    assert report.ok, report
    assert (report.changed, report.deleted, report.backup_set) == (3, 0, None)
    assert tree(two.data) == tree(two.copy)
    sentinel = json.loads((two.copy / paths.SENTINEL).read_text())
    assert (sentinel["service"], sentinel["path"]) == ("data", f"{two.data}/")
    again = go(two)
    assert again.ok
    assert (again.changed, again.deleted, again.backup_set) == (0, 0, None)
    record = passes.read("data")
    assert record.sent["serv2"].epoch == 1
    assert record.sent["serv2"].entries == 3
    assert two.there_python("from clusterd import passes; print(passes.freshness('data')[1])").strip() == "False"


def test_every_attribute_arrives(two: Two) -> None:
    data = two.data
    (data / "owned").write_text("x")
    os.chown(data / "owned", 12345, 23456)
    (data / "setuid").write_text("x")
    (data / "setuid").chmod(0o4751)
    os.link(data / "owned", data / "linked")
    os.symlink("/etc/passwd", data / "absolute")
    os.symlink("../../../nowhere", data / "dangling")
    os.mkfifo(data / "fifo")
    os.mknod(data / "device", 0o20600, os.makedev(1, 3))
    with (data / "sparse").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"end")
    subprocess.run(["setfacl", "-m", "u:54321:rwx", data / "setuid"], check=True)
    subprocess.run(["setfattr", "-n", "user.note", "-v", "hello", data / "owned"], check=True)
    os.utime(data / "owned", ns=(1, 1_234_567_890_123_456_789))
    (data / "folder" / "empty").mkdir(parents=True)
    os.utime(data / "folder", ns=(1, 1_000_000_000_000_000_007))
    assert go(two).ok
    assert tree(data) == tree(two.copy)
    copy = two.copy
    assert (copy / "owned").stat().st_ino == (copy / "linked").stat().st_ino
    assert (copy / "device").stat().st_rdev == os.makedev(1, 3)
    assert (copy / "sparse").stat().st_blocks < 1000
    acl = subprocess.run(["getfacl", "-np", copy / "setuid"], check=True, capture_output=True, text=True).stdout
    assert "user:54321:rwx" in acl
    assert os.getxattr(copy / "owned", "user.note") == b"hello"
    # The same size, the same second: only the nanoseconds tell.
    (data / "owned").write_text("y")
    os.utime(data / "owned", ns=(1, 1_234_567_890_123_456_790))
    assert go(two).changed == 2, "under both its names"
    assert (copy / "owned").read_text() == "y"
    assert (copy / "owned").stat().st_ino == (copy / "linked").stat().st_ino


def test_odd_names_are_copied_replaced_deleted_and_listed(two: Two) -> None:
    folder = os.fsencode(two.data)
    for name in ODD:
        Path(os.fsdecode(folder + b"/" + name)).write_text("old")
    assert go(two).ok
    assert tree(two.data) == tree(two.copy)
    for name in ODD[:5]:
        Path(os.fsdecode(folder + b"/" + name)).unlink()
    for name in ODD[5:]:
        Path(os.fsdecode(folder + b"/" + name)).write_text("newer")
    report = go(two, max_delete="5")
    assert (report.ok, report.deleted) == (True, 5)
    assert tree(two.data) == tree(two.copy)
    found = sets(two)
    assert {os.fsencode(name) for name in found} == set(ODD)
    assert {os.fsencode(name) for name, entry in found.items() if entry["what"] == "deleted"} == set(ODD[:5])


def test_everything_replaced_or_deleted_is_in_the_backup_set(two: Two) -> None:
    for folder in ("becomes-file", "goes/deep", "goes/empty"):
        (two.data / folder).mkdir(parents=True)
    for name in ("becomes-folder", "becomes-file/inner", "goes/deep/file", "replaced", "stays", "becomes-link"):
        (two.data / name).write_text(f"old {name}")
    assert go(two).ok
    (two.data / "becomes-folder").unlink()
    (two.data / "becomes-folder").mkdir()
    (two.data / "becomes-file/inner").unlink()
    (two.data / "becomes-file").rmdir()
    (two.data / "becomes-file").write_text("new")
    (two.data / "becomes-link").unlink()
    (two.data / "becomes-link").symlink_to("stays")
    (two.data / "goes/deep/file").unlink()
    for folder in ("goes/deep", "goes/empty", "goes"):
        (two.data / folder).rmdir()
    (two.data / "replaced").write_text("new")
    report = go(two, max_delete="10")
    assert report.ok, report.problem
    assert tree(two.data) == tree(two.copy)
    found = sets(two)
    assert {name: entry["what"] for name, entry in found.items()} == {
        "becomes-folder": "replaced",
        "becomes-file/inner": "deleted",
        "becomes-link": "replaced",
        "goes/deep/file": "deleted",
        "goes/empty": "deleted",
        "replaced": "replaced",
    }
    assert kept(two, "becomes-file/inner") == "old becomes-file/inner"


def test_single_files_folders_and_missing_parents(two: Two) -> None:
    (two.node / "etc" / "one.conf").write_text("one")
    (two.node / "etc" / "other.conf").write_text("not mirrored")
    (two.node / "deep" / "er").mkdir(parents=True)
    (two.node / "deep" / "er" / "x").write_text("x")
    two.configure(paths_text=f"{two.node}/data/, {two.node}/etc/one.conf, {two.node}/deep/er/")
    (two.other / "etc").chmod(0o711)
    assert go(two).ok
    assert (two.other / "etc" / "one.conf").read_text() == "one"
    assert not (two.other / "etc" / "other.conf").exists()
    assert (two.other / "deep" / "er" / "x").read_text() == "x"
    assert (two.other / "etc").stat().st_mode & 0o777 == 0o711, "a folder above is left alone"
    (two.node / "etc" / "one.conf").write_text("two")
    assert go(two).ok
    assert (two.other / "etc" / "one.conf").read_text() == "two"
    (two.node / "etc" / "one.conf").unlink()
    refused(two, Failed, r"etc/one\.conf: the source is missing")
    assert (two.other / "etc" / "one.conf").read_text() == "two"


def test_include_and_exclude(two: Two) -> None:
    two.configure("exclude = *.tmp, /cache/\ninclude = wanted.tmp\nwhole_file = yes\nbandwidth = 100000")
    (two.data / "cache").mkdir()
    (two.data / "sub" / "cache").mkdir(parents=True)
    for name in ("a.tmp", "wanted.tmp", "cache/x", "sub/cache/x"):
        (two.data / name).write_text("x")
    (two.copy / "there.tmp").write_text("neither copied nor deleted")
    (two.data / "lost+found").mkdir()
    (two.data / "lost+found" / "x").write_text("x")
    assert go(two).ok
    names = {str(each.relative_to(two.copy)) for each in two.copy.rglob("*")}
    assert names == {".clusterd", "first", "wanted.tmp", "there.tmp", "sub", "sub/cache", "sub/cache/x"}


def test_the_sentinel_survives_any_exclude(two: Two) -> None:
    two.configure("exclude = .*, *")
    assert go(two).ok
    assert {each.name for each in two.copy.iterdir()} == {paths.SENTINEL}


# Refusals


def test_only_the_holder_mirrors(two: Two) -> None:
    two.load()
    fill(two)
    (two.data / "new").write_text("new")
    ownership.enter("serv1", 1, ownership.FREE)
    refused(two, NotPermitted, "serv1 does not hold serv1")
    ownership.enter("serv1", 1, ownership.HELD)
    ownership.enter_standby(ownership.PERSON, "a test")
    refused(two, NotPermitted, r"standby \(a test\)")


def test_a_lower_epoch_is_refused_by_the_gate(two: Two) -> None:
    fill(two)
    (two.data / "file1").write_text("old never overwrites new")
    two.there_python("from clusterd import ownership; ownership.write(ownership.Record('serv1', 7, 'serv3'))")
    text = refused(two, NotPermitted, "epoch 1 of serv1 is over")
    assert "serv3" in text


def test_a_node_that_holds_the_group_itself_takes_no_pass(two: Two) -> None:
    fill(two)
    (two.data / "file1").write_text("old never overwrites new")
    two.there_python("from clusterd import ownership; ownership.enter('serv1', 2, ownership.HELD)")
    refused(two, NotPermitted, "serv2 holds serv1 itself")
    ownership.enter("serv1", 3, ownership.HELD)
    two.there_python("from clusterd import ownership; ownership.enter('serv1', 3, ownership.ACQUIRING)")
    refused(two, NotPermitted, "serv2 holds serv1 itself")


def test_an_equal_epoch_of_another_node_is_refused(two: Two) -> None:
    fill(two)
    two.there_python("from clusterd import ownership; ownership.write(ownership.Record('serv1', 1, 'serv3'))")
    refused(two, NotPermitted, "serv3, not serv1, has epoch 1")


def test_one_pass_at_a_time(two: Two) -> None:
    fill(two)
    with lock.Lock("mirror-data"):
        refused(two, Busy, "busy")
    code = (
        "import time; from clusterd.lock import Lock; held = Lock('receive-data').acquire();"
        "print('held', flush=True); time.sleep(60)"
    )
    argv = [*two.enter(), "env", *(f"{name}={value}" for name, value in two.env.items()), sys.executable, "-c", code]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        refused(two, Busy, "serv2 refuses: receive-data: busy")
        other.kill()
    assert go(two).ok


def test_a_missing_source_deletes_nothing(two: Two) -> None:
    fill(two)
    os.rename(two.data, two.node / "elsewhere")
    with pytest.raises(Failed, match="the source is missing: is its disk mounted"):
        go(two)
    assert (two.copy / "file1").read_text() == "1"


def test_an_empty_source_deletes_nothing(two: Two) -> None:
    fill(two)
    for each in two.data.glob("f*"):
        each.unlink()
    (two.data / "lost+found").mkdir()
    (two.data / "empty" / "folders").mkdir(parents=True)
    text = refused(two, Failed, "the source is empty")
    assert "--max-delete" in text
    assert go(two, max_delete="100 %").ok, "a person may say so"
    assert not (two.copy / "file1").exists()
    assert len(sets(two)) == 51
    assert go(two).ok, "what was empty at the last complete pass may be empty"


def test_an_empty_first_source_deletes_nothing(two: Two) -> None:
    (two.data / "first").unlink()
    (two.copy / "precious").write_text("x")
    refused(two, Failed, "the first pass would delete 1 files that are on serv2 and not here")


def test_a_spool_that_has_always_been_empty_is_mirrored(two: Two) -> None:
    """Nothing can be lost, and a hand-over must not wait for the first mail."""
    (two.data / "first").unlink()
    assert go(two).ok and go(two).ok
    (two.data / "mail").write_text("x")
    assert go(two).ok
    (two.data / "mail").unlink()
    refused(two, Failed, "the source is empty")


def test_one_file_left_over_deletes_nothing(two: Two) -> None:
    fill(two)
    for each in two.data.glob("f*"):
        each.unlink()
    (two.data / "left-over").write_text("x")
    text = refused(two, Failed, "51 files would be deleted on serv2; allowed are 6")
    assert "mirror_service data --max-delete 51" in text


def test_without_its_sentinel_a_source_deletes_nothing(two: Two) -> None:
    fill(two)
    (two.data / paths.SENTINEL).unlink()
    refused(two, Failed, "no sentinel")
    (two.data / paths.SENTINEL).write_text('{"service": "other", "path": "/x/", "created": 0, "id": "1"}')
    refused(two, Failed, "the sentinel of other /x/")
    (two.data / paths.SENTINEL).write_text("rubbish")
    refused(two, Failed, "cannot be read")
    state.write(str(two.data / paths.SENTINEL), {"service": "data", "path": f"{two.data}/", "created": 0, "id": "1"})
    refused(two, Failed, "another sentinel than at the last pass")


def test_a_sentinel_that_is_a_fifo_keeps_nobody_waiting(two: Two) -> None:
    """Any user of the folder can make it one: for ever held the pass its lock, and the receiver's gate another."""
    fill(two)
    for folder, who in ((two.copy, "serv2 refuses: "), (two.data, "")):
        (folder / paths.SENTINEL).rename(two.top / "sentinel")
        os.mkfifo(folder / paths.SENTINEL)
        done = two.script("mirror_service", "data", timeout=30)
        assert done.returncode == 1
        assert f"{who}{two.data}/{paths.SENTINEL}: no plain file" in done.stderr
        (two.top / "sentinel").rename(folder / paths.SENTINEL)
    assert go(two).ok


def test_a_source_on_another_mount_deletes_nothing(two: Two) -> None:
    fill(two)
    subprocess.run(["mount", "-t", "tmpfs", "none", two.data], check=True)
    try:
        (two.data / paths.SENTINEL).write_bytes((two.copy / paths.SENTINEL).read_bytes())
        (two.data / "a-file").write_text("x")
        text = refused(two, Failed, "no longer the mount that it was")
        assert "tmpfs" in text
        assert "--accept-mounts" in text
    finally:
        subprocess.run(["umount", two.data], check=True)
    assert go(two).ok


def test_an_unmounted_target_is_not_filled(two: Two) -> None:
    two.there("mount", "-t", "tmpfs", "disk", str(two.data))
    (two.data / "file").write_text("x")
    assert go(two).ok
    assert two.there("cat", f"{two.data}/file").stdout == "x"
    two.there("umount", str(two.data))
    (two.data / "file2").write_text("x")
    refused(two, Failed, "serv2 refuses: data: .*: no longer the mount that it was")
    two.there_python("from clusterd import passes; passes.forget_places('data')")
    assert go(two).ok, "a person may say that all is right"


def disk(two: Two, name: str, *files: str) -> str:
    """An image of a file system with files on it."""
    image, content = two.top / f"{name}.image", two.top / f"{name}.files"
    content.mkdir()
    for each in files:
        (content / each).write_text(each)
    with image.open("wb") as file:
        file.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-d", content, image], check=True)
    return str(image)


def test_a_disk_that_has_come_to_the_target_is_not_emptied(two: Two) -> None:
    """The source's folder is empty; so was this one, at the last pass."""
    (two.data / "big").mkdir()
    fill(two)
    big = f"{two.data}/big"
    two.there("mount", "-o", "loop", disk(two, "one", "precious"), big)
    text = refused(two, Failed, f"serv2 refuses: data: {two.data}/: {big} was not mounted at the last pass")
    assert text.endswith("unmount it. If all is right: mirror_service data --accept-mounts on serv2")
    assert two.there("cat", f"{big}/precious").stdout == "precious"
    two.there("umount", big)
    assert go(two).ok
    two.there("mount", "-o", "loop", f"{two.top}/one.image", big)
    two.there(sys.executable, f"{ROOT}/scripts/mirror_service", "data", "--accept-mounts")
    report = go(two)
    assert report.ok, "a person may say that all is right"
    assert kept(two, "big/precious") == "precious"
    (two.data / "big" / "new").write_text("new")
    assert go(two).ok
    assert two.there("cat", f"{big}/new").stdout == "new", "from now on it is known"


@pytest.mark.parametrize("late", [False, True])
def test_a_disk_that_comes_to_the_target_during_a_pass(two: Two, monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    """Before the pass changes anything: it is refused. At its end: the next one is."""
    (two.data / "big").mkdir()
    fill(two)
    image = disk(two, "one", "precious")
    (two.data / "changed").write_text("new")
    where = (sender.Control, "finish") if late else (sender.Control, "begin")
    step = getattr(*where)

    def then(*words: Any, **options: Any) -> Any:
        two.there("mount", "-o", "loop", image, f"{two.data}/big")
        return step(*words, **options)

    said = f"serv2 refuses: data: {two.data}/: {two.data}/big was not mounted at the last pass"
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(*where, then)
        if late:
            assert go(two).ok
        else:
            refused(two, Failed, "what is mounted there has changed since the pass began")
    refused(two, Failed, said)
    assert two.there("cat", f"{two.data}/big/precious").stdout == "precious"


def test_disks_that_both_nodes_have(two: Two) -> None:
    """There from the first pass on; or put in on both later, the new one empty."""
    images = {name: disk(two, name, *files) for name, files in (("a", "x"), ("b", "x"), ("c", "yz"), ("d", ""))}
    mounted: list[Path] = []
    try:
        for point, mine, theirs in (("big", "a", "b"), ("later", "c", "d")):
            (two.data / point).mkdir()
            if mounted:
                assert go(two).ok
            else:
                (two.copy / point).mkdir()
            subprocess.run(["mount", "-o", "loop", images[mine], two.data / point], check=True)
            mounted.append(two.data / point)
            two.there("mount", "-o", "loop", images[theirs], f"{two.data}/{point}")
            report = go(two)
            assert report.ok, report.problem
            assert go(two).ok
        assert two.there("cat", f"{two.data}/later/y").stdout == "y"
        two.there("umount", f"{two.data}/later")
        refused(two, Failed, f"{two.data}/later ext4 .* is gone")
    finally:
        for each in mounted:
            subprocess.run(["umount", each], check=True)


def test_a_target_without_its_sentinel_is_refused(two: Two) -> None:
    fill(two)
    (two.copy / paths.SENTINEL).unlink()
    refused(two, Failed, "serv2 refuses: .*no sentinel")


def test_more_than_max_delete_deletes_nothing(two: Two) -> None:
    fill(two)
    for number in range(7):
        (two.data / f"file{number}").unlink()
    (two.data / "file20").write_text("changed")
    refused(two, Failed, r"7 files would be deleted on serv2; allowed are 6 \(max_delete, of 53 last seen\)")
    refused(two, Failed, "allowed are 6", max_delete="6")
    report = go(two, max_delete="7")
    assert (report.ok, report.deleted, report.changed) == (True, 7, 2)
    assert (two.copy / "file20").read_text() == "changed"


def test_a_number_as_budget_of_the_service(two: Two) -> None:
    two.configure("max_delete = 2")
    fill(two)
    for number in range(3):
        (two.data / f"file{number}").unlink()
    refused(two, Failed, "allowed are 2")
    (two.data / "file0").write_text("0")
    assert go(two).deleted == 2


def test_a_first_pass_onto_foreign_files_is_refused(two: Two) -> None:
    (two.copy / "foreign").write_text("precious")
    text = refused(two, Failed, "the first pass would delete 1 files that are on serv2 and not here")
    assert "--max-delete 1" in text
    assert not (two.data / paths.SENTINEL).exists()
    report = go(two, max_delete="1")
    assert report.ok, report.problem
    assert kept(two, "foreign") == "precious"


@pytest.mark.parametrize("accepted", [False, True])
def test_a_path_that_is_new_has_a_first_pass_of_its_own(two: Two, accepted: bool) -> None:
    """Whatever max_delete allows; and also where a person has said that mounts are right as they are now."""
    fill(two)
    mine, theirs = two.node / "home", two.other / "home"
    for folder in (mine, theirs):
        folder.mkdir()
    (mine / "mine").write_text("x")
    (theirs / "foreign").write_text("precious")
    two.configure(paths_text=f"{two.data}/, {mine}/")
    if accepted:
        two.there_python("from clusterd import passes; passes.forget_places('data')")
    (two.data / "file1").unlink()
    first = f"the first pass of {mine}/ would delete 1 files that are on serv2 and not here"
    assert "mirror_service data --max-delete 2" in refused(two, Failed, first)
    dry = two.script("mirror_service", "--dry-run", "data")
    assert first in dry.stdout + dry.stderr
    report = go(two, max_delete="2")
    assert (report.ok, report.deleted) == (True, 2)
    [found] = (two.other / "state/backups").glob(f"*/files{mine}/foreign")
    assert found.read_text() == "precious"
    (theirs / "foreign").write_text("as in any other path")
    assert go(two).deleted == 1


def test_a_path_that_is_new_is_not_new_any_more_once_a_pass_has_begun(two: Two) -> None:
    """Though that one was not completed: what is there now came from here."""
    fill(two)
    mine, theirs = two.node / "home", two.other / "home"
    for folder in (mine, theirs):
        folder.mkdir()
    (mine / "unreadable").touch()
    (mine / "lock").symlink_to("nowhere")
    two.configure(paths_text=f"{two.data}/, {mine}/")
    subprocess.run(["mount", "--bind", "/proc/self/mem", mine / "unreadable"], check=True)
    try:
        assert not go(two).ok
    finally:
        subprocess.run(["umount", mine / "unreadable"], check=True)
    assert os.path.lexists(theirs / "lock")
    (mine / "lock").unlink()
    report = go(two)
    assert (report.ok, report.deleted) == (True, 1)


def test_a_path_that_is_narrowed_is_not_new(two: Two) -> None:
    for name in ("one", "other"):
        (two.data / name).mkdir()
        for number in range(20):
            (two.data / name / f"file{number}").write_text("x")
    fill(two)
    two.configure(paths_text=f"{two.data}/one/, {two.data}/other/")
    (two.data / "one" / "file1").unlink()
    report = go(two)
    assert (report.ok, report.deleted) == (True, 1)


def test_a_peer_that_has_not_written_down_its_paths(two: Two) -> None:
    """Its program was older at the last complete pass."""
    fill(two)
    two.there_python("from clusterd import passes; passes.write(passes.read('data')._replace(paths=()))")
    (two.data / "file1").unlink()
    assert go(two).deleted == 1
    two.there_python("from clusterd import passes; passes.write(passes.read('data')._replace(paths=(), places={}))")
    (two.data / "file2").unlink()
    assert go(two).deleted == 1


def test_clocks_too_far_apart(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(two)
    true = time.time
    for offset, word in ((5, "behind"), (-5, "ahead"), (3600, "behind"), (-3600, "ahead")):
        monkeypatch.setattr(time, "time", lambda offset=offset: true() + offset)
        text = refused(two, Failed, f"the clock of serv2 is .* s {word}")
        assert "timesync" in text
    monkeypatch.setattr(time, "time", lambda: true() + 1)
    assert go(two).ok


def test_other_paths_in_the_configuration_of_the_peer(two: Two) -> None:
    fill(two)
    (two.other / "conf/services/data.conf").write_text(
        f"home = serv1\n[run]\nkind = none\n[mirror]\nevery = 5 minutes\npaths = {two.node}/etc/\n"
    )
    refused(two, Failed, "serv2 has other paths in its configuration")


def test_a_source_through_a_symlink_is_refused(two: Two) -> None:
    (two.node / "link").symlink_to("data")
    two.configure(paths_text=f"{two.node}/link/")
    refused(two, Failed, f"leads through a symlink; write {two.data}")


def test_the_source_may_not_go_while_a_pass_runs(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """What goes after the plan was made is held to the plan and a little slack, and the pass is not complete."""
    fill(two, 200)
    (two.data / "file0").write_text("changed")
    begin = sender.Control.begin

    def vanish(*words: Any) -> Any:
        answer = begin(*words)
        for each in two.data.iterdir():
            each.unlink()
        (two.data / "left-over").write_text("x")
        return answer

    monkeypatch.setattr(sender.Control, "begin", vanish)
    report = go(two)
    assert not report.ok
    assert "more files would have been deleted than was planned" in report.problem
    assert report.deleted <= 10
    assert passes.read("data").sent["serv2"].entries == 203
    cut = two.there_python("from clusterd import passes; print(passes.freshness('data')[1])")
    assert cut.strip() == "True"
    assert len(list(two.copy.glob("file*"))) >= 190


def test_what_is_stored_into_a_mapped_page_after_it_was_read_is_mirrored_next(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that the disk has not got takes it without a new time: the next pass would see no change."""
    fill(two)
    mapped = two.data / "mapped"
    mapped.write_bytes(b"0" * 4096)
    assert go(two).ok
    with mapped.open("r+b") as file, mmap.mmap(file.fileno(), 4096) as page:
        page[0] = ord("1")
        page[1] = ord("1")
        finish = sender.Run.finish

        def store(self: sender.Run, control: sender.Control) -> sender.Run:
            made = finish(self, control)
            if "--backup" in self.process.args:  # type: ignore[operator]
                page[2] = ord("2")
            return made

        with monkeypatch.context() as patch:
            patch.setattr(sender.Run, "finish", store)
            assert go(two).changed == 1
        assert (two.copy / "mapped").read_bytes()[:3] == b"110"
        assert go(two).changed == 1
        assert (two.copy / "mapped").read_bytes()[:3] == b"112"


@pytest.mark.parametrize("count", [1, 600])
def test_what_was_sent_is_on_the_disk_here_as_well(two: Two, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power cut a file may have its new time and its old content, and would be taken for the one there."""
    fill(two, 600)
    inside = f"{two.data}/"
    synced: list[str] = []
    check, fsync = run.check, os.fsync

    def note_check(words: Any, **how: Any) -> Any:
        synced.extend(word for word in words if words[0] == "sync" and word == inside)
        return check(words, **how)

    def note_fsync(fd: int) -> None:
        name = os.readlink(f"/proc/self/fd/{fd}")
        synced.extend([name] if name.startswith(inside) else [])
        fsync(fd)

    monkeypatch.setattr(run, "check", note_check)
    monkeypatch.setattr(os, "fsync", note_fsync)
    assert go(two).ok
    assert not synced, "an unchanged pass pays nothing"
    for number in range(count):
        (two.data / f"file{number}").write_text("changed")
    assert go(two).ok
    assert synced == 2 * [f"{inside}file0" if count == 1 else inside], "before it is read, and after"


def test_a_disk_that_does_not_take_what_was_sent_makes_the_pass_incomplete(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(two)
    fsync = os.fsync

    def fail(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}") == f"{two.data}/file1":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    (two.data / "file1").write_text("changed")
    monkeypatch.setattr(os, "fsync", fail)
    report = go(two)
    assert not report.ok
    assert "Input/output error" in report.problem


# Trouble with the peer


def test_an_unreachable_peer(two: Two) -> None:
    fill(two)
    two.configure(shell="ssh -p 1 -o HostName=127.0.0.1")
    refused(two, Unreachable, "serv2 cannot be reached from serv1: .*refused")


def test_a_peer_with_another_host_key(two: Two) -> None:
    (two.node / "conf/known_hosts").write_text(
        re.sub("AAAA.{40}", "AAAAC3NzaC1lZDI1NTE5AAAAIB" + "x" * 18, (two.node / "conf/known_hosts").read_text())
    )
    refused(two, Unreachable, "host key")


def test_a_peer_that_does_not_take_the_key(two: Two) -> None:
    (two.top / "authorized").write_text("")
    refused(two, Unreachable, "does not take this node's key")


def test_a_peer_whose_sshd_hangs(two: Two) -> None:
    assert two.sshd
    two.configure(timeout="2 seconds")
    os.kill(two.sshd.pid, 19)
    before = time.monotonic()
    refused(two, Unreachable, "cannot be reached")
    assert time.monotonic() - before < 15
    os.kill(two.sshd.pid, 18)


def test_a_peer_whose_gate_hangs(two: Two) -> None:
    two.configure(timeout="1 second")
    key = (two.top / "key.pub").read_text()
    (two.top / "authorized").write_text(f'command="sleep 60",restrict {key}')
    before = time.monotonic()
    refused(two, Unreachable, "no answer in time")
    assert time.monotonic() - before < 20


@pytest.mark.parametrize("when", ["plan", "apply"])
def test_a_peer_whose_rsync_hangs(two: Two, when: str) -> None:
    fill(two)
    two.configure(timeout="2 seconds")
    hanging = two.node / "hanging"
    shutil.copy("/usr/bin/rsync", two.top / "rsync")
    script = f'#!/bin/sh\ncase "$*" in *{when}*) exec sleep 60;; esac\nexec {two.top}/rsync "$@"\n'
    (two.other / "hanging").write_text(script)
    (two.other / "hanging").chmod(0o755)
    two.there("mount", "--bind", str(hanging), "/usr/bin/rsync")
    (two.data / "file1").write_text("changed")
    before = time.monotonic()
    if when == "plan":
        refused(two, Failed, "serv2")
    else:
        report = go(two)
        assert not report.ok
        assert report.problem
        assert (two.copy / "file1").read_text() == "1"
    assert time.monotonic() - before < 25
    two.there("umount", "/usr/bin/rsync")
    assert go(two).ok


def test_a_disk_that_is_too_small_is_noticed_before(two: Two) -> None:
    two.there("mount", "-t", "tmpfs", "-o", "size=2m", "disk", str(two.data))
    (two.data / "small").write_text("x")
    assert go(two).ok
    (two.data / "big").write_bytes(os.urandom(3 << 20))
    (two.data / "small").write_text("y")
    with pytest.raises(Failed, match=r"3\.\d MiB are to come and [12]\.\d MiB are free on serv2"):
        go(two)
    assert two.there("cat", f"{two.data}/small").stdout == "x"


def test_a_disk_of_the_backup_sets_that_is_too_small_is_noticed_before(two: Two) -> None:
    """rsync counts a symlink or a fifo as kept even if it could not be copied there, and replaces or deletes it."""
    (two.data / "big").write_bytes(os.urandom(3 << 20))
    os.mkfifo(two.data / "fifo")
    for number in range(20):
        (two.data / f"link{number}").symlink_to("first")
    assert go(two).ok
    sets = f"{two.node}/state/backups"
    two.there("mkdir", "-p", sets)
    two.there("mount", "-t", "tmpfs", "-o", "size=2m,nr_inodes=20", "disk", sets)
    (two.data / "fifo").unlink()
    for number in range(20):
        (two.data / f"link{number}").unlink()
        (two.data / f"link{number}").symlink_to("big")
    refused(
        two, Failed, f"{sets}: the old files take .* MiB and 3[0-9] inodes, .* and 19 are free on serv2: nothing was"
    )
    two.there("mount", "-o", "remount,nr_inodes=1000", sets)
    (two.data / "big").write_bytes(os.urandom(3 << 20))
    refused(
        two, Failed, r"the old files take [34]\.[0-9] MiB .*, [12]\.[0-9] MiB .* are free on serv2: nothing was changed"
    )
    assert two.there("ls", "-A", sets).stdout == "", "no set was begun"
    two.there("mount", "-o", "remount,size=9m", sets)
    report = go(two)
    assert report.ok, report.problem
    assert len(two.there("find", sets, "-name", "link*").stdout.split()) == 20
    assert tree(two.data) == tree(two.copy)


def test_on_one_disk_old_files_need_no_room(two: Two) -> None:
    """They are moved: a disk that is full can be tidied up at the sender."""
    two.there("mount", "-t", "tmpfs", "-o", "size=6m", "disk", f"{two.node}")
    two.there("sh", "-c", f"cd {two.other} && cp -a conf state run log data etc {two.node}/")
    (two.data / "big").write_bytes(os.urandom(3 << 20))
    assert go(two).ok
    two.there("sh", "-c", f"head -c 2500000 /dev/zero > {two.node}/nearly-full")
    (two.data / "big").unlink()
    report = go(two)
    assert (report.ok, report.deleted) == (True, 1), report.problem


def test_a_disk_that_gets_full_is_told_and_the_old_files_stay(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    two.there("mount", "-t", "tmpfs", "-o", "size=2m", "disk", str(two.data))
    (two.data / "small").write_text("x")
    assert go(two).ok
    (two.data / "big").write_bytes(os.urandom(3 << 20))
    (two.data / "small").write_text("y")
    monkeypatch.setattr("clusterd.guards.needed", lambda files: 0)
    report = go(two)
    assert not report.ok
    assert "is full (rsync: [receiver] write failed on" in report.problem
    listed = two.there("ls", "-A", str(two.data)).stdout.split()
    assert sorted(listed) == [".clusterd", "first", "small"]
    assert two.there_python("from clusterd import passes; print(passes.freshness('data')[1])").strip() == "True"


def test_unreadable_files_make_the_pass_incomplete(two: Two) -> None:
    fill(two)
    began = passes.read("data").sent["serv2"].began
    (two.data / "file1").write_text("new")
    subprocess.run(["mount", "--bind", "/proc/self/mem", two.data / "file2"], check=True)
    try:
        os.utime(two.copy / "file2", (1, 1))
        report = go(two)
    finally:
        subprocess.run(["umount", two.data / "file2"], check=True)
    assert not report.ok
    assert "could not be read" in report.problem
    assert (two.copy / "file1").read_text() == "new"
    assert passes.read("data").sent["serv2"].began == began
