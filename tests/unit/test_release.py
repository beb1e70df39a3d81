"""release: a group goes to the other node without loss, step by step; whatever fails on the way is put back.

Both nodes are real: their own network, their own folders, real passes, the real peer_gate and takeover over there.
"""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from clusterd import gate, handover, lock, notify, ownership, state
from clusterd.commands import release
from clusterd.errors import Failed
from clusterd.model import Config
from clusterd.ownership import Record
from unit.site import Site, wait
from unit.site import made_site as made_site

pytest_plugins = ["lan"]


@pytest.fixture(name="held")
def holding(site: Site) -> Site:
    """serv1 serves its group; `first` mirrors a folder."""
    site.mirror()
    site.hold("serv1", 3)
    site.see()
    assert site.up("serv1") and site.running() == {"first", "second"}
    return site


def there(site: Site, group: str = "serv1") -> Record:
    """What serv2 knows of a group."""
    fact = state.read(f"{site.state2}/groups/{group}.json")
    return Record(**fact) if fact else Record(group)


def as_before(site: Site) -> bool:
    """serv1 serves its group as if nothing had been tried."""
    record = ownership.read("serv1")
    assert (record.epoch, record.holder, record.phase) == (3, "serv1", "held")
    assert site.up("serv1") and not site.up("serv1", "serv2")
    assert site.running() == {"first", "second"} and site.running("serv2") == set()
    assert not there(site).held_by("serv2")
    return ownership.standby() is None


def test_the_order_of_a_hand_over(held: Site) -> None:
    """Passes, stop, a last pass, the record FREE, the address gone, and only then the word to the other node."""
    (held.files / "first" / "letter").write_text("changed")
    done = held.run("release", "serv1")
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.startswith("serv1: serv2 answers; ")
    journal = held.journal()
    ready = journal.index("rsh acquire ready")
    assert 1 < ready < journal.index("rsh acquire go: the address is gone, the record says free")
    del journal[ready]  # it gets ready beside the rest
    assert journal[0] == "rsh ready serv1"
    assert [line for line in journal[1:] if line != "rsh pass"] == [
        "serv1 stop second",
        "serv1 stop first",
        "rsh acquire go: the address is gone, the record says free",
        "serv2 start first",
        "serv2 start second",
    ]
    assert journal[1] == "rsh pass" and journal[journal.index("serv1 stop first") + 1] == "rsh pass"
    record = ownership.read("serv1")
    assert (record.epoch, record.phase) == (3, "free")
    over_there = there(held)
    assert (over_there.epoch, over_there.holder, over_there.phase, over_there.pinned) == (4, "serv2", "held", True)
    assert held.up("serv1", "serv2") and not held.up("serv1")
    assert (held.running(), held.running("serv2")) == (set(), {"first", "second"})
    assert (held.other / "first" / "letter").read_text() == "changed"
    assert [name for name in held.told() if name in ("release-began", "release-done", "release-failed")] == [
        "release-began",
        "release-done",
    ]


def test_who_reaches_nobody_stops_at_once(held: Site) -> None:
    """No client reaches it either: one pass, after the stop."""
    held.see(reach=0)
    (held.files / "first" / "letter").write_text("changed")
    assert held.run("release", "serv1").returncode == 0
    journal = held.journal()
    assert journal.count("rsh pass") == 1
    assert journal.index("rsh pass") == journal.index("serv1 stop first") + 1
    assert (held.other / "first" / "letter").read_text() == "changed"


def test_as_json(held: Site) -> None:
    would = json.loads(held.run("release", "--json", "--dry-run", "serv1").stdout)
    assert (would["group"], would["to"], would["released"]) == ("serv1", "serv2", False)
    assert would["said"][1] == "would stop second, first" and as_before(held)
    done = json.loads(held.run("release", "--json", "serv1").stdout)
    assert (done["group"], done["to"], done["released"], done["unmirrored"]) == ("serv1", "serv2", True, [])
    refused = json.loads(held.run("release", "--json", "serv1").stdout)
    assert refused == {"error": "serv1 is not held here but by serv1: release it there", "exit": 77}


def test_what_is_written_until_the_stop_is_there(held: Site) -> None:
    """The service writes its last word when it is stopped."""
    held.break_("before-stop-first", f"date > {held.files}/first/last")
    assert held.run("release", "serv1").returncode == 0
    assert (held.other / "first" / "last").read_text() == (held.files / "first" / "last").read_text()


def test_not_held_here(site: Site) -> None:
    ownership.write(Record("serv1", 4, "serv2"))
    for words in (["serv1"], ["serv1", "--to", "serv2"], ["--dry-run", "serv1"]):
        done = site.run("release", *words)
        assert (done.returncode, done.stdout) == (77, "")
        assert done.stderr == "release: serv1 is not held here but by serv2: release it there\n"
    assert site.journal() == []


def test_usage(held: Site) -> None:
    done = held.run("release", "serv9")
    assert (done.returncode, done.stderr) == (2, "release: serv9: no such group; there are serv1, serv2\n")
    for node in ("serv9", "serv1"):
        done = held.run("release", "serv1", "--to", node)
        assert (done.returncode, done.stderr) == (2, f"release: --to {node}: not one of the other nodes (serv2)\n")
    assert held.journal() == [] and as_before(held)


def test_busy(held: Site) -> None:
    from clusterd.lock import Lock

    with Lock("group-serv1"):
        done = held.run("release", "serv1")
    assert done.returncode == 75
    assert held.journal() == [] and as_before(held)


def test_bad_configuration(held: Site) -> None:
    held.box.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    done = held.run("release", "serv1")
    assert done.returncode == 78
    assert "failback: found 'perhaps'" in done.stderr


def test_dry_run_prints_the_steps_and_does_none(held: Site) -> None:
    done = held.run("release", "--dry-run", "serv1")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "would mirror first to serv2 while the services run",
        "would stop second, first",
        "would mirror first once more",
        "would drop 10.1.0.1/24 and have serv2 take it over",
    ]
    assert held.journal() == [] and as_before(held)
    assert held.told() == []


def test_the_peer_is_in_standby_by_a_person(held: Site) -> None:
    state.write(f"{held.state2}/standby", {"cause": "person", "reason": "the fan is loud", "since": 0.0})
    done = held.run("release", "serv1")
    assert done.returncode == 1
    assert "release: serv2 cannot take serv1: peer_gate: in standby, set by a person: the fan is loud" in done.stderr
    assert held.journal() == ["rsh ready serv1"]
    assert as_before(held)
    assert held.told()[-1] == "release-failed"


def test_the_peer_is_not_reached(held: Site) -> None:
    held.break_("rsh-ready", "echo 'rsh: no route to host' >&2; exit 1")
    done = held.run("release", "--failback", "serv1")
    assert done.returncode == 1
    assert "release: serv2 cannot take serv1: rsh: no route to host" in done.stderr
    assert as_before(held)
    assert held.told()[-1] == "failback-failed"


def test_a_first_pass_that_fails_stops_nothing(held: Site) -> None:
    held.break_("rsh-pass", "echo 'rsh: no route to host' >&2; exit 1")
    done = held.run("release", "serv1")
    assert done.returncode == 1
    assert set(held.journal()) == {"rsh ready serv1", "rsh pass"}
    assert as_before(held)


def test_a_stop_that_fails_is_put_back(held: Site) -> None:
    """`second` has stopped already, `first` does not: both run in the end."""
    held.break_("stop-first")
    done = held.run("release", "serv1")
    assert done.returncode == 1
    assert (
        done.stderr
        == "release: first did not stop: first: stop failed: svc first stop: exit 1: first has no wish to stop\n"
    )
    assert "serv1 start second" in held.journal()
    assert "rsh acquire dismissed" in held.journal()
    assert as_before(held)


def test_a_last_pass_that_fails_is_put_back(held: Site) -> None:
    held.break_("rsh-pass-2", "echo 'rsh: the cable is out' >&2; exit 1")
    done = held.run("release", "serv1")
    assert done.returncode == 1
    journal = held.journal()
    assert journal.index("serv1 stop first") < journal.index("serv1 start first") < journal.index("serv1 start second")
    assert "rsh acquire dismissed" in journal
    assert as_before(held)


def test_a_service_that_does_not_start_again_when_it_is_put_back_is_told(held: Site) -> None:
    held.break_("rsh-pass-2", "echo 'rsh: the cable is out' >&2; exit 1")
    held.break_("start-first")
    assert held.run("release", "serv1").returncode == 1
    assert ownership.read("serv1").phase == "held" and held.running() == {"second"}
    (event,) = [event for event in held.events() if event["event"] == "service-failed"]
    assert event["subject"] == "first" and "has no wish to start" in event["text"]


def test_and_so_it_is_when_the_group_is_taken_again(held: Site) -> None:
    fails_at_go(held)
    held.break_("rsh-status-1", f"cat {held.root}/status2")
    says(held, "status3", epoch=6, holder="serv1")
    held.break_("rsh-status-2", f"cat {held.root}/status3")
    held.break_("start-second")
    assert held.run("release", "serv1").returncode == 1
    assert ownership.read("serv1").phase == "held" and held.running() == {"first"}
    assert [event["subject"] for event in held.events() if event["event"] == "service-failed"] == ["second"]


def test_a_successor_that_dies_before_it_is_needed_is_put_back(held: Site) -> None:
    held.break_("rsh-acquire", "echo 'peer_gate: out of memory' >&2; exit 1")
    done = held.run("release", "serv1")
    assert done.returncode == 1
    assert "serv2 cannot take it: peer_gate: out of memory" in done.stderr
    assert as_before(held)


def refuse(site: Site, pattern: str) -> None:
    """An `ip` that carries out no line with these words, and everything else."""
    site.box.program(
        "ip",
        f"""export PATH=${{PATH#*:}}
case "$*" in *"{pattern}"*) echo "RTNETLINK answers: Device or resource busy" >&2; exit 2 ;; esac
case "$*" in *-batch*) ;; *) exec ip "$@" ;; esac
lines=$(cat)
case $lines in *"{pattern}"*) echo "ip: busy" >&2; exit 2 ;; esac
echo "$lines" | ip "$@" """,
    )


def test_an_address_that_is_gone_goes_on_whatever_the_nic_says_of_its_mac(held: Site) -> None:
    """Nobody answers here any more, the services are down: to put that back would be the longer outage."""
    refuse(held, "link set dev eth0 address")
    done = held.run("release", "serv1")
    assert done.returncode == 0, done.stderr
    assert "rsh acquire go: the address is gone, the record says free" in held.journal()
    assert ownership.read("serv1").phase == "free" and there(held).phase == "held"
    assert held.up("serv1", "serv2") and not held.up("serv1")
    assert (held.running(), held.running("serv2")) == (set(), {"first", "second"})
    (event,) = [event for event in held.events() if event["event"] == "drop-incomplete"]
    assert event["text"].startswith("serv1: its addresses are gone from here, but not all else: ")


def test_an_address_that_stays_is_put_back(held: Site) -> None:
    """The successor never hears the word: two would answer."""
    ownership.enter("serv1", 3, ownership.HELD, pinned=True)
    refuse(held, "addr del 10.1.0.1/24")
    done = held.run("release", "serv1")
    assert done.returncode == 1
    assert "an address is still on eth0" in done.stderr
    assert "rsh acquire dismissed" in held.journal()
    assert as_before(held)
    assert ownership.read("serv1").pinned
    assert held.seen()[-2].startswith("serv1 start first phases releasing"), "renewed while the services start"
    assert held.told()[-1] == "release-failed"


def test_a_pin_survives_a_release_that_failed(held: Site) -> None:
    ownership.enter("serv1", 3, ownership.HELD, pinned=True)
    held.break_("stop-first")
    assert held.run("release", "serv1").returncode == 1
    assert as_before(held)
    assert ownership.read("serv1").pinned


def test_a_successor_that_dies_at_the_word_go_and_surely_has_not_got_it(held: Site) -> None:
    """Its own view says so: the group is taken again, with an epoch above all, once the other one knows that one."""
    fails_at_go(held)
    held.break_("rsh-status", f"echo asked >> {held.root}/journal; cat {held.root}/status2")
    process = held.start("release", "serv1")
    wait(lambda: held.journal().count("asked") > 2)
    assert ownership.read("serv1")[1:4] == (6, "serv1", "free") and not held.up("serv1")
    says(held, epoch=6, holder="serv1")
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "serv2 did not take it: takeover: out of memory" in complaint
    record = ownership.read("serv1")
    assert (record.epoch, record.phase) == (6, "held")
    assert held.up("serv1") and held.running() == {"first", "second"}


def fails_at_go(site: Site) -> None:
    site.break_("go", "echo 'takeover: out of memory' >&2; exit 1")
    says(site, epoch=5, holder="serv2")


def says(site: Site, file: str = "status2", peers: Any = None, /, **about: Any) -> None:
    """What serv2's gate is to answer when it is asked how it is: of serv1's group, and whom it hears."""
    fact = state.read(str(site.box.run / "view.json"))
    (like,) = fact["peers"].values()
    heard = {name: {**like, "name": name, **each} for name, each in (peers or {}).items()}
    fact |= {"node": "serv2", "groups": {"serv1": {"held": False, **about}}, "peers": heard}
    state.write(f"{site.root}/{file}", fact)


def test_a_successor_that_does_not_hear_that_it_is_taken_again_may_still_obey(
    held: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The word that it may take the group can be on its way, and it would be as good as before."""
    monkeypatch.setattr(handover, "HEARSAY", 0.5)
    fails_at_go(held)
    held.break_("rsh-status", f"cat {held.root}/status2")
    options = release.parser().parse_args(["--config", str(held.box.conf), "serv1"])
    with pytest.raises(Failed, match="serv2 does not hear that it is taken again: serv2 may have it, nobody serves it"):
        release.release(options)
    assert not held.up("serv1") and ownership.read("serv1")[1:4] == (6, "serv1", "free")
    assert "hand-over-unclear" in held.told()
    assert "nobody serves it" in held.events()[-1]["text"]


def test_what_changes_while_the_gate_looks_is_at_work(held: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script has had the lock and given it back, between the look at the record and that at the lock."""
    assert not gate.current().groups["serv1"]["busy"]
    read, seen = ownership.read, iter([ownership.read("serv1"), Record("serv1", 3, "serv2")])
    monkeypatch.setattr(ownership, "read", lambda group: next(seen) if group == "serv1" else read(group))
    assert gate.current().groups["serv1"]["busy"]


def test_that_epoch_as_its_own_is_no_sign_that_it_has_heard(held: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handover, "HEARSAY", 0.5)
    fails_at_go(held)
    held.break_("rsh-status-1", f"cat {held.root}/status2")
    says(held, "status3", epoch=6, holder="serv2")
    for number in range(2, 20):
        held.break_(f"rsh-status-{number}", f"cat {held.root}/status3")
    options = release.parser().parse_args(["--config", str(held.box.conf), "serv1"])
    with pytest.raises(Failed, match="serv2 does not hear that it is taken again"):
        release.release(options)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("cat {root}/status2", "serv2 holds it"),
        ("cat {root}/status3", "serv3 holds it"),
        ("echo '{{}}'", "serv2 does not answer"),
        ("exit 255", "serv2 does not answer"),
    ],
)
def test_a_successor_that_may_have_got_it_is_left_to_it(held: Site, answer: str, why: str) -> None:
    """Unsure is not dead: this node stays off the address. Nor is it taken from a third one, which has it since."""
    held.break_("go", "exit 1")
    says(held, epoch=4, holder="serv2", held=True)
    third = {"heard": True, "groups": {"serv1": {"epoch": 4, "holder": "serv3", "held": True, "pinned": False}}}
    says(held, "status3", {"serv3": third}, epoch=4, holder="serv3")
    held.break_("rsh-status", answer.format(root=held.root))
    done = held.run("release", "serv1")
    assert done.returncode == 1
    assert not held.up("serv1") and ownership.read("serv1").phase == "free"
    assert held.running() == set()
    assert "hand-over-unclear" in held.told()
    (event,) = [event for event in held.events() if event["event"] == "release-failed"]
    assert event["text"].endswith(f"; {why}: serv2 may have it, nobody serves it here")


def test_terminated_while_it_stops_puts_back(held: Site) -> None:
    """SIGTERM, as at a shutdown of the machine: what was begun is undone."""
    held.box.edit("services/first.conf", "[run]\n", "[run]\ntimeout = 8 seconds\n")  # it is given that to go down
    slow = held.break_("before-stop-first", "echo slow >> journal; exec sleep 60")
    process = held.start("release", "serv1")
    wait(lambda: "slow" in held.journal())
    slow.unlink()
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert as_before(held)


def test_killed_and_resumed(held: Site) -> None:
    """Killed with a service down: the record says that a release was cut, and --resume makes it whole, also what the
    stop command, which goes on, stops only then.
    """
    slow = held.break_("before-stop-first", "echo slow >> journal; sleep 4")
    process = held.start("release", "serv1")
    wait(lambda: "slow" in held.journal())
    process.kill()
    process.communicate()
    assert ownership.read("serv1").phase == "releasing"
    assert held.running() == {"first"}
    slow.unlink()
    assert held.run("takeover", "--resume", "serv1").returncode == 0
    assert held.journal()[-2:] == ["serv1 start first", "serv1 start second"]
    assert as_before(held)


def test_who_is_in_standby_hands_over_and_sets_no_lock_that_a_person_has_lifted_meanwhile(held: Site) -> None:
    done = held.run("release", "serv1", "--to=serv2", "--in-standby")
    assert done.returncode == 0, done.stderr
    assert ownership.standby() is None
    assert not ownership.read("serv1").pinned


def test_a_failback_unpins_and_a_standby_follows(held: Site) -> None:
    """serv1, in trouble, hands over and goes to standby: nobody has moved it by hand, so nothing is pinned."""
    done = held.run("release", "serv1", "--to=serv2", "--standby=serv1 reaches 0 reference hosts, serv2 1")
    assert done.returncode == 0, done.stderr
    standby = ownership.standby()
    assert standby and (standby.cause, standby.reason) == ("program", "serv1 reaches 0 reference hosts, serv2 1")
    assert not there(held).pinned
    assert "standby-entered" in held.told()


def test_home_by_hand_is_not_pinned(held: Site) -> None:
    held.hold("serv2", 7)
    assert held.run("release", "serv2").returncode == 0
    record = there(held, "serv2")
    assert (record.epoch, record.holder, record.pinned) == (8, "serv2", False)
    assert held.up("serv2", "serv2") and not held.up("serv2")
    assert held.up("serv1")


def test_failback_is_told_as_one(held: Site) -> None:
    held.hold("serv2", 7)
    state.write(f"{held.state2}/standby", {"cause": "program", "reason": "serv1 holds serv2", "since": 0.0})
    assert held.run("release", "--failback", "--to=serv2", "serv2").returncode == 0
    [event] = [event for event in held.events() if event["event"] == "failback-done"]
    assert event["text"] == "serv2 is served by serv2 again"
    assert state.read(f"{held.state2}/standby") is None


def test_services_that_do_not_start_there_do_not_bring_it_back(held: Site) -> None:
    """The address has moved, the other services run there: what fails is told."""
    held.break_("start-second")
    assert held.run("release", "serv1").returncode == 0
    assert held.up("serv1", "serv2") and held.running("serv2") == {"first"}


def test_let_go_refuses_what_is_held(held: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "WRITTEN", 0.2)
    options = release.parser().parse_args(["--config", str(held.box.conf), "serv1", "--let-go"])
    with pytest.raises(Failed, match="serv1 is held here: hand it over with --to NODE"):
        release.release(options)
    assert held.journal() == [] and as_before(held)


def test_let_go_waits_for_the_record(held: Site) -> None:
    """The watchdog has decided, its disk is slow."""
    process = held.start("release", "serv1", "--let-go")
    wait(lambda: lock.held("group-serv1"))
    assert process.poll() is None and held.up("serv1")
    ownership.write(Record("serv1", 9, "serv2"))
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert not held.up("serv1") and held.running() == set()


def test_let_go_stops_what_still_runs(held: Site) -> None:
    ownership.write(Record("serv1", 9, "serv2"))
    done = held.run("release", "--dry-run", "--let-go", "serv1")
    assert done.stdout == "would stop second, first and drop the address\n"
    assert held.up("serv1") and held.running() == {"first", "second"}
    done = held.run("release", "serv1", "--let-go", "--why=serv2 holds it with epoch 9")
    assert (done.returncode, done.stderr) == (0, "")
    assert not held.up("serv1") and held.running() == set()
    assert held.journal() == ["serv1 stop second", "serv1 stop first"]
    assert held.events()[-1]["event"] == "let-go"


def test_let_go_with_a_damaged_record(held: Site) -> None:
    """Another node has taken it: the services end here, whatever the file says."""
    Path(ownership.path("serv1")).write_text("{")
    assert held.run("release", "serv1", "--let-go").returncode == 0
    assert not held.up("serv1") and held.running() == set()


def test_let_go_tells_of_a_service_that_does_not_stop(held: Site) -> None:
    """The watchdog tries again; a person hears of it once, and of the next time it happens."""
    held.break_("stop-second")
    ownership.write(Record("serv1", 9, "serv2"))
    for _ in range(2):
        done = held.run("release", "serv1", "--let-go", "--why=serv2 holds it with epoch 9")
        assert (done.returncode, done.stderr) == (1, "release: serv1: second did not stop\n")
        assert not held.up("serv1") and held.running() == {"second"}
    told = [event for event in held.events() if event["event"] == "service-failed"]
    assert [event["subject"] for event in told] == ["second", "second"]
    assert told[0]["text"].startswith("second did not stop here, and serv1 is another node's now: ")


@pytest.mark.parametrize("stuck", ["", "second"])
def test_let_go_of_an_address_that_stays(held: Site, stuck: str) -> None:
    """Two answer for it: the services end all the same, and a person is told of all that stays."""
    refuse(held, "addr del 10.1.0.1/24")
    if stuck:
        held.break_(f"stop-{stuck}")
    ownership.write(Record("serv1", 9, "serv2"))
    done = held.run("release", "serv1", "--let-go", "--why=serv2 holds it with epoch 9")
    assert done.returncode == 1
    assert "an address is still on eth0" in done.stderr
    assert ("second did not stop" in done.stderr) == bool(stuck)
    assert held.up("serv1") and held.running() == {stuck} - {""}
    (event,) = [event for event in held.events() if event["event"] == "not-let-go"]
    assert event["text"].startswith("serv1 is another node's now, and its address does not go from here: ")
    assert "an address is still on eth0" in event["text"]
    assert [event["subject"] for event in held.events() if event["event"] == "service-failed"] == [stuck] * bool(stuck)


@pytest.mark.parametrize(("words", "name"), [((), "release-failed"), (("--failback",), "failback-failed")])
def test_a_disk_that_takes_no_record_is_told(
    pair: Config, words: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody else tells of it: the watchdog believes a release that has said why."""
    ownership.enter("serv1", 3, ownership.HELD)
    monkeypatch.setattr(handover, "ready", lambda *_: None)
    monkeypatch.setattr(handover, "copy", lambda *_, last: [])
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(notify, "tell_detached", lambda _, name, text, **facts: told.append((name, text)))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert release.main(["--config", pair.folder, *words, "serv1"]) == 1
    why = f"{ownership.path('serv1')}: No space left on device"
    assert capsys.readouterr().err == f"release: {why}\n"
    assert told == [(name, f"serv1 to serv2: {why}")]
