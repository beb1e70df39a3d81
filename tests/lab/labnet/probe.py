"""A client that never stops asking: started and stopped from here, evaluated by answers.py."""

import json
import subprocess
import tempfile
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import IO

from .answers import Line, Summary, summarise
from .plan import MACHINES, NODES, WITNESS, Place
from .proc import PYTHON, LabError, environment, wait_for

AGENT = Path(__file__).with_name("probe_agent.py")


class Probe:
    """Asks an address from the client, by ICMP and HTTP, and watches the nodes' ports of the switch.

    Beside the client, which asks whom it knows, a witness asks everybody, by ARP or ND: a second node that has the
    address answers it, even if the switch has nothing else for that node.

    with Probe(place, "10.1.0.1") as probe:
        probe.mark("cut")
        ...
    print(probe.summary.text())
    """

    def __init__(
        self,
        place: Place,
        address: str,
        *,
        icmp_ms: float = 10,
        http_ms: float = 20,
        http_timeout_ms: float = 100,
        http_port: int = 80,
        who_has_ms: float = 50,
        log: Path | None = None,
        client: str = "client",
    ) -> None:
        """Prepare; `log` keeps the JSON lines there, else they go to the lab's folder. 0 ms: do not ask that way."""
        self.address = address
        if log is None:
            place.folder.joinpath("probes").mkdir(exist_ok=True)
            log = Path(tempfile.mkstemp(dir=place.folder / "probes", prefix="probe-", suffix=".jsonl")[1])
        self.log = log
        self._spec = {
            "address": address,
            "icmp_ms": icmp_ms,
            "http_ms": http_ms,
            "http_timeout_ms": http_timeout_ms,
            "http_port": http_port,
            "who_has_ms": who_has_ms,
            "witness": WITNESS,
            "log": str(log),
            "switch": f"/run/netns/{place.switch}",
            "client": f"/run/netns/{place.netns(client)}",
            "ports": [(name, nic.name) for name in NODES for nic in MACHINES[name].nics if nic.segment == "lan"],
        }
        self._process: subprocess.Popen[str] | None = None
        self._lines: list[Line] = []
        self._read = 0
        self._summary: Summary | None = None

    def start(self) -> "Probe":
        """Begin; returns when the first request is out."""
        self.log.unlink(missing_ok=True)
        self._lines, self._read = [], 0
        self._process = subprocess.Popen(
            [PYTHON, "-I", str(AGENT), json.dumps(self._spec)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            start_new_session=True,
        )
        wait_for(self._started, 60, "the probe to start")
        return self

    def _started(self) -> bool:
        process = self._running()
        if process.poll() is not None:
            raise LabError(f"the probe does not start: {_text(process.stderr).strip().splitlines()[-1:]}")
        return self.log.exists() and '"start"' in self.log.read_text()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            raise LabError("the probe does not run")
        return self._process

    def mark(self, name: str) -> None:
        """Remember this moment by a name."""
        stdin = self._running().stdin
        assert stdin is not None
        stdin.write(f"{name}\n")
        stdin.flush()

    def lines(self) -> list[Line]:
        """What it has seen until now."""
        with self.log.open("rb") as file:
            file.seek(self._read)
            news = file.read()
        news = news[: news.rfind(b"\n") + 1]
        self._read += len(news)
        self._lines += [json.loads(line) for line in news.splitlines()]
        return self._lines

    def answered(self, node: str, after: float) -> bool:
        """Whether the node answered since a CLOCK_MONOTONIC time, as seen at the switch."""
        recent = takewhile(lambda line: line["t"] > after, reversed(self.lines()))
        return any(line["k"] == "wire" and line["node"] == node for line in recent)

    def so_far(self) -> Summary:
        """The evaluation until now; the probe goes on."""
        return summarise(self.address, self.lines())

    def stop(self) -> Summary:
        """End, and evaluate."""
        process = self._running()
        try:
            _, errors = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            _, errors = process.communicate()
        self._process = None
        if process.returncode != 0:
            raise LabError(f"the probe ended with {process.returncode}: {errors.strip().splitlines()[-1:]}")
        self._summary = self.so_far()
        return self._summary

    @property
    def summary(self) -> Summary:
        """The evaluation, once it has stopped."""
        if self._summary is None:
            raise LabError("the probe has not stopped yet")
        return self._summary

    def __enter__(self) -> "Probe":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.stop()


def _text(stream: IO[str] | None) -> str:
    return stream.read() if stream else ""
