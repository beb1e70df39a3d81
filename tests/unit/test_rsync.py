"""What is said to rsync and what it says; the pure part, with the real rsync where its rules matter."""

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusterd import model, rsync

if TYPE_CHECKING:
    from unit.conftest import Box

PAIR = Path(__file__).resolve().parents[2] / "conf"


def service(*paths: str, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> model.Service:
    return model.Service(
        *("data", "serv1", 50, "none", "", (), (), (), 60.0, 300.0),
        *(paths, include, exclude, False, 0, "10 %", (), ()),
    )


def test_every_line_of_the_list_of_changes() -> None:
    output = rsync.parse(
        b"clusterd *deleting   srv/a/gone/\n"
        b"clusterd *deleting   srv/a/two\\#012lines\n"
        b"clusterd <f.st...... srv/a/changed\n"
        b"clusterd <f+++++++++ srv/a/new\n"
        b"clusterd .d..t...... srv/a/\n"
        b"clusterd .f...p..... srv/a/mode\n"
        b"clusterd cL..t...... srv/a/link\n"
        b"clusterd hf..t...... srv/a/\\#377\\#134#012\n"
        b"          1,234  12%    1.18MB/s    0:00:01\r          2,345  24%\r\n"
        b"a message\n"
        b"Number of files: 50501 (reg: 50000, dir: 501)\n"
        b"Total transferred file size: 12 bytes\n"
        b"Total bytes sent: 4711\n"
    )
    assert [(item.path, item.folder) for item in output.items if item.deleted] == [
        ("/srv/a/gone", True),
        ("/srv/a/two\nlines", False),
    ]
    assert [item.path for item in output.items if item.replaced] == [
        "/srv/a/changed",
        "/srv/a/link",
        os.fsdecode(b"/srv/a/\xff\\#012"),
    ]
    assert [item.path for item in output.items if item.sent] == ["/srv/a/changed", "/srv/a/new"]
    assert (output.entries, output.sent) == (50501, 4711)
    assert "a message" in output.other


@given(st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name))
def test_any_name_comes_back(name: bytes) -> None:
    escaped = b""
    for index, byte in enumerate(name):
        literal = 32 <= byte < 127
        if byte == 0x5C and name[index + 1 : index + 2] == b"#" and name[index + 2 : index + 5].isdigit():
            literal = False
        escaped += bytes([byte]) if literal else b"\\#%03o" % byte
    assert os.fsencode(rsync.unescape(escaped)) == name


def test_a_missing_or_odd_output_is_nothing() -> None:
    assert rsync.parse(b"") == rsync.Output()
    assert rsync.parse(b"\xff\xfe\n\n").items == ()


@pytest.mark.parametrize(
    ("code", "stderr", "words"),
    [
        (23, b'rsync: [sender] read errors mapping "/x": Input/output error (5)\n', "could not be read or written"),
        (24, b'file has vanished: "/x"\n', "vanished"),
        (25, b"Deletions stopped due to --max-delete limit\n", "more files would have been deleted"),
        (11, b'rsync: write failed on "/x": No space left on device (28)\n', "full"),
        (12, b"rsync: connection unexpectedly closed\n", "middle of the transfer"),
        (30, b"", "nothing came from the peer for too long"),
        (255, b"ssh: connect to host x port 22: Connection refused\n", "ssh could not connect"),
        (99, b"", "exit 99"),
        (None, b"", "killed"),
    ],
)
def test_exit_codes_in_words(code: int | None, stderr: bytes, words: str) -> None:
    text = rsync.explain(code, stderr)
    assert words in text
    assert "\n" not in text


def test_vanished_files_are_named() -> None:
    said = b'file has vanished: "/srv/a \\#303"b"\nrsync warning: some files vanished (code 24)\n'
    assert rsync.vanished(said) == [os.fsdecode(b'/srv/a \xc3"b')]


def listing(top: Path, rules: list[str]) -> set[str]:
    """What the real rsync takes from `top` under the rules."""
    argv = ["rsync", "-r", "--list-only", *(f"--filter={rule}" for rule in rules), f"{top}/"]
    done = subprocess.run(argv, check=True, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    return {rsync.unescape(line.split(maxsplit=4)[4]) for line in done.stdout.splitlines()} - {"."}


def test_patterns_are_anchored_at_the_mirrored_folder(tmp_path: Path) -> None:
    for name in ("srv/a/cache/x", "srv/a/b/cache/x", "srv/a/lost+found/x", "srv/a/keep.tmp", "srv/a/no.tmp", "srv/c/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    made = service("/srv/a/", exclude=("/cache/", "*.tmp", "/srv/a/b/cache/"), include=("keep.tmp",))
    found = listing(tmp_path, rsync.filters(made))
    assert found == {"srv", "srv/a", "srv/a/b", "srv/a/keep.tmp", "srv/c", "srv/c/x"}


@pytest.mark.parametrize(
    "name", ["plain", "with space", "st*r", "qu?stion", "[bracket]", "back\\slash", "b\\*th", " x "]
)
def test_a_path_is_taken_literally_by_the_daemon_rules(tmp_path: Path, name: str) -> None:
    others = ["other", "stXXr", "quXstion", "b", "bracket", "backslash", "b*th", "x"]
    for folder in {name, *others}:
        (tmp_path / "top" / folder).mkdir(parents=True)
        (tmp_path / "top" / folder / "file").write_text("")
    rules = tmp_path / "rules"
    rules.write_text(rsync.daemon_rules(service(f"/top/{name}/"), None))
    done = subprocess.run(
        ["rsync", "-r", "--list-only", f"--exclude-from={rules}", f"{tmp_path}/"],
        check=True,
        capture_output=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    found = {line[46:].decode() for line in done.stdout.splitlines()} - {"."}
    assert found == {"top", f"top/{name}", f"top/{name}/file"}


def test_the_command_lines(box: "Box") -> None:
    made = service("/srv/a/", "/etc/one.conf")
    plan = rsync.argv(made, "serv2", ["ssh", "-o", "A=b c"], 3, gate="peer_gate", timeout=29.5)
    assert "--dry-run" in plan
    assert "--backup" not in plan
    assert plan[-4:] == ["--", "/srv/a/", "/etc/one.conf", "serv2::data/"]
    assert "--rsync-path=peer_gate rsync data 3 plan" in plan
    assert "--timeout=30" in plan
    real = rsync.argv(
        made._replace(whole_file=True, bandwidth=100),
        "serv2",
        ["ssh"],
        3,
        gate="/usr/local/sbin/peer_gate",
        timeout=30,
        backup=("SET", "/b/SET/files"),
        max_delete=7,
        progress=True,
    )
    for word in ("--backup-dir=/b/SET/files", "--max-delete=7", "--delay-updates", "--bwlimit=100", "--whole-file"):
        assert word in real
    assert "--partial-dir=.clusterd-partial" in real
    assert "--delete-delay" in real
    for command in (plan, real):
        assert "--filter=-p .clusterd-partial/" in command, "else the plan is not what is done"
    assert "--rsync-path=/usr/local/sbin/peer_gate rsync data 3 SET" in real
    assert "--dry-run" not in real


def test_what_the_daemon_logged_says_more_than_a_broken_pipe() -> None:
    log = (
        b"2026/11/28 22:44:20 [147] connect from UNDETERMINED (192.168.111.1)\n"
        b'2026/11/28 22:44:20 [147] rsync: [receiver] write failed on "/srv/data/big": No space left on device (28)\n'
        b"2026/11/28 22:44:20 [147] rsync error: error in file IO (code 11) at receiver.c(380) [receiver=3.2.7]\n"
    )
    said = rsync.complaints(log)
    assert said.startswith(b"rsync: [receiver] write failed")
    assert rsync.explain(12, said + b"\nrsync: [sender] write error: Broken pipe (32)\n") == (
        "the disk of the peer, or its quota, is full "
        '(rsync: [receiver] write failed on "/srv/data/big": No space left on device (28))'
    )
    assert rsync.complaints(b"2026/11/28 22:44:20 [147] receiving file list\n") == b""
