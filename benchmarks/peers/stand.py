"""Real Kafka and Valkey on their cores, and one peer at a time on a core of its own."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from redis import Redis

from benchmarks.machine import aside, cores, cpu_seconds
from benchmarks.peers.job import Job
from benchmarks.peers.line_up import Peer
from benchmarks.peers.model import CONFIG, model_of
from benchmarks.servers import Tell
from benchmarks.traffic import PARTITIONS
from consumers.processes import environment_of
from consumers.settings import ClockSettings, RedisSettings, load
from consumers.setup import plan_of
from segstream.shell.kafka_trainer import KafkaPress
from segstream.shell.local import LASTING, Server, Servers, local_servers
from segstream.shell.local.children import Family
from segstream.shell.redis import RedisStore
from segstream.shell.redis_client import connect
from segstream.shell.topics import STARTING, create

SECONDS = 60.0
PATIENCE = 120.0
"""Seconds without progress after which a peer is given up."""
_PRODUCER = {
    "enable.idempotence": True,
    "compression.type": "lz4",
    "queue.buffering.max.messages": 200_000,
    "log_level": 2,
}
_SENDS_ALL = {"linger.ms": 20, "batch.size": 256 << 10}


class Stalled(RuntimeError):
    """A peer that has ended, or makes no progress."""


class TooShort(RuntimeError):
    """Too little was counted to measure it."""


class Reading(NamedTuple):
    """Seconds of wall and CPU time so far, and how many calls are done and committed."""

    wall: float
    peer: float
    kafka: float
    valkey: float
    done: int

    def since(self, before: "Reading") -> "Reading":
        return Reading(*(a - b for a, b in zip(self, before, strict=True)))  # type: ignore[arg-type]


@dataclass
class Stand:
    """The servers, and which cores they and the peers have."""

    servers: Servers
    redis: Redis
    directory: Path
    core: set[int] | None
    tell: Tell

    def producer(self, **more: Any) -> Producer:
        """A client that sends what is given, or raises."""
        return Producer({"bootstrap.servers": self.servers.bootstrap_servers, **_PRODUCER, **more})

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.servers.bootstrap_servers, "log_level": 2})

    def load(self, topic: str, records: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Send (partition, key, value) of all."""
        failed: list[str] = []

        def delivered(error: KafkaError | None, _: object) -> None:
            if error is not None:
                failed.append(error.str())

        producer = self.producer(**_SENDS_ALL)
        for partition, key, value in records:
            while True:
                try:
                    producer.produce(topic, value, key, partition, on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.1)
        producer.flush(SECONDS)
        if failed:
            raise RuntimeError(f"the traffic could not be sent: {failed[0]}")


@contextmanager
def stand(directory: Path, tell: Tell) -> Iterator[Stand]:
    """All is stopped on the way out."""
    where = cores()
    with ExitStack() as stack:
        stack.enter_context(aside())
        home = directory / "servers"
        servers = stack.enter_context(local_servers(home, kafka_jvm=LASTING, progress=tell))
        redis = stack.enter_context(connect(servers.redis_url))
        yield Stand(servers, redis, directory, None if where is None else where[0], tell)


class Run:
    """One peer with topics of its own."""

    def __init__(self, on: Stand, peer: Peer, job: Job, number: int) -> None:
        self.on, self.peer, self.job = on, peer, job
        self.name = f"{peer.name}-{number}"
        self.input, self.output = f"{self.name}-calls", f"{self.name}-changes"
        self.environment: dict[str, str] = {}
        self.server: Server | None = None
        self._done = 0
        if peer.name == "segstream":
            self._prepare_segstream()
        else:
            self._prepare_other()

    def _prepare_other(self) -> None:
        here = self.on.servers.bootstrap_servers
        admin = self.on.admin()
        names = (self.input, self.output)
        topics = [NewTopic(name, num_partitions=PARTITIONS) for name in names]
        for future in admin.create_topics(topics).values():
            future.result(SECONDS)
        # Committed is what the group has; also while a transaction is under way.
        self._group = Consumer(
            {
                "bootstrap.servers": here,
                "group.id": self.name,
                "isolation.level": "read_uncommitted",
                "log_level": 2,
            }
        )
        place = self.on.directory / f"{self.name}.json"
        state = self.on.directory / self.name
        state.mkdir()
        place.write_text(
            json.dumps(
                {
                    "job": self.job.data(),
                    "bootstrap": here,
                    "redis": self.on.servers.redis_url,
                    "input": self.input,
                    "output": self.output,
                    "group": self.name,
                    "directory": str(state),
                    "setting": self.peer.setting,
                }
            )
        )
        self.command = [*self.peer.command, str(place)]

    def _prepare_segstream(self) -> None:
        settings = load({"SEGSTREAM_CONFIG": str(CONFIG)}).model_copy(
            update={
                "namespace": self.name,
                "kafka": {"bootstrap.servers": self.on.servers.bootstrap_servers},
                "redis": RedisSettings(url=self.on.servers.redis_url),
                "clock": ClockSettings(idle="off"),
            }
        )
        self.input, self.output = map(settings.topic, ("customer-events", "segment-changes"))
        create(settings.kafka, plan_of(settings))
        record, models = model_of(self.job, settings.definition), settings.topic("segment-models")
        producer = self.on.producer()
        body = record.model_dump_json(by_alias=True)
        producer.produce(models, key=str(record.model), value=body, partition=0)
        producer.flush(SECONDS)
        press = KafkaPress(settings.kafka, "peers.press", models, self.input)
        press.announce(record)
        press.close()
        self._store = RedisStore(self.on.redis, settings.namespace)
        self.environment = {
            **environment_of(settings),
            "SEGSTREAM_CONFIG": str(CONFIG),
            "SEGSTREAM_SLOT": "benchmark",
            "SEGSTREAM_METRICS_PORT": "0",
        }
        self.command = list(self.peer.command)

    # -- the process ------------------------------------------------------------------

    @contextmanager
    def started(self) -> Iterator[None]:
        """The peer's process, pinned with all its threads; ended on the way out."""

        def pin() -> None:
            if self.on.core is not None:
                os.sched_setaffinity(0, self.on.core)

        lock = os.open(os.devnull, os.O_RDONLY)
        # The thread that starts a process hands its cores on to it.
        with ThreadPoolExecutor(1, self.name, initializer=pin) as thread:
            family = Family(self.on.directory, lock, thread, self.on.tell)
            self.server = Server(
                self.name, family, Path.cwd(), self.command, environment=self.environment
            )
            try:
                self.server.spawn()
                yield
            finally:
                family.stop()
                os.close(lock)

    def read(self) -> Reading:
        """Stalled if the process has ended."""
        pid = None if self.server is None else self.server.pid
        if pid is None:
            log = "" if self.server is None else self.server.log.read_text()[-2_000:]
            raise Stalled(f"{self.peer.title} has ended. The end of its log:\n{log}")
        valkey, *kafka = self.on.servers.pids
        done = self.done()  # first: what is read after it is at least as much
        return Reading(
            time.monotonic(),
            cpu_seconds(pid),
            sum(map(cpu_seconds, kafka)),
            cpu_seconds(valkey),
            done,
        )

    def done(self) -> int:
        """How many calls are computed and committed."""
        if self.peer.name == "segstream":
            checkpoints = map(self._store.checkpoint, range(PARTITIONS))
            return sum(checkpoint.counts["valid"] for checkpoint in checkpoints if checkpoint)
        places = [TopicPartition(self.input, partition) for partition in range(PARTITIONS)]
        try:
            there = self._group.committed(places, timeout=SECONDS)
        except KafkaException as error:
            if not error.args[0].retriable() and error.args[0].code() not in STARTING:
                raise
        else:
            self._done = sum(max(0, place.offset) for place in there)
        return self._done

    def follow(self, number: int, every: float = 0.1) -> list[Reading]:
        """Readings until so many calls are done."""
        readings = [self.read()]
        moved = time.monotonic()
        while readings[-1].done < number:
            time.sleep(every)
            readings.append(self.read())
            if readings[-1].done > readings[-2].done:
                moved = time.monotonic()
            if time.monotonic() - moved > PATIENCE:
                done = readings[-1].done
                raise Stalled(f"{self.peer.title}: {done} of {number} calls, then no progress")
        return readings

    def close(self) -> None:
        """Take its data away, so that the next peer finds the servers as this one did."""
        self.on.redis.flushall()
        admin = self.on.admin()
        known = admin.list_topics(timeout=SECONDS).topics
        own = [name for name in known if not name.startswith("__")]
        for future in admin.delete_topics(own).values():
            future.result(SECONDS)
        if self.peer.name != "segstream":
            self._group.close()


def steady(readings: Sequence[Reading], begin: int, end: int) -> Reading:
    """The difference between two commits amid the work, from `begin` calls on and before `end`.

    Both ends are moments at which something was committed just now: what a peer has done but not
    yet committed is then about the same at both.
    """
    commits = [after for before, after in pairwise(readings) if after.done > before.done]
    amid = [reading for reading in commits if begin <= reading.done < end]
    if len(amid) < 2:
        amid = [reading for reading in commits if reading.done >= begin]
    if len(amid) < 2:
        raise TooShort("too few commits to measure between: count more with --events")
    return amid[-1].since(amid[0])
