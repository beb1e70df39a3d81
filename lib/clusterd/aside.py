"""Putting this node aside, and letting it back: the standby lock that a person sets, and only a person lifts."""

from collections.abc import Sequence

from clusterd import fleet, lock, notify, ownership, paths, run, view
from clusterd.errors import Failed
from clusterd.model import Config


def enter(settings: Config, reason: str) -> None:
    """Keep this node from holding anything; what it holds is handed over first.

    Raises:
        Failed: a group could not be handed over; nothing else was done.
    """
    me = settings.me().name
    seen = view.read()
    fit = [peer.name for peer in seen.peers.values() if peer.heard and peer.standby != ownership.PERSON] if seen else []
    for group in filter(ownership.known_to_hold, settings.nodes):
        if fit:
            words = (group, "--to", fit[0], "--standby", reason, "--person")
            _release(group, ("release", "--config", settings.folder, *words))
        else:
            print(f"{me}: goes on serving {group} until another node can take it; none answers now")
    if run.dry_run:
        print(f"would set {paths.STANDBY}: {reason}")
        return
    ownership.enter_standby(ownership.PERSON, reason)
    text = f"{me} was put in standby by hand: {reason}"
    notify.tell(settings, "standby-entered", text)
    print(f"{me}: in standby: {reason}")


def _release(group: str, argv: Sequence[str]) -> None:
    """Hand the group over, or wait until the watchdog has: it does the same, once this node is in standby.

    Raises:
        Failed: it is not handed over.
    """
    try:
        fleet.script(argv, timeout=fleet.LONG)
    except Failed:
        if not lock.held(f"group-{group}"):
            raise
        lock.wait_for(f"group-{group}", fleet.LONG).release()
        if ownership.holds(group):
            raise


def leave(settings: Config) -> None:
    """Lift the standby lock of this node, whoever set it."""
    me = settings.me().name
    if not ownership.standby():
        print(f"{me}: is not in standby")
        return
    if run.dry_run:
        print(f"would remove {paths.STANDBY}")
        return
    ownership.leave_standby(person=True)
    notify.tell(settings, "standby-left", f"{me} was let back by hand")
    print(f"{me}: no longer in standby")
