"""The pair under attack on the LAN, and keys that are replaced while clients are served."""

import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.labnet.proc import environment
from lab.story import (
    ADDRESS,
    LONG,
    conditions,
    epochs,
    events,
    moved,
    names,
    standby,
    wait_event,
    wait_home,
    wait_serves,
    watching,
)

KEY = "/etc/cluster.d/key"
PLAY = """
import base64, json, socket, sys, time
words = [base64.b64decode(word) for word in json.loads(sys.stdin.readline())]
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    for word in words:
        for target in sys.argv[1:]:
            out.sendto(word, (target, 694))
        time.sleep(0.02)
"""
"""Again and again, five times as fast as they were said."""


def record(lab: Lab, node: str, nic: str, count: int) -> list[bytes]:
    """The peer's datagrams as they came to a node, without the headers: what anybody on that network can record."""
    raw = b64decode(
        lab.sh(node, f"tcpdump -i {nic} -Q in -c {count} -U -w - udp dst port 694 and ip 2>/dev/null | base64 -w0")
    )
    words, at = [], 24
    while at < len(raw):
        size = int.from_bytes(raw[at + 8 : at + 12], sys.byteorder)
        frame = raw[at + 16 : at + 16 + size]
        words.append(frame[14 + (frame[14] & 15) * 4 + 8 :])
        at += 16 + size
    return words


@contextmanager
def playing(lab: Lab, words: list[bytes], *targets: str) -> Iterator[None]:
    """The client sends all of this to these addresses, as long as the block lasts."""
    argv = lab.argv("client", ["python3", "-c", PLAY, *targets])
    player = subprocess.Popen(argv, stdin=subprocess.PIPE, env=environment())
    assert player.stdin
    player.stdin.write(json.dumps([b64encode(word).decode() for word in words]).encode() + b"\n")
    player.stdin.flush()
    try:
        yield
    finally:
        assert player.poll() is None, "it has not played to the end"
        player.kill()
        player.wait()
        player.stdin.close()


def rejected(lab: Lab, node: str, reason: str) -> int:
    return int(((lab.view(node) or {}).get("rejected") or {}).get(reason, 0))


def test_a_replay_does_not_keep_the_dead_alive_and_is_refused_after_every_reboot(home: Lab) -> None:
    recorded = record(home, "serv2", "eth0", 40)
    assert all(json.loads(word[41:])["node"] == "serv1" for word in recorded)
    with watching(home), playing(home, recorded, ADDRESS["serv1"], ADDRESS["serv2"]):
        home.wait_for(lambda: rejected(home, "serv2", "replayed") > 20, LONG, "serv2 to count what is played")
        home.power_off("serv1")
        wait_serves(home, "serv2", "serv1", "serv2")
        before = rejected(home, "serv2", "replayed")
        home.wait_for(lambda: rejected(home, "serv2", "replayed") > before, LONG, "it to be still played")
        assert not (home.view("serv2") or {})["peers"]["serv1"]["heard"]
        # serv1 is back: what it said before its reboot is refused by the one who heard it.
        home.power_on("serv1")
        wait_home(home)
        before = rejected(home, "serv2", "replayed")
        home.wait_for(lambda: rejected(home, "serv2", "replayed") > before, LONG, "it to be still refused")
        # Now serv2 reboots while serv1 is dead: nothing that is played makes it believe that serv1 is there.
        home.power_off("serv1")
        wait_serves(home, "serv2", "serv1", "serv2")
        home.power_off("serv2")
        booted = monotonic()
        home.power_on("serv2")
        wait_event(home, "serv2", "watchdog-started", booted)
        home.wait_for(
            lambda: sum((home.view("serv2") or {}).get("rejected", {}).values()) > 20, LONG, "serv2 to refuse it again"
        )
        wait_serves(home, "serv2", "serv2")  # alone, and sure of its own group: start_alone = home
        assert (home.view("serv2") or {})["peers"]["serv1"]["paths"]["heartbeat"] is None
        assert names(home, "serv2", booted).count("standby-entered") == 0
        home.power_on("serv1")
        wait_home(home)


def keys(lab: Lab) -> set[str]:
    """What is in the nodes' key files."""
    return {lab.text(node, KEY) or "" for node in NODES}


@pytest.mark.parametrize("cut", [False, True], ids=["at once", "cut after the first step"])
def test_the_key_is_replaced_and_nothing_moves(home: Lab, cut: bool) -> None:
    [old] = keys(home)
    before = {group: epochs(home, group) for group in NODES}
    began = monotonic()
    with watching(home) as probes:
        if cut:
            argv = home.argv("serv1", ["cluster", "rotate-key"])
            first = subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment(), text=True)
            assert first.stdout and first.stdout.readline().startswith("step 1 of 3")
            first.kill()
            first.wait()
            first.stdout.close()
            home.sh("serv1", "pkill -9 -f 'cluster rotate-key'", check=False)
            home.wait_for(lambda: len(max(keys(home), key=len).splitlines()) == 2, LONG, "two secrets")
            assert "not finished" in home.run("serv2", ["cluster", "check"]).stdout
            said = home.run("serv2", ["cluster", "rotate-key"], timeout=120).stdout
            assert "the rotation that was under way is finished" in said
        else:
            said = home.run("serv1", ["cluster", "rotate-key"], timeout=120).stdout
            assert [line[:11] for line in said.splitlines()] == [
                "step 1 of 3",
                "step 2 of 3",
                "step 3 of 3",
                "the key was",
            ]
        [new] = keys(home)
        assert len(new.splitlines()) == 1 and new != old
        forge(home, old.strip())
        home.wait_for(lambda: rejected(home, "serv2", "signature") > 0, LONG, "the old key to be refused")
    assert moved(home, began) == []
    assert {group: epochs(home, group) for group in NODES} == before
    for node in NODES:
        told = set(names(home, node, began))
        assert not told & {"peer-dead", "path-down", "takeover-held-back", "watchdog-started", "config-bad"}, told
        assert len(events(home, node, began, "key-changed")) == 3
        assert not standby(home, node) and not conditions(home, node)
    for group in NODES:
        assert {spell.node for spell in probes[ADDRESS[group]].summary.spells} == {group}


def forge(lab: Lab, key: str) -> None:
    """Somebody who has found the old key says that serv1 has everything."""
    from clusterd import heartbeat

    said = json.loads(record(lab, "serv2", "eth0", 1)[0][41:])
    claim = {name: [99, "serv1", True, False, 0] for name in said["groups"]}
    grab = json.dumps(said | {"groups": claim, "sequence": said["sequence"] + 1000}).encode()
    word = heartbeat.seal(grab, "lan", key.encode())
    script = f"import socket; s = socket.socket(2, 2); s.sendto({word!r}, ('{ADDRESS['serv2']}', 694))"
    lab.run("client", ["python3", "-c", script])


def test_the_key_stays_when_a_node_is_dead(home: Lab) -> None:
    before = keys(home)
    home.power_off("serv2")
    wait_serves(home, "serv1", "serv1", "serv2")
    done = home.run("serv1", ["cluster", "rotate-key"], check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("cluster: serv2: does not answer") and len(done.stderr.splitlines()) == 1
    assert home.text("serv1", KEY) in before
    home.power_on("serv2")
    wait_home(home)


SSH = "/var/lib/clusterd/ssh/id_ed25519"
ALLOWED = "/root/.ssh/authorized_keys"


def test_a_nodes_ssh_key_is_replaced_while_it_mirrors(home: Lab) -> None:
    """As docs/security.md says it."""

    def mirrors() -> None:
        home.sh("serv1", "date > /srv/www/now; mirror_service web", timeout=60)
        assert home.text("serv2", "/srv/www/now") == home.text("serv1", "/srv/www/now")

    asked = "ssh -F none -o IdentitiesOnly=yes -o UserKnownHostsFile=/etc/cluster.d/known_hosts -o BatchMode=yes \
-o HostKeyAlias=serv2 -i {} root@192.168.111.2 clock"
    try:
        mirrors()
        home.sh("serv1", f"ssh-keygen -q -t ed25519 -N '' -C clusterd@serv1 -f {SSH}.new")
        new, old = home.text("serv1", f"{SSH}.new.pub"), home.text("serv1", f"{SSH}.pub")
        assert new and old
        gate = f'restrict,command="/usr/local/sbin/peer_gate --node serv1" {new}'
        with open(home.path("serv2", ALLOWED), "a", encoding="utf-8") as file:
            file.write(gate)
        home.sh("serv1", asked.format(f"{SSH}.new"))
        mirrors()
        home.sh(
            "serv1", f"cp -p {SSH} {SSH}.old; mv {SSH}.new {SSH}; mv {SSH}.new.pub {SSH}.pub; rm -f /run/clusterd/ssh/*"
        )
        mirrors()
        home.sh(
            "serv2",
            f"grep -vF '{old.split()[1]}' {ALLOWED} > {ALLOWED}.new; chmod 600 {ALLOWED}.new; \
mv {ALLOWED}.new {ALLOWED}",
        )
        mirrors()
        refused = home.run("serv1", ["sh", "-c", asked.format(f"{SSH}.old")], check=False)
        assert refused.returncode == 255 and "Permission denied" in refused.stderr
    finally:
        home.reset()  # the lab's own keys again
