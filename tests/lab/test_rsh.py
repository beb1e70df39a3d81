"""remote_shell = rsh: the real client and the real in.rshd, which starts what it is asked with a PATH without sbin."""

from collections.abc import Iterator
from time import monotonic

import pytest

from lab.labnet.lab import Lab
from lab.labnet.plan import NODES
from lab.story import SHARE, come_home, events, kept, mirror, wait_home, wait_serves, wait_standby

SSHD = "/etc/init.d/ssh"


@pytest.fixture
def rsh(lab: Lab) -> Iterator[Lab]:
    """The pair, each node with inetd for in.rshd and without sshd."""
    come_home(lab, remote_shell="rsh")
    try:
        for node in NODES:
            lab.sh(node, f"{SSHD} stop >&2; pkill -x sshd || true; inetd")
        yield lab
    finally:
        for node in NODES:
            lab.sh(node, f"pkill -x inetd || true; {SSHD} start >&2")


def copied(lab: Lab, name: str) -> str | None:
    """What serv2's copy of a file on the share says."""
    return lab.text("serv2", f"{SHARE}/{name}")


def test_passes_and_a_hand_over_there_and_back(rsh: Lab) -> None:
    began = monotonic()
    rsh.sh("serv1", f"echo one >{SHARE}/by-rsh; echo gone >{SHARE}/gone")
    mirror(rsh, "serv1", "smbd")
    assert (copied(rsh, "by-rsh"), copied(rsh, "gone")) == ("one\n", "gone\n")
    rsh.sh("serv1", f"rm {SHARE}/gone")
    mirror(rsh, "serv1", "smbd")
    assert copied(rsh, "gone") is None and kept(rsh, "serv2", "gone")
    rsh.sh("serv1", f"echo two >{SHARE}/by-rsh")
    said = rsh.run("serv1", ["release", "serv1", "--to", "serv2"], timeout=120)
    assert "serv1: serv2 answers" in said.stdout and not said.stderr, said
    wait_serves(rsh, "serv2", "serv1", "serv2")
    assert copied(rsh, "by-rsh") == "two\n"
    rsh.run("serv2", ["release", "serv1", "--to", "serv1"], timeout=120)
    wait_home(rsh)
    for node in NODES:
        assert not events(rsh, node, began, "release-failed") and not events(rsh, node, began, "gate-refused")


def test_a_no_of_the_gate_is_one_although_rsh_has_no_exit_code_for_it(rsh: Lab) -> None:
    rsh.sh("serv2", "cluster standby serv2 --reason 'the fan is loud'")
    wait_standby(rsh, "serv2")
    done = rsh.run("serv1", ["release", "serv1", "--to", "serv2"], check=False)
    assert done.returncode == 1
    assert "serv2 cannot take serv1: peer_gate: in standby, set by a person: the fan is loud" in done.stderr
    rsh.sh("serv2", "cluster unstandby serv2")
    wait_home(rsh)
