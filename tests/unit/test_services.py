"""Starting and stopping what there is to run: real processes, real exit codes, stand-ins for systemctl only."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import lock, paths, run, services, state, view
from clusterd.errors import Failed
from clusterd.model import Service

if TYPE_CHECKING:
    from unit.conftest import Box

DAEMON = """#!/bin/sh
# An init script as they are: its daemon keeps the output open.
case $1 in
start) [ -e {pid} ] && kill -0 $(cat {pid}) 2>/dev/null && {{ echo already running; exit 1; }}
    sh -c 'echo "starting"; while sleep 0.05; do echo tick; done' & echo $! > {pid} ;;
stop) [ -e {pid} ] || {{ echo not running; exit 1; }}
    kill $(cat {pid}); rm -f {pid} ;;
status) [ -e {pid} ] || exit 3; kill -0 $(cat {pid}) 2>/dev/null || exit 1 ;;
esac
"""

LINGERER = """#!/bin/sh
# Its daemon takes {ends} s to end. A stop waits for that; then it tidies up, whatever has been started meanwhile.
case $1 in
start) [ -e {pid} ] && exit 0
    sh -c 'trap "sleep {ends}; rm -f {pid}; exit" TERM; echo $$ > {pid}; while sleep 0.05; do :; done' &
    while ! [ -e {pid} ]; do sleep 0.02; done ;;
stop) [ -e {pid} ] || exit 0
    kill $(cat {pid}); touch {pid}.told; while [ -e {pid} ]; do sleep 0.02; done; sleep {tidies}; rm -f {pid} ;;
status|monitor) [ -e {pid} ] || exit {down} ;;
esac
"""
DOWN = {"sysv": 3, "command": 3, "ocf": 7}


def service(name: str = "thing", **changes: Any) -> Service:
    """A service of kind command with nothing to mirror."""
    made = Service(
        name=name,
        home="serv1",
        order=10,
        kind="command",
        unit="",
        start=(),
        stop=(),
        status=(),
        timeout=10.0,
        every=None,
        paths=(),
        include=(),
        exclude=(),
        whole_file=False,
        bandwidth=0,
        max_delete="10 %",
        before=(),
        after=(),
    )
    return made._replace(**changes)


def sh(text: str) -> tuple[str, ...]:
    """An argument vector that runs `text`."""
    return "sh", "-c", text


def events() -> list[dict[str, Any]]:
    """What events.jsonl has."""
    with open(paths.EVENTS, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def sysv(box: "Box", monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A real init script with a real daemon, ended with the test."""
    monkeypatch.setattr(services, "INIT_D", str(box.bin))
    pid = box.root / "pid"
    box.program("daemon", DAEMON.format(pid=pid))
    yield service("daemon", kind="sysv", unit="daemon")
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGKILL)


class Lingerer:
    """A service of one of the kinds that clusterd itself waits for, whose daemon takes its time to end."""

    def __init__(self, box: "Box", kind: str, ends: float, timeout: float, tidies: float = 0) -> None:
        self.pid = box.root / "pid"
        self.told = box.root / "pid.told"
        """Its stop command has told it to end."""
        text = LINGERER.format(pid=self.pid, ends=ends, tidies=tidies, down=DOWN[kind])
        path = str(box.program("lingerer", text))
        words = {action: (path, action) for action in ("start", "stop", "status")} if kind == "command" else {}
        unit = {"sysv": "lingerer", "command": "", "ocf": path}[kind]
        self.service = service("lingerer", kind=kind, unit=unit, timeout=timeout, **words)

    def process(self) -> int:
        """The daemon's process id; 0 if it does not run."""
        try:
            return int(self.pid.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def end(self) -> None:
        """Whatever came of it, nothing runs any more."""
        if process := self.process():
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def lingerer(box: "Box", monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Lingerer]]:
    """Makes the service; its daemon is ended with the test."""
    monkeypatch.setattr(services, "INIT_D", str(box.bin))
    made: list[Lingerer] = []

    def make(kind: str, ends: float, timeout: float, tidies: float = 0) -> Lingerer:
        made.append(Lingerer(box, kind, ends, timeout, tidies))
        services.start(made[-1].service)
        return made[-1]

    yield make
    for each in made:
        each.end()


def marked() -> list[str]:
    """The services of which a stop has not ended well."""
    return sorted(os.listdir(paths.STOPPING)) if os.path.isdir(paths.STOPPING) else []


@pytest.mark.parametrize(("kind", "ends", "timeout"), [("sysv", 4, 2), ("command", 4, 2), ("ocf", 4, 2)])
def test_what_was_told_to_stop_and_is_slow_runs_again_after_a_start(
    lingerer: Callable[..., Lingerer], kind: str, ends: float, timeout: float
) -> None:
    slow = lingerer(kind, ends, timeout)
    before = slow.process()
    with pytest.raises(Failed, match="stop failed: timed out"):
        services.stop(slow.service)
    assert marked() == ["lingerer"]
    begun = time.monotonic()
    assert services.start_all([slow.service])[0].ok
    assert marked() == []
    time.sleep(max(begun + ends + 1 - time.monotonic(), 0))
    assert services.status(slow.service) is True
    assert slow.process() != before


STOP = "import sys; from clusterd import model, services; services.stop(model.Service(**eval(sys.argv[1])))"


def stop_elsewhere(made: Service) -> "subprocess.Popen[bytes]":
    """A script that stops the service; its stop has begun when this returns."""
    process = subprocess.Popen([sys.executable, "-c", STOP, repr(made._asdict())])
    end_at = time.monotonic() + 30
    while not lock.held("stop-lingerer") and time.monotonic() < end_at:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("told", [True, False])
def test_a_stop_whose_script_was_killed_goes_on_and_is_waited_for(
    lingerer: Callable[..., Lingerer], told: bool
) -> None:
    """Its last act takes from a service that is started too early what says that it runs."""
    slow = lingerer("command", 1, 30, tidies=1)
    made = slow.service if told else slow.service._replace(status=())
    process = stop_elsewhere(made)
    end_at = time.monotonic() + 30
    while not slow.told.exists() and time.monotonic() < end_at:
        time.sleep(0.02)
    process.kill()
    process.wait()
    before = slow.process()
    services.start(made)
    assert (marked(), lock.held("stop-lingerer")) == ([], False)
    time.sleep(1.5)
    assert services.status(slow.service) is True
    assert slow.process() not in (0, before)


@pytest.mark.parametrize(("refusal", "least"), [("exit 1", 0.6), ("sleep 1.6; exit 1", 1.6), ("sleep 60", 2)])
def test_what_runs_on_is_left_running_after_as_long_as_its_stop_took(
    box: "Box", monkeypatch: pytest.MonkeyPatch, refusal: str, least: float
) -> None:
    monkeypatch.setattr(services, "ENDING", 0.6)
    made = service(start=sh("exit 1"), stop=sh(refusal), status=sh("true"), timeout=2.0)
    begun = time.monotonic()
    with pytest.raises(Failed, match="stop failed"):
        services.stop(made)
    services.start(made)
    assert least < time.monotonic() - begun < 2 * least + 10
    assert marked() == []
    assert [event["event"] for event in events()] == ["service-ending"]


def test_a_mark_that_says_nothing_is_a_mark(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "ENDING", 0.1)
    for text in ("", "null", "[]"):
        state.write_text(f"{paths.STOPPING}/thing", text, durable=False)
        begun = time.monotonic()
        services.start(service(status=sh("true"), timeout=0.5))
        assert time.monotonic() - begun > 0.5 and marked() == []


def test_a_stop_that_was_long_ago_keeps_nobody_waiting(box: "Box", monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that would not stop when its group was lost: the group comes back an hour later."""
    made = service(status=sh("true"), stop=sh("exit 1"), timeout=30)
    with pytest.raises(Failed, match="stop failed"):
        services.stop(made)
    now = view.now()
    monkeypatch.setattr(view, "now", lambda: now + 3600)
    begun = time.monotonic()
    services.start(made)
    assert time.monotonic() - begun < services.ENDING / 2 and marked() == []


def test_what_cannot_say_how_it_is_and_was_not_stopped_is_started_at_once(box: "Box") -> None:
    mark = box.root / "started"
    made = service(start=sh(f"echo x >> {mark}"), stop=sh("exit 1"))
    with pytest.raises(Failed, match="stop failed"):
        services.stop(made)
    begun = time.monotonic()
    services.start(made)
    assert time.monotonic() - begun < services.ENDING / 2
    assert (mark.read_text(), marked()) == ("x\n", [])


def test_a_stop_that_ends_well_leaves_nothing_to_wait_for(sysv: Service) -> None:
    services.start(sysv)
    services.stop(sysv)
    assert marked() == []
    begun = time.monotonic()
    services.start(sysv)
    services.start(sysv)
    assert time.monotonic() - begun < 5
    assert marked() == []


def test_a_stop_that_times_out_over_a_service_that_is_down_leaves_nothing(box: "Box") -> None:
    with pytest.raises(Failed, match="timed out"):
        services.stop(service(stop=sh("sleep 60"), status=sh("exit 3"), timeout=0.2))
    assert marked() == []


def test_a_run_folder_that_takes_no_mark_keeps_no_service_from_stopping(box: "Box") -> None:
    box.run.rmdir()
    box.run.write_text("in the way")
    services.stop(service(stop=sh("true")))
    services.start(service(start=sh("true")))


def test_a_daemon_that_keeps_its_output_open_does_not_hold_the_start_up(sysv: Service, box: "Box") -> None:
    begun = time.monotonic()
    services.start(sysv)
    assert time.monotonic() - begun < sysv.timeout - 1
    assert services.status(sysv) is True
    services.stop(sysv)
    assert services.status(sysv) is False


def test_the_daemon_has_a_session_of_its_own_no_lock_of_ours_and_outlives_its_output(sysv: Service, box: "Box") -> None:
    with lock.Lock("takeover"):
        services.start(sysv)
    pid = int((box.root / "pid").read_text())
    assert os.getsid(pid) != os.getsid(0)
    assert not lock.held("takeover")
    files = {os.path.realpath(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
    assert not any(name.startswith(paths.LOCKS) for name in files)
    assert os.path.realpath(f"/proc/{pid}/cwd") == "/"
    time.sleep(0.3)
    os.kill(pid, 0)
    with open(f"{paths.LOG}/services/daemon.log", encoding="utf-8") as file:
        assert "tick" in file.read()


def test_starting_what_runs_and_stopping_what_does_not_run_is_fine(sysv: Service) -> None:
    services.stop(sysv)
    services.start(sysv)
    services.start(sysv)
    services.stop(sysv)
    services.stop(sysv)


def test_an_init_script_elsewhere_is_left_to_service(box: "Box") -> None:
    box.program("service", '[ "$1 $2" = "lpd start" ]')
    services.start(service(kind="sysv", unit="lpd"))


def test_a_command_that_runs_already_is_not_started_twice(box: "Box") -> None:
    mark = box.root / "started"
    made = service(start=sh(f"echo x >> {mark}"), stop=sh("true"), status=sh(f"test -e {mark}"))
    services.start(made)
    services.start(made)
    assert mark.read_text() == "x\n"


def test_a_command_without_status_is_not_known_to_run(box: "Box") -> None:
    assert services.status(service()) is None


@pytest.mark.parametrize(("code", "state"), [(0, True), (1, False), (3, False), (4, None), (127, None)])
def test_status_of_a_command_is_read_as_lsb_says(box: "Box", code: int, state: bool | None) -> None:
    assert services.status(service(status=sh(f"exit {code}"))) is state


@pytest.mark.parametrize(("code", "state"), [(0, True), (3, False), (4, None)])
def test_status_of_a_unit(box: "Box", code: int, state: bool | None) -> None:
    box.program("systemctl", f'[ "$*" = "is-active --quiet smbd" ] || exit 9\nexit {code}')
    assert services.status(service(kind="systemd", unit="smbd")) is state


def test_a_unit_is_started_and_stopped(box: "Box") -> None:
    box.program("systemctl", f'echo "$@" >> {box.root}/calls')
    unit = service(kind="systemd", unit="smbd")
    services.start(unit)
    services.stop(unit)
    assert (box.root / "calls").read_text() == "start smbd\nstop smbd\n"


def test_a_resource_agent_is_given_its_environment(box: "Box") -> None:
    agent = box.program(
        "apache",
        f"""case $1 in
start) echo "$OCF_ROOT $OCF_RESOURCE_INSTANCE $OCF_RESOURCE_TYPE $OCF_RESKEY_port" > {box.root}/up ;;
stop) rm -f {box.root}/up ;;
monitor) test -e {box.root}/up || exit 7 ;;
esac""",
    )
    made = service("web", kind="ocf", unit=str(agent), parameters=("port=81",))
    assert services.status(made) is False
    services.start(made)
    assert (box.root / "up").read_text() == "/usr/lib/ocf web apache 81\n"
    assert services.status(made) is True
    services.stop(made)
    assert services.status(made) is False


def test_nothing_to_run_is_always_fine(box: "Box") -> None:
    none = service("hosts", kind="none")
    services.start(none)
    services.stop(none)
    assert services.status(none) is None
    assert services.start_all([none])[0].text == "hosts: nothing to run"


def test_a_start_that_fails_says_why(box: "Box") -> None:
    with pytest.raises(Failed, match=r"thing: start failed: .*exit 5: port 80 is taken"):
        services.start(service(start=sh("echo before; echo port 80 is taken >&2; exit 5")))


def test_what_was_said_before_is_not_taken_for_the_reason(box: "Box") -> None:
    services.start(service(start=sh("echo all is well")))
    with pytest.raises(Failed) as failed:
        services.start(service(start=sh("exit 1")))
    assert "all is well" not in str(failed.value)


def test_a_program_that_does_not_exist_is_a_failure(box: "Box") -> None:
    with pytest.raises(Failed, match="start failed"):
        services.start(service(start=("/no/such/program",)))


def test_a_start_that_hangs_is_killed_with_its_children(box: "Box", tmp_path: Path) -> None:
    mark = tmp_path / "alive"
    begun = time.monotonic()
    text = f"(while sleep 0.05; do date > {mark}; done) & sleep 60"
    with pytest.raises(Failed, match=r"timed out after 500 ms"):
        services.start(service(start=sh(text), timeout=0.5))
    assert time.monotonic() - begun < 8
    mark.unlink()
    time.sleep(0.3)
    assert not mark.exists()


def test_order_reverse_order_and_one_failure_among_others(box: "Box") -> None:
    calls = box.root / "calls"
    made = [
        service(
            name,
            order=order,
            start=sh(f"echo +{name} >> {calls}; exit {code}"),
            stop=sh(f"echo -{name} >> {calls}"),
        )
        for name, order, code in (("last", 30, 0), ("first", 10, 0), ("bad", 20, 1))
    ]
    outcomes = services.start_all(made)
    assert [(outcome.service, outcome.ok) for outcome in outcomes] == [
        ("first", True),
        ("bad", False),
        ("last", True),
    ]
    assert all(outcome.ok for outcome in services.stop_all(made))
    assert calls.read_text().split() == ["+first", "+bad", "+last", "-last", "-bad", "-first"]
    names = [event["event"] for event in events()]
    assert names == ["service-started", "service-not-started", "service-started", *["service-stopped"] * 3]


def test_dry_run_shows_and_does_nothing(
    box: "Box", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "dry_run", True)
    mark = box.root / "mark"
    services.start_all([service(start=("touch", str(mark)))])
    services.stop_all([service(stop=("rm", str(mark)))])
    assert not mark.exists() and marked() == []
    assert capsys.readouterr().out == f"would run: touch {mark}\nwould run: rm {mark}\n"


def test_a_log_folder_that_cannot_be_made_stops_no_service(box: "Box") -> None:
    box.log.rmdir()
    box.log.write_text("in the way")
    services.start(service(start=sh("echo said")))
