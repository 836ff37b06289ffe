"""Sends dead letters again, and marks them in the same transaction.

Only one redrive of a namespace can send: starting one fences the one before, and ends what that
had left open. Then the markers of all that was ever sent are in the topic, and what they name is
left out.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from segstream.core import forward, redrive
from segstream.core.forward import LARGEST_STRAY
from segstream.core.redrive import Filter, Letter, Marker, Origin, Resent
from segstream.ports import NotCommitted, Unavailable
from segstream.shell.transaction import (
    DENIED,
    FENCED,
    PRODUCER,
    SECONDS,
    Settings,
    failure,
    produce,
)

Stop = Callable[[], bool]

MOST_RECORDS, MOST_BYTES = 500, 4 << 20
"""Of one transaction; a letter that is larger has one of its own."""
PATIENCE = 30.0
"""Seconds without a record: an open transaction holds the rest back until it times out."""
SLICE = 0.1
"""Longest wait before it is looked whether to stop."""
EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 (the client's own name for it)
CONSUMER = {
    # An open transaction must not hide markers behind it: see `Letters._between`.
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",
    # A waiting read_committed fetch is not woken by a commit, only by this.
    "fetch.wait.max.ms": 50,
    "queued.max.messages.kbytes": 16_384,
}


class Place(NamedTuple):
    """Of a letter that may be sent, the oldest first."""

    at: int
    partition: int
    offset: int
    reason: str

    @property
    def name(self) -> str:
        return redrive.name_of(self.partition, self.offset)


@dataclass
class Tally:
    """What the topic holds of one reason. Times are append times of the records, ms."""

    letters: int = 0
    oldest: int = 0
    newest: int = 0
    example: str = ""
    failed_again: int = 0
    sent_before: int = 0
    to_send: int = 0

    def add(self, letter: Letter) -> None:
        self.oldest = min(self.oldest, letter.at) if self.letters else letter.at
        self.newest = max(self.newest, letter.at)
        self.letters += 1
        self.failed_again += letter.failed_again
        self.example = self.example or letter.message


@dataclass
class Survey:
    """What the topic holds. `cut`: where the originals of letters stand that are not whole."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    to_send: list[Place] = field(default_factory=list)
    cut: list[Origin] = field(default_factory=list)
    unknown: int = 0

    def settle(self, marked: set[str], *, again: bool, limit: int | None) -> None:
        """Leave out what is marked, and what is beyond the limit: the newest."""
        before = {place for place in self.to_send if place.name in marked}
        left = sorted(place for place in self.to_send if again or place not in before)
        self.to_send = left[:limit]
        for place in before:
            self.tallies[place.reason].sent_before += 1
        for place in self.to_send:
            self.tallies[place.reason].to_send += 1


class Letters:
    """The dead-letter topic, read without a group; committed records only."""

    def __init__(self, kafka: Settings, topic: str, group: str) -> None:
        self.topic = topic
        self._settings = {**kafka, **CONSUMER, "group.id": group}  # named, never joined
        self._admin = AdminClient(dict(kafka))

    def survey(
        self, wanted: Filter, stop: Stop, *, again: bool = False, limit: int | None = None
    ) -> Survey:
        """All of it, to what is the end now. `again`: what was sent before is sent once more."""
        found, marked = Survey(), set[str]()
        starts, ends = self._ends(OffsetSpec.earliest()), self._ends(OffsetSpec.latest())  # type: ignore[no-untyped-call]
        for message in self._between(starts, ends, stop):
            partition, offset = message.partition(), message.offset()
            read = redrive.read(partition, message.headers())
            if isinstance(read, Marker):
                marked.add(read.name)
            elif read is None:
                found.unknown += 1
            elif wanted.takes(read):
                found.tallies.setdefault(read.reason, Tally()).add(read)
                if read.cut or size_of(message) > LARGEST_STRAY:
                    found.cut.append(read.origin)
                else:
                    found.to_send.append(Place(read.at, partition, offset, read.reason))
        found.settle(marked, again=again, limit=limit)
        return found

    def read(self, places: Iterable[Place], stop: Stop) -> Iterator[Resent]:
        """The records to send, partition by partition; those that have expired are left out."""
        wanted: dict[int, set[int]] = {}
        for place in places:
            wanted.setdefault(place.partition, set()).add(place.offset)
        for partition, offsets in sorted(wanted.items()):
            starts, ends = {partition: min(offsets)}, {partition: max(offsets) + 1}
            for message in self._between(starts, ends, stop):
                if message.offset() in offsets:
                    yield _resent(message)

    def _ends(self, which: Any) -> dict[int, int]:
        """One end of each partition, of all records, committed or not."""
        try:
            topic = self._admin.list_topics(self.topic, timeout=SECONDS).topics[self.topic]
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

        The ends are of all records: what stands behind an open transaction is waited for.
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


def size_of(message: Any) -> int:
    """Bytes of a letter; what is sent again is a little smaller."""
    return forward.size_of(message.key(), message.value(), message.headers())


def _resent(message: Any) -> Resent:
    return redrive.resent(
        message.partition(), message.offset(), message.key(), message.value(), message.headers()
    )


def _passing(topic: str, error: KafkaError) -> str:
    """What an error says that may pass; the others are raised."""
    if error.fatal() or error.code() in DENIED:
        raise failure(topic, error)
    return error.str()


class Sender:
    """Appends letters to the events, and their markers to the letters. Fences its predecessor."""

    def __init__(self, kafka: Settings, transactional_id: str, events: str, letters: str) -> None:
        self.events, self.letters = events, letters
        self._failed: KafkaError | None = None
        self._producer = Producer(
            {
                **kafka,
                **PRODUCER,
                "transactional.id": transactional_id,
                "transaction.timeout.ms": int(SECONDS * 1000),
                "delivery.report.only.error": True,
                "on_delivery": self._undelivered,
            }
        )
        try:
            self._producer.init_transactions(3 * SECONDS)
        except KafkaException as error:
            raise failure("transactions cannot start", error.args[0]) from error

    def send(self, records: Sequence[Resent]) -> None:
        """In one transaction. NotCommitted: this sender is of no more use."""
        try:
            self._producer.begin_transaction()
            for record in records:
                produce(
                    self._producer,
                    self.events,
                    partition=record.partition,
                    key=record.key,
                    value=record.value,
                    headers=record.headers,
                )
                produce(
                    self._producer,
                    self.letters,
                    partition=record.partition,
                    headers=redrive.marker_headers(record.name),
                )
            self._producer.commit_transaction(SECONDS)
        except KafkaException as error:
            raise self._stopped(error.args[0], len(records)) from error

    def _undelivered(self, error: KafkaError | None, _: Any) -> None:
        self._failed = self._failed or error

    def _stopped(self, error: KafkaError, number: int) -> NotCommitted:
        """No second try here: only a new sender, and what it reads, tells what has happened."""
        if error.code() == FENCED:
            why = "another redrive of this namespace was started, and goes on from here"
        else:
            why = f"{(self._failed or error).str()}. Run it again: what was sent is not sent twice"
            if error.txn_requires_abort():
                self._abort()
        return NotCommitted(f"a transaction of {number} dead letters was not committed: {why}")

    def _abort(self) -> None:
        """So that readers of both topics need not wait until it times out."""
        try:
            self._producer.abort_transaction(SECONDS)
        except KafkaException:
            return


class Pace:
    """At most so many records a second."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        #: Each wait is for at most a second's worth.
        self.most = min(rate, MOST_RECORDS)
        self._due = time.monotonic()

    def wait(self, number: int, stop: Stop) -> None:
        """Until `number` more may be sent; time that was not used is lost."""
        while (left := self._due - time.monotonic()) > 0 and not stop():
            time.sleep(min(left, SLICE))
        self._due = max(self._due, time.monotonic()) + number / self.rate


def batches(records: Iterable[Resent], most: int) -> Iterator[list[Resent]]:
    """The records in the order they come, for one transaction each."""
    batch, size = list[Resent](), 0
    for record in records:
        if batch and (len(batch) == most or size + record.size > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record.size
    if batch:
        yield batch


def send(
    letters: Letters, sender: Sender, places: Sequence[Place], *, rate: int, stop: Stop
) -> Iterator[int]:
    """Send what a survey has chosen; the number of each transaction. NotCommitted ends it."""
    pace = Pace(rate)
    for batch in batches(letters.read(places, stop), pace.most):
        pace.wait(len(batch), stop)
        if stop():
            return
        sender.send(batch)
        yield len(batch)
