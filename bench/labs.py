"""The two labs that are measured on, each brought up when it is first asked for, both gone at the end."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from lab.labnet.demo import held, settled, standby
from lab.labnet.lab import Lab
from lab.labnet.plan import NODES, STATE
from lab.labnet.proc import PYTHON, LabError, locked

AGENT = Path(__file__).with_name("agent.py").read_text()
ADDRESS = "10.1.0.1"
HOME = "serv1"
"""The node whose power is cut, and the group that lives there."""
OTHER = "serv2"


def say(line: str) -> None:
    """Tell the person who waits what is going on."""
    print(f"bench: {line}", file=sys.stderr, flush=True)


class Labs:
    """A pair with clusterd, and one of the same kind without; for use in a with statement."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._exit = ExitStack()

    def __enter__(self) -> "Labs":
        lock = STATE / f"{self.name}-run.lock"
        try:
            self._exit.enter_context(locked(lock, timeout=1))
        except LabError:
            raise LabError(f"another bench/run is at it (lab {self.name}): --name takes another lab") from None
        self._exit.callback(lock.unlink)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _up(self, name: str, bare: bool) -> Lab:
        lab = Lab(name)
        lab.down()
        self._exit.callback(lab.down)
        say(f"lab {name} comes up")
        lab.up(bare=bare, say=lambda line: say(f"  {line}"))
        return lab

    @cached_property
    def pair(self) -> Lab:
        """The article's pair, with clusterd; all is well on it."""
        lab = self._up(self.name, bare=False)
        wait_well(lab)
        lab.sh(OTHER, "echo 'From: somebody' >/var/mail/alice")
        for node, services in ((HOME, ("web", "smbd", "system")), (OTHER, ("mailspool",))):
            lab.run(node, ["mirror_service", *services], timeout=120)
        return lab

    @cached_property
    def bare(self) -> Lab:
        """The same machines without clusterd's configuration; eth0 has no address yet."""
        return self._up(f"{self.name}bare", bare=True)


def wait_well(lab: Lab) -> None:
    """Wait until each node of the pair serves its own group and nothing is under way."""

    def well() -> bool:
        return all(held(lab, node, node) and settled(lab, node, node) and not standby(lab, node) for node in NODES)

    lab.wait_for(well, 60, "both nodes to serve their groups")


def ask(lab: Lab, node: str, what: str, spec: dict[str, Any], timeout: float) -> Any:
    """Have agent.py measure something on a node. Raises LabError with what it says if it cannot."""
    argv = [PYTHON, "-I", "-c", AGENT, what]
    result = lab.run(node, argv, text_in=json.dumps(spec), timeout=timeout, check=False)
    if result.returncode:
        raise LabError(f"{node}: {result.stderr.strip()}")
    return json.loads(result.stdout)


def wait_until(lab: Lab, true: Callable[[], object], seconds: float, what: str) -> float:
    """As lab.wait_for; returns when (CLOCK_MONOTONIC) it was seen."""
    lab.wait_for(true, seconds, what)
    return time.monotonic()
