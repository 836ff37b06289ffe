"""One segmenter process between real Kafka and real Valkey, transactions included.

Every customer has a State and a segment before anything is counted. The counted events are sent in
one transaction and committed when all are in the log: the segmenter catches up, which is when
throughput matters. CPU time is the figure; wall time says more about the neighbours.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.machine import cpu_seconds, facts, peak_megabytes, scrape
from benchmarks.model import model_of
from benchmarks.servers import Stage, Tell, stage
from benchmarks.traffic import history, live, people
from consumers.settings import Settings

STAGES = ("poll", "decode", "gather", "load", "step", "publish", "write")
TARGET = 40_000
"""Events per second of CPU of the whole process, flat traffic, transactions included."""


class Plan(NamedTuple):
    """What is measured. `traffics`: (name, Zipf exponent)."""

    traffics: tuple[tuple[str, float], ...]
    events: int
    customers: int
    repeats: int


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
        metrics = scrape(on.port)  # first, so that its own cost is not counted
        return cls.now(on)._replace(metrics=metrics)

    @classmethod
    def after(cls, on: Stage) -> "Reading":
        return cls.now(on)._replace(metrics=scrape(on.port))

    @classmethod
    def now(cls, on: Stage) -> "Reading":
        valkey, *kafka = on.servers.pids
        return cls(
            time.monotonic(),
            cpu_seconds(on.pid),
            cpu_seconds(on.pid, thread=True),
            sum(map(cpu_seconds, kafka)),
            cpu_seconds(valkey),
            {},
        )


def run(plan: Plan, settings: Settings, tell: Tell) -> dict[str, Any]:
    """All figures, as they go into the JSON file."""
    results = []
    machine: dict[str, Any] = {}
    for name, zipf in plan.traffics:
        with tempfile.TemporaryDirectory(prefix="segstream-bench-") as directory:
            tell(f"{name} traffic (Zipf {zipf}): starting Kafka, Valkey and a segmenter")
            with stage(settings, Path(directory), tell) as on:
                machine = machine or facts(on.redis)
                results.append({"traffic": name, "zipf": zipf, **_one(plan, on, zipf, tell)})
    return {
        **machine,
        "target_events_per_process_cpu_second": TARGET,
        "settings": {
            **plan._asdict(),
            "partitions": settings.topics.partitions,
            "segments": settings.training.segments,
        },
        "results": results,
    }


def _one(plan: Plan, on: Stage, zipf: float, tell: Tell) -> dict[str, Any]:
    """One kind of traffic: settle the customers, then measure a few times, on and on."""
    who = people(plan.customers, zipf, on.settings.topics.partitions)
    past = history(who)
    on.announce(model_of(on.settings, past))
    tell(f"settling {plan.customers:,} customers with {len(past):,} events (not counted)")
    on.prepare(past.records())
    on.release()
    counted = on.wait(len(past))
    runs, sent = [], len(past)
    for number in range(plan.repeats):
        tell(f"run {number + 1} of {plan.repeats}: {plan.events:,} events")
        on.prepare(live(who, plan.events, first=sent).records())
        sent += plan.events
        began = Reading.before(on)
        on.release()
        now = on.wait(sent)
        runs.append(_figures(plan.events, began, Reading.after(on), counted, now))
        counted = now
    return {
        "median": {key: median(run[key] for run in runs) for key in runs[0]},
        "runs": runs,
        "peak_rss_mb": round(peak_megabytes(on.pid)),
    }


def _figures(
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
    figures = {f"us_{s}": each(seconds) for s, seconds in stages.items()}
    return {
        "events_per_process_cpu_second": round(events / process),
        "events_per_main_thread_cpu_second": round(events / main),
        "events_per_wall_second": round(events / (ended.wall - began.wall)),
        "process_cpu_seconds": round(process, 2),
        "main_thread_cpu_seconds": round(main, 2),
        "wall_seconds": round(ended.wall - began.wall, 2),
        "batches": int(rise("segstream_batch_records_count")),
        "changes": more("first", "behaviour", "time", "model", "forgotten"),
        **figures,
        "us_main_other": each(main - sum(stages.values())),
        "us_other_threads": each(process - main),
        "us_process": each(process),
        "us_kafka": each(ended.kafka - began.kafka),
        "us_valkey": each(ended.valkey - began.valkey),
    }
