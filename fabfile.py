"""The tasks of ``cluster``, for those who live in Fabric: ``fab --list``, ``fab status``, ``fab standby serv2``.

Each does what the task of the same name does there (see cluster(8)); run it on a node, as root.
"""

from invoke import Context, Exit, task

from clusterd.commands.cluster import main


def _cluster(*words: str) -> None:
    code = main([word for word in words if word])
    if code:
        raise Exit(code=code)


@task
def status(_: Context) -> None:
    """Show every node: watchdog, standby, groups held, services, and what is the matter."""
    _cluster("status")


@task
def check(_: Context) -> None:
    """Check the configuration here; every problem is a line."""
    _cluster("check")


@task
def push(_: Context, yes: bool = False) -> None:
    """Check the configuration, show the differences, copy it to the other nodes."""
    _cluster("push", "--yes" if yes else "")


@task
def install(_: Context, node: str) -> None:
    """Install this node's program on another node, or upgrade it there."""
    _cluster("install", node)


@task
def standby(_: Context, node: str, reason: str = "maintenance") -> None:
    """Hand over what a node holds, and keep it from taking anything."""
    _cluster("standby", node, f"--reason={reason}")


@task
def unstandby(_: Context, node: str) -> None:
    """Lift a node's standby lock, whoever set it."""
    _cluster("unstandby", node)


@task
def move(_: Context, group: str, node: str) -> None:
    """Hand a group over without loss; it stays there until it is moved again."""
    _cluster("move", group, node)


@task
def fence(_: Context, node: str, action: str = "status", yes: bool = False) -> None:
    """Ask the fence agent whether a node is on, or have it switch that node off or on."""
    _cluster("fence", node, f"--action={action}", "--yes" if yes else "")


@task(iterable=["service"])
def mirror(_: Context, service: list[str], all_: bool = False) -> None:
    """One pass of a service now, on the node that holds its group."""
    _cluster("mirror", "--all" if all_ else "", *service)


@task
def rotate_key(_: Context) -> None:
    """Replace the key of the heartbeats on all nodes, without moving anything."""
    _cluster("rotate-key")


@task
def backups(_: Context) -> None:
    """List the backup sets of every node."""
    _cluster("backups")


@task
def logs(_: Context, n: int = 20) -> None:
    """The latest events of every node, in the order of time."""
    _cluster("logs", "-n", str(n))


@task
def run(_: Context, command: str) -> None:
    """Run a shell command on every node."""
    _cluster("run", "--", command)
