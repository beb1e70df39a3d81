"""A pass that does not come to its end takes nothing from the receiver that is not rsync's own."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import backups, leftovers, manifest, passes, paths, receiver, rsync, sender
from unit.test_mirror import go, tree
from unit.test_rollback import Copy, cut_short, kept_content
from unit.test_rollback import tmp_path as tmp_path
from unit.twonodes import Two
from unit.twonodes import two_nodes as two_nodes

if TYPE_CHECKING:
    from unit.conftest import Box


class Told(Copy):
    """A receiver that is told what will be sent."""

    sent: list[str] | None = None

    def session(self) -> receiver.Session:
        made = super().session()
        if self.sent is not None:
            begin, sent = made._begin, self.sent
            made._begin = lambda message: begin({**message, "sent": sent})  # type: ignore[method-assign]
        return made


@pytest.fixture(params=["one disk", "two disks"])
def copy(tmp_path: Path, box: "Box", hostname: Callable[[str], None], request: pytest.FixtureRequest) -> Iterator[Told]:
    """The receiver serv2; `local` in its tree is its own."""
    hostname("serv2")
    two = request.param == "two disks"
    if two:
        subprocess.run(["mount", "-t", "tmpfs", "none", str(box.state)], check=True)
    made = Told(tmp_path, consistent=False, exclude=("/local/",))
    (made.files / "a").write_text("old")
    made.mirror()
    (made.copy / "local").mkdir()
    yield made
    if two:
        subprocess.run(["umount", "-l", str(box.state)], check=True)


def incomplete(copy: Told) -> receiver.Session:
    """A pass that changes something and says at its end that it is not complete."""
    (copy.files / "a").write_text(f"newer {time.time()}")
    session, argv = copy.begin()
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True)
    session._end({"complete": False, "entries": 1, "changes": []})
    return session


def test_an_incomplete_pass_is_closed_on_the_disk(copy: Told) -> None:
    """The next one does not tidy up once more, days later."""
    session = incomplete(copy)
    cut = passes.read("data").unfinished
    assert cut and cut.closed
    assert cut == session.record.unfinished
    assert backups.load(cut.set).state == manifest.CUT
    copy.target.chmod(0o700)
    names = [".app.config", ".db.sqlite", "plain"]
    for folder in (copy.copy, copy.copy / "local"):
        for name in names:
            (folder / name).write_text("mine")
    leftovers.recover(copy.service)
    assert copy.target.stat().st_mode & 0o777 == 0o700, "it is the administrator's"
    assert sorted(each.name for each in (copy.copy / "local").iterdir()) == names
    assert sorted(each.name for each in copy.copy.iterdir()) == sorted([*names, "a", "local"])


def test_a_set_with_nothing_in_it_is_not_named_any_more(copy: Told) -> None:
    session, _ = copy.begin()
    session._end({"complete": False, "entries": 1, "changes": []})
    cut = passes.read("data").unfinished
    assert cut and cut.closed and cut.set == ""


def test_what_is_called_like_the_folder_of_delayed_updates_is_a_users(copy: Told) -> None:
    """rsync's own name for it is anybody's who has ever called rsync there."""
    (copy.copy / ".~tmp~").mkdir()
    (copy.copy / ".~tmp~/thesis").write_text("mine")
    session, _ = copy.begin()
    session._end({"complete": False, "entries": 1, "changes": []})
    assert (copy.copy / ".~tmp~/thesis").read_text() == "mine"


@pytest.fixture
def full(box: "Box") -> Iterator[Callable[[], None]]:
    """The backup sets have a small disk of their own; call it to fill that, and again to make room."""
    os.makedirs(paths.BACKUPS, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", paths.BACKUPS], check=True)
    filler = Path(paths.BACKUPS) / "filler"

    def fill() -> None:
        if filler.exists():
            filler.unlink()
            return
        with pytest.raises(OSError, match="No space"), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    yield fill
    subprocess.run(["umount", "-l", paths.BACKUPS], check=True)


@pytest.mark.parametrize("copy", ["one disk"], indirect=True)
def test_a_full_disk_of_backup_sets_keeps_no_service_from_starting(
    full: Callable[[], None], copy: Told, box: "Box", pair_files: "Box"
) -> None:
    """Its files are whole; the list of what the set has is written when there is room."""
    (copy.files / "a").write_text("newer")
    (copy.copy / "mine").write_text("mine")
    cut_short(copy)
    [made] = backups.every()
    backups.note(made.set, unmirrored=[f"{copy.copy}/mine"])
    full()
    cut = copy.settle()
    assert cut.served == passes.NEWEST
    assert cut.closed and cut.set == made.set
    assert backups.load(made.set).state == manifest.OPEN
    assert not backups.running(made.set)
    assert not os.path.exists(f"{backups.folder(made.set)}/entries.jsonl.tmp"), "half a list takes no room"
    assert [entry.path for entry in backups.entries(made.set) if entry.unmirrored] == [f"{copy.copy}/mine"]
    [event] = [each for each in log_events(box) if each["event"] == "set-left-open"]
    assert f"{backups.folder(made.set)}/entries.jsonl: [Errno 28] No space left on device" in event["text"]
    assert box.script("purge_backups", "--purge").returncode == 0, "it can still make room"
    confirmed = box.script("purge_backups", "--confirm", made.set)
    assert (confirmed.returncode, confirmed.stderr.count("No space left on device")) == (75, 1)
    assert backups.load(made.set).confirmed is None
    full()
    assert box.script("purge_backups", "--purge").returncode == 0
    closed = backups.load(made.set)
    assert (closed.state, closed.entries, closed.unmirrored) == (manifest.CUT, 2, 1)


def log_events(box: "Box") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (box.log / "events.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("listed", [False, True])
def test_a_cut_pass_takes_nothing_away_that_may_be_a_users(copy: Told, listed: bool) -> None:
    """Of what is called like rsync's temporary files only that goes which can be nothing else; what may be is kept."""
    copy.sent = [f"{copy.copy}/a", f"{copy.copy}/.half"] if listed else None
    (copy.files / "a").write_text("newer")
    cut_short(copy)
    (copy.copy / "local" / paths.PARTIAL).mkdir()
    (copy.copy / paths.PARTIAL).mkdir()
    for name in ("local/.app.config", f"local/{paths.PARTIAL}/x", ".db.sqlite", f"{paths.PARTIAL}/a", ".a.backup"):
        (copy.copy / name).write_text(name)
    for name in (".a.q1w2e3", ".half.q1w2e3"):
        (copy.copy / name).write_text("ha")
        (copy.copy / name).chmod(0o600)
    os.chown(copy.copy / ".a.backup", 12345, 12345)
    copy.settle()
    assert sorted(each.name for each in copy.copy.iterdir()) == ["a", "local"]
    assert sorted(each.name for each in (copy.copy / "local").iterdir()) == [".app.config", paths.PARTIAL]
    assert (copy.copy / "local" / paths.PARTIAL / "x").exists(), "it may be another service's"
    cut = passes.read("data").unfinished
    assert cut
    halves = set() if listed else {b"ha"}
    assert kept_content(cut.set) == {b"old", b".db.sqlite", b".a.backup", *halves}
    kept = Path(f"{backups.files_folder(cut.set)}{copy.copy}/.a.backup")
    assert kept.stat().st_uid == 12345
    assert {os.path.basename(entry.path) for entry in backups.entries(cut.set)} >= {".db.sqlite", ".a.backup", "a"}


def test_a_temporary_file_with_a_name_that_was_cut_short(copy: Told) -> None:
    """rsync's own is never longer than a name may be."""
    long = "n" * 250
    copy.sent = [f"{copy.copy}/{long}"]
    (copy.files / "a").write_text("newer")
    cut_short(copy)
    half = copy.copy / f".{long[:246]}.q1w2e3"
    half.write_text("ha")
    half.chmod(0o600)
    copy.settle()
    assert not half.exists()
    cut = passes.read("data").unfinished
    assert cut and kept_content(cut.set) == {b"old"}


def test_a_users_folder_called_as_rsyncs_own_is_mirrored(two: Two) -> None:
    """Plan and apply agree on what is excluded: nothing but clusterd's own folder."""
    (two.data / ".~tmp~").mkdir()
    (two.data / ".~tmp~/thesis").write_text("mine")
    (two.data / "sub" / paths.PARTIAL).mkdir(parents=True)
    (two.data / "sub" / paths.PARTIAL / "half").write_text("left by a cut pass to here")
    assert go(two).ok
    assert (two.copy / ".~tmp~/thesis").read_text() == "mine"
    assert not (two.copy / "sub" / paths.PARTIAL).exists()
    assert go(two).changed == 0, "there is nothing to do"
    (two.data / ".~tmp~/thesis").write_text("newer")
    assert go(two).changed == 1
    assert tree(two.data / ".~tmp~") == tree(two.copy / ".~tmp~")


def test_a_peer_with_an_older_program_is_not_told_of_the_folder(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would refuse the option; nodes are upgraded one after the other."""
    said: list[list[str]] = []
    argv, hello = rsync.argv, sender.Control.hello

    def note(*words: Any, **how: Any) -> list[str]:
        said.append(argv(*words, **how))
        return said[-1]

    def older(control: sender.Control) -> None:
        hello(control)
        del control.said["partial"], control.said["can"]

    monkeypatch.setattr(rsync, "argv", note)
    assert go(two).ok
    assert f"--partial-dir={paths.PARTIAL}" in said[-1]
    assert "--delete-delay" in said[-1]
    monkeypatch.setattr(sender.Control, "hello", older)
    (two.data / "new").write_text("x")
    assert go(two).ok
    assert "--delay-updates" in said[-1]
    assert "--delete" in said[-1]
    assert not {f"--partial-dir={paths.PARTIAL}", "--delete-delay"} & set(said[-1])


def test_where_case_does_not_count_the_old_name_goes_first(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the receiver finds the new name there already, by the old one, and deletes that afterwards."""
    said: list[list[str]] = []
    argv, lexists = rsync.argv, os.path.lexists

    def note(*words: Any, **how: Any) -> list[str]:
        said.append(argv(*words, **how))
        return said[-1]

    (two.data / "Report").write_text("x")
    assert go(two).ok
    (two.data / "Report").rename(two.data / "report")
    monkeypatch.setattr(rsync, "argv", note)
    with monkeypatch.context() as patch:
        patch.setattr(os.path, "lexists", lambda path: lexists(str(path).replace("Report", "report")))
        assert go(two).ok
    assert "--delete" in said[-1]
    assert "--delete-delay" not in said[-1]
    assert sorted(os.listdir(two.copy)) == sorted(os.listdir(two.data))


def test_very_many_deletions_that_wait(two: Two) -> None:
    """More names than rsync keeps in its memory: it writes them down, where it can."""
    for number in range(500):
        (two.data / f"a file with a name that takes its room, and its number {number}").write_text("x")
    assert go(two).ok
    for each in two.data.glob("a file*"):
        each.unlink()
    report = go(two, max_delete="500")
    assert (report.ok, report.deleted) == (True, 500)
    assert tree(two.data) == tree(two.copy)
