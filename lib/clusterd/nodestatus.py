"""What a node says of itself to ``cluster status``: facts of this moment, for programs and for people."""

import time
from typing import Any

from clusterd import __version__, durations, model, ownership, services, view
from clusterd.errors import ClusterdError
from clusterd.model import Config


def facts(config: Config) -> dict[str, Any]:
    """This node's state, as JSON values. What cannot be told is None."""
    seen = view.read()
    standby = ownership.standby()
    me = config.me().name
    return {
        "node": me,
        "version": __version__,
        "watchdog": seen is not None,
        "standby": standby._asdict() if standby else None,
        "groups": _groups(config),
        "peers": {name: peer.heard for name, peer in seen.peers.items()} if seen else None,
        "conditions": seen.conditions if seen else None,
        "arbiter": seen.arbiter.get("text", "") if seen else "",
        "configuration": config.digest[:12],
        "clock": time.time(),
    }


def _groups(config: Config) -> dict[str, dict[str, Any]]:
    """Every group as this node knows it; its services only where they are to run, all asked at once: one that does not
    answer makes the others' answers no later.
    """
    from concurrent.futures import ThreadPoolExecutor

    known = {group.name: _group(group) for group in config.groups()}
    asked = [
        (group.name, service)
        for group in config.groups()
        if known[group.name]["held"]
        for service in group.services
        if service.kind != "none"
    ]
    with ThreadPoolExecutor(max_workers=len(asked) or 1) as pool:
        states = pool.map(services.status, [service for _, service in asked])
    for (group, service), state in zip(asked, states, strict=True):
        known[group]["services"][service.name] = state
    return known


def _group(group: model.Group) -> dict[str, Any]:
    """One group as its record says."""
    try:
        record = ownership.read(group.name)
    except ClusterdError as error:
        return {"held": None, "problem": str(error)}
    return {
        "held": record.held_by(model.hostname()),
        "holder": record.holder,
        "epoch": record.epoch,
        "phase": record.phase,
        "services": {},
    }


def lines(answers: dict[str, dict[str, Any]], unreachable: dict[str, str]) -> list[str]:
    """The table for people: a line a node, then what is the matter.

    Args:
        answers: the facts of each node that answered.
        unreachable: the others, and why.
    """
    digests = {answer["configuration"] for answer in answers.values()}
    rows: list[tuple[str, ...]] = [("NODE", "WATCHDOG", "STANDBY", "HOLDS", "SERVICES", "CONFIGURATION")]
    rows += [_row(name, answer, same=len(digests) == 1) for name, answer in answers.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    shown += [f"{name.ljust(widths[0])}  {why}" for name, why in unreachable.items()]
    told = [
        f"{name}: {condition}: {text}"
        for name, answer in answers.items()
        for condition, _, text in answer["conditions"] or ()
    ]
    told += [f"{name}: {answer['arbiter']}" for name, answer in answers.items() if answer.get("arbiter")]
    return shown + ([""] if told else []) + told


def _row(name: str, answer: dict[str, Any], *, same: bool) -> tuple[str, ...]:
    held = {group: known for group, known in answer["groups"].items() if known["held"]}
    words = {True: "runs", False: "stopped", None: "unknown"}
    running = [f"{service} {words[state]}" for known in held.values() for service, state in known["services"].items()]
    return (
        name,
        "runs" if answer["watchdog"] else "NOT RUNNING",
        _standby(answer["standby"]),
        ", ".join(f"{group} (epoch {known['epoch']})" for group, known in held.items()) or "-",
        ", ".join(running) or "-",
        answer["configuration"] if same else f"{answer['configuration']} DIFFERS",
    )


def _standby(standby: dict[str, Any] | None) -> str:
    if standby is None:
        return "no"
    age = durations.show(max(0.0, time.time() - standby["since"]))
    return f"for {age}, by the {standby['cause']}: {standby['reason']}"
