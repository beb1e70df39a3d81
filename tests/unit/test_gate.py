"""The gate lets through what nodes ask of each other and nothing else, and holds a hostile sender to its paths."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import gate, model, paths, peer
from clusterd.errors import NotPermitted
from unit.test_mirror import fill, go, tree
from unit.twonodes import ROOT, Two
from unit.twonodes import two_nodes as two_nodes

if TYPE_CHECKING:
    from unit.conftest import Box

NO_REQUESTS = [
    "",
    "sh",
    "pass",
    "pass data",
    "pass data x",
    "pass data 1 2",
    "pass ../data 1",
    "pass data/../x 1",
    "pass data -1",
    "pass data 1; id",
    "pass data $(id)",
    "pass 'data' 1",
    "status; id",
    "status && id",
    "status\nid",
    "peer_gate",
    "peer_gate peer_gate status",
    "/bin/sh -c id",
    "rsync data 1 plan",
    "rsync data 1 plan --server --daemon . /etc",
    "rsync data 1 plan --server --sender -vlogDtpre.iLsfxC . /etc/shadow",
    "rsync data 1 ../../etc --server --daemon .",
    "rsync data 1 plan --server --daemon --config=/tmp/x",
    "acquire serv1",
    "acquire serv1 1 pinned force",
    "acquire --force 1",
    "ready serv1 serv2",
    "clock now",
    "takeover serv1",
]


@pytest.mark.parametrize("asked", NO_REQUESTS)
def test_nothing_else_is_let_through(box: "Box", asked: str) -> None:
    with pytest.raises(NotPermitted):
        gate.handle(asked.split(), gate.Request("serv1", str(box.conf)))
    [event] = [json.loads(line) for line in Path(paths.EVENTS).read_text().splitlines()]
    assert event["event"] == "gate-refused"
    assert event["node_asking"] == "serv1"


def test_ssh_gives_no_shell(two: Two) -> None:
    settings = two.load()
    shell, target = peer.shell(settings, settings.nodes["serv2"])
    for words in ([], ["id"], ["peer_gate", "status;", "id"], ["cat", "/etc/shadow"], ["sh", "-c", "'echo hello'"]):
        done = subprocess.run(
            [*shell, target, *words], capture_output=True, text=True, input="echo hello\n", timeout=20, check=False
        )
        assert done.returncode == 77, words
        assert "hello" not in done.stdout
        assert "root" not in done.stdout
    events = (two.other / "log/events.jsonl").read_text()
    assert "cat /etc/shadow" in events


def test_questions(two: Two) -> None:
    settings = two.load()
    node = settings.nodes["serv2"]
    before = time.time()
    clock = peer.ask(settings, node, ["clock"], timeout=60)
    assert before - 1 < float(clock.stdout) < time.time() + 1
    ready = peer.ask(settings, node, ["ready", "serv1"], timeout=60)
    assert ready.ok
    assert json.loads(ready.stdout)["services"] == ["data"]
    assert json.loads(ready.stdout)["digest"] == settings.digest
    assert peer.ask(settings, node, ["ready", "serv9"], timeout=60).code == 1
    (two.top / "site" / "unplugged").touch()
    lame = peer.ask(settings, node, ["ready", "serv1"], timeout=60)
    assert (lame.code, "eth2 of serv2 has no link" in lame.stderr) == (1, True)
    (two.top / "site" / "unplugged").unlink()
    unknown = peer.ask(settings, node, ["status"], timeout=60)
    assert (unknown.code, "watchdog" in unknown.stderr) == (3, True)
    two.there_python("from clusterd import ownership; ownership.enter_standby(ownership.PROGRAM, 'came back')")
    assert peer.ask(settings, node, ["ready", "serv1"], timeout=60).ok, "failback lifts this one"
    two.there_python("from clusterd import ownership; ownership.enter_standby(ownership.PERSON, 'new disk')")
    standby = peer.ask(settings, node, ["ready", "serv1"], timeout=60)
    assert (standby.code, "new disk" in standby.stderr) == (77, True)


def test_a_stranger_is_no_sender(two: Two) -> None:
    two.load()
    authorized = two.top / "authorized"
    authorized.write_text(authorized.read_text().replace("--node serv1", "--node serv9"))
    with pytest.raises(NotPermitted, match="serv9 is no node of this cluster"):
        go(two)
    authorized.write_text(authorized.read_text().replace("--node serv9", "--node serv2"))
    two.disconnect()
    with pytest.raises(NotPermitted, match="does not mirror to itself"):
        go(two)


def test_acquire_becomes_the_takeover(box: "Box", monkeypatch: pytest.MonkeyPatch, pair: model.Config) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(os, "execv", lambda path, argv: ran.append((path, argv)))
    monkeypatch.setattr(sys, "argv", [str(ROOT / "scripts/peer_gate")])
    gate.handle(["acquire", "serv2", "7", "pinned"], gate.Request("serv2", pair.folder))
    [(path, argv)] = ran
    assert path == str(ROOT / "scripts/takeover")
    assert argv[1:] == ["--config", pair.folder, "--on-go", "--handed-over", "7", "--pinned", "serv2"]


@pytest.mark.parametrize(
    ("asked", "would"),
    [
        ("acquire serv2 7", "take serv2 from a node that has let go of it at epoch 7"),
        ("pass smbd 3", "receive files of smbd from serv2, which holds serv1 at epoch 3"),
        ("rsync smbd 3 plan --server --daemon .", "receive files of smbd from serv2, which holds serv1 at epoch 3"),
    ],
)
def test_a_dry_run_begins_nothing(
    pair: model.Config, box: "Box", monkeypatch: pytest.MonkeyPatch, asked: str, would: str
) -> None:
    for begin in ("execv", "execvp"):
        monkeypatch.setattr(os, begin, lambda *_: pytest.fail("began"))
    before = sorted(box.root.rglob("*"))
    for options in (["--dry-run"], ["--node", "serv2", "--dry-run"]):
        done = box.script("peer_gate", "--json", *options, *asked.split())
        assert (done.returncode, done.stderr, json.loads(done.stdout)) == (0, "", {"would": [would]})
    done = box.script("peer_gate", "--node", "serv2", "--dry-run", *asked.split())
    assert (done.returncode, done.stdout) == (0, f"would {would}\n")
    new = {path.name for path in box.root.rglob("*")} - {path.name for path in before}
    assert new <= {"config.json"}


def test_errors_and_answers_as_json(pair: model.Config, box: "Box") -> None:
    """For remote shells that bring back neither an exit code nor stderr."""
    for asked, code, error in (
        ("status", 3, "the watchdog is not running here: nothing is known"),
        ("ready serv9", 1, "no such group here: serv9"),
        ("id", 77, "not a request of a node: 'id'"),
    ):
        done = box.script("peer_gate", "--json", *asked.split())
        assert (done.returncode, json.loads(done.stdout)) == (code, {"error": error, "exit": code})
        assert done.stderr == f"peer_gate: {error}\n"
    clock = json.loads(box.script("peer_gate", "--json", "clock").stdout)
    assert abs(clock["clock"] - time.time()) < 60


def test_over_rsh_an_error_is_one(pair: model.Config, box: "Box") -> None:
    box.program("rsh", """echo '{"error": "it is loud", "exit": 77}'""")
    own = pair._replace(mirror=pair.mirror._replace(remote_shell=("rsh",)))
    answer = peer.ask(own, own.nodes["serv2"], ["ready", "serv1"], timeout=20)
    assert (answer.code, answer.stdout, answer.stderr) == (77, "", "peer_gate: it is loud\n")


# A hostile sender: it has the key, and says to the gate what it likes


class Hostile:
    """Talks to serv2's gate by hand, and runs rsync with options of its own."""

    def __init__(self, two: Two) -> None:
        self.two = two
        settings = two.load()
        self.shell, self.target = peer.shell(settings, settings.nodes["serv2"])
        self.talk = subprocess.Popen(
            [*self.shell, self.target, "peer_gate", "pass", "data", "1"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert "error" not in self.hear()
        self.files = ""
        self.set = ""

    def say(self, **message: Any) -> dict[str, Any]:
        assert self.talk.stdin
        self.talk.stdin.write(json.dumps(message) + "\n")
        self.talk.stdin.flush()
        return self.hear()

    def hear(self) -> dict[str, Any]:
        assert self.talk.stdout
        while True:
            answer: dict[str, Any] = json.loads(self.talk.stdout.readline())
            if answer:
                return answer

    def live(self) -> None:
        """A sign of life, as a sender gives every two seconds: a session that hears none ends the pass."""
        assert self.talk.stdin
        with suppress(OSError, ValueError):  # it has refused us, or has been told that this is the end
            self.talk.stdin.write("{}\n")
            self.talk.stdin.flush()

    def begin(self) -> None:
        answer = self.say(do="begin", space={}, folders=[], both=[])
        self.set, self.files = answer["set"], answer["files"]

    def rsync(self, *words: str, set_id: str = "") -> "subprocess.CompletedProcess[str]":
        self.live()
        gate_words = f"peer_gate rsync data 1 {set_id or self.set}"
        argv = ["rsync", "-e", " ".join(self.shell), f"--rsync-path={gate_words}", *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    def end(self) -> None:
        assert self.talk.stdin
        self.talk.stdin.close()
        self.talk.wait()


@pytest.fixture
def hostile(two: Two) -> "Any":
    fill(two, 5)
    made = Hostile(two)
    yield made
    made.end()


@pytest.fixture
def evil(two: Two) -> Path:
    """A tree to send from, with the mirrored folder's path below it."""
    inside = two.top / "evil" / str(two.data).strip("/")
    inside.mkdir(parents=True)
    return two.top / "evil"


def outside(two: Two) -> dict[str, str]:
    """What no sender may touch."""
    return {**tree(two.other / "etc"), **tree(two.other / "conf"), "top": f"{(two.other).stat().st_mode:o}"}


def test_no_path_but_the_configured_ones(two: Two, hostile: Hostile, evil: Path) -> None:
    hostile.begin()
    backup = ["-b", f"--backup-dir={hostile.files}", "--no-implied-dirs"]
    before = outside(two)
    (evil / str(two.node).strip("/") / "etc").mkdir()
    (evil / str(two.node).strip("/") / "etc" / "passwd").write_text("evil")
    done = hostile.rsync("-rR", *backup, f"{evil}/.{two.node}/etc/passwd", "serv2::data/")
    assert done.returncode != 0
    done = hostile.rsync("-r", *backup, f"{evil}{two.node}/etc/passwd", f"serv2::data{two.node}/etc/")
    assert done.returncode != 0
    done = hostile.rsync("-r", *backup, f"{evil}{two.node}/etc/passwd", f"serv2::data{two.data}/../etc/")
    assert done.returncode != 0
    done = hostile.rsync("-r", *backup, f"{evil}{two.node}/etc/passwd", "serv2::other/")
    assert done.returncode != 0
    assert outside(two) == before
    assert not (two.other / "etc" / "passwd").exists()


@pytest.mark.parametrize("target", ["../etc", "{node}/etc", "../data/../etc"])
def test_no_way_through_a_symlink(two: Two, hostile: Hostile, evil: Path, target: str) -> None:
    """First a symlink is planted in the mirrored folder, then a file is sent through it."""
    hostile.begin()
    backup = ["-b", f"--backup-dir={hostile.files}", "--no-implied-dirs"]
    before = outside(two)
    folder = evil / str(two.data).strip("/")
    for number, options in enumerate(("-rl", "-rlK", "-rl --inplace", "-rl --delay-updates", "-rltp --keep-dirlinks")):
        link = folder / f"link{number}"
        link.symlink_to(target.format(node=two.node))
        assert hostile.rsync("-rlR", *backup, f"{evil}/.{two.data}/{link.name}", "serv2::data/").returncode == 0
        assert (two.copy / link.name).is_symlink()
        link.unlink()
        link.mkdir(mode=0o777)
        (link / "evil").write_text("evil")
        for name in (f"{link.name}/evil", link.name, f"{link.name}/"):
            hostile.rsync(*options.split(), "-R", *backup, f"{evil}/.{two.data}/{name}", "serv2::data/")
        hostile.rsync(*options.split(), *backup, f"{link}/evil", f"serv2::data{two.data}/{link.name}/")
        hostile.rsync(*options.split(), *backup, f"{link}/evil", f"serv2::data{two.data}/{link.name}/new")
        shutil.rmtree(link)
        assert outside(two) == before, options


def test_what_is_kept_cannot_be_overwritten(two: Two, hostile: Hostile, evil: Path) -> None:
    hostile.begin()
    backup = ["-b", f"--backup-dir={hostile.files}", "--no-implied-dirs"]
    (evil / str(two.data).strip("/") / "file1").write_text("evil")
    assert hostile.rsync("-rR", *backup, f"{evil}/.{two.data}/file1", "serv2::data/").returncode == 0
    [kept] = (two.other / "state/backups").glob(f"*/files{two.data}/file1")
    assert kept.read_text() == "1"
    inside = evil / hostile.files.strip("/") / str(two.data).strip("/")
    inside.mkdir(parents=True)
    (inside / "file1").write_text("evil")
    hostile.rsync("-rR", *backup, f"{evil}/.{hostile.files}{two.data}/file1", "serv2::data/")
    hostile.rsync("-rR", *backup, f"{evil}/.{hostile.files}/", "serv2::data/")
    (inside / "file1").unlink()
    hostile.rsync("-rR", "--delete", *backup, f"{evil}/.{hostile.files}/", "serv2::data/")
    hostile.rsync("-r", "--delete", *backup, f"{inside}/", f"serv2::data{hostile.files}{two.data}/")
    assert kept.read_text() == "1"


def test_the_folders_above_keep_their_attributes(two: Two, hostile: Hostile, evil: Path) -> None:
    hostile.begin()
    backup = ["-b", f"--backup-dir={hostile.files}", "--no-implied-dirs"]
    before = two.other.stat()
    (evil / str(two.node).strip("/")).chmod(0o777)
    os.chown(evil / str(two.node).strip("/"), 12345, 12345)
    for words in ("-rpogR", "-rpogR --delete", "-pogR --dirs"):
        hostile.rsync(*words.split(), *backup, f"{evil}/.{two.node}/", "serv2::data/")
        hostile.rsync(*words.split(), *backup, f"{evil}/.{two.data}/", "serv2::data/")
    hostile.end()
    two.there_python(
        "from clusterd import config, paths, endpass; endpass.settle(config.load(paths.CONF).services['data'])"
    )
    after = two.other.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_only_with_a_backup_into_the_set(two: Two, hostile: Hostile, evil: Path) -> None:
    hostile.begin()
    (evil / str(two.data).strip("/") / "file1").write_text("evil")
    source = [f"{evil}/.{two.data}/file1", "serv2::data/"]
    plain = ["-rR", "--no-implied-dirs"]
    for words in (
        [*plain],
        [*plain, "-b"],
        [*plain, "-b", f"--backup-dir={two.data}/hidden"],
        [*plain, "-b", f"--backup-dir={hostile.files}/../../x"],
        [*plain, "-b", f"--backup-dir={hostile.files}", f"--partial-dir={two.node}/etc"],
        [*plain, "-b", f"--backup-dir={hostile.files}", f"--temp-dir={two.node}/etc"],
        [*plain, "-b", f"--backup-dir={hostile.files}", f"--link-dest={two.node}/etc"],
        [*plain, "-b", f"--backup-dir={hostile.files}", "--suffix=~"],
        [*plain, "-b", f"--backup-dir={hostile.files}", "--delete-excluded"],
        [*plain, "-b", f"--backup-dir={hostile.files}", "--remove-source-files"],
        [*plain, "-b", f"--backup-dir={hostile.files}", "--write-devices"],
        ["-rR", "-b", f"--backup-dir={hostile.files}"],
    ):
        done = hostile.rsync(*words, *source)
        assert done.returncode != 0, words
        assert (two.copy / "file1").read_text() == "1", words
    assert hostile.rsync(*plain, "-b", f"--backup-dir={hostile.files}", *source).returncode == 0
    assert (two.copy / "file1").read_text() == "evil"
    [kept] = (two.other / "state/backups").glob(f"*/files{two.data}/file1")
    assert kept.read_text() == "1"


def test_a_plan_changes_nothing_whatever_it_says(two: Two, hostile: Hostile, evil: Path) -> None:
    before = tree(two.copy)
    (evil / str(two.data).strip("/") / "file1").write_text("evil")
    source = [f"{evil}/.{two.data}/file1", "serv2::data/"]
    for words in (["-rR"], ["-rR", "--no-implied-dirs"], ["-rRe", "n", "--no-implied-dirs"]):
        assert hostile.rsync(*words, *source, set_id="plan").returncode != 0
    assert hostile.rsync("-nrR", "--no-implied-dirs", *source, set_id="plan").returncode == 0
    assert tree(two.copy) == before


def test_nothing_is_sent_out(two: Two, hostile: Hostile, tmp_path: Path) -> None:
    hostile.begin()
    for words in (["-r"], ["-rn"]):
        for set_id in ("plan", hostile.set):
            done = hostile.rsync(*words, f"serv2::data{two.node}/conf/", str(tmp_path), set_id=set_id)
            assert done.returncode != 0
            done = hostile.rsync(*words, f"serv2::data{two.node}/conf/cluster.conf", str(tmp_path), set_id=set_id)
            assert done.returncode != 0
    assert list(tmp_path.iterdir()) == []


def test_no_transfer_outside_a_pass(two: Two, hostile: Hostile, evil: Path) -> None:
    hostile.begin()
    hostile.end()
    (evil / str(two.data).strip("/") / "file1").write_text("evil")
    backup = ["-b", f"--backup-dir={hostile.files}", "--no-implied-dirs"]
    done = hostile.rsync("-rR", *backup, f"{evil}/.{two.data}/file1", "serv2::data/")
    assert done.returncode != 0
    assert "no pass" in done.stderr
    assert (two.copy / "file1").read_text() == "1"


def test_rubbish_on_the_control_channel(two: Two, hostile: Hostile) -> None:
    assert "error" in hostile.say(do="dance")
    other = Hostile(two)
    assert other.talk.stdin
    other.talk.stdin.write("rubbish\n")
    other.talk.stdin.flush()
    assert other.talk.wait(10) is not None
    other.end()
    assert go(two).ok


def test_the_gate_starts_light() -> None:
    """Every pass starts it twice: nothing heavy at the top."""
    code = (
        "import sys, clusterd.commands.peer_gate, clusterd.daemon;"
        "print(sorted({'argparse', 'subprocess', 'configobj', 'fabric', 'dateutil', 'threading'} & set(sys.modules)))"
    )
    env = {**os.environ, "PYTHONPATH": f"{ROOT}/lib"}
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.strip() == "[]"
