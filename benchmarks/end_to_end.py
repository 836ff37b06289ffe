"""One segmenter process between real Kafka and real Valkey, transactions included.

Every customer has a State and a segment before anything is counted. The counted events are sent in
one transaction and committed when all are in the log: the segmenter catches up, which is when
throughput matters. CPU time is the figure; wall time says more about the neighbours.
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.machine import cores, cpu_seconds, megabytes
from benchmarks.servers import Stage, Tell, stage
from benchmarks.settled import SAMPLE, sample
from consumers.settings import load

STAGES = ("poll", "decode", "gather", "load", "step", "publish", "write")
HOUR_MS = 3_600_000
TICKS = 100_000
"""About as many are measured."""


class Plan(NamedTuple):
    """What is measured. `traffics`: (name, Zipf exponent)."""

    traffics: tuple[tuple[str, float], ...]
    customers: tuple[int, ...]
    events: int
    repeats: int
    of: int = SAMPLE  # customers whose past is computed


class Reading(NamedTuple):
    """Everything that is read before and after the counted part."""

    wall: float
    process: float
    main: float
    kafka: float
    valkey: float
    metrics: dict[str, float]

    @classmethod
    def before(cls, on: Stage) -> "Reading":
        metrics = on.metrics()  # first, so that its own cost is not counted
        return cls.now(on)._replace(metrics=metrics)

    @classmethod
    def after(cls, on: Stage) -> "Reading":
        return cls.now(on)._replace(metrics=on.metrics())

    @classmethod
    def now(cls, on: Stage) -> "Reading":
        valkey, *kafka = on.servers.pids
        return cls(
            time.monotonic(),
            on.cpu(),
            on.cpu(thread=True),
            sum(map(cpu_seconds, kafka)),
            cpu_seconds(valkey),
            {},
        )


@contextmanager
def settled_stage(zipf: float, customers: int, of: int, tell: Tell) -> Iterator[Stage]:
    """Servers, and so many customers with a past."""
    made = sample(zipf, of)
    with (
        tempfile.TemporaryDirectory(prefix="segstream-bench-") as directory,
        stage(load({}), Path(directory), tell) as on,
    ):
        tell(f"writing the States of {customers:,} customers")
        on.settle(made, customers)
        yield on


def run(plan: Plan, tell: Tell) -> list[dict[str, Any]]:
    """A result per number of customers and kind of traffic."""
    results = []
    for customers in plan.customers:
        for name, zipf in plan.traffics:
            tell(f"end to end: {name} traffic (Zipf {zipf}), {customers:,} customers")
            with settled_stage(zipf, customers, plan.of, tell) as on:
                what = {"traffic": name, "zipf": zipf, "customers": customers}
                results.append({**what, **_one(plan, on, customers, tell)})
    return results


def _one(plan: Plan, on: Stage, customers: int, tell: Tell) -> dict[str, Any]:
    """One kind of traffic: catch up a few times, on and on; then a stretch of time at once."""
    start = on.start()
    catch_up(on, plan.events // 4)  # what is new warms up
    runs = [catch_up(on, plan.events) for _ in range(plan.repeats)]
    valkey, *kafka = on.servers.pids
    memory = {"segmenter": on.segmenters[0].pid, "kafka": kafka[0], "valkey": valkey}
    return {
        "median": {key: round(median(run[key] for run in runs), 3) for key in runs[0]},
        "runs": runs,
        "start_seconds": round(start, 2),
        "redis_bytes_per_customer": round(on.bytes_each),
        "peak_mb": {who: round(megabytes(pid, peak=True)) for who, pid in memory.items()},
        "ticks": _ticks(on, customers, tell),
    }


def catch_up(on: Stage, events: int) -> dict[str, float]:
    """So many events at once, and what they took."""
    on.prepare(on.coming(events).records())
    counted = on.counted()
    began = Reading.before(on)
    on.release()
    now = on.wait(counted["valid"] + events)
    return figures(events, began, Reading.after(on), counted, now)


def figures(
    events: int, began: Reading, ended: Reading, before: dict[str, int], after: dict[str, int]
) -> dict[str, float]:
    """Figures of one run. µs are CPU time per event."""

    def rise(metric: str) -> float:
        return ended.metrics.get(metric, 0.0) - began.metrics.get(metric, 0.0)

    def each(seconds: float) -> float:
        return round(seconds / events * 1e6, 3)

    def more(*names: str) -> int:
        return sum(after.get(name, 0) - before.get(name, 0) for name in names)

    wrong = more("duplicates", "late", "dead_letters")
    if more("valid") != events or wrong:
        raise RuntimeError(f"{more('valid')} of {events} events were valid, {wrong} were not")
    process, main = ended.process - began.process, ended.main - began.main
    stages = {s: rise(f'segstream_stage_cpu_seconds_total{{stage="{s}"}}') for s in STAGES}
    return {
        "events": events,
        "per_cpu_second": round(events / process),
        "per_wall_second": round(events / (ended.wall - began.wall)),
        "wall_seconds": round(ended.wall - began.wall, 2),
        "batches": int(rise("segstream_batch_records_count")),
        "changes": more("first", "behaviour", "time", "model", "forgotten"),
        **{f"us_{s}": each(seconds) for s, seconds in stages.items()},
        "us_main_other": each(main - sum(stages.values())),
        "us_other_threads": each(process - main),
        "us": each(process),
        "us_kafka": each(ended.kafka - began.kafka),
        "us_valkey": each(ended.valkey - began.valkey),
    }


def _ticks(on: Stage, customers: int, tell: Tell) -> dict[str, float]:
    """Nothing but time: everybody whose minute it is, is looked at."""
    hours = max(1, min(23, TICKS * 24 // customers))
    tell(f"ticks: {hours} hours of {customers:,} customers")
    partitions = on.settings.topics.partitions
    on.pass_time(hours * HOUR_MS)
    coming = on.coming(partitions * 50)  # some for each partition
    on.prepare(coming.records())
    before, began = on.counted(), Reading.now(on)
    on.release()
    on.until(on.clock, int(coming.time[0]))
    ended, after = Reading.now(on), on.counted()
    ticks = customers * hours / 24
    moved = sum(after.get(cause, 0) - before.get(cause, 0) for cause in ("time", "behaviour"))
    return {
        "ticks": round(ticks),
        "per_cpu_second": round(ticks / (ended.process - began.process)),
        "per_wall_second": round(ticks / (ended.wall - began.wall)),
        "us": round((ended.process - began.process) / ticks * 1e6, 3),
        "us_valkey": round((ended.valkey - began.valkey) / ticks * 1e6, 3),
        "changes": moved,
    }


def two_workers(
    zipf: float, customers: int, events: int, repeats: int, of: int, tell: Tell
) -> dict[str, Any]:
    """One segmenter, then two, on the same log."""
    found: dict[str, Any] = {}
    tell(f"one worker, then two: {customers:,} customers")
    with settled_stage(zipf, customers, of, tell) as on:
        for number, name in ((1, "one"), (2, "two")):
            on.start(number)
            catch_up(on, events // 4)
            runs = [catch_up(on, events) for _ in range(repeats)]
            keys = ("us", "us_kafka", "us_valkey", "per_wall_second", "changes")
            found[name] = {key: round(median(run[key] for run in runs), 3) for key in keys}
            found[name]["share"] = on.share()
            on.stop()
    seats = cores(2)
    return {
        **found,
        "cores_of_workers": 0 if seats is None else len(seats[0]),
        "wall_ratio": round(found["two"]["per_wall_second"] / found["one"]["per_wall_second"], 2),
        "cpu_ratio": round(2 * found["one"]["us"] / found["two"]["us"], 2),
    }
