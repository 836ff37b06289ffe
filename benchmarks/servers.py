"""Real servers with topics and a model, and one segmenter process on a core of its own."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from confluent_kafka import KafkaError, Producer

from benchmarks.machine import cores
from consumers.processes import environment_of
from consumers.settings import ClockSettings, RedisSettings, Settings
from consumers.setup import plan_of
from segstream.core.record import ModelRecord
from segstream.shell.kafka_trainer import KafkaPress
from segstream.shell.local import Server, Servers, local_servers
from segstream.shell.local.children import Family
from segstream.shell.redis import RedisStore, connect
from segstream.shell.topics import create

Tell = Callable[[str], None]

SECONDS = 60.0
_PRODUCER = {
    "transactional.id": "benchmark",
    "transaction.timeout.ms": 600_000,
    "compression.type": "lz4",
    "linger.ms": 20,
    "batch.size": 256 << 10,
    "queue.buffering.max.messages": 200_000,
    "log_level": 2,  # it outlives the broker, and would say so
}


class Stalled(RuntimeError):
    """The segmenter makes no progress."""


class Stage:
    """Where the benchmark plays: servers, topics, one segmenter."""

    def __init__(self, settings: Settings, servers: Servers, segmenter: Server, port: int) -> None:
        self.settings, self.servers, self.segmenter, self.port = settings, servers, segmenter, port
        self.redis = connect(settings.redis.url)
        self._store = RedisStore(self.redis, settings.namespace)
        self._topic = settings.topic("customer-events")
        self._failed: list[str] = []
        self._producer = Producer({**settings.kafka, **_PRODUCER})
        self._producer.init_transactions(SECONDS)

    @property
    def pid(self) -> int:
        """Of the segmenter, which must be running."""
        if self.segmenter.pid is None:
            raise Stalled(f"the segmenter has ended; its log: {self.segmenter.log.read_text()}")
        return self.segmenter.pid

    def announce(self, record: ModelRecord) -> None:
        """Publish a version and activate it in every partition."""
        models = self.settings.topic("segment-models")
        producer = Producer(dict(self.settings.kafka))
        body = record.model_dump_json(by_alias=True)
        producer.produce(models, key=str(record.model), value=body, partition=0)
        producer.flush(SECONDS)
        press = KafkaPress(self.settings.kafka, "benchmark.press", models, self._topic)
        press.announce(record)
        press.close()

    def prepare(self, records: Iterable[tuple[int, bytes, bytes]]) -> None:
        """Send (partition, key, value) of all; nobody sees it before `release`."""
        self._producer.begin_transaction()
        for partition, key, value in records:
            while True:
                try:
                    self._producer.produce(
                        self._topic, value, key, partition, on_delivery=self._delivered
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
        self._producer.flush(SECONDS)
        if self._failed:
            raise RuntimeError(f"the traffic could not be sent: {self._failed[0]}")

    def _delivered(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._failed.append(error.str())

    def release(self) -> None:
        """Commit what was sent: to the segmenter, all of it arrives at once."""
        self._producer.commit_transaction(SECONDS)

    def counted(self) -> dict[str, int]:
        """Outcomes and changes of all partitions, from the Checkpoints in the store."""
        total: dict[str, int] = {}
        for partition in range(self.settings.topics.partitions):
            checkpoint = self._store.checkpoint(partition)
            if checkpoint is not None:
                for name, count in (checkpoint.counts | checkpoint.changes).items():
                    total[name] = total.get(name, 0) + count
        return total

    def wait(self, number: int, outcomes: Sequence[str] = ("valid",)) -> dict[str, int]:
        """Until so many events are computed, published and written; Stalled otherwise."""
        seen, since = -1, time.monotonic()
        while (now := sum((counted := self.counted()).get(name, 0) for name in outcomes)) < number:
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > SECONDS or not self.pid:
                raise Stalled(f"{seen} of {number} events after {SECONDS:.0f} s without progress")
            time.sleep(0.02)
        return counted


@contextmanager
def stage(settings: Settings, directory: Path, tell: Tell) -> Iterator[Stage]:
    """Servers on their cores, the segmenter on its own; all are stopped on the way out."""
    where = cores()
    with ExitStack() as stack:
        if where is not None:  # children inherit it, so it comes first
            before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, where[1])
            stack.callback(os.sched_setaffinity, 0, before)
        servers = stack.enter_context(local_servers(directory, progress=tell))
        here = settings.model_copy(
            update={
                "kafka": {"bootstrap.servers": servers.bootstrap_servers},
                "redis": RedisSettings(url=servers.redis_url),
                "clock": ClockSettings(idle="off"),
            }
        )
        create(here.kafka, plan_of(here))
        port = _free_port()
        core = None if where is None else where[0]
        segmenter = stack.enter_context(_segmenter(here, directory / "processes", port, core, tell))
        yield Stage(here, servers, segmenter, port)


@contextmanager
def _segmenter(
    settings: Settings, directory: Path, port: int, core: set[int] | None, tell: Tell
) -> Iterator[Server]:
    """`python -m consumers run segmenter`, pinned with all its threads."""

    def pin() -> None:
        if core is not None:
            os.sched_setaffinity(0, core)

    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(os.devnull, os.O_RDONLY)
    # The thread that starts a process hands its cores on to it.
    with ThreadPoolExecutor(1, "segmenter", initializer=pin) as thread:
        family = Family(directory, lock, thread, tell)
        segmenter = Server(
            "segmenter",
            family,
            Path.cwd(),
            [sys.executable, "-m", "consumers", "run", "segmenter"],
            environment={
                **environment_of(settings),
                "SEGSTREAM_SLOT": "benchmark",
                "SEGSTREAM_METRICS_PORT": str(port),
            },
        )
        try:
            segmenter.spawn()
            yield segmenter
        finally:
            family.stop()
            os.close(lock)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
