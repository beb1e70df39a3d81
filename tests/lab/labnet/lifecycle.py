"""Bringing a whole lab up and down."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import faults, image, pdu, power, provision, record, switch
from .plan import CHECKOUT, MACHINES, STATE, Machine, Place
from .proc import LabError, locked, run


def machines_off(place: Place, kept: record.Record) -> list[Machine]:
    """The machines that should run and do not."""
    return [m for m in MACHINES.values() if m.name not in kept.off and not power.init_pid(place, m)]


def is_up(place: Place) -> bool:
    """True when the switch is there and every machine that should run does."""
    return switch.exists(place.switch) and not machines_off(place, record.load(place))


def up(place: Place, *, bare: bool = False, program: bool = True, say: image.Say = print) -> bool:
    """Bring the lab up, or complete it after a crash; False when it was up already.

    `bare`: nodes without clusterd's configuration and cron file; without `program` it is not even installed.
    """
    with locked(place.lock):
        if is_up(place):
            return False
        place.folder.mkdir(parents=True, exist_ok=True)
        if not record.load(place).delivered:
            deliver(place, bare or not program, program, say)
        kept = record.load(place)
        image.mount(kept.base)
        if not switch.exists(place.switch):
            switch.build(place)
            faults.apply(place, kept)
        power_on(place, machines_off(place, kept))
        return True


def deliver(place: Place, bare: bool, install: bool, say: image.Say) -> None:
    """Make every machine's disk, as INSTALL says; the record says when it is whole."""
    for name in place.folder.iterdir():
        shutil.rmtree(name) if name.is_dir() else name.unlink()
    kept = record.Record(base=image.base(say), bare=bare)
    kept.program = image.program(kept.base, say) if install else ""
    record.save(place, kept)
    say(f"making the machines of lab {place.name} from {CHECKOUT}")
    provision.provision(place, kept)
    kept.delivered = True
    record.save(place, kept)
    image.tidy(layers_in_use())


def layers_in_use() -> set[str]:
    """The layers that labs stand on."""
    labs = [record.load(Place(file.parent.name)) for file in STATE.glob("*/record.json")]
    return {name for kept in labs for name in (kept.base, kept.program)}


def power_on(place: Place, machines: list[Machine]) -> None:
    """Switch machines on, all at once, and wait until they have booted."""
    with record.changing(place) as kept:
        for machine in machines:
            power.clear(place, machine)
            power.boot(place, machine, kept)
            kept.off = [name for name in kept.off if name != machine.name]
    faults.apply_links(place, record.load(place))
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda machine: power.wait_booted(place, machine), machines))


def power_off(place: Place, machine: Machine) -> float:
    """Pull a machine's plug; returns when (CLOCK_MONOTONIC)."""
    if not power.init_pid(place, machine):
        raise LabError(f"{machine.name} is off already")
    when = power.cut(place, machine)
    with record.changing(place) as kept:
        kept.off = sorted({*kept.off, machine.name})
    faults.apply_links(place, record.load(place))
    power.clear(place, machine)
    return when


def shut_down(place: Place, machine: Machine) -> None:
    """Shut a machine down in order; then it has no power."""
    power.shut_down(place, machine)
    with record.changing(place) as kept:
        kept.off = sorted({*kept.off, machine.name})
    faults.apply_links(place, record.load(place))
    power.clear(place, machine)


def namespaces(place: Place) -> list[str]:
    """The network namespaces of this lab that exist, whatever made them."""
    mine = {place.switch, *(place.netns(name) for name in (*MACHINES, "pdu"))}
    return [row["name"] for row in switch.netns_list() if row["name"] in mine]


def strays(place: Place) -> list[int]:
    """Processes that still work on a disk of this lab: what a killed `up` has left behind."""
    mark = f"upperdir={place.folder}/"
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_text(errors="replace")
            entering = "labnet/enter.py" in words and f'"{place.folder}/' in words
            if entering or mark in (process / "mounts").read_text():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def down(place: Place) -> bool:
    """Take everything of this lab away, however little or broken it is; False when there was nothing.

    It goes by what the kernel has, not by what the lab remembers.
    """
    with locked(place.lock):
        found = namespaces(place)
        if place.switch in found:
            found.remove(place.switch)
            found.append(place.switch)
        for machine in MACHINES.values():
            if place.netns(machine.name) in found:
                power.clear(place, machine)
        pdu.stop(place)
        power.kill_all(lambda: strays(place), f"the processes of lab {place.name}")
        if place.switch in found:
            run(["ip", "netns", "del", place.switch])
        there = place.folder.exists()
        if there:
            shutil.rmtree(place.folder)
        place.lock.unlink(missing_ok=True)
    image.release_unused()
    return bool(found) or there
