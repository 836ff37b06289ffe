"""Samples and Press on Apache Kafka (confluent-kafka): what the trainer reads and writes.

Every transactional call has a timeout. Rebalance callbacks do no I/O and never raise.
"""

import logging
import time
from typing import Any, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)

from segstream.core.record import ModelActivated, ModelRecord
from segstream.ports import Refused, Unavailable
from segstream.ports.trainer import Polled
from segstream.shell.kafka import CLASSIC, is_classic
from segstream.shell.transaction import (
    DENIED,
    PRODUCER,
    SECONDS,
    Settings,
    Transactions,
    failure,
    produce,
)

log = logging.getLogger(__name__)

LIMIT = 5_000
COMMIT_SECONDS = 5.0
"""While samples keep coming; at the end of the topic the commit is at once."""
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 (the client's own name for it)

_CONSUMER = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "earliest",
    "enable.partition.eof": True,
    # The broker does not wake a waiting read_committed fetch when a transaction commits: without
    # this, each commit is seen up to half a second late.
    "fetch.wait.max.ms": 10,
}


class Fence(NamedTuple):
    """Membership at the time of a poll, and the offset before what it brought."""

    metadata: Any
    before: TopicPartition


class KafkaSamples:
    """`feature-samples` as a member of the group of trainers; always read from the beginning."""

    def __init__(self, settings: Settings, topic: str, group: str) -> None:
        self.topic = topic
        self._classic = is_classic(settings)
        membership = {**(CLASSIC if self._classic else {}), "group.id": group}
        self._consumer = Consumer({**settings, **_CONSUMER, **membership})
        # What the metadata look like while this is no member: Kafka would not fence with them.
        self._nobody = self._consumer.consumer_group_metadata()
        self._claims = 0
        self._owned = False
        self._next, self._committed = 0, -1
        self._at_end = False
        self._committed_at = time.monotonic()
        self._consumer.subscribe(
            [topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def poll(self, timeout: float) -> Polled:
        """Whatever has arrived; waits only if nothing has."""
        try:
            messages = self._consumer.consume(LIMIT, 0)
            if not messages and (first := self._consumer.poll(timeout)) is not None:
                messages = [first, *self._consumer.consume(LIMIT, 0)]
            # Belongs to this poll: read later, it could be that of a generation in which
            # another trainer owns the partition.
            metadata = self._consumer.consumer_group_metadata()
        except KafkaException as error:
            raise failure("poll", error.args[0]) from error
        if not self._owned:
            return Polled(None, [], None)
        before = TopicPartition(self.topic, 0, self._next)
        records = [r for message in messages if (r := self._record(message)) is not None]
        fence = None if metadata == self._nobody else Fence(metadata, before)
        return Polled(self._claims, records, fence)

    def _record(self, message: Any) -> tuple[bytes | None, bytes | None] | None:
        error = message.error()
        if error is None:
            self._next, self._at_end = message.offset() + 1, False
            return message.key(), message.value()
        if error.code() == _EOF:
            # the position, which also passes the markers that end each transaction
            self._next, self._at_end = message.offset(), True
        elif error.code() in DENIED:
            raise failure(f"topic {self.topic}", error)
        elif error.fatal():
            raise Refused(f"Kafka: {error.str()}")
        else:
            log.warning("%s: %s", self.topic, error.str())
        return None

    def settle(self) -> None:
        """A pending transaction with an offset of this group holds back what is committed."""
        try:
            (found,) = self._consumer.committed([TopicPartition(self.topic, 0)], timeout=SECONDS)
        except KafkaException as error:
            raise failure(f"offset of {self.topic}", error.args[0]) from error
        if found.error is not None:
            raise failure(f"offset of {self.topic}", found.error)

    def restart(self) -> None:
        """Waits a second: whatever failed is not asked again at once."""
        time.sleep(1)
        if self._owned:
            try:
                self._begin(self._consumer)
            except KafkaException as error:
                raise Refused(f"{self.topic} cannot be read again: {error}") from error

    def handled(self) -> None:
        now = time.monotonic()
        due = self._at_end or now - self._committed_at >= COMMIT_SECONDS
        if not self._owned or not due or self._next == self._committed:
            return
        self._committed_at = now
        try:
            place = TopicPartition(self.topic, 0, self._next)
            self._consumer.commit(offsets=[place], asynchronous=False)
            self._committed = self._next
        except KafkaException as error:  # a rebalance is under way; it says nothing about the work
            log.info("%s: not committed: %s", self.topic, error.args[0].str())

    def close(self) -> None:
        """Leave the group, so that a standby takes over at once."""
        self._consumer.close()

    def _begin(self, consumer: Consumer) -> None:
        self._claims += 1
        self._next, self._committed, self._at_end = 0, -1, False
        places = [TopicPartition(self.topic, 0, OFFSET_BEGINNING)]
        if self._classic:
            consumer.assign(places)
            return
        if consumer.assignment():  # a restart
            consumer.incremental_unassign(places)
        consumer.incremental_assign(places)

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        try:
            self._owned = any(place.partition == 0 for place in partitions)
            if self._owned:
                self._begin(consumer)
        except Exception:
            log.exception("assignment failed")

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        if any(place.partition == 0 for place in partitions):
            self._owned = False


class KafkaPress:
    """Versions to `segment-models` in transactions; `segstream.model` to all partitions."""

    def __init__(self, settings: Settings, transactional_id: str, models: str, events: str) -> None:
        self.models, self.events = models, events
        self._transactions = Transactions(settings, transactional_id)
        self._control = Producer({**settings, **PRODUCER})

    def start(self) -> None:
        """End what a predecessor in this slot has left open; Refused if nothing may be published.

        A standby would otherwise learn that only when it is needed.
        """
        self._transactions.start()

    def publish(self, record: ModelRecord, fence: object) -> None:
        """`fence`: from the poll whose records led to this version."""
        assert isinstance(fence, Fence)  # noqa: S101 (both are made in this file)
        key, value = str(record.model), record.model_dump_json(by_alias=True)
        self._transactions.commit(
            lambda producer: produce(producer, self.models, value, key, 0),
            [fence.before],
            fence.metadata,
        )

    def announce(self, record: ModelRecord) -> None:
        body = ModelActivated(version=record.model, digest=record.digest).model_dump_json()
        failed: list[str] = []
        try:
            partitions = self._partitions()
            for partition in partitions:
                self._control.produce(
                    self.events,
                    partition=partition,
                    value=body,
                    headers=_headers(record),
                    on_delivery=lambda error, _: failed.append(error.str()) if error else None,
                )
            left = self._control.flush(SECONDS)
        except (KafkaException, BufferError) as error:
            raise Unavailable(f"{self.events}: {error}") from error
        if failed or left:
            why = failed[0] if failed else "not answered"
            raise Unavailable(f"version {record.model} was not announced everywhere: {why}")

    def _partitions(self) -> list[int]:
        topic = self._control.list_topics(self.events, timeout=SECONDS).topics[self.events]
        if topic.error is not None:
            raise KafkaException(topic.error)
        return sorted(topic.partitions)

    def close(self) -> None:
        self._control.flush(SECONDS)


def _headers(record: ModelRecord) -> Any:
    """CloudEvents attributes, binary mode."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"model-%d" % record.model),
        ("ce_source", b"segstream"),
        ("ce_type", b"segstream.model"),
        ("content-type", b"application/json"),
    ]
