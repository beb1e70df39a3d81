"""Fencing: an agent that checks what it is told on stdin. Off is believed only when status says so."""

import threading
from typing import TYPE_CHECKING

import pytest

from clusterd import fence, lock, model, run, state
from clusterd.errors import CannotTell, Failed
from clusterd.model import Config
from unit.site import wait_gone

if TYPE_CHECKING:
    from unit.conftest import Box

AGENT = """\
[ $# = 0 ] || {{ echo "unexpected words: $*" >&2; exit 64; }}
options=$(cat)
action=$(echo "$options" | sed -n s/^action=//p)
echo "$options" > {root}/options-$action
echo $action >> {root}/actions
case $action in
off) {off} ;;
on) {on} ;;
status) {status} ;;
*) exit 64 ;;
esac"""


def fenced(config: Config, timeout: float = 20.0) -> Config:
    """With an agent, options of the cluster's, and some of serv2's own, one of which stands in both."""
    serv2 = config.nodes["serv2"]._replace(fence=(("port", "2"), ("ipaddr", "10.9.9.2")))
    options = (("ipaddr", "10.9.9.1"), ("login", "admin"), ("passwd", "a b=c"))
    return config._replace(
        fence=model.Fence("fence_test", options, timeout=timeout), nodes={**config.nodes, "serv2": serv2}
    )


def agent(box: "Box", off: str = "exit 0", status: str = "exit 2", on: str = "exit 64") -> None:
    box.program("fence_test", AGENT.format(root=box.root, off=off, status=status, on=on))


def actions(box: "Box") -> list[str]:
    path = box.root / "actions"
    return path.read_text().split() if path.exists() else []


def test_wanted(pair: Config) -> None:
    assert not fence.wanted(pair)
    assert fence.wanted(fenced(pair))


def test_off_and_known_to_be_off(pair: Config, box: "Box") -> None:
    agent(box)
    config = fenced(pair)
    fence.off(config, config.nodes["serv2"])
    assert actions(box) == ["off", "status"]


def test_options_on_stdin(pair: Config, box: "Box") -> None:
    """The cluster's, then the node's, which come last and count; a value may have anything but a line's end."""
    agent(box)
    config = fenced(pair)
    fence.off(config, config.nodes["serv2"])
    for action in ("off", "status"):
        lines = (box.root / f"options-{action}").read_text().splitlines()
        assert len(lines) == len({line.partition("=")[0] for line in lines})
        assert dict(line.split("=", 1) for line in lines) == {
            "ipaddr": "10.9.9.2",
            "login": "admin",
            "passwd": "a b=c",
            "port": "2",
            "action": action,
            "nodename": "serv2",
        }


@pytest.mark.parametrize(
    ("status", "said"),
    [("exit 0", "it is on"), *((how, "fence_test: ") for how in ("exit 1", "exit 3", "exit 127", "kill -9 $$"))],
)
def test_off_is_not_believed_alone(pair: Config, box: "Box", status: str, said: str) -> None:
    agent(box, status=status)
    config = fenced(pair)
    wanted = f"^not fenced: serv2 is not known to be off: the agent said done, and its status says {said}"
    with pytest.raises(Failed, match=wanted):
        fence.off(config, config.nodes["serv2"])


@pytest.mark.parametrize("off", ["echo 'no route to the switch' >&2; exit 1", "exit 2", "kill -9 $$"])
def test_an_agent_that_fails(pair: Config, box: "Box", off: str) -> None:
    agent(box, off=off)
    config = fenced(pair)
    with pytest.raises(Failed, match=r"^not fenced: serv2 could not be switched off: fence_test: "):
        fence.off(config, config.nodes["serv2"])
    assert actions(box) == ["off"]


def test_no_agent_at_all(pair: Config, box: "Box") -> None:
    config = fenced(pair)
    with pytest.raises(Failed, match=r"serv2 could not be switched off: fence_test: exit 127"):
        fence.off(config, config.nodes["serv2"])


@pytest.mark.parametrize("where", ["off", "status"])
def test_an_agent_that_hangs_is_killed_with_all_that_it_has_started(pair: Config, box: "Box", where: str) -> None:
    agent(box, **{where: f"sleep 1000 & echo $! > {box.root}/child; wait"})
    config = fenced(pair, timeout=0.5)
    with pytest.raises(Failed, match=r"^not fenced: .*timed out"):
        fence.off(config, config.nodes["serv2"])
    wait_gone(int((box.root / "child").read_text()))


# --- several takeovers from one dead node ----------------------------------------------------------------------------


def test_takeovers_that_wait_for_the_same_node_fence_it_once(pair: Config, box: "Box") -> None:
    agent(box, off="sleep 0.5")
    config = fenced(pair)
    threads = [threading.Thread(target=fence.off, args=(config, config.nodes["serv2"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert actions(box) == ["off", "status"]


def test_what_was_off_before_is_no_proof_now(pair: Config, box: "Box") -> None:
    """It may have been switched on meanwhile: only what was found after the question counts."""
    agent(box)
    config = fenced(pair)
    for _ in range(2):
        fence.off(config, config.nodes["serv2"])
    assert actions(box) == ["off", "status"] * 2
    agent(box, off="exit 1")
    with pytest.raises(Failed):
        fence.off(config, config.nodes["serv2"])


@pytest.mark.parametrize("fact", ["{}", "[1]", "{", '{"boot": "another", "off": 1e12}', '{"boot": 1, "off": "x"}'])
def test_a_damaged_or_old_proof_is_none(pair: Config, box: "Box", fact: str) -> None:
    agent(box)
    config = fenced(pair)
    state.write_text(f"{box.run}/fenced/serv2.json", fact)
    fence.off(config, config.nodes["serv2"])
    assert actions(box) == ["off", "status"]


def test_one_that_waits_too_long_for_another_has_fenced_nobody(pair: Config, box: "Box") -> None:
    agent(box)
    config = fenced(pair, timeout=0.1)
    with lock.Lock("fence-serv2"), pytest.raises(Failed, match=r"^not fenced: serv2: fence-serv2: busy"):
        fence.off(config, config.nodes["serv2"])
    assert actions(box) == []


# --- by hand, and after the takeover ---------------------------------------------------------------------------------


def test_on_and_known_to_be_on(pair: Config, box: "Box") -> None:
    agent(box, on="exit 0", status="exit 0")
    config = fenced(pair)
    fence.on(config, config.nodes["serv2"])
    assert actions(box) == ["on", "status"]


@pytest.mark.parametrize(
    ("on", "status", "said"),
    [
        ("exit 1", "exit 0", "could not be switched on: fence_test: exit 1"),
        ("exit 0", "exit 2", "is not known to be on: .* it is off"),
        ("exit 0", "exit 1", "is not known to be on: .* fence_test: exit 1"),
    ],
)
def test_on_is_not_believed_alone(pair: Config, box: "Box", on: str, status: str, said: str) -> None:
    agent(box, on=on, status=status)
    config = fenced(pair)
    with pytest.raises(Failed, match=f"^serv2 {said}"):
        fence.on(config, config.nodes["serv2"])


def test_status(pair: Config, box: "Box") -> None:
    config = fenced(pair)
    for code, said in ((0, "on"), (2, "off")):
        agent(box, status=f"exit {code}")
        assert fence.status(config, config.nodes["serv2"]) == said
    agent(box, status="echo 'no route to the switch' >&2; exit 1")
    with pytest.raises(CannotTell, match="whether serv2 is on: fence_test: exit 1: no route to the switch"):
        fence.status(config, config.nodes["serv2"])


def test_dry_run(pair: Config, box: "Box", monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    agent(box)
    monkeypatch.setattr(run, "dry_run", True)
    config = fenced(pair)
    fence.off(config, config.nodes["serv2"])
    assert actions(box) == []
    assert capsys.readouterr().out == "would run: fence_test\n"
