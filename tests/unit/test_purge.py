"""purge_backups: nothing unconfirmed is ever deleted, and nothing confirmed too early; months, leap years and DST."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd import backups, durations, manifest, passes, paths, retention
from clusterd.lock import Lock
from clusterd.manifest import Summary

if TYPE_CHECKING:
    from unit.conftest import Box

BERLIN = ZoneInfo("Europe/Berlin")
DAY = 86400.0


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This machine stands in Berlin."""
    with monkeypatch.context() as there:
        there.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


def due(confirmed: str, keep: str) -> str:
    """When a set confirmed at local time `confirmed` may go, as local time."""
    at = datetime.fromisoformat(confirmed).replace(tzinfo=BERLIN).timestamp()
    found = retention.due_at(at, durations.parse_age(keep))
    assert found.tzinfo is UTC
    return found.astimezone(BERLIN).replace(tzinfo=None).isoformat(" ", "minutes")


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("confirmed", "keep", "wanted"),
    [
        ("2026-01-31 12:00", "1 month", "2026-02-28 12:00"),
        ("2028-01-31 12:00", "1 month", "2028-02-29 12:00"),
        ("2028-02-29 12:00", "1 year", "2029-02-28 12:00"),
        ("2026-11-30 12:00", "3 months", "2027-02-28 12:00"),
        ("2026-12-15 12:00", "1 month", "2027-01-15 12:00"),
        ("2026-03-01 12:00", "30 days", "2026-03-31 12:00"),  # the clocks went forward on the 29th
        ("2026-10-01 12:00", "30 days", "2026-10-31 12:00"),  # and back on the 25th
        ("2026-03-28 02:30", "1 day", "2026-03-29 03:30"),  # 02:30 did not exist
        ("2026-10-24 02:30", "1 day", "2026-10-25 02:30"),  # and existed twice: the first
        ("2026-03-28 12:00", "23 hours", "2026-03-29 12:00"),  # hours are real time
        ("2026-03-28 12:00", "2 weeks", "2026-04-11 12:00"),
    ],
)
def test_ages_in_the_calendar(confirmed: str, keep: str, wanted: str) -> None:
    assert due(confirmed, keep) == wanted


@given(
    st.datetimes(datetime(1990, 1, 1), datetime(2037, 1, 1)),
    st.integers(0, 500),
    st.sampled_from(["days", "weeks", "months", "years"]),
)
def test_never_earlier_than_it_says(confirmed: datetime, amount: int, unit: str) -> None:
    at = confirmed.replace(tzinfo=UTC).timestamp()
    least = {"days": 1, "weeks": 7, "months": 28, "years": 365}[unit] * min(amount, 100)
    age = durations.parse_age(f"{min(amount, 100)} {unit}")
    found = retention.due_at(at, age)
    assert found >= confirmed.replace(tzinfo=UTC) + timedelta(days=least, hours=-1)


def test_what_is_due() -> None:
    now = 1_800_000_000.0
    sets = [
        Summary("old", "smbd", "serv1", "serv2", 1, now - 900 * DAY),
        Summary("fresh", "smbd", "serv1", "serv2", 1, now - 900 * DAY, confirmed=now - 29 * DAY),
        Summary("due", "smbd", "serv1", "serv2", 1, now - 900 * DAY, confirmed=now - 31 * DAY),
        Summary("future", "smbd", "serv1", "serv2", 1, now, confirmed=now + 400 * DAY),
    ]
    assert [one.set for one in retention.due(sets, "30 days", now)] == ["due"]
    assert [one.set for one in retention.forgotten([sets[0]._replace(unmirrored=2), *sets], now)] == ["old"]
    assert retention.forgotten([sets[0]._replace(unmirrored=2, created=now - 6 * DAY)], now) == []


@pytest.fixture
def sets(pair_files: "Box") -> list[Summary]:
    """Three sets: one that nobody has looked at, one confirmed lately, one confirmed long ago."""
    made = []
    for number, confirmed in enumerate((None, time.time() - DAY, time.time() - 40 * DAY)):
        set_id = backups.create("smbd", "serv2", number + 1)
        path = Path(f"{backups.files_folder(set_id)}/srv/file {number}")
        path.parent.mkdir()
        path.write_text("old")
        one = backups.finish(set_id, complete=True)._replace(confirmed=confirmed, confirmed_by="me")
        backups.save(one._replace(created=time.time() - 100 * DAY))
        made.append(one)
    return made


def left() -> list[str]:
    return [one.set for one in backups.every()]


def test_purge_is_quiet_and_deletes_only_what_is_due(pair_files: "Box", sets: list[Summary]) -> None:
    dry = pair_files.script("purge_backups", "--purge", "--dry-run")
    assert (dry.returncode, dry.stdout) == (0, f"would delete: {sets[2].set}\n")
    assert len(left()) == 3
    done = pair_files.script("purge_backups", "--purge")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert left() == [sets[0].set, sets[1].set]
    assert sorted(os.listdir(paths.BACKUPS)) == left()
    events = [json.loads(line) for line in (pair_files.log / "events.jsonl").read_text().splitlines()]
    assert [(event["event"], event["set"]) for event in events] == [("backup-purged", sets[2].set)]


def test_keep_is_configured(pair_files: "Box", sets: list[Summary]) -> None:
    pair_files.edit("cluster.conf", "keep = 30 days", "keep = 2 months")
    assert pair_files.script("purge_backups", "--purge").returncode == 0
    assert len(left()) == 3


def test_purge_reminds_of_what_nobody_else_has(pair_files: "Box", sets: list[Summary]) -> None:
    backups.save(backups.load(sets[0].set)._replace(unmirrored=1))
    done = pair_files.script("purge_backups", "--purge")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    last = json.loads((pair_files.log / "events.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["sets"]) == ("backup-unconfirmed", [sets[0].set])


def test_two_purges_at_once(pair_files: "Box", sets: list[Summary]) -> None:
    with Lock("purge_backups"):
        done = pair_files.script("purge_backups", "--purge")
    assert done.returncode == 75
    assert len(left()) == 3


def test_a_set_in_use_is_left_for_the_next_time(pair_files: "Box", sets: list[Summary]) -> None:
    with backups.hold(sets[2].set):
        done = pair_files.script("purge_backups", "--purge", "--json")
    assert json.loads(done.stdout) == {"deleted": [], "in_use": [sets[2].set]}
    assert len(left()) == 3
    assert json.loads(pair_files.script("purge_backups", "--purge", "--json").stdout)["deleted"] == [sets[2].set]


def test_a_set_left_open_is_closed_and_kept(pair_files: "Box", sets: list[Summary]) -> None:
    code = (
        "from clusterd import backups; import os\n"
        "one = backups.create('smbd', 'serv2', 9); open(backups.files_folder(one) + '/x', 'w').write('1234')\n"
        "two = backups.create('smbd', 'serv2', 9); print(one, two); os._exit(1)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=pair_files.env, capture_output=True, text=True, check=False)
    one, two = done.stdout.split()
    table = pair_files.script("purge_backups").stdout.splitlines()
    [row] = [line.split() for line in table if line.startswith(one)]
    assert row[-8:] == ["smbd", "serv2", "1", "4", "B", "-", "cut", "no"]
    assert pair_files.script("purge_backups", "--purge").returncode == 0
    assert backups.load(one).state == manifest.CUT
    assert two not in left(), "an empty one goes"
    assert one in left()


def test_the_table(pair_files: "Box", sets: list[Summary]) -> None:
    done = pair_files.script("purge_backups")
    assert (done.returncode, done.stderr) == (0, "")
    head, *rows = done.stdout.splitlines()
    assert head.split("  ")[0] == "SET" and len(rows) == 3
    assert rows[0].split() == [*(sets[0].set, "100", "days", "smbd", "serv2", "1", "3", "B", "-", "complete", "no")]
    assert rows[2].split()[-1] == time.strftime("%Y-%m-%d", time.localtime(sets[2].confirmed))
    found = json.loads(pair_files.script("purge_backups", "--json").stdout)
    assert [one["set"] for one in found] == left()
    assert pair_files.script("purge_backups", sets[1].set).stdout.count("\n") == 2


def test_no_sets(pair_files: "Box") -> None:
    assert pair_files.script("purge_backups").stdout == ""
    assert json.loads(pair_files.script("purge_backups", "--json").stdout) == []
    assert pair_files.script("purge_backups", "--purge").returncode == 0


def test_show(pair_files: "Box", sets: list[Summary]) -> None:
    done = pair_files.script("purge_backups", "--show", sets[0].set, sets[1].set)
    assert done.stdout.splitlines()[0] == f"{sets[0].set}:"
    assert "deleted  0644" in done.stdout and "/srv/file 1" in done.stdout
    found = json.loads(pair_files.script("purge_backups", "--json", "--show", sets[0].set).stdout)
    assert [entry["path"] for entry in found[0]["files"]] == ["/srv/file 0"]


def test_confirm(pair_files: "Box", sets: list[Summary], monkeypatch: pytest.MonkeyPatch) -> None:
    pair_files.env["SUDO_USER"] = "anna"
    assert pair_files.script("purge_backups", "--dry-run", "--confirm", sets[0].set).returncode == 0
    assert backups.load(sets[0].set).confirmed is None
    before = time.time()
    done = pair_files.script("purge_backups", "--confirm", sets[0].set)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    one = backups.load(sets[0].set)
    assert one.confirmed and before <= one.confirmed <= time.time()
    assert one.confirmed_by == "anna"
    assert pair_files.script("purge_backups", "--confirm", "--all").returncode == 0
    assert backups.load(sets[0].set) == one, "the first confirmation counts"
    assert backups.load(sets[2].set).confirmed == sets[2].confirmed


def test_confirm_passes_over_a_set_that_is_being_filled(pair_files: "Box", sets: list[Summary]) -> None:
    filling = backups.create("smbd", "serv2", 7)
    done = pair_files.script("purge_backups", "--confirm", "--all")
    assert done.returncode == 75
    assert filling in done.stderr
    assert backups.load(filling).confirmed is None
    assert backups.load(sets[0].set).confirmed
    assert pair_files.script("purge_backups", filling).stdout.split()[-2:] == ["filling", "no"]


def test_a_damaged_set_is_shown_and_never_deleted(pair_files: "Box", sets: list[Summary]) -> None:
    Path(f"{backups.folder(sets[2].set)}/manifest.json").write_text("")
    assert "damaged" in pair_files.script("purge_backups").stdout
    assert pair_files.script("purge_backups", "--confirm", sets[2].set).returncode == 1
    assert pair_files.script("purge_backups", "--purge").returncode == 0
    assert len(left()) == 3


def test_wrong_command_lines(pair_files: "Box", sets: list[Summary]) -> None:
    for words in (
        ("--all",),
        ("--confirm",),
        ("--confirm", "--all", sets[0].set),
        ("--purge", sets[0].set),
        ("--show",),
        ("--show", "nothing"),
        ("--show", "--purge"),
        ("2",),
    ):
        assert pair_files.script("purge_backups", *words).returncode == 2, words
    pair_files.edit("cluster.conf", "keep = 30 days", "keep = soon")
    assert pair_files.script("purge_backups", "--purge").returncode == 78
    assert len(left()) == 3


def test_what_the_way_back_from_a_cut_pass_needs_is_kept(pair_files: "Box", sets: list[Summary]) -> None:
    cut = passes.Unfinished("serv2", 1, time.time(), "", closed=True, earlier=(sets[2].set,), listing="abc")
    passes.write(passes.Record("smbd", unfinished=cut))
    assert pair_files.script("purge_backups", "--purge").returncode == 0
    assert sets[2].set in os.listdir(paths.BACKUPS)
    passes.write(passes.Record("smbd", unfinished=cut._replace(served=passes.NEWEST)))
    assert pair_files.script("purge_backups", "--purge").returncode == 0
    assert sets[2].set not in os.listdir(paths.BACKUPS)


# --- many ------------------------------------------------------------------------------------------------------------


def many(sets: int, files: int) -> tuple[set[str], set[str]]:
    """So many sets with so many files each: which of them are due, and which have to stay."""
    old = time.time() - 90 * DAY
    due: set[str] = set()
    stay: set[str] = set()
    for number in range(sets):
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(old + number))
        name = f"{stamp}.000Z-smbd-{number:04x}"
        folder = f"{backups.files_folder(name)}/srv/data"
        os.makedirs(folder)
        for file in range(files):
            Path(f"{folder}/{file}").touch()
        # A third was confirmed long ago, a third lately, and a third never.
        confirmed = (old + DAY, old + 80 * DAY, None)[number % 3]
        made = Summary(name, "smbd", "serv1", "serv2", 1, old + number, manifest.COMPLETE, old + number, files)
        made = made._replace(confirmed=confirmed, confirmed_by="" if confirmed is None else "somebody")
        Path(f"{backups.folder(name)}/manifest.json").write_text(json.dumps(made._asdict()))
        (stay if number % 3 else due).add(name)
    return due, stay


def test_a_thousand_sets_are_listed_and_only_those_that_are_due_are_deleted(pair_files: "Box") -> None:
    """What it takes is measured by bench/backups.py; here only that it is right."""
    due, stay = many(1000, 20)
    found = json.loads(pair_files.script("purge_backups", "--json").stdout)
    assert {one["set"]: one["entries"] for one in found} == dict.fromkeys(due | stay, 20)
    found = json.loads(pair_files.script("purge_backups", "--purge", "--json").stdout)
    assert set(found["deleted"]) == due
    assert set(os.listdir(paths.BACKUPS)) == stay
    assert all(len(os.listdir(f"{backups.files_folder(name)}/srv/data")) == 20 for name in stay)


def test_more_sets_than_one_command_line_holds(pair_files: "Box") -> None:
    """As after a month of passes every minute; with a smaller stack the kernel takes less: a quarter of it."""
    for number in range(2500):
        os.makedirs(f"{paths.BACKUPS}/.deleting-20260314T021500.000Z-a-service-with-a-rather-long-name-{number:04x}")
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, hard))
    try:
        backups.sweep()
    finally:
        resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))
    assert os.listdir(paths.BACKUPS) == []
