"""Symlinks that users plant, in a mirrored tree or for a backup set, or swap in at the worst moment: no roll back,
restore, tidying up or purge is led outside by one.
"""

import contextlib
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import backups, leftovers, passes, paths, restore, retention, tidying
from clusterd.errors import ClusterdError
from unit.randomtree import Gardener, look
from unit.test_rollback import Copy, cut_short, service
from unit.test_rollback import tmp_path as tmp_path
from unit.twonodes import Two
from unit.twonodes import two_nodes as two_nodes

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.fixture
def _serv2(box: "Box", hostname: Callable[[str], None]) -> None:
    hostname("serv2")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What nobody may touch: it has the names that the tree has."""
    made = tmp_path / "outside"
    for folder in (made, made / "sub", made / paths.PARTIAL):
        folder.mkdir(exist_ok=True)
        for name in ("a", "b", "new", ".x.AbCdEf"):
            (folder / name).write_text("precious")
    return made


@contextmanager
def swapping(tree: Path, name: str, outside: Path) -> Iterator[None]:
    """A user who makes a folder a symlink and a folder again, as quickly as he can."""
    stop = threading.Event()
    (tree / "evil").symlink_to(outside)

    def swap() -> None:
        turns = ((name, "away"), ("evil", name), (name, "evil"), ("away", name))
        while not stop.is_set():
            for first, second in turns:
                with contextlib.suppress(OSError):
                    if not (second == name and os.path.isdir(tree / name)):
                        os.rename(tree / first, tree / second)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.usefixtures("_serv2")
def test_a_roll_back_while_a_folder_is_swapped(tmp_path: Path, outside: Path) -> None:
    before = look(outside)
    copy = Copy(tmp_path)
    (copy.files / "sub").mkdir()
    for name in ("a", "b"):
        (copy.files / "sub" / name).write_text("old")
    copy.mirror()
    for turn in range(12):
        for name in ("a", "new"):
            (copy.files / "sub" / name).write_text(f"newer {turn}")
        (copy.files / "sub" / "b").chmod(0o600 + turn % 8)
        cut_short(copy)
        with swapping(copy.copy, "sub", outside), contextlib.suppress(ClusterdError):
            copy.settle()
        assert look(outside) == before
        shutil.rmtree(copy.copy)
        copy.copy.mkdir()
        copy.mirror()


@pytest.mark.usefixtures("_serv2")
def test_a_folder_that_has_become_a_symlink_before_the_roll_back(tmp_path: Path, outside: Path) -> None:
    before = look(outside)
    copy = Copy(tmp_path)
    (copy.files / "sub").mkdir()
    (copy.files / "sub" / "a").write_text("old")
    copy.mirror()
    tree = look(copy.copy)
    (copy.files / "sub" / "a").write_text("newer")
    cut_short(copy)
    shutil.rmtree(copy.copy / "sub")
    (copy.copy / "sub").symlink_to(outside)
    done = copy.settle()
    assert look(outside) == before
    assert look(copy.copy) == tree
    assert os.readlink(f"{backups.files_folder(done.kept)}{copy.copy}/sub") == str(outside)


@pytest.mark.usefixtures("_serv2")
def test_tidying_up_while_a_folder_is_swapped(tmp_path: Path, outside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = Copy(tmp_path, consistent=False)
    for name in ("sub", "other"):
        (copy.files / name).mkdir()
        (copy.files / name / "a").write_text("old")
    copy.mirror()
    (copy.files / "sub" / "a").write_text("newer")
    cut_short(copy)
    for name in ("sub", "other"):
        (copy.copy / name / paths.PARTIAL).mkdir()
        (copy.copy / name / paths.PARTIAL / "a").touch()
        (copy.copy / name / ".x.AbCdEf").touch()
    before = look(outside)
    births = tidying.births

    def swapped(found: list[str]) -> list[float]:
        made = births(found)
        for name in ("sub", "other"):
            (copy.copy / name).rename(copy.copy / f"{name}-away")
            (copy.copy / name).symlink_to(outside)
        return made

    monkeypatch.setattr(tidying, "births", swapped)
    cut = passes.read("data").unfinished
    assert cut
    tidying.tidy(copy.service, cut)
    assert look(outside) == before


def test_a_folder_above_that_has_become_a_symlink(tmp_path: Path, outside: Path, box: "Box") -> None:
    """Its owner would get whatever folder it leads to."""
    above = tmp_path / "home"
    (above / "data").mkdir(parents=True)
    os.chown(above, 12345, 12345)
    was = leftovers.above(service(f"{above}/data/", consistent=False))
    assert was[f"{above}/"] == (0o755, 12345, 12345)
    above.rename(tmp_path / "away")
    above.symlink_to(outside)
    leftovers.put_back(was)
    assert outside.stat().st_uid == 0
    assert f"{above}/" not in leftovers.above(service(f"{above}/data/", consistent=False))
    above.unlink()
    above.mkdir(mode=0o700)
    leftovers.put_back(was)
    about = above.stat()
    assert (about.st_mode & 0o777, about.st_uid, about.st_gid) == (0o755, 12345, 12345)


@pytest.fixture
def tree(box: "Box", tmp_path: Path, hostname: Callable[[str], None]) -> Path:
    """A mirrored folder on serv1."""
    assert box
    root = tmp_path / "srv"
    root.mkdir()
    hostname("serv1")
    return root


@pytest.mark.parametrize("seed", range(12))
def test_a_set_full_of_symlinks_is_restored_and_purged(tree: Path, outside: Path, seed: int) -> None:
    """Wherever in the set, and wherever in the tree, a folder or file is a symlink to what is outside."""
    before = look(outside)
    chance = random.Random(seed)
    set_id = backups.create("data", "serv2", 2)
    files = Path(f"{backups.files_folder(set_id)}{tree}")
    files.mkdir(parents=True)
    Gardener(files, seed).grow(60)
    subprocess.run(["cp", "-a", f"{files}/.", str(tree)], check=True)

    def plant(top: Path, share: float) -> None:
        for folder in sorted((each for each in top.rglob("*") if not each.is_symlink()), reverse=True):
            if folder.exists() and chance.random() < share:
                shutil.rmtree(folder) if folder.is_dir() else folder.unlink()
                folder.symlink_to(chance.choice([outside, outside / "sub", outside / "a"]))

    plant(files, 0.2)
    found = backups.finish(set_id, complete=True)
    plant(tree, 0.1)
    mirrored = service(f"{tree}/", consistent=False)
    entries = list(backups.entries(found.set))
    for entry in entries:
        with contextlib.suppress(ClusterdError):
            restore.put_back(found, restore.plan([entry], restore.places(mirrored)))
        if chance.random() < 0.9:
            break
    with contextlib.suppress(ClusterdError):
        restore.put_back(found, restore.plan(entries, restore.places(mirrored)))
    assert look(outside) == before
    for one in backups.every():
        retention.confirm(one.set, "a test")
    retention.purge(backups.every())
    assert backups.every() == []
    assert os.listdir(paths.BACKUPS) == []
    assert look(outside) == before


@pytest.mark.parametrize("where", ["../../../../../../../../../..{top}/secret", "{top}/secret", "{data}/../../secret"])
def test_a_hostile_sender_has_no_folder_copied_but_of_the_service(two: Two, where: str) -> None:
    """What it says is to be deleted is looked at as a path of the service."""
    (two.top / "secret").mkdir(mode=0o700)
    (two.other / "secret").mkdir(mode=0o700)
    (two.data / "goes").mkdir()
    two.load()
    path = where.format(top=two.top, data=f"{two.data}/goes")
    code = (
        "from clusterd import config, leftovers, paths, receiver; from clusterd.errors import Failed\n"
        "settings = config.load(paths.CONF)\n"
        "session = receiver.Session(settings, settings.services['data'], 'serv1', 1, None)\n"
        "session.record = leftovers.recover(session.service)\n"
        "try:\n"
        f"    session._begin({{'space': {{}}, 'folders': [{path!r}, '/{path}'], 'both': []}})\n"
        "except Failed as error:\n"
        "    print(error)\n"
    )
    assert "nothing sensible: folders" in two.there_python(code)
    assert not list((two.other / "state").glob("backups/*"))
