"""cluster TASK: administer every node from one of them."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from clusterd import (
    aside,
    cli,
    config,
    fence,
    fleet,
    handout,
    ifupdown,
    loadable,
    lock,
    log,
    model,
    nodestatus,
    rotation,
    run,
    spread,
)
from clusterd.errors import FAILED, OK, ConfigError, Failed, Usage
from clusterd.remote import Answer

DESCRIPTION = """\
Administer all nodes from any of them. Other nodes are reached over ssh as root, with your own keys; their host keys
must be in known_hosts of the configuration folder. All nodes are asked at once. One that does not answer is a line
in the answer, and makes the exit code 1."""

Options = argparse.Namespace
Task = Callable[[Options], int]
QUICK, LONG = fleet.QUICK, fleet.LONG


def parser() -> argparse.ArgumentParser:
    """The command line; also the source of the man page."""
    made = cli.parser("cluster", DESCRIPTION)
    made.add_argument("--list", action="store_true", help="list the tasks, one a line")
    tasks = made.add_subparsers(title="tasks", dest="task", metavar="TASK")

    def task(carry_out: Task, help_: str | None, *names: str, name: str = "") -> argparse.ArgumentParser:
        more: dict[str, Any] = {"help": help_} if help_ else {}
        sub = tasks.add_parser(name or carry_out.__name__, description=help_, allow_abbrev=False, **more)
        cli.repeat_common(sub)
        sub.set_defaults(carry_out=carry_out)
        for each in names:
            sub.add_argument(each.lower(), metavar=each)
        return sub

    task(status, "show every node: watchdog, standby, groups held, services, and what is the matter")
    task(check, "check the configuration here; every problem is a line")
    added = task(push, "check the configuration, show the differences, copy it to the other nodes")
    added.add_argument("-y", "--yes", action="store_true", help="do not ask")
    task(install, "install this node's program on another node, or upgrade it there", "NODE")
    added = task(standby, "hand over what a node holds, and keep it from taking anything", "NODE")
    added.add_argument("--reason", default="maintenance", help="for whoever looks later (default: %(default)s)")
    task(unstandby, "lift a node's standby lock, whoever set it", "NODE")
    task(move, "hand a group over without loss; it stays there until it is moved again", "GROUP", "NODE")
    added = task(
        power, "ask the fence agent whether a node is on, or have it switch that node off or on", "NODE", name="fence"
    )
    added.add_argument("--action", choices=fence.ACTIONS, default="status", help="what to do (default: %(default)s)")
    added.add_argument("-y", "--yes", action="store_true", help="do not ask before off and reboot")
    added = task(mirror, "one pass of a service now, on the node that holds its group")
    added.add_argument("services", metavar="SERVICE", nargs="*")
    added.add_argument("--all", action="store_true", help="of every service that is mirrored")
    task(rotate_key, "replace the key of the heartbeats on all nodes, without moving anything", name="rotate-key")
    task(backups, "list the backup sets of every node")
    added = task(logs, "the latest events of every node, in the order of time")
    added.add_argument("-n", type=int, default=20, metavar="N", help="so many of each node (default: %(default)s)")
    added = task(command, "run a shell command on every node", name="run")
    added.add_argument("words", metavar="CMD", nargs=argparse.REMAINDER, help="the command and its arguments")
    for internal in (facts, give, take, keys):  # what one node's cluster asks another's
        task(internal, None)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """The script."""
    return cli.main(parser(), cluster, argv)


def cluster(options: Options) -> int:
    """Carry out the task that the command line names."""
    if options.list:
        listed = cli.commands(parser())
        if options.json:
            cli.answer(tasks=dict(listed))
            return OK
        for name, help_ in listed:
            print(f"{name:10}  {help_}")
        return OK
    if options.task is None:
        raise Usage("which task? cluster --list shows them")
    task: Task = options.carry_out
    return task(options)


def status(options: Options) -> int:
    """Show every node."""
    answers = fleet.everywhere(config.load(options.config), fleet.own("facts", options), timeout=QUICK)
    known = {answer.node: json.loads(answer.stdout) for answer in answers if answer.ok}
    unreachable = {answer.node: answer.text() for answer in answers if not answer.ok}
    if options.json:
        cli.show_json({"nodes": known, "unreachable": unreachable})
    else:
        print("\n".join(nodestatus.lines(known, unreachable)))
    return FAILED if unreachable else OK


def check(options: Options, *, network: bool = True) -> int:
    """Check the configuration here, and the distribution's network files: every problem, not only the first."""
    _refuse(config.problems(options.config))
    settings, keys = loadable.load(options.config)
    if network:
        _refuse(ifupdown.check(settings, settings.me()))
    unfinished = len(keys.secrets) > 1
    if options.json:
        nodes, services = list(settings.nodes), list(settings.services)
        cli.answer(problems=[], rotation_unfinished=unfinished, nodes=nodes, services=services)
        return OK
    if unfinished:
        print(f"{options.config}: a rotation of the key is not finished: cluster rotate-key goes on with it")
    print(f"{options.config}: good: {', '.join(settings.nodes)}; {', '.join(settings.services) or 'no services'}")
    return OK


def _refuse(problems: list[str]) -> None:
    cli.answer(problems=problems)
    for problem in problems[1:]:
        print(problem, file=sys.stderr)
    if problems:
        raise ConfigError(problems[0])


def push(options: Options) -> int:
    """Copy the configuration to the other nodes, checked here and there."""
    check(options, network=False)
    nodes, done = spread.push(config.load(options.config), options)
    cli.answer(nodes=nodes)
    return OK if done else FAILED


def install(options: Options) -> int:
    """Install this node's program on another node."""
    settings = config.load(options.config)
    node = fleet.node(settings, options.node)
    if node.name == model.hostname():
        raise Usage(f"{node.name} is this node: run make install in the sources")
    return _report(options, [fleet.install(settings, node)])


def standby(options: Options) -> int:
    """Keep a node from holding anything; what it holds is handed over first."""
    settings = config.load(options.config)
    node = fleet.node(settings, options.node)
    if node.name != model.hostname():
        argv = fleet.own("standby", options, node.name, f"--reason={options.reason}", *_json(options))
        return _report(options, [fleet.ask(settings, node, argv, timeout=LONG, changes=True)], as_json=True)
    cli.answer(node=node.name, standby=True, reason=options.reason)
    aside.enter(settings, options.reason)
    return OK


def unstandby(options: Options) -> int:
    """Lift a node's standby lock."""
    settings = config.load(options.config)
    node = fleet.node(settings, options.node)
    if node.name != model.hostname():
        argv = fleet.own("unstandby", options, node.name, *_json(options))
        return _report(options, [fleet.ask(settings, node, argv, timeout=QUICK, changes=True)], as_json=True)
    cli.answer(node=node.name, standby=False)
    aside.leave(settings)
    return OK


def move(options: Options) -> int:
    """Hand a group over to a node."""
    settings = config.load(options.config)
    node = fleet.node(settings, options.node)
    holder = fleet.holders(settings, options, {options.group})[options.group]
    if holder == node:
        cli.answer(nodes={})
        print(f"{options.group}: {node.name} holds it already")
        return OK
    argv = ("release", "--config", settings.folder, *_json(options), options.group, "--to", node.name)
    return _report(options, [fleet.ask(settings, holder, argv, timeout=LONG, changes=True)], as_json=True)


def power(options: Options) -> int:
    """Use the fence agent by hand, from this node."""
    settings = config.load(options.config)
    node = fleet.node(settings, options.node)
    if not fence.wanted(settings):
        raise Usage(f"there is no fence agent: [fence] agent is none in {settings.folder}/cluster.conf")
    if options.action in fence.CUTS:
        if node.name == model.hostname():
            raise Usage(f"{node.name} is this node: fence it from another one")
        if not (options.yes or run.dry_run):
            fleet.confirm(f"Cut the power of {node.name} ({options.action})?", "--yes")
    said = fence.by_hand(settings, node, options.action)
    if options.action in fence.CHANGES and not run.dry_run:
        log.event("fenced-by-hand", f"{node.name}: {said}", level="warning", peer=node.name)
    if options.json:
        cli.answer(node=node.name, action=options.action, power=said)
        return OK
    print(f"{node.name}: {said}")
    return OK


def mirror(options: Options) -> int:
    """One pass of services, each on the node that holds its group."""
    settings = config.load(options.config)
    mirrored = [name for name, service in settings.services.items() if service.paths]
    wanted = mirrored if options.all else options.services
    unknown = [name for name in wanted if name not in mirrored]
    if unknown or not wanted:
        raise Usage(f"{', '.join(unknown) or 'which service?'}: there are {', '.join(mirrored)}; or --all")
    holders = fleet.holders(settings, options, {settings.services[name].home for name in wanted})
    on = {name: holders[settings.services[name].home] for name in wanted}
    return _report(options, fleet.mirror(settings, on, *_json(options)), as_json=True)


def rotate_key(options: Options) -> int:
    """Another secret for the heartbeats, in three steps; one that was interrupted goes on."""
    settings = config.load(options.config)
    if run.dry_run:
        cli.answer(nodes=list(settings.nodes), replaced=False)
        print(f"would replace the key on {', '.join(settings.nodes)}, in three steps")
        return OK
    with lock.Lock("rotate-key").acquire():
        whole = rotation.rotate(settings, options)
    done = "the key was replaced" if whole else "the rotation that was under way is finished"
    log.event("key-rotated", f"{done} on {', '.join(settings.nodes)}", level="notice")
    cli.answer(nodes=list(settings.nodes), replaced=whole)
    print(done)
    return OK


def keys(options: Options) -> int:
    """What this node says of its keys to ``cluster rotate-key``, after it has taken those on stdin, if any."""
    print(rotation.answer(config.load(options.config), sys.stdin.read()))
    return OK


def backups(options: Options) -> int:
    """List the backup sets of every node."""
    settings = config.load(options.config)
    argv = ("purge_backups", "--config", settings.folder, *_json(options))
    return _report(options, fleet.everywhere(settings, argv, timeout=QUICK), as_json=True)


def logs(options: Options) -> int:
    """The latest events of every node."""
    events, answers = fleet.events(config.load(options.config), abs(options.n))
    if options.json:
        cli.answer(events=events, unreachable={answer.node: answer.text() for answer in answers if not answer.ok})
        return OK if all(answer.ok for answer in answers) else FAILED
    sys.stdout.writelines("{time} {node} {level} {event}: {text}\n".format(**event) for event in events)
    return fleet.report([answer for answer in answers if not answer.ok])


def command(options: Options) -> int:
    """Run a shell command on every node."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise Usage("which command?")
    line = " ".join(words)
    answers = fleet.everywhere(config.load(options.config), ("sh", "-c", line), timeout=LONG, changes=True)
    return _report(options, answers)


def _json(options: Options) -> tuple[str, ...]:
    """The option for a script on another node, if it was given here."""
    return ("--json",) if options.json else ()


def _report(options: Options, answers: Sequence[Answer], *, as_json: bool = False) -> int:
    """What every node said, in lines or by node; `as_json`: what was asked has got `_json`."""
    if not options.json:
        return fleet.report(answers)
    cli.answer(nodes={answer.node: answer.fact(as_json=as_json) for answer in answers})
    return OK if all(answer.ok for answer in answers) else FAILED


def facts(options: Options) -> int:
    """What this node says to ``cluster status``."""
    print(json.dumps(nodestatus.facts(config.load(options.config))))
    return OK


def give(options: Options) -> int:
    """This node's configuration files, for ``cluster push`` to compare with; there may be none yet."""
    print(json.dumps(handout.pack(options.config)))
    return OK


def take(options: Options) -> int:
    """The configuration that ``cluster push`` sends on stdin: checked, then put in place."""
    changed = handout.accept(options.config, handout.read(sys.stdin.read()))
    if not changed:
        raise Failed("nothing differs any more")
    log.event("configuration-taken", f"{options.config}: {', '.join(changed)}", level="notice")
    print(f"changed: {', '.join(changed)}")
    return OK
