"""A node dies, and the other one serves its group, on the same addresses and MAC; it returns, and nothing is lost."""

from dataclasses import dataclass, field
from time import monotonic

import pytest

from lab.labnet.answers import Summary
from lab.labnet.lab import Lab
from lab.story import (
    ADDRESS,
    ADDRESS6,
    BACKUPS,
    LONG,
    MAC,
    SHARE,
    Event,
    Writer,
    come_home,
    conditions,
    epochs,
    events,
    get,
    kept,
    mirror,
    must,
    names,
    one_at_a_time,
    put,
    stays,
    told,
    wait_event,
    wait_home,
    wait_serves,
    wait_standby,
    wait_told,
    watching,
    when,
)

NIC_SETTINGS = [
    f"/proc/sys/net/ipv4/conf/{nic}/{name}"
    for nic in ("eth0", "eth2")
    for name in ("arp_ignore", "arp_announce", "rp_filter", "promote_secondaries")
]


@dataclass
class Life:
    """What was seen of serv1's death and return."""

    cut: float = 0
    back: float = 0
    home: float = 0
    before: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    learned: dict[str, str] = field(default_factory=dict)
    view: Event = field(default_factory=dict)
    web4: str = ""
    web6: str = ""
    mirrored: str = ""
    standby: list[str] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    acknowledged: int = 0
    seen: Summary | None = None
    seen6: Summary | None = None


def network(lab: Lab, node: str) -> dict[str, str]:
    """What a takeover changes beside the addresses: settings of the NICs, rules, routes, MACs."""
    looks = {path: f"cat {path}" for path in NIC_SETTINGS}
    looks |= {"rules": "ip rule; ip -6 rule", "tables": "ip route show table all | grep -v 'table local' | sort"}
    looks |= {nic: f"cat /sys/class/net/{nic}/address" for nic in ("eth0", "eth2")}
    return {name: lab.sh(node, look).strip() for name, look in looks.items()}


@pytest.fixture(scope="module")
def lives() -> list[Life]:
    """The last one."""
    return []


@pytest.fixture
def life(lab: Lab, lives: list[Life], request: pytest.FixtureRequest) -> Life:
    """One for all tests here; another one for a test that is run again: it could but find the same in the old one."""
    if not lives or getattr(request.node, "execution_count", 1) > 1:
        lives[:] = [lived(lab)]
    return lives[0]


def lived(lab: Lab) -> Life:
    """serv1's power is cut while a client writes; it returns; its group goes home by itself."""
    come_home(lab, new=True)
    seen = Life(before=network(lab, "serv2"))
    put(lab, "mirrored.txt", "written and mirrored\n")
    put(lab, "both.txt", "first version\n")
    mirror(lab, "serv1", "web", "smbd", "system")
    with watching(lab, ADDRESS["serv1"], ADDRESS6["serv1"]) as probes, Writer(lab, "life") as writer:
        writer.more()
        put(lab, "both.txt", "second version, never mirrored\n")
        seen.cut = lab.power_off("serv1")
        wait_serves(lab, "serv2", "serv1", "serv2")
        seen.held, seen.view, seen.learned = network(lab, "serv2"), lab.view("serv2") or {}, lab.learned()
        seen.web4 = lab.sh("client", f"curl -s http://{ADDRESS['serv1']}/node").strip()
        seen.web6 = lab.sh("client", f"curl -s 'http://[{ADDRESS6['serv1']}]/node'").strip()
        seen.mirrored = get(lab, "mirrored.txt")
        put(lab, "both.txt", "third version, on serv2\n")
        writer.more()
        seen.back = monotonic()
        lab.power_on("serv1")
        wait_standby(lab, "serv1")
        seen.standby = sorted(lab.addresses("serv1"))
        wait_event(lab, "serv2", "failback-done", seen.back)
        wait_home(lab)
        seen.home = monotonic()
        writer.more()
    seen.after = network(lab, "serv2")
    folders = [str(lab.path("serv1", path)) for path in kept_folders(lab)]
    seen.lost, seen.acknowledged = writer.lost(str(lab.path("serv1", SHARE)), *folders), len(writer.acknowledged)
    seen.seen, seen.seen6 = (probes[address].summary for address in (ADDRESS["serv1"], ADDRESS6["serv1"]))
    return seen


def kept_folders(lab: Lab) -> list[str]:
    """The share's folder in each of serv1's backup sets."""
    return lab.sh("serv1", f"ls -d {BACKUPS}/*/files{SHARE} || true").split()


# --- the power cut ---------------------------------------------------------------------------------------------------


def test_the_survivor_serves_the_group(life: Life) -> None:
    group = life.view["groups"]["serv1"]
    assert (group["holder"], group["phase"], group["interface"]) == ("serv2", "held", "eth2")
    assert group["verified"].endswith("answered")
    assert life.web4 == life.web6 == "serv2"
    assert life.mirrored == "written and mirrored\n"


def test_never_two_answer_and_the_mac_stays(life: Life) -> None:
    for seen in (life.seen, life.seen6):
        assert seen is not None
        one_at_a_time(seen)
        assert seen.macs == [MAC["serv1"]], seen.text()
        assert seen.http_nodes == ["serv1", "serv2", "serv1"], seen.text()
        assert {node for spell in seen.spells for node in [spell.node]} == {"serv1", "serv2"}


def test_the_switch_has_learned_where_the_mac_is_now(life: Life) -> None:
    assert life.learned[MAC["serv1"]] == "serv2-eth2"
    assert life.learned[MAC["serv2"]] == "serv2-eth0"


def test_services_start_in_their_order(lab: Lab, life: Life) -> None:
    started = [event["service"] for event in events(lab, "serv2", life.cut, "service-started")]
    assert started[:3] == ["web", "smbd", "system"]


def test_the_events_tell_the_story(lab: Lab, life: Life) -> None:
    happened = names(lab, "serv2", life.cut)
    taken = ["decided", "takeover-began", "address-up", "takeover-served", "takeover-done"]
    back = ["decided", "release-began", "handed-over", "failback-done"]
    assert [name for name in happened if name in taken + back] == taken + back
    assert happened.count("peer-dead") == happened.count("peer-back") == 1


def test_the_redundant_nic_answers_only_for_itself_and_is_put_back(life: Life) -> None:
    settings = {path: life.held[path] for path in NIC_SETTINGS if "arp_" in path}
    assert {value for path, value in settings.items() if path.endswith("arp_ignore")} == {"1"}
    assert {value for path, value in settings.items() if path.endswith("arp_announce")} == {"2"}
    assert life.held["/proc/sys/net/ipv4/conf/eth2/rp_filter"] == "2"
    assert life.held["eth2"] == MAC["serv1"]
    assert ADDRESS["serv1"] in life.held["rules"] and ADDRESS6["serv1"] in life.held["rules"]
    assert life.after == life.before


def test_it_returns_in_standby_and_touches_no_address_of_the_lan(lab: Lab, life: Life) -> None:
    given = next(event for event in events(lab, "serv1", life.back) if event["event"] == "takeover-began")
    for seen in (life.seen, life.seen6):
        assert seen is not None
        first = min(spell.start for spell in seen.spells if spell.node == "serv1" and spell.end > life.back)
        must(first > when(given), "serv1 answered before failback")
    assert life.standby == sorted({"127.0.0.1", "::1", "192.168.111.1", *link_local(lab)})
    since_boot = events(lab, "serv1", life.back)
    entered = next(event for event in since_boot if event["event"] == "standby-entered")
    up = next(event for event in since_boot if event["event"] == "address-up")
    assert entered["time"] < up["time"]
    assert "serv2 holds serv1" in entered["text"]


def link_local(lab: Lab) -> set[str]:
    return {address for address in lab.addresses("serv1") if address.startswith("fe80:")}


def test_the_epoch_rises_at_every_acquisition(lab: Lab, life: Life) -> None:
    taken = [
        event["epoch"]
        for node in ("serv1", "serv2")
        for event in events(lab, node, 0, "address-up")
        if event["group"] == "serv1"
    ]
    assert sorted(taken) == [1, 2, 3]
    assert epochs(lab, "serv1") == {"serv1": 3, "serv2": 3}


def test_nothing_that_was_acknowledged_is_lost(life: Life) -> None:
    assert life.acknowledged > 5
    must(not life.lost, "lost:", life.lost)


def test_the_administrator_was_told(lab: Lab, life: Life) -> None:
    for words in ("serv1 is not heard on any path", "serv2 has taken over serv1", "serv1 is served by serv1 again"):
        wait_told(lab, words)
        assert len(told(lab, words)) == 1, words
    (mail,) = told(lab, "serv2 has taken over serv1")
    assert "What happened:" in mail and "What to do:" in mail and "verified: 10.1.0.25" in mail
    logged = [line for line in (lab.text("serv2", "/var/log/syslog") or "").splitlines() if "takeover-done:" in line]
    assert len(logged) == 1 and " takeover[" in logged[0] and "serv2 has taken over serv1" in logged[0]


def test_what_was_never_mirrored_is_listed_kept_and_restorable(lab: Lab, life: Life) -> None:
    mail = wait_told(lab, "never mirrored")
    assert f"{SHARE}/both.txt" in mail
    assert get(lab, "both.txt") == "third version, on serv2\n"
    held_back = [path for path in kept(lab, "serv1", "both.txt") if "second version" in (lab.text("serv1", path) or "")]
    (path,) = held_back
    name = path.removeprefix(f"{BACKUPS}/").split("/")[0]
    assert name in mail
    assert f"{SHARE}/both.txt" in lab.run("serv1", ["restore_backup", name]).stdout
    lab.run("serv1", ["restore_backup", name, f"{SHARE}/both.txt"])
    assert get(lab, "both.txt") == "second version, never mirrored\n"
    assert any("third version" in (lab.text("serv1", path) or "") for path in kept(lab, "serv1", "both.txt"))


def test_all_is_well_afterwards(lab: Lab, life: Life) -> None:
    for node in ("serv1", "serv2"):
        assert lab.run(node, ["check_peer"], check=False).returncode == 0
        assert conditions(lab, node) == []


# --- services of every kind, good and bad; failback by hand ----------------------------------------------------------

SERVICE = """#!/bin/sh
# lab-service NAME ACTION: a service that runs while its file exists. On serv2 "broken" fails and "hangs" hangs.
echo "$1 $2" >>/var/log/lab-service.log
mkdir -p /run/lab-service
case "$(hostname) $1 $2" in
"serv2 broken start") echo "no licence for this machine" >&2; exit 1 ;;
"serv2 hangs start") sleep 1000 ;;
*" start") touch "/run/lab-service/$1" ;;
*" stop") rm -f "/run/lab-service/$1" ;;
*" status") test -e "/run/lab-service/$1" || exit 3 ;;
esac
"""
SYSV = """#!/bin/sh
exec lab-service sysv "$1"
"""
SYSTEMCTL = """#!/bin/sh
# Stands in for systemctl, for a machine whose PID 1 is another: start, stop and is-active of one unit, nothing else.
case "$*" in
"start lab.service" | "stop lab.service") exec lab-service unit "$1" ;;
"is-active --quiet lab.service") exec lab-service unit status ;;
*) echo "systemctl: $*: not a call that clusterd makes" >&2; exit 64 ;;
esac
"""


def command(name: str, order: int) -> dict[str, str | None]:
    """A service of kind command."""
    made: dict[str, str | None] = {"home": "serv1", "order": str(order), "run.kind": "command"}
    made["run.timeout"] = "2 seconds"
    for action in ("start", "stop", "status"):
        made[f"run.{action}"] = f"/usr/local/sbin/lab-service, {name}, {action}"
    return made


KINDS: dict[str, dict[str, str | None] | None] = {
    "broken": command("broken", 5),
    "hangs": command("hangs", 6),
    "command": command("command", 30),
    "unit": {"home": "serv1", "order": "31", "run.kind": "systemd", "run.name": "lab.service"},
    "sysv": {"home": "serv1", "order": "32", "run.kind": "sysv", "run.name": "lab-sysv"},
    "nothing": {"home": "serv1", "order": "33", "run.kind": "none"},
}


@pytest.fixture
def kinds(lab: Lab) -> Lab:
    """The pair with services of every kind, and failback by hand. systemctl is a stand-in: see above."""
    come_home(lab, failback="manual", services=KINDS)
    files = {
        "/usr/local/sbin/lab-service": SERVICE,
        "/etc/init.d/lab-sysv": SYSV,
        "/usr/local/sbin/systemctl": SYSTEMCTL,
    }
    for node in ("serv1", "serv2"):
        for path, text in files.items():
            lab.run(node, ["sh", "-c", 'cat >"$1" && chmod 755 "$1"', "put", path], text_in=text)
    return lab


def test_services_that_fail_or_hang_keep_no_other_from_running_and_failback_by_hand(kinds: Lab) -> None:
    lab = kinds
    with watching(lab):
        cut = lab.power_off("serv1")
        wait_serves(lab, "serv2", "serv1", "serv2")
        started = [event["service"] for event in events(lab, "serv2", cut, "service-started")]
        assert started == ["web", "smbd", "command", "unit", "sysv", "nothing", "system"]
        running = lab.sh("serv2", "ls /run/lab-service").split()
        assert running == ["command", "sysv", "unit"]
        failed = {event["subject"]: event["text"] for event in events(lab, "serv2", cut, "service-failed")}
        assert set(failed) == {"broken", "hangs"}
        assert "no licence for this machine" in failed["broken"] and "timed out after 2 s" in failed["hangs"]
        for words in failed.values():
            wait_told(lab, words)

        back = monotonic()
        lab.power_on("serv1")
        wait_standby(lab, "serv1")
        waiting = wait_event(lab, "serv2", "failback-waiting", back)
        assert waiting["subject"] == "serv1"
        lab.wait_for(lambda: "failback-waiting" in conditions(lab, "serv2"), LONG, "the view to say so")
        stays(lab, 4, serv1="serv2", serv2="serv2")
        by_hand = lab.run("serv2", ["release", "serv1", "--to", "serv1"], timeout=120)
        assert "serv1 answers" in by_hand.stdout
        wait_home(lab)
    assert lab.sh("serv1", "ls /run/lab-service").split() == ["broken", "command", "hangs", "sysv", "unit"]
    assert lab.sh("serv2", "ls /run/lab-service").split() == []
    assert not events(lab, "serv1", back, "service-failed")
