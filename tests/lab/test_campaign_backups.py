"""Campaign: purge_backups and restore_backup are killed in the middle of their work, and run again."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.campaign import Day, fault
from lab.labnet.lab import Lab
from lab.labnet.proc import wait_for
from lab.story import BACKUPS, LONG, SHARE, killed, must, script

SETS, FILES = 40, 200
"""So many sets that are due, with so many files each: their deletion takes long enough to be met."""
KEPT = {"young": 1.0, "unconfirmed": None}
"""Two sets that are not due, by the days since their confirmation."""
MAKE = """
import json, os, sys, time
from clusterd.manifest import COMPLETE, Summary
top, sets, files, kept = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
now = time.time()

def make(number, confirmed, mark):
    old = now - 90 * 86400 + number
    name = time.strftime("%Y%m%dT%H%M%S", time.gmtime(old)) + f".000Z-smbd.{mark}-{number:04x}"
    folder = f"{top}/{name}/files/srv/samba/share/due"
    os.makedirs(folder, mode=0o700)
    for file in range(files):
        with open(f"{folder}/{file}", "w") as out:
            out.write(f"{file}\\n")
    made = Summary(name, "smbd", "serv2", "serv1", 1, old, COMPLETE, old, files)
    made = made._replace(confirmed=confirmed, confirmed_by="" if confirmed is None else "a person")
    with open(f"{top}/{name}/manifest.json", "w") as file:
        json.dump(made._asdict(), file)
    return name

print(json.dumps({
    "due": [make(number, now - 80 * 86400, "due") for number in range(sets)],
    "kept": [make(sets + n, days and now - days * 86400, mark) for n, (mark, days) in enumerate(kept.items())],
}))
"""
WORKERS = "|^rm -rf --one-file-system|rsync .*--files-from=-"
"""What the scripts start, and a power cut would end with them."""


def make_sets(lab: Lab, sets: int, files: int, kept: dict[str, float | None]) -> dict[str, list[str]]:
    """Backup sets of serv1: "due", which a purge has to delete, and "kept"."""
    words = [str(sets), str(files), json.dumps(kept)]
    argv = ["/usr/local/lib/clusterd/venv/bin/python", "-c", MAKE, BACKUPS, *words]
    made: dict[str, list[str]] = json.loads(lab.run("serv1", argv, timeout=2 * LONG).stdout)
    return made


def doomed(lab: Lab) -> list[Path]:
    """The sets that are no longer listed, and whose files are being deleted."""
    return list(lab.path("serv1", BACKUPS).glob(".deleting-*"))


def listed(lab: Lab) -> set[str]:
    """The sets that purge_backups lists."""
    return {each["set"] for each in json.loads(lab.run("serv1", ["purge_backups", "--json"], timeout=LONG).stdout)}


def whole(lab: Lab, name: str) -> bool:
    """Whether all files of one of the sets are there."""
    return len(list(lab.path("serv1", f"{BACKUPS}/{name}/files/srv/samba/share/due").glob("*"))) == FILES


def cut(day: Day, argv: list[str], moment: Callable[[], object], pattern: str, what: str) -> None:
    """Kill a script of serv1, and what it has started, at this moment of its work; LabError if it is over before."""
    with day.running(day.lab.argv("serv1", argv)) as process:
        wait_for(lambda: moment() or process.poll() is not None, LONG, what, every=0.001)
        killed(day.lab, "serv1", pattern)
        process.wait(LONG)


@pytest.mark.parametrize("alone", [True, False], ids=["script", "with-what-it-started"])
def test_purge_backups(lab: Lab, alone: bool) -> None:
    """A set is listed and whole, or gone: nothing between; what is not due stays; the next purge does the rest."""
    name = f"purge_backups, twice while it deletes{'' if alone else ', with its rm'}"
    pattern = script("purge_backups") + ("" if alone else WORKERS)
    with fault(lab, name, "SIGKILL", answers=("serv1",), quiet=True) as day:
        for moment in (lambda: doomed(lab), lambda: partly_deleted(lab)):
            made = make_sets(lab, SETS, FILES, KEPT)
            cut(day, ["purge_backups", "--purge"], moment, pattern, "the purge to delete")
            left = listed(lab)
            must(set(made["kept"]) <= left, "a set that was not due is gone")
            for each in left & {*made["due"], *made["kept"]}:
                must(whole(lab, each), each, "is listed, and not whole")
            lab.run("serv1", ["purge_backups", "--purge"], timeout=LONG)
            assert not listed(lab) & set(made["due"]) and not doomed(lab)
            for each in made["kept"]:
                must(whole(lab, each), each, "was not due, and is not whole")
            lab.sh("serv1", f"cd {BACKUPS}; rm -rf {' '.join(made['kept'])}")
        day.another_pass()


def partly_deleted(lab: Lab) -> bool:
    """Whether some files of a set that is being deleted are gone, and others are there."""
    counts = [len(list(folder.glob("files/srv/samba/share/due/*"))) for folder in doomed(lab)]
    return any(0 < count < FILES for count in counts)


COUNT = 400
SIZE = 20_000


def write(lab: Lab, folder: str, word: str) -> None:
    """So many files of this size below the folder, each with the word again and again."""
    text = f"mkdir -p {folder}; for n in $(seq {COUNT}); do yes {word} | head -c {SIZE} >{folder}/$n; done"
    lab.sh("serv1", f"set +o pipefail; {text}")


def versions(folder: Path) -> set[str]:
    """What the files of a folder contain; Violated if one of them is not whole."""
    found = set()
    for file in folder.glob("[0-9]*"):
        text = file.read_text()
        word = text.split("\n", 1)[0]
        must(text == (f"{word}\n" * SIZE)[:SIZE], f"{file}: half written")
        found.add(word)
    return found


def old_set(lab: Lab) -> str:
    """A backup set of serv1 with older contents of the files in back/."""
    (name,) = make_sets(lab, 0, 0, {"old": None})["kept"]
    write(lab, f"{BACKUPS}/{name}/files{SHARE}/back", "old")
    return name


@pytest.mark.parametrize("alone", [True, False], ids=["script", "with-what-it-started"])
def test_restore_backup(lab: Lab, alone: bool) -> None:
    """Every file is the old one or the newer one, whole; what was replaced is kept; the next run puts back the rest."""
    name = f"restore_backup, while it copies{'' if alone else ', with its rsync'}"
    pattern = script("restore_backup") + ("" if alone else WORKERS)
    with fault(lab, name, "SIGKILL", answers=("serv1",), quiet=True) as day:
        write(lab, f"{SHARE}/back", "newer")
        chosen = old_set(lab)
        share = lab.path("serv1", f"{SHARE}/back")
        known = sets(lab)

        def copying() -> bool:
            return any(list(folder.glob(f"files{SHARE}/back/*")) for folder in sets(lab) - known)

        argv = ["restore_backup", chosen, "--all"]
        cut(day, argv, copying, pattern, "the restore to replace a file")
        must(versions(share) <= {"old", "newer"}, "strange files:", versions(share))
        wait_over(lab)
        must(kept(lab, known) | still(share) == names(), "newer files were replaced and not kept")
        lab.run("serv1", argv, timeout=LONG)
        assert versions(share) == {"old"}
        left = [path.name for path in share.iterdir() if path.name not in names()]
        # A user's file may be called so: nothing deletes it (docs/design.md, Limits).
        assert len(left) <= 1 and all(re.fullmatch(r"\.\d+\.\w{6}", name) for name in left), left
        lab.sh("serv1", f"rm -f {' '.join(f'{SHARE}/back/{name}' for name in left)}")
        must(kept(lab, known) == names(), "newer files were replaced and not kept")
        lab.run("serv1", ["purge_backups", "--purge"], timeout=LONG)
        shown = json.loads(lab.run("serv1", ["purge_backups", "--json"], timeout=LONG).stdout)
        states = {each["set"]: each["state"] for each in shown}
        assert "open" not in states.values(), "a purge closes what a crash has left open"
        must({folder.name for folder in sets(lab) - known} <= set(states), "a set that nobody has confirmed is gone")
        day.another_pass()


def names() -> set[str]:
    """What the files are called."""
    return {str(number) for number in range(1, COUNT + 1)}


def sets(lab: Lab) -> set[Path]:
    """The folders of serv1's backup sets."""
    return set(lab.path("serv1", BACKUPS).glob("2*"))


def still(share: Path) -> set[str]:
    """The files that have not been replaced."""
    return {file.name for file in share.glob("[0-9]*") if file.read_text().startswith("newer\n")}


def kept(lab: Lab, known: set[Path]) -> set[str]:
    """The files whose newer contents are, whole, in backup sets that were made since."""
    found = set()
    for folder in sets(lab) - known:
        for file in folder.glob(f"files{SHARE}/back/[0-9]*"):
            if file.read_text() == ("newer\n" * SIZE)[:SIZE]:
                found.add(file.name)
    return found


def wait_over(lab: Lab) -> None:
    """What a killed script had started goes on by itself: wait for its end."""

    def over() -> bool:
        return lab.run("serv1", ["pgrep", "-f", WORKERS[1:]], check=False).returncode == 1

    lab.wait_for(over, LONG, "its rsync to end")
