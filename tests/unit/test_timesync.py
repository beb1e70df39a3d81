"""timesync: real servers are asked by the real programs; what would set a clock is a stand-in that writes it down."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import model, ntp, run, state, view
from clusterd.errors import Failed
from clusterd.lock import Lock
from unit.timeservers import FALSE, LIE, SILENT, TRUE, Lan

if TYPE_CHECKING:
    from unit.conftest import Box

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
ASKS = """\
case " $* " in *" --step "*|*" --slew "*|*" makestep "*) echo "${{0##*/}} $*" >> {calls}; exit 0;; esac
exec /usr/bin/{name} "$@"
"""
SETS = """\
echo "${{0##*/}} $*" >> {calls}
exit {code}
"""


@pytest.fixture(scope="module")
def lan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lan]:
    """Three true servers and a false one."""
    made = Lan(tmp_path_factory.mktemp("lan"))
    try:
        for address in (*TRUE, FALSE):
            made.serve(address)
        made.lie(FALSE)
        yield made
    finally:
        made.close()


class Node:
    """One node on that network, serv1 unless said otherwise."""

    def __init__(self, box: "Box", lan: Lan) -> None:
        self.box = box
        self.lan = lan
        self.calls_file = box.root / "calls"
        for name in ("ntpdig", "chronyc"):
            box.program(name, ASKS.format(calls=self.calls_file, name=name))
        for name in ("hwclock", "date"):
            box.program(name, SETS.format(calls=self.calls_file, code=0))
        box.edit("cluster.conf", "mail = root  ", 'mail = ""  ')
        self.servers("")

    def servers(self, *addresses: str) -> None:
        """The configured ones."""
        text = (self.box.conf / "cluster.conf").read_text()
        old = next(line for line in text.splitlines() if line.startswith("servers = "))
        self.box.edit("cluster.conf", old, f"servers = {', '.join(addresses) or ','}")

    def timesync(self, *words: str, node: str = "serv1") -> "subprocess.CompletedProcess[str]":
        argv = self.lan.argv("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', node)
        argv += [sys.executable, str(SCRIPTS / "timesync"), *words]
        return subprocess.run(argv, env=self.box.env, capture_output=True, text=True, timeout=60, check=False)

    def answer(self, *words: str, node: str = "serv1", code: int = 0) -> dict[str, Any]:
        done = self.timesync("--json", *words, node=node)
        assert done.returncode == code, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        assert found["exit"] == code
        return found

    def calls(self) -> list[str]:
        """What was to be set."""
        try:
            return self.calls_file.read_text().splitlines()
        except FileNotFoundError:
            return []

    def events(self) -> list[dict[str, Any]]:
        try:
            return [json.loads(line) for line in (self.box.log / "events.jsonl").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def sees(self, node: str, skew: float | None, *, heard: bool = True, age: float = 0.0) -> None:
        """What the watchdog knows of the clock of `node`."""
        peer = view.PeerView(node, heard, {"heartbeat": 0.1}, "", {}, 2, True, True, skew, 60.0)
        now = view.now() - age
        view.write(view.View("", state.boot_id(), now + 60, now, "", 2, 2, {}, {node: peer}, [], {}))


@pytest.fixture
def node(pair_files: "Box", lan: Lan) -> Node:
    return Node(pair_files, lan)


def verdicts(found: dict[str, Any]) -> dict[str, str]:
    return {each["server"]: each["verdict"] for each in found["servers"]}


def test_the_servers_agree(node: Node) -> None:
    node.servers(*TRUE)
    found = node.answer()
    assert verdicts(found) == dict.fromkeys(TRUE, "good")
    assert abs(found["offset"]) < 0.5 and found["action"] == "slew"
    best = min(found["servers"], key=lambda each: each["uncertainty"])["server"]
    assert node.calls() == [f"ntpdig --slew --timeout 2 -- {best}", "hwclock --systohc"]
    assert found["hardware_clock"] == "set"
    assert found["skew"] == {"serv2": None}


def test_quiet_when_all_is_well(node: Node) -> None:
    node.servers(*TRUE)
    done = node.timesync()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert node.events() == []
    shown = node.timesync("-v").stdout
    assert (
        "good   10.9.0.1: " in shown and ": slewed to 10.9.0." in shown and "the clock of serv2 is not known" in shown
    )


def test_a_falseticker_is_outvoted_and_named(node: Node) -> None:
    node.servers(TRUE[0], FALSE, TRUE[1])
    found = node.answer()
    assert verdicts(found) == {TRUE[0]: "good", TRUE[1]: "good", FALSE: "false"}
    assert abs(found["offset"]) < 0.5
    (event,) = node.events()
    assert (event["event"], event["server"], event["level"]) == ("clock-falseticker", FALSE, "warning")
    assert abs(event["offset"] - LIE) < 2
    assert all(FALSE not in call for call in node.calls())


def test_without_a_majority_nothing_is_set(node: Node) -> None:
    node.servers(TRUE[0], FALSE)
    found = node.answer(code=3)
    assert (found["offset"], found["action"], node.calls()) == (None, "none", [])
    assert set(verdicts(found).values()) == {"unsure"}
    done = node.timesync()
    assert done.returncode == 3
    assert done.stderr.startswith("timesync: the time servers contradict each other, at most 1 of 2 agree: ")
    assert [event["event"] for event in node.events()] == ["clock-unset", "clock-unset"]
    assert node.timesync("--quiet").stderr == ""
    node.servers(TRUE[0], SILENT, SILENT.replace("9.0.9", "9.1.9"))
    assert "only 1 of 3" in node.answer(code=3)["text"]
    assert node.calls() == []


def test_one_server_that_is_the_only_one(node: Node) -> None:
    node.servers(FALSE)
    found = node.answer()
    assert found["action"] == "step" and abs(found["offset"] - LIE) < 2
    assert node.calls() == [f"ntpdig --step --timeout 2 -- {FALSE}", "hwclock --systohc"]
    assert [event["event"] for event in node.events()] == ["clock-stepped"]


def test_the_threshold_is_configured(node: Node) -> None:
    node.servers(FALSE)
    node.box.edit("cluster.conf", "step = 1 second ", "step = 2 hours ")
    assert node.answer()["action"] == "slew"
    assert node.calls()[0] == f"ntpdig --slew --timeout 2 -- {FALSE}"


def test_a_silent_server_is_no_trouble_if_the_others_agree(node: Node) -> None:
    node.servers(TRUE[0], TRUE[1], SILENT)
    found = node.answer()
    assert verdicts(found) == {TRUE[0]: "good", TRUE[1]: "good", SILENT: "silent"}
    assert node.events() == []


def test_dry_run_sets_nothing(node: Node) -> None:
    node.servers(FALSE)
    done = node.timesync("--dry-run")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        f"would run: ntpdig --step --timeout 2 -- {FALSE}",
        "would run: hwclock --systohc",
    ]
    assert node.calls() == [] and node.events() == []


def test_a_machine_without_a_cmos_clock(node: Node) -> None:
    node.servers(*TRUE)
    node.box.program("hwclock", "echo 'hwclock: Cannot access the Hardware Clock via any known method.' >&2; exit 1")
    found = node.answer()
    assert "Cannot access the Hardware Clock" in found["hardware_clock"]
    assert "the CMOS clock was not set: hwclock" in node.timesync("-v").stdout
    done = node.timesync()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_setting_that_fails_is_a_failure(node: Node) -> None:
    node.servers(*TRUE)
    node.box.program(
        "ntpdig", 'case "$*" in *--slew*) echo "not permitted" >&2; exit 1;; esac; exec /usr/bin/ntpdig "$@"'
    )
    done = node.timesync()
    assert done.returncode == 1 and "not permitted" in done.stderr
    assert node.calls() == []


@pytest.mark.parametrize("skew", [90.5, -90.5])
def test_no_server_answers_and_the_first_node_is_followed(node: Node, skew: float) -> None:
    node.servers(SILENT)
    node.sees("serv1", skew)
    before = time.time()
    found = node.answer(node="serv2")
    assert (found["action"], found["skew"]) == ("follow", {"serv1": 0.0})
    date, hwclock = node.calls()
    wanted = float(date.removeprefix("date --utc --set=@"))
    assert before + skew <= wanted <= time.time() + skew
    assert hwclock == "hwclock --systohc"
    assert [event["event"] for event in node.events()] == ["clock-unset", "clock-stepped"]
    assert node.events()[0]["text"] == "no time server answers: the clocks follow serv1's"


def test_followed_already(node: Node) -> None:
    node.servers(SILENT)
    node.sees("serv1", 0.3)
    found = node.answer(node="serv2")
    assert (found["action"], found["skew"], node.calls()) == ("follow", {"serv1": 0.3}, ["hwclock --systohc"])


def test_two_nodes_do_not_chase_each_other(node: Node) -> None:
    node.servers(SILENT)
    node.sees("serv2", 90.0)
    found = node.answer(code=3)
    assert found["action"] == "none"
    assert "the other nodes follow it" in found["text"]
    assert node.calls() == []
    assert "clock-skew" in [event["event"] for event in node.events()]


@pytest.mark.parametrize("how", ["nothing", "stale", "unheard", "unknown"])
def test_a_clock_that_is_not_known_is_not_followed(node: Node, how: str) -> None:
    node.servers(SILENT)
    if how != "nothing":
        node.sees(
            "serv1", None if how == "unknown" else 90.0, heard=how != "unheard", age=61.0 if how == "stale" else 0.0
        )
    found = node.answer(node="serv2", code=3)
    assert (found["action"], found["skew"], node.calls()) == ("none", {"serv1": None}, [])


def test_no_servers_at_all(node: Node) -> None:
    assert node.answer()["action"] == "none"
    node.sees("serv1", 5.0)
    assert node.answer(node="serv2")["action"] == "follow"
    assert [call.split()[0] for call in node.calls()] == ["date", "hwclock"]
    assert "clock-unset" not in [event["event"] for event in node.events()]


def test_the_skew_between_the_nodes_is_always_told(node: Node) -> None:
    node.servers(*TRUE)
    node.sees("serv2", -7.25)
    assert node.answer()["skew"] == {"serv2": -7.25}
    (event,) = node.events()
    assert (event["event"], event["peer"], event["skew"]) == ("clock-skew", "serv2", -7.25)
    assert "the clock of serv2 is 7.250 s behind" in node.timesync("-v").stdout
    node.sees("serv2", 1.5)
    node.answer()
    assert len(node.events()) == 2


def test_after_a_step_the_skew_is_what_is_left_of_it(node: Node) -> None:
    node.servers(FALSE)
    node.sees("serv2", LIE)
    found = node.answer()
    assert abs(found["skew"]["serv2"]) < 2
    assert "clock-skew" not in [event["event"] for event in node.events()]


def test_one_at_a_time(node: Node) -> None:
    with Lock("timesync"):
        assert node.timesync().returncode == 75


def test_nobody_to_ask_with(node: Node) -> None:
    node.servers(*TRUE)
    node.box.program("ntpdig", "exit 127")
    done = node.timesync()
    assert done.returncode == 1 and "ntpsec-ntpdig" in done.stderr


@pytest.mark.parametrize(
    "said",
    ["", "{", "[]", "null", '{"offset": "x", "precision": 0}', '{"offset": NaN, "precision": 0}', '{"offset": 1}'],
)
def test_an_answer_that_is_none(node: Node, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    node.box.program("ntpdig", f"echo '{said}'")
    assert ntp.ask(["a", "b", "a"]) == ([], ["a", "b"])


def test_many_servers_are_asked_at_once(node: Node) -> None:
    node.box.program("ntpdig", 'sleep 1; echo \'{"offset": 0.5, "precision": 0.1}\'')
    begun = time.monotonic()
    samples, silent = ntp.ask([f"server{number}" for number in range(8)])
    assert (len(samples), silent) == (8, [])
    assert time.monotonic() - begun < 5


def test_chronyd_keeps_the_clock(node: Node, lan: Lan) -> None:
    node.servers(*TRUE)
    lan.client(TRUE[0], FALSE, TRUE[1], SILENT)
    try:
        lan.settled(3)
        found = node.answer()
        assert verdicts(found) == {TRUE[0]: "good", TRUE[1]: "good", FALSE: "false", SILENT: "silent"}
        assert abs(next(each["offset"] for each in found["servers"] if each["server"] == FALSE) - LIE) < 2
        assert found["action"] == "chronyd"
        assert node.calls() == ["hwclock --systohc"]
    finally:
        lan.stop("client")


def told_not_to_ask(lan: Lan, count: int) -> None:
    """As by a hook of NetworkManager's while there is no way to the LAN; a burst that is under way ends first."""
    lan.chronyc("offline")
    deadline = time.monotonic() + 30
    while not lan.chronyc("-c", "activity").startswith(f"0,{count},0,0,"):
        assert time.monotonic() < deadline, lan.chronyc("-c", "activity")
        time.sleep(0.1)


def test_a_chronyd_that_was_told_not_to_ask_asks_again(node: Node, lan: Lan) -> None:
    lan.client(*TRUE)
    try:
        lan.settled(3)
        told_not_to_ask(lan, 3)
        found = node.answer()
        assert "good" in verdicts(found).values() and found["action"] == "chronyd"
        assert lan.chronyc("-c", "activity").split(",")[1] == "0"
        assert [event["event"] for event in node.events()] == []
    finally:
        lan.stop("client")


def test_without_a_way_to_its_sources_chronyd_goes_on_not_asking(node: Node, lan: Lan) -> None:
    node.servers(*TRUE)
    lan.client("192.0.2.1")
    try:
        told_not_to_ask(lan, 1)
        began = time.monotonic()
        assert "none of chronyd's sources answers" in node.answer(code=3)["text"]
        assert time.monotonic() - began < ntp.AWAKE / 2
        assert lan.chronyc("-c", "activity").startswith("0,1,")
    finally:
        lan.stop("client")


@pytest.mark.parametrize(
    ("activity", "wanted"), [("0,3,0,0,0", ["chronyc onoffline"]), ("3,0,0,0,0", []), ("0,0,0,0,1", [])]
)
def test_chronyd_is_told_to_ask_only_if_it_does_not(node: Node, activity: str, wanted: list[str]) -> None:
    """And never in a dry run, nor when one of its sources has answered."""
    silent = f"""case "$*" in
*tracking) echo "00000000,,0,0.0,0,0,0,0,0,0,0,0,0,Not synchronised" ;;
*sources) echo "^,?,10.9.0.9,0,6,0,4294967295,0.0,0.0,0.0" ;;
*activity) echo {activity} ;;
*) echo "chronyc $*" >> {node.calls_file} ;;
esac"""
    node.box.program("chronyc", silent)
    assert node.timesync("--dry-run").stdout.splitlines() == [f"would run: {call}" for call in wanted]
    assert node.calls() == []
    node.answer()
    assert node.calls() == wanted
    node.box.program("chronyc", silent.replace(",6,0,4294967295", ",6,377,0"))
    node.answer(code=3)
    assert node.calls() == wanted


def chronyc(node: Node, *, correction: float, leap: str = "Normal", ahead: float = 0.0) -> None:
    """A chronyd that has still so much to correct."""
    node.box.program(
        "chronyc",
        f"""case "$*" in
*tracking) echo "0A090001,10.9.0.1,3,1795476875.65,{correction:.9f},0,0,0,0,0,0,0,0.3,{leap}" ;;
*sources) echo "^,*,10.9.0.1,2,-2,377,0,{ahead:.9f},0.000000393,0.000004721" ;;
*) echo "chronyc $*" >> {node.calls_file} ;;
esac""",
    )


def test_chronyd_steps_what_is_too_much_to_slew(node: Node) -> None:
    chronyc(node, correction=-90.25)
    found = node.answer()
    assert (found["action"], found["offset"]) == ("step", -90.25)
    assert node.calls() == ["chronyc makestep", "hwclock --systohc"]
    chronyc(node, correction=0.25)
    assert node.answer()["action"] == "chronyd"
    assert len(node.calls()) == 3


def test_chronyd_without_a_source_yet(node: Node) -> None:
    chronyc(node, correction=0.0, leap="Not synchronised")
    found = node.answer(code=3)
    assert "has not chosen a source" in found["text"]
    assert node.calls() == []


@pytest.mark.parametrize("servers", [TRUE, ()])
def test_chronyd_whose_sources_are_silent(node: Node, servers: tuple[str, ...]) -> None:
    """[timesync] servers are not asked where chronyd runs, though they would answer: its own sources count."""
    node.servers(*servers)
    node.box.program(
        "chronyc",
        """case "$*" in
*tracking) echo "00000000,,0,0.0,0,0,0,0,0,0,0,0,0,Not synchronised" ;;
*sources) echo "^,?,10.9.0.9,0,6,0,4294967295,0.0,0.0,0.0" ;;
*activity) echo 1,0,0,0,0 ;;
esac""",
    )
    found = node.answer(code=3 if servers else 0)
    assert found["text"] == "none of chronyd's sources answers: this clock is left as it is, the other nodes follow it"
    told = [event["text"] for event in node.events() if event["event"] == "clock-unset"]
    assert told == (["none of chronyd's sources answers: the clocks follow serv1's"] if servers else [])
    assert node.calls() == []


def test_a_chronyc_that_speaks_otherwise(node: Node) -> None:
    node.box.program("chronyc", "echo hello")
    with pytest.raises(Failed, match="not understood"):
        ntp.chronyd()
    with pytest.raises(Failed, match="not understood"):
        ntp.ask_chronyd(ntp.Daemon(True, 0.0))
    node.box.program("chronyc", 'case "$*" in *activity) echo hello;; esac')
    with pytest.raises(Failed, match="chronyc activity: not understood"):
        ntp.ask_chronyd(ntp.Daemon(True, 0.0))


def test_no_chronyd(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "environment", lambda _extra=None: {"PATH": "/nowhere"})
    assert ntp.chronyd() is None
    assert model.hostname()
