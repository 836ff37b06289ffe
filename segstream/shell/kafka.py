"""Source and Sink on Apache Kafka (confluent-kafka).

Every transactional call has a timeout. Rebalance callbacks do no I/O and never raise: an exception
that leaves one is lost in the client, together with a record.
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    OFFSET_STORED,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from segstream.core.batch import Position
from segstream.core.event import Records
from segstream.core.forward import UNREADABLE
from segstream.core.output import Output, Topic, ms_text
from segstream.ports import Fetched, Published, Refused
from segstream.shell.transaction import (
    DENIED,
    PRODUCER,
    REJECTED,
    SECONDS,
    Settings,
    Transactions,
    failure,
    produce,
)

log = logging.getLogger(__name__)

AT_ONCE = 500
"""Messages that are taken apart together: so few that they are still in the cache."""
METADATA_VERSION = "1"
PARTITION_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 (the client's own name for it)
OUT_OF_RANGE = {
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
}
CLAIM_SECONDS = 1.0
"""Patience with W: other partitions wait meanwhile, and it is asked for again."""
NOT_STARTED = KafkaError._STATE  # noqa: SLF001
STARTING, PAUSE = 0.2, 0.005
"""Seconds of patience with a partition that the client has just been assigned."""
NEVER = -math.inf

CLASSIC = {
    "partition.assignment.strategy": "range",
    "session.timeout.ms": 6_000,
    # A member hears of a change of the group by its next heartbeat: hand-overs wait for it.
    "heartbeat.interval.ms": 500,
}
"""Of a member in the classic protocol; in that of KIP-848 the brokers decide these."""
CONSUMER = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,
    "fetch.queue.backoff.ms": 5,
    # A waiting read_committed fetch is not woken by a commit, only by this.
    "fetch.wait.max.ms": 10,
    # Bounds what zstd may unpack to, and the client reads no further than a record beyond it: a few
    # kB of a producer's would stop a partition. Other codecs know no such bound.
    "receive.message.max.bytes": 1 << 30,
    "queued.min.messages": 20_000,
    "queued.max.messages.kbytes": 65_536,
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


def is_classic(settings: Settings) -> bool:
    """Whether members are assigned all their partitions at once, as `range` does it."""
    return str(settings.get("group.protocol", "classic")).lower() == "classic"


class KafkaSource:
    """`customer-events` as a member of the group of segmenters."""

    def __init__(self, settings: Settings, topic: str, group: str) -> None:
        self.topic = topic
        self._rejected = ""
        self._classic = is_classic(settings)
        membership = {**(CLASSIC if self._classic else {}), "group.id": group}
        self._consumer = Consumer(
            {**settings, **CONSUMER, **membership, "error_cb": self._note_error}
        )
        self._settings = settings
        self._admin = AdminClient(dict(settings))
        # What the metadata look like while this is no member: such are never used.
        self._nobody = self._consumer.consumer_group_metadata()
        self._assigned: set[int] = set()
        self._revoked: set[int] = set()
        self._since: dict[int, float] = {}
        """When partitions were assigned; NEVER, if one was out of range since: the client seeks in
        it no more."""
        self._subscribe()

    def _subscribe(self) -> None:
        self._consumer.subscribe(
            [self.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )

    def poll(self, limit: int, timeout: float) -> Fetched:
        """Whatever has arrived, at most `limit` records; waits only if nothing has."""
        arrived = _Arrived()
        try:
            self._drain(arrived, limit)
            first = None if arrived.number or not timeout else self._consumer.poll(timeout)
            if first is not None:  # one without a value has the length 0
                arrived.take([first])
                self._drain(arrived, limit)
            # Belongs to this poll: read later, it could be that of a generation which has
            # given the partition to another worker.
            metadata = self._consumer.consumer_group_metadata()
        except KafkaException as error:
            raise failure("poll", error.args[0]) from error
        if self._rejected:
            raise Refused(
                f"Kafka does not let this process in: {self._rejected}. Check the user, password "
                "and certificates in SEGSTREAM_KAFKA_*"
            )
        assigned, self._assigned = frozenset(self._assigned), set()
        revoked, self._revoked = frozenset(self._revoked), set()
        self._since |= dict.fromkeys(arrived.strayed, NEVER)
        member = None if metadata == self._nobody else metadata
        at_end, strayed = frozenset(arrived.at_end), frozenset(arrived.strayed)
        return Fetched(arrived.records(), at_end, assigned, revoked, member, strayed)

    def _drain(self, arrived: "_Arrived", limit: int) -> None:
        """Take what is there, until there is no more."""
        while asked := min(AT_ONCE, limit - arrived.number):
            messages = self._consumer.consume(asked, 0)
            arrived.take(messages)
            if len(messages) < asked:
                return

    def committed(self, partition: int) -> Published | None:
        """W; Unavailable while a transaction on it is pending (`committed` waits for it)."""
        try:
            (found,) = self._consumer.committed(
                [TopicPartition(self.topic, partition)], timeout=CLAIM_SECONDS
            )
        except KafkaException as error:
            raise failure(f"W of partition {partition}", error.args[0]) from error
        if found.error is not None:
            raise failure(f"W of partition {partition}", found.error)
        if found.offset == OFFSET_INVALID:
            return None
        return published_from(found.offset, found.metadata)

    def topic_id(self) -> str:
        try:
            names = TopicCollection([self.topic])
            (future,) = self._admin.describe_topics(names, request_timeout=SECONDS).values()
            return str(future.result().topic_id)
        except KafkaException as error:
            # A client that was told of no controller while one was starting would go on waiting
            # for it: unlike consumers, one that knows no topic never asks again.
            self._admin = AdminClient(dict(self._settings))
            raise failure(f"topic {self.topic}", error.args[0]) from error

    def partitions(self) -> int:
        try:
            found = self._consumer.list_topics(self.topic, timeout=SECONDS).topics[self.topic]
        except KafkaException as error:
            raise failure(f"topic {self.topic}", error.args[0]) from error
        if found.error is not None:
            raise failure(f"topic {self.topic}", found.error)
        return len(found.partitions)

    def bounds(self, partition: int) -> tuple[int, int]:
        return self._watermarks(partition)

    def log_end(self, partition: int) -> int:
        return self._watermarks(partition, cached=True)[1]

    def _watermarks(self, partition: int, *, cached: bool = False) -> tuple[int, int]:
        try:
            low, high = self._consumer.get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=SECONDS, cached=cached
            )
        except KafkaException as error:
            raise failure(f"log of partition {partition}", error.args[0]) from error
        return int(low), int(high)

    def start(self, partition: int, offset: int) -> None:
        place = TopicPartition(self.topic, partition, offset)
        try:
            self._seek(place)
            self._consumer.resume([place])
        except KafkaException as error:
            waited = time.monotonic() - self._since.get(partition, NEVER)
            if error.args[0].code() == NOT_STARTED and waited > SECONDS:
                self._consumer.unsubscribe()  # it will be assigned anew
                self._subscribe()
            raise failure(f"partition {partition}", error.args[0]) from error

    def _seek(self, place: TopicPartition) -> None:
        """With patience: the client may not have begun with what it was assigned just now."""
        until = time.monotonic() + STARTING
        while True:
            try:
                self._consumer.seek(place)
            except KafkaException as error:
                if error.args[0].code() != NOT_STARTED or time.monotonic() > until:
                    raise
                time.sleep(PAUSE)
            else:
                return

    def pause(self, partition: int) -> None:
        try:
            self._consumer.pause([TopicPartition(self.topic, partition)])
        except KafkaException as error:
            log.info("partition %d cannot be paused: %s", partition, error)

    def close(self) -> None:
        self._consumer.close()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Assign at W, but paused; the claim seeks to N and resumes. Not at 0, which may be no more:
        # the fetch can be faster than the pause. Not at the end: that is looked up, and an answer
        # that comes behind the seek makes the client look again and go there, past all between.
        try:
            for place in partitions:
                place.offset = OFFSET_STORED
            (consumer.assign if self._classic else consumer.incremental_assign)(partitions)
            consumer.pause(partitions)
            numbers = {p.partition for p in partitions}
            self._assigned |= numbers
            self._since |= dict.fromkeys(numbers, time.monotonic())
        except Exception:
            log.exception("assignment failed")

    def _note_error(self, error: KafkaError) -> None:
        """Brokers that cannot be reached: the client goes on trying, people should know."""
        log.warning("Kafka: %s", error.str())
        if error.code() in REJECTED:
            self._rejected = error.str()

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = {p.partition for p in partitions}
        self._revoked |= numbers
        self._assigned -= numbers


_Message: Any = Message  # its methods may all answer None, but those of a record do not


class _Arrived:
    """What a poll has brought: records per partition, whose end was reached, who is not within the
    log."""

    def __init__(self) -> None:
        self.number = 0
        self.columns: defaultdict[int, tuple[list[Any], ...]] = defaultdict(_no_columns)
        self.at_end: set[int] = set()
        self.strayed: set[int] = set()

    def take(self, messages: list[Any]) -> None:
        """Add messages."""
        self.number += len(messages)
        groups: defaultdict[int, list[Any]] = defaultdict(list)
        columns = (map(method, messages) for method in (_Message.partition, _Message.error))
        for message, partition, error in zip(messages, *columns, strict=True):
            if error is None:
                groups[partition].append(message)
            elif error.code() == PARTITION_EOF:
                self.at_end.add(partition)
            elif error.code() in OUT_OF_RANGE:
                self.strayed.add(partition)
            elif error.code() in DENIED:
                raise failure(f"topic {message.topic()}", error)
            elif error.fatal():
                raise Refused(f"Kafka: {error.str()}")
            else:
                log.warning("Kafka: %s", error.str())
        for partition, group in groups.items():
            for column, more in zip(self.columns[partition], records_of(group), strict=True):
                column.extend(more)

    def records(self) -> dict[int, Records]:
        """Of each partition that has any."""
        return {partition: Records(*columns) for partition, columns in self.columns.items()}


def _no_columns() -> tuple[list[Any], ...]:
    return tuple([] for _ in Records._fields)


def records_of(messages: list[Any]) -> Records:
    """Messages of a partition as columns."""
    return Records(
        list(map(_Message.offset, messages)),
        [time for _, time in map(_Message.timestamp, messages)],
        list(map(_Message.value, messages)),
        _all_headers(messages),
        list(map(_Message.key, messages)),
    )


def headers_of(message: Any) -> Any:
    """The headers of one message."""
    return _all_headers([message])[0]


def _all_headers(messages: Sequence[Any]) -> list[Any]:
    """The headers of each; asked for a second time, unreadable ones would crash the process.

    Of a name that is no UTF-8 the client returns a broken list, with the error still set. Calls
    from C notice that; the interpreter, once it has optimised the call, does not.
    """
    found: list[Any] = []
    rest = iter(messages)
    while len(found) < len(messages):
        try:
            found.extend(map(_Message.headers, rest))
        except SystemError:
            found.append(UNREADABLE)
    return found


class KafkaSink:
    """The output topics, written in transactions under a stable id per worker slot."""

    def __init__(
        self, settings: Settings, transactional_id: str, topics: Mapping[Topic, str]
    ) -> None:
        self.topics = topics
        self._transactions = Transactions(settings, transactional_id)
        self._transactions.start()
        self._control = Producer({**settings, **PRODUCER})

    def publish(
        self, outputs: list[Output], positions: Mapping[int, Published], metadata: object
    ) -> None:
        offsets = [
            TopicPartition(self.topics["events"], partition, p.position.offset, metadata_of(p))
            for partition, p in positions.items()
        ]
        self._transactions.commit(lambda p: self._produce(p, outputs), offsets, metadata)

    def _produce(self, producer: Producer, outputs: list[Output]) -> None:
        for output in outputs:
            topic = self.topics[output.topic]
            # To the partition of their input; samples have a topic of one partition.
            partition = 0 if output.topic == "samples" else output.partition
            produce(producer, topic, output.value, output.key, partition, output.headers)

    def append_clock(self, partition: int, time: int) -> None:
        self._control.produce(
            self.topics["events"],
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
