"""Real servers with topics, settled customers and a model; segmenters on cores of their own."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from benchmarks.machine import aside, cores, cpu_seconds, scrape
from benchmarks.settled import Sample, Settled
from benchmarks.traffic import START_MS, Traffic, live
from consumers.processes import environment_of
from consumers.settings import ClockSettings, RedisSettings, Settings
from consumers.setup import plan_of
from segstream.core.record import ModelRecord
from segstream.ports import Write
from segstream.shell.kafka_trainer import KafkaPress
from segstream.shell.local import LASTING, Server, Servers, local_servers
from segstream.shell.local.children import Family
from segstream.shell.redis import RedisStore
from segstream.shell.redis_client import connect
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


class Process(NamedTuple):
    """A segmenter or trainer, and where its metrics are."""

    server: Server
    port: int

    @property
    def pid(self) -> int:
        """Of the process, which must be running."""
        if self.server.pid is None:
            words = self.server.log.read_text()
            raise Stalled(f"the {self.server.name} has ended; its log: {words}")
        return self.server.pid


class Stage:
    """Where the benchmark plays: servers, topics, settled customers, segmenters."""

    def __init__(self, settings: Settings, servers: Servers, family: Family) -> None:
        self.settings, self.servers, self._family = settings, servers, family
        self.redis = connect(settings.redis.url)
        self.segmenters: list[Process] = []
        self._store = RedisStore(self.redis, settings.namespace)
        self._topic = settings.topic("customer-events")
        self._failed: list[str] = []
        self._producer = Producer({**settings.kafka, **_PRODUCER})
        self._producer.init_transactions(SECONDS)
        self._sent, self._time, self._spawned = 0, START_MS, 0
        self.bytes_each = 0.0  # of Redis, per customer

    # -- before -----------------------------------------------------------------------

    def settle(self, sample: Sample, customers: int) -> None:
        """Activate the sample's model, and write the State of so many customers like it."""
        self.announce(sample.record)
        self.who = Settled.of(sample, customers, self.settings.topics.partitions)
        self._sent = sample.sent
        before = self._memory()
        for partition, end in self._ends().items():
            there = None
            for outcome in self.who.outcomes(self.settings, partition, end):
                if not self._store.write([Write(partition, there, outcome)]):
                    raise RuntimeError(
                        "Redis took no States: it was too slow, or is not ours alone"
                    )
                there = outcome.checkpoint.position
        self.bytes_each = (self._memory() - before) / customers

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

    def start(self, number: int = 1) -> float:
        """Start segmenters; seconds until each partition's first event, which waits, is done."""
        # One event of each partition, so that all of them are claimed when this returns.
        first = self.coming(1_000)
        before = self.valid()
        self.prepare(first.records())
        self.release()
        began = time.monotonic()
        for index in range(number):
            self._spawn_segmenter(index, number)
        took = 0.0
        while (now := self.valid()) < before + len(first):
            if now > before and not took:
                took = time.monotonic() - began
            if time.monotonic() - began > SECONDS:
                raise Stalled(f"{now - before} of {len(first)} events after {SECONDS:.0f} s")
            time.sleep(0.005 if now == before else 0.02)
        return took or time.monotonic() - began

    def start_trainer(self) -> Process:
        """Start a trainer, on the cores of the servers."""
        return self._spawn("trainer", "trainer")

    def _spawn_segmenter(self, index: int, number: int) -> None:
        """Start one of so many, pinned with all its threads."""
        segmenter = self._spawn("segmenter", f"benchmark-{index}")
        self.segmenters.append(segmenter)
        seats = cores(number)
        if seats is not None:  # before it has any thread
            os.sched_setaffinity(segmenter.pid, {sorted(seats[0])[index % len(seats[0])]})

    def _spawn(self, what: str, slot: str) -> Process:
        """`python -m consumers run …`."""
        port = _free_port()
        self._spawned += 1
        server = Server(
            f"{what}-{self._spawned}",
            self._family,
            Path.cwd(),
            [sys.executable, "-m", "consumers", "run", what],
            environment={
                **environment_of(self.settings),
                "SEGSTREAM_SLOT": slot,
                "SEGSTREAM_METRICS_PORT": str(port),
            },
        )
        server.spawn()
        return Process(server, port)

    def stop(self) -> None:
        """End all segmenters in order."""
        for segmenter in self.segmenters:
            segmenter.server.terminate()
        for segmenter in self.segmenters:
            segmenter.server.wait(SECONDS)
        self.segmenters.clear()

    # -- events -----------------------------------------------------------------------

    def coming(self, events: int, rate: float = 20_000) -> Traffic:
        """The next events of the customers, at `rate` per second of event time."""
        traffic = live(self.who.who, events, first=self._sent, rate=rate, start=self._time)
        self._sent += events
        self._time = int(traffic.time[-1])
        return traffic

    def pass_time(self, ms: int) -> None:
        """Let event time go on."""
        self._time += ms

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

    # -- readings ---------------------------------------------------------------------

    def counted(self) -> dict[str, int]:
        """Outcomes and changes of all partitions, from the Checkpoints in the store."""
        total: dict[str, int] = {}
        for partition in range(self.settings.topics.partitions):
            checkpoint = self._store.checkpoint(partition)
            if checkpoint is not None:
                for name, count in (checkpoint.counts | checkpoint.changes).items():
                    total[name] = total.get(name, 0) + count
        return total

    def valid(self) -> int:
        """Events that are computed, published and written."""
        return self.counted().get("valid", 0)

    def clock(self) -> int:
        """Of the partition that is behind the others, in ms."""
        partitions = range(self.settings.topics.partitions)
        found = [self._store.checkpoint(p) for p in partitions]
        return min(0 if c is None else c.clock for c in found)

    def wait(self, number: int, outcomes: Sequence[str] = ("valid",)) -> dict[str, int]:
        """Until so many events are computed, published and written; Stalled otherwise."""
        self.until(lambda: sum(self.counted().get(name, 0) for name in outcomes), number)
        return self.counted()

    def until(self, reading: Callable[[], int], number: int) -> None:
        """Until a reading has risen to a number; Stalled if it stands still."""
        seen, since = -1, time.monotonic()
        while (now := reading()) < number:
            if now != seen:
                seen, since = now, time.monotonic()
            running = all(s.pid for s in self.segmenters)
            if time.monotonic() - since > SECONDS or not running:
                raise Stalled(f"{seen} of {number} after {SECONDS:.0f} s without progress")
            time.sleep(0.02)

    def cpu(self, *, thread: bool = False) -> float:
        """CPU seconds of all segmenters; or of their main threads alone."""
        return sum(cpu_seconds(s.pid, thread=thread) for s in self.segmenters)

    def share(self) -> list[int]:
        """How many partitions each segmenter has."""
        ports = [segmenter.port for segmenter in self.segmenters]
        return [int(scrape(port)["segstream_partitions_owned"]) for port in ports]

    def metrics(self) -> dict[str, float]:
        """Of all segmenters, added up."""
        total: dict[str, float] = {}
        for segmenter in self.segmenters:
            for name, value in scrape(segmenter.port).items():
                total[name] = total.get(name, 0.0) + value
        return total

    def _memory(self) -> int:
        return int(self.redis.info("memory")["used_memory"])

    def _ends(self) -> dict[int, int]:
        """Where each partition of the events ends."""
        consumer = Consumer({**self.settings.kafka, "group.id": "benchmark.ends"})
        places = range(self.settings.topics.partitions)
        found = {
            p: consumer.get_watermark_offsets(TopicPartition(self._topic, p), timeout=SECONDS)
            for p in places
        }
        consumer.close()
        return {p: bounds[1] for p, bounds in found.items()}


@contextmanager
def stage(settings: Settings, directory: Path, tell: Tell) -> Iterator[Stage]:
    """Servers on their cores; they and all segmenters are stopped on the way out."""
    with ExitStack() as stack:
        stack.enter_context(aside())
        servers = stack.enter_context(local_servers(directory, kafka_jvm=LASTING, progress=tell))
        here = settings.model_copy(
            update={
                "kafka": {"bootstrap.servers": servers.bootstrap_servers},
                "redis": RedisSettings(url=servers.redis_url),
                "clock": ClockSettings(idle="off"),
            }
        )
        create(here.kafka, plan_of(here))
        processes = directory / "processes"
        processes.mkdir(parents=True, exist_ok=True)
        lock = os.open(os.devnull, os.O_RDONLY)
        stack.callback(os.close, lock)
        thread = stack.enter_context(ThreadPoolExecutor(1, "segmenter"))
        family = Family(processes, lock, thread, tell)
        stack.callback(family.stop)
        yield Stage(here, servers, family)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
