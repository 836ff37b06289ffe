"""What is wanted of the figures in docs/performance.json."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

Found = Mapping[str, Any]
Figure = Callable[[Found], float | None]
"""From all figures; None, or a KeyError, where it was not measured."""


class Target(NamedTuple):
    """What is wanted of a figure; `form` of both."""

    text: str
    figure: Figure
    least: float | None
    most: float | None
    form: str

    def value(self, found: Found) -> float | None:
        try:
            return self.figure(found)
        except (KeyError, StopIteration):
            return None

    def missed(self, found: Found) -> bool:
        value = self.value(found)
        if value is None:
            return False
        too_low = self.least is not None and value < self.least
        return too_low or (self.most is not None and value > self.most)

    def wanted(self) -> str:
        bounds = [("≥", self.least), ("≤", self.most)]
        return ", ".join(f"{sign} {self.form % b}" for sign, b in bounds if b is not None)


def _caught_up(traffic: str, key: str) -> Figure:
    return lambda found: _row(found["end_to_end"], traffic=traffic)["median"][key]


def _latency(share: float | None, key: str) -> Figure:
    return lambda found: _row(found["latency"]["rates"], share=share)[key]


def _row(rows: Sequence[Found], **wanted: Any) -> Found:
    """The first of the rows that has these values."""
    return next(r for r in rows if all(r[name] == value for name, value in wanted.items()))


def _scaling(traffic: str) -> Figure:
    """µs per event with the most customers against the fewest, in batches of one size."""

    def figure(found: Found) -> float | None:
        rows = [r for r in found["stages"] if r["traffic"] == traffic]
        size = max(r["batch"] for r in rows)
        sizes = sorted((r["customers"], r["us"]) for r in rows if r["batch"] == size)
        return float(sizes[-1][1] / sizes[0][1]) if len(sizes) > 1 else None

    return figure


TARGETS = (
    Target("CPU of a segmenter per event, end to end, flat", _caught_up("flat", "us"),
           None, 6, "%.2f µs"),
    Target("… hot", _caught_up("hot", "us"), None, 5, "%.2f µs"),
    Target("cost per event, most customers against fewest, core, flat", _scaling("flat"),
           0.9, 1.1, "%.2f"),
    Target("… hot", _scaling("hot"), 0.9, 1.1, "%.2f"),
    Target("event → change at 2,000 events/s, p50", _latency(None, "p50_ms"), None, 15, "%.0f ms"),
    Target("… p99", _latency(None, "p99_ms"), None, 60, "%.0f ms"),
    Target("event → change at 50 % of the highest rate, p50", _latency(0.5, "p50_ms"),
           None, 50, "%.0f ms"),
    Target("… p99", _latency(0.5, "p99_ms"), None, 150, "%.0f ms"),
    Target("two workers against one, by CPU per event", lambda f: f["workers"]["cpu_ratio"],
           1.8, None, "%.2f ×"),
    Target("Redis per customer, keys and index included",
           lambda f: f["memory"]["redis_bytes_per_customer"] / 1000, None, 1.6, "%.2f KB"),
    Target("start of a segmenter to its first event",
           lambda f: _row(f["end_to_end"], traffic="flat")["start_seconds"], None, 2, "%.1f s"),
    Target("memory of a segmenter, at most", lambda f: f["memory"]["peak_mb"]["segmenter"],
           None, 350, "%.0f MB"),
    Target("… growth while it works", lambda f: f["memory"]["growth_mb"]["segmenter"],
           None, 10, "%.0f MB"),
)  # fmt: skip


def missed(found: Found) -> list[str]:
    """What misses its target, in words."""
    return [
        f"{t.text}: {t.form % t.value(found)}, wanted {t.wanted()}"
        for t in TARGETS
        if t.missed(found)
    ]
