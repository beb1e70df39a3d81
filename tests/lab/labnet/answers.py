"""What a probe's log means: gaps, who answered, and whether two answered at once. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

Line = dict[str, Any]
TOGETHER = 0.2
"""Seconds: answers of one node that are no further apart belong to one spell."""


@dataclass(frozen=True)
class Gap:
    """A time without an answer; CLOCK_MONOTONIC seconds."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.start


@dataclass(frozen=True)
class Spell:
    """A time in which one node answered: its first and last answer."""

    node: str
    start: float
    end: float
    count: int = 1


@dataclass(frozen=True)
class Summary:
    """One probe, evaluated."""

    address: str
    start: float
    end: float
    marks: dict[str, float]
    icmp: tuple[float, ...]
    """When each echo reply came."""
    http: tuple[tuple[float, str], ...]
    """When each HTTP answer came, and from which node."""
    http_failures: int
    neighbour: tuple[tuple[float, str], ...]
    """The MAC address in the client's neighbour table, at each change."""
    claimed: tuple[tuple[float, str, str], ...]
    """ARP and ND at the client: (when, what, the MAC address given)."""
    spells: tuple[Spell, ...]
    """Who answered for the address, as seen at the switch's ports."""
    double: tuple[Gap, ...]
    """Times at which two nodes answered for the address. There must be none."""
    stall: float
    """The longest delay of the probe itself, in seconds: gaps shorter than this mean nothing."""

    def gap(self, kind: str, after: float | str | None = None, before: float | str | None = None) -> Gap:
        """The longest time without an answer of `kind` ("icmp" or "http"), between two times or marks."""
        start = self.marks[after] if isinstance(after, str) else self.start if after is None else after
        end = self.marks[before] if isinstance(before, str) else self.end if before is None else before
        times = self.icmp if kind == "icmp" else [when for when, _ in self.http]
        return longest_gap(times, start, end)

    @property
    def macs(self) -> list[str]:
        """The MAC addresses that the client has used, in order."""
        return [mac for _, mac in self.neighbour]

    @property
    def http_nodes(self) -> list[str]:
        """The nodes that answered HTTP, in order, each once per spell."""
        return [spell.node for spell in spells(self.http)]

    def as_dict(self) -> dict[str, Any]:
        """For people's scripts: without the single answers."""
        return {
            "address": self.address,
            "start": self.start,
            "end": self.end,
            "marks": self.marks,
            "icmp": {"answers": len(self.icmp), "longest_gap": _gap_dict(self.gap("icmp"))},
            "http": {
                "answers": len(self.http),
                "failures": self.http_failures,
                "nodes": self.http_nodes,
                "longest_gap": _gap_dict(self.gap("http")),
            },
            "macs": self.macs,
            "arp_senders": sorted({mac for _, _, mac in self.claimed}),
            "spells": [vars(spell) for spell in self.spells],
            "double_answers": [_gap_dict(gap) for gap in self.double],
            "stall": self.stall,
        }

    def text(self) -> str:
        """For people."""
        lines = [f"{self.address}, {self.end - self.start:.1f} s"]
        for kind, count in (("icmp", len(self.icmp)), ("http", len(self.http))):
            gap = self.gap(kind)
            at = f"from {gap.start - self.start:.3f} s to {gap.end - self.start:.3f} s"
            lines.append(f"  {kind.upper()}: {count} answers, longest gap {gap.seconds * 1000:.0f} ms, {at}")
        lines.append(f"  MAC in the client's neighbour table: {', then '.join(self.macs) or 'none'}")
        for spell in self.spells:
            times = f"{spell.start - self.start:.3f} s to {spell.end - self.start:.3f} s"
            lines.append(f"  {spell.node} answered from {times} ({spell.count} frames)")
        for gap in self.double:
            lines.append(f"  TWO NODES ANSWERED from {gap.start - self.start:.3f} s to {gap.end - self.start:.3f} s")
        lines.append(f"  the probe itself was never later than {self.stall * 1000:.0f} ms")
        return "\n".join(lines)


def _gap_dict(gap: Gap) -> dict[str, float]:
    return {"start": gap.start, "end": gap.end, "seconds": round(gap.seconds, 6)}


def longest_gap(times: Iterable[float], start: float, end: float) -> Gap:
    """The longest time without any of `times`, from `start` to `end`."""
    points = [start, *sorted(when for when in times if start < when < end), end]
    return max((Gap(a, b) for a, b in pairwise(points)), key=lambda gap: gap.seconds)


def spells(answers: Iterable[tuple[float, str]], together: float = float("inf")) -> list[Spell]:
    """Answers (when, node) as spells; a spell ends at another node's answer, or after `together` without one."""
    found: list[Spell] = []
    for when, node in answers:
        last = found[-1] if found else None
        if last and last.node == node and when - last.end <= together:
            found[-1] = Spell(node, last.start, when, last.count + 1)
        else:
            found.append(Spell(node, when, when))
    return found


def overlaps(of: Sequence[Spell]) -> list[Gap]:
    """Where spells of different nodes overlap, even by a single answer."""
    found = []
    for number, one in enumerate(of):
        for other in of[number + 1 :]:
            start, end = max(one.start, other.start), min(one.end, other.end)
            if one.node != other.node and start <= end:
                found.append(Gap(start, end))
    return found


def summarise(address: str, lines: Sequence[Line]) -> Summary:
    """Evaluate a probe's log."""

    def of(kind: str) -> list[Line]:
        return [line for line in lines if line["k"] == kind]

    wire = sorted((line["t"], line["node"]) for line in of("wire"))
    each = [
        spell
        for node in sorted({node for _, node in wire})
        for spell in spells([answer for answer in wire if answer[1] == node], TOGETHER)
    ]
    return Summary(
        address=address,
        start=lines[0]["t"],
        end=lines[-1]["t"],
        marks={line["name"]: line["t"] for line in of("mark")},
        icmp=tuple(line["t"] for line in of("icmp")),
        http=tuple((line["t"], line["node"]) for line in of("http")),
        http_failures=len(of("http-fail")),
        neighbour=tuple((line["t"], line["mac"]) for line in of("neigh")),
        claimed=tuple((line["t"], line["what"], line["mac"]) for line in of("arp")),
        spells=tuple(sorted(each, key=lambda spell: spell.start)),
        double=tuple(overlaps(each)),
        stall=max((line["ms"] / 1000 for line in of("stall")), default=0.0),
    )
