"""Memory of each process over some minutes at a steady rate, and Redis' bytes per customer."""

import time
from typing import Any, NamedTuple

from benchmarks.end_to_end import settled_stage
from benchmarks.latency import paced
from benchmarks.latency import row as latency_row
from benchmarks.machine import megabytes
from benchmarks.servers import Tell
from benchmarks.traffic import FLAT


class Plan(NamedTuple):
    """`piece`: seconds of events that are sent between two readings."""

    customers: int
    minutes: float
    rate: int
    piece: float
    of: int


def run(plan: Plan, tell: Tell) -> dict[str, Any]:
    """A reading after each piece; growth is counted from the first fifth of the time on."""
    tell(f"memory: {plan.customers:,} customers, {plan.minutes:g} minutes")
    with settled_stage(FLAT, plan.customers, plan.of, tell) as on:
        start, trainer = on.start(), on.start_trainer()
        valkey, *kafka = on.servers.pids
        ours = {"segmenter": on.segmenters[0].pid, "trainer": trainer.pid}
        pids = {**ours, "kafka": kafka[0], "valkey": valkey}
        readings: list[dict[str, float]] = []
        began = time.monotonic()
        while (passed := time.monotonic() - began) < plan.minutes * 60 or len(readings) < 2:
            left = plan.minutes * 60 - passed
            seconds = min(plan.piece, max(left, plan.piece / 2))
            last = paced(on, int(plan.rate * seconds), plan.rate)
            now = round(time.monotonic() - began)
            each = {who: round(megabytes(pid), 1) for who, pid in pids.items()}
            readings.append({"seconds": now, **each})
            tell(f"after {now} s: " + ", ".join(f"{who} {mb:.0f} MB" for who, mb in each.items()))
        return {
            "customers": plan.customers,
            "rate": plan.rate,
            "start_seconds": round(start, 2),
            "redis_bytes_per_customer": round(on.bytes_each),
            "peak_mb": {who: round(megabytes(pid, peak=True)) for who, pid in pids.items()},
            "growth_mb": grown(readings),
            "latency": latency_row(last, plan.rate),
            "readings": readings,
        }


def grown(readings: list[dict[str, float]]) -> dict[str, float]:
    """MB that each process has gained since the first fifth of the time, at the end."""
    early = next(r for r in readings if r["seconds"] >= readings[-1]["seconds"] / 5)
    return {who: round(mb - early[who], 1) for who, mb in readings[-1].items() if who != "seconds"}
