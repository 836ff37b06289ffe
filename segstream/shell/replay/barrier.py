"""Waits until the segmenter and the trainer have done all that the log asks of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from segstream.ports import Refused, Unavailable
from segstream.shell.access import READER
from segstream.shell.offsets import log_ends
from segstream.shell.redis_client import connect, values
from segstream.shell.replay.log import ANSWER, ReplayError, Target, said

TIMED_OUT = KafkaError._TIMED_OUT  # noqa: SLF001 (the client's own name for it)
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001
_FIRST_WAIT, _LONGEST_WAIT = 0.002, 0.02
_LOOK_SECONDS = 0.1
"""Standstill after which it is looked what stands between a position and its log's end."""


class _Meta(msgspec.Struct):
    offset: int


class Ends(NamedTuple):
    """Log ends: the offsets that the next records will get."""

    events: list[int]
    samples: int


class Seen(NamedTuple):
    """How far the workers have come."""

    positions: list[int]
    committed: int


class Tails:
    """Ends of logs that are markers of transactions only: no position will ever pass those."""

    def __init__(self, kafka: Mapping[str, Any], topic: str) -> None:
        self._topic = topic
        self._known: set[tuple[int, int, int]] = set()
        self._consumer = Consumer(
            {
                **kafka,
                "group.id": READER,  # never joined
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
            }
        )

    def look(self, positions: list[int], ends: list[int]) -> None:
        """Find out about the partitions that are behind."""
        for p, (at, end) in enumerate(zip(positions, ends, strict=True)):
            if at < end and self._empty(p, at, end):
                self._known.add((p, at, end))

    def reached(self, positions: list[int], ends: list[int]) -> bool:
        """Whether no record is left, as far as has been looked."""
        places = enumerate(zip(positions, ends, strict=True))
        return all(at >= end or (p, at, end) in self._known for p, (at, end) in places)

    def _empty(self, partition: int, at: int, end: int) -> bool:
        self._consumer.assign([TopicPartition(self._topic, partition, at)])
        message = self._consumer.poll(ANSWER)
        if message is None or (error := message.error()) is None or error.code() != _EOF:
            return False
        offset = message.offset()
        return offset is not None and offset >= end

    def close(self) -> None:
        self._consumer.close()


class Barrier:
    """One replay's view of the workers, with one connection to each server."""

    def __init__(self, target: Target, partitions: int, timeout: float) -> None:
        self._timeout = timeout
        self._keys = [f"{target.namespace}:{{{p}}}:meta" for p in range(partitions)]
        self._events = [TopicPartition(target.events, p) for p in range(partitions)]
        self._samples = TopicPartition(target.samples, 0)
        self._group = f"{target.namespace}.trainer"
        self._redis = connect(target.redis_url, ANSWER, retries=1)  # it only reads
        self._admin = AdminClient(dict(target.kafka))
        # A member of the group only by name: it asks for the group's offset and never joins.
        self._trainer = Consumer({**target.kafka, "group.id": self._group})
        self._tails = Tails(target.kafka, target.events)

    def close(self) -> None:
        self._tails.close()
        self._trainer.close()
        self._redis.close()

    def wait(self, what: str, stop: Callable[[], bool]) -> bool:
        """Until all is done; False if stopped before. Raises ReplayError when nothing moves.

        Done: every position at its log's end, then the trainer's at the end of the samples, and
        after that both ends where they were. The trainer appends its models before it commits,
        so with its commit everything it had to say is in the log.
        """
        ends, last, since, wait = self._ends(), None, time.monotonic(), _FIRST_WAIT
        committed, looked = 0, since
        while not stop():
            positions = self._positions()
            if self._tails.reached(positions, ends.events):
                before = self._ends()
                committed = self._committed()
                if self._tails.reached(positions, before.events) and committed >= before.samples:
                    ends = self._ends()
                    if ends == before:
                        return True
                else:
                    ends = before
            seen = Seen(positions, committed)
            now = time.monotonic()
            if seen != last:
                last, since, looked, wait = seen, now, now, _FIRST_WAIT
            elif now - since > self._timeout:
                raise ReplayError(self._stuck(what, seen, ends))
            elif now - looked > _LOOK_SECONDS:
                looked = now
                self._tails.look(positions, ends.events)
            time.sleep(wait)
            wait = min(wait * 1.1, _LONGEST_WAIT)
        return False

    def _positions(self) -> list[int]:
        """Where the States stand; 0 for a partition that nobody has begun."""
        try:
            return [
                0 if meta is None else msgspec.json.decode(meta, type=_Meta).offset
                for meta in values(self._redis, self._keys)
            ]
        except (Unavailable, Refused, msgspec.MsgspecError) as error:
            raise ReplayError(f"The positions in Redis cannot be read: {error}") from error

    def _ends(self) -> Ends:
        try:
            *events, samples = log_ends(self._admin, [*self._events, self._samples])
        except KafkaException as error:
            raise ReplayError(f"The ends of the logs cannot be read: {said(error)}") from error
        return Ends(events, samples)

    def _committed(self) -> int:
        """The trainer's offset; 0 if it has none, or nobody can tell at the moment."""
        try:
            return max(0, self._trainer.committed([self._samples], ANSWER)[0].offset)
        except KafkaException as error:
            # The coordinator moves or starts, or a killed trainer's transaction is still open.
            if error.args[0].retriable() or error.args[0].code() == TIMED_OUT:
                return 0
            raise ReplayError(f"The trainer's offset cannot be read: {said(error)}") from error

    def _stuck(self, what: str, seen: Seen, ends: Ends) -> str:
        behind = [
            f"partition {p}: segmenter at {at} of {end}"
            for p, (at, end) in enumerate(zip(seen.positions, ends.events, strict=True))
            if at < end
        ]
        ask = "Is `segstream run segmenter` running, with the same namespace?"
        if not behind:
            behind = [f"trainer ({self._group}) at {seen.committed} of {ends.samples} samples"]
            ask = "Is `segstream run trainer` running, with the same namespace?"
        return (
            f"As lived, {what}: nothing has moved for {self._timeout:.0f} s. "
            f"{'; '.join(behind[:8])}{'; …' * (len(behind) > 8)}. {ask} "
            "The same command goes on from here."
        )
