"""Sends dead letters again, and marks them in the same transaction.

Only one redrive of a namespace can send: starting one fences the one before, and ends what that
had left open. Then the markers of all that was ever sent are in the topic, and what they name is
left out.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from segstream.core.forward import size_of
from segstream.core.redrive import (
    MOST_RECORDS,
    Filter,
    Place,
    Resent,
    Survey,
    batches,
    marker_headers,
    resent,
)
from segstream.ports import Unavailable
from segstream.shell.kafka import headers_of
from segstream.shell.pace import SLICE, Pace
from segstream.shell.transaction import DENIED, SECONDS, Settings, Transactions, failure, produce

Stop = Callable[[], bool]

PATIENCE = 30.0
"""Seconds without a record: an open transaction holds the rest back until it times out."""
EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 (the client's own name for it)
CONSUMER = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",
    # A waiting read_committed fetch is not woken by a commit, only by this.
    "fetch.wait.max.ms": 50,
    "queued.max.messages.kbytes": 16_384,
}


class Letters:
    """The dead-letter topic, read without a group; committed records only."""

    def __init__(self, kafka: Settings, topic: str, group: str) -> None:
        self.topic = topic
        self._settings = {**kafka, **CONSUMER, "group.id": group}  # named, never joined
        self._admin = AdminClient(dict(kafka))

    def survey(self, wanted: Filter, *, again: bool, limit: int | None, stop: Stop) -> Survey:
        """All of it, to what is the end now; if stopped on the way, nothing is to be sent."""
        found = Survey(wanted)
        starts, ends = self._ends(OffsetSpec.earliest()), self._ends(OffsetSpec.latest())  # type: ignore[no-untyped-call]
        for message in self._between(starts, ends, stop):
            headers = headers_of(message)
            size = size_of(message.key(), message.value(), headers)
            found.note(message.partition(), message.offset(), headers, size)
        if not stop():
            found.settle(again=again, limit=limit)
        return found

    def read(self, places: Iterable[Place], stop: Stop) -> Iterator[Resent]:
        """The records to send, partition by partition; those that have expired are left out."""
        wanted: dict[int, set[int]] = {}
        for place in places:
            wanted.setdefault(place.partition, set()).add(place.offset)
        for partition, offsets in sorted(wanted.items()):
            starts, ends = {partition: min(offsets)}, {partition: max(offsets) + 1}
            for message in self._between(starts, ends, stop):
                offset = message.offset()
                if offset in offsets:
                    key, value, headers = message.key(), message.value(), headers_of(message)
                    yield resent(partition, offset, key, value, headers)

    def _ends(self, which: Any) -> dict[int, int]:
        """One end of each partition, of all records, committed or not."""
        try:
            topic = self._admin.list_topics(timeout=SECONDS).topics.get(self.topic)
            if topic is None:
                raise Unavailable(f"topic {self.topic} is missing: `segstream topics create`")
            if topic.error is not None:
                raise failure(f"topic {self.topic}", topic.error)
            asked = {TopicPartition(self.topic, p): which for p in sorted(topic.partitions)}
            futures = self._admin.list_offsets(
                asked, isolation_level=IsolationLevel.READ_UNCOMMITTED, request_timeout=SECONDS
            )
            return {place.partition: f.result().offset for place, f in futures.items()}
        except KafkaException as error:
            raise failure(f"topic {self.topic}", error.args[0]) from error

    def _between(
        self, starts: Mapping[int, int], ends: Mapping[int, int], stop: Stop
    ) -> Iterator[Any]:
        """Committed records with start <= offset < end.

        The ends are of all records: what stands behind an open transaction is waited for, because
        there may be markers among it.
        """
        left = {p for p, end in ends.items() if starts[p] < end}
        consumer, moved, why = Consumer(self._settings), time.monotonic(), "nothing came"
        try:
            consumer.assign([TopicPartition(self.topic, p, starts[p]) for p in sorted(left)])
            while left and not stop():
                first = consumer.poll(SLICE)
                # `consume` with a time would wait for the full number.
                for message in [first, *consumer.consume(1_000, 0)] if first is not None else ():
                    error, partition = message.error(), message.partition() or 0
                    if error is not None and error.code() != EOF:
                        why = _passing(self.topic, error)
                        continue
                    moved = time.monotonic()
                    # At the end, the offset is the position: it also passes transaction markers.
                    offset = message.offset() or 0
                    if offset + (error is None) >= ends[partition]:
                        left.discard(partition)
                    if error is None and offset < ends[partition]:
                        yield message
                        moved = time.monotonic()
                if time.monotonic() - moved > PATIENCE:
                    raise Unavailable(
                        f"{self.topic}, partitions {sorted(left)}: not read to the end in "
                        f"{PATIENCE:.0f} s ({why}). A transaction may be open there; try again"
                    )
        except KafkaException as error:
            raise failure(self.topic, error.args[0]) from error
        finally:
            consumer.close()


def _passing(topic: str, error: KafkaError) -> str:
    """What an error says that may pass; the others are raised."""
    if error.fatal() or error.code() in DENIED:
        raise failure(topic, error)
    return error.str()


class Sender:
    """Appends letters to the events, and their markers to the letters. Fences its predecessor."""

    def __init__(self, kafka: Settings, transactional_id: str, events: str, letters: str) -> None:
        self.events, self.letters = events, letters
        self._transactions = Transactions(kafka, transactional_id)
        self._transactions.start()

    def send(self, records: Sequence[Resent]) -> None:
        """In one transaction. After NotCommitted only another survey tells what was sent."""
        self._transactions.commit(lambda producer: self._fill(producer, records))

    def _fill(self, producer: Producer, records: Sequence[Resent]) -> None:
        for record in records:
            place = record.partition
            produce(producer, self.events, record.value, record.key, place, record.headers)
            produce(producer, self.letters, None, None, place, marker_headers(record.name))


def send(
    letters: Letters, sender: Sender, places: Sequence[Place], *, rate: int, stop: Stop
) -> Iterator[int]:
    """Send what a survey has chosen; the number of each transaction. NotCommitted ends it."""
    pace = Pace(rate)
    most = min(rate, MOST_RECORDS)  # each wait is for at most a second's worth
    for batch in batches(letters.read(places, stop), most):
        pace.wait(len(batch), stop)
        if stop():  # then the batch may also be one that was not read to its end
            return
        sender.send(batch)
        yield len(batch)
