"""Another secret for the heartbeats, without a moment in which two nodes do not understand each other.

Three steps, each on all nodes before the next begins: the new secret opens as well; it signs, and the old one still
opens; the old one goes. A node has taken a step when its watchdog uses what is in the file and hears all its peers
with it. What was interrupted anywhere is found in the files: run again, it goes on from there.
"""

import argparse
import json
import time
from collections.abc import Sequence
from typing import NamedTuple

from clusterd import fleet, keyfile, log, model, remote, view
from clusterd.errors import Failed
from clusterd.keyfile import Keys, Marks
from clusterd.model import Config

PATIENCE = 30.0
"""Seconds for the watchdogs to take a step; they look at the file every second."""
POLL = 0.5
STEPS = ("", "the new key opens", "the new key signs, the old one still opens", "the old key is gone")


class Said(NamedTuple):
    """What a node says of its keys."""

    node: str
    file: Marks
    in_use: Marks | None
    """By its watchdog; None: there is none that says so."""
    deaf: tuple[str, ...]
    """Peers that its watchdog does not hear."""


def answer(config: Config, order: str) -> str:
    """What this node says to the one that rotates, which may have sent keys to be taken.

    Raises:
        Failed, ConfigError: they are not taken.
    """
    if order:
        take(config, order)
    seen = view.read()
    in_use = keyfile.in_use() if seen else None
    deaf = [peer.name for peer in seen.peers.values() if not peer.heard] if seen else []
    return json.dumps({"file": keyfile.read(config).marks, "in_use": in_use, "deaf": deaf})


def take(config: Config, order: str) -> None:
    """Put the keys into place that the node which rotates has sent, in place of those that it expects here.

    Raises:
        Failed: others are here by now, or the order is none.
    """
    try:
        fact = json.loads(order)
        was, (first, coming, going) = list(fact["was"]), fact["keys"]
        made = Keys(*(each.encode("utf-8", "surrogateescape") for each in (first, coming, going)))
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Failed("not an order of another node's: are both programs of the same version?") from None
    keyfile.parse("the key sent here", keyfile.content(made))
    if list(keyfile.read(config).marks) != was:
        raise Failed("the key was changed here meanwhile: run it again")
    keyfile.write(config.folder, made)


def rotate(config: Config, options: argparse.Namespace) -> bool:
    """Take the steps that are left, or all three; whether these were all. Prints each.

    Raises:
        Failed: a node does not answer, or has not taken a step: nothing more is done, run it again.
    """
    new = keyfile.make()
    said = _ask(config, options)
    whole = begin = all(not coming and not going for _, coming, going in (each.file for each in said))
    while wanted := next_step(keyfile.read(config), [each.file for each in said], new, begin=begin):
        step, keys = wanted
        begin = False
        _give(config, options, said, keys)
        said = _wait(config, options, keys.marks)
        print(f"step {step} of 3, on {', '.join(config.nodes)}: {STEPS[step]}", flush=True)
    return whole


def next_step(mine: Keys, said: Sequence[Marks], new: bytes, *, begin: bool) -> tuple[int, Keys] | None:
    """The step that is to be taken by all nodes, and what is in every file then; None: nothing is left. Pure.

    Args:
        mine: what is in this node's file.
        said: the fingerprints of what is in every node's file.
        new: the secret that is to come.
        begin: whether a rotation is to begin if none is under way.

    Raises:
        Failed: the files do not fit together.
    """
    kinds = {"going" if going else "coming" if coming else "plain" for _, coming, going in said}
    firsts = {first for first, _, _ in said}
    pairs = {(going, first) if going else (first, coming) for first, coming, going in said if coming or going}
    if len(firsts) == 1 and kinds == {"plain"}:
        return (1, Keys(mine.first, coming=new)) if begin else None
    if len(firsts) == 1 and (kinds == {"plain", "coming"} or (kinds == {"coming"} and len(pairs) > 1)):
        # Nobody signs with what is coming yet: which one it is does not matter.
        return 1, Keys(mine.first, coming=mine.coming or new)
    if len(pairs) == 1 and kinds <= {"coming", "going"}:
        if kinds == {"going"}:
            return 3, Keys(mine.first)
        return 2, mine if mine.going else Keys(mine.coming, going=mine.first)
    if len(firsts) == 1 and len(pairs) == 1 and kinds == {"plain", "going"}:
        return 3, Keys(mine.first)
    raise Failed("the nodes' keys do not belong together: copy one node's with cluster push, then run it again")


def _ask(config: Config, options: argparse.Namespace) -> list[Said]:
    """What every node says; all must answer, and all watchdogs hear each other.

    Raises:
        Failed: one does not. Nothing was changed by this.
    """
    said = _facts(config, options)
    for each in said:
        if each.in_use is None:
            raise Failed(f"{each.node}: no watchdog runs there: the key stays as it is; run it again when one does")
        if each.deaf:
            raise Failed(
                f"{each.node} does not hear {', '.join(each.deaf)}: the key stays as it is; run it again when it does"
            )
    return said


def _facts(config: Config, options: argparse.Namespace) -> list[Said]:
    answers = fleet.everywhere(config, fleet.own("keys", options), timeout=fleet.QUICK)
    said = []
    for answer in answers:
        if not answer.ok:
            raise Failed(f"{answer.node}: {answer.text()}: the key stays as it is; run it again when all nodes answer")
        fact = json.loads(answer.stdout)
        in_use = _marks(fact["in_use"]) if fact["in_use"] else None
        said.append(Said(answer.node, _marks(fact["file"]), in_use, tuple(fact["deaf"])))
    return said


def _marks(fact: Sequence[str]) -> Marks:
    first, coming, going = fact
    return first, coming, going


def _give(config: Config, options: argparse.Namespace, said: Sequence[Said], keys: Keys) -> None:
    """Have `keys` in every node's file, this one's first: what is coming must be known where it is rotated.

    Raises:
        Failed: a node did not take them.
    """
    secrets = [secret.decode("utf-8", "surrogateescape") for secret in keys]
    for each in sorted(said, key=lambda each: each.node != model.hostname()):
        if each.file == keys.marks:
            continue
        order = json.dumps({"was": each.file, "keys": secrets})
        if each.node == model.hostname():
            take(config, order)
            continue
        answer = remote.ask(
            config,
            config.nodes[each.node],
            fleet.own("keys", options),
            timeout=fleet.QUICK,
            stdin=order.encode(),
            changes=True,
        )
        if not answer.ok:
            raise Failed(f"{each.node}: {answer.text()}: the rotation stops here; run it again, it goes on")


def _wait(config: Config, options: argparse.Namespace, marks: Marks) -> list[Said]:
    """Wait until every watchdog uses these keys and hears its peers with them.

    Raises:
        Failed: one does not in time, or a file is another one.
    """
    end = time.monotonic() + PATIENCE
    while True:
        said = _facts(config, options)
        waiting = [each for each in said if each.in_use != marks or each.file != marks or each.deaf]
        if not waiting:
            return said
        if time.monotonic() > end:
            raise Failed(f"{_why(waiting[0], marks)}: the rotation stops here; run it again, it goes on")
        log.debug(_why(waiting[0], marks))
        time.sleep(POLL)


def _why(said: Said, marks: Marks) -> str:
    if said.file != marks:
        return f"{said.node}: its key file was changed again meanwhile"
    if said.in_use != marks:
        return f"{said.node}: its watchdog does not use the changed key"
    return f"{said.node} does not hear {', '.join(said.deaf)}"
