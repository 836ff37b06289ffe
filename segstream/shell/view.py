"""What readers see: totals, one customer, the stream of changes. Reads only."""

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from segstream.core.batch import Checkpoint
from segstream.core.hash import Partitioner, partitions_of
from segstream.ports import Unavailable
from segstream.shell.redis import Keys, checkpoint_of
from segstream.shell.redis_client import Client, values

SECONDS = 10.0
#: `since`, `segment`, `sequence` in the header that all States share: schemas/redis-state.md
_HEADER = struct.Struct("<24x q 8x I 8x I")


@dataclass(frozen=True)
class Totals:
    """Sums over the Checkpoints of all partitions."""

    counts: Mapping[str, int]
    changes: Mapping[str, int]
    segments: Mapping[int, int]
    customers: int
    model: int
    clock: int
    checkpoints: Mapping[int, Checkpoint]

    @property
    def events(self) -> int:
        """Records that are events: everything but control records."""
        return sum(self.counts[n] for n in ("valid", "duplicates", "late", "dead_letters"))


def totals(redis: Client, namespace: str, partitions: int) -> Totals:
    """Exact as of each partition's last batch."""
    keys = Keys(namespace)
    found = values(redis, [keys.meta(p) for p in range(partitions)])
    there = {p: c for p, meta in enumerate(found) if (c := checkpoint_of(meta)) is not None}
    empty = Checkpoint(0, 0, "")
    counts, changes, segments = Counter(empty.counts), Counter(empty.changes), Counter[int]()
    for checkpoint in there.values():
        counts.update(checkpoint.counts)
        changes.update(checkpoint.changes)
        segments.update({int(s): n for s, n in checkpoint.segments.items()})
    return Totals(
        dict(counts),
        dict(changes),
        dict(sorted(segments.items())),
        sum(c.customers for c in there.values()),
        max((c.model for c in there.values()), default=0),
        max((c.clock for c in there.values()), default=0),
        there,
    )


def layout(redis: Client, namespace: str) -> tuple[int, Partitioner] | None:
    """(partitions, partitioner) as the workers announced them; None before their first claim."""
    found: Any = redis.get(Keys(namespace).layout)
    if found is None:
        return None
    body = json.loads(found)
    return body["partitions"], body["partitioner"]


def state(redis: Client, namespace: str, customer: str) -> tuple[int, bytes | None] | None:
    """A customer's partition and State, in one GET; None before any worker has run."""
    known = layout(redis, namespace)
    return None if known is None else _state(redis, Keys(namespace), known, customer)


def _state(
    redis: Client, keys: Keys, known: tuple[int, Partitioner], customer: str
) -> tuple[int, bytes | None]:
    raw = customer.removeprefix("a:").encode()
    partition = int(partitions_of([raw], *known)[0])
    found: Any = redis.get(keys.customer(partition, customer))
    return partition, found


class Standing(NamedTuple):
    """The segment that a customer is in, since when (ms), and the number of that change."""

    segment: int
    since: int
    sequence: int


class Lookup:
    """One customer's segment in one GET: for programs that personalize.

    The State is written just after the change is committed, so for some milliseconds a reader of
    `segment-changes` may know more than this: compare `sequence`. Unavailable before any worker
    has run.
    """

    def __init__(self, redis: Client, namespace: str = "segstream") -> None:
        known = layout(redis, namespace)
        if known is None:
            raise Unavailable(f"no worker has run in namespace {namespace} yet")
        self._redis, self._keys, self._known = redis, Keys(namespace), known

    def __call__(self, customer: str) -> Standing | None:
        """None: not a customer (any more), or in no segment yet."""
        _, blob = _state(self._redis, self._keys, self._known, customer)
        if blob is None:
            return None
        since, segment, sequence = _HEADER.unpack_from(blob)
        return Standing(segment, since, sequence) if segment else None


class Reader:
    """Reads topics without a group, committed records only."""

    def __init__(self, kafka: Mapping[str, Any]) -> None:
        self._settings = {
            **kafka,
            "group.id": "segstream.reader",  # required by the client; never joined
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            # A waiting read_committed fetch is not woken by a commit, only by this.
            "fetch.wait.max.ms": 50,
        }

    def follow(
        self, topic: str, stop: Callable[[], bool], *, beginning: bool
    ) -> Iterator[Mapping[str, Any]]:
        """Values of a topic as they come, parsed; nulls are left out."""
        consumer = Consumer(self._settings)
        try:
            start = OFFSET_BEGINNING if beginning else OFFSET_END
            consumer.assign([TopicPartition(topic, p, start) for p in _partitions(consumer, topic)])
            while not stop():
                message = consumer.poll(0.1)
                if message is None or message.error() or message.value() is None:
                    continue
                yield json.loads(message.value() or b"null")
        finally:
            consumer.close()

    def scan(self, topic: str, partition: int, stop: Callable[[], bool]) -> Iterator[Any]:
        """All messages of a partition, from its beginning to its present end."""
        consumer = Consumer(self._settings)
        try:
            consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
            while not stop():
                message = consumer.poll(SECONDS)
                if message is None:
                    raise Unavailable(f"Kafka sent nothing of {topic} for {SECONDS:.0f} s")
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001 (its name)
                    return
                elif not error.retriable():
                    raise Unavailable(f"{topic}: {error.str()}")
        finally:
            consumer.close()


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    try:
        found = consumer.list_topics(topic, timeout=SECONDS).topics[topic]
    except KafkaException as error:
        raise Unavailable(f"Kafka: {error.args[0].str()}") from error
    if found.error is not None:
        raise Unavailable(f"topic {topic}: {found.error.str()}")
    return sorted(found.partitions)
