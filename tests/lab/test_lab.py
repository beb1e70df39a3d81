"""The lab keeps its promises: power, cables, a switch that forgets nothing, a probe that measures what happened."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest

from lab.labnet import faults, image, lifecycle, power, switch
from lab.labnet.answers import Gap, longest_gap, overlaps, spells, summarise
from lab.labnet.clusterconf import files
from lab.labnet.frames import claim
from lab.labnet.lab import Lab
from lab.labnet.plan import CHECKOUT, MACHINES, NODES, PDU, STATE, TIME_SERVERS, WITNESS, machine, place
from lab.labnet.proc import LabError

DOOR = Path(__file__).with_name("lab")
PEER = {"serv1": "192.168.111.2", "serv2": "192.168.111.1"}
ADDRESS = "10.1.0.1"


@pytest.fixture
def machines(bare_lab: Lab) -> Iterator[Lab]:
    """Both nodes freshly booted, without clusterd."""
    bare_lab.reset()
    # Nobody announces the addresses of these tests; what the client knew of the last one's would take it 8 s to doubt.
    bare_lab.sh("client", "ip neigh flush all")
    yield bare_lab
    bare_lab.heal()


def on_lan(lab: Lab, name: str, *addresses: str, nic: str = "eth0") -> None:
    """Put a node on the LAN by hand."""
    lab.sh(name, f"ip link set {nic} up")
    for address in addresses:
        nodad = " nodad" if ":" in address else ""
        lab.sh(name, f"ip addr add {address} dev {nic}{nodad}")


def reaches(lab: Lab, name: str, address: str) -> bool:
    """A ping is answered within five seconds: time enough for a new ARP request after one that was lost."""
    return lab.run(name, ["ping", "-nq", "-c1", "-w5", address], check=False).returncode == 0


def misses(lab: Lab, name: str, address: str) -> bool:
    """No ping is answered within a second."""
    return lab.run(name, ["ping", "-nq", "-c1", "-w1", address], check=False).returncode != 0


def carrier(lab: Lab, name: str, nic: str) -> bool:
    """True when the NIC has a link."""
    (row,) = json.loads(lab.run(name, ["ip", "-json", "link", "show", nic]).stdout)
    return "LOWER_UP" in row["flags"]


def by_hand(*words: str, name: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    """The command line."""
    argv = [str(DOOR), "--name", name, *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=check)


def leftovers(name: str) -> list[str]:
    """Whatever of a lab can still be found in the kernel or on disk."""
    found = [*lifecycle.namespaces(place(name))]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"{STATE}/{name}/" in line]
    found += [str(path) for path in STATE.glob(f"{name}*")]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            mounts = (process / "mounts").read_text()
            words = (process / "cmdline").read_text()
        except OSError:
            continue
        if f"{STATE}/{name}/" in mounts or f"{STATE}/{name}/" in words:
            found.append(f"process {process.name}")
    return found


# --- machines ------------------------------------------------------------------------------------------------------


def test_nodes_are_machines_of_their_own(machines: Lab) -> None:
    for name in NODES:
        assert machines.sh(name, "hostname").strip() == name
        for nic in MACHINES[name].nics:
            (row,) = json.loads(machines.sh(name, f"ip -json link show {nic.name}"))
            assert row["address"] == nic.mac
        assert machines.addresses(name)[MACHINES[name].nic("heartbeat").addresses[0].split("/")[0]] == "eth1"
        running = machines.sh(name, "ps -e -o comm=").split()
        assert {"sshd", "cron", "rsyslogd"} <= set(running)
        assert not {"nginx", "smbd"} & set(running)
        assert reaches(machines, name, PEER[name])
    ids = {machines.sh(name, "cat /proc/sys/kernel/random/boot_id") for name in NODES}
    assert len(ids) == 2


def test_the_witness_is_nobodys_machine() -> None:
    """What is sent to it ends at the nodes' ports."""
    assert WITNESS not in {nic.mac for machine in MACHINES.values() for nic in machine.nics}


def test_the_main_nic_stays_down_until_somebody_brings_it_up(machines: Lab) -> None:
    assert not carrier(machines, "serv1", "eth0")
    machines.run("serv1", ["ifup", "eth0"])
    found = machines.addresses("serv1")
    assert found["10.1.0.1"] == "eth0" and found["fd00:10:1::1"] == "eth0"
    assert reaches(machines, "client", "10.1.0.1")
    assert reaches(machines, "client", "fd00:10:1::1")


def test_ifupdown_takes_over_the_peers_mac_on_the_redundant_nic(machines: Lab) -> None:
    machines.run("serv2", ["ifup", "eth2=serv1"])
    (row,) = json.loads(machines.sh("serv2", "ip -json link show eth2"))
    assert row["address"] == MACHINES["serv1"].nic("main").mac
    assert machines.addresses("serv2")["10.1.0.1"] == "eth2"


def test_programs_on_a_machine_cannot_set_the_hosts_clock(machines: Lab) -> None:
    setting = "import time; time.clock_settime(time.CLOCK_REALTIME, time.time())"
    result = machines.run("serv1", ["python3", "-c", setting], check=False)
    assert "PermissionError" in result.stderr
    bounding = machines.sh("serv1", "sed -n 's/CapBnd:\\s*//p' /proc/1/status").strip()
    assert not int(bounding, 16) & 1 << 25


def test_the_services_of_the_office_work(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    machines.sh("serv1", "/etc/init.d/nginx start; /etc/init.d/smbd start")
    assert machines.sh("client", "curl -s --retry 20 --retry-connrefused http://10.1.0.1/node").strip() == "serv1"
    listing = "for try in $(seq 50); do smbclient -N //10.1.0.1/share -c ls && break; sleep 0.2; done"
    assert "readme.txt" in machines.sh("client", listing)


def test_the_nodes_trust_each_other(machines: Lab) -> None:
    assert machines.sh("serv1", "ssh -n -o BatchMode=yes serv2 hostname").strip() == "serv2"
    machines.sh("serv2", "rsync -a -e 'ssh -o BatchMode=yes' /srv/samba/ serv1:/srv/copy/")
    assert machines.text("serv1", "/srv/copy/share/readme.txt") == machines.text("serv2", "/srv/samba/share/readme.txt")
    on_lan(machines, "serv1", "10.1.0.1/24")
    assert machines.sh("client", "ssh -n -o BatchMode=yes root@serv1-lan hostname").strip() == "serv1"


def test_mail_arrives(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    machines.run("serv1", ["mail", "-s", "a notice", "root"], text_in="something happened\n")
    machines.wait_for(machines.mails, 60, "the mail")
    (message,) = machines.mails()
    assert message["Subject"] == "a notice"
    assert message["X-Lab-To"] == "admin@office.example"
    assert "something happened" in message.get_content()


def test_the_time_servers_answer_and_can_be_wrong(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    machines.clock("ref2", "+3600s")
    offsets = {}
    for name in TIME_SERVERS:
        said = machines.sh("serv1", f"for try in $(seq 20); do ntpdig {name} && break; sleep 0.2; done").split()
        offsets[name] = float(said[3])
    assert abs(offsets["ref1"]) < 1 and abs(offsets["client"]) < 1 and 3599 < offsets["ref2"] < 3601
    machines.heal()
    assert (machines.text("ref2", "/etc/lab-time") or "").strip() == "+0"


# --- power ---------------------------------------------------------------------------------------------------------


def test_a_disk_survives_the_power_cut_and_memory_does_not(machines: Lab) -> None:
    machines.sh("serv1", "echo kept > /srv/note; echo gone > /run/note; echo gone > /tmp/note")
    boot_id = machines.text("serv1", "/proc/sys/kernel/random/boot_id")
    machines.sh("serv1", "ip link set eth0 up address 02:00:00:00:00:07")
    machines.power_off("serv1")
    assert not machines.is_on("serv1")
    machines.power_on("serv1")
    assert machines.text("serv1", "/srv/note") == "kept\n"
    assert machines.text("serv1", "/run/note") is None and machines.text("serv1", "/tmp/note") is None
    assert machines.text("serv1", "/proc/sys/kernel/random/boot_id") != boot_id
    (row,) = json.loads(machines.sh("serv1", "ip -json link show eth0"))
    assert row["address"] == MACHINES["serv1"].nic("eth0").mac


def test_cron_runs_its_reboot_jobs_at_each_power_on(machines: Lab) -> None:
    machines.sh("serv1", "echo '@reboot root cat /proc/sys/kernel/random/boot_id >> /var/boots' > /etc/cron.d/boots")

    def boots() -> list[str]:
        return (machines.text("serv1", "/var/boots") or "").split()

    for count in (1, 2):
        machines.power_off("serv1")
        machines.power_on("serv1")
        machines.wait_for(lambda: len(boots()) >= count, 60, "cron")  # noqa: B023 called before the loop goes on
    first, second = boots()
    assert first != second


def test_nothing_runs_and_no_frame_leaves_after_the_power_cut(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    pids = power.processes(machines.place.netns("serv1"))
    with machines.probe(ADDRESS, http_ms=0) as probe:
        sleep(0.5)
        before = monotonic()
        when = machines.power_off("serv1")
        sleep(0.5)
    assert before <= when <= monotonic()
    assert probe.summary.icmp and max(probe.summary.icmp) < when + 0.1
    assert not [pid for pid in pids if _lives(pid)]
    with pytest.raises(LabError, match="serv1 has no power"):
        machines.run("serv1", ["true"])
    with pytest.raises(LabError, match="off already"):
        machines.power_off("serv1")


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_peer_of_a_dead_node_loses_the_heartbeat_link(machines: Lab) -> None:
    assert carrier(machines, "serv2", "eth1")
    machines.power_off("serv1")
    assert not carrier(machines, "serv2", "eth1")
    machines.power_on("serv1")
    assert carrier(machines, "serv2", "eth1")
    assert reaches(machines, "serv2", PEER["serv2"])


def test_an_orderly_shutdown_stops_the_services(machines: Lab) -> None:
    stop = "#!/bin/sh\necho $1 >> /var/said\n"
    machines.run("serv2", ["sh", "-c", "cat > /etc/init.d/cron; chmod 755 /etc/init.d/cron"], text_in=stop)
    machines.shutdown("serv2")
    assert not machines.is_on("serv2")
    machines.power_on("serv2")
    assert machines.text("serv2", "/var/said") == "stop\nstart\n"


def test_reset_gives_back_the_disks_as_delivered(machines: Lab) -> None:
    machines.sh("serv1", "rm -rf /srv/samba; echo changed > /etc/hosts; touch /srv/new")
    machines.power_off("serv2")
    machines.unplug("serv1", "eth0")
    machines.reset()
    assert machines.text("serv1", "/srv/samba/share/readme.txt")
    assert "serv2" in (machines.text("serv1", "/etc/hosts") or "")
    assert machines.text("serv1", "/srv/new") is None
    on_lan(machines, "serv1", "10.1.0.1/24")
    assert reaches(machines, "serv1", "10.1.0.254")
    assert machines.is_on("serv2")


def test_configure_writes_both_nodes_whether_they_run_or_not(machines: Lab) -> None:
    machines.power_off("serv2")
    machines.configure(failback="manual", services={"web": None})
    machines.power_on("serv2")
    texts = [machines.text(name, "/etc/cluster.d/cluster.conf") or "" for name in NODES]
    assert texts[0] == texts[1] and "failback = manual" in texts[0]
    for name in NODES:
        assert machines.text(name, "/etc/cluster.d/services/web.conf") is None
        assert machines.text(name, "/etc/cluster.d/services/smbd.conf")


def test_the_pair_as_delivered_runs_clusterd(pair: Lab) -> None:
    """Each node serves its own group soon after power-on, and the client finds the web server of serv1."""
    for number, name in enumerate(NODES, 1):
        pair.wait_for(lambda: pair.holders(f"10.1.0.{number}") == [name], 60, f"{name} to serve")  # noqa: B023
        assert (pair.view(name) or {})["node"] == name
        assert pair.events(name)
    asking = ["curl", "-s", "http://files/node"]
    pair.wait_for(lambda: pair.run("client", asking, check=False).stdout.strip() == "serv1", 60, "the web server")


# --- cables and the switch -----------------------------------------------------------------------------------------


def test_a_pulled_cable_takes_the_carrier_and_a_plugged_one_gives_it_back(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    assert carrier(machines, "serv1", "eth0") and reaches(machines, "client", ADDRESS)
    machines.unplug("serv1", "main")
    assert not carrier(machines, "serv1", "eth0") and misses(machines, "client", ADDRESS)
    assert reaches(machines, "serv1", PEER["serv1"])
    machines.power_off("serv1")
    machines.power_on("serv1")
    on_lan(machines, "serv1", "10.1.0.1/24")
    assert not carrier(machines, "serv1", "eth0"), "a cable that is out stays out over a power cycle"
    machines.plug("serv1", "main")
    assert carrier(machines, "serv1", "eth0") and reaches(machines, "client", ADDRESS)


def test_the_crossover_cable_cut_takes_the_carrier_from_both(machines: Lab) -> None:
    machines.cut_heartbeat()
    assert not carrier(machines, "serv1", "eth1") and not carrier(machines, "serv2", "eth1")
    machines.mend_heartbeat()
    assert reaches(machines, "serv1", PEER["serv1"])


def test_a_reference_host_off_is_reached_by_nobody(machines: Lab) -> None:
    machines.ref_off("ref1")
    assert misses(machines, "client", "10.1.0.254") and reaches(machines, "client", "10.1.0.253")
    machines.ref_on("ref1")
    assert reaches(machines, "client", "10.1.0.254")
    with pytest.raises(LabError, match="no reference host"):
        machines.ref_off("client")


def test_isolated_nodes_see_all_but_each_other(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    on_lan(machines, "serv2", "10.1.0.2/24")
    assert reaches(machines, "serv1", "10.1.0.2")
    machines.isolate("serv1", "serv2")
    assert misses(machines, "serv1", "10.1.0.2") and misses(machines, "serv2", "10.1.0.1")
    for name in NODES:
        assert reaches(machines, name, "10.1.0.254") and reaches(machines, name, "10.1.0.100")
    machines.unisolate("serv1", "serv2")
    assert reaches(machines, "serv1", "10.1.0.2")


def test_a_loss_goes_one_way(machines: Lab) -> None:
    machines.drop("serv1", "serv2", "heartbeat")
    before = received(machines, "serv2"), received(machines, "serv1")
    machines.sh("serv1", "ping -nq -c5 -i0.2 -W1 192.168.111.2 || true")
    assert received(machines, "serv2") == before[0], "serv2 has received nothing"
    machines.sh("serv2", "ping -nq -c5 -i0.2 -W1 192.168.111.1 || true")
    assert received(machines, "serv1") > before[1], "serv1 has received something"
    machines.undrop("serv1", "serv2", "heartbeat")
    assert reaches(machines, "serv1", PEER["serv1"])


def received(lab: Lab, name: str) -> int:
    """Packets that the heartbeat NIC has received."""
    (row,) = json.loads(lab.sh(name, "ip -json -stats link show eth1"))
    return int(row["stats64"]["rx"]["packets"])


def test_a_partial_loss_loses_a_part(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    assert reaches(machines, "client", ADDRESS), "who has not asked for its MAC may lose all three questions"
    machines.drop("client", "serv1", "eth0", 50)
    result = machines.run("client", ["fping", "-q", "-c200", "-p10", "-t300", ADDRESS], check=False)
    lost = int(result.stderr.split("%loss = ")[1].split("/")[2].split("%")[0])
    assert 25 < lost < 75
    assert reaches(machines, "client", "10.1.0.253")


def test_the_switch_remembers_for_300_seconds_where_a_mac_is(machines: Lab) -> None:
    """A MAC that moves to another port without a word is not reached; one frame from there, and it is."""
    mac = MACHINES["serv1"].nic("main").mac
    on_lan(machines, "serv1", "10.1.0.1/24")
    machines.sh("client", f"ip neigh replace {ADDRESS} lladdr {mac} nud permanent dev eth0")
    try:
        assert reaches(machines, "client", ADDRESS)
        assert machines.learned()[mac] == "serv1-eth0"
        machines.power_off("serv1")
        assert machines.learned()[mac] == "serv1-eth0", "a link that goes away empties no table"
        quiet = "net.ipv4.conf.eth2.arp_notify=0 net.ipv6.conf.eth2.disable_ipv6=1"
        machines.sh("serv2", f"sysctl -qw {quiet}; ip link set eth2 address {mac}; ip link set eth2 up")
        machines.sh("serv2", f"ip addr add {ADDRESS}/24 dev eth2")
        assert misses(machines, "client", ADDRESS)
        assert machines.learned()[mac] == "serv1-eth0"
        machines.sh("serv2", f"arping -q -c1 -U -I eth2 {ADDRESS}")
        assert machines.learned()[mac] == "serv2-eth2"
        assert reaches(machines, "client", ADDRESS)
    finally:
        machines.sh("client", f"ip neigh del {ADDRESS} dev eth0")


def test_the_ageing_time_can_be_set_and_300_is_the_default(machines: Lab) -> None:
    assert switch.ageing(machines.place) == 300
    on_lan(machines, "serv1", "10.1.0.1/24")
    mac = MACHINES["serv1"].nic("main").mac
    assert reaches(machines, "client", ADDRESS) and mac in machines.learned()
    machines.unplug("serv1", "main")
    machines.ageing(1)
    machines.wait_for(lambda: mac not in machines.learned(), 60, "the switch to forget")
    machines.heal()
    assert switch.ageing(machines.place) == 300


def test_a_switch_without_power_forgets(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    assert reaches(machines, "client", ADDRESS)
    machines.switch_off()
    assert machines.learned() == {}
    assert not carrier(machines, "serv1", "eth0") and misses(machines, "client", "10.1.0.254")
    assert reaches(machines, "serv1", PEER["serv1"]), "the crossover cable needs no switch"
    machines.switch_on()
    assert reaches(machines, "client", ADDRESS)


# --- the probe -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.1.0.1", "fd00:10:1::1"])
def test_the_probe_measures_a_known_gap(machines: Lab, address: str) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24", "fd00:10:1::1/64")
    machines.sh("serv1", "/etc/init.d/nginx start")
    machines.wait_for(lambda: machines.sh("client", "curl -s 10.1.0.1/node", check=False), 60, "nginx")
    with machines.probe(address) as probe:
        sleep(1)
        first = monotonic()
        probe.mark("cut")
        machines.drop("serv1", "client", "eth0")
        second = monotonic()
        sleep(0.7)
        third = monotonic()
        machines.undrop("serv1", "client", "eth0")
        fourth = monotonic()
        sleep(1)
    for kind in ("icmp", "http"):
        gap = probe.summary.gap(kind)
        assert third - second - 0.05 <= gap.seconds <= fourth - first + 0.3 + probe.summary.stall
        assert first - 0.2 <= gap.start <= second + 0.05
        assert probe.summary.gap(kind, after="cut").seconds == pytest.approx(gap.seconds, abs=0.25)
    assert probe.summary.http_nodes == ["serv1"]
    assert probe.summary.macs == [MACHINES["serv1"].nic("main").mac]
    assert not probe.summary.double
    assert {spell.node for spell in probe.summary.spells} == {"serv1"}
    assert json.loads(json.dumps(probe.summary.as_dict()))["http"]["nodes"] == ["serv1"]
    assert "longest gap" in probe.summary.text()


def test_the_probe_sees_two_nodes_answer(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    with machines.probe(ADDRESS, http_ms=0) as probe:
        sleep(0.3)
        on_lan(machines, "serv2", "10.1.0.1/24")
        machines.sh("client", f"ip neigh flush to {ADDRESS}")
        sleep(0.5)
    assert {spell.node for spell in probe.summary.spells} == {"serv1", "serv2"}
    assert probe.summary.double


@pytest.mark.parametrize("address", ["10.1.0.1", "fd00:10:1::1"])
def test_the_probe_sees_two_nodes_with_one_mac(machines: Lab, address: str) -> None:
    """The client has an entry, and the switch knows one port for it: nobody would ask the second node."""
    v6 = ":" in address
    mac = MACHINES["serv1"].nic("main").mac
    on_lan(machines, "serv1", f"{address}/{64 if v6 else 24}")
    assert reaches(machines, "client", address)
    with machines.probe(address, http_ms=0) as probe:
        sleep(0.3)
        quiet = f"net.ipv4.conf.eth2.arp_notify=0 net.ipv6.conf.eth2.disable_ipv6={int(not v6)}"
        machines.sh("serv2", f"sysctl -qw {quiet}; ip link set eth2 address {mac}")
        on_lan(machines, "serv2", f"{address}/{64 if v6 else 24}", nic="eth2")
        sleep(1)
        learned = machines.learned()
    assert {spell.node for spell in probe.summary.spells} == set(NODES)
    assert max(gap.seconds for gap in probe.summary.double) > 0.5
    assert probe.summary.macs == [mac]
    if not v6:  # with IPv6 the kernel of serv2 says a word of its own
        assert learned[mac] == "serv1-eth0", "the witness has told the switch"
        assert not probe.summary.claimed, "the client has heard what the witness was answered"
        assert WITNESS not in machines.sh("serv1", "ip neigh show"), "the witness has left an entry"


def test_the_probe_sees_an_address_change_hands_without_overlap(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")
    machines.sh("serv2", "ip link set eth0 up")
    machines.sh("client", f"ip neigh flush to {ADDRESS}")
    with machines.probe(ADDRESS, http_ms=0) as probe:
        sleep(0.4)
        machines.sh("serv1", "ip addr del 10.1.0.1/24 dev eth0")
        machines.sh("serv2", "ip addr add 10.1.0.1/24 dev eth0; arping -q -c1 -U -I eth0 10.1.0.1")
        sleep(0.4)
    assert probe.summary.macs == [MACHINES[name].nic("main").mac for name in NODES]
    assert [what for _, what, _ in probe.summary.claimed].count("announcement") == 1
    assert [spell.node for spell in spells((s.start, s.node) for s in probe.summary.spells)] == list(NODES)
    assert not probe.summary.double


def test_gaps_count_from_the_start_and_to_the_end() -> None:
    assert longest_gap([], 1.0, 4.0) == Gap(1.0, 4.0)
    assert longest_gap([0.5, 2.0, 2.5, 9.0], 1.0, 4.0) == Gap(2.5, 4.0)


def test_spells_end_at_silence_and_overlap_only_between_nodes() -> None:
    first = spells([(0.0, "a"), (0.1, "a"), (1.0, "a")], together=0.2)
    assert [(spell.start, spell.end, spell.count) for spell in first] == [(0.0, 0.1, 2), (1.0, 1.0, 1)]
    other = spells([(0.05, "b"), (0.5, "b")], together=1)
    assert overlaps([*first, *other]) == [Gap(0.05, 0.1)]
    assert overlaps(first) == []


def test_a_summary_of_a_probe_that_heard_nothing() -> None:
    summary = summarise(ADDRESS, [{"t": 1.0, "k": "start"}, {"t": 2.0, "k": "end"}])
    assert summary.gap("icmp").seconds == summary.gap("http").seconds == 1.0
    assert summary.macs == [] and not summary.double


def test_frames_cut_short_or_strange_claim_nothing() -> None:
    reply = bytes.fromhex(
        "0010 4b00 0064 0010 4b63 1c08 0806 0001 0800 0604 0002 0010 4b63 1c08 0a01 0001 0010 4b00 0064 0a01 0064"
    )
    found = claim(reply, ADDRESS)
    assert found and (found.what, found.mac) == ("arp-reply", "00:10:4b:63:1c:08")
    assert claim(reply, "10.1.0.2") is None and claim(reply, "fd00:10:1::1") is None
    for length in range(len(reply) - 4):
        claim(reply[:length], ADDRESS)
    for kind in ("0800", "86dd", "0806"):
        for fill in (b"\0", b"\xff"):
            assert claim(reply[:12] + bytes.fromhex(kind) + fill * 40, ADDRESS) is None


# --- the lab itself ------------------------------------------------------------------------------------------------


def test_a_power_switch_cuts_and_gives_power_refuses_lies_and_keeps_silent(machines: Lab) -> None:
    on_lan(machines, "serv1", "10.1.0.1/24")

    def agent(action: str, *more: str) -> int:
        lines = "\n".join((f"action={action}", "# a comment", f"ip={PDU}", "plug=serv2", "nodename=serv2", *more))
        return machines.run("serv1", ["timeout", "20", "fence_lab"], text_in=f"{lines}\n", check=False).returncode

    machines.pdu()
    try:
        assert [agent(action) for action in ("metadata", "monitor", "status")] == [0, 0, 0]
        assert agent("off") == 0 and not machines.is_on("serv2") and agent("status") == 2
        assert agent("off") == 0, "it is off already"
        assert agent("on") == 0 and machines.is_on("serv2") and agent("status") == 0
        machines.pdu("lies")
        assert agent("off") == 0 and machines.is_on("serv2") and agent("status") == 0
        machines.pdu("fails")
        assert [agent(action) for action in ("off", "on", "status", "monitor")] == [1, 1, 1, 1]
        machines.pdu("hangs")
        asked = monotonic()
        words = ["timeout", "1", "fence_lab"]
        done = machines.run("serv1", words, text_in=f"action=off\nip={PDU}\nplug=serv2\n", check=False)
        assert done.returncode == 124 and monotonic() - asked >= 1 and machines.is_on("serv2")
        assert [each["became"] for each in machines.fenced()[:2]] == ["on", "on"]
        machines.pdu()
        assert agent("nonsense") == agent("off", "plug=serv9") == 1
    finally:
        machines.pdu_off()
    assert "pdu" not in " ".join(lifecycle.namespaces(machines.place))


def test_two_labs_at_once_and_down_leaves_nothing(machines: Lab) -> None:
    name = f"{machines.place.name[:8]}two"
    try:
        by_hand("up", "--no-program", name=name)
        assert "up already" in by_hand("up", name=name).stdout
        on_lan(machines, "serv1", "10.1.0.1/24")
        other = Lab(name)
        on_lan(other, "serv1", "10.1.0.1/24")
        assert reaches(machines, "client", ADDRESS)
        assert reaches(other, "client", ADDRESS)
        assert by_hand("exec", "serv1", "sh", "-c", "exit 7", name=name, check=False).returncode == 7
        assert by_hand("status", name=name).stdout.count(" on, pid ") == len(MACHINES)
        by_hand("pdu", name=name)
        assert by_hand("power-off", "serv1", name=name).stdout.strip().replace(".", "").isdigit()
    finally:
        by_hand("down", name=name)
    assert leftovers(name) == []
    assert reaches(machines, "client", ADDRESS)
    assert by_hand("status", name=name, check=False).returncode == 1
    refused = by_hand("exec", "serv1", "true", name=name, check=False)
    assert refused.returncode == 1 and refused.stderr == f"lab: lab {name} is down: bring it up first\n"


@pytest.mark.parametrize("after", [0.2, 0.8, 1.6, 2.4])
def test_down_cleans_up_after_a_lab_that_was_killed_half_built(machines: Lab, after: float) -> None:
    name = f"{machines.place.name[:8]}half"
    argv = [str(DOOR), "--name", name, "up", "--no-program"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        sleep(after)
        process.kill()
        process.wait(timeout=10)
    finally:
        by_hand("down", name=name)
    assert leftovers(name) == []


def test_up_completes_a_lab_of_which_a_part_died(machines: Lab) -> None:
    os.kill(power.init_pid(machines.place, MACHINES["client"]), signal.SIGKILL)
    machines.wait_for(lambda: not machines.is_on("client"), 60, "the client to die")
    machines.up(program=False)
    assert reaches(machines, "client", "10.1.0.254")


def test_names_that_would_not_do_are_refused() -> None:
    for name in ("", "image", "Lab", "a-b", "averyverylongname", "../x"):
        with pytest.raises(LabError, match="lab name"):
            place(name)
    with pytest.raises(LabError, match="no machine serv3: there are serv1, serv2"):
        machine("serv3")
    with pytest.raises(LabError, match="no NIC eth7"):
        machine("serv1").nic("eth7")


def test_a_live_link_needs_power_plug_and_switch_and_the_crossover_both_ends() -> None:
    every = set(MACHINES)
    assert all(switch.wanted(every, []).values())
    assert switch.wanted(every - {"serv1"}, [])["serv2-eth1"] is False
    assert switch.wanted(every, ["serv1/eth1"])["serv2-eth1"] is False
    assert switch.wanted(every, ["serv1/eth0"])["serv1-eth0"] is False
    without = switch.wanted(every, [], switch_on=False)
    assert without["serv1-eth1"] and not without["client-eth0"]


def test_the_rules_for_losses_name_the_ports_of_both_machines() -> None:
    rules = faults.rules([["serv1", "client", "eth0", "100.0"], ["serv2", "serv1", "eth1", "12.5"]])
    assert 'iifname { "w-serv1-eth0", "w-serv1-eth2" } oifname { "w-client-eth0" } drop' in rules
    assert 'iifname { "serv2-eth1" } oifname { "serv1-eth1" } numgen random mod 10000 < 1250 drop' in rules
    with pytest.raises(LabError, match="not on one network"):
        faults.lose(place("lab"), "serv1", "serv2", "eth0", 101)


def test_the_configuration_can_be_changed_by_key() -> None:
    made = files(
        lease="1 second",
        nodes={"serv1": {"main.admin_address": "10.1.0.11/24", "driver": "ifupdown", "redundant.interface": None}},
        services={"web": None, "extra": {"home": "serv2", "run.kind": "none"}, "smbd": {"mirror.every": "never"}},
        **{"fence.agent": "/bin/true"},
    )
    folder = "/etc/cluster.d"
    assert "lease = 1 second\n" in made[f"{folder}/cluster.conf"][0]
    assert "agent = /bin/true\n" in made[f"{folder}/cluster.conf"][0]
    assert made[f"{folder}/serv1.conf"][0].startswith("driver = ifupdown\n[main]\n")
    assert "admin_address = 10.1.0.11/24\n" in made[f"{folder}/serv1.conf"][0]
    assert f"{folder}/services/web.conf" not in made
    assert "home = serv2\n" in made[f"{folder}/services/extra.conf"][0]
    assert "every = never\n" in made[f"{folder}/services/smbd.conf"][0]
    with pytest.raises(LabError, match="no key leese"):
        files(leese="1 second")


def test_the_programs_layer_depends_on_what_is_installed_only(tmp_path: Path) -> None:
    listed = {path.relative_to(CHECKOUT).parts[0] for path in image.sources()}
    assert {"lib", "scripts", "setup.py", "Makefile"} <= listed
    assert not {"tests", ".git", "bench", ".venv"} & listed
    files = image.sources()
    names = {image.program_name(*what) for what in (("base-1", files), ("base-2", files), ("base-1", files[1:]))}
    assert len(names) == 3 and image.program_name("base-1", files) in names
