"""The same surroundings twice: in memory, and on real servers. A contract is held against both."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis

from segstream.core.output import Output, Topic
from segstream.core.record import Rename
from segstream.ports import Fetched, Published, Sink, Source, Store
from segstream.ports.trainer import Press, Samples, Versions
from segstream.shell import topics
from segstream.shell.kafka import KafkaSink, KafkaSource, metadata_of
from segstream.shell.kafka_trainer import KafkaPress, KafkaSamples
from segstream.shell.local import Servers
from segstream.shell.models import Models, send_rename
from segstream.shell.redis import RedisStore
from segstream.testing.log import MemoryLog, Transaction
from segstream.testing.memory import (
    ManualClock,
    MemoryModels,
    MemorySink,
    MemorySource,
    MemoryStore,
)
from segstream.testing.trainer import MemoryPress, MemorySamples, MemoryTopics, MemoryVersions

PARTITIONS, LAYOUT = 2, "layout"
SECONDS = 30.0
TOPICS: dict[Topic, str] = {
    "changes": "segment-changes",
    "memberships": "customer-segments",
    "samples": "feature-samples",
    "dead_letters": "customer-events-dlq",
    "events": "customer-events",
}


class Open(Protocol):
    """A transaction that somebody has begun, and not ended."""

    def commit(self) -> None: ...
    def abort(self) -> None: ...


class Scene(Protocol):
    """Two partitions of events, W at their start, and whoever comes."""

    def append(self, partition: int, *values: bytes | None) -> None: ...
    def source(self) -> Source: ...
    def sink(self, slot: str) -> Sink: ...
    def store(self) -> Store: ...
    def evicting_store(self) -> Store: ...
    def models(self) -> Any: ...
    def samples(self) -> Samples: ...
    def versions(self) -> Versions: ...
    def press(self, slot: str) -> Press: ...
    def add_sample(self, key: bytes, value: bytes) -> None: ...
    def add_rename(self, rename: Rename) -> None: ...
    def delete_group(self) -> None: ...
    def open(
        self,
        slot: str,
        outputs: Sequence[Output],
        positions: Mapping[int, Published],
        metadata: object,
    ) -> Open: ...
    def share(self, *sources: Source) -> list[Fetched]:
        """Until these are the members; per member, the poll that told of its partitions."""

    def own(self, owner: Samples) -> None:
        """Until this only member owns the samples."""

    def leave(self, samples: Samples) -> None: ...

    def published(self, topic: Topic) -> list[tuple[int, bytes | None, bytes | None]]:
        """Committed records of a topic: (partition, key, value)."""


def wait(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {SECONDS} s in vain: {what}"
    return found


# --- in memory ----------------------------------------------------------------------------------


class MemoryOpen:
    def __init__(self, log: MemoryLog, transaction: Transaction) -> None:
        self._log, self._transaction = log, transaction

    def commit(self) -> None:
        self._log.commit(self._transaction)

    def abort(self) -> None:
        self._log.end(self._transaction, committed=False)


class MemoryScene:
    def __init__(self) -> None:
        self.log = MemoryLog(PARTITIONS, LAYOUT, ManualClock(1_772_323_200_000))
        self.topics = MemoryTopics(self.log)
        self._store = MemoryStore()

    def append(self, partition: int, *values: bytes | None) -> None:
        for value in values:
            self.log.append(partition, value)

    def source(self) -> MemorySource:
        return MemorySource(self.log)

    def sink(self, slot: str) -> MemorySink:
        return MemorySink(self.log, slot)

    def store(self) -> MemoryStore:
        return self._store

    def evicting_store(self) -> MemoryStore:
        return MemoryStore(policy="allkeys-lru")

    def models(self) -> MemoryModels:
        return MemoryModels(self.topics.versions)

    def samples(self) -> MemorySamples:
        return MemorySamples(self.topics)

    def versions(self) -> MemoryVersions:
        return MemoryVersions(self.topics)

    def press(self, slot: str) -> MemoryPress:
        return MemoryPress(self.topics, slot)

    def add_sample(self, key: bytes, value: bytes) -> None:
        self.topics.samples.append((key, value))

    def add_rename(self, rename: Rename) -> None:
        self.topics.rename(rename)

    def delete_group(self) -> None:
        self.log.published.clear()

    def open(
        self,
        slot: str,
        outputs: Sequence[Output],
        positions: Mapping[int, Published],
        metadata: object,
    ) -> MemoryOpen:
        transaction = self.log.begin(slot)
        for output in outputs:
            self.log.produce(transaction, output)
        self.log.carry(transaction, positions, metadata)
        return MemoryOpen(self.log, transaction)

    def share(self, *sources: Any) -> list[Fetched]:
        self.log.assign(sources)
        return [source.poll(10, 0) for source in sources]

    def own(self, owner: Any) -> None:
        self.topics.assign(owner)

    def leave(self, samples: Samples) -> None:
        self.topics.assign(None)

    def published(self, topic: Topic) -> list[tuple[int, bytes | None, bytes | None]]:
        if topic == "events":
            return [(p, r.key, r.value) for p in range(PARTITIONS) for r in self.log.committed(p)]
        found = [o for o in self.log.outputs if o.topic == topic]
        return [(0 if topic == "samples" else o.partition, o.key, o.value) for o in found]


# --- on real servers ----------------------------------------------------------------------------


class KafkaOpen:
    """As KafkaSink has it between its calls."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def commit(self) -> None:
        self._producer.commit_transaction(SECONDS)

    def abort(self) -> None:
        self._producer.abort_transaction(SECONDS)


class RealScene:
    def __init__(self, servers: Servers, name: str) -> None:
        # quiet, because the servers go before some clients
        self.kafka: dict[str, Any] = {
            "bootstrap.servers": servers.bootstrap_servers,
            "log_level": 0,
        }
        self.redis = Redis.from_url(servers.redis_url)
        self.name = name
        self.plan = topics.Plan(f"{name}.", PARTITIONS, 1, f"{name}.segmenter", LAYOUT)
        topics.create(self.kafka, self.plan)
        self.topics = {name: self.plan.name(full) for name, full in TOPICS.items()}
        self._producer = Producer({**self.kafka, "linger.ms": 0})
        self._closing: list[Any] = []

    def _closes(self, part: Any) -> Any:
        self._closing.append(part)
        return part

    def close(self) -> None:
        for part in self._closing:
            with suppress(KafkaException, RuntimeError):
                part.close()
        self.redis.config_set("maxmemory-policy", "noeviction")

    def append(self, partition: int, *values: bytes | None) -> None:
        self._produce(self.topics["events"], partition, [(None, value) for value in values])

    def _produce(self, topic: str, partition: int, records: Any) -> None:
        for key, value in records:
            self._producer.produce(topic, key=key, value=value, partition=partition)
        assert self._producer.flush(SECONDS) == 0

    def source(self) -> KafkaSource:
        source = KafkaSource(self.kafka, self.topics["events"], self.plan.group)
        return self._closes(source)  # type: ignore[no-any-return]

    def sink(self, slot: str) -> KafkaSink:
        sink = KafkaSink(self.kafka, f"{self.name}.{slot}", self.topics)
        return self._closes(sink)  # type: ignore[no-any-return]

    def store(self) -> RedisStore:
        return RedisStore(self.redis, self.name)

    def evicting_store(self) -> RedisStore:
        self.redis.config_set("maxmemory-policy", "allkeys-lru")
        return self.store()

    def models(self) -> Models:
        return self._closes(Models(self.kafka, self.plan.name("segment-models")))  # type: ignore[no-any-return]

    versions = models

    def samples(self) -> KafkaSamples:
        samples = KafkaSamples(self.kafka, self.topics["samples"], f"{self.name}.trainer")
        return self._closes(samples)  # type: ignore[no-any-return]

    def press(self, slot: str) -> KafkaPress:
        models, events = self.plan.name("segment-models"), self.topics["events"]
        return self._closes(KafkaPress(self.kafka, f"{self.name}.{slot}", models, events))  # type: ignore[no-any-return]

    def add_sample(self, key: bytes, value: bytes) -> None:
        self._produce(self.topics["samples"], 0, [(key, value)])

    def add_rename(self, rename: Rename) -> None:
        send_rename(self.kafka, self.plan.name("segment-models"), rename)

    def delete_group(self) -> None:
        admin = AdminClient(dict(self.kafka))
        (future,) = admin.delete_consumer_groups([self.plan.group]).values()
        future.result(SECONDS)

    def open(
        self,
        slot: str,
        outputs: Sequence[Output],
        positions: Mapping[int, Published],
        metadata: Any,
    ) -> KafkaOpen:
        producer = Producer(
            {**self.kafka, "transactional.id": f"{self.name}.{slot}", "linger.ms": 0}
        )
        producer.init_transactions(SECONDS)
        producer.begin_transaction()
        for o in outputs:
            headers: Any = o.headers
            producer.produce(
                self.topics[o.topic], o.value, o.key, partition=o.partition, headers=headers
            )
        producer.flush(SECONDS)
        offsets = [
            TopicPartition(self.topics["events"], p, w.position.offset, metadata_of(w))
            for p, w in positions.items()
        ]
        producer.send_offsets_to_transaction(offsets, metadata, SECONDS)
        return KafkaOpen(producer)

    def share(self, *sources: Any) -> list[Fetched]:
        told: dict[int, Fetched] = {}
        mine: dict[int, frozenset[int]] = dict.fromkeys(range(len(sources)), frozenset())

        def shared() -> bool:
            for number, source in enumerate(sources):
                fetched = source.poll(10, 0.05)
                mine[number] = (mine[number] - fetched.revoked) | fetched.assigned
                if fetched.assigned or number not in told:
                    told[number] = fetched
            sizes = [len(partitions) for partitions in mine.values()]
            return sum(sizes) == PARTITIONS and all(sizes)

        wait(shared, "the partitions are shared")
        return [told[number] for number in range(len(sources))]

    def own(self, owner: Any) -> None:
        wait(lambda: owner.poll(0.05).claim is not None, "it owns the samples")

    def leave(self, samples: Any) -> None:
        samples.close()

    def published(self, topic: Topic) -> list[tuple[int, bytes | None, bytes | None]]:
        name = self.topics[topic]
        consumer = Consumer(
            {
                **self.kafka,
                "group.id": f"{self.name}.reader",
                "isolation.level": "read_committed",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
            }
        )
        count = 1 if topic == "samples" else PARTITIONS
        consumer.assign([TopicPartition(name, p, 0) for p in range(count)])
        found: list[Any] = []
        ended: set[int | None] = set()

        def read() -> bool:
            for message in consumer.consume(100, 0.1):
                if message.error():
                    ended.add(message.partition())
                else:
                    found.append((message.partition(), message.key(), message.value()))
            return len(ended) == count

        try:
            wait(read, f"the end of {name}")
        finally:
            consumer.close()
        return sorted(found, key=lambda record: record[0])
