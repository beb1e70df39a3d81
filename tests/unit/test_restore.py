"""restore_backup: files come back exactly, nothing that is there is lost, no symlink leads out of the tree."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import backups, config, guards, lock, manifest, mirror, mounts, ownership, passes, restore, run
from clusterd.errors import Busy, Failed, NotPermitted, Usage
from clusterd.manifest import Summary
from clusterd.model import Service

if TYPE_CHECKING:
    from unit.conftest import Box

HOSTILE = [
    b"two\nlines",
    b"-rf",
    b"--delete",
    b"# comment",
    b"; comment",
    b'it\'s "q"',
    b"\xff\xfe",
    b" ",
    b"a*?[b]",
    b"\\x",
]


@pytest.fixture
def tree(pair_files: "Box", tmp_path: Path, hostname: Callable[[str], None]) -> Path:
    """The mirrored folder of smbd, on serv1, which holds it."""
    root = tmp_path / "srv" / "samba"
    root.mkdir(parents=True)
    hostname("serv1")
    pair_files.edit("services/smbd.conf", "/srv/samba/, /var/lib/samba/private/, /etc/samba/smb.conf", f"{root}/")
    ownership.enter("serv1", 3, ownership.HELD)
    return root


def replaced(tree: Path, *names: str | bytes, complete: bool = True) -> Summary:
    """A set with what was there of `names`, moved as rsync moves it: the tree lacks them afterwards."""
    set_id = backups.create("smbd", "serv2", 2)
    for name in names:
        path = f"{tree}/{os.fsdecode(name)}"
        manifest.copy_folder(os.path.dirname(path), backups.files_folder(set_id))
        os.rename(path, backups.files_folder(set_id) + path)
    return backups.finish(set_id, complete=complete)


def put_back(found: Summary, tree: Path, *names: str) -> Summary:
    entries = list(backups.entries(found.set))
    chosen = restore.choose(entries, [f"{tree}/{name}" for name in names]) if names else entries
    return restore.put_back(found, restore.plan(chosen, [restore.Place(f"{tree}/", f"{tree}/")]))[0]


def mirrored(box: "Box") -> Service:
    """smbd, as it is configured."""
    return config.load(str(box.conf)).services["smbd"]


def look(path: Path) -> str:
    """All that a file has, as far as tools show it."""
    lines = []
    for argv in (
        ["getfacl", "-R", "-n", "."],
        ["getfattr", "-R", "-h", "-d", "-m", "-", "."],
        ["find", ".", "-type", "d", "-printf", "%p %M %U:%G\\n"],
        ["find", ".", "-not", "-type", "d", "-printf", "%p %M %U:%G %s %T@ %n %l\\n"],
    ):
        lines += sorted(subprocess.run(argv, cwd=path, capture_output=True, check=True).stdout.splitlines())
    return b"\n".join(lines).decode("utf-8", "replace")


def test_everything_that_a_file_has_comes_back(tree: Path) -> None:
    folder = tree / "sales"
    (folder / "deep").mkdir(parents=True)
    plan = folder / "deep" / "plan.ods"
    plan.write_bytes(b"old" * 1000)
    os.link(plan, folder / "hard")
    (folder / "link").symlink_to("/etc/passwd")
    os.lchown(folder / "link", 99, 98)
    os.mkfifo(folder / "fifo", 0o640)
    os.mknod(folder / "node", 0o600 | 0o020000, os.makedev(1, 3))
    with open(folder / "sparse", "wb") as file:
        file.truncate(10 << 20)
    os.chown(plan, 1234, 4321)
    os.chmod(plan, 0o4755)
    os.setxattr(plan, "user.color", b"\x00red")
    os.setxattr(folder, "user.note", b"dir")
    subprocess.run(["setfacl", "-m", "u:77:rwx,g:88:r", str(plan)], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:77:rwx", str(folder)], check=True)
    os.chown(folder / "deep", 55, 66)
    os.utime(plan, ns=(1, 1_234_567_890_123_456_789))
    before = look(tree)
    names = ["sales/deep/plan.ods", "sales/hard", "sales/link", "sales/fifo", "sales/node", "sales/sparse"]
    found = replaced(tree, *names)
    (folder / "deep").rmdir()
    folder.rmdir()
    made = put_back(found, tree)
    assert made.entries == 0
    assert look(tree) == before
    assert os.stat(folder / "sparse").st_blocks < 100
    assert os.stat(plan).st_ino == os.stat(folder / "hard").st_ino


def test_what_it_replaces_is_kept(tree: Path) -> None:
    (tree / "a").write_text("old")
    (tree / "same").write_text("same")
    found = replaced(tree, "a", "same")
    (tree / "a").write_text("new")
    subprocess.run(["setfacl", "-m", "u:77:rwx", str(tree / "a")], check=True)
    os.setxattr(tree / "a", "user.color", b"blue")
    os.chown(tree / "a", 8, 9)
    os.link(tree / "a", tree / "hard")
    os.utime(tree / "a", ns=(1, 1))
    (tree / "same").write_text("same")
    acl = os.getxattr(tree / "a", "system.posix_acl_access")
    made = put_back(found, tree)
    assert (tree / "a").read_text() == "old"
    assert (made.entries, made.replaced, made.why, made.sender, made.service) == (
        1,
        1,
        manifest.RESTORE,
        "serv1",
        "smbd",
    )
    kept = Path(backups.files_folder(made.set) + f"{tree}/a")
    assert (kept.read_text(), os.stat(kept).st_mtime_ns, os.stat(kept).st_uid) == ("new", 1, 8)
    assert (os.getxattr(kept, "user.color"), os.getxattr(kept, "system.posix_acl_access")) == (b"blue", acl)
    assert (tree / "hard").read_text() == "new"
    again = put_back(made, tree)
    assert (tree / "a").read_text() == "new"
    assert put_back(again, tree).replaced == 1
    assert (tree / "a").read_text() == "old"


def test_same_size_and_time_but_another_content(tree: Path) -> None:
    (tree / "a").write_text("old")
    os.utime(tree / "a", ns=(5, 5))
    found = replaced(tree, "a")
    (tree / "a").write_text("new")
    os.utime(tree / "a", ns=(5, 5))
    assert put_back(found, tree).entries == 1
    assert (tree / "a").read_text() == "old"


def test_a_symlink_in_the_way_is_replaced_and_kept(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tree / "a").write_text("old")
    found = replaced(tree, "a")
    (tree / "a").symlink_to(tmp_path / "precious")
    made = put_back(found, tree)
    assert (tree / "a").read_text() == "old"
    assert not (tree / "a").is_symlink()
    assert (tmp_path / "precious").read_text() == "mine"
    assert os.readlink(backups.files_folder(made.set) + f"{tree}/a") == str(tmp_path / "precious")


def test_hostile_names(tree: Path) -> None:
    names = [os.fsdecode(name) for name in HOSTILE]
    names += [f"{folder}/{name}" for folder in ("sub\nfolder", "-d") for name in names]
    for name in names:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(f"old {name!r}")
    found = replaced(tree, *names)
    put_back(found, tree)
    for name in names:
        assert (tree / name).read_text() == f"old {name!r}"
        (tree / name).write_text("new")
    made = put_back(found, tree, *names[:2], "-d")
    assert sorted(entry.path for entry in backups.entries(made.set)) == sorted(
        f"{tree}/{name}" for name in [*names[:2], *(name for name in names if name.startswith("-d/"))]
    )


def test_choosing_files_and_folders(tree: Path) -> None:
    (tree / "sub").mkdir()
    (tree / "sub-not").mkdir()
    names = ["a", "sub/b", "sub/c", "sub-not/d"]
    for name in names:
        (tree / name).write_text("old")
    found = replaced(tree, *names)
    put_back(found, tree, "sub/", "./a")
    assert sorted(os.listdir(tree / "sub")) == ["b", "c"]
    assert (tree / "a").exists()
    assert not (tree / "sub-not" / "d").exists()
    with pytest.raises(Usage, match="not in this backup set"):
        put_back(found, tree, "su")


def test_a_parent_that_is_a_symlink_now_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tree / name).write_text("old")
    found = replaced(tree, "a", "sub/b")
    (tree / "sub").rmdir()
    (tmp_path / "outside").mkdir()
    (tree / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(Failed, match=r"sub: is a symlink now, not a folder"):
        put_back(found, tree)
    assert os.listdir(tmp_path / "outside") == []
    assert not (tree / "a").exists(), "a refusal touches nothing"
    assert len(backups.every()) == 1


def test_a_folder_that_becomes_a_symlink_at_the_wrong_moment_leads_nowhere(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tree / "sub").mkdir()
    (tree / "sub" / "b").write_text("old")
    found = replaced(tree, "sub/b")
    (tmp_path / "outside").mkdir()
    check = run.check

    def swapped(argv: tuple[str, ...], **how: object) -> str:
        if "rsync" in argv:
            (tree / "sub").rmdir()
            (tree / "sub").symlink_to(tmp_path / "outside")
        return check(argv, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "check", swapped)
    with pytest.raises(Failed, match="rsync"):
        put_back(found, tree)
    assert os.listdir(tmp_path / "outside") == []


def test_no_symlink_is_followed_below_the_folder_whatever_the_program(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tree / "disk")], check=True)
    try:
        for folder in (tree, tree / "disk"):
            (folder / "link").symlink_to(outside)
            touch = ["touch", f"{folder}/link/file"]
            done = subprocess.run([*restore.contained(str(tree)), *touch], capture_output=True, text=True, check=False)
            assert "Too many levels of symbolic links" in done.stderr
            assert os.listdir(outside) == []
        subprocess.run([*restore.contained(str(tree)), "touch", f"{tree}/plain", f"{tree}/disk/plain"], check=True)
        subprocess.run(touch, check=True)
        assert os.listdir(outside) == ["file"], "elsewhere symlinks are followed as ever"
    finally:
        subprocess.run(["umount", str(tree / "disk")], check=True)


def test_a_folder_swapped_again_and_again(tree: Path, tmp_path: Path) -> None:
    (tree / "sub").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    names = [f"sub/{number}" for number in range(50)]
    for name in names:
        (tree / name).write_text("old")
    found = replaced(tree, *names)
    (tree / "evil").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            try:
                for first, second in (("sub", "away"), ("evil", "sub"), ("sub", "evil"), ("away", "sub")):
                    os.rename(tree / first, tree / second)
            except OSError:  # what is put back made a folder in the gap
                shutil.rmtree(tree / "sub", ignore_errors=True)
                with contextlib.suppress(OSError):
                    os.rename(tree / "away", tree / "sub")

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(15):
            try:
                put_back(found, tree)
            except (Failed, OSError):
                pass
    finally:
        stop.set()
        thread.join()
    assert os.listdir(outside) == []


@pytest.mark.parametrize("into", ["folder", "file"])
def test_a_folder_and_a_file_do_not_take_each_others_place(tree: Path, into: str) -> None:
    (tree / "a").write_text("old")
    (tree / "empty").mkdir()
    found = replaced(tree, "a", "empty")
    if into == "folder":
        (tree / "a").mkdir()
        (tree / "a" / "child").write_text("x")
    else:
        (tree / "empty").write_text("x")
    with pytest.raises(Failed, match=r"is a folder now, and was a file|is a file now, and was a folder"):
        put_back(found, tree)
    assert len(backups.every()) == 1


def test_an_empty_folder_comes_back(tree: Path) -> None:
    (tree / "empty").mkdir(mode=0o711)
    os.chown(tree / "empty", 5, 6)
    set_id = backups.create("smbd", "serv2", 2)
    backups.keep_folders(set_id, [f"{tree}/empty"])
    (tree / "empty").rmdir()
    found = backups.finish(set_id, complete=True)
    put_back(found, tree)
    about = os.stat(tree / "empty")
    assert (about.st_mode & 0o7777, about.st_uid, about.st_gid) == (0o711, 5, 6)


def test_folders_above_keep_what_they_have(tree: Path) -> None:
    (tree / "sub").mkdir(mode=0o750)
    (tree / "sub" / "a").write_text("old")
    found = replaced(tree, "sub/a")
    os.chmod(tree / "sub", 0o2777)
    os.chown(tree / "sub", 9, 9)
    put_back(found, tree)
    about = os.stat(tree / "sub")
    assert (about.st_mode & 0o7777, about.st_uid) == (0o2777, 9)


def test_a_path_that_is_not_mirrored_any_more(tree: Path) -> None:
    (tree / "a").write_text("old")
    found = replaced(tree, "a")
    with pytest.raises(Failed, match="in no mirrored path"):
        restore.plan(backups.entries(found.set), [restore.Place("/other/", "/other/")])


def test_a_folder_behind_a_symlink(tree: Path, pair_files: "Box", tmp_path: Path) -> None:
    """What --to names is followed. A mirrored folder is not, as in a pass: its owner may have put the symlink there."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tree / "a").write_text("old")
    found = replaced(tree, "a")
    tree.rmdir()
    tree.symlink_to(disk)
    entries = list(backups.entries(found.set))
    restore.put_back(found, restore.plan(entries, restore.elsewhere(str(tree))))
    assert (disk / str(tree).strip("/") / "a").read_text() == "old"
    smbd = mirrored(pair_files)
    with pytest.raises(Failed) as refused:
        restore.places(smbd)
    words = f"smbd: {tree}/: {tree} leads through a symlink; write {disk} in the configuration instead"
    assert words in str(refused.value)
    with pytest.raises(Failed, match=re.escape(words)):
        guards.check_place(smbd, f"{tree}/", None, mounts.table(), "the source")


def test_the_folder_itself_is_replaced_by_a_symlink(tree: Path, pair_files: "Box", tmp_path: Path) -> None:
    """Its owner, or that of the folder above it, has nothing written elsewhere by it."""
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "a").write_text("root's")
    (tree / "a").write_text("the user's")
    found = replaced(tree, "a")
    tree.rmdir()
    tree.symlink_to(victim)
    for words in (("--all",), ("--all", "--force"), ("--all", "--dry-run")):
        done = pair_files.script("restore_backup", found.set, *words)
        assert (done.returncode, "leads through a symlink" in done.stderr) == (1, True), done.stderr
    assert (victim / "a").read_text() == "root's"
    assert len(backups.every()) == 1


@pytest.mark.parametrize("before", ['mount" --rbind "*', 'mount*" none ."', 'mount*" none ./disk"', "rsync*"])
def test_the_folder_itself_becomes_a_symlink_meanwhile(
    tree: Path, pair_files: "Box", tmp_path: Path, before: str
) -> None:
    """Who owns the folder above may do that at any time, just before each of the programs starts as well."""
    victim, away, names = tmp_path / "victim", tmp_path / "away", ["a", "disk/a"]
    for folder in (victim / "disk", tree / "disk"):
        folder.mkdir(parents=True)
    for name in names:
        (victim / name).write_text("root's")
    # In the mount namespace of the user, that is: in one that has something mounted there it would stay in place.
    swap = f"mv {tree} {away} && ln -s {victim} {tree}"
    swap = f"[ -L {tree} ] || nsenter --mount=/proc/{os.getpid()}/ns/mnt sh -c '{swap}'"
    for name in ("mount", "rsync"):
        real = shutil.which(name)
        pair_files.program(name, f'case "{name} $*" in {before}) {swap} ;; esac\nexec {real} "$@"')
    subprocess.run(["mount", "-t", "tmpfs", "no disk", str(tree / "disk")], check=True)
    try:
        set_id = backups.create("smbd", "serv2", 2)
        for name in names:
            kept = Path(f"{backups.files_folder(set_id)}{tree}/{name}")
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text("the user's")
        done = pair_files.script("restore_backup", backups.finish(set_id, complete=True).set, "--all")
        assert tree.is_symlink()
        assert [(victim / name).read_text() for name in names] == ["root's"] * 2, done.stderr
        if "--rbind" in before:
            assert (done.returncode, "another folder has taken its place" in done.stderr) == (1, True), done.stderr
        else:
            assert [(away / name).read_text() for name in names] == ["the user's"] * 2, done.stderr
    finally:
        subprocess.run(["umount", str((away if away.exists() else tree) / "disk")], check=True)


@pytest.mark.parametrize("force", [False, True])
def test_nothing_is_put_back_below_a_mount_point_without_its_disk(tree: Path, pair_files: "Box", force: bool) -> None:
    """The files would be hidden once the disk is there again."""
    (tree / "a").write_text("old")
    found = replaced(tree, "a")
    smbd = mirrored(pair_files)
    jobs = restore.plan(list(backups.entries(found.set)), restore.places(smbd))
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tree)], check=True)
    try:
        places = guards.check_source(smbd, passes.read("smbd"))
    finally:
        subprocess.run(["umount", str(tree)], check=True)
    passes.write(passes.read("smbd")._replace(places=places))
    with pytest.raises(Failed, match=r"no longer the mount that it was .*: is its disk mounted\?"):
        restore.put_back_here(found, jobs, smbd, force=force)
    assert not (tree / "a").exists()
    assert len(backups.every()) == 1
    passes.forget_places("smbd")
    restore.put_back_here(found, jobs, smbd, force=force)
    assert (tree / "a").read_text() == "old"


def test_a_disk_mounted_inside_the_tree(tree: Path) -> None:
    (tree / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(tree / "disk")], check=True)
    try:
        (tree / "disk" / "sub").mkdir()
        (tree / "disk" / "sub" / "a").write_text("old")
        set_id = backups.create("smbd", "serv2", 2)
        path = f"{backups.files_folder(set_id)}{tree}/disk/sub/a"
        os.makedirs(os.path.dirname(path))
        Path(path).write_text("older")
        found = backups.finish(set_id, complete=True)
        made = put_back(found, tree)
        assert (tree / "disk" / "sub" / "a").read_text() == "older"
        assert Path(f"{backups.files_folder(made.set)}{tree}/disk/sub/a").read_text() == "old"
    finally:
        subprocess.run(["umount", str(tree / "disk")], check=True)


def test_only_the_holder_puts_back(tree: Path, pair_files: "Box") -> None:
    service = mirrored(pair_files)
    restore.check_holder(service)
    ownership.learn("serv1", 4, "serv2")
    with pytest.raises(NotPermitted, match=r"--to DIR and copy it to serv2, which holds serv1"):
        restore.check_holder(service)


def test_while_files_are_put_back_no_pass_takes_them_half(tree: Path, pair_files: "Box", tmp_path: Path) -> None:
    """So nothing is handed over either. If the group moves without a pass, the restore does not call itself done."""
    (tree / "a").write_text("old")
    found = replaced(tree, "a")
    (tree / "a").write_text("new")
    started, go = tmp_path / "started", tmp_path / "go"
    wait = f"touch {started}; while [ ! -e {go} ]; do sleep 0.02; done"
    pair_files.program("rsync", f'{wait}; exec {shutil.which("rsync")} "$@"')
    settings = config.load(str(pair_files.conf))
    with ThreadPoolExecutor() as pool:
        restoring = pool.submit(pair_files.script, "restore_backup", found.set, "--all")
        try:
            while not started.exists() and not restoring.done():
                time.sleep(0.02)
            with pytest.raises(Busy):
                mirror.run_pass(settings, settings.services["smbd"], settings.nodes["serv2"], leaving=True, wait=0)
            ownership.learn("serv1", 9, "serv2")
        finally:
            go.touch()
        done = restoring.result()
    assert done.returncode == 1
    kept = backups.every()[-1]
    assert "the group serv1 has moved meanwhile: what was put back is not where it is served" in done.stderr
    assert kept.why == manifest.RESTORE and kept.set in done.stderr


def test_a_group_that_has_moved_and_come_back_meanwhile(
    tree: Path, pair_files: "Box", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The passes from the other node have taken away what was put back before."""
    (tree / "a").write_text("old")
    found = replaced(tree, "a")
    jobs = restore.plan(list(backups.entries(found.set)), [restore.Place(f"{tree}/", f"{tree}/")])
    monkeypatch.setattr(restore, "_copy", lambda *_: ownership.enter("serv1", 5, ownership.HELD))
    with pytest.raises(Failed, match="has moved meanwhile"):
        restore.put_back_here(found, jobs, mirrored(pair_files))


@pytest.mark.parametrize("name", ["mirror-smbd", "group-serv1"])
def test_nothing_is_put_back_during_a_pass_or_a_hand_over(tree: Path, pair_files: "Box", name: str) -> None:
    (tree / "a").write_text("old")
    found = replaced(tree, "a")
    jobs = restore.plan(list(backups.entries(found.set)), [restore.Place(f"{tree}/", f"{tree}/")])
    smbd = mirrored(pair_files)
    with lock.Lock(name):
        for force in (False, True):
            with pytest.raises(Busy, match="nothing was put back"):
                restore.put_back_here(found, jobs, smbd, force=force, wait=0.1)
        assert not (tree / "a").exists()
        elsewhere = tree.parent / "elsewhere"
        elsewhere.mkdir()
        assert pair_files.script("restore_backup", found.set, "--all", "--to", str(elsewhere)).returncode == 0
    restore.put_back_here(found, jobs, smbd)
    assert (tree / "a").read_text() == "old"


def test_the_script(tree: Path, pair_files: "Box", tmp_path: Path) -> None:
    (tree / "two\nlines").write_text("old")
    found = replaced(tree, "two\nlines")
    (tree / "two\nlines").write_text("new")
    script = pair_files.script

    shown = script("restore_backup", found.set[:15])
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.startswith("deleted  0644") and shown.stdout.rstrip().endswith("two\\nlines")
    assert json.loads(script("restore_backup", "--json", found.set).stdout)["files"][0]["path"] == f"{tree}/two\nlines"

    dry = script("restore_backup", "--dry-run", found.set, "--all")
    assert "would put back: " in dry.stdout and "what is there now goes into a backup set" in dry.stdout
    assert (tree / "two\nlines").read_text() == "new"

    (tmp_path / "look").mkdir()
    done = script("restore_backup", found.set, "--to", str(tmp_path / "look"), f"{tree}/two\nlines")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (Path(f"{tmp_path}/look{tree}") / "two\nlines").read_text() == "old"

    done = script("restore_backup", "-v", found.set, "--all")
    assert done.returncode == 0 and "1 put back" in done.stdout
    assert (tree / "two\nlines").read_text() == "old"
    assert len(backups.every()) == 2
    events = [json.loads(line) for line in (pair_files.log / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "backup-restored" and events[-1]["kept"] == backups.every()[-1].set

    ownership.learn("serv1", 9, "serv2")
    refused = script("restore_backup", found.set, "--all")
    assert refused.returncode == 77 and "copy it to serv2" in refused.stderr
    assert script("restore_backup", "--force", found.set, "--all").returncode == 0
    for words in (
        ("nothing",),
        (found.set, "--all", "/x"),
        (found.set, "/not/in/it"),
        (found.set, "--to", "/nope", "--all"),
    ):
        assert script("restore_backup", *words).returncode == 2, words
