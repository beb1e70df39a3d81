"""Where a peer is asked, with what, and what is said when it does not answer."""

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from clusterd import channel, model, paths, peer, state, view
from clusterd.channel import Channel, Ended, Silent
from unit.test_mirror import fill, go, tree
from unit.twonodes import ROOT, Two
from unit.twonodes import two_nodes as two_nodes

if TYPE_CHECKING:
    pass


def see(ages: dict[str, float | None]) -> None:
    """The watchdog's view, with what is heard of serv2 on each path."""
    seen = view.PeerView("serv2", True, ages, "", {}, 2, True, True, 0.0, 5.0)
    now = view.now()
    view.write(view.View("serv1", state.boot_id(), now + 3, now, "", 2, 2, {}, {"serv2": seen}, [], {}))


def test_the_heartbeat_network_unless_only_the_lan_works(pair: model.Config) -> None:
    node = pair.nodes["serv2"]
    heartbeat = node.networks[0].address.split("/")[0]
    lan = (*node.admin_addresses, *node.addresses)[0].split("/")[0]
    assert peer.address(pair, node) == heartbeat, "nothing is known"
    see({"heartbeat": 0.05, "lan": 0.05})
    assert peer.address(pair, node) == heartbeat
    see({"heartbeat": None, "lan": 0.05})
    assert peer.address(pair, node) == lan
    see({"heartbeat": 5.0, "lan": 0.05})
    assert peer.address(pair, node) == lan
    see({"heartbeat": None, "lan": None})
    assert peer.address(pair, node) == heartbeat


def test_the_command_line_of_ssh(pair: model.Config) -> None:
    node = pair.nodes["serv2"]
    argv = peer.argv(pair, node, ["status"])
    assert argv[0] == "ssh"
    assert argv[-3:] == ["serv2", "peer_gate", "status"]
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", "HostKeyAlias=serv2", f"IdentityFile={paths.SSH_KEY}"):
        assert option in argv
    assert f"UserKnownHostsFile={pair.folder}/known_hosts" in argv
    own = pair._replace(mirror=pair.mirror._replace(remote_shell=("/opt/ssh", "-p", "2222", "-o", "ConnectTimeout=3")))
    argv = peer.argv(own, node, ["status"])
    assert argv[:4] == ["/opt/ssh", "-F", "none", "-T"]
    first = next(word for word in argv if word.startswith("ConnectTimeout="))
    assert first == "ConnectTimeout=3", "ssh takes the first one"


def test_the_command_line_of_rsh(pair: model.Config) -> None:
    node = pair.nodes["serv2"]
    own = pair._replace(mirror=pair.mirror._replace(remote_shell=("rsh",)))
    where = node.networks[0].address.split("/")[0]
    assert peer.argv(own, node, ["clock"]) == ["rsh", where, paths.GATE, "--json", "clock"]
    assert paths.GATE == "/usr/local/sbin/peer_gate", "the PATH that rshd gives a command has no sbin"
    assert not peer.connected(own, node)


def test_the_socket_of_a_connection_has_a_short_path(pair: model.Config) -> None:
    path = peer.connection(pair, pair.nodes["serv2"], "192.168.111.2")
    assert len(path) - len(paths.RUN) < 20


def test_one_connection_is_shared_and_outlives_the_question(two: Two) -> None:
    settings = two.load()
    node = settings.nodes["serv2"]
    assert not peer.connected(settings, node)
    before = time.monotonic()
    assert peer.ask(settings, node, ["clock"], timeout=20).ok
    assert time.monotonic() - before < 10, "what is left behind keeps no pipe open"
    assert peer.connected(settings, node)
    [log] = [two.top / "authorized"]
    log.write_text("")
    assert peer.ask(settings, node, ["clock"], timeout=20).ok
    two.disconnect()
    refused = peer.ask(settings, node, ["clock"], timeout=20)
    assert refused.code == peer.UNREACHABLE
    assert "does not take this node's key" in str(peer.unreachable(node, refused.code, refused.stderr))


def test_a_peer_that_hangs_is_given_up(two: Two) -> None:
    settings = two.load()
    node = settings.nodes["serv2"]
    key = (two.top / "key.pub").read_text()
    (two.top / "authorized").write_text(f'command="sleep 60",restrict {key}')
    before = time.monotonic()
    assert peer.ask(settings, node, ["clock"], timeout=1.5).timed_out
    assert time.monotonic() - before < 5


def test_what_hangs_on_a_peer_that_is_no_longer_heard_fails_at_once(two: Two) -> None:
    settings = two.load()
    node = settings.nodes["serv2"]
    (path,) = [network.name for network in node.networks]
    for subject in ("serv2", f"serv2/{path}", f"serv2/{model.ALL_PATHS}"):
        key = (two.top / "key.pub").read_text()
        (two.top / "authorized").write_text(f'command="sleep 60",restrict {key}')
        asking = subprocess.Popen(peer.argv(settings, node, ["clock"]), stderr=subprocess.DEVNULL)
        while not peer.connected(settings, node) and asking.poll() is None:
            time.sleep(0.02)
        before = time.monotonic()
        peer.hang_up(settings, "serv2/another")
        assert asking.poll() is None and peer.connected(settings, node), "the other paths are none of its business"
        peer.hang_up(settings, subject)
        assert asking.wait(10) == peer.UNREACHABLE
        assert time.monotonic() - before < 10
        while peer.connected(settings, node) and time.monotonic() - before < 10:
            time.sleep(0.02)
        assert not peer.connected(settings, node)
        peer.hang_up(settings, subject)


def test_a_pass_over_rsh(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for rsh, with the PATH of in.rshd; what it starts on serv2 is the real peer_gate."""
    binaries = two.top / "bin"
    binaries.mkdir()
    settings = " ".join(f"{name}={value}" for name, value in two.env.items())
    (binaries / "peer_gate").write_text(
        f'#!/bin/sh\nexec env {settings} {sys.executable} {ROOT}/scripts/peer_gate "$@"\n'
    )
    (binaries / "rsh").write_text(
        f'#!/bin/sh\nshift\nexport PATH=/usr/bin:/bin\n{" ".join(two.enter())} sh -c "$*"\nexit 0\n'
    )
    for each in binaries.iterdir():
        each.chmod(0o755)
    monkeypatch.setattr(paths, "GATE", f"{binaries}/peer_gate")
    two.configure(shell=f"{binaries}/rsh")
    fill(two)
    assert tree(two.data) == tree(two.copy)
    (two.data / "file1").write_text("changed")
    (two.data / "file2").unlink()
    assert (report := go(two)).ok, report.problem
    assert tree(two.data) == tree(two.copy)
    assert go(two).changed == 0


# The conversation


def pipes() -> tuple[Channel, Channel]:
    there, back = os.pipe(), os.pipe()
    return Channel(back[0], there[1]), Channel(there[0], back[1])


def test_messages_go_both_ways() -> None:
    one, other = pipes()
    one.send(do="x", names=["two\nlines", "\udcff"])
    one.send(do="y")
    assert other.receive(1) == {"do": "x", "names": ["two\nlines", "\udcff"]}
    assert other.receive(1) == {"do": "y"}
    other.send(answer=1)
    assert one.receive(1) == {"answer": 1}


def test_silence_and_the_end_are_told_apart() -> None:
    one, other = pipes()
    os.write(one.outgoing, b'{"do": ')
    with pytest.raises(Silent):
        other.receive(0.05)
    os.write(one.outgoing, b'"x"}\n')
    assert other.receive(1) == {"do": "x"}
    os.close(one.outgoing)
    with pytest.raises(Ended):
        other.receive(1)
    for rubbish in (b"rubbish\n", b"[1]\n", b"\xff\n"):
        one, other = pipes()
        os.write(one.outgoing, rubbish)
        with pytest.raises(Ended):
            other.receive(1)


def test_long_lists_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "PART", 3)
    monkeypatch.setattr(channel, "LONGEST", 60)
    one, other = pipes()
    one.parts = True
    names = [f"name{number}" for number in range(20)]
    one.send(do="x", names=names, few=["a"], more=tuple(names[:4]))
    one.send(do="y")
    assert other.receive(1) == {"do": "x", "names": names, "few": ["a"], "more": names[:4]}
    assert other.receive(1) == {"do": "y"}
    one.parts = False
    with pytest.raises(channel.TooLong, match="too many files"):
        one.send(do="x", names=names)
    os.write(one.outgoing, b"x" * 61)
    with pytest.raises(channel.TooLong):
        other.receive(1)


def test_parts_are_bounded_and_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel, "MOST", 100)
    one, other = pipes()
    for _ in range(6):
        os.write(one.outgoing, b'{"part": {"x": [1]}}\n')
    with pytest.raises(channel.TooLong):
        other.receive(1)
    for rubbish in (b'{"part": 1}\n', b'{"part": {"x": 1}}\n', b'{"part": {"x": [1]}}\n{"x": 1}\n'):
        one, other = pipes()
        os.write(one.outgoing, rubbish)
        with pytest.raises(Ended, match="no sensible answer"):
            other.receive(1)


def test_signs_of_life_prolong_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clusterd.channel.TICK", 0.05)
    one, other = pipes()
    with one.alive():
        with pytest.raises(Silent):
            other.receive(0.01)
        import threading

        threading.Timer(0.5, lambda: one.send(do="late")).start()
        assert other.receive(0.3) == {"do": "late"}
