"""The log that is replayed into: where it is, how records get there, what it holds already."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from segstream.core.hash import Partitioner
from segstream.shell.kafka import headers_of
from segstream.shell.offsets import log_ends, log_starts

FILE = "segstream.replay.file"
LINE = "segstream.replay.line"
Headers = list[tuple[str, str | bytes | None]]

ANSWER = 15.0
"""Seconds a server may take to answer one question."""
PATIENCE = 120.0
"""Seconds for which Kafka may take nothing while the queue is full."""
_LOOK_BACK = (500, 4_000, 20_000)
"""Records from the end of a partition in which the file's last line is looked for, in steps."""
_PRODUCER = {
    "enable.idempotence": True,
    # A record that fails, or is given up, must not leave a gap: the lines behind it would be taken
    # for the bookmark. So the first failure ends the producer, and time alone is no failure.
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "log_level": 3,  # errors; it would warn that the guarantee is new
    "compression.type": "lz4",
    "linger.ms": 5,
    "batch.size": 1 << 20,
    "message.max.bytes": 10 << 20,  # as the topic
    "queue.buffering.max.messages": 100_000,
    "queue.buffering.max.kbytes": 128 << 10,
    "delivery.report.only.error": True,
}


class ReplayError(RuntimeError):
    """A replay that cannot go on. What is in the log stays; the same command goes on from there."""


@dataclass(frozen=True)
class Target:
    """Where a replay goes.

    kafka: settings of librdkafka that say where and as whom (bootstrap.servers, security).
    redis_url, namespace, samples: what a replay as lived waits on.
    """

    kafka: Mapping[str, str | int | bool | float]
    redis_url: str
    namespace: str = "segstream"
    events: str = "customer-events"
    samples: str = "feature-samples"
    partitioner: Partitioner = "murmur2"


class Log:
    """The events topic as its idempotent producer sees it."""

    def __init__(self, target: Target) -> None:
        self._topic = target.events
        self._error: KafkaError | None = None
        self._producer = Producer({**_PRODUCER, **target.kafka})
        self.partitions = self._count_partitions()

    def _count_partitions(self) -> int:
        try:
            found = self._producer.list_topics(self._topic, timeout=ANSWER).topics[self._topic]
        except KafkaException as error:
            raise ReplayError(f"Kafka does not answer: {said(error)}") from error
        if found.error or not found.partitions:
            raise ReplayError(
                f"There is no topic {self._topic!r}. Create it with: segstream topics create"
            )
        return len(found.partitions)

    def append(self, partition: int, key: str | None, value: bytes, headers: Headers) -> None:
        """Hands one record to the producer; waits while its queue is full. Raises ReplayError."""
        produce, waited = self._producer.produce, 0.0
        while waited < PATIENCE:
            try:
                produce(
                    self._topic, value, key, partition, headers=headers, on_delivery=self._report
                )
            except BufferError:
                self.poll(0.05)
                waited += 0.05
            except KafkaException as error:
                line = int(dict(headers)[LINE] or 0)
                raise ReplayError(f"Kafka refuses line {line}: {said(error)}") from error
            else:
                return
        raise ReplayError(f"Kafka has taken nothing for {PATIENCE:.0f} s")

    def poll(self, seconds: float = 0) -> None:
        """Raises ReplayError if a record has failed for good."""
        self._producer.poll(seconds)
        if self._error is not None:
            raise ReplayError(f"Kafka did not take a record: {self._error.str()}")

    def flush(self, seconds: float) -> bool:
        """Until everything is in the log; False if that takes longer. Raises ReplayError."""
        left = self._producer.flush(seconds)
        self.poll()
        return left == 0

    def _report(self, error: KafkaError | None, _: object) -> None:
        self._error = self._error or error


def said(error: KafkaException) -> str:
    """What Kafka's client said, for people."""
    cause = error.args[0] if error.args else error
    return cause.str() if isinstance(cause, KafkaError) else str(cause)


def lines_held(target: Target, partitions: int, file: str) -> list[int]:
    """The greatest line of the file that each partition holds; 0 if it holds none.

    Lines rise within a partition, so it is the last record with the file's header. Others may
    have written behind it: it is looked for in the last 20,000 records of each partition.
    """
    settings = {
        **target.kafka,
        "group.id": f"{target.namespace}.replay",  # never joined
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_uncommitted",  # an open transaction of another must not hide ours
        "auto.offset.reset": "earliest",
    }
    consumer = Consumer(settings)
    try:
        admin = AdminClient(dict(target.kafka))
        places = [TopicPartition(target.events, p) for p in range(partitions)]
        lows, highs = log_starts(admin, places), log_ends(admin, places)
        held = [0] * partitions
        upto = {p: highs[p] for p in range(partitions) if lows[p] < highs[p]}
        for back in _LOOK_BACK:
            starts = {p: max(lows[p], highs[p] - back) for p in upto}
            for p, line in _last_lines(consumer, target.events, file, starts, upto).items():
                held[p] = line
            upto = {p: start for p, start in starts.items() if not held[p] and start > lows[p]}
            if not upto:
                break
    except KafkaException as error:
        raise ReplayError(f"Kafka does not answer: {said(error)}") from error
    finally:
        consumer.close()
    return held


def _last_lines(
    consumer: Consumer, topic: str, file: str, starts: Mapping[int, int], ends: Mapping[int, int]
) -> dict[int, int]:
    """Partition → line of the last of the file's records with start <= offset < end."""
    found: dict[int, int] = {}
    reading = set(starts)
    places = [TopicPartition(topic, p, start) for p, start in starts.items()]
    # In this order: a resumption that overtakes the beginning of an assignment would undo it.
    consumer.resume(places)
    consumer.assign(places)
    while reading:
        first = consumer.poll(ANSWER)
        if first is None:
            raise ReplayError(f"Kafka does not send the ends of partitions {sorted(reading)}")
        # `consume` with a time would wait for the full number.
        for record in [first, *consumer.consume(5_000, 0)]:
            partition, offset, error = record.partition(), record.offset(), record.error()
            if error is not None and error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                raise ReplayError(f"Kafka: {error.str()}")
            if partition is None or partition not in reading:
                continue
            if error is not None or offset is None or offset >= ends[partition]:
                reading.remove(partition)
                consumer.pause([TopicPartition(topic, partition)])
            elif (line := _line_of(headers_of(record), file)) is not None:
                found[partition] = line
    return found


def _line_of(headers: Any, file: str) -> int | None:
    found = dict(headers or ())
    line = found.get(LINE)
    if found.get(FILE) != file.encode() or line is None or not line.isdigit():
        return None
    return int(line)
