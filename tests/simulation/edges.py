"""The edges of the program, replaced: clock, disk, kernel, sockets, scripts. What is between them is the real thing.

Each replacement acts on the machine whose code runs now (`World.here`). A step that takes time in reality gives the
simulator the turn: there the other node acts, a cable is pulled, or the power fails.
"""

import contextlib
import errno
import os
import types
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any
from unittest import mock

from clusterd import (
    acquire,
    arbiter,
    arp,
    crew,
    endpass,
    estate,
    etcd,
    evidence,
    fence,
    handover,
    heartbeat,
    lock,
    log,
    mirror,
    model,
    network,
    notify,
    ownership,
    passes,
    paths,
    peer,
    peers,
    services,
    setback,
    state,
    steward,
    view,
    watch,
)
from clusterd import config as configuration
from clusterd.commands import release, takeover
from clusterd.errors import Busy, Failed
from clusterd.model import Config, Service
from clusterd.network import Place
from clusterd.services import Outcome
from simulation import devices, etcdworld, present, scripts
from simulation.machine import Later


def _read(path: str) -> Any:
    if path in present.world.here().damaged:
        raise Failed(f"{path}: damaged")
    fact = present.world.here().disk.get(path)
    return dict(fact) if isinstance(fact, dict) else fact


def _write(path: str, fact: Any, *, durable: bool = True, mode: int = 0o600) -> None:
    if durable:
        present.world.spend(0.0005, 0.2 if present.world.here().slow else 0.006)
    machine = present.world.here()
    if machine.full and path.startswith(paths.STATE):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    before = machine.disk.get(path)
    machine.disk[path] = dict(fact) if isinstance(fact, dict) else fact
    machine.stamps[path] = machine.stamps.get(path, 0) + 1
    present.world.wrote(machine, path, before, fact)
    if durable:
        present.world.spend(0.0001, 0.001)


def _remove(path: str) -> None:
    present.world.spend(0.0005, 0.006)
    machine = present.world.here()
    if machine.disk.pop(path, None) is not None:
        machine.stamps[path] = machine.stamps.get(path, 0) + 1


def _acquire_lock(self: lock.Lock) -> lock.Lock:
    machine = present.world.here()
    if self.name in machine.locks:
        raise Busy(f"{self.name}: busy")
    machine.locks[self.name] = present.world.process
    self.fd = 1
    return self


def _wait_for_lock(name: str, seconds: float) -> lock.Lock:
    until = present.world.clock.now + seconds
    while name in present.world.here().locks and present.world.clock.now < until:
        if present.world.process is None:
            raise Later
        present.world.spend(0.01, 0.03)
    return lock.Lock(name).acquire()


def _release_lock(self: lock.Lock) -> None:
    if self.fd is not None:
        present.world.here().locks.pop(self.name, None)
        self.fd = None


def _write_view(seen: view.View) -> None:
    present.world.here().view = seen


def _read_view(*, stale: bool = False) -> view.View | None:
    machine = present.world.here()
    seen = machine.view
    return seen if seen and (stale or seen.until >= machine.now()) else None


def _mark_sure(_boot: str, at: float) -> None:
    present.world.here().sure_at = at


def _raise_group(config: Config, where: Place) -> None:
    present.world.spend(0.01, 0.06)
    machine = present.world.here()
    machine.kernel.pop(where.group, None)
    machine.kernel[where.group] = present.world.clock.now + machine.clocks.lasts(config.failover.lease)
    present.world.checks.up(machine, where.group)
    present.world.trace(machine.name, f"{where.group} is up")
    present.world.spend(0.001, 0.01)


def _drop_group(_config: Config, where: Place) -> None:
    present.world.spend(0.003, 0.03)
    present.fall_silent(where)


def _missing(where: Place) -> list[str]:
    return [] if present.world.here().has(where.group) else list(where.addresses)


def _verify(config: Config, where: Place, _ask: Iterable[str] = ()) -> str | None:
    name = present.world.here().name
    reached = any(present.world.cables.host(name, host) for host in config.reference)
    present.world.spend(0.001, 0.01 if reached else 0.2)
    return "a host answered" if reached else "kernel only"


def _start_all(group: tuple[Service, ...]) -> list[Outcome]:
    present.world.spend(0.01, 0.4)
    for service in group:
        present.world.files.served(present.world.here(), service.home)
    return [Outcome(service.name, True, "", 0.0) for service in group]


def _cut_off(group: Iterable[Service]) -> None:
    for service in group:
        if service.home in present.world.here().receiving:
            _end_pass(service)


def _end_pass(service: Service) -> None:
    present.world.spend(0.0, 0.05)
    present.world.here().receiving.pop(service.home, None)


def _stop_all(group: tuple[Service, ...]) -> list[Outcome]:
    present.world.spend(0.01, 0.4)
    stuck = present.world.clock.random.random() < 0.03
    if not stuck:
        present.world.here().serving.update({service.home: False for service in group})
    return [Outcome(service.name, not stuck, "it hangs", 0.0) for service in group]


def _event(name: str, text: str, *, level: str = "info", **_: Any) -> dict[str, Any]:
    present.world.trace(present.world.here().name, f"{name}: {text}")
    return {}


def _script(_self: crew.Crew, program: str, group: str, options: list[str], *_: object) -> Any:
    world, machine = present.world, present.world.here()
    loop = machine.loop
    world.checks.duties.started(machine, program, group, options)
    process = scripts.start(world, machine, program, [*options, group], 0.06, 0.25)
    process.ordered_by = loop

    def ended() -> None:
        mine = machine.loop is loop  # another one does not know of it
        moving = program == "release" and "--let-go" not in options
        if mine and (process.code or 0) > 0 and moving:  # one that was killed is tried again soon
            machine.failed[group] = world.clock.now

    process.at_end.append(ended)
    return process


def _kill_group(pid: int, _signal: int) -> None:
    for process in list(present.world.here().processes):
        if process.pid == pid:
            process.kill()


def _load(_folder: str, me: str | None = None) -> Config:
    return present.world.config


REPLACED: list[tuple[object, str, object]] = [
    (state, "read", _read),
    (state, "write", _write),
    (state, "remove", _remove),
    (state, "boot_id", lambda: present.world.here().boot),
    (model, "hostname", lambda: present.world.here().name),
    (view, "now", lambda: present.world.here().now()),
    (view, "write", _write_view),
    (view, "read", _read_view),
    (view, "mark_sure", _mark_sure),
    (view, "sure_at", lambda: present.world.here().sure_at),
    (lock, "held", lambda name: name in present.world.here().locks),
    (lock, "wait_for", _wait_for_lock),
    (lock.Lock, "acquire", _acquire_lock),
    (lock.Lock, "release", _release_lock),
    (log, "event", _event),
    (notify, "tell_detached", lambda *_, **__: None),
    (network, "raise_group", _raise_group),
    (network, "drop_group", _drop_group),
    (network, "missing", _missing),
    (network, "announce", lambda _where: True),
    (network, "verify", _verify),
    (fence, "act", lambda _config, node, action: scripts.fence(present.world, node, action)),
    (services, "start_all", _start_all),
    (services, "stop_all", _stop_all),
    (endpass, "cut_off", _cut_off),
    (endpass, "settle", _end_pass),
    (passes, "freshness", lambda _service: None),
    (configuration, "load", _load),
    (heartbeat, "decode", lambda data, _path, _key: data),
    (heartbeat, "body", lambda word: word),
    (heartbeat, "seal", lambda content, _path, _key: content),
    (peer, "ask", lambda *words, **options: scripts.ask(present.world, *words, **options)),
    (mirror, "run_pass", lambda *words, **options: scripts.run_pass(present.world, *words, **options)),
    (handover, "Successor", lambda *words, **options: scripts.Successor(present.world, *words, **options)),
    (futures, "ThreadPoolExecutor", devices.Pool),
    (arp, "Socket", devices.Socket),
    (
        ownership,
        "os",
        types.SimpleNamespace(path=types.SimpleNamespace(lexists=lambda at: at in present.world.here().disk)),
    ),
    (etcd, "Etcd", etcdworld.Etcd),
    (steward.Steward, "start", etcdworld.start),
    (lock, "holder", lambda name: getattr(present.world.here().locks.get(name), "pid", None)),
    (arbiter, "os", types.SimpleNamespace(getpid=lambda: getattr(present.world.process, "pid", 0))),
    (estate, "Keeper", devices.Keeper),
    (estate, "_stamp", lambda at: present.world.here().stamps.get(at, 0)),
    (crew.Crew, "_start", _script),
    (crew, "_last_line", lambda _path: ""),
    (os, "killpg", _kill_group),
    (watch, "Worker", devices.Worker),
    (watch, "Teller", devices.Teller),
    (watch, "Socket", devices.Socket),
    (watch, "Readiness", lambda *_: types.SimpleNamespace(lacking=lambda _now: {})),
    (
        watch,
        "open_paths",
        lambda config: [devices.Path(network.name) for network in config.me().networks] + [devices.Path("lan")],
    ),
    (watch, "selectors", types.SimpleNamespace(DefaultSelector=devices.Selector, EVENT_READ=1)),
    (watch, "hang_up", lambda _config, subject: scripts.hang_up(present.world, subject)),
    (watch, "stamp_of", lambda _folder: ()),
    (os, "setpriority", lambda *_: None),
    (takeover, "sys", types.SimpleNamespace(stdin=scripts.Lines(), stderr=None)),
    (takeover, "print", lambda *words, **_: scripts.say(present.world, *words)),
    (release, "print", lambda *words, **_: scripts.say(present.world, *words)),
    (acquire, "print", lambda *words, **_: None),
    *(
        (module, "time", devices.Clock)
        for module in (
            acquire,
            arbiter,
            estate,
            evidence,
            handover,
            heartbeat,
            ownership,
            passes,
            peers,
            release,
            setback,
            view,
            watch,
        )
        if hasattr(module, "time")
    ),
]


@contextlib.contextmanager
def replaced() -> Iterator[None]:
    """While this lasts, the program's code runs in the simulated present.world."""
    with contextlib.ExitStack() as stack:
        for where, name, new in REPLACED:
            stack.enter_context(mock.patch.object(where, name, new, create=name == "print"))
        yield
