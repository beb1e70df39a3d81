"""timesync on the nodes: real servers answer, the watchdog knows the peer's clock, stand-ins write down what is set."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES, TIME_SERVERS

ADDRESS = {"ref1": "10.1.0.254", "ref2": "10.1.0.253", "client": "10.1.0.100"}
CALLS = "/root/calls"
STAND_INS = f"""\
cd /usr/local/sbin
cat > ntpdig <<'END'
#!/bin/sh
case " $* " in *" --step "*|*" --slew "*) echo "ntpdig $*" >> {CALLS}; exit 0;; esac
exec /usr/bin/ntpdig "$@"
END
cat > hwclock <<'END'
#!/bin/sh
echo "${{0##*/}} $*" >> {CALLS}
END
cp hwclock date
chmod 755 ntpdig hwclock date
rm -f {CALLS}
"""
"""No machine of the lab may set the clock, which is the host's."""
CHRONYD = """\
mkdir -p -m 750 /run/chrony
cat > /root/chrony.conf <<'END'
server 10.1.0.254 iburst minpoll -2 maxpoll -2
server 10.1.0.253 iburst minpoll -2 maxpoll -2
server 10.1.0.100 iburst minpoll -2 maxpoll -2
user root
port 0
END
chronyd -x -f /root/chrony.conf
"""


@pytest.fixture
def nodes(home: Lab) -> Iterator[Lab]:
    """The running pair with stand-ins; at the end the servers tell the truth again."""
    for node in NODES:
        home.sh(node, STAND_INS)
    try:
        yield home
    finally:
        home.heal()
        for node in NODES:
            home.sh(node, f"pkill -x chronyd || true; cd /usr/local/sbin; rm -f ntpdig hwclock date {CALLS}")
        for name in TIME_SERVERS:
            home.sh(name, "pgrep -x chronyd >/dev/null || /etc/init.d/lab-time start")


def timesync(lab: Lab, node: str, code: int = 0) -> dict[str, Any]:
    done = lab.run(node, ["timesync", "--json"], check=False)
    assert done.returncode == code, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {each["server"]: each["verdict"] for each in found["servers"]}


def calls(lab: Lab, node: str) -> list[str]:
    return (lab.text(node, CALLS) or "").splitlines()


def test_three_that_agree(nodes: Lab) -> None:
    for node, other in (("serv1", "serv2"), ("serv2", "serv1")):
        found = timesync(nodes, node)
        assert verdicts(found) == dict.fromkeys(ADDRESS.values(), "good")
        assert abs(found["offset"]) < 0.5
        assert abs(found["skew"][other]) < 0.5
        slew, hwclock = calls(nodes, node)
        assert slew.startswith("ntpdig --slew --timeout 2 -- 10.1.0.") and hwclock == "hwclock --systohc"


def test_a_falseticker_is_outvoted(nodes: Lab) -> None:
    nodes.clock("ref2", "+3600s")
    found = timesync(nodes, "serv1")
    assert verdicts(found) == {**dict.fromkeys(ADDRESS.values(), "good"), ADDRESS["ref2"]: "false"}
    assert abs(found["offset"]) < 0.5
    assert ADDRESS["ref2"] not in calls(nodes, "serv1")[0]
    event = nodes.events("serv1")[-1]
    assert (event["event"], event["server"]) == ("clock-falseticker", ADDRESS["ref2"])
    assert abs(event["offset"] - 3600) < 5


def test_without_a_majority_nothing_is_set_and_a_person_is_told(nodes: Lab) -> None:
    before = len(nodes.mails())
    nodes.clock("ref2", "+3600s")
    nodes.clock("client", "-600s")
    found = timesync(nodes, "serv1", code=3)
    assert set(verdicts(found).values()) == {"unsure"}
    assert calls(nodes, "serv1") == []
    nodes.wait_for(
        lambda: any("contradict each other" in str(mail["Subject"]) for mail in nodes.mails()[before:]), 30, "the mail"
    )


def test_no_server_answers(nodes: Lab) -> None:
    for name in TIME_SERVERS:
        nodes.sh(name, "/etc/init.d/lab-time stop")
    first, second = timesync(nodes, "serv1", code=3), timesync(nodes, "serv2")
    assert first["action"] == "none" and "the other nodes follow it" in first["text"]
    assert second["action"] == "follow" and "followed serv1" in second["text"]
    assert abs(second["skew"]["serv1"]) < 0.5
    assert (calls(nodes, "serv1"), calls(nodes, "serv2")) == ([], ["hwclock --systohc"])


def test_chronyd_on_a_node_keeps_its_clock(nodes: Lab) -> None:
    nodes.clock("ref2", "+3600s")
    nodes.sh("serv1", CHRONYD)

    def settled() -> bool:
        sources = nodes.sh("serv1", "chronyc -c sources || true").splitlines()
        # Reach is octal: three answers each.
        heard = [line for line in sources if int(line.split(",")[5], 8) >= 7]
        return len(heard) == 3 and "Not sync" not in nodes.sh("serv1", "chronyc -c tracking")

    nodes.wait_for(settled, 60, "chronyd's choice")
    found = timesync(nodes, "serv1")
    assert verdicts(found) == {**dict.fromkeys(ADDRESS.values(), "good"), ADDRESS["ref2"]: "false"}
    assert (found["action"], calls(nodes, "serv1")) == ("chronyd", ["hwclock --systohc"])
