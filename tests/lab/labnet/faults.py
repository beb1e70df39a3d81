"""What goes wrong with cables and switches, made at the switch so that it outlasts a machine's power."""

from collections.abc import Sequence

from . import image, power, record, switch
from .plan import MACHINES, NODES, REFERENCES, TIME_SERVERS, WITNESS, Machine, Place, machine
from .proc import LabError, run


def apply_links(place: Place, kept: record.Record) -> None:
    """Give every cable the link that the record says it has."""
    powered = set(MACHINES) - set(kept.off)
    switch.set_links(place, switch.wanted(powered, kept.pulled, not kept.switch_off))


def apply(place: Place, kept: record.Record) -> None:
    """Make the switch as the record says: links, isolated ports, losses."""
    apply_links(place, kept)
    for each in MACHINES.values():
        switch.set_isolated(place, [each], each.name in kept.isolated)
    apply_rules(place, kept)


def set_cables(place: Place, cables: Sequence[str], pulled: bool) -> None:
    """Pull cables out ("serv1/eth0", "crossover"), or plug them in."""
    with record.changing(place) as kept:
        kept.pulled = sorted({*kept.pulled, *cables} if pulled else {*kept.pulled} - {*cables})
    apply_links(place, kept)


def cable(on: Machine, nic: str) -> str:
    """The name of the cable of a machine's NIC."""
    return f"{on.name}/{on.nic(nic).name}"


def set_reference(place: Place, name: str, off: bool) -> None:
    """Make a reference host unreachable (its cable pulled), or reachable."""
    if name not in REFERENCES:
        raise LabError(f"{name} is no reference host: they are {', '.join(REFERENCES)}")
    set_cables(place, [f"{name}/eth0"], off)


def set_switch(place: Place, off: bool) -> None:
    """Switch the LAN switch off, or on: it then knows no MAC address any more."""
    with record.changing(place) as kept:
        kept.switch_off = off
    apply_links(place, kept)
    if off:
        switch.forget(place)


def set_isolated(place: Place, names: Sequence[str], isolated: bool) -> None:
    """Keep machines from each other on the LAN while all others see them, or let them talk again."""
    with record.changing(place) as kept:
        kept.isolated = sorted({*kept.isolated, *names} if isolated else {*kept.isolated} - {*names})
    for name in names:
        switch.set_isolated(place, [machine(name)], isolated)


def lose(place: Place, source: str, target: str, nic: str, percent: float) -> None:
    """Lose frames from one machine to another on the network of that NIC, ARP included; 0 percent: none any more."""
    network = machine(source).nic(nic)
    if machine(target).nic(network.name).segment != network.segment or not 0 <= percent <= 100:
        raise LabError(f"drop {source} {target} {nic} {percent:g}: not on one network, or not 0 to 100 percent")
    with record.changing(place) as kept:
        kept.losses = [loss for loss in kept.losses if loss[:3] != [source, target, network.name]]
        if percent:
            kept.losses.append([source, target, network.name, str(percent)])
    apply_rules(place, kept)


def ports_of(name: str, segment: str) -> str:
    """The switch's ports of a machine on one network, as an nftables set."""
    of = machine(name)
    side = switch.switch_side if segment == "lan" else switch.port
    return "{ " + ", ".join(f'"{side(of, nic)}"' for nic in of.nics if nic.segment == segment) + " }"


def rules(losses: Sequence[Sequence[str]]) -> str:
    """The switch's packet filter. Pure.

    It loses what `losses` says. And what answers a probe's witness ends at the port, where the probe sees it: the
    switch is not to learn from it where a MAC address is, which a node has to tell by itself.
    """
    lost = []
    for source, target, nic, percent in losses:
        segment = machine(source).nic(nic).segment
        chance = f"numgen random mod 10000 < {round(float(percent) * 100)} " if float(percent) < 100 else ""
        lost.append(f"iifname {ports_of(source, segment)} oifname {ports_of(target, segment)} {chance}drop")
    witnessed = [f"iifname {ports_of(name, 'lan')} ether daddr {WITNESS} drop" for name in NODES]
    chains = _chain("prerouting", witnessed) + _chain("forward", lost)
    return f"table bridge lab {{}}\ndelete table bridge lab\ntable bridge lab {{\n{chains}}}\n"


def _chain(hook: str, rules: Sequence[str]) -> str:
    body = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {hook} {{\n    type filter hook {hook} priority 0;\n{body}  }}\n"


def apply_rules(place: Place, kept: record.Record) -> None:
    """Load the switch's packet filter."""
    enter = ["nsenter", f"--net=/run/netns/{place.switch}", "chroot", str(image.merged_folder(kept.base))]
    run([*enter, "nft", "-f", "-"], text_in=rules(kept.losses))


def set_clock(place: Place, name: str, offset: str) -> None:
    """Make a time server's clock wrong by `offset` (as faketime takes it: "+3600s"), or right again: "+0"."""
    if name not in TIME_SERVERS:
        raise LabError(f"{name} is no time server: they are {', '.join(TIME_SERVERS)}")
    with record.changing(place) as kept:
        kept.clocks.pop(name, None)
        if offset != "+0":
            kept.clocks[name] = offset
    script = 'echo "$1" > /etc/lab-time; /etc/init.d/lab-time stop >/dev/null; /etc/init.d/lab-time start'
    run(power.inside(place, machine(name), ["sh", "-ec", script, "clock", offset]))


def heal(place: Place) -> None:
    """Mend everything: cables, switch, isolation, losses, ageing time, clocks. Power stays as it is."""
    for name in record.load(place).clocks:
        if power.init_pid(place, machine(name)):
            set_clock(place, name, "+0")
    (place.folder / "pdu.mode").write_text("works")
    with record.changing(place) as kept:
        kept.pulled, kept.isolated, kept.losses, kept.switch_off = [], [], [], False
    switch.set_ageing(place, switch.AGEING)
    apply(place, kept)
