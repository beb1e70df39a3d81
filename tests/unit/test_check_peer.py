"""check_peer, as monitoring calls it: a stand-in for fping that checks its words, a view as the watchdog writes it."""

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import state, view
from clusterd.model import Config
from clusterd.view import PeerView, View

if TYPE_CHECKING:
    from unit.conftest import Box

FPING = """\
[ "$1 $2 $3" = "-q -C 2" ] || {{ echo "fping: unexpected $*" >&2; exit 3; }}
while [ "${{1#-}}" != "$1" ]; do case $1 in -C|-p|-t) shift ;; esac; shift; done
code=0
for host in "$@"; do
    case " {silent} " in
    *" $host "*) echo "$host : - -" >&2; code=1 ;;
    *) echo "$host : 0.40 0.21" >&2 ;;
    esac
done
exit $code"""

PERFDATA = re.compile(r"('[^'=]+'|[^ '=]+)=(U|[0-9.]+)([a-z%]*);[0-9.]*;[0-9.]*;[0-9.]*(;[0-9.]*)?")
"""'label'=value[UOM];[warn];[crit];[min];[max] of the Monitoring Plugins' guidelines."""


def claims(**held: bool) -> dict[str, dict[str, Any]]:
    """What a node says of each group."""
    return {
        group: {"epoch": 3, "holder": "", "held": held.get(group, False), "pinned": False}
        for group in ("serv1", "serv2")
    }


def see(peer: dict[str, Any] | None = None, **me: Any) -> None:
    """Publish a view in which all is well, but for what is given."""
    now = view.now()
    well = PeerView(
        name="serv2",
        heard=True,
        paths={"heartbeat": 0.04, "lan": 0.05},
        standby="",
        groups=claims(serv2=True),
        reach=2,
        hears_me=True,
        digest_same=True,
        skew=0.001,
        stable=7200.0,
    )
    made = View(
        node="serv1",
        boot=state.boot_id(),
        until=now + 60,
        written=now,
        standby="",
        reach=2,
        asked=2,
        groups=claims(serv1=True),
        peers={"serv2": well._replace(**(peer or {}))},
        conditions=[],
        rejected={},
    )
    view.write(made._replace(**me))


def look(box: "Box", *words: str, silent: str = "", fping: str = "") -> tuple[int, str]:
    """Run it; what it returned, and its one line without the perfdata, which are checked."""
    box.program("fping", fping or FPING.format(silent=silent))
    done = box.script("check_peer", *words)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    text, _, values = done.stdout.rstrip("\n").partition(" | ")
    for value in re.findall(r"(?:'[^']*'|[^ ])+", values):
        assert PERFDATA.fullmatch(value), value
    return done.returncode, text


def test_all_is_well(pair: Config, pair_files: "Box") -> None:
    see()
    pair_files.program("fping", FPING.format(silent=""))
    done = pair_files.script("check_peer")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "CLUSTERD OK - serv2 is heard on every path for 2 h; reach 2 of 2 here, 2 there | "
        "'serv2 heartbeat'=0.21ms;;;0 'serv2 lan'=0.21ms;;;0 reach=2;;;0;2 'reach serv2'=2;;;0;2\n"
    )


def test_without_a_watchdog(pair: Config, pair_files: "Box") -> None:
    assert look(pair_files) == (
        3,
        "CLUSTERD UNKNOWN - the watchdog is not running here; reach 2 of 2 here, ? there",
    )


@pytest.mark.parametrize("change", [{"until": 1.0}, {"boot": "another"}])
def test_an_old_view_is_no_view(pair: Config, pair_files: "Box", change: dict[str, Any]) -> None:
    see(**change)
    assert look(pair_files)[0] == 3


SILENT = {"heard": False, "paths": {"heartbeat": 9.0, "lan": 9.0}, "stable": None}
NOBODY = "10.1.0.12 192.168.111.2"


@pytest.mark.parametrize(
    ("peer", "me", "silent", "code", "text"),
    [
        (SILENT, {}, NOBODY, 2, "CRITICAL - serv2 is not heard on any path; reach 2 of 2 here, ? there"),
        (SILENT, {}, "10.1.0.12", 2, "CRITICAL - serv2 answers on heartbeat but its watchdog is not heard"),
        ({"groups": claims()}, {}, "", 2, "CRITICAL - nobody holds serv2; "),
        ({}, {"groups": claims()}, "", 2, "CRITICAL - nobody holds serv1; "),
        ({}, {}, "10.1.0.12", 1, "WARNING - serv2 does not answer on lan; "),
        ({"paths": {"heartbeat": 9.0, "lan": 0.1}}, {}, "", 1, "WARNING - serv2 does not answer on heartbeat; "),
        ({"paths": {"heartbeat": None, "lan": 0.1}}, {}, "", 1, "WARNING - serv2 does not answer on heartbeat; "),
        ({"standby": "person"}, {}, "", 1, "WARNING - serv2 is in standby, set by a person; "),
        ({}, {"standby": "program"}, "", 1, "WARNING - serv1 is in standby, set by the program; "),
        (
            {"groups": claims()},
            {"groups": claims(serv1=True, serv2=True)},
            "",
            1,
            "WARNING - serv2 is served by serv1; ",
        ),
        (
            {"groups": claims(serv1=True, serv2=True)},
            {"groups": claims()},
            "",
            1,
            "WARNING - serv1 is served by serv2; ",
        ),
        (
            {},
            {"conditions": [["config-differs", "serv2", "serv2 has another configuration"]]},
            "",
            1,
            "WARNING - serv2 has another configuration; ",
        ),
        ({"reach": None}, {}, "", 0, "OK - serv2 is heard on every path for 2 h; reach 2 of 2 here, ? there"),
        ({}, {}, "10.1.0.253", 0, "OK - serv2 is heard on every path for 2 h; reach 1 of 2 here, 2 there"),
    ],
)
def test_each_state_has_its_text_and_its_code(
    pair: Config, pair_files: "Box", peer: dict[str, Any], me: dict[str, Any], silent: str, code: int, text: str
) -> None:
    see(peer, **me)
    found, said = look(pair_files, silent=silent)
    assert said.startswith(f"CLUSTERD {text}")
    assert found == code


def test_no_answer_is_no_number(pair: Config, pair_files: "Box") -> None:
    see({**SILENT, "reach": None})
    pair_files.program("fping", FPING.format(silent=f"{NOBODY} 10.1.0.254 10.1.0.253"))
    done = pair_files.script("check_peer")
    assert done.stdout.partition(" | ")[2] == (
        "'serv2 heartbeat'=U;;;0 'serv2 lan'=U;;;0 reach=0;;;0;2 'reach serv2'=U;;;0;2\n"
    )


def test_the_lan_is_asked_only_where_the_peer_has_an_address(pair: Config, pair_files: "Box") -> None:
    """Without an address of its own the peer is on the LAN only while it holds its group."""
    text = (pair_files.conf / "serv2.conf").read_text()
    lines = [line for line in text.splitlines() if "admin_address" not in line]
    pair_files.write("serv2.conf", "\n".join(lines) + "\n")
    see()
    assert look(pair_files, silent="10.1.0.2")[1].startswith("CLUSTERD WARNING - serv2 does not answer on lan; ")
    see({"groups": claims(), "paths": {"heartbeat": 0.1}}, groups=claims(serv1=True, serv2=True))
    assert look(pair_files, silent="10.1.0.2")[1].startswith("CLUSTERD WARNING - serv2 is served by serv1; ")


def test_json(pair: Config, pair_files: "Box") -> None:
    see()
    pair_files.program("fping", FPING.format(silent="10.1.0.12"))
    done = pair_files.script("check_peer", "--json", "serv2")
    assert done.returncode == 1
    [answer] = json.loads(done.stdout)
    assert answer == {
        "peer": "serv2",
        "code": 1,
        "state": "WARNING",
        "text": "serv2 does not answer on lan",
        "paths": {"heartbeat": 0.21, "lan": None},
        "reach": 2,
        "asked": 2,
        "peer_reach": 2,
        "holders": {"serv1": "serv1", "serv2": "serv2"},
        "standby": "",
        "peer_standby": "",
        "arbiter": "",
    }


def test_what_cannot_be_asked_is_unknown(pair: Config, pair_files: "Box") -> None:
    """Nagios' code, not ours: 2 would be an alarm, 1 a warning, and 78 nothing at all."""
    see()
    found, said = look(pair_files, "serv9")
    assert (found, said) == (3, "CLUSTERD UNKNOWN - serv9: not one of the peers (serv2)")
    found, said = look(pair_files, fping="echo 'fping: no right to open a raw socket' >&2; exit 4")
    assert found == 3
    assert said.startswith("CLUSTERD UNKNOWN - fping ") and said.endswith("no right to open a raw socket")
    pair_files.edit("cluster.conf", "failback = auto ", "failback = perhaps ")
    found, said = look(pair_files)
    assert found == 3
    assert said.startswith("CLUSTERD UNKNOWN - ") and "failback: found 'perhaps'" in said


def test_a_wrong_option_is_unknown_too(pair: Config, pair_files: "Box") -> None:
    """An option that is misspelt in the monitoring's own configuration must not look like an outage."""
    done = pair_files.script("check_peer", "--nonsense")
    assert done.returncode == 3
    assert done.stdout.startswith("CLUSTERD UNKNOWN - ")


def test_json_of_a_failure_is_json(pair: Config, pair_files: "Box") -> None:
    done = pair_files.script("check_peer", "--json", "serv9")
    assert done.returncode == 3
    assert "not one of the peers" in json.loads(done.stdout)["error"]
