"""Backup sets: any name goes in and comes out, a crash at any step leaves a set that is found, nothing is lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd import backups, manifest, paths
from clusterd.backups import Change
from clusterd.errors import Busy, Failed, Usage

if TYPE_CHECKING:
    from unit.conftest import Box

NAMES = [b"plain", b"with space", b"two\nlines", b"-rf", b"--delete", b'it\'s "quoted"', b"\xff\xfe", b"$(id)", b"\\x"]
"""What a user can call a file."""


@pytest.fixture(autouse=True)
def _box(box: "Box") -> None:
    """All of it happens in a box."""


def fill(set_id: str, *names: str, text: str = "old") -> None:
    """Put old files into a set, as rsync does."""
    for name in names:
        path = backups.files_folder(set_id) + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        Path(path).write_text(text)


def make(*names: str, service: str = "smbd", complete: bool = True) -> manifest.Summary:
    set_id = backups.create(service, "serv1", 3)
    fill(set_id, *names)
    return backups.finish(set_id, complete=complete)


def test_a_set_from_its_creation_to_its_end(tmp_path: Path) -> None:
    live = tmp_path / "live"
    live.write_text("new")
    set_id = backups.create("smbd", "serv1", 7)
    assert backups.load(set_id).state == manifest.OPEN
    assert backups.running(set_id)
    fill(set_id, str(live), "/srv/gone", text="four")
    made = backups.finish(set_id, complete=True, unmirrored=["/srv/gone"], both=[str(live)])
    assert (made.service, made.sender, made.epoch, made.state) == ("smbd", "serv1", 7, manifest.COMPLETE)
    assert (made.entries, made.bytes, made.replaced, made.deleted, made.unmirrored, made.both) == (2, 8, 1, 1, 1, 1)
    assert made == backups.load(set_id) == backups.find(set_id[:20]) == backups.every()[0]
    assert not backups.running(set_id)
    found = {entry.path: entry for entry in backups.entries(set_id)}
    about = os.lstat(backups.files_folder(set_id) + "/srv/gone")
    gone = found["/srv/gone"]
    assert (gone.what, gone.kind, gone.size, gone.unmirrored) == (manifest.DELETED, manifest.FILE, 4, True)
    assert (gone.mtime, gone.mode, gone.uid, gone.gid) == (about.st_mtime_ns, 0o644, os.getuid(), os.getgid())
    assert found[str(live)].what == manifest.REPLACED


def test_every_name_survives() -> None:
    set_id = backups.create("smbd", "serv1", 1)
    names = [f"/srv/{os.fsdecode(folder)}/{os.fsdecode(name)}" for folder in NAMES for name in NAMES]
    fill(set_id, *names)
    backups.finish(set_id, complete=True, unmirrored=names)
    assert sorted(entry.path for entry in backups.entries(set_id)) == sorted(names)
    assert all(entry.unmirrored for entry in backups.entries(set_id))
    lines = Path(f"{backups.folder(set_id)}/entries.jsonl").read_text(encoding="ascii").splitlines()
    assert len(lines) == len(names)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.sets(
        st.binary(min_size=1, max_size=30).filter(lambda name: name not in (b".", b"..") and not {0, 47} & set(name)),
        min_size=1,
        max_size=8,
    )
)
def test_names_of_any_bytes_round_trip(names: set[bytes]) -> None:
    wanted = sorted("/srv/" + os.fsdecode(name) for name in names)
    set_id = backups.create("smbd", "serv1", 1)
    fill(set_id, *wanted)
    backups.finish(set_id, complete=True)
    assert sorted(entry.path for entry in backups.entries(set_id)) == wanted


def test_kinds_and_no_symlink_is_followed(tmp_path: Path) -> None:
    set_id = backups.create("smbd", "serv1", 1)
    top = backups.files_folder(set_id)
    os.mkdir(f"{top}/srv")
    os.symlink("/", f"{top}/srv/root")
    os.symlink("nowhere", f"{top}/srv/broken")
    os.mkfifo(f"{top}/srv/fifo")
    os.mkdir(f"{top}/srv/empty")
    made = backups.finish(set_id, complete=True)
    kinds = {entry.path: entry.kind for entry in backups.entries(set_id)}
    assert kinds == {
        "/srv/root": "symlink",
        "/srv/broken": "symlink",
        "/srv/fifo": "fifo",
        "/srv/empty": manifest.FOLDER,
    }
    assert made.bytes == 0


def test_an_empty_set_is_removed() -> None:
    set_id = backups.create("smbd", "serv1", 1)
    assert backups.finish(set_id, complete=True).entries == 0
    assert os.listdir(paths.BACKUPS) == []
    with pytest.raises(Failed, match="no such backup set"):
        backups.load(set_id)


def test_what_the_pass_says_goes_before_what_is_seen(tmp_path: Path) -> None:
    live = tmp_path / "came-back"
    live.write_text("written between")
    set_id = backups.create("smbd", "serv1", 1)
    fill(set_id, str(live))
    backups.finish(set_id, complete=True, entries_hint=[Change(str(live), manifest.DELETED)])
    assert [entry.what for entry in backups.entries(set_id)] == [manifest.DELETED]


def test_folders_that_a_pass_deletes_are_kept_with_their_attributes(tmp_path: Path) -> None:
    outer = tmp_path / "srv"
    empty = outer / "two\nlines"
    empty.mkdir(parents=True)
    os.chown(empty, 1234, 2345)
    os.chmod(empty, 0o2750)
    os.setxattr(empty, "user.note", b"kept")
    subprocess.run(["setfacl", "-m", "u:1:rwx", str(empty)], check=True)
    os.utime(empty, ns=(1, 10**18 + 1))
    wanted = subprocess.run(["getfacl", "-p", "."], cwd=empty, capture_output=True, text=True, check=True).stdout
    set_id = backups.create("smbd", "serv1", 1)
    (tmp_path / "link").symlink_to("srv")
    backups.keep_folders(set_id, [f"{empty}/", str(tmp_path / "not-there"), f"{tmp_path}/link/", str(outer)])
    empty.rmdir()
    backups.finish(set_id, complete=True)
    (entry,) = backups.entries(set_id)
    assert (entry.path, entry.what, entry.kind) == (str(empty), manifest.DELETED, manifest.FOLDER)
    assert (entry.uid, entry.gid, entry.mode & 0o7707, entry.mtime) == (1234, 2345, 0o2750 & 0o7707, 10**18 + 1)
    kept = Path(backups.files_folder(set_id) + str(empty))
    assert os.getxattr(kept, "user.note") == b"kept"
    assert subprocess.run(["getfacl", "-p", "."], cwd=kept, capture_output=True, text=True, check=True).stdout == wanted
    os.mkdir(empty)
    assert list(manifest.walk(backups.files_folder(set_id), manifest.Known({}))) == []


CRASH = """
import os, signal
from clusterd import backups
set_id = backups.create("smbd", "serv1", 1)
backups.note(set_id, unmirrored=["/srv/a"], both=["/srv/b"])
os.makedirs(backups.files_folder(set_id) + "/srv")
for name in "ab":
    open(backups.files_folder(set_id) + f"/srv/{name}", "w").write("old")
print(set_id, flush=True)
os.kill(os.getpid(), signal.SIG%s)
"""


def test_a_set_left_open_by_a_crash_is_found_and_recovered(box: "Box") -> None:
    done = subprocess.run(
        [sys.executable, "-c", CRASH % "KILL"], env=box.env, capture_output=True, text=True, check=False
    )
    (found,) = backups.every()
    assert found.set == done.stdout.strip()
    assert (found.state, found.entries) == (manifest.OPEN, 0)
    assert not backups.running(found.set)
    assert [entry.path for entry in backups.entries(found.set)] == ["/srv/a", "/srv/b"]
    made = backups.recover(found.set)
    assert (made.state, made.entries, made.unmirrored, made.both) == (manifest.CUT, 2, 1, 1)
    assert backups.recover(found.set) == made


def test_a_set_whose_pass_is_running_is_left_alone(box: "Box") -> None:
    process = subprocess.Popen([sys.executable, "-c", CRASH % "STOP"], env=box.env, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    set_id = process.stdout.readline().strip()
    try:
        assert backups.running(set_id)
        for act in (backups.recover, lambda name: backups.finish(name, complete=True)):
            with pytest.raises(Busy, match=set_id):
                act(set_id)
    finally:
        process.kill()
        process.communicate()
    assert backups.recover(set_id).state == manifest.CUT


def test_a_crash_while_the_list_is_written_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    set_id = backups.create("smbd", "serv1", 1)
    fill(set_id, "/srv/a", "/srv/b")

    def no(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", no)
        with pytest.raises(OSError, match="No space"):
            backups.finish(set_id, complete=True)
    assert backups.load(set_id).state == manifest.OPEN
    assert not backups.running(set_id)
    assert backups.recover(set_id).entries == 2


def test_an_interrupted_deletion_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make("/srv/a")

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("clusterd.run.check", killed)
        with pytest.raises(KeyboardInterrupt):
            backups.withdraw(made.set)
            backups.sweep()
    assert backups.every() == []
    assert len(os.listdir(paths.BACKUPS)) == 1
    backups.sweep()
    assert os.listdir(paths.BACKUPS) == []


def test_deleting_a_set_follows_no_symlink_and_knows_no_depth(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("keep me")
    made = make("/srv/a", "/srv/-rf", "/srv/two\nlines")
    top = backups.files_folder(made.set)
    os.symlink(tmp_path / "precious", f"{top}/srv/link")
    deep = os.open(top, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=deep)
        deeper = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = deeper
    os.close(deep)
    backups.withdraw(made.set)
    backups.sweep()
    assert os.listdir(paths.BACKUPS) == []
    assert (tmp_path / "precious" / "file").read_text() == "keep me"


@pytest.mark.parametrize("name", ["..", "../x", "/etc", "", ".deleting-x", "20260314T021500.123Z-../-3f9a", "x\n"])
def test_an_id_names_nothing_outside(name: str) -> None:
    with pytest.raises(Usage):
        backups.files_folder(name)


def test_prefixes_are_unique_or_refused() -> None:
    first, second = make("/srv/a"), make("/srv/b", service="lpd")
    assert backups.find(second.set) == second
    assert first.set < second.set
    with pytest.raises(Usage, match="2 backup sets begin with '2'"):
        backups.find("2")
    with pytest.raises(Usage, match="no backup set begins with 'x'"):
        backups.find("x")


def test_a_damaged_manifest_hides_no_other_set() -> None:
    first, second = make("/srv/a"), make("/srv/b")
    Path(f"{backups.folder(first.set)}/manifest.json").write_text("{")
    damaged, found = backups.every()
    assert found == second
    assert (damaged.set, damaged.state, damaged.confirmed) == (first.set, manifest.DAMAGED, None)
    Path(f"{backups.folder(second.set)}/manifest.json").write_text(json.dumps({"set": 1, "odd": 2}))
    with pytest.raises(Failed, match="not a backup set's manifest"):
        backups.load(second.set)
    Path(f"{backups.folder(first.set)}/entries.jsonl").write_text("{}\n")
    with pytest.raises(Failed, match="damaged"):
        list(backups.entries(first.set))


def test_a_folder_without_a_manifest_is_no_set() -> None:
    made = make("/srv/a")
    os.makedirs(f"{paths.BACKUPS}/20260101T000000.000Z-smbd-0000/files")
    os.makedirs(f"{paths.BACKUPS}/lost+found")
    assert backups.every() == [made]


def test_no_sets_at_all() -> None:
    assert backups.every() == []
    backups.sweep()


def test_what_a_set_has_is_no_other_name_of_a_file_that_lives_on(tmp_path: Path) -> None:
    """rsync moves one name of a file into the set; what is written to another one afterwards is not to be in there."""
    live, other = tmp_path / "live", tmp_path / "other"
    live.write_text("what it was")
    os.chmod(live, 0o640)
    os.utime(live, ns=(1, 1_234_567_890_123_456_789))
    os.link(live, other)
    set_id = backups.create("smbd", "serv1", 7)
    files = backups.files_folder(set_id)
    os.makedirs(f"{files}/srv")
    os.rename(live, f"{files}/srv/one")
    os.link(f"{files}/srv/one", f"{files}/srv/two")
    Path(f"{files}/srv/three").write_text("a pair of its own")
    os.link(f"{files}/srv/three", f"{files}/srv/four")
    pair = os.stat(f"{files}/srv/three").st_ino
    backups.finish(set_id, complete=True)
    other.write_text("what it became")
    one, two = (os.stat(f"{files}/srv/{name}") for name in ("one", "two"))
    assert Path(f"{files}/srv/one").read_text() == "what it was"
    assert (one.st_ino, one.st_nlink) == (two.st_ino, 2), "the two names of one file are still that"
    assert (one.st_mode & 0o777, one.st_mtime_ns) == (0o640, 1_234_567_890_123_456_789)
    assert os.stat(f"{files}/srv/four").st_ino == pair
    assert sorted(entry.path for entry in backups.entries(set_id)) == [
        f"/srv/{name}" for name in ("four", "one", "three", "two")
    ]
    assert os.listdir(backups.folder(set_id)).count("copying") == 0


def test_what_is_put_into_a_set_that_was_confirmed_has_to_be_confirmed(tmp_path: Path) -> None:
    made = make("/srv/old")
    backups.save(made._replace(confirmed=1000.0, confirmed_by="root"))
    backups.reopen(made.set)
    fill(made.set, "/srv/newer")
    again = backups.finish(made.set, complete=True)
    assert (again.entries, again.confirmed, again.confirmed_by) == (2, None, "")
    assert backups.load(made.set) == again
