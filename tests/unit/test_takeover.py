"""takeover, as a real process on a real network: what it refuses, the order of its steps, what a failure leaves."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from clusterd import network, ownership, passes, paths, view
from unit.site import SERVICES, Site, wait, wait_gone
from unit.site import made_site as made_site

pytest_plugins = ["lan"]


def untouched(site: Site, group: str = "serv2") -> bool:
    """Nothing was acquired, started or written."""
    return not site.up(group) and site.journal() == [] and not ownership.holds(group)


def test_taken_by_hand(site: Site) -> None:
    site.see(heard=False, serv2={"epoch": 4, "holder": "serv2", "held": True})
    done = site.run("takeover", "serv2")
    assert (done.returncode, done.stderr) == (0, "")
    record = ownership.read("serv2")
    assert (record.epoch, record.holder, record.phase, record.pinned) == (5, "serv1", "held", False)
    assert site.up("serv2")
    assert site.journal() == ["serv1 start mail", "serv1 start web"]
    assert ownership.verified("serv2") == "10.1.0.254 answered"
    assert site.told()[-1] == "takeover-done"


def test_as_json(site: Site) -> None:
    """What would be done, what was done, and that nothing was to be done: one object each."""
    would = json.loads(site.run("takeover", "--json", "--dry-run", "serv2").stdout)
    assert (would["group"], would["epoch"], would["taken"]) == ("serv2", 1, False)
    assert "would start mail (command)" in would["said"] and not site.up("serv2") and site.journal() == []
    done = json.loads(site.run("takeover", "--json", "serv2").stdout)
    assert (done["group"], done["epoch"], done["taken"], done["failed"]) == ("serv2", 1, True, {})
    assert done["verified"] == "10.1.0.254 answered"
    again = json.loads(site.run("takeover", "--json", "serv2").stdout)
    assert (again["epoch"], again["taken"], again["why"]) == (1, False, "held here already")
    assert site.run("takeover", "--json", "--on-go", "serv2").returncode == 2


def test_the_epoch_is_above_all_that_are_known(site: Site) -> None:
    ownership.write(ownership.Record("serv2", 7, "serv2"))
    site.see(heard=False, serv2={"epoch": 4, "holder": "serv2"})
    assert site.run("takeover", "serv2").returncode == 0
    assert ownership.read("serv2").epoch == 8


def test_order_of_the_steps(site: Site) -> None:
    """The epoch is on the disk before the address is on the NIC; the address before the services."""
    site.box.program(
        "ip",
        f"""lines=$(cat)
case $lines in *"addr replace 10.1.0.2/"*)
    echo "address, the record says $(tr -d ' \\n' < {paths.GROUPS}/serv2.json)" >> {site.root}/journal ;;
esac
echo "$lines" | PATH=${{PATH#*:}} exec ip "$@" """,
    )
    assert site.run("takeover", "serv2").returncode == 0
    address, mail, web = site.journal()
    assert '"epoch":1,' in address and '"phase":"acquiring"' in address and '"holder":"serv1"' in address
    assert [mail, web] == ["serv1 start mail", "serv1 start web"]
    assert site.seen()[0] == "serv1 start mail phases starting  addresses 10.1.0.2"


def test_held_already_is_done(site: Site) -> None:
    site.hold("serv2", 3)
    done = site.run("takeover", "serv2")
    assert (done.returncode, done.stdout, site.journal()) == (0, "", [])
    assert ownership.read("serv2").epoch == 3


def test_standby_acquires_nothing(site: Site) -> None:
    ownership.enter_standby(ownership.PERSON, "the fan is loud")
    done = site.run("takeover", "serv2")
    assert done.returncode == 77
    assert done.stderr == "takeover: this node is in standby (person: the fan is loud): it acquires nothing\n"
    done = site.run("takeover", "--on-go", "serv2", stdin="epoch 5\nwhy serv2 is dead\nunheard serv2\ngo\n")
    assert done.returncode == 77
    assert untouched(site)


def test_a_standby_by_a_person_is_not_handed_anything(site: Site) -> None:
    ownership.enter_standby(ownership.PERSON, "the fan is loud")
    done = site.run("takeover", "--handed-over", "4", "serv2")
    assert done.returncode == 77
    assert "only a person lifts it" in done.stderr
    assert untouched(site)
    done = site.run("takeover", "--dry-run", "--handed-over", "4", "serv2")
    assert (done.returncode, done.stdout) == (77, "")


def test_a_dry_run_lifts_no_standby(site: Site) -> None:
    ownership.enter_standby(ownership.PROGRAM, "serv2 holds serv1")
    done = site.run("takeover", "--dry-run", "--handed-over", "4", "serv2")
    assert done.returncode == 0 and done.stdout.startswith("would take serv2 with epoch 5\n")
    assert ownership.standby()
    assert untouched(site)


def test_handed_over_lifts_the_programs_standby(site: Site) -> None:
    ownership.enter_standby(ownership.PROGRAM, "serv2 holds serv1")
    ownership.write(ownership.Record("serv1", 6, "serv2"))
    assert site.run("takeover", "--handed-over", "6", "serv1").returncode == 0
    assert ownership.standby() is None
    assert ownership.read("serv1").epoch == 7
    done = site.run("takeover", "--handed-over", "11", "--pinned", "serv2")
    assert done.returncode == 0
    record = ownership.read("serv2")
    assert (record.epoch, record.pinned) == (12, True)


def test_a_word_that_comes_when_the_group_has_been_taken_again_is_not_obeyed(site: Site) -> None:
    ownership.write(ownership.Record("serv2", 5, "serv2"))
    done = site.run("takeover", "--handed-over", "4", "serv2")
    assert done.returncode == 77
    assert "epoch 5 of serv2 is serv2's: the word that it is handed over, with epoch 4, came too late" in done.stderr
    assert untouched(site)


def test_unknown_group(site: Site) -> None:
    done = site.run("takeover", "serv9")
    assert (done.returncode, done.stderr) == (2, "takeover: serv9: no such group; there are serv1, serv2\n")


def test_held_elsewhere(site: Site) -> None:
    site.see(serv2={"epoch": 4, "holder": "serv2", "held": True})
    done = site.run("takeover", "serv2")
    assert done.returncode == 1
    assert done.stderr == "takeover: serv2 holds serv2: run `release serv2 --to serv1` there\n"
    assert untouched(site)


def test_without_a_watchdog_it_cannot_tell(site: Site) -> None:
    (site.box.run / "view.json").unlink()
    done = site.run("takeover", "serv2")
    assert done.returncode == 3
    assert "watchdog is not running" in done.stderr
    assert untouched(site)


def test_what_the_watchdog_is_not_sure_of_is_not_taken(site: Site) -> None:
    """The machine was stopped in the middle of the takeover: what was decided before may be wrong now."""
    (site.box.run / "sure").unlink()
    order = "epoch 5\nwhy a test\nunheard serv2\ngo\n"
    done = site.run("takeover", "--on-go", "serv2", stdin=order)
    assert done.returncode == 3
    assert done.stderr == "takeover: the watchdog is not sure of the peers' claims: nothing is taken\n"
    assert untouched(site)
    record = ownership.read("serv2")
    assert (record.epoch, record.holder, record.phase) == (5, "serv1", "free")


def test_what_was_taken_meanwhile_is_not_taken(site: Site) -> None:
    (site.box.run / "sure").unlink()
    process = site.start("takeover", "--on-go", "serv2")
    assert process.stdin
    process.stdin.write("epoch 5\nwhy a test\nunheard serv2\ngo\n")
    process.stdin.flush()
    wait(lambda: ownership.read("serv2").phase == "acquiring")
    ownership.write(ownership.Record("serv2", 6, "serv2"))
    site.sure()
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (77, "takeover: serv2 has been taken by another node meanwhile\n")
    assert untouched(site)
    assert ownership.read("serv2").epoch == 6


def test_by_hand_it_waits_for_a_new_view(site: Site) -> None:
    """What a watchdog that has just started said first is too little."""
    old = site.see()
    view.write(old._replace(written=view.now(), until=view.now() + 60))
    process = site.start("takeover", "serv2")
    time.sleep(1)
    assert process.poll() is None and untouched(site)
    site.see(serv2={"epoch": 4, "holder": "serv2", "held": True})
    _, complaint = process.communicate(timeout=30)
    assert (process.returncode, complaint) == (
        1,
        "takeover: serv2 holds serv2: run `release serv2 --to serv1` there\n",
    )
    assert untouched(site)


def test_what_the_peer_is_taking_is_not_taken(site: Site) -> None:
    site.see(serv2={"epoch": 4, "holder": "serv1", "taking": 5})
    done = site.run("takeover", "serv2")
    assert (done.returncode, done.stderr) == (1, "takeover: serv2 is taking serv2 over just now\n")
    assert untouched(site)


def test_what_a_peer_says_that_it_has_is_not_taken_though_it_hears_nobody(site: Site) -> None:
    ownership.write(ownership.Record("serv2", 4, "serv2"))
    seen = site.see(heard=False)
    peer = seen.peers["serv2"]
    view.write(seen._replace(peers={"serv2": peer._replace(rumours={"serv2": 4})}))
    done = site.run("takeover", "serv2")
    assert done.returncode == 1
    assert done.stderr.startswith("takeover: serv2 says that it has serv2, and does not hear this node: look at it")
    assert untouched(site)
    view.write(seen._replace(peers={"serv2": peer._replace(rumours={"serv2": 3})}))
    assert site.run("takeover", "serv2").returncode == 0


def test_by_hand_the_lan_is_asked_after_a_watchdog_that_was_away_has_come(site: Site) -> None:
    """What it said before is old by then."""
    old = site.see(heard=False)
    view.write(old._replace(written=view.now(), until=view.now() + 60))
    process = site.start("takeover", "serv2")
    time.sleep(1)
    site.lan.ip("serv2", "addr add 10.1.0.2/24 dev eth0")
    site.see(heard=False)
    _, complaint = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "still answers for serv2: nothing is taken over" in complaint
    assert untouched(site)


def test_an_address_that_answers_is_not_taken(site: Site) -> None:
    site.lan.ip("serv2", "addr add 10.1.0.2/24 dev eth0")
    site.see(heard=False)
    done = site.run("takeover", "serv2")
    assert done.returncode == 1
    assert "10.1.0.2 at " in done.stderr and "still answers for serv2: nothing is taken over" in done.stderr
    assert untouched(site)


def test_the_isolated_one_is_told_what_would_help(site: Site) -> None:
    """It would let go again at once."""
    site.see(heard=False, reach=0)
    done = site.run("takeover", "serv2")
    assert done.returncode == 3
    assert "name a machine that answers in [reference] hosts" in done.stderr
    assert untouched(site)


def test_what_another_node_takes_while_the_services_start_is_left_to_it(site: Site) -> None:
    site.see(heard=False)
    theirs = json.dumps(ownership.Record("serv2", 9, "serv2")._asdict())
    site.break_("before-start-web", f"echo '{theirs}' > {ownership.path('serv2')}")
    done = site.run("takeover", "serv2")
    assert done.returncode == 77
    assert "serv2: epoch 9 is known here, 1 is older" in done.stderr
    assert not site.up("serv2") and site.running() == set()
    assert ownership.read("serv2").epoch == 9


def test_what_was_cut_off_is_not_finished_by_hand_where_it_would_be_let_go_again(site: Site) -> None:
    site.hold("serv2", 3, ownership.STARTING)
    network.drop_group(site.load(), network.place(site.load(), "serv2", site.load().me()))
    site.see(heard=False, reach=0)
    done = site.run("takeover", "serv2")
    assert done.returncode == 3
    assert "name a machine that answers in [reference] hosts" in done.stderr
    assert not site.up("serv2")
    site.see(heard=False)
    assert site.run("takeover", "serv2").returncode == 0
    assert site.up("serv2")


def test_held_here_and_let_go_of_is_not_well(site: Site) -> None:
    site.hold("serv2", 3)
    network.drop_group(site.load(), network.place(site.load(), "serv2", site.load().me()))
    done = site.run("takeover", "serv2")
    assert done.returncode == 3
    assert "serv2 is held here, and its addresses are let go of: check_peer says why" in done.stderr


def test_busy(site: Site) -> None:
    from clusterd.lock import Lock

    with Lock("group-serv2"):
        done = site.run("takeover", "serv2")
    assert done.returncode == 75
    assert done.stderr.startswith("takeover: group-serv2: busy, process ")
    assert untouched(site)


def test_bad_configuration(site: Site) -> None:
    site.box.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    done = site.run("takeover", "serv2")
    assert done.returncode == 78
    assert "failback: found 'perhaps'" in done.stderr


def test_a_record_that_cannot_be_read_moves_nothing(site: Site) -> None:
    path = site.box.state / "groups" / "serv2.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"group": "serv2", "epo')
    done = site.run("takeover", "serv2")
    assert done.returncode == 1
    assert f"{path}: cannot be read" in done.stderr
    assert not site.up("serv2") and site.journal() == []


def test_dry_run_changes_nothing_and_prints_the_plan(site: Site) -> None:
    site.see(heard=False, serv2={"epoch": 4, "holder": "serv2"})
    done = site.run("takeover", "--dry-run", "serv2")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "would take serv2 with epoch 5",
        "would bring up 10.1.0.2/24 on eth2, MAC 00:10:4b:63:1c:35",
        "would start mail (command)",
        "would start web (command)",
    ]
    assert untouched(site)
    assert ownership.read("serv2") == ownership.Record("serv2")
    assert site.told() == []


def test_armed_and_sent_away(site: Site) -> None:
    done = site.run("takeover", "--on-go", "serv2", stdin="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = site.run("takeover", "--on-go", "serv2", stdin="epoch 5\nwhy because\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert untouched(site)


def test_armed_and_told_to_go(site: Site) -> None:
    site.see(serv2={"epoch": 4, "holder": "serv2", "held": True})
    done = site.run("takeover", "--on-go", "serv2", stdin="epoch 9\nwhy serv2 is dead\nunheard serv2\ngo\n")
    assert (done.returncode, done.stdout) == (0, "serv2: answering\n")
    assert ownership.read("serv2").epoch == 9
    event = site.events()[-1]
    assert (event["event"], event["epoch"]) == ("takeover-done", 9)
    assert event["text"] == "serv1 has taken over serv2 (epoch 9): serv2 is dead"


def test_an_order_that_is_older_than_what_is_known_is_refused(site: Site) -> None:
    ownership.write(ownership.Record("serv2", 9, "serv2"))
    done = site.run("takeover", "--on-go", "serv2", stdin="epoch 8\ngo\n")
    assert done.returncode == 77
    assert untouched(site)
    assert ownership.read("serv2").epoch == 9


def test_resume_of_what_is_not_held(site: Site) -> None:
    ownership.write(ownership.Record("serv2", 9, "serv2"))
    done = site.run("takeover", "--resume", "serv2")
    assert (done.returncode, done.stderr) == (1, "takeover: serv2 is not held here: there is nothing to resume\n")
    assert untouched(site)


def test_resume_puts_the_address_up_again_with_the_same_epoch(site: Site) -> None:
    site.hold("serv1", 6)
    site.lan.ip("serv1", "addr del 10.1.0.1/24 dev eth0")
    ownership.enter_standby(ownership.PROGRAM, "whatever: it is ours")
    assert site.run("takeover", "--resume", "serv1").returncode == 0
    assert site.up("serv1")
    record = ownership.read("serv1")
    assert (record.epoch, record.phase) == (6, "held")
    assert "takeover-done" not in site.told()
    assert site.journal() == []


@pytest.mark.parametrize("words", [("--resume", "serv1"), ("serv1",)])
def test_what_somebody_else_has_meanwhile_is_not_put_up_again(site: Site, words: tuple[str, ...]) -> None:
    """The heartbeat cable is out, this node stood still, and the other took over: neither hears the other."""
    site.hold("serv1", 6, ownership.RELEASING if words[0] == "serv1" else ownership.HELD)
    site.lan.ip("serv1", "addr del 10.1.0.1/24 dev eth0")
    site.lan.ip("serv2", "addr add 10.1.0.1/24 dev eth2")
    site.see(heard=False)
    done = site.run("takeover", *words)
    assert done.returncode == 1
    assert "answers for serv1" in done.stderr
    assert not site.up("serv1")
    site.lan.ip("serv2", "addr del 10.1.0.1/24 dev eth2")
    assert site.run("takeover", *words).returncode == 0
    assert site.up("serv1")


@pytest.mark.parametrize("holder", ["serv1", "serv2"])
def test_a_new_epoch_keeps_the_pin_of_what_was_here(site: Site, holder: str) -> None:
    """After a power cut of both nodes: a person moved it here, and has not moved it away."""
    ownership.write(ownership.Record("serv2", 6, holder, "held", "an earlier boot", pinned=True))
    assert site.run("takeover", "serv2").returncode == 0
    record = ownership.read("serv2")
    assert (record.epoch, record.pinned) == (7, holder == "serv1")


def test_resume_starts_what_the_group_has_got_since_or_somebody_has_stopped(site: Site) -> None:
    assert site.run("takeover", "serv2").returncode == 0
    record = ownership.read("serv2")
    (site.root / "running" / "serv1-web").unlink()
    said = len(site.journal())
    assert site.run("takeover", "serv2").returncode == 0
    assert site.running() == {"mail"}
    assert site.run("takeover", "--resume", "serv2").returncode == 0
    assert site.journal()[said:] == ["serv1 start web"]
    assert site.running() == {"mail", "web"}
    assert ownership.read("serv2") == record._replace(since=ownership.read("serv2").since)


def test_a_takeover_that_fails_keeps_the_pin(site: Site) -> None:
    ownership.write(ownership.Record("serv2", 6, "serv1", "held", "an earlier boot", pinned=True))
    site.lan.ip("serv1", "link set eth2 name later")
    assert site.run("takeover", "serv2").returncode == 1
    site.lan.ip("serv1", "link set later name eth2")
    assert site.run("takeover", "serv2").returncode == 0
    assert ownership.read("serv2").pinned


def test_a_pin_survives_a_resume(site: Site) -> None:
    site.hold("serv2", 6)
    ownership.enter("serv2", 6, ownership.HELD, pinned=True)
    assert site.run("takeover", "--resume", "serv2").returncode == 0
    assert ownership.read("serv2").pinned


def test_a_network_that_fails_is_undone(site: Site) -> None:
    site.lan.ip("serv1", "link del eth2")
    before = site.lan.ip("serv1", "addr")
    done = site.run("takeover", "serv2")
    assert done.returncode == 1
    assert done.stderr == "takeover: serv2: eth2: no such network interface\n"
    record = ownership.read("serv2")
    assert (record.epoch, record.phase) == (1, "free")
    assert site.lan.ip("serv1", "addr") == before
    assert site.journal() == []


def test_an_address_that_does_not_come_up_leaves_nothing_behind(site: Site) -> None:
    """The MAC is there already when the address is refused: it goes again."""
    mac = site.lan.ip("serv1", "link show eth2")[0]["address"]
    site.box.program(
        "ip",
        """PATH=${PATH#*:}
case "$*" in *-batch*) sed '/addr replace/s/.*/addr replace nonsense/' | exec ip "$@" ;; esac
exec ip "$@" """,
    )
    done = site.run("takeover", "serv2")
    assert done.returncode == 1
    assert "10.1.0.2/24 is not on eth2" in done.stderr
    assert site.lan.ip("serv1", "link show eth2")[0]["address"] == mac
    assert site.lan.ip("serv1", "rule show pref 6943") == []
    assert ownership.read("serv2").phase == "free"
    (site.box.bin / "ip").unlink()
    assert site.run("takeover", "serv2").returncode == 0
    assert ownership.read("serv2").epoch == 2


@pytest.mark.parametrize(("words", "code"), [(["serv2"], 1), (["--on-go", "serv2"], 0), (["--resume", "serv2"], 0)])
def test_a_service_that_fails_keeps_no_other_from_starting(site: Site, words: list[str], code: int) -> None:
    """By hand that is a failure; the watchdog is not to try again what serves as well as it can."""
    site.break_("start-mail")
    if "--resume" in words:
        ownership.enter("serv2", 1, ownership.ACQUIRING)
    done = site.run("takeover", *words, stdin="epoch 1\nwhy test\ngo\n")
    assert done.returncode == code
    assert "mail: start failed: svc mail start: exit 1: mail has no wish to start" in done.stderr
    assert site.journal() == ["serv1 start mail", "serv1 start web"]
    assert site.running() == {"web"}
    assert ownership.read("serv2").phase == "held"
    [event] = [event for event in site.events() if event["event"] == "service-failed"]
    assert event["subject"] == "mail"


def test_killed_between_two_steps_and_run_again(site: Site) -> None:
    """Killed after the address is up, before the first service has started; --resume finishes, so does a hand."""
    site.box.program("svc", f"echo begun >> {site.root}/journal; exec sleep 60")
    svc = site.box.bin / "svc"
    for words in (["--resume", "serv2"], ["serv2"]):
        ownership.write(ownership.Record("serv2", ownership.read("serv2").epoch, ""))
        process = site.start("takeover", "serv2")
        wait(lambda: site.journal() != [])
        (site.root / "journal").unlink()
        process.send_signal(signal.SIGKILL)
        process.communicate()
        record = ownership.read("serv2")
        assert (record.phase, record.held_by("serv1"), site.up("serv2")) == ("starting", True, True)
        real = svc.read_text()
        svc.write_text("#!/bin/sh\nexit 0\n")
        assert site.run("takeover", *words).returncode == 0
        assert ownership.read("serv2") == record._replace(phase="held", since=ownership.read("serv2").since)
        svc.write_text(real)


def test_killed_before_the_address_and_run_again(site: Site) -> None:
    """The epoch is taken, nothing else was done: the same epoch is finished."""
    stop = site.box.program(
        "ip",
        f"""PATH=${{PATH#*:}}
case "$*" in *-batch*) echo begun >> {site.root}/journal; exec sleep 60 ;; esac
exec ip "$@" """,
    )
    process = site.start("takeover", "serv2")
    wait(lambda: site.journal() != [])
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (site.root / "journal").unlink()
    assert (ownership.read("serv2").phase, site.up("serv2")) == ("acquiring", False)
    stop.unlink()
    assert site.run("takeover", "serv2").returncode == 0
    assert (ownership.read("serv2").epoch, ownership.read("serv2").phase) == (1, "held")
    assert site.up("serv2") and site.running() == {"mail", "web"}


def test_fenced_first(site: Site) -> None:
    """Every silent peer is off before anything of it is taken."""
    _fencing(site, status=2)
    site.see(heard=False)
    assert site.run("takeover", "serv2").returncode == 0
    assert [line.split(": ")[0] for line in site.journal()] == [
        "fence off serv2",
        "fence status serv2",
        "serv1 start mail",
        "serv1 start web",
    ]
    assert "fenced" in site.told()


@pytest.mark.parametrize("how", ["off fails", "still on", "status fails"])
def test_a_failed_fence_takes_nothing(site: Site, how: str) -> None:
    _fencing(site, off=1 if how == "off fails" else 0, status=0 if how == "still on" else 1)
    for words in (["serv2"], ["--on-go", "serv2"]):
        site.see(heard=False)
        done = site.run("takeover", *words, stdin=ORDER)
        assert done.returncode == 1
        assert done.stderr.startswith("takeover: not fenced: serv2 ")
        assert not site.up("serv2") and not ownership.holds("serv2")
        assert [line for line in site.journal() if not line.startswith("fence")] == []
    assert site.told()[-1] == "fence-failed"


def test_what_still_answers_is_not_off_whatever_the_agent_says(site: Site) -> None:
    """The wrong plug: another machine has been switched off."""
    _fencing(site)
    site.see(heard=False)
    site.lan.ip("serv2", "addr add 10.1.0.2/24 dev eth0")
    done = site.run("takeover", "--on-go", "serv2", stdin=ORDER)
    assert done.returncode == 1
    assert "the agent says that serv2 is off, but 10.1.0.2 at " in done.stderr
    assert not ownership.holds("serv2") and site.told()[-1] == "fence-failed"


def test_the_delay_of_who_is_to_be_fenced_comes_first(site: Site) -> None:
    _fencing(site, delay="300 ms")
    site.see(heard=False)
    began = time.monotonic()
    assert site.run("takeover", "--on-go", "serv2", stdin=ORDER).returncode == 0
    assert time.monotonic() - began > 0.3
    assert [name for name in site.told() if name.startswith("fence")] == ["fence-waits", "fenced"]


def test_who_is_heard_again_meanwhile_is_not_fenced(site: Site) -> None:
    _fencing(site, delay="300 ms")
    site.see(heard=True)
    done = site.run("takeover", "--on-go", "serv2", stdin=ORDER)
    assert done.returncode == 75
    assert done.stderr == "takeover: serv2: heard again, not fenced\n"
    assert site.journal() == [] and not ownership.holds("serv2")


def test_by_hand_there_is_no_delay(site: Site) -> None:
    _fencing(site, delay="5 minutes")
    site.see(heard=False)
    assert site.run("takeover", "serv2").returncode == 0


@pytest.mark.parametrize("on", [0, 1])
def test_reboot_switches_it_on_again_when_all_is_served(site: Site, on: int) -> None:
    _fencing(site, action="reboot", on=on)
    site.see(heard=False)
    assert site.run("takeover", "serv2").returncode == 0
    journal = [line.split(": ")[0] for line in site.journal()]
    assert journal[:2] == ["fence off serv2", "fence status serv2"]
    assert journal[4:] == ["fence on serv2", *([] if on else ["fence status serv2"])]
    assert ("power-on-failed" if on else "power-on") in site.told()
    assert site.up("serv2") and ownership.read("serv2").phase == "held"


@pytest.mark.parametrize("action", ["off", "reboot"])
def test_a_standby_that_is_set_while_the_agent_is_at_work_counts(site: Site, action: str) -> None:
    """And who was fenced in vain gets its power back, if that is wanted."""
    lock = json.dumps({"cause": "person", "reason": "new disk", "since": 0})
    _fencing(site, off=f"echo '{lock}' > {paths.STANDBY}; exit 0", action=action)
    site.see(heard=False)
    done = site.run("takeover", "--on-go", "serv2", stdin=ORDER)
    assert (done.returncode, done.stdout) == (77, "")
    assert "this node is in standby" in done.stderr
    assert not site.up("serv2") and not ownership.holds("serv2")
    assert ("fence on serv2" in site.journal()) == (action == "reboot")


def test_a_damaged_record_of_passes_keeps_the_other_services_from_nothing(site: Site) -> None:
    site.mirror("first")
    Path(passes.path("first")).parent.mkdir(parents=True, exist_ok=True)
    Path(passes.path("first")).write_text("{")
    done = site.run("takeover", "serv1")
    assert "first: not started: " in done.stderr and passes.path("first") in done.stderr
    assert site.running() == set(SERVICES) - {"first"} and ownership.read("serv1").phase == "held"


@pytest.mark.parametrize("action", ["off", "reboot"])
def test_who_was_fenced_for_a_takeover_that_was_cut_gets_its_power_with_the_next_one(site: Site, action: str) -> None:
    _fencing(site, action=action)
    site.see(heard=False)
    starting = site.root / "starting"
    hook = site.break_("before-start-web", f"touch {starting}; while [ -e {starting} ]; do sleep 0.05; done")
    process = site.start("takeover", "--on-go", "serv2")
    assert process.stdin is not None
    process.stdin.write(ORDER)
    process.stdin.flush()
    wait(starting.exists)
    process.kill()
    process.wait(10)
    hook.unlink()
    starting.unlink()
    assert "fence on serv2" not in site.journal()
    assert site.run("takeover", "--resume", "serv2").returncode == 0
    assert ("fence on serv2" in site.journal()) == (action == "reboot")
    assert site.run("takeover", "--resume", "serv2").returncode == 0
    assert site.journal().count("fence on serv2") == (action == "reboot")


def test_who_was_fenced_in_vain_gets_its_power_back_whatever_the_error(site: Site) -> None:
    """A full disk is none of our own errors."""
    full = f"mkdir -p {paths.GROUPS}; mount -t tmpfs -o nr_inodes=1 full {paths.GROUPS}; exit 0"
    _fencing(site, off=full, action="reboot")
    site.see(heard=False)
    try:
        done = site.run("takeover", "--on-go", "serv2", stdin=ORDER)
    finally:
        subprocess.run(["umount", paths.GROUPS], check=True)
    assert (done.returncode, "No space left on device" in done.stderr) == (1, True)
    assert "fence on serv2" in site.journal()


def test_an_order_that_is_gone_ends_the_agent_and_takes_nothing(site: Site) -> None:
    _fencing(site, off="sleep 1000")
    site.see(heard=False)
    process = site.start("takeover", "--on-go", "serv2")
    assert process.stdin is not None
    process.stdin.write(ORDER)
    process.stdin.flush()
    wait(lambda: site.journal() == ["fence off serv2"])
    (agent,) = map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 128 + signal.SIGTERM
    wait_gone(agent)
    assert not site.up("serv2") and not ownership.holds("serv2")


def test_nobody_is_fenced_who_is_heard(site: Site) -> None:
    _fencing(site)
    site.see(heard=True)
    assert site.run("takeover", "serv2").returncode == 0
    assert [line for line in site.journal() if line.startswith("fence")] == []


def test_handed_over_and_resumed_fence_nobody(site: Site) -> None:
    _fencing(site, off=1)
    site.see(heard=False)
    assert site.run("takeover", "--handed-over", "2", "serv2").returncode == 0
    assert site.run("takeover", "--resume", "serv2").returncode == 0
    assert [line for line in site.journal() if line.startswith("fence")] == []


ORDER = "epoch 3\nwhy serv2 is dead\nunheard serv2\ngo\n"


def _fencing(
    site: Site,
    off: int | str = 0,
    status: int | None = None,
    on: int = 0,
    action: str = "off",
    delay: str = "0 seconds",
) -> None:
    """An agent; its status, if it is not given, says what was done last."""
    said = f"exit {status}" if status is not None else f"grep -q 'fence on' {site.root}/journal || exit 2"
    site.box.program(
        "fence_test",
        f"""options=$(cat)
action=$(echo "$options" | sed -n s/^action=//p)
echo "fence $action $(echo "$options" | sed -n s/^nodename=//p)" >> {site.root}/journal
case $action in
off) {off if isinstance(off, str) else f"exit {off}"} ;;
on) exit {on} ;;
status) {said} ;;
*) exit 64 ;;
esac""",
    )
    node = site.box.conf / "serv2.conf"
    node.write_text(f"{node.read_text()}\n[fence]\ndelay = {delay}\n")
    site.configure(agent="fence_test", action=action)
