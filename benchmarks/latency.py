"""How long from an event to the change that it leads to, at several rates.

A process of its own sends each event at its time, whatever became of those before; another one
reads the changes as an application would, committed ones only. A change names the id of its event,
and the latency counts from the time at which that event was to be sent, so a delay of the sender
is part of it. All three processes read the same clock of the machine.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.end_to_end import Reading, figures, settled_stage
from benchmarks.servers import Stage, Tell
from benchmarks.traffic import FLAT, Traffic

EVERY = 0.004
"""Seconds from one look of the sender at its schedule to the next."""
WINDOW = 20_000
"""Events that are under way while the highest rate is looked for."""
WARM_UP, SETTLING = 2.0, 10.0
"""Seconds at the beginning that are not counted: of the highest rate, and of a given one."""
QUANTILES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
AHEAD = 0.5
_READER = {
    "group.id": "benchmark.reader",
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "fetch.wait.max.ms": 5,
}
# Idempotence keeps five requests under way at most, and what comes meanwhile goes together. Without
# it each event is a request of its own, and a broker that is behind once stays behind.
_SENDER = {"linger.ms": 0, "enable.idempotence": True, "queue.buffering.max.messages": 500_000}
_spawn = get_context("spawn")


class Plan(NamedTuple):
    """`shares` of the highest rate, and how many seconds each; `rate`: a fixed one.

    `warm_up`: seconds of events at the fixed rate before anything is measured. The broker's
    compiler is at work for minutes, on the core that it shares with all the others.
    """

    customers: int
    shares: tuple[float, ...]
    rate: int
    seconds: float
    of: int
    warm_up: float


class Sent(NamedTuple):
    """What the sender did: when the first event was due (s), and how late it was at most (ms)."""

    began: float
    behind_p99: float
    behind_most: float


# -- the sender's process ------------------------------------------------------------------


def _send(
    kafka: Mapping[str, Any], topic: str, traffic: Traffic, rate: float | None, pipe: Connection
) -> None:
    """Send events at a rate; or, without one, as many as the pipe says."""
    records = list(traffic.records())
    producer = Producer({**kafka, **_SENDER})
    producer.list_topics(topic, 30)
    pipe.send("ready")
    pipe.recv()
    began = time.monotonic() + AHEAD
    time.sleep(AHEAD)
    sent, allowed, behind = 0, 0, []
    while sent < len(records):
        if rate is None:
            while pipe.poll():
                allowed = pipe.recv()
        else:
            allowed = int((time.monotonic() - began) * rate) + 1
        first = sent
        for partition, key, value in records[sent:allowed]:
            producer.produce(topic, value, key, partition)
            sent += 1
        producer.poll(0)
        now = time.monotonic()
        if rate is not None and sent > first:
            behind.append((now - began - first / rate) * 1000)
        time.sleep(max(0.0, EVERY - (time.monotonic() - now)))
    producer.flush(60)
    behind.sort()
    pipe.send(Sent(began, percentile(behind, 0.99) or 0.0, max(behind, default=0.0)))


# -- the reader's process ------------------------------------------------------------------


def _read(kafka: Mapping[str, Any], topic: str, partitions: int, pipe: Connection) -> None:
    """Note when each change arrives, until the pipe says that it is enough."""
    consumer = Consumer({**kafka, **_READER})
    places = [TopicPartition(topic, p) for p in range(partitions)]
    for place in places:
        place.offset = consumer.get_watermark_offsets(place, timeout=30)[1]
    consumer.assign(places)
    arrived: list[tuple[float, bytes]] = []
    pipe.send("ready")
    while not pipe.poll():
        message = consumer.poll(0.1)
        if message is not None and message.error() is None:
            arrived.append((time.monotonic(), message.value() or b""))
    consumer.close()
    pipe.send([(at, json.loads(value)["event"]) for at, value in arrived])


# -- ours ----------------------------------------------------------------------------------


@contextmanager
def _process(target: Any, *arguments: Any) -> Iterator[Connection]:
    """A child, on the cores of the servers, that is ready."""
    ours, theirs = _spawn.Pipe()
    child = _spawn.Process(target=target, args=(*arguments, theirs), daemon=True)
    child.start()
    theirs.close()  # so that its end is heard of
    try:
        ours.recv()
        yield ours
    finally:
        child.join(5)
        child.kill()


class Paced(NamedTuple):
    """What came of events that were sent at a rate."""

    latencies: list[float]  # ms, sorted
    others: int  # changes that name no event of these
    sent: Sent
    cost: dict[str, float]


def paced(on: Stage, events: int, rate: float) -> Paced:
    """Send events at a rate, and match the changes to them."""
    traffic = on.coming(events, rate)
    changes = on.settings.topic("segment-changes")
    kafka, partitions = on.settings.kafka, on.settings.topics.partitions
    with (
        _process(_read, kafka, changes, partitions) as reader,
        _process(_send, kafka, on.settings.topic("customer-events"), traffic, rate) as sender,
    ):
        counted = on.counted()
        before = Reading.before(on)
        sender.send("go")
        sent: Sent = sender.recv()
        now = on.wait(counted["valid"] + events)
        cost = figures(events, before, Reading.after(on), counted, now)
        time.sleep(1)  # the last changes are on their way to the reader
        reader.send("enough")
        arrived = reader.recv()
    due = {number: sent.began + i / rate for i, number in enumerate(traffic.number.tolist())}
    latencies, others = matched(arrived, due, sent.began + SETTLING)
    return Paced(latencies, others, sent, cost)


def matched(
    arrived: Sequence[tuple[float, dict[str, str] | None]], due: Mapping[int, float], since: float
) -> tuple[list[float], int]:
    """Latencies in ms, sorted, of events due at or after `since`; and how many name none of `due`.

    `arrived`: when a change came, and the event that it names; `due`: when each message was to be
    sent; all in seconds.
    """
    found, others = [], 0
    for at, event in arrived:
        when = None if event is None else due.get(int(event["id"].removeprefix("msg-")))
        if when is None:
            others += 1
        elif when >= since:
            found.append((at - when) * 1000)
    return sorted(found), others


def percentile(ordered: Sequence[float], quantile: float) -> float | None:
    """The smallest value that at least this share of all does not exceed; None of too few.

    Too few: not one is expected beyond it.
    """
    if len(ordered) * (1 - quantile) < 1 - 1e-9:
        return None
    return ordered[ceil(len(ordered) * quantile) - 1]


def highest(on: Stage, seconds: float, guess: float) -> float:
    """Events per second that all of it sustains, sender and reader included.

    The sender keeps WINDOW events under way, so there is always something to do, and never a heap.
    """
    traffic = on.coming(int(guess * (seconds + WARM_UP) * 2))
    topic, changes = on.settings.topic("customer-events"), on.settings.topic("segment-changes")
    kafka, partitions = on.settings.kafka, on.settings.topics.partitions
    readings: list[tuple[float, int]] = []
    with (
        _process(_read, kafka, changes, partitions) as reader,
        _process(_send, kafka, topic, traffic, None) as sender,
    ):
        start = on.valid()
        sender.send("go")
        began = time.monotonic() + AHEAD
        while time.monotonic() - began < seconds + WARM_UP:
            done = on.valid() - start
            if done >= len(traffic):
                break
            readings.append((time.monotonic(), done))
            sender.send(done + WINDOW)
            time.sleep(0.01)
        sender.send(len(traffic))  # the rest, so that the next part finds nothing under way
        sender.recv()
        on.wait(start + len(traffic))
        reader.send("enough")
        reader.recv()
    first = next(r for r in readings if r[0] >= min(began + WARM_UP, readings[-1][0] - 0.1))
    return (readings[-1][1] - first[1]) / (readings[-1][0] - first[0])


def run(plan: Plan, tell: Tell) -> dict[str, Any]:
    """The highest rate, and the latencies at shares of it and at the fixed rate."""
    tell(f"latency: {plan.customers:,} customers, flat traffic")
    with settled_stage(FLAT, plan.customers, plan.of, tell) as on:
        on.start()
        tell(f"{plan.warm_up:.0f} s of warming up")
        paced(on, int(plan.rate * plan.warm_up), plan.rate)
        tell("looking for the highest rate")
        top = highest(on, plan.seconds / 4, 20_000)
        rows = []
        for share in (None, *plan.shares):
            rate = float(plan.rate) if share is None else round(share * top, -2)
            seconds = SETTLING + plan.seconds
            tell(f"{rate:,.0f} events/s for {seconds:.0f} s")
            found = paced(on, int(rate * seconds), rate)
            rows.append({"share": share, **row(found, rate)})
    return {"customers": plan.customers, "highest_per_second": round(top), "rates": rows}


def row(found: Paced, rate: float) -> dict[str, Any]:
    """The figures of one rate."""
    quantiles = {name: percentile(found.latencies, q) for name, q in QUANTILES.items()}
    keys = ("events", "us", "us_kafka", "us_valkey", "batches", "changes")
    return {
        "rate": rate,
        **{f"{n}_ms": None if v is None else round(v, 1) for n, v in quantiles.items()},
        "most_ms": round(found.latencies[-1], 1) if found.latencies else None,
        "measured": len(found.latencies),
        "others": found.others,
        "sender_behind_p99_ms": round(found.sent.behind_p99, 1),
        "sender_behind_most_ms": round(found.sent.behind_most, 1),
        **{key: found.cost[key] for key in keys},
    }
