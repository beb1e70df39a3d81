"""The gate: what nodes may ask of each other, and nothing else. The peer's key opens the gate, not a shell.

It is the forced command of the nodes' key in authorized_keys, and what is called by name with rsh. Every request is
a verb and words of a fixed form; nothing of it ever reaches a shell.
"""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from clusterd import config, log, ownership
from clusterd.errors import OK, CannotTell, ClusterdError, Failed, NotPermitted
from clusterd.model import Config, Service

if TYPE_CHECKING:
    from clusterd.view import View

_NAME = r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}"
_EPOCH = r"[0-9]{1,18}"
_SET = r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,127}"
_SEVERAL = 2
"""With more nodes than that, who asks must be known from its key."""


class Request(NamedTuple):
    """Who asks, and where the configuration is."""

    node: str
    """"" if it is not known: then rsh, or a hand, is at it."""
    folder: str
    as_json: bool = False
    """Of an answer that is one word only, and of errors: say them as JSON on stdout."""
    dry_run: bool = False
    """Say what a request would begin, and do not."""


def handle(words: Sequence[str], request: Request) -> int:
    """Do what `words` ask.

    Raises:
        NotPermitted: that is nothing that a node may ask.
    """
    words = list(words)
    if words and os.path.basename(words[0]) == "peer_gate":
        words = words[1:]
    for forms, verb in _VERBS:
        if len(words) == len(forms) and all(map(re.fullmatch, forms, words)):
            if request.dry_run and words[0] in _CHANGING:
                return _plan(words, request)
            return verb(words, request)
    asked = " ".join(words)[:200]
    text = f"{request.node or 'somebody'} asked for what no node may ask: {asked!r}"
    log.event("gate-refused", text, level="warning", node_asking=request.node)
    raise NotPermitted(f"not a request of a node: {asked!r}")


def _plan(words: list[str], request: Request) -> int:
    """--dry-run: what a request that changes something would begin; looks that far whether it may."""
    settings = config.load(request.folder)
    if words[0] == "acquire":
        would = f"take {_group(settings, words)} from a node that has let go of it at epoch {words[2]}"
    else:
        service, node = _service(settings, words[1]), _node(settings, request)
        would = f"receive files of {service.name} from {node}, which holds {service.home} at epoch {words[2]}"
    if request.as_json:
        import json

        print(json.dumps({"would": [would]}))
    else:
        print(f"would {would}")
    return OK


def _group(settings: Config, words: list[str]) -> str:
    """The group that is to be acquired.

    Raises:
        Failed: there is none.
        NotPermitted: the epoch cannot be.
    """
    group, epoch = words[1], int(words[2])
    if group not in settings.nodes:
        raise Failed(f"no such group here: {group}")
    known = ownership.read(group).epoch
    if not ownership.credible(known, epoch):
        raise NotPermitted(f"epoch {epoch} of {group} cannot be: {known} is known here")
    return group


def _clock(_words: list[str], request: Request) -> int:
    print(f'{{"clock": {time.time():.6f}}}' if request.as_json else f"{time.time():.6f}")
    return OK


def _status(_words: list[str], _request: Request) -> int:
    from clusterd import view

    print(view.text(current()))
    return OK


def current() -> "View":
    """The watchdog's view, with what the records and locks of the groups say at this moment.

    Raises:
        CannotTell: it is not running.
    """
    from clusterd import lock, view

    seen = view.read()
    if seen is None:
        raise CannotTell("the watchdog is not running here: nothing is known")
    groups = {}
    for name, fact in seen.groups.items():
        busy = fact["busy"]
        try:
            record = ownership.read(name)
            busy = busy or lock.held(f"group-{name}") or ownership.read(name) != record  # a script has come and gone
            fact |= {"epoch": record.epoch, "holder": record.holder, "held": record.held_by(seen.node)}
        except Failed as error:
            log.debug(str(error))  # the watchdog tells; what it knew before is in its view
            busy = True  # nothing is to be concluded from that
        groups[name] = {**fact, "busy": busy}
    return seen._replace(groups=groups)


def _ready(words: list[str], request: Request) -> int:
    """Whether this node may and can take the group: it is not in standby by a person's will, and knows its services."""
    import json

    settings = config.load(request.folder)
    if words[1] not in settings.nodes:
        raise Failed(f"no such group here: {words[1]}")
    standby = ownership.standby()
    if standby and standby.cause == ownership.PERSON:
        raise NotPermitted(f"in standby, set by a person: {standby.reason}")
    if settings.arbiter.kind != "reference":
        from clusterd import arbiter

        arbiter.check(settings)
    group = settings.group(words[1])
    _check_link(settings, group.name)
    answer = {
        "ready": True,
        "epoch": ownership.read(group.name).epoch,
        "digest": settings.digest,
        "standby": standby.reason if standby else "",
        "services": [service.name for service in group.services],
    }
    print(json.dumps(answer))
    return OK


def _check_link(settings: Config, group: str) -> None:
    """Raises Failed if the NIC to which the group would go is up and has no link: what answers now would not."""
    from clusterd import network

    where = network.place(settings, group, settings.me())
    interface = where.link or where.interface
    if not network.reachable(interface):
        raise Failed(f"{interface} of {settings.me().name} has no link: {group} could not be reached there")


def _acquire(words: list[str], request: Request) -> int:
    """Become the takeover: it waits for its word on stdin."""
    settings = config.load(request.folder)
    group = _group(settings, words)
    argv = [_script("takeover"), "--config", settings.folder, "--on-go", "--handed-over", words[2]]
    argv += ["--pinned"] if words[3:] else []
    log.event("gate-acquire", f"{request.node or 'a node'} hands {group} over", group=group)
    os.execv(argv[0], [*argv, group])


def _script(name: str) -> str:
    """Another script of the same installation."""
    return f"{os.path.dirname(os.path.realpath(sys.argv[0]))}/{name}"


def _pass(words: list[str], request: Request) -> int:
    """Receive a pass: the conversation with the sender, on stdin and stdout."""
    from clusterd import receiver
    from clusterd.channel import Channel

    channel = Channel(sys.stdin.fileno(), sys.stdout.fileno())
    try:
        settings = config.load(request.folder)
        service, node = _service(settings, words[1]), _node(settings, request)
        receiver.Session(settings, service, node, int(words[2]), channel).run()
    except ClusterdError as error:
        receiver.answer_error(channel, error)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        receiver.answer_error(channel, Failed(f"{where}{error.strerror}"))
        raise
    return OK


def _rsync(words: list[str], request: Request) -> int:
    """Become the rsync that receives: for a plan, or into the files of the pass that is being received."""
    from clusterd import daemon

    settings = config.load(request.folder)
    service, node = _service(settings, words[1]), _node(settings, request)
    argv = daemon.prepare(service, node, int(words[2]), words[3])
    os.execvp(argv[0], argv)


def _service(settings: Config, name: str) -> Service:
    service = settings.services.get(name)
    if service is None or not service.paths:
        raise Failed(f"{name}: no such mirrored service on {settings.me().name}: run cluster push on the other node")
    return service


def _node(settings: Config, request: Request) -> str:
    """Who asks: by its key; over rsh it can only be the one other node."""
    if request.node in settings.nodes:
        return request.node
    others = settings.peers()
    if request.node or len(others) != _SEVERAL - 1:
        raise NotPermitted(f"{request.node or 'whoever asks'} is no node of this cluster")
    return others[0].name


_CHANGING = ("pass", "rsync", "acquire")
Verb = Callable[[list[str], Request], int]
_VERBS: tuple[tuple[tuple[str, ...], Verb], ...] = (
    (("pass", _NAME, _EPOCH), _pass),
    (("rsync", _NAME, _EPOCH, _SET, "--server", "--daemon", r"\."), _rsync),
    (("status",), _status),
    (("clock",), _clock),
    (("ready", _NAME), _ready),
    (("acquire", _NAME, _EPOCH), _acquire),
    (("acquire", _NAME, _EPOCH, "pinned"), _acquire),
)
"""Everything that may be asked: the form of each word, and what is done."""
