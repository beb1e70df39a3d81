"""The key of the heartbeats is replaced: step by step, wherever it is cut off, and two watchdogs hear each other all
the time.
"""

import itertools
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from clusterd import fleet, keyfile, model, paths, remote, rotation, run, state, view, watch
from clusterd.commands import cluster
from clusterd.errors import ConfigError, Failed
from clusterd.keyfile import Keys
from clusterd.model import Config
from clusterd.remote import Answer
from unit.site import Peer, Site, wait
from unit.site import made_peer as made_peer
from unit.site import made_site as made_site
from unit.test_watch import Make, talk
from unit.test_watch import making as making

if TYPE_CHECKING:
    from unit.conftest import Box

pytest_plugins = ["lan"]

OLD, NEW, OTHER = b"the old secret of the cluster", b"the new secret of the cluster", b"another new secret of it"
PLAIN, FIRST, SECOND, THIRD = Keys(OLD), Keys(OLD, coming=NEW), Keys(NEW, going=OLD), Keys(NEW)
STATES = (PLAIN, FIRST, SECOND, THIRD)


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", STATES)
def test_what_is_written_is_read(pair: Config, box: "Box", keys: Keys) -> None:
    keyfile.write(pair.folder, keys)
    assert keyfile.read(pair) == keys
    assert (box.conf / "key").stat().st_mode & 0o777 == 0o600
    assert keys.secrets[0] == keys.first


def test_a_secret_with_spaces_or_that_is_no_text_is_one(pair: Config, box: "Box") -> None:
    for secret in (b"an example of a key, not a secret", bytes(range(128, 160)), b"coming to us, all of you"):
        (box.conf / "key").write_bytes(secret + b"\n")
        assert keyfile.read(pair) == Keys(secret)
        keyfile.write(pair.folder, Keys(secret, coming=NEW))
        assert keyfile.read(pair) == Keys(secret, coming=NEW)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "found 0 bytes"),
        (OLD + b"\n" + NEW, "line 2: found something else"),
        (OLD + b"\ncoming short", "found 5 bytes"),
        (OLD + b"\ncoming " + NEW + b"\ngoing " + OTHER, "line 3: found something else"),
        (OLD + b"\n# a comment", "line 2: found something else"),
    ],
)
def test_a_file_that_says_something_else(pair: Config, box: "Box", text: bytes, said: str) -> None:
    (box.conf / "key").write_bytes(text)
    with pytest.raises(ConfigError, match=said):
        keyfile.read(pair)


def test_fingerprints_tell_keys_apart_and_nothing_else() -> None:
    marks = {mark for keys in STATES for mark in keys.marks if mark}
    assert len(marks) == 2
    assert not any(secret.decode() in str(marks) for secret in (OLD, NEW))


# --- the steps -------------------------------------------------------------------------------------------------------


def understand(one: Keys, other: Keys) -> bool:
    """Whether each opens what the other signs."""
    return one.first in other.secrets and other.first in one.secrets


@pytest.mark.parametrize("nodes", [2, 3])
def test_whoever_writes_last_and_wherever_it_is_cut_all_understand_each_other(nodes: int) -> None:
    """Every order in which the nodes take a step, cut after any of them, gone on with from any node."""
    for before, after in itertools.pairwise(STATES):
        for done in itertools.product([False, True], repeat=nodes):
            files = [after if has else before for has in done]
            assert all(understand(one, other) for one in files for other in files)
            for here in files:
                made = rotation.next_step(here, [keys.marks for keys in files], OTHER, begin=False)
                if all(keys == files[0] for keys in files):
                    wanted = {FIRST: (2, SECOND), SECOND: (3, THIRD), THIRD: None, PLAIN: None}[files[0]]
                    assert made == wanted
                    continue
                assert made is not None
                assert all(understand(made[1], keys) for keys in files), "the step may be taken one by one"
                if before == PLAIN and here == PLAIN:
                    assert made == (1, Keys(OLD, coming=OTHER)), "what was to come is known elsewhere only: anew"
                else:
                    assert made[1] == after


def test_it_begins_only_when_it_is_asked_to() -> None:
    marks = [PLAIN.marks] * 2
    assert rotation.next_step(PLAIN, marks, NEW, begin=True) == (1, FIRST)
    assert rotation.next_step(PLAIN, marks, NEW, begin=False) is None


def test_two_that_came_from_two_places_are_made_one() -> None:
    said = [Keys(OLD, coming=NEW).marks, Keys(OLD, coming=OTHER).marks]
    assert rotation.next_step(FIRST, said, b"never used", begin=False) == (1, FIRST)


@pytest.mark.parametrize("files", [(PLAIN, SECOND), (PLAIN, THIRD), (FIRST, THIRD), (PLAIN, Keys(OTHER))])
def test_keys_that_do_not_belong_together_are_left_alone(files: tuple[Keys, Keys]) -> None:
    with pytest.raises(Failed, match="cluster push"):
        rotation.next_step(files[0], [keys.marks for keys in files], NEW, begin=True)


# --- all nodes -------------------------------------------------------------------------------------------------------


class Pair:
    """Two nodes' files; what `cluster keys` does on each, without ssh."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config = config
        self.files = {"serv1": PLAIN, "serv2": PLAIN}
        self.watchdogs = dict(self.files)
        self.trouble: dict[str, str] = {}
        """By node: dead, stopped, deaf, stuck."""
        self.written: list[tuple[str, Keys]] = []
        self.before: Callable[[str], None] = lambda _node: None
        keyfile.write(config.folder, PLAIN)
        monkeypatch.setattr(rotation, "POLL", 0.01)
        monkeypatch.setattr(rotation, "PATIENCE", 0.2)
        monkeypatch.setattr(fleet, "everywhere", self.everywhere)
        monkeypatch.setattr(remote, "ask", self.ask)
        monkeypatch.setattr(rotation, "take", self.take)

    def everywhere(self, *_: Any, **__: Any) -> list[Answer]:
        self.files["serv1"] = keyfile.read(self.config)
        for node, keys in self.files.items():
            if self.trouble.get(node) != "stuck":
                self.watchdogs[node] = keys
        assert understand(*self.watchdogs.values())
        return [self._facts(node) for node in self.files]

    def _facts(self, node: str) -> Answer:
        trouble = self.trouble.get(node)
        if trouble == "dead":
            return Answer(node, None, why="does not answer (192.168.111.2: no answer)")
        in_use = None if trouble == "stopped" else self.watchdogs[node].marks
        deaf = ["serv1"] if trouble == "deaf" else []
        return Answer(node, 0, json.dumps({"file": self.files[node].marks, "in_use": in_use, "deaf": deaf}))

    def take(self, _config: Config, order: str) -> None:
        self._take("serv1", order)
        keyfile.write(self.config.folder, self.files["serv1"])

    def ask(self, _config: Config, node: model.Node, *_: Any, stdin: bytes, **__: Any) -> Answer:
        if self.trouble.get(node.name) == "dead":
            return Answer(node.name, None, why="the connection broke")
        self._take(node.name, stdin.decode())
        return Answer(node.name, 0)

    def _take(self, node: str, order: str) -> None:
        self.before(node)
        fact = json.loads(order)
        assert fact["was"] == list(self.files[node].marks)
        self.files[node] = Keys(*(each.encode() for each in fact["keys"]))
        self.written.append((node, self.files[node]))


@pytest.fixture
def both(pair: Config, monkeypatch: pytest.MonkeyPatch) -> Pair:
    return Pair(pair, monkeypatch)


@pytest.fixture
def call(box: "Box", monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setattr(run, "dry_run", False)  # one that a test asks for ends with it
    monkeypatch.setattr("sys.stdin", open(os.devnull, encoding="utf-8"))  # noqa: SIM115
    return lambda *words: cluster.main(["--config", str(box.conf), *words])


def test_three_steps_on_all_nodes(both: Pair, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("rotate-key") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["step 1 of 3", "step 2 of 3", "step 3 of 3", lines[3]]
    assert lines[3] == "the key was replaced"
    assert [node for node, _ in both.written] == ["serv1", "serv2"] * 3
    new = both.files["serv1"]
    assert both.files["serv2"] == new == Keys(new.first)
    assert len(new.first) == 44 and new.first != OLD
    [event] = [json.loads(line) for line in Path(paths.EVENTS).read_text().splitlines()]
    assert event["event"] == "key-rotated"
    assert new.first.decode() not in json.dumps(event)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [("dead", "serv2: does not answer"), ("stopped", "serv2: no watchdog runs"), ("deaf", "serv2 does not hear serv1")],
)
def test_not_without_all_nodes(
    both: Pair, call: Callable[..., int], capsys: pytest.CaptureFixture[str], trouble: str, said: str
) -> None:
    both.trouble["serv2"] = trouble
    assert call("rotate-key") == 1
    err = capsys.readouterr().err
    assert said in err and len(err.splitlines()) == 1
    assert both.written == []


class Cut(BaseException):
    """The rotating node loses power."""


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("how", ["killed", "dead", "stuck"])
def test_cut_anywhere_and_run_again_it_finishes(
    both: Pair, call: Callable[..., int], capsys: pytest.CaptureFixture[str], after: int, how: str
) -> None:
    def cut(_node: str) -> None:
        if len(both.written) == after:
            if how == "killed":
                raise Cut
            both.trouble["serv2"] = how

    both.before = cut
    if how == "killed":
        with pytest.raises(Cut):
            call("rotate-key")
    else:
        code = call("rotate-key")
        assert code == (1 if how == "dead" or after < 6 else 0)
        assert "run it again" in capsys.readouterr().err
    both.before = lambda _node: None
    both.trouble.clear()
    old = both.files["serv1"].first
    assert call("rotate-key") == 0
    assert both.files["serv1"] == both.files["serv2"] == Keys(both.files["serv1"].first)
    assert both.files["serv1"].first != OLD or old == OLD
    said = capsys.readouterr().out.splitlines()[-1]
    assert said in ("the key was replaced", "the rotation that was under way is finished")


def test_an_unfinished_one_is_said(both: Pair, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    keyfile.write(both.config.folder, SECOND)
    assert call("check") == 0
    assert "rotation of the key is not finished" in capsys.readouterr().out


def test_dry_run(both: Pair, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--dry-run", "rotate-key") == 0
    assert capsys.readouterr().out == "would replace the key on serv1, serv2, in three steps\n"
    assert both.written == []


# --- what a node does for the one that rotates ------------------------------------------------------------------------


def test_a_node_takes_what_fits(pair: Config, box: "Box") -> None:
    keyfile.write(pair.folder, PLAIN)
    order = {"was": PLAIN.marks, "keys": [OLD.decode(), NEW.decode(), ""]}
    rotation.take(pair, json.dumps(order))
    assert keyfile.read(pair) == FIRST
    with pytest.raises(Failed, match="changed here meanwhile"):
        rotation.take(pair, json.dumps(order))
    assert keyfile.read(pair) == FIRST


@pytest.mark.parametrize(
    "order", ["", "{}", "[]", "null", '{"was": 1, "keys": 2}', '{"was": ["", "", ""], "keys": ["a", "b"]}']
)
def test_rubbish_is_refused(pair: Config, order: str) -> None:
    before = keyfile.read(pair)
    with pytest.raises((Failed, ConfigError)):
        rotation.take(pair, order)
    assert keyfile.read(pair) == before


def test_a_short_secret_is_refused(pair: Config) -> None:
    before = keyfile.read(pair)
    with pytest.raises(ConfigError, match="found 5 bytes"):
        rotation.take(pair, json.dumps({"was": before.marks, "keys": ["short", "", ""]}))
    assert keyfile.read(pair) == before


def test_a_node_says_what_its_watchdog_uses(pair: Config, box: "Box") -> None:
    marks = list(keyfile.read(pair).marks)
    assert json.loads(rotation.answer(pair, "")) == {"file": marks, "in_use": None, "deaf": []}
    keyfile.Ring(pair, SECOND)
    peer = view.PeerView("serv2", False, {}, "", {}, None, False, True, None, None)
    until = view.now() + 60
    view.write(view.View("serv1", state.boot_id(), until, until, "", 2, 2, {}, {"serv2": peer}, [], {}))
    assert json.loads(rotation.answer(pair, "")) == {"file": marks, "in_use": list(SECOND.marks), "deaf": ["serv2"]}
    assert Path(paths.KEYS_IN_USE).stat().st_mode & 0o777 == 0o600
    state.write(paths.KEYS_IN_USE, {"boot": "another", "marks": SECOND.marks}, durable=False)
    assert keyfile.in_use() is None


# --- the watchdog ----------------------------------------------------------------------------------------------------


@pytest.fixture
def loop(make: Make, site: Site, peer: Peer) -> Iterator[watch.Watch]:
    """A watchdog that hears serv2 on every path and has its key."""
    keyfile.write(str(site.box.conf), PLAIN)
    peer.key, peer.door.keys = OLD, (OLD,)
    made = make()
    talk(made, peer, until=lambda: made.peers.peers["serv2"].hears_me)
    yield made


def test_a_watchdog_takes_each_step_and_hears_its_peer_all_the_time(
    loop: watch.Watch, site: Site, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "LOOK_EVERY", 0.2)
    incarnation = loop.voice.incarnation
    rules = loop.rules
    silences: list[float] = []

    def used(keys: Keys) -> bool:
        silences.append(max(loop.peers.peers["serv2"].silence(view.now()) or 0.0, 0.0))
        return keyfile.in_use() == keys.marks

    for keys in STATES[1:]:
        keyfile.write(str(site.box.conf), keys)
        talk_while_changed(loop, peer, partial(used, keys))
        peer.key, peer.door.keys = keys.first, keys.secrets
        peer.hears()
        talk_while_changed(loop, peer, lambda: bool(peer.hears()))
        assert peer.door.rejected == {} and loop.door.rejected == {}
    assert loop.voice.incarnation == incarnation, "it has not started again"
    assert max(silences) < rules.dead_after
    wait(lambda: site.told().count("key-changed") == 3)
    assert not {"path-down", "peer-dead", "config-bad"} & set(site.told())
    peer.key = OLD
    peer.say()
    talk_while_changed(loop, peer, lambda: bool(loop.door.rejected))
    assert set(loop.door.rejected) == {"signature"}


def talk_while_changed(loop: watch.Watch, peer: Peer, until: Callable[[], bool]) -> None:
    """As run() does: a turn, and a look at the files when it is due."""

    def looked() -> bool:
        if view.now() >= loop.next_look:
            assert not loop._changed(), "a key is no reason to start again"
        return until()

    talk(loop, peer, until=looked)


def test_a_changed_key_that_cannot_be_used_is_told_and_the_old_one_stays(
    loop: watch.Watch, site: Site, peer: Peer
) -> None:
    key = site.box.conf / "key"
    for spoil in (lambda: key.chmod(0o644), lambda: key.write_text("short\n"), key.unlink):
        spoil()
        loop.next_look = 0.0
        assert not loop._changed()
        assert loop.voice.ring.keys == PLAIN
    talk(loop, peer, until=lambda: "config-bad" in site.told())
    assert loop.door.rejected == {}
