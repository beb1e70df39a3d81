"""What was measured, as figures, rows, and a table. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """Some measurements of one thing, in one unit: "s", "ms", "%" (of a core) or "MB"."""

    samples: tuple[float, ...]
    unit: str

    @property
    def middle(self) -> float:
        """Their median."""
        return median(self.samples)

    def text(self) -> str:
        """The median, and from where to where they reach."""
        shown = f"{number(self.middle)} {self.unit}"
        if len(self.samples) > 1:
            shown += f" ({number(min(self.samples))}-{number(max(self.samples))})"
        return shown


def number(value: float) -> str:
    """Three digits that count, never an exponent."""
    size = abs(value)
    return (
        f"{value:.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.3f}"
    )


def seconds(samples: Iterable[float]) -> Figure:
    """Times in seconds."""
    return Figure(tuple(samples), "s")


def milliseconds(samples: Iterable[float]) -> Figure:
    """Times in seconds, to be shown as milliseconds."""
    return Figure(tuple(1000 * sample for sample in samples), "ms")


@dataclass(frozen=True)
class Row:
    """One line of the table: ours, the peer's, and what it may be at most."""

    what: str
    ours: Figure
    peer: Figure | None = None
    peer_name: str = ""
    times: float | None = None
    """The budget, as a ratio to the peer's figure."""
    limit: float | None = None
    """The budget, in the unit of our figure. Neither: for information."""

    @property
    def ratio(self) -> float | None:
        """Ours to the peer's, of the medians."""
        return self.ours.middle / self.peer.middle if self.peer and self.peer.middle > 0 else None

    @property
    def holds(self) -> bool | None:
        """Whether it keeps to its budget; None if it has none."""
        if self.times is not None:
            return self.ratio is not None and self.ratio <= self.times
        return None if self.limit is None else self.ours.middle <= self.limit

    @property
    def budget(self) -> str:
        """The budget for people."""
        if self.times is not None:
            return f"{self.times:g} x"
        return "" if self.limit is None else f"{self.limit:g} {self.ours.unit}"

    @property
    def verdict(self) -> str:
        """Whether it holds, for people."""
        return {True: "holds", False: "DOES NOT HOLD", None: "(information)"}[self.holds]

    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        peer = f"{self.peer_name} {self.peer.text()}" if self.peer else "-"
        ratio = f"{self.ratio:.2f} x" if self.ratio is not None else "-"
        return (self.what, self.ours.text(), peer, ratio, self.budget or "-", self.verdict)

    def facts(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"ratio": self.ratio, "budget": self.budget, "holds": self.holds}


HEAD = ("what", "clusterd", "peer", "ratio", "at most", "")


def table(rows: Sequence[Row]) -> str:
    """All of it, in columns."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    shown = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([shown[0], "  ".join("-" * width for width in widths).rstrip(), *shown[1:]])
