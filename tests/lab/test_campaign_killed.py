"""Campaign: programs are killed at bad moments."""

import random
from collections.abc import Callable
from time import sleep

import pytest

from lab.campaign import AWAY_AND_BACK, at, fault
from lab.labnet.lab import Lab
from lab.story import ADDRESS, LONG, SHARE, killed, must, pids, script

SLOW: dict[str, dict[str, str | None] | None] = {"smbd": {"mirror.bandwidth": "1500", "mirror.whole_file": "yes"}}


def kill(lab: Lab, node: str, pattern: str) -> Callable[[], None]:
    """What kills every process of the node whose command line matches; at least one."""
    return lambda: killed(lab, node, pattern)


def test_the_watchdogs_loop(lab: Lab) -> None:
    with fault(lab, "watchdog's loop", "SIGKILL", answers=("serv1",), quiet=True) as day:
        for _ in range(3):
            lab.run("serv1", ["kill", "-KILL", str(pids(lab, "serv1", "watchdog")[1])])
            lab.wait_for(lambda: len(pids(lab, "serv1", "watchdog")) == 2, LONG, "the loop to be back")
        day.writer.more()


def test_the_watchdogs_parent(lab: Lab) -> None:
    with fault(lab, "watchdog's supervising parent", "SIGKILL", answers=("serv1",), quiet=True) as day:
        old = pids(lab, "serv1", "watchdog")[0]
        lab.run("serv1", ["kill", "-KILL", str(old)])
        lab.wait_for(lambda: len(pids(lab, "serv1", "watchdog")) == 2, LONG, "both to be back")
        assert old not in pids(lab, "serv1", "watchdog")
        day.writer.more()


def test_the_watchdog_and_its_parent(lab: Lab) -> None:
    """The lease ends, the peer takes over. That cron brings it back: test_watchdog.py; its minute is not waited for."""
    with fault(lab, "watchdog and its parent, cron too; started by hand", "SIGKILL", answers=AWAY_AND_BACK) as day:
        lab.run("serv1", ["pkill", "-KILL", "-x", "cron"])
        killed(lab, "serv1", script("watchdog"))
        day.serves("serv2")
        assert ADDRESS["serv1"] not in lab.addresses("serv1")
        lab.sh("serv1", "/etc/init.d/cron start; (watchdog >/dev/null 2>&1 &)")


@pytest.mark.parametrize("daemon", ["cron", "sshd", "rsyslogd", "smbd"])
def test_a_daemon_of_the_holder(lab: Lab, daemon: str) -> None:
    with fault(lab, f"{daemon} of the holder", "SIGKILL", answers=("serv1",), quiet=True) as day:
        lab.run("serv1", ["pkill", "-KILL", "-x", daemon])
        sleep(1)
        init = {"cron": "cron", "sshd": "ssh", "rsyslogd": "rsyslog", "smbd": "smbd"}[daemon]
        lab.sh("serv1", f"/etc/init.d/{init} start")
        day.another_pass()


@pytest.mark.parametrize("step", ["takeover-began", "address-up", "service-started"])
def test_takeover(lab: Lab, step: str) -> None:
    with fault(lab, f"takeover, at its {step}", "SIGKILL", answers=AWAY_AND_BACK, strays=True) as day:
        with at(lab, "serv2", step, kill(lab, "serv2", script("takeover"))):
            lab.power_off("serv1")
        day.serves("serv2")
        day.writer.more()


def test_the_scripts_that_only_look_at_random_moments(lab: Lab) -> None:
    """Nothing moves, and the next one does its work. What tidies up and puts back: test_campaign_backups.py."""
    chance = random.Random(1999)
    again = (["check_peer"], ["cluster", "status"])
    with fault(lab, "check_peer, cluster, three times each", "SIGKILL", answers=("serv1",), quiet=True) as day:
        for argv in again:
            hits = 0
            for _ in range(20):
                with day.running(lab.argv("serv1", argv)) as process:
                    sleep(chance.uniform(0.02, 0.3))
                    kill = ["pkill", "-KILL", "-f", script(argv[0])]
                    hits += lab.run("serv1", kill, check=False).returncode == 0
                    process.wait(LONG)
                if hits == 3:
                    break
            assert hits == 3, f"{argv[0]} was over before it was killed"
            lab.run("serv1", argv, timeout=LONG)
        day.another_pass()


CALLS = "/root/set"
STAND_INS = f"""\
cd /usr/local/sbin
printf '#!/bin/sh\\ncase " $* " in *" --step "*|*" --slew "*) sleep 1; echo clock >>{CALLS}; exit;; esac
exec /usr/bin/ntpdig "$@"\\n' >ntpdig
printf '#!/bin/sh\\necho CMOS >>{CALLS}\\n' >hwclock
chmod 755 ntpdig hwclock
"""
"""No machine of the lab may set the clock, which is the host's: it is written down instead, after a second."""


def test_timesync(lab: Lab) -> None:
    """Killed while it sets the clock: the next one, an hour later, sets it and the CMOS clock."""
    with fault(lab, "timesync, while it sets the clock", "SIGKILL", answers=("serv1",), quiet=True) as day:
        lab.sh("serv1", STAND_INS)
        try:
            with day.running(lab.argv("serv1", ["timesync"])) as process:
                setting = ["pgrep", "-f", "ntpdig --s(lew|tep)"]
                lab.wait_for(
                    lambda: lab.run("serv1", setting, check=False).returncode == 0, LONG, "it to set the clock"
                )
                killed(lab, "serv1", script("timesync"))
                process.wait(LONG)
            assert "CMOS" not in (lab.text("serv1", CALLS) or "")
            lab.sh("serv1", f"rm -f {CALLS}")
            lab.run("serv1", ["timesync"], timeout=LONG)
            assert (lab.text("serv1", CALLS) or "").split()[-2:] == ["clock", "CMOS"]
        finally:
            lab.sh("serv1", f"cd /usr/local/sbin; rm -f ntpdig hwclock {CALLS}")
        day.another_pass()


@pytest.mark.parametrize("step", ["release-began", "service-stopped"])
def test_release(lab: Lab, step: str) -> None:
    with (
        fault(lab, f"release, at its {step}", "SIGKILL"),
        at(lab, "serv1", step, kill(lab, "serv1", script("release"))),
    ):
        lab.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=2 * LONG, check=False)


@pytest.mark.parametrize("what", ["sshd", "peer_gate", "rsync"])
def test_the_receiver_in_a_release(lab: Lab, what: str) -> None:
    """All connections break in the middle: the release fails, and everything is as it was."""
    pattern = {"sshd": "^sshd: root", "peer_gate": "peer_gate", "rsync": "rsync --server"}[what]
    with fault(lab, f"{what} of the receiver, in a release", "SIGKILL", services=SLOW) as day:
        fill(lab)
        release = lab.argv("serv1", ["release", "serv1", "--to", "serv2"])
        with day.running(release) as process:
            coming(lab, "serv2")
            killed(lab, "serv2", pattern)
            process.wait(2 * LONG)
        if process.returncode:
            day.serves("serv1", "serv1")


@pytest.mark.parametrize(
    ("node", "what", "pattern"),
    [
        ("serv1", "mirror_service", script("mirror_service")),
        ("serv1", "rsync of the sender", "^rsync "),
        ("serv1", "ssh of the sender", "^ssh "),
        ("serv2", "rsync of the receiver", "rsync --server"),
        ("serv2", "peer_gate", "peer_gate"),
        ("serv2", "sshd of the receiver", "^sshd: root"),
    ],
)
def test_in_a_pass(lab: Lab, node: str, what: str, pattern: str) -> None:
    name = f"{what}, in a pass"
    with fault(lab, name, "SIGKILL", answers=("serv1",), quiet=True, services=SLOW) as day:
        fill(lab)
        coming(lab, "serv2")
        killed(lab, node, pattern)
        day.another_pass()
    must(not lab.sh("serv2", f"find {SHARE} -name '.*' -not -name .clusterd"), "half-written files")


def fill(lab: Lab) -> None:
    """Give the next pass some seconds of work."""
    script = f"mkdir -p {SHARE}/big; for n in $(seq 20); do head -c 200000 /dev/urandom >{SHARE}/big/$n; done"
    lab.sh("serv1", script)


def coming(lab: Lab, node: str) -> None:
    """Wait until the pass has begun to send them."""
    found = ["sh", "-c", f"find {SHARE}/big -name '.*' | grep -q ."]
    lab.wait_for(lambda: lab.run(node, found, check=False).returncode == 0, LONG, "files on their way")
