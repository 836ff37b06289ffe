"""One partition of a topic, read without a group: committed records, in order, as far as asked."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from segstream.ports import Unavailable
from segstream.shell.offsets import log_ends, log_starts
from segstream.shell.transaction import DENIED, Settings, failure

PATIENCE = 30.0
"""Seconds without a record: an open transaction holds the rest back until it times out."""
EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 (the client's own name for it)
CONSUMER = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "error",
    # A waiting read_committed fetch is not woken by a commit, only by this.
    "fetch.wait.max.ms": 50,
    "queued.max.messages.kbytes": 16_384,
}


def bounds(admin: AdminClient, topic: str, partitions: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Offsets of the first record that is kept, and behind the last one, committed or not."""
    places = [TopicPartition(topic, p) for p in partitions]
    try:
        found = zip(log_starts(admin, places), log_ends(admin, places), strict=True)
        return dict(zip(partitions, found, strict=True))
    except KafkaException as error:
        raise failure(f"topic {topic}", error.args[0]) from error


class Reading:
    """Begins at an offset, or with the first record that is kept; each record is read once."""

    def __init__(
        self, kafka: Settings, topic: str, partition: int, start: int | None = None
    ) -> None:
        self._place = TopicPartition(topic, partition)
        self._admin = AdminClient(dict(kafka))
        self._position = self.bounds()[0] if start is None else start
        # A group is required by the client, but never joined.
        self._consumer = Consumer({**kafka, **CONSUMER, "group.id": "segstream.reader"})
        self._consumer.assign([TopicPartition(topic, partition, self._position)])
        self._fetched: deque[Any] = deque()

    def bounds(self) -> tuple[int, int]:
        """As the function of this name."""
        (found,) = bounds(self._admin, self._place.topic, [self._place.partition]).values()
        return found

    def to_end(self) -> Iterator[Any]:
        """The records up to what is the end now that were not read yet."""
        return self.to(self.bounds()[1])

    def to(self, end: int) -> Iterator[Any]:
        """The records before `end` that were not read yet. Unavailable if that takes too long.

        `end` is at most that of all records, committed or not: an open transaction is waited for.
        """
        while (message := self.peek(end)) is not None:
            self._fetched.popleft()
            yield message

    def peek(self, end: int) -> Any:
        """The next record before `end`, which stays to be read; None: there is none."""
        while not self._fetched and self._position < end:
            self._fetch()
        return self._fetched[0] if self._fetched and self._fetched[0].offset() < end else None

    def _fetch(self) -> None:
        name = f"{self._place.topic}, partition {self._place.partition}"
        deadline, before, why = time.monotonic() + PATIENCE, self._position, "nothing came"
        while self._position == before:
            first = self._consumer.poll(0.1)
            # `consume` with a time would wait for the full number.
            for message in [first, *self._consumer.consume(5_000, 0)] if first is not None else ():
                error = message.error()
                if error is None:
                    self._fetched.append(message)
                    self._position = (message.offset() or 0) + 1
                elif error.code() == EOF:  # its offset also passes the markers of transactions
                    self._position = max(self._position, message.offset() or 0)
                elif error.fatal() or error.code() in DENIED:
                    raise failure(name, error)
                else:
                    why = error.str()
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{name}: not read beyond offset {before} in {PATIENCE:.0f} s ({why}). "
                    "A transaction may be open there; try again"
                )

    def close(self) -> None:
        self._consumer.close()
