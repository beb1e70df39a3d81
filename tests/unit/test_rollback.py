"""A cut pass is rolled back exactly, wherever it was cut; what it had brought is kept; killed and run again, it ends.

Both sides are folders of this machine: rsync runs as in a pass, but without the daemon; the receiving session is real.
"""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import (
    backups,
    endpass,
    generation,
    leftovers,
    manifest,
    model,
    ownership,
    passes,
    paths,
    receiver,
    rsync,
)
from clusterd.errors import Failed
from unit.randomtree import Gardener, differences, look

if TYPE_CHECKING:
    from unit.conftest import Box


class Copy:
    """A receiver of passes from a folder beside it: rsync as in a pass, but for the daemon; the session is real."""

    def __init__(self, top: Path, *, consistent: bool = True, exclude: tuple[str, ...] = ()) -> None:
        self.source, self.target = top / "source", top / "target"
        self.files, self.copy = self.source / "data", self.target / "data"
        for folder in (self.files, self.copy):
            folder.mkdir(parents=True)
        self.service = service(f"{self.copy}/", consistent=consistent, exclude=exclude)
        ownership.write(ownership.Record("serv1", 1, "serv1"))

    def session(self) -> receiver.Session:
        """As the gate makes it for a pass."""
        made = receiver.Session(None, self.service, "serv1", 1, None)  # type: ignore[arg-type]
        made.record = leftovers.recover(self.service)
        return made

    def argv(self, backup: str | None) -> list[str]:
        """The sender's options."""
        seen = self.service._replace(paths=("/data/",))
        kept = ("SET", backup) if backup else None
        made = rsync.argv(seen, "", ["x"], 1, gate="x", timeout=30, backup=kept, max_delete=10**6)
        options = made[: made.index("-e")]
        return [*options, "--", f"{self.source}/./data/", f"{self.target}/"]

    def begin(self) -> tuple[receiver.Session, list[str]]:
        """A pass up to the point at which files change: the session, and the rsync to be run."""
        session = self.session()
        planned = subprocess.run(self.argv(None), capture_output=True, check=True).stdout
        items = [item._replace(path=f"{self.target}{item.path}") for item in rsync.parse(planned).items]
        message = {
            "space": {},
            "folders": [item.path for item in items if item.deleted and item.folder],
            "both": [],
            "named": [item.path for item in items if rsync.TEMPORARY.match(os.path.basename(item.path))],
        }
        answer = session._begin(message)
        return session, self.argv(f"{answer['files']}{self.target}")

    def mirror(self) -> None:
        """Passes until one is complete: rsync's may fail (23) at what has turned into something else."""
        for code in (rsync.ERRORS, rsync.ERRORS, None):
            session, argv = self.begin()
            done = subprocess.run(argv, stdout=subprocess.DEVNULL, check=False).returncode
            assert done in (0, code)
            session._end({"complete": done == 0, "entries": 1, "changes": []})
            if done == 0:
                break
        assert (
            differences(*({name: sure(entry) for name, entry in look(top).items()} for top in (self.files, self.copy)))
            == {}
        )

    def cut(self, when: "Moment") -> bool:
        """A pass that is killed; whether it was still running."""
        session, argv = self.begin()
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        when(process, next(word[13:] for word in argv if word.startswith("--backup-dir=")))
        running = process.poll() is None
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        os.close(backups._held.pop(session.set))  # the session dies as well
        return running

    def settle(self) -> passes.Unfinished:
        """What a takeover does before it starts the service."""
        found = endpass.settle(self.service)
        assert found
        return found


def service(*paths: str, consistent: bool, exclude: tuple[str, ...] = ()) -> model.Service:
    return model.Service(
        name="data",
        home="serv1",
        order=1,
        kind="none",
        unit="",
        start=(),
        stop=(),
        status=(),
        timeout=5,
        every=60,
        paths=paths,
        include=(),
        exclude=exclude,
        whole_file=False,
        bandwidth=0,
        max_delete="100 %",
        before=(),
        after=(),
        consistent=consistent,
    )


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A disk that is quick to sync."""
    made = Path(tempfile.mkdtemp(prefix="clusterd-", dir="/dev/shm"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(params=["one disk", "two disks"])
def _serv2(box: "Box", hostname: Callable[[str], None], request: pytest.FixtureRequest) -> Iterator[None]:
    """The receiver; its backup sets are on the disk of the mirrored files, or on another one."""
    hostname("serv2")
    if request.param == "one disk":
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "none", str(box.state)], check=True)
    yield
    subprocess.run(["umount", "-l", str(box.state)], check=True)


def sure(entry: tuple[Any, ...]) -> tuple[Any, ...]:
    """What rsync does exactly: of symlinks with several names neither which are one, nor what they have."""
    return (entry[4],) if entry[0].startswith("0o12") else entry[:-1]


Moment = Callable[["subprocess.Popen[bytes]", str], None]


def after(seconds: float) -> Moment:
    return lambda _process, _backup: time.sleep(seconds)


def once_kept(count: int) -> Moment:
    """As soon as so many files have gone to the backup set: the pass is putting the new ones in their place."""

    def wait(process: "subprocess.Popen[bytes]", backup: str) -> None:
        while process.poll() is None:
            if sum(len(files) for _, _, files in os.walk(backup)) >= count:
                return

    return wait


def cut_short(copy: Copy) -> receiver.Session:
    """A pass that has changed everything it was to change when it is cut."""
    session, argv = copy.begin()
    subprocess.run(argv, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    os.close(backups._held.pop(session.set))
    return session


def kept_content(set_id: str) -> set[bytes]:
    return {
        each.read_bytes()
        for each in Path(backups.files_folder(set_id)).rglob("*")
        if each.is_file() and not each.is_symlink()
    }


@pytest.mark.usefixtures("_serv2")
@pytest.mark.parametrize("seed", range(4))
def test_a_pass_cut_anywhere_is_rolled_back_exactly(tmp_path: Path, seed: int) -> None:
    copy = Copy(tmp_path)
    garden = Gardener(copy.files, seed)
    garden.grow(120)
    copy.mirror()
    chance = random.Random(seed)
    cuts = 0
    for number in range(5):
        before = look(copy.copy)
        garden.change(60)
        moment = after(chance.uniform(0, 0.05)) if number % 2 else once_kept(chance.randrange(1, 30))
        cuts += copy.cut(moment)
        mixed = look(copy.copy)
        done = copy.settle()
        assert differences(before, look(copy.copy)) == {}
        assert done.served == passes.ROLLED_BACK
        old = {entry[4] for entry in before.values()}
        lost = {entry[4] for name, entry in mixed.items() if entry[0].startswith("0o100") and whole(name)} - old
        assert not lost or lost <= kept_content(done.kept), "what the cut pass had brought is kept"
        copy.mirror()
    assert cuts


def whole(name: str) -> bool:
    """Not one of rsync's own."""
    return paths.PARTIAL not in name and not rsync.TEMPORARY.match(os.path.basename(name))


@pytest.mark.usefixtures("_serv2")
def test_several_cut_passes_in_a_row_are_rolled_back_to_the_last_complete_one(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    garden = Gardener(copy.files, 99)
    garden.grow(80)
    copy.mirror()
    before = look(copy.copy)
    for number in range(4):
        garden.change(50)
        copy.cut(once_kept(5 + number))
    assert copy.settle().served == passes.ROLLED_BACK
    assert differences(before, look(copy.copy)) == {}
    copy.mirror()


@pytest.mark.usefixtures("_serv2")
def test_a_file_that_is_alike_but_for_its_owner_is_not_the_old_one(tmp_path: Path) -> None:
    """So it is where rsync has put one more name of a new file in its place."""
    copy = Copy(tmp_path)
    (copy.files / "a").write_text("content")
    os.chown(copy.files / "a", 1744, 2318)
    copy.mirror()
    before = look(copy.copy)
    session, argv = copy.begin()
    kept = Path(next(word[13:] for word in argv if word.startswith("--backup-dir="))) / "data/a"
    kept.parent.mkdir(parents=True)
    shutil.move(copy.copy / "a", kept)
    (copy.copy / "a").write_text("content")
    os.chown(copy.copy / "a", 2275, 2673)
    os.utime(copy.copy / "a", ns=(1, kept.stat().st_mtime_ns))
    os.close(backups._held.pop(session.set))
    assert copy.settle().served == passes.ROLLED_BACK
    assert differences(before, look(copy.copy)) == {}
    copy.mirror()


def test_rights_for_who_runs_a_file_go_back_to_none_that_has_had_another_owner(tmp_path: Path) -> None:
    """Who owns the folder can have put his own in its place, of the same size, time and number."""
    copy = Copy(tmp_path)
    for name in ("same", "swapped", "able"):
        (copy.files / name).write_text("old")
        (copy.files / name).chmod(0o755 if name == "able" else 0o4755)
    able = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(copy.files / "able", "security.capability", able)
    (copy.files / "z").write_text("old")
    copy.mirror()
    before = look(copy.copy)
    (copy.files / "same").write_text("new")
    session, argv = copy.begin()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    os.close(backups._held.pop(session.set))
    for name in ("swapped", "able"):
        about = (copy.copy / name).stat()
        (copy.copy / name).write_text("bad")
        os.chown(copy.copy / name, 12345, 12345)
        os.utime(copy.copy / name, ns=(1, about.st_mtime_ns))
    assert copy.settle().served == passes.ROLLED_BACK
    assert set(differences(before, look(copy.copy))) == {"swapped", "able"}
    assert (copy.copy / "same").stat().st_mode & 0o7777 == 0o4755
    for name in ("swapped", "able"):
        assert (copy.copy / name).stat().st_mode & 0o7777 == 0o755
        assert "security.capability" not in os.listxattr(copy.copy / name)


def cut_often(copy: Copy, count: int) -> None:
    """So many more cut passes, each of which has replaced one of the first ten files: by hand, which is quicker."""
    record = passes.read("data")
    cut = record.unfinished
    assert cut
    made = list(cut.sets())
    for number in range(count):
        set_id = backups.create("data", "serv1", 1)
        os.close(backups._held.pop(set_id))
        path = copy.copy / f"file{number % 10}"
        kept = Path(f"{backups.files_folder(set_id)}{path}")
        kept.parent.mkdir(parents=True)
        shutil.move(path, kept)
        path.write_text(f"newer {number}")
        backups.save(backups.load(set_id)._replace(state=manifest.CUT, entries=1))
        made.append(set_id)
    passes.write(record._replace(unfinished=cut._replace(earlier=tuple(made[:-1]), set=made[-1])))


def many_files(copy: Copy, count: int) -> None:
    """They are mirrored; then a pass that has replaced the last of them is cut."""
    for number in range(count):
        (copy.files / f"file{number}").write_text("old")
    copy.mirror()
    (copy.files / f"file{count - 1}").write_text("newer")
    cut_short(copy)


@pytest.mark.usefixtures("_serv2")
@pytest.mark.parametrize("_serv2", ["one disk"], indirect=True)
def test_more_cut_passes_in_a_row_than_a_process_may_have_files_open(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    many_files(copy, 20)
    cut_often(copy, 1100)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        done = copy.settle()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert {each.read_text() for each in copy.copy.glob("file*")} == {"old"}
    assert kept_content(done.kept) == {f"newer {number}".encode() for number in range(1090, 1100)} | {b"newer"}
    sets = {one.set: one for one in backups.every()}
    for one in sets.values():
        assert one.entries == len(list(backups.entries(one.set))) == len(kept_files(one.set))
    assert len(sets) == 1090 + 1, "the first ones, with what was put back in them, are empty and gone"
    copy.mirror()


def kept_files(set_id: str) -> list[Path]:
    found = Path(backups.files_folder(set_id)).rglob("*")
    return [each for each in found if each.is_symlink() or not each.is_dir()]


@pytest.mark.usefixtures("_serv2")
@pytest.mark.parametrize("_serv2", ["one disk"], indirect=True)
def test_a_roll_back_looks_at_files_and_sets_not_at_every_file_in_every_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def counted(what: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **how: Any) -> Any:
            nonlocal calls
            calls += 1
            return what(*words, **how)

        return call

    def settling(files: int, sets: int) -> int:
        nonlocal calls
        copy = Copy(tmp_path / f"{files}-{sets}")
        many_files(copy, files)
        cut_often(copy, sets)
        with monkeypatch.context() as patched:
            for name in ("open", "stat", "lstat", "scandir"):
                patched.setattr(os, name, counted(getattr(os, name)))
            calls = 0
            copy.settle()
        return calls

    assert settling(100, 60) < settling(100, 6) + settling(10, 60)


CHANGES = ("rename", "link", "remove", "rmdir", "mkdir", "symlink", "chown", "chmod", "utime", "setxattr")
STEPS = {f"os.{name}" for name in CHANGES}


def killed_at(step: int, what: Callable[[], Any]) -> bool:
    """Do it in a process that is gone before its nth change of anything; False if it has come to its end."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    left = [step]

    def count(event: str, words: Any) -> None:
        if event in STEPS or (event == "open" and isinstance(words[2], int) and words[2] & os.O_CREAT):
            left[0] -= 1
            if left[0] < 0:
                os._exit(9)

    try:
        sys.addaudithook(count)
        what()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.mark.usefixtures("_serv2")
def test_a_roll_back_killed_at_any_step_and_run_again(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    garden = Gardener(copy.files, 7)
    garden.grow(40)
    copy.mirror()
    before = look(copy.copy)
    garden.change(40)
    cut_short(copy)
    mixed = look(copy.copy)
    step = kills = 0
    while killed_at(step, lambda: endpass.settle(copy.service)):
        kills += 1
        step = step + 1 if kills % 3 else 0  # goes on further each time, or is killed at once
        step += kills // 3
    done = copy.settle()
    assert kills > 20
    assert differences(before, look(copy.copy)) == {}
    old = {entry[4] for entry in before.values()}
    brought = {entry[4] for entry in mixed.values() if entry[0].startswith("0o100")}
    assert brought - old <= kept_content(done.kept)
    names = [entry.path for entry in backups.entries(done.kept)]
    assert not [name for name in names if "/.clusterd-half" in name], "no half copies"
    assert backups.load(done.kept).why == manifest.ROLLBACK
    for one in backups.every():
        backups.recover(one.set)  # one that was made just before a kill is empty, and goes
    for one in backups.every():
        listed = [entry.path for entry in backups.entries(one.set) if entry.kind != manifest.FOLDER]
        assert len(listed) == len(kept_files(one.set)), "no set lists what was taken out of it"
    assert [one.set for one in backups.every() if one.why == manifest.ROLLBACK] == [done.kept]
    copy.mirror()


@pytest.mark.usefixtures("_serv2")
@pytest.mark.parametrize("consistent", [True, False])
def test_while_another_disk_is_mounted_nothing_is_touched(tmp_path: Path, consistent: bool) -> None:
    """The old contents would be moved below the mount point, out of reach of the next try."""
    copy = Copy(tmp_path, consistent=consistent)
    garden = Gardener(copy.files, 8)
    garden.grow(20)
    copy.mirror()
    garden.change(20)
    cut_short(copy)
    record = passes.read("data")
    mixed, right = look(copy.copy), record.places
    passes.write(record._replace(places={path: passes.Place(("/dev/gone",)) for path in copy.service.paths}))
    if consistent:
        with pytest.raises(Failed, match="is its disk mounted"):
            endpass.settle(copy.service)
    else:
        assert copy.settle().served == passes.NEWEST
    assert differences(mixed, look(copy.copy)) == {}
    record = passes.read("data")
    assert record.unfinished and not record.unfinished.closed
    passes.write(record._replace(places=right))
    copy.settle()
    if consistent:
        copy.mirror()


@pytest.mark.usefixtures("_serv2")
def test_without_consistent_every_file_is_there_and_whole(tmp_path: Path) -> None:
    copy = Copy(tmp_path, consistent=False)
    garden = Gardener(copy.files, 3)
    garden.grow(100)
    copy.mirror()
    for number in range(12):
        before = look(copy.copy)
        garden.change(40)
        wanted = look(copy.files)
        copy.cut(once_kept(2 * number))
        done = copy.settle()
        assert done.served == passes.NEWEST
        now = look(copy.copy)
        for name in now:
            assert now[name][4] in [each[name][4] for each in (before, wanted) if name in each], name
        for name, was in before.items():
            same = name in wanted and all(
                before[above][0][:4] == wanted[above][0][:4] for above in (name, *map(str, Path(name).parents))
            )
            assert name in now or not (same and was[0].startswith("0o100")), f"{name} is gone"
        if number % 3:
            continue
        copy.mirror()


@pytest.mark.usefixtures("_serv2")
def test_what_is_called_like_a_temporary_file_stays(tmp_path: Path) -> None:
    """A user's .vimrc.backup: sent in the cut pass, chmodded by it, or losing another name by it."""
    copy = Copy(tmp_path, consistent=False)
    names = [".vimrc.backup", ".chmod.AbCdEf", ".link.123456", ".other.backup"]
    for name in names:
        (copy.files / name).write_text("old")
    os.link(copy.files / ".link.123456", copy.files / "second")
    copy.mirror()
    time.sleep(0.1)
    (copy.files / ".vimrc.backup").write_text("newer")
    (copy.files / ".chmod.AbCdEf").chmod(0o600)
    (copy.files / "second").unlink()
    cut_short(copy)
    (copy.copy / ".half.q1w2e3").write_text("ha")
    copy.settle()
    assert sorted(each.name for each in copy.copy.iterdir()) == sorted(names)
    assert (copy.copy / ".vimrc.backup").read_text() == "newer"


@pytest.mark.usefixtures("_serv2")
def test_what_is_excluded_is_left_alone(tmp_path: Path) -> None:
    """It is not mirrored: what a program of this node writes there is neither new nor gone."""
    copy = Copy(tmp_path, exclude=("*.lock", "/cache/"))
    (copy.files / "a").write_text("old")
    copy.mirror()
    (copy.copy / "cache").mkdir()
    (copy.copy / "cache" / "x").write_text("mine")
    (copy.copy / "gone.lock").write_text("mine")
    before = look(copy.copy)
    (copy.files / "a").write_text("newer")
    (copy.files / "new").mkdir()
    (copy.files / "new" / "b").write_text("new")
    cut_short(copy)
    (copy.copy / "gone.lock").unlink()
    (copy.copy / "new" / "late.lock").write_text("mine")
    (copy.copy / "cache" / "y").write_text("mine")
    copy.settle()
    now = look(copy.copy)
    assert differences(before, now).keys() == {"cache", "cache/y", "gone.lock", "new", "new/late.lock"}
    assert (copy.copy / "a").read_text() == "old"
    assert not (copy.copy / "new" / "b").exists()


@pytest.mark.usefixtures("_serv2")
@pytest.mark.parametrize("change", ["a path more", "an exclude less"])
def test_what_is_mirrored_only_since_the_list_was_made_is_left_alone(tmp_path: Path, change: str) -> None:
    """None of it is in the list: it is not new for that."""
    copy = Copy(tmp_path, exclude=("/home/",) if change == "an exclude less" else ())
    (copy.files / "a").write_text("old")
    copy.mirror()
    home = copy.copy / "home" if copy.service.exclude else copy.target / "home"
    home.mkdir()
    (home / "mine").write_text("mine")
    (copy.files / "a").write_text("newer")
    (copy.files / "new").write_text("new")
    cut_short(copy)
    changed = {"exclude": ()} if copy.service.exclude else {"paths": (*copy.service.paths, f"{home}/")}
    copy.service = copy.service._replace(**changed)
    done = copy.settle()
    assert (home / "mine").read_text() == "mine"
    assert (copy.copy / "a").read_text() == "old"
    assert not (copy.copy / "new").exists()
    assert kept_content(done.kept) == {b"newer", b"new"}


@pytest.mark.usefixtures("_serv2")
@pytest.mark.parametrize("change", ["a path less", "an exclude more"])
def test_what_is_not_mirrored_any_more_is_left_alone(tmp_path: Path, change: str) -> None:
    """Another service may have it now, whose passes have put other files there: their old contents are in its sets."""
    copy = Copy(tmp_path)
    for name in ("a", "home/b", "home/gone"):
        (copy.files / name).parent.mkdir(exist_ok=True)
        (copy.files / name).write_text("old")
    copy.mirror()
    (copy.files / "a").write_text("newer")
    (copy.files / "home" / "late").write_text("late")
    cut_short(copy)
    top = f"{copy.copy}/"
    changed = {"paths": (f"{top}a",)} if change == "a path less" else {"exclude": ("/home/",)}
    copy.service = copy.service._replace(**changed)  # type: ignore[arg-type]
    (copy.copy / "home" / "b").unlink()
    (copy.copy / "home" / "b").write_text("another's")
    if change == "a path less":
        (copy.copy / "home" / "gone").unlink()
    before = look(copy.copy / "home")
    copy.settle()
    assert differences(before, look(copy.copy / "home")) == {}
    assert (copy.copy / "a").read_text() == "old"


@pytest.mark.usefixtures("_serv2")
def test_a_list_that_does_not_say_what_was_mirrored(tmp_path: Path) -> None:
    """As an older version of the program made them."""
    copy = Copy(tmp_path, exclude=("*.lock",))
    (copy.files / "a").write_text("old")
    copy.mirror()
    (copy.files / "a").write_text("newer")
    (copy.files / "new").write_text("new")
    cut_short(copy)
    path = Path(generation._path("data"))
    head, *rest = path.read_text().splitlines(keepends=True)
    said = json.loads(head)
    path.write_text("".join([json.dumps({"service": said["service"], "id": said["id"]}) + "\n", *rest]))
    (copy.copy / "gone.lock").write_text("mine")
    copy.settle()
    assert sorted(each.name for each in copy.copy.iterdir()) == ["a", "gone.lock"]
    assert (copy.copy / "a").read_text() == "old"


@pytest.mark.usefixtures("_serv2")
def test_what_cannot_be_rolled_back_is_not_served(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    (copy.files / "a").write_text("old")
    cut_short(copy)
    with pytest.raises(Failed, match=r"no pass to this node has ever been complete\. Put .* takeover serv1 --resume"):
        copy.settle()
    copy.mirror()
    (copy.files / "other").write_text("old")
    copy.mirror()
    for name in ("a", "other"):
        (copy.files / name).write_text("newer")
    session = cut_short(copy)
    path = Path(f"{backups.files_folder(session.set)}{copy.copy}/a")
    shutil.move(path, tmp_path / "away")
    for _ in range(2):
        with pytest.raises(Failed, match="/a: its old content is in no backup set of the cut pass"):
            copy.settle()
        assert (copy.copy / "a").read_text() == "newer"
    shutil.move(tmp_path / "away", path)
    assert copy.settle().served == passes.ROLLED_BACK
    assert (copy.copy / "a").read_text() == "old"


@pytest.mark.usefixtures("_serv2")
def test_the_process_that_received_is_not_quite_gone(tmp_path: Path) -> None:
    """It holds its set a moment longer than the service's lock."""
    copy = Copy(tmp_path)
    (copy.files / "a").write_text("old")
    copy.mirror()
    (copy.files / "a").write_text("newer")
    session = cut_short(copy)
    threading.Timer(0.5, os.close, (backups._lock(session.set),)).start()
    assert copy.settle().served == passes.ROLLED_BACK
    assert (copy.copy / "a").read_text() == "old"


@pytest.mark.usefixtures("_serv2")
def test_consistent_set_to_yes_too_late(tmp_path: Path) -> None:
    copy = Copy(tmp_path, consistent=False)
    (copy.files / "a").write_text("old")
    copy.mirror()
    (copy.files / "a").write_text("newer")
    cut_short(copy)
    copy.service = copy.service._replace(consistent=True)
    (copy.files / "a").write_text("newest")
    cut_short(copy)
    with pytest.raises(Failed, match="was not written down"):
        copy.settle()
    copy.service = copy.service._replace(consistent=False)
    assert copy.settle().served == passes.NEWEST
    copy.service = copy.service._replace(consistent=True)
    assert copy.settle().served == passes.NEWEST, "what was served once is not taken away"


@pytest.mark.usefixtures("_serv2")
def test_what_runs_already_is_not_rolled_back(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    (copy.files / "a").write_text("old")
    copy.mirror()
    (copy.files / "a").write_text("newer")
    cut_short(copy)
    copy.service = copy.service._replace(kind="command", status=("true",))
    assert copy.settle().served == passes.NEWEST
    assert (copy.copy / "a").read_text() == "newer"


@pytest.mark.usefixtures("_serv2")
def test_no_list_is_made_for_others_nor_left_behind(tmp_path: Path) -> None:
    for name, consistent in (("ordinary", False), ("other", True)):
        copy = Copy(tmp_path / name, consistent=consistent)
        (copy.files / "a").write_text("old")
        copy.mirror()
        assert not os.path.exists(generation._path("data"))
        (copy.files / "a").write_text("newer")
        cut_short(copy)
        assert os.path.exists(generation._path("data")) == consistent
        copy.mirror()
        assert not os.path.exists(generation._path("data"))


def test_a_disk_that_is_full_ends_a_roll_back_which_goes_on_later(
    tmp_path: Path, box: "Box", hostname: Callable[[str], None]
) -> None:
    """The backup sets' disk takes only a part of what the cut pass had brought."""
    hostname("serv2")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(box.state)], check=True)
    try:
        copy = Copy(tmp_path)
        for number in range(8):
            (copy.files / f"file{number}").write_bytes(os.urandom(100_000))
        copy.mirror()
        before = look(copy.copy)
        for number in range(8):
            (copy.files / f"file{number}").write_bytes(os.urandom(600_000))
        cut_short(copy)
        for _ in range(2):
            with pytest.raises(
                Failed, match=r"No space left on device\. Put that right, then: takeover serv1 --resume"
            ):
                copy.settle()
        subprocess.run(["mount", "-o", "remount,size=30m", str(box.state)], check=True)
        done = copy.settle()
        assert differences(before, look(copy.copy)) == {}
        assert backups.load(done.kept).entries == 8
    finally:
        subprocess.run(["umount", "-l", str(box.state)], check=True)
