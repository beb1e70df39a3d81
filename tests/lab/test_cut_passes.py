"""The sender's power is cut in the middle of a pass: which files the survivor serves, and that nothing is lost."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import pytest

from lab.labnet.lab import Lab
from lab.story import BACKUPS, LONG, come_home, events, kept, must, wait_event, wait_home, wait_serves, wait_told
from lab.test_killed_scripts import SLOW, fill, versions
from unit.randomtree import differences, look

LEDGER = "/srv/ledger"
SERVICES: dict[str, dict[str, str | None] | None] = {
    **SLOW,
    "ledger": {
        "home": "serv1",
        "run.kind": "none",
        "mirror.every": "5 minutes",
        "mirror.paths": f"{LEDGER}/",
        "mirror.consistent": "yes",
        "mirror.max_delete": "100 %",
    },
}
COUNT = 1500
"""Files of the ledger: it takes a while to put so many in their place."""

CHANGE = f"""\
cd {LEDGER}
for n in $(seq {COUNT}); do echo "$1 $n" >entry$n; done
rm -rf only-*; mkdir "only-$1"; echo "$1" >"only-$1/book"; ln -s "$1" only-link-"$1"
chmod 06$((RANDOM % 8))0 index; chown $RANDOM index; touch -d "2001-01-01 $((RANDOM % 24)):00" only-"$1"
ln -f entry1 linked; head -c 300000 /dev/urandom >big
"""


def change(lab: Lab, generation: str) -> None:
    """Write all files of the ledger anew; some are new, some go, some are only touched."""
    lab.run("serv1", ["bash", "-euc", CHANGE, "bash", generation], timeout=120)


def mirror(lab: Lab, name: str) -> None:
    """A complete pass; cron may be at one just now."""
    argv = ["mirror_service", name]
    lab.wait_for(lambda: lab.run("serv1", argv, timeout=120, check=False).returncode == 0, LONG, f"a pass of {name}")


def sending(lab: Lab, _set: Path) -> bool:
    """Files arrive, and wait to be put in their place."""
    return lab.path("serv2", f"{LEDGER}/.clusterd-partial").exists()


def replacing(_lab: Lab, set_: Path) -> bool:
    """The old files go into the backup set, the new ones take their place."""
    return len(list(set_.rglob("entry*"))) > 20


def cut(lab: Lab, moment: Callable[[Lab, Path], bool], node: str = "serv1") -> float:
    """Cut a node's power at this moment of a pass of the ledger, while one of smbd is under way; returns when."""
    known = {each.name for each in lab.path("serv2", BACKUPS).iterdir()}
    passes = [
        subprocess.Popen(
            lab.argv("serv1", ["mirror_service", name]), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for name in ("smbd", "ledger")
    ]

    def sets(name: str) -> list[Path]:
        return [each for each in lab.path("serv2", BACKUPS).glob(f"*-{name}-*") if each.name not in known]

    lab.wait_for(lambda: sets("smbd"), LONG, "the pass of smbd to begin")
    lab.wait_for(lambda: sets("ledger") and moment(lab, sets("ledger")[0]), LONG, moment.__name__)
    began = monotonic()
    lab.power_off(node)
    for process in passes:
        assert process.wait(LONG) != 0
    return began


@pytest.fixture
def ledger(lab: Lab) -> Lab:
    """A fresh pair with the ledger, and files of generation a on both nodes: a test that fails leaves a node off."""
    come_home(lab, new=True, services=SERVICES)
    for node in ("serv1", "serv2"):
        lab.sh(node, f"mkdir -p {LEDGER}")
    lab.sh("serv1", f"touch {LEDGER}/index")
    change(lab, "a")
    fill(lab, "a")
    for name in ("ledger", "smbd"):
        mirror(lab, name)
    return lab


@pytest.mark.parametrize("moment", [sending, replacing])
def test_the_survivor_serves_the_last_complete_generation(ledger: Lab, moment: Callable[[Lab, Path], bool]) -> None:
    for name in ("ledger", "smbd"):
        mirror(ledger, name)
    generation = moment.__name__
    before = look(ledger.path("serv2", LEDGER))
    assert differences(before, look(ledger.path("serv1", LEDGER))) == {}
    old = versions(ledger, "serv2")
    change(ledger, generation)
    letter = generation[0]
    fill(ledger, letter)
    began = cut(ledger, moment)
    wait_serves(ledger, "serv2", "serv1", "serv2")

    must(not differences(before, look(ledger.path("serv2", LEDGER))), "the ledger is not rolled back")
    must(versions(ledger, "serv2") <= old | {letter}, "a file of the share is not whole")
    told = {event["service"]: event for event in events(ledger, "serv2", began, "pass-cut")}
    assert "rolled back to the pass of" in told["ledger"]["text"]
    assert "the newest files are served" in told["smbd"]["text"]
    wait_told(ledger, told["ledger"]["text"])
    wait_told(ledger, "ledger: the last pass was cut: rolled back to the pass of")
    if moment is replacing:
        newer = ledger.sh("serv2", f"cat {BACKUPS}/{told['ledger']['set']}/files{LEDGER}/entry*")
        must(newer.startswith(f"{generation} "), "what had come already is not kept")

    began = monotonic()
    ledger.power_on("serv1")
    wait_home(ledger, 2 * LONG)
    found = [event for event in events(ledger, "serv2", began, "unmirrored-found") if event["service"] == "ledger"]
    lost = {name for event in found for name in event["files"]}
    must(lost >= {f"{LEDGER}/entry{n}" for n in range(1, COUNT + 1)} | {f"{LEDGER}/only-{generation}/book"}, lost)
    assert not {name for event in found for name in event["both"]}, "nobody has changed them on the survivor"
    (book,) = [path for path in kept(ledger, "serv1", "book") if f"only-{generation}/" in path]
    assert ledger.sh("serv1", f"cat {book}") == f"{generation}\n"
    (entry,) = [
        path for path in kept(ledger, "serv1", "entry7") if f"{generation} 7\n" in (ledger.text("serv1", path) or "")
    ]
    assert entry
    for node in ("serv1", "serv2"):
        assert differences(before, look(ledger.path(node, LEDGER))) == {}


def test_the_receivers_power_is_cut_and_then_the_senders(ledger: Lab) -> None:
    """What was cut before a reboot is rolled back after it, if no pass was complete in between."""
    wait_home(ledger, 2 * LONG)
    for name in ("ledger", "smbd"):
        mirror(ledger, name)
    before = look(ledger.path("serv2", LEDGER))
    change(ledger, "twice")
    fill(ledger, "t")
    cut(ledger, replacing, "serv2")
    ledger.power_on("serv2")
    assert differences(before, look(ledger.path("serv2", LEDGER))), "the cut came too late, or too early"
    wait_home(ledger, 2 * LONG)
    began = ledger.power_off("serv1")
    wait_serves(ledger, "serv2", "serv1", "serv2")
    assert differences(before, look(ledger.path("serv2", LEDGER))) == {}
    assert wait_event(ledger, "serv2", "rolled-back", began)
