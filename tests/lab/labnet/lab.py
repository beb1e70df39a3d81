"""The lab for Python: what the command line can do, for the tests, the demonstration and the benchmarks."""

import json
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from . import clusterconf, faults, lifecycle, mails, pdu, power, provision, record, reset, switch
from .plan import NODES, machine, place
from .probe import Probe
from .proc import LabError, environment, locked, run, wait_for
from .rootfs import run_inside

VIEW = "/run/clusterd/view.json"
EVENTS = "/var/log/clusterd/events.jsonl"


@lru_cache(maxsize=20_000)
def _event(line: str) -> dict[str, Any]:
    """A line of an event log; who waits for one reads them all, many times a second."""
    return json.loads(line)  # type: ignore[no-any-return]


class Lab:
    """One lab. As a context manager it is up inside and gone afterwards, whatever happened."""

    def __init__(self, name: str = "lab") -> None:
        self.place = place(name)

    # --- the whole ---------------------------------------------------------------------------------------------

    def up(self, *, bare: bool = False, program: bool = True, say: Callable[[str], None] = print) -> None:
        """Bring it up; see lifecycle.up."""
        lifecycle.up(self.place, bare=bare, program=program, say=say)

    def down(self) -> None:
        """Take everything away; also what a crash left."""
        lifecycle.down(self.place)

    def __enter__(self) -> "Lab":
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def reset(self, *, new_program: bool = False, **conf: Any) -> None:
        """A clean running pair: no faults, disks as delivered, no mails; `conf` changes its configuration first.

        See `configure` for `conf`; the nodes boot with it.
        """
        with locked(self.place.lock):
            reset.to_delivery(self.place, new_program=new_program)
            if conf:
                self._write_configuration(conf)
            reset.power_on_all(self.place)
            mails.forget(self.place)

    def heal(self) -> None:
        """Mend all faults; power stays as it is."""
        with locked(self.place.lock):
            faults.heal(self.place)

    # --- power -------------------------------------------------------------------------------------------------

    def power_off(self, name: str) -> float:
        """Pull the plug; returns when (CLOCK_MONOTONIC, as time.monotonic)."""
        with locked(self.place.lock):
            return lifecycle.power_off(self.place, machine(name))

    def power_on(self, *names: str) -> None:
        """Switch machines on, at the same moment, and wait until they have booted."""
        with locked(self.place.lock):
            lifecycle.power_on(self.place, [machine(name) for name in names])

    def shutdown(self, name: str) -> None:
        """Shut down in order."""
        with locked(self.place.lock):
            lifecycle.shut_down(self.place, machine(name))

    def is_on(self, name: str) -> bool:
        """True while it has power."""
        return bool(power.init_pid(self.place, machine(name)))

    def pdu(self, mode: str = "works") -> None:
        """Put a power switch on the LAN, for the nodes' agent fence_lab, that works, fails, hangs or lies."""
        with locked(self.place.lock):
            pdu.start(self.place, mode)

    def pdu_off(self) -> None:
        """Take it away."""
        with locked(self.place.lock):
            pdu.stop(self.place)

    def fenced_anew(self) -> None:
        """Forget what it was asked."""
        (self.place.folder / "pdu.log").write_text("")

    def fenced(self) -> list[dict[str, str]]:
        """What the power switch was asked, the oldest first; see pdu.requests."""
        return pdu.requests(self.place)

    # --- faults ------------------------------------------------------------------------------------------------

    def _cables(self, cables: Sequence[str], pulled: bool) -> None:
        with locked(self.place.lock):
            faults.set_cables(self.place, cables, pulled)

    def unplug(self, name: str, nic: str) -> None:
        """Pull the cable of a NIC (eth0, eth1, eth2, or main, heartbeat, redundant)."""
        self._cables([faults.cable(machine(name), nic)], True)

    def plug(self, name: str, nic: str) -> None:
        """Plug it in again."""
        self._cables([faults.cable(machine(name), nic)], False)

    def cut_heartbeat(self) -> None:
        """Cut the crossover cable: both ends lose the carrier."""
        self._cables([switch.CROSSOVER], True)

    def mend_heartbeat(self) -> None:
        """A new crossover cable."""
        self._cables([switch.CROSSOVER], False)

    def ref_off(self, name: str) -> None:
        """Take a reference host off the LAN."""
        with locked(self.place.lock):
            faults.set_reference(self.place, name, True)

    def ref_on(self, name: str) -> None:
        """And back."""
        with locked(self.place.lock):
            faults.set_reference(self.place, name, False)

    def isolate(self, *names: str) -> None:
        """Keep machines from each other on the LAN; all others see them."""
        with locked(self.place.lock):
            faults.set_isolated(self.place, names, True)

    def unisolate(self, *names: str) -> None:
        """Let them talk again."""
        with locked(self.place.lock):
            faults.set_isolated(self.place, names, False)

    def drop(self, source: str, target: str, nic: str, percent: float = 100) -> None:
        """Lose what one machine sends to another on the network of that NIC, ARP included."""
        with locked(self.place.lock):
            faults.lose(self.place, source, target, nic, percent)

    def undrop(self, source: str, target: str, nic: str) -> None:
        """Lose it no more."""
        self.drop(source, target, nic, 0)

    def switch_off(self) -> None:
        """The LAN switch off."""
        with locked(self.place.lock):
            faults.set_switch(self.place, True)

    def switch_on(self) -> None:
        """And on; it has forgotten all MAC addresses."""
        with locked(self.place.lock):
            faults.set_switch(self.place, False)

    def ageing(self, seconds: float) -> None:
        """How long the switch remembers a MAC address."""
        with locked(self.place.lock):
            switch.set_ageing(self.place, seconds)

    def clock(self, name: str, offset: str) -> None:
        """Make a time server (ref1, ref2, client) wrong by "+3600s" or "-2s", or right again: "+0"."""
        with locked(self.place.lock):
            faults.set_clock(self.place, name, offset)

    def learned(self) -> dict[str, str]:
        """What the switch has learned: {MAC: "machine-NIC"}."""
        return switch.learned(self.place)

    # --- on the machines ---------------------------------------------------------------------------------------

    def argv(self, name: str, argv: Sequence[str]) -> list[str]:
        """The host's command line that runs `argv` on a machine, for your own Popen."""
        return power.inside(self.place, machine(name), argv)

    def run(
        self,
        name: str,
        argv: Sequence[str],
        *,
        timeout: float = 60,
        text_in: str | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on a machine. Raises LabError when it fails (with `check`) or takes longer than `timeout`."""
        extra = ["env", *(f"{key}={value}" for key, value in env.items())] if env else []
        return run(self.argv(name, [*extra, *argv]), timeout=timeout, text_in=text_in, check=check)

    def sh(self, name: str, script: str, *, timeout: float = 60, check: bool = True) -> str:
        """Run a shell script on a machine; returns what it printed."""
        return self.run(name, ["bash", "-euc", script], timeout=timeout, check=check).stdout

    def path(self, name: str, path: str) -> Path:
        """A running machine's file, seen from the host."""
        pid = power.init_pid(self.place, machine(name))
        if not pid:
            raise LabError(f"{name} has no power")
        return Path(f"/proc/{pid}/root{path}")

    def text(self, name: str, path: str) -> str | None:
        """The text of a machine's file; None where there is none, or no power."""
        try:
            return self.path(name, path).read_text(errors="replace")
        except (OSError, LabError):
            return None

    def addresses(self, name: str) -> dict[str, str]:
        """The addresses that a running machine has now: {address without prefix length: NIC}."""
        rows = json.loads(self.run(name, ["ip", "-json", "addr"]).stdout)
        return {info["local"]: row["ifname"] for row in rows for info in row["addr_info"]}

    def holders(self, address: str) -> list[str]:
        """The nodes that have an address on a NIC now."""
        return [name for name in NODES if self.is_on(name) and address in self.addresses(name)]

    def configure(self, **conf: Any) -> None:
        """Write /etc/cluster.d of both nodes anew, the lab's with changes; see clusterconf.files for what is possible.

        Programs that run already do not hear of it: reset(**conf) boots with it.
        """
        with locked(self.place.lock):
            self._write_configuration(conf)

    def _write_configuration(self, conf: Mapping[str, Any]) -> None:
        delivery = provision.Delivery(remove=["/etc/cluster.d/services"], files=clusterconf.files(**conf)).as_json()
        kept = record.load(self.place)
        for name in NODES:
            if self.is_on(name):
                self.run(name, provision.apply_argv(), text_in=delivery)
            else:
                root = power.root(self.place, machine(name), kept)
                run_inside(root, provision.apply_argv(), text_in=delivery, timeout=60)

    # --- what can be seen --------------------------------------------------------------------------------------

    def view(self, name: str) -> dict[str, Any] | None:
        """A node's view.json; None where there is none."""
        try:
            return json.loads(self.text(name, VIEW) or "null")  # type: ignore[no-any-return]
        except ValueError:
            return None

    def events(self, name: str) -> list[dict[str, Any]]:
        """A node's events, the oldest first: a watchdog's worker may write them later than a script of its own does."""
        found = [_event(line) for line in (self.text(name, EVENTS) or "").splitlines()]
        return sorted(found, key=lambda event: float(event["uptime"]))

    def mails(self) -> list[EmailMessage]:
        """The mails received since the last reset or `forget_mails`, the oldest first."""
        return mails.messages(self.place)

    def forget_mails(self) -> None:
        """Throw away what was received so far."""
        mails.forget(self.place)

    def probe(self, address: str = "10.1.0.1", **options: Any) -> Probe:
        """A client that never stops asking; use it in a with statement."""
        return Probe(self.place, address, **options)

    @staticmethod
    def wait_for(true: Callable[[], object], seconds: float, what: str) -> float:
        """Wait until `true()` holds; returns the seconds it took. Raises LabError after `seconds`."""
        return wait_for(true, seconds, what)

    def dump(self) -> str:
        """What a person wants to see of both nodes after a failure."""
        with ThreadPoolExecutor() as pool:
            return "\n".join(pool.map(self._dump_node, NODES))

    def _dump_node(self, name: str) -> str:
        if not self.is_on(name):
            return f"=== {name}: no power; its disk is {self.place.disk(name)}/upper"
        parts = [f"=== {name}"]
        looks = (
            "ip addr",
            "ip rule",
            "ps -e f -o pid,stat,start,args",
            f"cat {VIEW}",
            f"tail -n 40 {EVENTS}",
            "tail -n 60 /var/log/syslog",
        )
        for look in looks:
            result = subprocess.run(
                self.argv(name, shlex.split(look)),
                check=False,
                capture_output=True,
                text=True,
                timeout=20,
                env=environment(),
            )
            parts.append(f"--- {look}\n{result.stdout}{result.stderr}")
        return "\n".join(parts)
