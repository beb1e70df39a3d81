"""A node with a network of its own, and what runs on it, for tests of the commands; the other node is an `rsh` away.

The scripts are real processes, the addresses are real. Services are a small program, `svc`, that keeps a journal; so
does every request to the other node: `rsh` becomes that node (its network, its folders) and runs the real peer_gate.
What is to go wrong is named by a file, see `Site.break_`. For tests: ``from unit.site import made_site as made_site``,
and ``pytest_plugins = ["lan"]``.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import config, heartbeat, keyfile, model, network, nic, ownership, paths, state, view
from clusterd.picture import Claim
from clusterd.view import PeerView, View

if TYPE_CHECKING:
    from unit.conftest import Box
    from unit.lan import Lan

ROOT = Path(__file__).resolve().parents[2]

SVC = """#!/bin/sh
# svc NAME start|stop|status: what is to run, on whatever node this is.
[ $# = 2 ] || { echo "svc: found $# words, wanted a name and a verb" >&2; exit 64; }
cd {root} || exit 64
node=$(hostname)
case $2 in
status) [ -e running/$node-$1 ] || exit 3 ;;
start|stop)
    phase=$(sed -n 's/.*"phase": "\\(.*\\)".*/\\1/p' {groups}/*.json | sort -u | tr '\\n' ' ')
    addresses=$(ip -brief addr show | grep -o '10\\.1\\.0\\.[12]/' | tr -d '/\\n')
    echo "$node $2 $1" >> journal
    echo "$node $2 $1 phases $phase addresses $addresses" >> seen
    if [ -e broken/before-$2-$1 ]; then . ./broken/before-$2-$1; fi
    if [ -e broken/$2-$1 ]; then echo "$1 has no wish to $2" >&2; exit 1; fi
    if [ $2 = start ]; then touch running/$node-$1; else rm -f running/$node-$1; fi ;;
*) exit 64 ;;
esac
"""

RSH = """#!/bin/sh
# rsh ADDRESS .../sbin/peer_gate WORD...: the other node. As with the real one
# neither exit code nor stderr come back.
shift
set -- $*
[ $1 = /usr/local/sbin/peer_gate ] || { echo "rsh: found '$1', wanted /usr/local/sbin/peer_gate" >&2; exit 64; }
shift
[ $1 = --json ] && { json=$1; shift; }
held=$(ip -brief addr show | grep -q '10\\.1\\.0\\.1/' && echo up || echo gone)
case $1 in acquire) echo "rsh acquire ready" >> {root}/journal ;; *) echo "rsh $*" >> {root}/journal ;; esac
for broken in {root}/broken/rsh-$1 {root}/broken/rsh-$1-$(grep -cwE "^rsh $1" {root}/journal); do
    if [ -e $broken ]; then sh $broken "$@"; exit; fi
done
if [ $1 = acquire ]; then
    # Look at this node at the very moment at which the other one may go.
    read word || { echo "rsh acquire dismissed" >> {root}/journal; exit 0; }
    held=$(ip -brief addr show | grep -q '10\\.1\\.0\\.1/' && echo up || echo gone)
    phase=$(sed -n 's/.*"phase": "\\(.*\\)".*/\\1/p' {groups}/serv1.json)
    echo "rsh acquire $word: the address is $held, the record says $phase" >> {root}/journal
    if [ -e {root}/broken/go ]; then . {root}/broken/go; fi
    (echo $word) | {enter} {gate} --node serv1 $json "$@" 2>/dev/null
    exit 0
fi
{enter} {gate} --node serv1 $json "$@" 2>/dev/null
exit 0
"""

ENTER = """#!/bin/sh
exec nsenter --net=/run/netns/{netns} unshare --mount --uts --propagation private sh -c '
mount --bind {other} {files} && hostname serv2 && exec "$@"' sh env {environment} "$@"
"""

SERVICES = {"first": 10, "second": 20}
"""Of the group serv1, with their order; `web` and `mail` are serv2's."""


class Site:
    """serv1, in which the test itself is, with its record of services; `files` is what its services mirror."""

    def __init__(self, box: "Box", lan: "Lan") -> None:
        self.box = box
        self.lan = lan
        self.root = box.root / "site"
        self.files = self.root / "files"
        self.other = self.root / "other-files"
        self.state2 = self.root / "state2"
        for folder in ("broken", "running", "files", "other-files", "state2", "run2", "log2"):
            (self.root / folder).mkdir(mode=0o755, parents=True)
        environment = {
            "CLUSTERD_CONF": box.conf,
            "CLUSTERD_STATE": self.state2,
            "CLUSTERD_RUN": self.root / "run2",
            "CLUSTERD_LOG": self.root / "log2",
            "PYTHONPATH": ROOT / "lib",
            "PATH": box.changes["PATH"],
        }
        words = {
            "root": self.root,
            "groups": box.state / "groups",
            "netns": lan.ns("serv2"),
            "other": self.other,
            "files": self.files,
            "environment": " ".join(f"{name}={value}" for name, value in environment.items()),
            "enter": box.bin / "enter-serv2",
            "gate": f"{sys.executable} {ROOT}/scripts/peer_gate",
        }
        for name, text in (("svc", SVC), ("rsh", RSH), ("enter-serv2", ENTER)):
            box.program(name, re.sub(r"\{([a-z]+)\}", lambda found: str(words[found[1]]), text))

    def configure(self, **cluster: str) -> model.Config:
        """The article's pair with services of this test; serv2's files are those of `other`."""
        for old_file in list((self.box.conf / "services").glob("*.conf")):
            old_file.unlink()
        text = (ROOT / "conf" / "cluster.conf").read_text()
        changes = {"remote_shell": "rsh", "hosts": "10.1.0.254", "mail": '""', "from": "root"}
        changes |= {"lease": "2 minutes", **cluster}  # nobody renews them here
        for key, value in changes.items():
            old = next(line for line in text.splitlines() if line.startswith(f"{key} = "))
            text = text.replace(old, f"{key} = {value}")
        self.box.write("cluster.conf", text)
        for name, order in SERVICES.items():
            self._service(name, "serv1", order)
        for name, order in (("mail", 10), ("web", 20)):
            self._service(name, "serv2", order)
        return self.load()

    def _service(self, name: str, home: str, order: int, mirror: str = "") -> None:
        run = "".join(f"{verb} = svc, {name}, {verb}\n" for verb in ("start", "stop", "status"))
        self.box.write(f"services/{name}.conf", f"home = {home}\norder = {order}\n[run]\nkind = command\n{run}{mirror}")

    def mirror(self, name: str = "first") -> Path:
        """Have a service of serv1 mirror a folder; returns the folder, with a file in it."""
        folder = self.files / name
        folder.mkdir()
        (self.other / name).mkdir()
        (folder / "letter").write_text("as mirrored")
        self._service(name, "serv1", SERVICES[name], f"[mirror]\nevery = 5 minutes\npaths = {folder}/\n")
        return folder

    def load(self) -> model.Config:
        """The configuration as serv1 sees it."""
        return config.load(str(self.box.conf))

    def hold(self, group: str, epoch: int = 1, phase: str = ownership.HELD) -> None:
        """Have serv1 hold the group, with its address on the NIC and its services running."""
        settings = self.load()
        ownership.enter(group, epoch, phase)
        network.raise_group(settings, network.place(settings, group, settings.me()))
        for service in settings.group(group).services:
            (self.root / "running" / f"serv1-{service.name}").touch()
        self.other_record(group, epoch, "serv1")
        (self.root / "journal").unlink(missing_ok=True)

    def other_record(self, group: str, epoch: int, holder: str) -> None:
        """What serv2 knows of a group."""
        record = ownership.Record(group, epoch, holder)
        state.write(f"{self.state2}/groups/{group}.json", record._asdict())

    def see(self, *, heard: bool = True, reach: int | None = 1, standby: str = "", **claims: Any) -> View:
        """Publish what the watchdog sees, and return it. `claims`: what serv2 claims, as serv2={"epoch": 4, ...}.

        It is from a minute hence, and so always the newest that a script could wait for.
        """
        now = view.now() + 60
        claim = {"epoch": 0, "holder": "", "held": False, "pinned": False}
        peer = PeerView(
            name="serv2",
            heard=heard,
            paths={"heartbeat": 0.05 if heard else 5.0},
            standby=standby,
            groups={group: {**claim, **claims.get(group, {})} for group in ("serv1", "serv2")},
            reach=1,
            hears_me=heard,
            digest_same=True,
            skew=0.0 if heard else None,
            stable=90.0 if heard else None,
        )
        groups = {
            group: {"epoch": ownership.read(group).epoch, "holder": "", "held": ownership.holds(group), "up": True}
            for group in ("serv1", "serv2")
        }
        groups = {group: {**fact, "busy": False} for group, fact in groups.items()}
        made = View("serv1", state.boot_id(), now, now, "", reach, 1, groups, {"serv2": peer}, [], {})
        view.write(made)
        self.sure()
        return made

    def sure(self) -> None:
        """Both nodes' watchdogs have heard everything, and will have for a minute."""
        for folder in (self.box.run, self.root / "run2"):
            folder.mkdir(exist_ok=True)
            (folder / "sure").write_text(f"{state.boot_id()} {view.now() + 60:.6f}\n")

    def run(self, name: str, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        """Run a script on serv1, to its end."""
        return self.box.script(name, *words, stdin=stdin)

    def start(self, name: str, *words: str) -> "subprocess.Popen[str]":
        """Start a script on serv1."""
        become = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', "serv1"]
        argv = [*become, sys.executable, str(ROOT / "scripts" / name), *words]
        pipe = subprocess.PIPE
        return subprocess.Popen(argv, env=self.box.env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def break_(self, what: str, text: str = "") -> Path:
        """Have something go wrong. Returns the file, to be removed again.

        Args:
            what: start-NAME or stop-NAME: a service refuses; before-start-NAME: it runs `text` first;
                rsh-VERB, rsh-VERB-N: `text` is run instead of the (Nth) request; go: before serv2 may acquire.
            text: shell.
        """
        path = self.root / "broken" / what
        path.write_text(text)
        return path

    def journal(self) -> list[str]:
        """What happened, in its order; requests that every pass makes several of, once."""
        path = self.root / "journal"
        lines = path.read_text().splitlines() if path.exists() else []
        kept: list[str] = []
        for line in (line for line in lines if not line.startswith("rsh clock")):
            short = "rsh pass" if line.startswith(("rsh pass", "rsh rsync")) else line
            if not (short == "rsh pass" and kept[-1:] == [short]):
                kept.append(short)
        return kept

    def seen(self) -> list[str]:
        """As the journal, with what each service saw of this node when it was started or stopped."""
        return (self.root / "seen").read_text().splitlines()

    def running(self, node: str = "serv1") -> set[str]:
        """The services that run on a node."""
        return {path.name.partition("-")[2] for path in (self.root / "running").glob(f"{node}-*")}

    def up(self, group: str, node: str = "serv1") -> bool:
        """Whether a node has the group's address."""
        wanted = f"10.1.0.{group[-1]}"
        return any(wanted in self.lan.addresses(node, nic) for nic in ("eth0", "eth2"))

    def events(self) -> list[dict[str, Any]]:
        """What was recorded on serv1."""
        try:
            return [json.loads(line) for line in Path(paths.EVENTS).read_text().splitlines()]
        except FileNotFoundError:
            return []

    def told(self) -> list[str]:
        """The names of the events, in their order."""
        return [event["event"] for event in self.events()]


@pytest.fixture(name="site")
def made_site(pair_files: "Box", lan: "Lan") -> Site:
    """serv1 and serv2, neither holding anything; the view says that all is well."""
    made = Site(pair_files, lan)
    settings = made.configure()
    assert network.prepare(settings) == []
    lan.run("serv2", "ip", "link", "set", "eth0", "up")
    lan.run("serv2", "ip", "link", "set", "eth2", "up")
    lan.wait_until(lambda: nic.carrier("eth2"))
    made.see()
    return made


def wait(true: Any, timeout: float = 60.0) -> None:
    """Wait until it is true; the timeout is for a machine that is busy."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def wait_gone(pid: int) -> None:
    """Wait until a process is gone."""
    wait(lambda: not os.path.exists(f"/proc/{pid}"))


class Peer:
    """serv2 as far as serv1's watchdog can tell: sockets on its networks, and whatever the test has it say."""

    def __init__(self, site: Site) -> None:
        lan = site.lan
        lan.ip("serv1", f"link add eth1 type veth peer name eth1 netns {lan.ns('serv2')}")
        for number in "12":
            lan.ip(f"serv{number}", f"addr add 192.168.111.{number}/24 dev eth1")
            lan.ip(f"serv{number}", "link set eth1 up")
        lan.ip("serv2", "addr add 10.1.0.12/24 dev eth0")
        self.config = site.load()
        self.key = keyfile.read(self.config).first
        self.sequence = 0
        self.incarnation = 7
        self.claims: dict[str, Claim] = {}
        self.door = heartbeat.Doorkeeper("serv2", ("serv1",), (self.key,))
        lan.enter("serv2")
        self.paths = [
            heartbeat.Path("heartbeat", "eth1", 694, {"serv1": ("192.168.111.1",)}),
            heartbeat.Path("lan", "eth0", 694, {"serv1": ("10.1.0.11",)}),
        ]
        lan.enter("serv1")

    def say(self, *names: str, **facts: Any) -> None:
        """One datagram on the named paths, or on all; `facts` as in heartbeat.Word."""
        self.sequence += 1
        word = heartbeat.Word(
            node="serv2",
            incarnation=self.incarnation,
            sequence=self.sequence,
            boot="the boot of serv2",
            groups=self.claims,
            standby="",
            reach=1,
            asked=1,
            lan=True,
            hears=("serv1",),
            digest=self.config.digest[:16],
            clock=time.time(),
        )
        content = heartbeat.body(word._replace(**facts))
        for path in self.paths:
            if path.name in (names or ("heartbeat", "lan")):
                path.send(heartbeat.seal(content, path.name, self.key))

    def claim(self, group: str, epoch: int, holder: str = "serv2", *, held: bool = True, pinned: bool = False) -> None:
        """Say so from the next datagram on."""
        self.claims[group] = Claim(epoch, holder, held, pinned)

    def hears(self) -> dict[str, heartbeat.Word]:
        """The last word that has come from serv1 on each path since the last call."""
        words = {}
        for path in self.paths:
            for data in path.receive():
                word = self.door.admit(data, path.name)
                if word:
                    words[path.name] = word
        return words

    def close(self) -> None:
        for path in self.paths:
            path.close()


@pytest.fixture(name="peer")
def made_peer(site: Site) -> Iterator[Peer]:
    """The heartbeat cable, and serv2 at its other end; it says nothing by itself."""
    made = Peer(site)
    yield made
    made.close()
