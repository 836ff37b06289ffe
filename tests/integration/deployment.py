"""A deployment of its own on the servers that all tests share: topics, processes, what came out."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis, RedisCluster

from consumers import settings
from consumers.setup import plan_of
from segstream.core.batch import Checkpoint, Position
from segstream.shell import topics
from segstream.shell.local import Server, Servers
from segstream.shell.local.children import Family
from segstream.shell.offsets import log_ends
from segstream.shell.redis import Keys, checkpoint_of
from segstream.shell.redis_client import CLUSTER, is_cluster
from segstream.shell.replay.barrier import Tails

T = TypeVar("T")

HOME = Path(__file__).parents[2]
END = KafkaError._PARTITION_EOF
Headers = Sequence[tuple[str, bytes]]


def wait(condition: Callable[[], T], what: str, seconds: float = 30) -> T:
    """What the condition says, once it is truthy."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)
    return found


def environment(servers: Servers, config: Path, **more: str) -> dict[str, str]:
    """The variables that lead a process to these servers."""
    return {
        "SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
        "SEGSTREAM_REDIS_URL": servers.redis_url,
        "SEGSTREAM_CONFIG": str(config),
        "SEGSTREAM_CLOCK_IDLE": "off",
        "SEGSTREAM_GRACE": "30s",  # the machine may be slow
        **more,
    }


@dataclass
class Deployment:
    """Processes are children, started as by `segstream up`, each with its slot as client id."""

    environment: dict[str, str]
    family: Family
    running: dict[str, Server] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.settings = settings.load(self.environment)
        self.kafka: dict[str, Any] = {"bootstrap.servers": self.settings.kafka["bootstrap.servers"]}
        self.redis: Any = redis_of(self.settings.redis.url)
        self.keys = Keys(self.settings.namespace)
        self.plan = plan_of(self.settings)
        self.partitions = range(self.settings.topics.partitions)
        quiet = {**self.kafka, "log_level": 0}  # the servers go before these clients
        self._producer = Producer({**quiet, "linger.ms": 0})
        self._admin = AdminClient(quiet)
        self._tails = Tails(quiet, self.topic("customer-events"))

    def topic(self, name: str) -> str:
        return self.settings.topic(name)

    def create(self) -> list[str]:
        return topics.create(self.kafka, self.plan)

    # -- processes --------------------------------------------------------------------

    def start(self, process: str, slot: str, module: str = "consumers", **more: str) -> Server:
        """Start it, again if it ran before; without waiting."""
        variables = {
            **self.environment,
            "SEGSTREAM_SLOT": slot,
            "SEGSTREAM_METRICS_PORT": "0",
            "SEGSTREAM_KAFKA_CLIENT_ID": slot,
            **more,
        }
        command = [sys.executable, "-m", module, "run", process]
        server = Server(slot, self.family, HOME, command, environment=variables)
        self.running[slot] = server
        server.spawn()
        return server

    def stop(self, slot: str) -> tuple[int, float]:
        """SIGTERM; the exit code, and how many seconds it took."""
        began, server = time.monotonic(), self.running[slot]
        server.terminate()
        server.wait(30)
        return code_of(server), time.monotonic() - began

    def members(self, process: str = "segmenter") -> dict[str, set[int]]:
        """Slot → its partitions, in the group of a process; empty unless the group is stable."""
        group = self.settings.group(process)
        found = self._admin.describe_consumer_groups([group])[group].result(10)
        if found.state.name != "STABLE":
            return {}
        return {
            m.client_id: {place.partition for place in m.assignment.topic_partitions}
            for m in found.members
        }

    def works(self, *slots: str, process: str = "segmenter") -> None:
        """Wait until these, and no others, share the group of the process."""
        wait(lambda: self.members(process).keys() == set(slots), f"{process}s {slots}", 40)

    def command(self, *arguments: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        """`segstream …`, to its end; one that does not end says where it stood."""
        command = [sys.executable, "-X", "faulthandler", "-m", "consumers", *arguments]
        with subprocess.Popen(
            command, env={**os.environ, **self.environment, "COLUMNS": "200"}, cwd=HOME, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as running:  # fmt: skip
            try:
                out, err = running.communicate(typed, timeout=60)
            except subprocess.TimeoutExpired:
                running.send_signal(signal.SIGABRT)
                out, err = running.communicate()
                raise AssertionError(f"{arguments} did not end:\n{out}\n{err}") from None
        return subprocess.CompletedProcess(command, running.returncode, out, err)

    # -- what is there ----------------------------------------------------------------

    def send(
        self, partition: int, value: bytes | None, key: bytes | None = None, headers: Headers = ()
    ) -> int:
        """Append a record to customer-events; its offset."""
        offsets: list[int] = []

        def delivered(error: KafkaError | None, message: Any) -> None:
            assert error is None, error
            offsets.append(message.offset())

        topic = self.topic("customer-events")
        self._producer.produce(
            topic, value, key, partition, headers=cast(Any, [*headers]), on_delivery=delivered
        )
        assert self._producer.flush(30) == 0
        return offsets[0]

    def read(self, name: str, partition: int) -> list[Any]:
        """All committed messages of a partition, from its beginning to its end."""
        consumer = Consumer(
            {
                **self.kafka,
                "group.id": "tests",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "fetch.wait.max.ms": 10,
            }
        )
        messages: list[Any] = []
        deadline = time.monotonic() + 60
        place = TopicPartition(self.topic(name), partition, 0)
        try:
            consumer.assign([place])
            while time.monotonic() < deadline:
                if (first := consumer.poll(0.2)) is None:
                    continue
                # consume() with a timeout would wait until it has all that it may bring
                for message in (first, *consumer.consume(5_000, 0)):
                    error = message.error()
                    if error is not None and error.code() == END:
                        return messages
                    assert error is None, error
                    messages.append(message)
            stands = f"at {consumer.position([place])[0].offset} of {self.end(name, partition)}"
            raise AssertionError(
                f"the end of {name}, partition {partition}, was not reached: {stands}"
            )
        finally:
            consumer.close()

    def end(self, name: str, partition: int = 0) -> int:
        """The log end of all records, committed or not. Brokers may be away for a while."""
        deadline, place = time.monotonic() + 30, TopicPartition(self.topic(name), partition)
        while True:
            try:
                return log_ends(self._admin, [place])[0]
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    def checkpoint(self, partition: int) -> Checkpoint:
        """N: where the States stand."""
        found: Any = self.redis.get(self.keys.meta(partition))
        return checkpoint_of(found) or Checkpoint(0, 0, "")

    def published(self, partition: int) -> Position:
        """W: up to where everything is published."""
        found = topics.positions(self.kafka, self.plan)[partition]
        assert found is not None
        return found.position

    def caught_up(self) -> bool:
        """Whether N is at the log end everywhere, but for markers of transactions."""
        positions = [self.checkpoint(p).offset for p in self.partitions]
        ends = [self.end("customer-events", p) for p in self.partitions]
        self._tails.look(positions, ends)
        return self._tails.reached(positions, ends)


def code_of(server: Server) -> int:
    """The exit code of a process that has ended."""
    assert server._process is not None
    code = server._process.poll()
    assert code is not None, "it is still running"
    return code


def log_of(server: Server) -> str:
    return server.log.read_text()


def redis_of(url: str) -> Any:
    """With the library's own patience, unlike that of the processes."""
    kind = RedisCluster if is_cluster(url) else Redis
    return kind.from_url(url.replace(CLUSTER, "").partition(",")[0])


@contextmanager
def deployment(
    servers: Servers, directory: Path, name: str, config: str = "", **more: str
) -> Iterator[Deployment]:
    """Own namespace and own topics, not created yet. `config`: TOML without [topics] prefix."""
    path = directory / f"{name}.toml"
    path.write_text(f'topics.prefix = "{name}."\n{config}')
    variables = environment(servers, path, SEGSTREAM_NAMESPACE=name, **more)
    lock = os.open(os.devnull, os.O_RDONLY)
    with ThreadPoolExecutor(1) as thread:
        home = directory / name
        home.mkdir()
        family = Family(home, lock, thread, print)
        made = Deployment(variables, family)
        try:
            yield made
        finally:
            family.stop()
            made.redis.close()
            os.close(lock)


def offspring(variable: str, value: str) -> list[str]:
    """Command lines of all processes whose environment says so (Linux; elsewhere none is found)."""
    found = []
    for home in Path("/proc").glob("[0-9]*"):
        try:
            said = (home / "environ").read_bytes().split(b"\0")
            if f"{variable}={value}".encode() in said:
                found.append((home / "cmdline").read_text().replace("\0", " "))
        except OSError:  # it has ended, or is not ours
            continue
    return [command for command in found if command]  # a zombie has none
