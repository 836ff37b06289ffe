"""What arrives in a simulated topic: small, but something of everything that a log can hold."""

import json
from functools import cache
from itertools import islice
from random import Random
from typing import Any, NamedTuple

from segstream.core.check import define
from segstream.core.event import Headers
from segstream.core.hash import Partitioner
from segstream.core.output import ms_text
from segstream.core.record import ModelRecord
from segstream.core.step import Function
from segstream.learn import Training
from segstream.space import TrainedFeature
from tests.oracle_reading import partition_of
from tests.streams import Stream, generate_topic
from tests.streams_config import random_models

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START = 1_772_323_200_000  # 2026-03-01T00:00:00Z
VARIANTS = 8


class Setting(NamedTuple):
    """What a topic's partitions share. `models`: versions made by hand, the trainer's aside."""

    config: dict[str, Any]
    function: Function
    partitions: int
    partitioner: Partitioner
    customers: list[list[str]]  # by partition
    models: dict[int, ModelRecord]
    training: Training
    streams: tuple[Stream, ...] = ()  # written before; else they are made for each plan


class Arrival(NamedTuple):
    """A record on its way: `gap` ms after the one before."""

    partition: int
    gap: int
    value: bytes | None
    headers: Headers = None
    key: bytes | None = None


@cache
def setting(variant: int) -> Setting:
    """One of `VARIANTS`."""
    rng = Random(variant)
    partitions: int = rng.choice([2, 2, 3])
    partitioner: Partitioner = rng.choice(["murmur2", "crc32"])
    config = {
        "tick": {"period": rng.choice(["6h", "1d"])},
        "pane": {"length": "1d"},
        "hysteresis": {"clear": 0.7, "held": 0.95, "hold": "1d"},
        "panel": {"size": rng.choice([2 * partitions, 20_000])},
        "measures": {
            "orders": {"kind": "count", "events": ["Order Completed"]},
            "spend": {"kind": "sum", "events": ["Order Completed"], "field": "properties.total"},
        },
        "features": {
            "recency": {"expression": "recency(orders)"},
            "orders": {"expression": "orders[2d]", "transform": "log1p"},
            "spend": {"expression": "spend[2d]"},
        },
    }
    function = Function(define(config))
    columns = function.definition.columns().items()
    return Setting(
        config,
        function,
        partitions,
        partitioner,
        [_customers(p, partitions, partitioner) for p in range(partitions)],
        {v: ModelRecord.model_validate(m) for v, m in random_models(rng, config).items()},
        Training(
            tuple(TrainedFeature(n, f.expression, f.transform, f.fill) for n, f in columns),
            function.features_id,
            k=2,
            first_customers=3,
            maintain_days=1,
        ),
    )


@cache
def rich_setting(variant: int) -> Setting:
    """Streams as in the tests against the oracle: every measure, all that can be wrong."""
    streams = generate_topic(variant, 3, 15)
    one = streams[0]
    models = {v: ModelRecord.model_validate(m) for v, m in one.models.items()}
    function = Function(define(one.config))
    nothing = Training((), function.features_id)
    return Setting(one.config, function, 3, one.partitioner, [], models, nothing, tuple(streams))


def _customers(partition: int, partitions: int, partitioner: Partitioner) -> list[str]:
    """Those of a partition; 8 or 9 in all."""
    names = (f"u-{number}" for number in range(1_000))
    mine = (n for n in names if partition_of(n, partitions, partitioner) == partition)
    return list(islice(mine, -(-8 // partitions)))


def arrivals(rng: Random, where: Setting, *, trained: bool) -> list[Arrival]:
    """15 to 60 records over a day or two; with versions by hand unless there are trainers."""
    if where.streams:
        return _merged(where.streams)
    found: list[Arrival] = []
    total = rng.randint(15, 15 * where.partitions)
    gap = 8 * HOUR if trained else rng.choice([HOUR // 2, HOUR, 2 * HOUR])
    now = START
    bodies: list[tuple[int, bytes]] = []
    for number in range(total):
        partition = rng.randrange(where.partitions)
        passed = rng.choice([0, rng.randrange(MINUTE), rng.randrange(2 * gap)])
        if rng.random() < 0.03:
            passed += rng.choice([2 * DAY, 2 * DAY, 5 * DAY])  # who is silent now is forgotten
        now += passed
        arrival = _arrival(rng, where, partition, number, now, bodies)
        found.append(arrival._replace(gap=passed))
    if not trained:
        for version, record in where.models.items():
            at = rng.randrange(len(found))
            body = json.dumps({"version": version, "digest": record.digest}).encode()
            for partition in range(where.partitions):
                later = min(len(found), at + rng.choice([0, 0, 5]))
                found.insert(later, Arrival(partition, 0, body, control("segstream.model")))
    return found


def _merged(streams: tuple[Stream, ...]) -> list[Arrival]:
    """Records of all partitions in the order of their append times."""
    rows = [(record, stream.partition) for stream in streams for record in stream.records]
    rows.sort(key=lambda row: row[0].append_time)
    found, now = [], START
    for record, partition in rows:
        headers: Headers = None if record.headers is None else [*record.headers]
        found.append(Arrival(partition, record.append_time - now, record.value, headers))
        now = record.append_time
    return found


def _arrival(
    rng: Random,
    where: Setting,
    partition: int,
    number: int,
    now: int,
    bodies: list[tuple[int, bytes]],
) -> Arrival:
    draw = rng.random()
    if draw < 0.06 and bodies:
        return Arrival(*_again(rng, bodies))
    if draw < 0.10:
        value = rng.choice([b"{", None, b'{"type":"purchase","userId":"u"}'])
        return Arrival(partition, 0, value, None, b"k")
    if draw < 0.13:
        time = json.dumps({"time": ms_text(now + rng.choice([0, -HOUR, 9 * DAY]))})
        return Arrival(partition, 0, time.encode(), control("segstream.clock"))
    if draw < 0.14:
        lie = {"version": rng.choice([1, 99]), "digest": "0" * 64}
        return Arrival(partition, 0, json.dumps(lie).encode(), control("segstream.model"))
    customer = rng.choice(where.customers[partition])
    late = rng.choice([0, 0, 0, rng.randrange(DAY), 3 * DAY, -HOUR])
    body = {
        "type": "track",
        "event": rng.choice(["Order Completed", "Order Completed", "Product Viewed"]),
        "userId": customer,
        "messageId": f"m-{number}",
        "timestamp": ms_text(max(START, now - late)),
        "properties": {"total": rng.choice([1, 5, 20.5, 100, 400])},
    }
    value = json.dumps(body).encode()
    if draw < 0.24:  # its producer has the other partitioner
        partition = rng.randrange(where.partitions)
    headers: Headers = [("segstream.hops", b"3")] if rng.random() < 0.02 else None
    bodies.append((partition, value))
    return Arrival(partition, 0, value, headers, customer.encode())


def _again(rng: Random, bodies: list[tuple[int, bytes]]) -> tuple[int, int, bytes]:
    partition, value = rng.choice(bodies[-6:])
    return partition, 0, value


def control(kind: str) -> Headers:
    """CloudEvents attributes of a control event."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"c"),
        ("ce_source", b"segstream"),
        ("ce_type", kind.encode()),
        ("content-type", b"application/json"),
    ]
