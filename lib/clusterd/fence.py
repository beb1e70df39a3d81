"""Fencing: making sure that a silent peer is off, by any program with the fence-agents interface.

The agent gets its options on stdin, one ``key=value`` a line, as fenced of the Red Hat cluster suite began it and
fence-agents(8) still have it; exit 0 means done. `off` is believed only when `status` says so afterwards: an agent
that says "done" without doing it would make two holders. It is never asked for its own `reboot`: after that its status
says "on", which proves nothing.
"""

from clusterd import lock, paths, run, state, view
from clusterd.errors import Busy, CannotTell, Failed
from clusterd.model import Config, Node
from clusterd.picture import NOT_FENCED

ON, OFF = 0, 2
"""Exit codes of `status`. (Agents' `monitor` and `status`, fence-agents API.)"""
NAMES = {ON: "on", OFF: "off"}
CUTS = ("off", "reboot")
CHANGES = (*CUTS, "on")
ACTIONS = ("status", *CHANGES, "monitor")
"""What a person may have done by hand."""


def wanted(config: Config) -> bool:
    """Whether there is an agent: then its success is the proof that a peer is off, and nothing else is."""
    return config.fence.agent != "none"


def off(config: Config, node: Node, *, owed: bool = False) -> None:
    """Switch `node` off, and make sure.

    One at a time: of several takeovers from one dead node the first does it, and the others wait for that.
    `owed`: it is to be switched on again, by whoever sees the takeover through (`owed_on`).

    Raises:
        Failed: it is not known to be off; nothing may be taken over from it.
    """
    if run.dry_run:
        act(config, node, "off")
        return
    asked = view.now()
    try:
        with lock.wait_for(f"fence-{node.name}", 3 * config.fence.timeout):
            if _known_off(node) < asked:
                _off(config, node, owed)
    except Busy as busy:
        raise Failed(f"{NOT_FENCED}{node.name}: {busy}") from None


def _off(config: Config, node: Node, owed: bool) -> None:
    done = act(config, node, "off")
    if not done.ok:
        raise Failed(f"{NOT_FENCED}{node.name} could not be switched off: {done.why()}")
    _note(node, owed=owed)
    said = act(config, node, "status")
    if said.code != OFF:
        how = "it is on" if said.ok else said.why()
        raise Failed(f"{NOT_FENCED}{node.name} is not known to be off: the agent said done, and its status says {how}")
    _note(node, off=view.now(), owed=owed)


def owed_on(config: Config) -> list[Node]:
    """Whom a takeover has switched off, and nobody has switched on again yet; it may have been cut."""
    return [node for node in config.nodes.values() if _known(node).get("owed")]


def _known_off(node: Node) -> float:
    """When it was last known to be off, in this boot; minus infinity if it was not."""
    try:
        return float(str(_known(node)["off"]))
    except (KeyError, TypeError, ValueError):
        return float("-inf")


def _known(node: Node) -> dict[str, object]:
    """What is known of it in this boot."""
    try:
        fact = state.read(_fact(node))
    except Failed:
        return {}
    return fact if isinstance(fact, dict) and fact.get("boot") == state.boot_id() else {}


def _note(node: Node, **what: object) -> None:
    state.write(_fact(node), {"boot": state.boot_id(), **what}, durable=False)


def _fact(node: Node) -> str:
    return f"{paths.FENCED}/{node.name}.json"


def on(config: Config, node: Node) -> None:
    """Switch `node` on, and make sure.

    Raises:
        Failed: it is not known to be on.
    """
    done = act(config, node, "on")
    if not done.ok:
        raise Failed(f"{node.name} could not be switched on: {done.why()}")
    if run.dry_run:
        return
    said = act(config, node, "status")
    if said.code != ON:
        how = "it is off" if said.code == OFF else said.why()
        raise Failed(f"{node.name} is not known to be on: the agent said done, and its status says {how}")
    _note(node)


def status(config: Config, node: Node) -> str:
    """on or off, as the agent says.

    Raises:
        CannotTell: it does not say either.
    """
    said = act(config, node, "status")
    if said.code not in (ON, OFF):
        raise CannotTell(f"whether {node.name} is on: {said.why()}")
    return NAMES[said.code]


def by_hand(config: Config, node: Node, action: str) -> str:
    """One of `ACTIONS`; returns how it is afterwards: on, off, or what the agent says of itself (monitor).

    Raises:
        Failed: it was not done, or is not known to be.
        CannotTell: its state is not known.
    """
    if action == "monitor":
        said = act(config, node, action)
        if not said.ok:
            raise Failed(f"the agent: {said.why()}")
        return "the agent reaches its device"
    if action in CUTS:
        off(config, node)
    if action in ("on", "reboot"):
        on(config, node)
    return action if run.dry_run else status(config, node) if action == "status" else "off" if action == "off" else "on"


def act(config: Config, node: Node, action: str) -> run.Result:
    """Run the agent with one action: off, on, status, monitor. One that does not end in time is killed."""
    options = {**dict(config.fence.options), **dict(node.fence), "action": action, "nodename": node.name}
    text = "".join(f"{key}={value}\n" for key, value in options.items())
    changes = action not in ("status", "monitor")
    return run.run([config.fence.agent], timeout=config.fence.timeout, stdin=text, changes=changes)
