"""The command line of the lab: a table of commands, each one call of a Lab."""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import Any, NamedTuple

from . import image, lifecycle, mails, pdu, power, record, switch
from .lab import Lab
from .plan import MACHINES
from .proc import LabError, environment

Args = argparse.Namespace
DESCRIPTION = "Two nodes, a switch, a client and two reference hosts on one machine, made from namespaces."
WITHOUT_LAB = ("up", "down", "status")
"""Commands for which the lab need not be up."""


def say(line: str) -> None:
    """One line to the person who waits."""
    print(line, flush=True)


def up(lab: Lab, args: Args) -> None:
    """Bring the lab up."""
    made = lifecycle.up(lab.place, bare=args.bare, program=not args.no_program, say=say)
    kept = record.load(lab.place)
    say(f"lab {lab.place.name} is up" + ("" if made else " already") + "".join(f", {name} is off" for name in kept.off))
    program = kept.program
    if program and program != image.program_name(image.base_name(), image.sources()):
        say("the checkout has changed since it was installed there: lab reset --new-code")


def down(lab: Lab, _args: Args) -> None:
    """Take everything of the lab away."""
    say(f"lab {lab.place.name} is down" + ("" if lifecycle.down(lab.place) else " already"))


def become(lab: Lab, name: str, argv: list[str]) -> None:
    """Replace this program by one on a machine, with this terminal."""
    words = lab.argv(name, argv)
    os.execvpe(words[0], words, environment())


def execute(lab: Lab, args: Args) -> None:
    """Become a command on a machine."""
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    become(lab, args.machine, words or ["/bin/bash", "-l"])


def ps(lab: Lab, args: Args) -> None:
    """Show the processes of a machine."""
    become(lab, args.machine, ["ps", "-e", "f", "-o", "pid,user,stat,start,args"])


def power_on(lab: Lab, args: Args) -> None:
    """Switch machines on."""
    running = [name for name in args.machines if lab.is_on(name)]
    if running:
        raise LabError(f"{', '.join(running)}: on already")
    lab.power_on(*args.machines)


def status(lab: Lab, _args: Args) -> int:
    """Show which machines run, which cables are out, what the switch has learned."""
    at = lab.place
    if not switch.exists(at.switch):
        say(f"lab {at.name} is down")
        return 1
    kept = record.load(at)
    lines = [f"lab {at.name}: switch {'off' if kept.switch_off else 'on'}, ageing {switch.ageing(at):g} s"]
    for each in MACHINES.values():
        pid = power.init_pid(at, each)
        lines.append(f"  {each.name:8} {f'on, pid {pid}' if pid else 'off'}")
    for what in ("pulled", "isolated", "losses", "clocks"):
        found = [" ".join(item) if isinstance(item, list) else item for item in getattr(kept, what)]
        lines += [f"  {what}: {', '.join(found)}"] if found else []
    lines += [f"  {mac} at {port}" for mac, port in sorted(switch.learned(at).items())]
    say("\n".join(lines))
    return 0


def do_probe(lab: Lab, args: Args) -> int:
    """Ask an address until the time is up or Ctrl-C; exit code 1 when two nodes answered."""
    with lab.probe(args.address, icmp_ms=args.icmp_ms, http_ms=args.http_ms, log=args.log) as probe:
        try:
            sleep(args.seconds)
        except KeyboardInterrupt:
            pass
    say(json.dumps(probe.summary.as_dict(), indent=1) if args.json else probe.summary.text())
    return 1 if probe.summary.double else 0


def mail(lab: Lab, _args: Args) -> None:
    """Print what the mail sink has received."""
    for text in mails.texts(lab.place):
        say(text + "\n" + "-" * 72)


class Command(NamedTuple):
    """One line of the table."""

    run: Callable[[Lab, Args], Any]
    help: str
    args: tuple[str, ...] = ()


COMMANDS = {
    "up": Command(
        up, "bring the lab up, or complete it; makes the image at the first time", ("--bare", "--no-program")
    ),
    "down": Command(down, "take everything of the lab away; the image stays"),
    "reset": Command(
        lambda lab, args: lab.reset(new_program=args.new_code),
        "heal all faults, both nodes back to their disks as delivered, and on",
        ("--new-code",),
    ),
    "status": Command(status, "machines, cables, what the switch has learned"),
    "exec": Command(execute, "run a command on a machine (a shell without one)", ("machine", "command")),
    "ps": Command(ps, "the processes of a machine", ("machine",)),
    "probe": Command(
        do_probe,
        "ask an address from the client all the time, and tell the gaps, the MACs, who answered",
        ("address", "--seconds", "--icmp-ms", "--http-ms", "--json", "--log"),
    ),
    "mail": Command(mail, "the mails that were received"),
    "power-off": Command(
        lambda lab, args: say(f"{lab.power_off(args.machine):.6f}"),
        "pull a machine's plug; prints the time (CLOCK_MONOTONIC)",
        ("machine",),
    ),
    "power-on": Command(power_on, "switch machines on: they boot from their disks", ("machines",)),
    "shutdown": Command(lambda lab, args: lab.shutdown(args.machine), "shut a machine down in order", ("machine",)),
    "pdu": Command(
        lambda lab, args: lab.pdu(args.mode),
        "put a power switch on the LAN, for the nodes' agent fence_lab (ip = 10.1.0.252, plug = MACHINE)",
        ("mode",),
    ),
    "pdu-off": Command(lambda lab, _args: lab.pdu_off(), "take it away"),
    "unplug": Command(
        lambda lab, args: lab.unplug(args.machine, args.nic), "pull the cable of a machine's NIC", ("machine", "nic")
    ),
    "plug": Command(lambda lab, args: lab.plug(args.machine, args.nic), "plug it in again", ("machine", "nic")),
    "cut-heartbeat": Command(lambda lab, _args: lab.cut_heartbeat(), "cut the crossover cable in the middle"),
    "mend-heartbeat": Command(lambda lab, _args: lab.mend_heartbeat(), "a new crossover cable"),
    "ref-off": Command(lambda lab, args: lab.ref_off(args.machine), "a reference host off the LAN", ("machine",)),
    "ref-on": Command(lambda lab, args: lab.ref_on(args.machine), "and back", ("machine",)),
    "isolate": Command(
        lambda lab, args: lab.isolate(*args.machines),
        "these machines no longer see each other on the LAN; all others see them",
        ("machines",),
    ),
    "unisolate": Command(lambda lab, args: lab.unisolate(*args.machines), "they do again", ("machines",)),
    "drop": Command(
        lambda lab, args: lab.drop(args.source, args.target, args.nic, args.percent),
        "lose what one machine sends to another on the network of a NIC, ARP included",
        ("source", "target", "nic", "percent"),
    ),
    "undrop": Command(
        lambda lab, args: lab.undrop(args.source, args.target, args.nic), "lose it no more", ("source", "target", "nic")
    ),
    "switch-off": Command(lambda lab, _args: lab.switch_off(), "the LAN switch off: it forgets all"),
    "switch-on": Command(lambda lab, _args: lab.switch_on(), "and on again"),
    "ageing": Command(
        lambda lab, args: lab.ageing(args.seconds),
        "how long the switch remembers a MAC address (300 when new)",
        ("seconds",),
    ),
    "clock": Command(
        lambda lab, args: lab.clock(args.machine, args.offset),
        "make a time server (ref1, ref2, client) wrong",
        ("machine", "offset"),
    ),
    "heal": Command(lambda lab, _args: lab.heal(), "mend every cable, loss, isolation and clock; power stays as it is"),
}
NAMES: dict[str, Any] = {"choices": list(MACHINES), "metavar": "MACHINE"}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "--bare": {"action": "store_true", "help": "nodes without clusterd's configuration and cron file"},
    "--no-program": {"action": "store_true", "help": "bare nodes on which clusterd is not even installed"},
    "--new-code": {"action": "store_true", "help": "install the checkout as it is now"},
    "address": {"help": "for example 10.1.0.1 or fd00:10:1::1"},
    "--seconds": {"type": float, "default": 86400.0, "help": "how long (default: until Ctrl-C)"},
    "--icmp-ms": {"type": float, "default": 10.0, "help": "between two pings (default: 10)"},
    "--http-ms": {"type": float, "default": 20.0, "help": "between two GET /node (default: 20)"},
    "--json": {"action": "store_true", "help": "the summary as JSON"},
    "--log": {"type": Path, "help": "keep every answer there, as JSON lines"},
    "machine": NAMES | {"help": ", ".join(MACHINES)},
    "machines": NAMES | {"help": ", ".join(MACHINES), "nargs": "+"},
    "mode": {"nargs": "?", "choices": pdu.MODES, "default": "works", "help": "one that " + ", ".join(pdu.MODES)},
    "source": NAMES,
    "target": NAMES,
    "nic": {"help": "eth0, eth1, eth2, or main, heartbeat, redundant"},
    "percent": {"type": float, "nargs": "?", "default": 100.0, "help": "default: 100"},
    "seconds": {"type": float},
    "offset": {"help": "+3600s, or after -- also -2s; +0: right again"},
    "command": {"nargs": argparse.REMAINDER},
}


def parser() -> argparse.ArgumentParser:
    """The parser, made from the table."""
    made = argparse.ArgumentParser(prog="lab", description=DESCRIPTION)
    made.add_argument("--name", default="lab", help="which lab: several can run at once (default: lab)")
    commands = made.add_subparsers(dest="name_of_command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        for argument in command.args:
            sub.add_argument(argument, **ARGUMENTS[argument])
    return made


def main(argv: list[str] | None = None) -> int:
    """Run one command; its exit code, 1 with one line when the lab says no."""
    args = parser().parse_args(argv)
    try:
        if os.geteuid() != 0:
            raise LabError("namespaces need root")
        lab = Lab(args.name)
        if args.name_of_command not in WITHOUT_LAB and not switch.exists(lab.place.switch):
            raise LabError(f"lab {args.name} is down: bring it up first")
        return int(COMMANDS[args.name_of_command].run(lab, args) or 0)
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
