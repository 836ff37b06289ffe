"""Every metric, once: name, kind, labels, meaning. docs/metrics.md is generated from this table."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import prometheus_client as prometheus

from segstream.core.batch import CAUSES, OUTCOMES, Checkpoint
from segstream.core.calendar import instant_ms
from segstream.core.drift import STANDS
from segstream.core.record import Drift, ModelRecord
from segstream.core.step import Outcome
from segstream.shell.http import Health, Pulse


@dataclass(frozen=True)
class Metric:
    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()


SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
FORWARDERS = 100
"""Producers name their library as they like: so many names at most become labels."""
SIZES = (1, 5, 20, 100, 500, 1_000, 2_000, 5_000, 10_000, 20_000)

SEGMENTER = (
    Metric(
        "segstream_events_total",
        "counter",
        ("outcome",),
        "Records computed, by outcome: valid, duplicates, late, forwarded, dead_letters, control.",
    ),
    Metric(
        "segstream_events_skewed_total",
        "counter",
        (),
        "Events whose time was after the broker's append time and was clamped to it.",
    ),
    Metric(
        "segstream_values_saturated_total",
        "counter",
        (),
        "Values cut off because a pane's counter was full.",
    ),
    Metric(
        "segstream_changes_total",
        "counter",
        ("cause",),
        "Segment changes, by cause: first, behaviour, time, model, forgotten.",
    ),
    Metric("segstream_batch_records", "histogram", (), "Records per batch.", SIZES),
    Metric(
        "segstream_stage_cpu_seconds_total",
        "counter",
        ("stage",),
        "CPU seconds of the worker's thread, by stage: "
        "poll, decode, gather, load, step, publish, write.",
    ),
    Metric(
        "segstream_change_freshness_seconds",
        "histogram",
        (),
        "From the append of the causing record to the commit of its change.",
        SECONDS,
    ),
    Metric(
        "segstream_lag_records",
        "gauge",
        ("partition",),
        "Records between the log end and the position of the States.",
    ),
    Metric(
        "segstream_tick_delay_seconds",
        "gauge",
        ("partition",),
        "How far the partition's clock, which drives the ticks, is behind the wall clock.",
    ),
    Metric("segstream_customers", "gauge", ("partition",), "Customers that have a State."),
    Metric(
        "segstream_model_version",
        "gauge",
        ("partition",),
        "Version of the active model; 0 = none yet.",
    ),
    Metric("segstream_partitions_owned", "gauge", (), "Partitions that this process computes."),
    Metric("segstream_partitions_ready", "gauge", (), "Of these, the ones it has claimed."),
    Metric(
        "segstream_forwarded_total",
        "counter",
        ("library", "hint"),
        "Calls sent on to their customer's partition, by the producer's library (as its calls "
        "say) and the partitioner that it seems to use; `other` beyond 100 combinations.",
    ),
    Metric(
        "segstream_dead_letter_share",
        "gauge",
        ("partition",),
        "Share of dead letters among the latest 1,000 records or a few more; 0 of fewer.",
    ),
    Metric(
        "segstream_partition_halted",
        "gauge",
        ("partition",),
        "1 if the partition has too many dead letters and is not computed "
        "(`dead_letters.halt_above`).",
    ),
    Metric(
        "segstream_reclaims_total",
        "counter",
        (),
        "Partitions claimed again because something was refused, unknown or out of reach.",
    ),
)
TRAINER = (
    Metric("segstream_trainer_active", "gauge", (), "1 if this process is the active trainer."),
    Metric("segstream_trainer_samples_total", "counter", (), "Samples learned by the model."),
    Metric(
        "segstream_trainer_skipped_total",
        "counter",
        ("reason",),
        "Samples not learned: invalid, or of another list of features.",
    ),
    Metric("segstream_trainer_panel_customers", "gauge", (), "Customers in the panel."),
    Metric("segstream_trainer_versions_total", "counter", (), "Model versions published."),
    Metric("segstream_trainer_version", "gauge", (), "Newest published model version."),
    Metric(
        "segstream_trainer_version_age_seconds",
        "gauge",
        (),
        "Event time since the newest version was published.",
    ),
    Metric("segstream_trainer_fit_seconds", "histogram", (), "Seconds per fit.", SECONDS),
    Metric("segstream_trainer_segments", "gauge", (), "Segments of the newest version."),
    Metric(
        "segstream_trainer_drift_distance",
        "gauge",
        (),
        "Mean distance of the panel to the nearest centres of the reference, the last version that "
        "was truly new.",
    ),
    Metric(
        "segstream_trainer_drift_psi",
        "gauge",
        (),
        "Population stability index of the segments' shares against the reference's.",
    ),
    Metric(
        "segstream_trainer_drift_alarm",
        "gauge",
        ("monitor",),
        "1 for a week (event time) after an alarm of a monitor: distance, shares.",
    ),
)

BY_PARTITION = [m.name.removeprefix("segstream_") for m in SEGMENTER if m.labels == ("partition",)]
UNLABELLED = {"skewed": "events_skewed_total", "saturated": "values_saturated_total"}
"""What is counted beside the outcomes of events."""


class Distribution(prometheus.Histogram):
    """A histogram of many values at once: `observe` takes a microsecond for each."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        self._sum.inc(sum(amounts))
        # The first bound that is not below.
        places = Counter(bisect_left(self._upper_bounds, amount) for amount in amounts)
        for place, number in places.items():
            self._buckets[place].inc(number)


_KINDS: dict[str, Any] = {
    "counter": prometheus.Counter,
    "gauge": prometheus.Gauge,
    "histogram": Distribution,
}


class Metrics:
    """Live metrics of one process, by name without the prefix `segstream_`."""

    def __init__(self, table: Iterable[Metric]) -> None:
        self.registry = prometheus.CollectorRegistry()
        self._live: dict[str, Any] = {}
        for metric in table:
            more = {"buckets": metric.buckets} if metric.buckets else {}
            kind = _KINDS[metric.kind]
            self._live[metric.name.removeprefix("segstream_")] = kind(
                metric.name, metric.meaning, metric.labels, registry=self.registry, **more
            )

    def __getitem__(self, name: str) -> Any:
        return self._live[name]


class SegmenterMetrics:
    """The segmenter's Observer on Prometheus."""

    def __init__(self) -> None:
        self.metrics = Metrics(SEGMENTER)
        for name in set(OUTCOMES) - UNLABELLED.keys():
            self.metrics["events_total"].labels(name)  # from 0 on, so that a first one is a rise
        for cause in CAUSES:
            self.metrics["changes_total"].labels(cause)
        self._forwarders: set[tuple[str, str]] = set()
        self._pulse = Pulse()
        self._owned, self._ready, self._halted = set[int](), set[int](), set[int]()
        self._joined = False

    def health(self) -> Health:
        """Ready: a member of the group, and computes every partition that it owns.

        The group may have left it none: then it stands by, which is ready too.
        """
        owned, ready, halted = sorted(self._owned), self._ready, self._halted & self._owned
        facts = {
            "member": self._joined,
            "partitions": owned,
            "waiting": [p for p in owned if p not in ready and p not in halted],
            "halted": sorted(halted),
            "seconds_since_turn": round(self._pulse.seconds, 3),
        }
        return Health(self._pulse.alive, self._joined and ready >= set(owned), facts)

    def turned(self, *, member: bool) -> None:
        self._pulse.beat()
        self._joined = member

    def ready(self, partitions: Iterable[int]) -> None:
        self._ready = set(partitions)
        self.metrics["partitions_ready"].set(len(self._ready))

    def share(self, partition: int, share: float) -> None:
        self.metrics["dead_letter_share"].labels(partition).set(share)

    def halted(self, partition: int, share: float) -> None:
        del share
        self._halted.add(partition)
        self.metrics["partition_halted"].labels(partition).set(1)

    def stage(self, name: str, seconds: float) -> None:
        self.metrics["stage_cpu_seconds_total"].labels(name).inc(max(seconds, 0.0))

    def batch(self, partition: int, size: int, outcome: Outcome, before: Checkpoint) -> None:
        after = outcome.checkpoint
        for name, count in after.counts.items():
            if new := count - before.counts[name]:  # most are 0, and asking for a label costs
                of_all = self.metrics[UNLABELLED.get(name, "events_total")]
                (of_all if name in UNLABELLED else of_all.labels(name)).inc(new)
        for cause, count in after.changes.items():
            if new := count - before.changes[cause]:
                self.metrics["changes_total"].labels(cause).inc(new)
        for (library, hint), count in outcome.strays.items():
            if len(self._forwarders) < FORWARDERS:
                self._forwarders.add((library, hint))
            known = (library, hint) in self._forwarders
            names = (library, hint) if known else ("other", "other")
            self.metrics["forwarded_total"].labels(*names).inc(count)
        self.metrics["batch_records"].observe(size)
        self.metrics["customers"].labels(partition).set(after.customers)
        self.metrics["model_version"].labels(partition).set(after.model)

    def published(self, partition: int, ages: list[int]) -> None:
        del partition
        seconds = [max(age, 0) / 1000 for age in ages]
        self.metrics["change_freshness_seconds"].observe_all(seconds)

    def stands(self, partition: int, lag: int, delay: int) -> None:
        self.metrics["lag_records"].labels(partition).set(max(lag, 0))
        self.metrics["tick_delay_seconds"].labels(partition).set(delay / 1000)

    def reclaimed(self, partition: int, why: str) -> None:
        del partition, why
        self.metrics["reclaims_total"].inc()

    def owned(self, partitions: Iterable[int]) -> None:
        kept = self._owned = set(partitions)
        self._halted &= kept
        self.metrics["partitions_owned"].set(len(kept))
        for name in BY_PARTITION:
            gauge = self.metrics[name]
            for metric in gauge.collect():
                for sample in metric.samples:
                    if int(sample.labels["partition"]) not in kept:
                        gauge.remove(sample.labels["partition"])


class TrainerMetrics:
    """The trainer's Observer on Prometheus."""

    def __init__(self) -> None:
        self.metrics = Metrics(TRAINER)
        self._published = 0  # event time of the newest version, ms
        self._pulse = Pulse()
        self._state = "starting"

    def health(self) -> Health:
        """Ready: training, or standing by for the one that trains."""
        facts = {"state": self._state, "seconds_since_turn": round(self._pulse.seconds, 3)}
        return Health(self._pulse.alive, self._state in ("training", "standing by"), facts)

    def turned(self, *, owner: bool) -> None:
        self._pulse.beat()
        if not owner:
            self._state = "standing by"
        elif self._state != "training":
            self._state = "claiming"

    def claimed(self, newest: ModelRecord | None) -> None:
        self._state = "training"
        self.metrics["trainer_active"].set(1)
        if newest is not None:
            self._note(newest)

    def forgot(self, why: str) -> None:
        del why
        self._state = "claiming"
        self.metrics["trainer_active"].set(0)

    def skipped(self, reason: str) -> None:
        self.metrics["trainer_skipped_total"].labels(reason).inc()

    def learned(self, day: int, samples: int, panel: int) -> None:
        self.metrics["trainer_samples_total"].inc(samples)
        self.metrics["trainer_panel_customers"].set(panel)
        age = (day - self._published) / 1000 if self._published else 0.0
        self.metrics["trainer_version_age_seconds"].set(age)

    def watched(self, day: int, drift: Drift) -> None:
        self.metrics["trainer_drift_distance"].set(drift.distance or 0.0)
        self.metrics["trainer_drift_psi"].set(drift.psi or 0.0)
        for monitor, at in (("distance", drift.distance_alarm), ("shares", drift.share_alarm)):
            stands = at is not None and day - instant_ms(at) < STANDS
            self.metrics["trainer_drift_alarm"].labels(monitor).set(int(stands))

    def published(self, record: ModelRecord, fit_seconds: float) -> None:
        self.metrics["trainer_versions_total"].inc()
        self.metrics["trainer_fit_seconds"].observe(fit_seconds)
        self._note(record)

    def _note(self, record: ModelRecord) -> None:
        self._published = int(datetime.fromisoformat(record.at).timestamp() * 1000)
        self.metrics["trainer_version"].set(record.model)
        self.metrics["trainer_segments"].set(len(record.segments))


def markdown() -> str:
    """The table of all metrics, for docs/metrics.md."""
    lines = ["# Metrics", "", "Generated from `segstream/shell/metrics.py` by `make docs`.", ""]
    for title, table in (("Segmenter", SEGMENTER), ("Trainer", TRAINER)):
        lines += [f"## {title}", "", "| name | kind | labels | meaning |", "|---|---|---|---|"]
        lines += [
            f"| `{m.name}` | {m.kind} | {', '.join(f'`{x}`' for x in m.labels) or '–'} "
            f"| {m.meaning} |"
            for m in table
        ]
        lines.append("")
    return "\n".join(lines)
