"""The other side of a hand-over: whether it can take the group, the word that it may, and what it knows of it."""

import subprocess

from clusterd import peer, run, view
from clusterd.errors import Failed
from clusterd.model import Config, Group, Node

SUCCESSOR_TIMEOUT = 30.0
"""Seconds in which the successor must answer for the address, from the word that it may."""


class Unclear(Failed):
    """Whether the successor has the group is not known: nobody serves it here."""


class Successor:
    """The other side of a hand-over: `peer_gate acquire` on the successor, started early, told when to go."""

    def __init__(self, config: Config, node: Node, group: Group, epoch: int, *, pinned: bool) -> None:
        words = ["acquire", group.name, str(epoch), *(["pinned"] if pinned else [])]
        self.node = node
        self.group = group.name
        self.argv = peer.argv(config, node, words)
        self.process = subprocess.Popen(
            self.argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=run.environment(),
            start_new_session=True,
        )

    def ready(self) -> bool:
        """Whether it is still there, waiting for its word."""
        return self.process.poll() is None

    def go(self) -> None:
        """Tell it to take the group; returns when it answers for the address.

        Raises:
            Failed: it did not.
        """
        assert self.process.stdin is not None
        watch = _Alarm(self.process, SUCCESSOR_TIMEOUT)
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            assert self.process.stdout is not None
            said = self.process.stdout.readline()
        except OSError:
            said = ""
        finally:
            watch.cancel()
        if not said.startswith(f"{self.group}: "):
            raise Failed(f"{self.node.name} did not take it: {self.why(said)}")

    def finish(self, timeout: float) -> str:
        """Wait until its services run; the last line of its complaints, "" if there are none."""
        try:
            _, complaints = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            self.dismiss()
            return "its services did not all start in time"
        # rsh has no exit code of the other end.
        complained = any(line.startswith("takeover: ") for line in complaints.splitlines())
        return "not all of its services started" if self.process.returncode or complained else ""

    def dismiss(self) -> None:
        """It is not to take the group after all."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            try:
                self.process.stdin.close()
            except OSError:
                pass
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def why(self, said: str = "") -> str:
        """What it complained of last; `said` is what was read of its answer already."""
        self.dismiss()
        assert self.process.stderr is not None and self.process.stdout is not None
        told = said + self.process.stdout.read(), self.process.stderr.read()
        result = peer.refused(run.Result(tuple(self.argv), self.process.returncode, None, False, *told))
        lines = result.stderr.strip().splitlines()
        return lines[-1] if lines else f"exit {result.code}, no reason was given: see its log"


class _Alarm:
    """Kills a process that does not answer in time."""

    def __init__(self, process: "subprocess.Popen[str]", seconds: float) -> None:
        import threading

        self.timer = threading.Timer(seconds, process.kill)
        self.timer.daemon = True
        self.timer.start()

    def cancel(self) -> None:
        self.timer.cancel()


def ready(config: Config, node: Node, group: Group) -> None:
    """Ask the successor whether it may and can take the group.

    Raises:
        Failed: it is not reached, or says no, and why.
    """
    answer = peer.ask(config, node, ["ready", group.name], timeout=config.mirror.timeout)
    if answer.timed_out or answer.code == peer.UNREACHABLE:
        raise peer.unreachable(node, answer.code, answer.stderr)
    if not answer.ok or not answer.stdout.strip():  # rsh has no exit code of the other end
        raise Failed(f"{node.name} cannot take {group.name}: {_last(answer)}")


def known_to(config: Config, group: Group, node: Node) -> tuple[int, str]:
    """The epoch, and whose it is, that another node has on its disk for the group.

    Raises:
        Unclear: it is at work on it, or does not say; or that node, or any other, has it.
    """
    now = view.read()
    heard = not now or now.peers[node.name].heard
    answer = peer.ask(config, node, ["status"], timeout=config.mirror.timeout) if heard else None
    seen = view.parse(answer.stdout) if answer and answer.ok else None
    if seen is None:
        raise Unclear(f"{node.name} does not answer")
    theirs = seen.groups.get(group.name, {})
    if theirs.get("busy"):
        raise Unclear(f"{node.name} is at work on it")
    holders = {seen.holder(group.name), now.holder(group.name) if now else ""} - {"", config.me().name}
    if holders:
        raise Unclear(f"{holders.pop()} holds it")
    return int(theirs.get("epoch", 0)), str(theirs.get("holder", ""))


def _last(result: run.Result) -> str:
    lines = (result.stderr.strip() or result.stdout.strip()).splitlines()
    return lines[-1] if lines else result.why()
