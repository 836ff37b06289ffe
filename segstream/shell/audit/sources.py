"""Where an audit looks: Redis in one instant, topics from their beginning."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis

from segstream.core.audit import Kept, Sample
from segstream.core.batch import Checkpoint, Position
from segstream.core.hash import customer_hash
from segstream.core.step import Function, Partition
from segstream.ports import Models, Published
from segstream.shell.kafka import headers_of
from segstream.shell.reading import Reading
from segstream.shell.redis import Keys, checkpoint_of
from segstream.shell.redis_client import Client, ask


class Topics(NamedTuple):
    """Names."""

    events: str
    changes: str
    memberships: str


class Snapshot(NamedTuple):
    """States of some customers and the Checkpoint, as of one instant."""

    checkpoint: Checkpoint | None
    states: dict[str, bytes | None]
    indexed: dict[str, bool]  # whether it stands in its minute of the tick period

    def position(self, published: Published) -> Position:
        """N; where nothing was written yet, it is where the log began."""
        there = self.checkpoint
        return Position(published.origin, 0) if there is None else there.position


@dataclass
class Sources:
    """What is needed to look at any partition, and whom to look at."""

    kafka: Mapping[str, Any]
    redis: Client
    keys: Keys
    topics: Topics
    function: Function
    models: Models
    sample: Sample

    def snapshot(self, partition: int, customers: Iterable[str] = ()) -> Snapshot:
        """Checkpoint and States as of one instant; Unavailable if Redis does not answer."""
        names, keys = list(customers), self.keys
        period = self.function.definition.tick.minutes

        def read(redis: Redis) -> Any:
            with redis.pipeline(transaction=True) as pipe:
                of_all = [keys.customer(partition, name) for name in names]
                pipe.mget([keys.meta(partition), *of_all])
                for name in names:
                    pipe.sismember(keys.minute(partition, customer_hash(name) % period), name)
                return pipe.execute()

        (meta, *blobs), *indexed = ask(self.redis, keys.meta(partition), read)
        return Snapshot(
            checkpoint_of(meta),
            dict(zip(names, blobs, strict=True)),
            dict(zip(names, map(bool, indexed), strict=True)),
        )

    def events(self, where: Partition, start: int) -> Reading:
        return Reading(self.kafka, self.topics.events, where.number, start)

    def changes(self, where: Partition) -> Reading:
        return Reading(self.kafka, self.topics.changes, where.number)

    def memberships(self, where: Partition) -> Reading:
        return Reading(self.kafka, self.topics.memberships, where.number)


def kept(reading: Reading) -> Iterator[Kept]:
    """The records of a topic that were not read yet, up to what is its end now."""
    for message in reading.to_end():
        yield Kept(message.key(), message.value(), headers_of(message) or ())
