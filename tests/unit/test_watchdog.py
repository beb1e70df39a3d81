"""watchdog: one instance, kept alive by a parent that does nothing else; real processes on a real network."""

import errno
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from clusterd import loadable, lock, ownership, paths, state, view
from clusterd.commands import watchdog
from unit.site import Peer, Site, wait, wait_gone
from unit.site import made_peer as made_peer
from unit.site import made_site as made_site

pytest_plugins = ["lan"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(name="start")
def starting(site: Site, peer: Peer) -> Iterator[Start]:
    """Start a watchdog and wait until it publishes a view; its processes are gone in the end."""
    started = []

    def start(*words: str) -> "subprocess.Popen[str]":
        (site.box.run / "view.json").unlink(missing_ok=True)
        process = site.start("watchdog", *words)
        started.append(process)
        wait(view.read)
        return process

    yield start
    for pid in (*(process.pid for process in started), lock.holder("watchdog") or 0):
        loop = child(pid) if pid else None
        for each in (pid, loop):
            if each:
                kill(each)
    for process in started:
        process.wait(30)
        for pipe in (process.stdin, process.stdout, process.stderr):
            assert pipe
            pipe.close()


def child(pid: int) -> int | None:
    """The loop of the watchdog `pid`."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(found[0]) if found else None


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def watching(site: Site) -> None:
    """Wait for a view that is written from now on."""
    now = view.now()
    wait(lambda: (seen := view.read()) and seen.written > now)


def test_dry_run(site: Site) -> None:
    done = site.run("watchdog", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "would watch serv2\n")
    assert not lock.held("watchdog")


def test_bad_configuration(site: Site) -> None:
    site.box.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    done = site.run("watchdog")
    assert done.returncode == 78
    assert "failback: found 'perhaps'" in done.stderr


@pytest.mark.parametrize("fault", ["missing", "short", "readable"])
def test_bad_key(site: Site, fault: str) -> None:
    key = site.box.conf / "key"
    if fault == "missing":
        key.unlink()
    elif fault == "short":
        key.write_text("short\n")
    else:
        key.chmod(0o644)
    done = site.run("watchdog")
    assert done.returncode == 78
    assert f"{key}: " in done.stderr
    assert not site.up("serv1")


def test_a_second_start_exits_at_once(site: Site, start: Start) -> None:
    process = start()
    loop = child(process.pid)
    done = site.run("watchdog")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert process.poll() is None and child(process.pid) == loop


def test_a_killed_loop_is_restarted_and_moves_nothing(site: Site, peer: Peer, start: Start) -> None:
    site.hold("serv1", 3)
    process = start()
    for _ in range(3):
        loop = child(process.pid)
        assert loop
        watching(site)
        kill(loop)
        wait(lambda loop=loop: child(process.pid) not in (None, loop))
        watching(site)
        assert process.poll() is None
    assert site.up("serv1")
    assert ownership.read("serv1").epoch == 3
    assert site.told().count("watchdog-restarted") == 3
    [event, *_] = [event for event in site.events() if event["event"] == "watchdog-restarted"]
    assert event["text"] == "the loop ended (killed by SIGKILL) and is started again"


def test_the_next_loop_does_not_wait_until_the_end_of_the_last_one_is_told(site: Site, start: Start) -> None:
    """A log that takes no word, for as long as nobody reads it."""
    site.hold("serv1", 3)
    process = start()
    loop = child(process.pid)
    assert loop
    Path(paths.EVENTS).rename(f"{paths.EVENTS}.1")
    os.mkfifo(paths.EVENTS)
    kill(loop)
    wait(lambda: child(process.pid) not in (None, loop))
    watching(site)
    assert site.up("serv1")
    reader = os.open(paths.EVENTS, os.O_RDONLY | os.O_NONBLOCK)
    said = b""
    end = time.monotonic() + 20
    while b"watchdog-restarted" not in said and time.monotonic() < end:
        select.select([reader], [], [], 0.1)
        with suppress(BlockingIOError):
            said += os.read(reader, 1 << 16)
    os.close(reader)
    Path(paths.EVENTS).unlink()
    assert b"watchdog-restarted" in said


def test_terminated_with_nothing_held_is_a_clean_stop(site: Site, start: Start) -> None:
    ownership.enter_standby(ownership.PERSON, "nothing is acquired here")
    process = start()
    loop = child(process.pid)
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert process.returncode == 0
    assert Path(paths.CLEAN).exists()
    assert loop and not os.path.exists(f"/proc/{loop}")
    assert not lock.held("watchdog")
    # Asked once: what follows a crash is no clean stop any more.
    start()
    assert not Path(paths.CLEAN).exists()


def test_terminated_with_a_group_is_none(site: Site, start: Start) -> None:
    site.hold("serv1", 3)
    process = start()
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert process.returncode == 0
    assert not Path(paths.CLEAN).exists()


def test_sighup_starts_it_again_in_its_place(site: Site, start: Start) -> None:
    site.hold("serv1", 3)
    process = start()
    loop = child(process.pid)
    process.send_signal(signal.SIGHUP)
    wait(lambda: child(process.pid) not in (None, loop))
    watching(site)
    assert process.poll() is None
    assert site.up("serv1")
    assert site.told().count("watchdog-started") == 2


def test_words_of_another_folder_start_it_again_as_well(
    site: Site, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has left the folder in which a relative path was right."""
    monkeypatch.chdir(site.box.conf.parent)
    process = start("--config", site.box.conf.name)
    for started in (2, 3):
        process.send_signal(signal.SIGHUP)
        wait(partial(_started, site, started))
        watching(site)
    assert process.poll() is None
    assert "config-bad" not in site.told()


def _started(site: Site, times: int) -> bool:
    return site.told().count("watchdog-started") == times


def test_an_orphaned_loop_becomes_a_watchdog(site: Site, start: Start) -> None:
    site.hold("serv1", 3)
    process = start()
    loop = child(process.pid)
    assert loop
    kill(process.pid)
    process.wait(30)
    wait(lambda: child(loop))
    watching(site)
    assert lock.holder("watchdog") == loop
    assert site.up("serv1")
    assert site.run("watchdog").returncode == 0
    kill(loop, signal.SIGTERM)
    wait_gone(loop)


def test_a_changed_configuration_is_taken_up(site: Site, start: Start) -> None:
    process = start()
    loop = child(process.pid)
    site.box.edit("cluster.conf", "dead_after = 300 ms", "dead_after = 400 ms")
    wait(lambda: child(process.pid) not in (None, loop))
    watching(site)
    assert process.poll() is None
    assert "config-bad" not in site.told()


def test_a_changed_configuration_that_is_wrong_is_told(site: Site, start: Start) -> None:
    process = start()
    loop = child(process.pid)
    site.box.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    wait(lambda: "config-bad" in site.told())
    watching(site)
    assert child(process.pid) == loop


def goes_on(site: Site, loop: int | None) -> None:
    """The same loop, for longer than two looks at the configuration, and with its address."""
    end = view.now() + 2.5
    while view.now() < end:
        watching(site)
    assert os.path.exists(f"/proc/{loop}")
    assert site.up("serv1")


def test_a_changed_configuration_is_no_use_without_the_key(site: Site, start: Start) -> None:
    """And is taken up when the key is right again, although no .conf changes then."""
    site.hold("serv1", 3)
    process = start()
    loop = child(process.pid)
    (site.box.conf / "key").chmod(0o644)
    wait(lambda: "config-bad" in site.told())
    site.box.edit("cluster.conf", "dead_after = 300 ms", "dead_after = 400 ms")
    wait(lambda: site.told().count("config-bad") == 2)
    goes_on(site, loop)
    assert process.poll() is None
    assert site.told().count("config-bad") == 2, "each is said once"
    (site.box.conf / "key").chmod(0o600)
    wait(lambda: child(process.pid) not in (None, loop))
    watching(site)
    assert site.up("serv1")
    assert site.told().count("watchdog-started") == 2


@pytest.mark.parametrize("fault", ["configuration", "key", "folder"])
def test_sighup_does_nothing_while_the_configuration_cannot_be_used(site: Site, start: Start, fault: str) -> None:
    site.hold("serv1", 3)
    process = start()
    loop = child(process.pid)
    if fault == "configuration":
        site.box.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    elif fault == "key":
        (site.box.conf / "key").chmod(0o644)
    else:
        site.box.state.chmod(0o775)
    if fault != "folder":
        wait(lambda: "config-bad" in site.told())
    process.send_signal(signal.SIGHUP)
    wait(lambda: any("SIGHUP" in event["text"] for event in site.events() if event["event"] == "config-bad"))
    goes_on(site, loop)
    assert process.poll() is None
    if fault == "folder":
        site.box.state.chmod(0o755)
        process.send_signal(signal.SIGHUP)
        wait(lambda: child(process.pid) not in (None, loop))
        watching(site)
        assert site.up("serv1")
    process.terminate()
    process.wait(30)
    assert process.returncode == 0


def test_an_orphaned_loop_goes_on_while_the_configuration_cannot_be_used(site: Site, start: Start) -> None:
    """And becomes a watchdog when it can."""
    site.hold("serv1", 3)
    process = start()
    loop = child(process.pid)
    assert loop
    site.box.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    wait(lambda: "config-bad" in site.told())
    kill(process.pid)
    process.wait(30)
    kill(loop, signal.SIGHUP)
    goes_on(site, loop)
    assert lock.held("watchdog") and not child(loop)
    site.box.edit("cluster.conf", "failback = perhaps ", "failback = auto ")
    wait(lambda: child(loop))
    watching(site)
    assert lock.holder("watchdog") == loop
    assert site.up("serv1")
    kill(loop, signal.SIGTERM)
    wait_gone(loop)


def test_what_a_crash_left_is_removed_at_the_start(site: Site, start: Start) -> None:
    site.lan.ip("serv1", "addr add 10.1.0.2/24 dev eth0")
    ownership.write(ownership.Record("serv2", 4, "serv1", ownership.HELD, "the boot before"))
    start()
    assert not site.up("serv2")


def test_a_nic_that_is_missing_is_said_and_the_rest_goes_on(site: Site, start: Start) -> None:
    site.lan.ip("serv1", "link del eth2")
    start()
    [event] = [event for event in site.events() if event["event"] == "network-not-ready"]
    assert event["text"] == "eth2: no such network interface"


def test_a_loop_that_ends_again_and_again_is_restarted_slowly(site: Site, peer: Peer) -> None:
    """Another program has the port: no more than a few starts a second, and it works when that one is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("", 694))
        process = site.start("watchdog")
        wait(lambda: site.told().count("watchdog-restarted") >= 5)
        now = view.now()
        wait(lambda: site.told().count("watchdog-restarted") >= 7)
        assert view.now() - now > 1
    event = next(event for event in site.events() if event["event"] == "watchdog-restarted")
    why = "clusterd.errors.Failed: heartbeat port 694 on eth1: Address already in use"
    assert event["text"] == f"the loop ended ({why}) and is started again"
    assert event["traceback"][0].startswith("Traceback") and "open_paths" in "".join(event["traceback"])
    wait(view.read)
    process.terminate()
    process.wait(30)


def test_a_fork_that_fails_is_tried_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """No process is left for this node for a moment: the supervisor must outlive that."""
    failures = iter([BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), KeyboardInterrupt()])
    settings, keys = loadable.load(str(site.box.conf))
    pipes = len(os.listdir("/proc/self/fd"))
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)]

    def fork() -> int:
        raise next(failures)

    with monkeypatch.context() as tight:
        tight.setattr(os, "fork", fork)
        tight.setattr(watchdog, "PAUSE", 0.01)
        try:
            with pytest.raises(KeyboardInterrupt):
                watchdog._supervise(settings, keys, clean=False)
        finally:
            os.close(signal.set_wakeup_fd(-1))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, watchdog.ASKED)
            for number, handler in zip((signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD), before, strict=True):
                signal.signal(number, handler)
    assert len(os.listdir("/proc/self/fd")) <= pipes + 3, "what the second try had opened"


def test_a_nic_that_is_not_there_is_told_and_the_other_networks_go_on(site: Site, peer: Peer) -> None:
    """It is no reason to let go of anything; when there is one of that name, it is used."""

    def talk(until: str) -> None:
        def told() -> bool:
            peer.say()
            return until in site.told()

        wait(told)

    site.lan.ip("serv1", "link set eth1 name later")
    (site.box.run / "view.json").unlink()
    process = site.start("watchdog")
    talk("path-down")
    assert "watchdog-restarted" not in site.told()
    site.lan.ip("serv1", "link set later down")
    site.lan.ip("serv1", "link set later name eth1 up")
    talk("path-up")
    process.terminate()
    process.wait(30)


def test_the_state_of_a_restart_is_read_again(site: Site, peer: Peer, start: Start) -> None:
    """A boot id that differs: nothing of the view of another boot is believed."""
    fact = state.read(paths.VIEW)
    state.write(paths.VIEW, {**fact, "boot": "another"})
    assert view.read(stale=True) is None
    start()
    seen = view.read()
    assert seen and seen.peers["serv2"].paths["heartbeat"] is None
