"""--json and --dry-run, of every script and every task of cluster: one JSON value on stdout, and nothing changed."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import cli, ownership, run, state
from clusterd.commands import cluster
from clusterd.model import Config
from unit.ssh import Host
from unit.test_cli import SCRIPTS
from unit.test_cluster import call as call
from unit.test_cluster import hold
from unit.test_cluster import host as host

if TYPE_CHECKING:
    from pathlib import Path

    from unit.conftest import Box

Run = Callable[..., int]

CALLS: dict[str, list[tuple[list[str], int, set[str]]]] = {
    "check_peer": [([], 3, set()), (["serv9"], 3, {"error", "exit"})],
    "cluster": [(["--list"], 0, {"tasks"}), (["check"], 0, {"nodes", "services", "problems"}), ([], 2, {"error"})],
    "mirror_service": [
        (["--due"], 0, {"mirrored"}),
        (["smbd"], 77, set()),
        (["--accept-mounts", "smbd"], 0, {"accepted"}),
        (["nothing"], 2, {"error", "exit"}),
    ],
    "peer_gate": [
        (["clock"], 0, {"clock"}),
        (["ready", "serv1"], 0, {"ready", "epoch"}),
        (["status"], 3, {"error", "exit"}),
        (["--dry-run", "acquire", "serv2", "3"], 0, {"would"}),
    ],
    "purge_backups": [
        ([], 0, set()),
        (["--purge"], 0, {"deleted", "in_use"}),
        (["--purge", "--dry-run"], 0, {"would_delete"}),
        (["--confirm", "--all"], 0, set()),
        (["--confirm", "--all", "--dry-run"], 0, {"would_confirm"}),
        (["--show", "x"], 2, {"error"}),
    ],
    "release": [(["serv1"], 77, {"error", "exit"}), (["--dry-run", "serv1"], 77, {"error", "exit"})],
    "restore_backup": [(["x"], 2, {"error", "exit"})],
    "takeover": [(["serv1"], 3, {"error", "exit"}), (["serv9"], 2, {"error", "exit"})],
    "timesync": [(["--dry-run"], 0, {"offset", "action", "servers"})],
    "watchdog": [(["--dry-run"], 0, {"running", "started", "said"})],
}
"""What each script is asked, its exit code, and keys of the object that it answers; none: a list, or an object."""

TASKS = {
    "backups": [],
    "check": [],
    "fence": ["serv2"],
    "install": ["serv2"],
    "logs": [],
    "mirror": ["--all"],
    "move": ["serv1", "serv2"],
    "push": ["--yes"],
    "rotate-key": [],
    "run": ["--", "echo hello"],
    "standby": ["serv2"],
    "status": [],
    "unstandby": ["serv2"],
}


def everything(*folders: "Path") -> dict[str, str]:
    """All files below, but what is there to be written at any time: the log, the cache and the locks' files."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.is_file() and not path.match("*/log/*") and not path.match("*/run/*"):
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def test_no_script_and_no_task_is_missing_here() -> None:
    assert sorted(CALLS) == SCRIPTS
    assert sorted(TASKS) == sorted(name for name, _ in cli.commands(cluster.parser()))


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_answers_with_one_json_value(pair: Config, box: "Box", name: str) -> None:
    text = (box.conf / "cluster.conf").read_text()
    (servers,) = (line for line in text.splitlines() if line.startswith("servers = "))
    box.edit("cluster.conf", servers, "servers = ,")
    box.edit("cluster.conf", "mail = root  ", 'mail = ""  ')
    for words, code, keys in CALLS[name]:
        done = box.script(name, "--json", *words)
        assert done.returncode == code, (words, done)
        answer = json.loads(done.stdout)
        assert not keys or keys <= set(answer), (words, answer)
        assert "error" not in keys or answer["exit"] == code


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_answers_with_one_json_value(
    host: Host, call: Run, box: "Box", capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for script in ("release", "mirror_service", "purge_backups"):
        box.program(script, """echo '{"asked": "'"$*"'"}'""")
        host.stand_in(script, """echo '{"asked": "'"$*"'"}'""")
    hold("serv1")
    record = ownership.Record("serv2", 1, "serv2", ownership.HELD, state.boot_id(), 0.0)
    state.write(f"{host.root}/state/groups/serv2.json", record._asdict())
    box.edit("cluster.conf", "keep = 30 days", "keep = 60 days")
    before = everything(box.root)
    code = call(name, "--json", "--dry-run", *TASKS[name])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert "error" not in answer or code == answer["exit"]
    assert everything(box.root) == before, "a dry run changes nothing"
    code = call("--json", name, *TASKS[name])
    answer = json.loads(capsys.readouterr().out)
    assert "error" not in answer or code == answer["exit"]
    if name in ("mirror", "move", "backups"):
        assert "--json" in answer["nodes"]["serv1"]["answer"]["asked"], "in its own words, not as text in text"
    if name == "push":
        assert answer["nodes"] == {"serv2": {"differs": ["cluster.conf"], "copied": True}}
    if name == "run":
        assert answer["nodes"]["serv2"] == {"exit": 0, "stdout": "hello\n", "stderr": ""}


def test_a_node_that_does_not_answer_is_in_the_answer(
    host: Host, call: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    host.stop()
    assert call("run", "--json", "--", "true") == 1
    nodes: dict[str, Any] = json.loads(capsys.readouterr().out)["nodes"]
    assert nodes["serv1"]["exit"] == 0
    assert nodes["serv2"]["exit"] is None and "does not answer" in nodes["serv2"]["error"]


def test_lines_for_people_do_not_get_between(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither what is printed on the way nor what --dry-run shows of commands."""

    def handler(_: object) -> int:
        print("a line")
        run.show(["ip", "link"])
        cli.answer(first=1)
        cli.answer(group="serv1")
        return 1

    assert cli.main(cli.parser("thing", "A test."), handler, ["--json"]) == 1
    said = ["a line", "would run: ip link"]
    assert json.loads(capsys.readouterr().out) == {"group": "serv1", "said": said}
    assert cli.main(cli.parser("thing", "A test."), handler, []) == 1
    assert capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize(
    ("answer", "said", "code", "error", "whole"),
    [
        (None, [], 0, "", {"exit": 0}),
        (None, ["x"], 1, "", {"exit": 1, "said": ["x"]}),
        ({"a": 1}, [], 0, "", {"a": 1}),
        ({"a": 1}, ["x"], 78, "bad", {"a": 1, "said": ["x"], "error": "bad", "exit": 78}),
        ([1], [], 0, "", [1]),
        ([1], ["x"], 0, "", {"answer": [1], "said": ["x"]}),
    ],
)
def test_what_an_answer_is_made_of(answer: Any, said: list[str], code: int, error: str, whole: Any) -> None:
    assert cli.whole(answer, said, code, error) == whole


def test_the_terminal_is_asked_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from clusterd import fleet

    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: "y")
    fleet.confirm("Copy to serv2?", "--yes")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "Copy to serv2? [y/N] ")
