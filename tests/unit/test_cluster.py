"""The tasks of cluster: this node as it is, the other one behind a real sshd with its own configuration and state."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import (
    cli,
    config,
    fleet,
    handout,
    model,
    nodestatus,
    ownership,
    parcel,
    paths,
    remote,
    run,
    services,
    state,
    view,
)
from clusterd.commands import cluster
from clusterd.errors import ConfigError, Failed
from clusterd.model import Config
from unit.ssh import Host, at_localhost

if TYPE_CHECKING:
    from unit.conftest import Box

ROOT = Path(__file__).resolve().parents[2]
Run = Callable[..., int]


def peer(standby: str = "") -> view.PeerView:
    """serv2, heard."""
    return view.PeerView("serv2", True, {}, standby, {}, 2, True, True, 0.0, 100.0)


@pytest.fixture
def host(pair: Config, box: "Box", monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """serv2: the same configuration, the real scripts under its name."""
    made = Host(box)
    made.start()
    there = at_localhost(pair)
    monkeypatch.setattr(config, "load", lambda folder, me=None: there)
    monkeypatch.setattr(remote, "CONNECT", 2)
    monkeypatch.setattr(remote, "search_path", lambda: f"{made.bin}:{run.PATH}")
    monkeypatch.setattr(remote, "local_path", lambda: f"{box.bin}:{run.PATH}")
    made.script(box.bin, "serv1", box.conf, "cluster")
    made.script(made.bin, "serv2", made.conf, "cluster")
    copy(box.conf, made.conf)
    yield made
    made.stop()


@pytest.fixture
def call(box: "Box", monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run cluster in this process; its exit code."""
    monkeypatch.setattr(run, "dry_run", False)
    monkeypatch.setattr(sys, "stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115

    def call_it(*words: str) -> int:
        return cluster.main(["--config", str(box.conf), *words])

    return call_it


def copy(source: Path, target: Path) -> None:
    """The configuration, with its modes."""
    shutil.copytree(source, target, dirs_exist_ok=True)
    target.chmod(0o700)


def hold(group: str, epoch: int = 3) -> None:
    """serv1 holds the group."""
    ownership.write(ownership.Record(group, epoch, "serv1", ownership.HELD, state.boot_id(), 0.0))


def seen(**changes: Any) -> view.View:
    """A view of this moment: the peer is heard."""
    facts = {
        "node": "serv1", "boot": state.boot_id(), "until": view.now() + 60, "written": view.now(), "standby": "",
        "reach": 2, "asked": 2, "groups": {}, "peers": {"serv2": peer()}, "conditions": [], "rejected": {},
    }  # fmt: skip
    return view.View(**{**facts, **changes})


def test_list_names_the_tasks_of_the_fabfile(call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--list") == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    fab = subprocess.run(
        [sys.executable, "-m", "fabric", "--list", "--list-format", "json"],
        cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "lib")},
    )  # fmt: skip
    assert sorted(names) == sorted(task["name"] for task in json.loads(fab.stdout)["tasks"])


def test_fabfile_says_the_same_of_each_task() -> None:
    text = (ROOT / "fabfile.py").read_text()
    for name, about in cli.commands(cluster.parser()):
        assert f'"""{about[0].upper()}{about[1:]}."""' in text, name


def test_a_task_of_the_fabfile_has_the_exit_code_of_cluster(box: "Box") -> None:
    fab = [sys.executable, "-m", "fabric", "check"]
    env = {**box.env, "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(fab, cwd=ROOT, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 78, done.stderr


def test_no_task_is_a_wrong_command_line(call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call() == 2
    assert "cluster --list" in capsys.readouterr().err


def test_status_shows_both(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    hold("serv1")
    ownership.enter_standby(ownership.PERSON, "new disk")
    assert call("status") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NODE", "WATCHDOG", "STANDBY", "HOLDS", "SERVICES", "CONFIGURATION"]
    assert lines[1].startswith("serv1  NOT RUNNING  for ")
    assert "by the person: new disk" in lines[1]
    assert "serv1 (epoch 3)" in lines[1]
    assert lines[2].startswith("serv2  NOT RUNNING  no")
    assert "DIFFERS" not in "".join(lines)


def test_status_says_what_is_the_matter_and_whose_configuration_differs(
    host: Host, call: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    view.write(seen(conditions=[["path-down", "serv2/lan", "serv2 is not heard on lan"]]))
    (host.conf / "cluster.conf").write_text((host.conf / "cluster.conf").read_text() + "\n# another\n")
    assert call("status") == 0
    out = capsys.readouterr().out
    assert out.count("DIFFERS") == 2
    assert "serv1: path-down: serv2 is not heard on lan" in out


def test_status_of_a_dead_node_is_a_line_and_an_exit_code(
    host: Host, call: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    host.stop()
    assert call("status") == 1
    out = capsys.readouterr().out
    assert "serv2  does not answer (127.0.0.1: Connection refused)" in out
    assert call("status", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["nodes"]) == ["serv1"]
    assert list(answer["unreachable"]) == ["serv2"]


def test_facts_are_of_this_moment(pair: Config) -> None:
    service = pair.services["smbd"]._replace(kind="command", status=("true",))
    config_ = pair._replace(services={"smbd": service})
    hold("serv1")
    facts = nodestatus.facts(config_)
    assert facts["groups"]["serv1"]["services"] == {"smbd": True}
    assert facts["groups"]["serv2"]["services"] == {}
    assert facts["watchdog"] is False
    view.write(seen())
    assert nodestatus.facts(config_)["peers"] == {"serv2": True}


def test_services_that_do_not_answer_keep_nobody_waiting_one_after_the_other(
    pair: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "STATUS_TIMEOUT", 2.0)
    commands = {f"hangs{number}": ("sleep", "60") for number in range(3)} | {"runs": ("true",), "stopped": ("false",)}
    asked = {
        name: pair.services["smbd"]._replace(name=name, kind="command", status=argv) for name, argv in commands.items()
    }
    hold("serv1")
    began = time.monotonic()
    facts = nodestatus.facts(pair._replace(services=asked))
    assert time.monotonic() - began < 4, "6 s, one after the other"
    hung = dict.fromkeys(["hangs0", "hangs1", "hangs2"])
    assert facts["groups"]["serv1"]["services"] == {**hung, "runs": True, "stopped": False}


def test_a_damaged_record_does_not_hide_the_rest(pair: Config) -> None:
    os.makedirs(paths.GROUPS)
    Path(ownership.path("serv2")).write_text("{")
    facts = nodestatus.facts(pair)
    assert facts["groups"]["serv2"]["held"] is None
    assert facts["groups"]["serv1"]["held"] is False
    assert nodestatus.lines({"serv1": facts}, {})


def test_check_says_every_problem(call: Run, pair: Config, box: "Box", capsys: pytest.CaptureFixture[str]) -> None:
    assert call("check") == 0
    box.edit("cluster.conf", "port = 694", "port = 0")
    box.edit("serv1.conf", "10.1.0.1/24", "10.1.0.300/24")
    assert call("check") == 78
    err = capsys.readouterr().err
    assert "cluster.conf" in err
    assert "serv1.conf" in err


def test_check_reads_the_network_files_as_well(
    call: Run, pair: Config, box: "Box", capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the first takeover is what finds out. A push is not refused for them: that may be what mends it."""
    box.edit("serv1.conf", "driver = iproute2", "driver = ifupdown")
    box.interfaces.write_text("auto eth0\n")
    assert call("check") == 78
    assert f"{box.interfaces}: iface eth0: missing" in capsys.readouterr().err


def test_push_shows_the_differences_asks_and_copies(
    host: Host, call: Run, box: "Box", capsys: pytest.CaptureFixture[str]
) -> None:
    box.edit("cluster.conf", "keep = 30 days", "keep = 60 days")
    box.write("key", "another secret of the nodes\n", mode=0o600)
    (host.conf / "services" / "gone.conf").write_text("home = serv1\n")
    (host.conf / "notes.txt").write_text("not ours\n")
    assert call("push") == 2
    captured = capsys.readouterr()
    assert "-keep = 30 days" in captured.out
    assert "+keep = 60 days" in captured.out
    assert "--- key\ndiffers (a secret: not shown)" in captured.out
    assert "another secret" not in captured.out
    assert "nobody to ask" in captured.err
    assert "30 days" in (host.conf / "cluster.conf").read_text()
    assert call("push", "--yes") == 0
    assert "serv2: changed: cluster.conf, key, services/gone.conf" in capsys.readouterr().out
    assert "60 days" in (host.conf / "cluster.conf").read_text()
    assert (host.conf / "key").read_text() == "another secret of the nodes\n"
    assert (host.conf / "key").stat().st_mode & 0o777 == 0o600
    assert not (host.conf / "services" / "gone.conf").exists()
    assert (host.conf / "notes.txt").exists()
    assert not [name for name in os.listdir(host.conf) if name.startswith(".push")]
    assert call("push", "--yes") == 0
    assert "serv2: the same already" in capsys.readouterr().out


def test_push_to_a_node_that_has_none_yet(host: Host, call: Run, box: "Box") -> None:
    shutil.rmtree(host.conf)
    assert call("push", "--yes") == 0
    assert handout.pack(str(host.conf)) == handout.pack(str(box.conf))
    assert host.conf.stat().st_mode & 0o777 == 0o700


def test_push_of_a_bad_configuration_asks_nobody(host: Host, call: Run, box: "Box") -> None:
    box.edit("cluster.conf", "keep = 30 days", "keep = for ever")
    host.stop()
    assert call("push", "--yes") == 78


def test_push_dry_run_changes_nothing(host: Host, call: Run, box: "Box", capsys: pytest.CaptureFixture[str]) -> None:
    box.edit("cluster.conf", "keep = 30 days", "keep = 60 days")
    assert call("--dry-run", "push") == 0
    assert "would run: ssh root@serv2" in capsys.readouterr().out
    assert "30 days" in (host.conf / "cluster.conf").read_text()


def test_push_with_a_dead_node_says_so(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    host.stop()
    assert call("push", "--yes") == 1
    assert "serv2: does not answer" in capsys.readouterr().out


def test_what_the_other_program_refuses_gets_not_into_place(pair: Config, tmp_path: Path) -> None:
    target = tmp_path / "conf"
    copy(Path(pair.folder), target)
    before = handout.pack(str(target))
    packed = handout.pack(pair.folder)
    mode, content = packed["cluster.conf"]
    packed["cluster.conf"] = (mode, content[:40])
    with pytest.raises(ConfigError):
        handout.accept(str(target), packed)
    assert handout.pack(str(target)) == before
    assert not [name for name in os.listdir(target) if name.startswith(".push")]


@pytest.mark.parametrize("path", ["/etc/passwd", "../passwd", "a/../../b", ".hidden", "services/.x", ""])
def test_what_is_packed_stays_in_the_folder(pair: Config, tmp_path: Path, path: str) -> None:
    packed = {**handout.pack(pair.folder), path: (0o644, "")}
    with pytest.raises(ConfigError, match="not a file of the configuration"):
        handout.accept(str(tmp_path / "conf"), packed)


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": ["x", 1]}'])
def test_what_is_no_packed_configuration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not a packed configuration"):
        handout.read(text)


def test_modes_alone_are_a_difference() -> None:
    (change,) = handout.compare({"key": (0o644, "eA==")}, {"key": (0o600, "eA==")})
    assert change.text == "--- key\nmode 0644 becomes 0600\n"


@pytest.mark.parametrize("cause", ["", "program"])
def test_standby_hands_over_first(
    pair: Config, box: "Box", call: Run, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    monkeypatch.setattr(remote, "local_path", lambda: f"{box.bin}:{run.PATH}")
    box.program("release", f'echo "$*" >> {box.root}/calls; test ! -e {paths.STANDBY}')
    hold("serv1")
    view.write(seen(peers={"serv2": peer(cause)}))
    assert call("standby", "serv1", "--reason", "new disk") == 0
    assert (box.root / "calls").read_text() == f"--config {box.conf} serv1 --to serv2 --standby new disk --person\n"
    lock = ownership.standby()
    assert lock
    assert (lock.cause, lock.reason) == ("person", "new disk")


def test_standby_is_not_entered_if_the_hand_over_fails(
    pair: Config, box: "Box", call: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(remote, "local_path", lambda: f"{box.bin}:{run.PATH}")
    box.program("release", "echo smbd does not stop >&2; exit 1")
    hold("serv1")
    view.write(seen())
    assert call("standby", "serv1") == 1
    assert "smbd does not stop" in capsys.readouterr().err
    assert ownership.standby() is None


@pytest.mark.parametrize("there", [None, "person"])
def test_standby_works_when_the_peer_is_dead_or_may_not(
    pair: Config, box: "Box", call: Run, capsys: pytest.CaptureFixture[str], there: str | None
) -> None:
    hold("serv1")
    if there:
        view.write(seen(peers={"serv2": peer(there)}))
    assert call("standby", "serv1") == 0
    assert "goes on serving serv1 until another node can take it" in capsys.readouterr().out
    assert ownership.standby()
    assert call("unstandby", "serv1") == 0
    assert ownership.standby() is None
    assert call("unstandby", "serv1") == 0


def test_standby_there_and_back(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("standby", "serv2", "--reason", "it's hot; rm -rf") == 0
    assert "serv2: in standby: it's hot; rm -rf" in capsys.readouterr().out
    lock = json.loads((host.root / "state" / "standby").read_text())
    assert (lock["cause"], lock["reason"]) == ("person", "it's hot; rm -rf")
    assert ownership.standby() is None
    assert call("unstandby", "serv2") == 0
    assert not (host.root / "state" / "standby").exists()


def test_dry_run_sets_no_lock(pair: Config, call: Run) -> None:
    assert call("standby", "serv1", "--dry-run") == 0
    assert ownership.standby() is None


def test_an_unknown_node_is_a_wrong_command_line(pair: Config, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("standby", "serv9") == 2
    assert "serv9: no such node; there are serv1, serv2" in capsys.readouterr().err


def test_move_asks_the_holder(host: Host, call: Run, box: "Box", capsys: pytest.CaptureFixture[str]) -> None:
    box.program("release", 'echo "released $3 $4 $5"')
    hold("serv1")
    assert call("move", "serv1", "serv2") == 0
    assert "serv1: released serv1 --to serv2" in capsys.readouterr().out
    assert call("move", "serv1", "serv1") == 0
    assert "serv1 holds it already" in capsys.readouterr().out


def test_move_of_what_nobody_holds_moves_nothing(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("move", "serv1", "serv2") == 3
    host.stop()
    assert call("move", "serv1", "serv2") == 3
    assert "held by no node that answers (serv2: does not answer" in capsys.readouterr().err


@pytest.fixture
def agent(box: "Box") -> Path:
    """serv1, with a fence agent that remembers what it is told; returns where."""
    states = box.root / "plug"
    states.write_text("on")
    box.program(
        "fence_test",
        f"""action=$(sed -n s/^action=//p)
echo $action >> {box.root}/actions
case $action in
on|off) echo $action > {states} ;;
status) case $(cat {states}) in on) exit 0 ;; off) exit 2 ;; *) echo "the switch does not answer" >&2; exit 1 ;; esac ;;
monitor) grep -q o {states} ;;
esac""",
    )
    box.edit("cluster.conf", "agent = none", "agent = fence_test")
    return states


def test_fence_by_hand(call: Run, pair: Config, box: "Box", agent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = []
    for words, said in (
        ((), "on"),
        (("--action", "off", "-y"), "off"),
        ((), "off"),
        (("--action", "on"), "on"),
        (("--action", "reboot", "--yes"), "on"),
        (("--action", "monitor"), "the agent reaches its device"),
    ):
        assert call("fence", "serv2", *words) == 0
        assert capsys.readouterr().out == f"serv2: {said}\n"
        done.append((box.root / "actions").read_text().split())
        (box.root / "actions").unlink()
    assert done == [
        ["status"], ["off", "status"], ["status"], ["on", "status"], ["off", "status", "on", "status"], ["monitor"]
    ]  # fmt: skip


def test_fence_by_hand_that_fails(
    call: Run, pair: Config, box: "Box", agent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.write_text("?")
    for action, code, text in (
        ("status", 3, "whether serv2 is on: fence_test: exit 1: the switch does not answer"),
        ("monitor", 1, "the agent: fence_test: exit 1"),
    ):
        assert call("fence", "serv2", "--action", action) == code
        assert capsys.readouterr().err == f"cluster: {text}\n"
    box.program("fence_test", "echo 'no route' >&2; exit 1")
    for action, text in (
        ("off", "not fenced: serv2 could not be switched off"),
        ("on", "serv2 could not be switched on"),
    ):
        assert call("fence", "serv2", "--yes", "--action", action) == 1
        assert capsys.readouterr().err == f"cluster: {text}: fence_test: exit 1: no route\n"


def test_fence_asks_first_and_never_cuts_its_own_power(
    call: Run, pair: Config, box: "Box", agent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    me = model.hostname()
    for action in ("off", "reboot"):
        assert call("fence", "serv2", "--action", action) == 2
        assert "--yes answers yes" in capsys.readouterr().err
        assert call("fence", me, "--action", action, "--yes") == 2
        assert f"{me} is this node" in capsys.readouterr().err
    assert call("fence", "serv9") == 2
    assert call("--dry-run", "fence", "serv2", "--action", "off") == 0
    assert not (box.root / "actions").exists()


def test_fence_without_an_agent(call: Run, pair: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fence", "serv2") == 2
    assert "there is no fence agent" in capsys.readouterr().err


def test_mirror_goes_to_the_holder(host: Host, call: Run, box: "Box", capsys: pytest.CaptureFixture[str]) -> None:
    box.program("mirror_service", 'shift 2; echo "here $*"')
    host.stand_in("mirror_service", 'shift 2; echo "there $*"; echo trouble >&2; exit 1')
    hold("serv1")
    state.write(
        f"{host.root}/state/groups/serv2.json",
        ownership.Record("serv2", 1, "serv2", ownership.HELD, state.boot_id(), 0.0)._asdict(),
    )
    assert call("mirror", "smbd", "web") == 1
    captured = capsys.readouterr()
    assert captured.out == "serv1: here smbd\nserv2: there web\n"
    assert "serv2: trouble" in captured.err
    assert call("mirror") == 2
    assert call("mirror", "nonsense") == 2


def test_run_prefixes_every_line_with_its_node(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("run", "--", "echo one; echo two; exit 5") == 1
    captured = capsys.readouterr()
    assert captured.out == "serv1: one\nserv1: two\nserv2: one\nserv2: two\n"
    assert call("run") == 2


def test_logs_are_merged_by_time(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def event(when: str, node: str) -> str:
        return json.dumps({"time": when, "node": node, "level": "info", "event": "e", "text": f"at {when}"}) + "\n"

    there = host.root / "events"
    there.write_text(event("2026-01-01T00:00:02+0000", "serv2"))
    host.stand_in("tail", f"cat {there}")
    Path(paths.EVENTS).write_text(
        "cut short\n" + event("2026-01-01T00:00:01+0000", "serv1") + event("2026-01-01T00:00:03+0000", "serv1")
    )
    assert call("logs", "-n", "5") == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["serv1", "serv2", "serv1"]


def test_logs_of_the_night_when_summer_time_ends(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """And what a damaged disk left in their place is no event."""
    times = ["2026-10-25T02:59:59.000+02:00", "2026-10-25T02:00:01.000+01:00", "2026-10-25T02:00:02.000+01:00"]
    facts = {"node": "serv1", "level": "info", "event": "e"}
    lines = [json.dumps({"time": when, **facts, "text": "it"}) for when in times]
    odd = ["null", "[]", "{}", json.dumps({"time": "yesterday", **facts}), json.dumps({"time": 7, **facts})]
    host.stand_in("tail", "true")
    Path(paths.EVENTS).write_text("\n".join([lines[1], *odd, lines[2], lines[0]]) + "\n")
    assert call("logs") == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == times


def test_logs_of_one_millisecond(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    facts = {"time": "2026-01-01T00:00:01.000+00:00", "node": "serv1", "level": "info", "event": "e"}
    lines = [
        json.dumps({**facts, "text": text, "uptime": uptime}) for text, uptime in (("b", 2.000002), ("a", 2.000001))
    ]
    host.stand_in("tail", "true")
    Path(paths.EVENTS).write_text("\n".join([*lines, json.dumps({**facts, "text": "odd", "uptime": "long"})]) + "\n")
    assert call("logs") == 0
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ["a", "b"]


@pytest.mark.parametrize("rotated", ["events.jsonl.1", "events.jsonl-20260101"])
def test_logs_after_the_file_was_rotated(
    host: Host, call: Run, capsys: pytest.CaptureFixture[str], rotated: str
) -> None:
    """As logrotate names the last one, with `dateext` or without; those that are compressed are not read."""
    facts = {"node": "serv1", "level": "info", "event": "e"}
    lines = [
        json.dumps({"time": f"2026-01-01T00:00:0{second}+00:00", **facts, "text": str(second)}) for second in range(6)
    ]
    there = host.root / "log"
    shutil.rmtree(there, ignore_errors=True)
    there.mkdir()
    here = Path(paths.LOG)
    (here / rotated).write_text("\n".join(lines[:4]) + "\n")
    for name in ("events.jsonl.2.gz", "events.jsonl-20251201.gz", "other.jsonl.1"):
        (here / name).write_text(lines[5] + "\n")
    host.stand_in("find", f'shift; exec /usr/bin/find {there}/ "$@"')
    assert call("logs", "-n2") == 0

    def said() -> list[str]:
        captured = capsys.readouterr()
        assert captured.err == ""
        return [line.split()[-1] for line in captured.out.splitlines()]

    assert said() == ["2", "3"], "nothing new yet"
    (here / "events.jsonl").write_text(lines[4] + "\n")
    assert call("logs", "-n2") == 0
    assert said() == ["3", "4"]
    (here / rotated).unlink()
    (there / "events.jsonl").write_text(lines[5] + "\n")
    assert call("logs") == 0
    assert said() == ["4", "5"]


def test_confirm_takes_only_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("builtins.input", lambda _: "Y")
    fleet.confirm("?", "--yes")

    def ended(_: str) -> str:
        raise EOFError

    for answer in (lambda _: "", ended):
        monkeypatch.setattr("builtins.input", answer)
        with pytest.raises(Failed, match="nothing was changed"):
            fleet.confirm("?", "--yes")


def test_a_checkout_is_not_carried_to_another_node(host: Host, call: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("install", "serv2") == 1
    assert "runs from a checkout" in capsys.readouterr().err


def test_another_python_there_is_refused() -> None:
    with pytest.raises(Failed, match="serv2 has another Python or machine"):
        parcel.check("serv2", "3 9 riscv64 glibc 2.31\n")
