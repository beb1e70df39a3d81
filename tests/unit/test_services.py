"""Starting and stopping what there is to run: real processes, real exit codes, stand-ins for systemctl only."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import lock, paths, run, services
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
    assert not mark.exists()
    assert capsys.readouterr().out == f"would run: touch {mark}\n"


def test_a_log_folder_that_cannot_be_made_stops_no_service(box: "Box") -> None:
    box.log.rmdir()
    box.log.write_text("in the way")
    services.start(service(start=sh("echo said")))
