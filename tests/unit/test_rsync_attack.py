"""A peer with the key runs an rsync of its own against the receiving one: whatever it says, in whatever order, nothing
but the service's paths is written, nothing is read, and nothing is replaced without going into the backup set.

The client is the real rsync, with options of its own for the other side; a program between the two changes the words
as no client would: behind the path, twice, as another option's value.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clusterd import daemon, paths, rsync
from unit.test_gate import Hostile
from unit.test_mirror import fill
from unit.twonodes import Two
from unit.twonodes import two_nodes as two_nodes

Change = dict[str, list[str]]
CANARY = "canary: nobody may read this"
BETWEEN = """
import json, os, subprocess, sys, threading
change = json.loads(os.environ["ATTACK"])
ssh = subprocess.Popen(json.loads(os.environ["BECOME"]), stdin=subprocess.PIPE)
threading.Thread(target=lambda: os._exit(ssh.wait()), daemon=True).start()
words = b""
while data := os.read(0, 65536):
    if change and (words or b"--server" in data):
        words += data
        if b"\\0\\0" not in words:
            continue
        said, rest = words[: words.index(b"\\0\\0")].split(b"\\0"), words[words.index(b"\\0\\0") :]
        at = said.index(b".") if b"." in said else len(said)
        said[at + 1 :] = [each.encode() for each in change.get("path", [])] or said[at + 1 :]
        said += [each.encode() for each in change.get("behind", [])]
        said[at:at] = [each.encode() for each in change.get("before", [])]
        drop = [each.encode() for each in change.get("drop", [])]
        data, change = b"\\0".join(each for each in said if each not in drop) + rest, None
    ssh.stdin.write(data)
    ssh.stdin.flush()
ssh.stdin.close()
os._exit(ssh.wait())
"""


class Attack:
    """serv2 is receiving a pass, whose sender has lost its good manners."""

    def __init__(self, two: Two) -> None:
        self.two = two
        fill(two, 5)
        (two.other / "etc/canary").write_text(f"{CANARY}\n{CANARY}\n")
        (two.other / "etc/canary").chmod(0o600)
        (two.copy / "link").symlink_to("../etc")
        (two.copy / "absolute").symlink_to(two.node / "etc")
        self.evil = two.top / "evil"
        self.tree = self.evil / str(two.data).strip("/")
        self.tree.mkdir(parents=True)
        (self.tree / "file1").write_text("evil")
        self.stolen = two.top / "stolen"
        self.stolen.mkdir()
        self.between = two.top / "between.py"
        self.between.write_text(BETWEEN)
        self.receive()

    def receive(self) -> None:
        """serv2 begins to receive a pass."""
        (self.two.other / "run/rsync/data.apply.conf").unlink(missing_ok=True)
        self.hostile = Hostile(self.two)
        self.hostile.begin()
        self.set = f"--backup-dir={self.hostile.files}"

    def go_on(self) -> None:
        """It waits half a minute for the next word: other tests may have run meanwhile."""
        try:
            self.hostile.say(do="clock")
        except (OSError, ValueError):
            self.hostile.talk.kill()
            self.hostile.talk.wait()
            self.receive()

    def become(self, set_id: str) -> list[str]:
        """What is at the other end: the gate once, which writes the settings; then the rsync that it becomes."""
        kind = "plan" if set_id == rsync.PLAN else "apply"
        settings = f"{self.two.node}/run/rsync/data.{kind}.conf"
        if not os.path.exists(settings.replace(str(self.two.node), str(self.two.other))):
            shell = [*self.hostile.shell, self.hostile.target]
            return [*shell, "peer_gate", "rsync", "data", "1", set_id, "--server", "--daemon", "."]
        return [*self.two.enter(), *daemon._alone(settings)]

    def run(self, *words: str, set_id: str = "", change: Change | None = None) -> "subprocess.CompletedProcess[str]":
        """One run of rsync with these words; `change` is what is done to those that it sends."""
        become = json.dumps(self.become(set_id or self.hostile.set))
        env = {**os.environ, "ATTACK": json.dumps(change or {}), "BECOME": become}
        argv = ["rsync", "-e", f"{sys.executable} -S {self.between}", "--timeout=20", *words]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False, errors="replace")
        assert CANARY not in done.stdout + done.stderr, words
        return done

    def push(self, *words: str, change: Change | None = None) -> "subprocess.CompletedProcess[str]":
        """Send file1 as a pass would, but for these words."""
        plain = ["-rR", "--no-implied-dirs", "-b", self.set]
        return self.run(*plain, *words, f"{self.evil}/.{self.two.data}/file1", "serv2::data/", change=change)

    def outside(self) -> dict[str, Any]:
        """What is on serv2 and on this machine, and none of a sender's business."""
        found: dict[str, Any] = {}
        theirs = [path for name in ("etc", "conf", "state") for path in (self.two.other / name).rglob("*")]
        inside = str(self.two.other / "state/backups")
        here = [Path(name) for name in ("/etc/passwd", "/etc/shadow", "/etc/hosts", "/etc/cron.d", "/etc", "/tmp/evil")]
        here += [self.two.other / "link", self.two.other]
        for path in (*theirs, *here):
            if str(path).startswith(inside) or not os.path.lexists(path):
                continue
            about = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (about.st_ino, about.st_mode, about.st_uid, about.st_size, content)
        return found

    def kept(self) -> bool:
        """file1 is as it was, or its old version is in the set."""
        old = Path(str(self.hostile.files).replace(str(self.two.node), str(self.two.other)))
        saved = old / str(self.two.data).strip("/") / "file1"
        return (self.two.copy / "file1").read_text() == "1" or (saved.exists() and saved.read_text() == "1")


@pytest.fixture(scope="module")
def attacked() -> Iterator[Attack]:
    """One pass for all attacks: each leaves everything as it was, or the one after it fails."""
    with pytest.MonkeyPatch.context() as patch:
        made = two_nodes.__wrapped__(patch)  # type: ignore[attr-defined]
        try:
            started = Attack(next(made))
            yield started
            started.hostile.end()
        finally:
            made.close()


@pytest.fixture
def attack(attacked: Attack) -> Attack:
    """The pass is being received."""
    attacked.go_on()
    return attacked


def refused(attack: Attack, done: "subprocess.CompletedProcess[str]", before: dict[str, Any]) -> None:
    """It came to nothing at all."""
    assert done.returncode != 0
    assert attack.outside() == before
    assert (attack.two.copy / "file1").read_text() == "1"
    assert sorted(path.name for path in attack.two.copy.iterdir()) == [
        paths.SENTINEL, "absolute", *(f"file{number}" for number in range(5)), "first", "link",
    ]  # fmt: skip


def test_the_program_between_changes_nothing_by_itself(attack: Attack) -> None:
    """Else all that follows would be refused for no reason. A plan, so that the file stays what it is."""
    done = attack.run(
        "-nrR", "--no-implied-dirs", f"{attack.evil}/.{attack.two.data}/file1", "serv2::data/", set_id=rsync.PLAN
    )
    assert done.returncode == 0, done.stderr


NODE = "{node}"
FOR_THE_OTHER_SIDE = [
    *("--backup-dir={node}/etc", "--backup-dir={data}/hidden", "--suffix=~", "--implied-dirs"),
    *("--temp-dir={node}/etc", "--partial-dir={node}/etc", "--link-dest={node}/etc", "--compare-dest={node}/etc"),
    *("--copy-dest={node}/etc", "--log-file={node}/etc/log", "--files-from={node}/etc/canary"),
    *("--exclude-from={node}/etc/canary", "--include-from={node}/etc/canary", "--write-batch={node}/etc/b"),
    *("--only-write-batch={node}/etc/b", "--read-batch={node}/etc/canary", "--inplace", "--append"),
    *("--append-verify", "--write-devices", "--copy-devices", "--super", "--fake-super", "--chown=0:0"),
    *("--usermap=*:root", "--chmod=u+s", "--copy-links", "--copy-unsafe-links", "--copy-dirlinks"),
    *("--keep-dirlinks", "--safe-links", "--munge-links", "--remove-source-files", "--delete-excluded"),
    *("--delete-missing-args", "--force", "--ignore-errors", "--daemon", "--config={node}/etc/canary", "--server"),
    *("--sender", "--dparam=path=/", "--no-b", "--fuzzy", "--checksum", "--protect-args", "--secluded-args"),
    *("--iconv=utf8", "-s", "--rsh=sh", "--outbuf=N", "--debug=ALL4", "--itemize-changes", "--stop-after=1"),
    *("--mkpath", "--old-args", "--trust-sender", "--password-file={node}/etc/canary"),
    *("--early-input={node}/etc/canary", "--sockopts=x", "--copy-as=root", "--open-noatime", "--fsync", "-e"),
    *("-elog", "--log-format", "--info", "--max-alloc=1", "-M--server"),
]
"""Options that a client may send with -M, or could with a program of its own: none does more than a pass does."""
HARMLESS = {"--server", "--old-args"}
"""Said twice it says nothing; or it is the client's own affair and never sent."""


@pytest.mark.parametrize(
    ("option", "where"),
    [
        *((option, "before") for option in FOR_THE_OTHER_SIDE),
        *((option, "behind") for option in FOR_THE_OTHER_SIDE[::8]),
    ],
)
def test_an_option_of_the_attackers_own(attack: Attack, option: str, where: str) -> None:
    word = option.format(node=attack.two.node, data=attack.two.data)
    before = attack.outside()
    done = attack.push(change={where: [word]})
    if done.returncode == 0 and option in HARMLESS and where == "before":
        assert attack.kept() and attack.outside() == before
        (attack.two.copy / "file1").write_text("1")
        return
    refused(attack, done, before)


@pytest.mark.parametrize(
    "change",
    [
        {"drop": ["--no-implied-dirs"]},
        {"before": ["--log-format", "--backup-dir"]},
        {"before": ["-e", "--backup-dir"]},
        {"before": ["--backup-dir", "{node}/etc"]},
        {"behind": ["--backup-dir", "{node}/etc"]},
        {"before": ["--partial-dir", "{node}/etc"]},
        {"behind": ["--partial-dir", "../etc"]},
        {"behind": ["data/", "."]},
        {"path": ["data/../../etc/"]},
        {"path": ["data{node}/etc/"]},
        {"path": ["{node}/etc/"]},
        {"path": ["data/link/"]},
        {"path": ["other/"]},
        {"path": ["data/", "--backup-dir={data}/hidden"]},
        {"path": ["-M--x", "data/"]},
        {"before": [".", "--backup-dir={data}/hidden"]},
        {"before": ["--", "-x"]},
        {"before": ["$(touch /tmp/evil)"]},
        {"before": ["`touch /tmp/evil`;'\"; touch /tmp/evil; #"]},
        {"behind": ["*", "--backup-dir={data}/*"]},
    ],
    ids=str,
)
def test_words_in_an_order_that_no_client_has(attack: Attack, change: dict[str, list[str]]) -> None:
    named = {
        key: [word.format(node=attack.two.node, data=attack.two.data) for word in words]
        for key, words in change.items()
    }
    before = attack.outside()
    refused(attack, attack.push(change=named), before)
    assert not os.path.exists("/tmp/evil")


@pytest.mark.parametrize("set_id", ["plan", "set"])
def test_nothing_is_sent_out(attack: Attack, set_id: str) -> None:
    """Pulled instead of pushed, by every name that there is; and no list of what is there."""
    before = attack.outside()
    node, data = attack.two.node, attack.two.data
    told = ["-M--no-implied-dirs", "-M-b", f"-M--backup-dir={attack.hostile.files}"]
    for words in (["-r", *told], ["-rn", *told[:1]], ["--list-only"]):
        for source in ("", f"{node}/etc/canary", f"{data}/link/canary", f"{data}/"):
            set_name = "plan" if set_id == "plan" else attack.hostile.set
            done = attack.run(*words, f"serv2::data{source}", f"{attack.stolen}/", set_id=set_name)
            assert done.returncode != 0
            assert list(attack.stolen.iterdir()) == []
            assert "canary" not in done.stdout
    assert "data" not in attack.run("serv2::", set_id=rsync.PLAN).stdout, "no list of modules"
    assert attack.outside() == before


@pytest.mark.parametrize("rule", [": {node}/etc/canary", ": ../etc/canary", ":- link/canary", ":C"])
def test_a_filter_that_is_to_be_read_there(attack: Attack, rule: str) -> None:
    """rsync prints lines of a filter file that it does not understand: those of another file must not be."""
    before = attack.outside()
    (attack.tree / "sub").mkdir(exist_ok=True)
    named = rule.format(node=attack.two.node)
    words = ["-nrR", "--no-implied-dirs", "--delete", f"--filter={named}"]
    done = attack.run(*words, f"{attack.evil}/.{attack.two.data}/", "serv2::data/", set_id=rsync.PLAN)
    assert "canary:" not in done.stderr + done.stdout
    assert attack.outside() == before
    shutil.rmtree(attack.tree / "sub")


def test_a_plan_tells_nothing_of_files_behind_a_symlink(attack: Attack) -> None:
    """The list of changes says whether size and time are the same: of a file outside, that would be an answer."""
    about = (attack.two.other / "etc/canary").stat()
    (attack.tree / "link").mkdir()
    guess = attack.tree / "link/canary"
    answers = set()
    for size in (about.st_size, about.st_size + 1):
        guess.write_bytes(b"x" * size)
        os.utime(guess, ns=(about.st_mtime_ns, about.st_mtime_ns))
        done = attack.run(
            *("-nrtR", "--no-implied-dirs", "--out-format=%i %n"),
            f"{attack.evil}/.{attack.two.data}/link/canary", "serv2::data/", set_id=rsync.PLAN,
        )  # fmt: skip
        answers.add((done.returncode, done.stdout))
    shutil.rmtree(attack.tree / "link")
    assert len(answers) == 1, answers


def test_every_word_of_the_real_sender_passes(attack: Attack) -> None:
    """The hook knows what our own rsync says; each form that it takes was seen, or is in rsync's options.c."""
    script = daemon.hook("data", "/set/files", ())
    said = [
        *("--server", "-blWHogDtpAXrRSe.iLsfxCIvu", "--log-format=%i", "--timeout=30", "--bwlimit=100"),
        *("--backup-dir", "/set/files", "--max-delete=4", "--delete", "--stats", "-@-1"),
        *("--partial-dir", paths.PARTIAL, "--delay-updates"),
        *("--numeric-ids", "--no-implied-dirs", "--modify-window=-1", "--info=FLIST1", "--no-r", "--delete-during"),
        "--delete-delay",
        *(".", "/"),
    ]
    env = {f"RSYNC_ARG{number}": each for number, each in enumerate(["rsyncd", *said])}
    done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_was_tried(record_property: Any) -> None:
    """The last one, for the last line of the run."""
    count = len(FOR_THE_OTHER_SIDE) + len(FOR_THE_OTHER_SIDE[::8]) + 20 + 26 + 4
    record_property(
        "tried", f"receiving rsync: {count} attacks by a peer with the key; nothing outside read or written"
    )
