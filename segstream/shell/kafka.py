"""Source and Sink on Apache Kafka (confluent-kafka).

Every transactional call has a timeout. Rebalance callbacks do no I/O and never raise: an exception
that leaves one is lost in the client, together with a record.
"""

import logging
from collections.abc import Mapping
from typing import Any, cast

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from segstream.core.batch import Position
from segstream.core.event import Records
from segstream.core.output import Output, Topic, ms_text
from segstream.ports import Fetched, NotCommitted, Published, Refused, Unavailable

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]

METADATA_VERSION = "1"
PARTITION_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 (the client's own name for it)
FENCED = KafkaError._FENCED  # noqa: SLF001
SECONDS = 10.0
"""Patience with the coordinator; the transaction itself times out after as long."""

CONSUMER = {
    "partition.assignment.strategy": "range",
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "session.timeout.ms": 6_000,
    "heartbeat.interval.ms": 2_000,
    "fetch.queue.backoff.ms": 5,
    # A waiting read_committed fetch is not woken by a commit, only by this.
    "fetch.wait.max.ms": 10,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 65_536,
}
PRODUCER = {
    "linger.ms": 0,
    "retry.backoff.ms": 1,
    "retry.backoff.max.ms": 10,
    "enable.idempotence": True,
    "compression.type": "lz4",
}


def metadata_of(published: Published) -> str:
    """The text kept beside W in the group: format; layout; clock; origin."""
    clock = published.position.clock
    return f"{METADATA_VERSION};{published.layout};{clock};{published.origin}"


def published_from(offset: int, metadata: str | None) -> Published:
    """Inverse of `metadata_of`; Refused if it was not written by segstream."""
    version, *rest = (metadata or "").split(";")
    if version != METADATA_VERSION or len(rest) != 3:
        raise Refused(
            f"the group offset {offset} has metadata {metadata!r}, which segstream did not write: "
            "something else commits under this group. Use another SEGSTREAM_NAMESPACE"
        )
    layout, clock, origin = rest
    return Published(Position(offset, int(clock)), layout, int(origin))


class KafkaSource:
    """`customer-events` as a member of the group of segmenters."""

    def __init__(self, settings: Settings, topic: str, group: str) -> None:
        self.topic = topic
        self._consumer = Consumer(
            {**settings, **CONSUMER, "group.id": group, "error_cb": _note_error}
        )
        # What the metadata look like while this is no member: such are never used.
        self._nobody = self._consumer.consumer_group_metadata()
        self._assigned: set[int] = set()
        self._revoked: set[int] = set()
        self._consumer.subscribe(
            [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def poll(self, limit: int, timeout: float) -> Fetched:
        """Whatever has arrived, at most `limit` records; waits only if nothing has."""
        try:
            messages = self._consumer.consume(limit, 0)
            if not messages and timeout and (first := self._consumer.poll(timeout)) is not None:
                messages = [first, *self._consumer.consume(limit, 0)]
            # Belongs to this poll: read later, it could be that of a generation which has
            # given the partition to another worker.
            metadata = self._consumer.consumer_group_metadata()
        except KafkaException as error:
            raise Unavailable(f"Kafka: {error.args[0].str()}") from error
        assigned, self._assigned = frozenset(self._assigned), set()
        revoked, self._revoked = frozenset(self._revoked), set()
        records, at_end = _by_partition(messages)
        member = None if metadata == self._nobody else metadata
        return Fetched(records, at_end, assigned, revoked, member)

    def committed(self, partition: int) -> Published | None:
        """W; Unavailable while a transaction on it is pending (`committed` waits for it)."""
        try:
            (found,) = self._consumer.committed(
                [TopicPartition(self.topic, partition)], timeout=SECONDS / 5
            )
        except KafkaException as error:
            raise Unavailable(f"W of partition {partition}: {error.args[0].str()}") from error
        if found.error is not None:
            raise Unavailable(f"W of partition {partition}: {found.error.str()}")
        if found.offset == OFFSET_INVALID:
            return None
        return published_from(found.offset, found.metadata)

    def log_start(self, partition: int) -> int:
        return self._watermarks(partition)[0]

    def log_end(self, partition: int) -> int:
        return self._watermarks(partition, cached=True)[1]

    def _watermarks(self, partition: int, *, cached: bool = False) -> tuple[int, int]:
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=SECONDS, cached=cached
            )
        except KafkaException as error:
            raise Unavailable(f"log of partition {partition}: {error.args[0].str()}") from error
        return int(low), int(high)

    def start(self, partition: int, offset: int) -> None:
        place = TopicPartition(self.topic, partition, offset)
        try:
            self._consumer.seek(place)
            self._consumer.resume([place])
        except KafkaException as error:
            raise Unavailable(f"partition {partition}: {error.args[0].str()}") from error

    def pause(self, partition: int) -> None:
        try:
            self._consumer.pause([TopicPartition(self.topic, partition)])
        except KafkaException as error:
            log.info("partition %d cannot be paused: %s", partition, error)

    def close(self) -> None:
        self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Assign somewhere, but paused; the claim seeks to N and resumes.
        try:
            for place in partitions:
                place.offset = 0
            consumer.assign(partitions)
            consumer.pause(partitions)
            self._assigned |= {p.partition for p in partitions}
        except Exception:
            log.exception("assignment failed")

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = {p.partition for p in partitions}
        self._revoked |= numbers
        self._assigned -= numbers


def _note_error(error: KafkaError) -> None:
    """Brokers that cannot be reached: the client goes on trying, people should know."""
    log.warning("Kafka: %s", error.str())


def _by_partition(messages: list[Any]) -> tuple[dict[int, Records], frozenset[int]]:
    """Messages as columns per partition, and the partitions whose end was reached."""
    groups: dict[int, list[Any]] = {}
    at_end = set()
    for message in messages:
        error = message.error()
        if error is None:
            groups.setdefault(message.partition(), []).append(message)
        elif error.code() == PARTITION_EOF:
            at_end.add(message.partition())
        elif error.fatal() or error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise Refused(f"Kafka: {error.str()}")
        else:
            log.warning("Kafka: %s", error.str())
    records = {
        partition: Records(
            [m.offset() for m in group],
            [m.timestamp()[1] for m in group],
            [m.value() for m in group],
            [m.headers() for m in group],
            [m.key() for m in group],
        )
        for partition, group in groups.items()
    }
    return records, frozenset(at_end)


class KafkaSink:
    """The output topics, written in transactions under a stable id per worker slot."""

    def __init__(
        self,
        settings: Settings,
        transactional_id: str,
        topics: Mapping[Topic, str],
        events: str,
    ) -> None:
        self.topics, self.events = topics, events
        self._settings = {
            **settings,
            **PRODUCER,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(SECONDS * 1000),
        }
        self._producer = self._fresh()
        self._control = Producer({**settings, **PRODUCER})

    def _fresh(self) -> Producer:
        """A producer whose predecessor under the same id, with its open transaction, is fenced."""
        producer = Producer(self._settings)
        try:
            producer.init_transactions(3 * SECONDS)
        except KafkaException as error:
            raise Unavailable(f"transactions cannot start: {error.args[0].str()}") from error
        return producer

    def publish(
        self, outputs: list[Output], positions: Mapping[int, Published], metadata: object
    ) -> None:
        try:
            self._transaction(outputs, positions, metadata)
        except KafkaException as error:
            self._recover(error.args[0])
            raise NotCommitted(f"not committed: {error.args[0].str()}") from error

    def _transaction(
        self, outputs: list[Output], positions: Mapping[int, Published], metadata: object
    ) -> None:
        producer = self._producer
        producer.begin_transaction()
        for output in outputs:
            self._produce(producer, output)
        offsets = [
            TopicPartition(self.events, partition, p.position.offset, metadata_of(p))
            for partition, p in positions.items()
        ]
        producer.send_offsets_to_transaction(offsets, metadata, SECONDS)
        producer.commit_transaction(SECONDS)

    def _produce(self, producer: Producer, output: Output) -> None:
        # Outputs go to the partition of their input; samples have a topic of one partition.
        partition = 0 if output.topic == "samples" else output.partition
        while True:
            try:
                producer.produce(
                    self.topics[output.topic],
                    value=output.value,
                    key=output.key,
                    partition=partition,
                    headers=cast(Any, output.headers),
                )
                return
            except BufferError:  # the client's queue is full
                producer.poll(0.1)

    def _recover(self, error: KafkaError) -> None:
        """Abort where that is possible; otherwise only a new producer knows where it stands."""
        log.warning("transaction failed: %s", error.str())
        if error.txn_requires_abort():
            try:
                self._producer.abort_transaction(SECONDS)
                return
            except KafkaException as again:
                log.warning("abort failed: %s", again)
        if error.code() == FENCED:
            log.warning("another worker uses the same slot, or this one was away too long")
        self._producer = self._fresh()

    def append_clock(self, partition: int, time: int) -> None:
        self._control.produce(
            self.events,
            partition=partition,
            value=f'{{"time":"{ms_text(time)}"}}'.encode(),
            headers=control_headers("segstream.clock", f"clock-{partition}-{time}"),
        )
        self._control.poll(0)

    def close(self) -> None:
        self._control.flush(SECONDS)


def control_headers(kind: str, ce_id: str) -> Any:
    """CloudEvents attributes of a control event, binary mode."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", ce_id.encode()),
        ("ce_source", b"segstream"),
        ("ce_type", kind.encode()),
        ("content-type", b"application/json"),
    ]
