"""Commands on other nodes, through a real sshd; and everything that can be wrong with one."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from clusterd import remote, run
from clusterd.model import Config, Network, Node
from unit.ssh import Host, at_localhost

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.fixture
def host(box: "Box", pair: Config, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    made = Host(box)
    made.start()
    monkeypatch.setattr(remote, "CONNECT", 2)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    yield made
    made.stop()


@pytest.fixture
def near(host: Host, pair: Config) -> Config:
    return at_localhost(pair)


def ask(config: Config, *argv: str, timeout: float = 10, stdin: bytes = b"") -> remote.Answer:
    return remote.ask(config, config.nodes["serv2"], argv, timeout=timeout, stdin=stdin)


def test_a_command_runs_there_with_sbin_on_its_path(near: Config) -> None:
    answer = ask(near, "sh", "-c", "echo $PATH; echo oops >&2; exit 3")
    assert answer.code == 3
    assert "/usr/local/sbin" in answer.stdout
    assert answer.stderr == "oops\n"
    assert answer.text() == "oops"
    assert not answer.ok


def test_words_arrive_as_they_are(near: Config) -> None:
    assert ask(near, "printf", "%s|", "a b", "$HOME", "it's", "*").stdout == "a b|$HOME|it's|*|"


def test_much_goes_in_and_comes_back(near: Config) -> None:
    data = os.urandom(3 << 20).hex().encode()
    answer = ask(near, "sh", "-c", "wc -c; head -c 1000000 /dev/zero | tr '\\0' x", stdin=data, timeout=30)
    assert answer.stdout == f"{len(data)}\n" + "x" * 1_000_000


def test_what_does_not_read_its_input_is_no_trouble(near: Config) -> None:
    assert ask(near, "true", stdin=b"x" * (1 << 20)).ok


def test_a_command_that_does_not_end_is_given_up_and_ended_there(near: Config, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    begun = time.monotonic()
    answer = ask(near, "sh", "-c", f"while sleep 0.1; do date > {mark}; done", timeout=1)
    assert time.monotonic() - begun < 10
    assert (answer.code, answer.why) == (None, "no end after 1 s")
    for _ in range(20):
        mark.unlink(missing_ok=True)
        time.sleep(0.5)
        if not mark.exists():
            return
    pytest.fail("it runs on there")


def test_a_daemon_left_behind_does_not_hold_the_answer_up(near: Config) -> None:
    begun = time.monotonic()
    assert ask(near, "sh", "-c", "sleep 20 & echo started").stdout == "started\n"
    assert time.monotonic() - begun < 15


def test_the_local_node_needs_no_ssh(near: Config, box: "Box") -> None:
    box.program("ssh", "exit 99")
    answer = remote.ask(near, near.nodes["serv1"], ("sh", "-c", "cat; exit 4"), timeout=5, stdin=b"hello")
    assert (answer.code, answer.stdout) == (4, "hello")


def test_a_dead_node_is_an_answer_beside_the_others(near: Config) -> None:
    nowhere = (Network("heartbeat", "lo", "127.0.0.1/8"), Network("lan", "lo", "127.0.0.2/8"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    home = Path(os.environ["HOME"])
    (home / ".ssh" / "config").write_text(f"Host serv2\n  Port {port}\n")
    config = near._replace(nodes={**near.nodes, "serv2": near.nodes["serv2"]._replace(networks=nowhere)})
    nodes = tuple(config.nodes.values())
    here, there = remote.everywhere(lambda node: remote.ask(config, node, ("echo", "hi"), timeout=5), nodes)
    assert (here.code, here.stdout) == (0, "hi\n")
    assert there.code is None
    assert there.why == "does not answer (127.0.0.1: Connection refused; 127.0.0.2: Connection refused)"


def test_the_next_address_is_tried(near: Config) -> None:
    far = near.nodes["serv2"]._replace(
        networks=(Network("heartbeat", "lo", "127.0.0.9/8"),), admin_addresses=("127.0.0.1/8",)
    )
    assert ask(near._replace(nodes={**near.nodes, "serv2": far}), "true").ok


def test_a_server_that_says_nothing_costs_a_bounded_time(near: Config, host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        ssh = Path(os.environ["HOME"]) / ".ssh" / "config"
        ssh.write_text(f"Host serv2\n  Port {deaf.getsockname()[1]}\n")
        begun = time.monotonic()
        answer = ask(near, "true")
    assert time.monotonic() - begun < 12
    assert answer.code is None
    assert "does not answer" in answer.why


def test_another_host_key_is_refused(near: Config, host: Host) -> None:
    host.know(host.user_key)
    answer = ask(near, "true")
    assert answer.code is None
    assert "another host key" in answer.why


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_host_key_that_is_being_changed(near: Config, host: Host, first: str) -> None:
    """Two keys of one kind: whichever of them the node has is its own."""
    keys = [host.host_key, host.user_key]
    host.know(*(keys if first == "new" else reversed(keys)))
    assert ask(near, "true").ok


def test_an_unknown_host_is_refused(near: Config, box: "Box") -> None:
    (box.conf / "known_hosts").write_text("")
    assert "no host key of serv2" in ask(near, "true").why
    (box.conf / "known_hosts").unlink()
    assert "No such file" in ask(near, "true").why


def test_a_key_that_opens_nothing_is_said(near: Config, host: Host) -> None:
    shutil.copy(f"{host.host_key}.pub", host.root / "authorized")
    assert "none of your ssh keys" in ask(near, "true").why


def test_a_connection_that_breaks_is_said(near: Config) -> None:
    up = "p=$PPID; until [ $(cat /proc/$p/comm) = sshd ]; do p=$(ps -o ppid= -p $p | tr -d ' '); done; kill -9 $p"
    answer = ask(near, "sh", "-c", up)
    assert answer.code is None
    assert "broke" in answer.why


def test_a_node_that_is_gone_without_a_word_is_noticed_by_the_kernel(near: Config) -> None:
    """What it is good for takes a power cut: see tests/lab/test_administration.py."""
    connection = remote.connect(near, near.nodes["serv2"])
    try:
        assert connection.transport
        sock: socket.socket = connection.transport.sock
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15000
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5
    finally:
        connection.close()


def test_all_are_asked_at_once(near: Config, tmp_path: Path) -> None:
    line = 'touch "$0"; until [ -e "$1" ]; do sleep 0.05; done'
    files = {"serv1": str(tmp_path / "one"), "serv2": str(tmp_path / "two")}

    def meet(node: Node) -> remote.Answer:
        other = next(file for name, file in files.items() if name != node.name)
        return remote.ask(near, node, ("sh", "-c", line, files[node.name], other), timeout=20)

    assert all(answer.ok for answer in remote.everywhere(meet, tuple(near.nodes.values())))


def test_a_surprise_on_one_node_is_its_answer(pair: Config) -> None:
    def work(node: object) -> remote.Answer:
        raise ZeroDivisionError("surprise")

    answers = remote.everywhere(work, tuple(pair.nodes.values()))
    assert [answer.why for answer in answers] == ["ZeroDivisionError: surprise"] * 2


def test_dry_run_shows_what_would_be_run(
    pair: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "dry_run", True)
    assert ask(pair, "reboot").ok
    assert capsys.readouterr().out.startswith("would run: ssh root@serv2 ")
