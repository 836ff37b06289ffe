"""Local servers and all processes in one foreground: for `segstream demo` and `segstream up`."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consumers.settings import Settings
from segstream.shell.local.children import Family, Server

Progress = Callable[[str], None]

RESTART_SECONDS = 2.0


@dataclass
class Processes:
    """Segmenters and a trainer as child processes."""

    servers: list[Server]
    tell: Progress
    restarted_at: float = 0.0

    def supervise(self) -> None:
        """Start again what has ended; call it now and then."""
        if time.monotonic() - self.restarted_at < RESTART_SECONDS:
            return
        for server in self.servers:
            if server.pid is None:
                self.restarted_at = time.monotonic()
                self.tell(f"{server.name} ended; starting it again. Its log: {server.log}")
                server.spawn()


@contextmanager
def processes(
    directory: Path, environment: Mapping[str, str], segmenters: int, tell: Progress
) -> Iterator[Processes]:
    """Start `segstream run` that many times, and a trainer; stop them gracefully on the way out."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = os.open(os.devnull, os.O_RDONLY)
    with ThreadPoolExecutor(1, "segstream-processes") as thread:
        family = Family(directory, lock, thread, tell)
        names = [("segmenter", f"segmenter-{n}") for n in range(1, segmenters + 1)]
        servers = [
            Server(
                slot,
                family,
                Path.cwd(),
                [sys.executable, "-m", "consumers", "run", process],
                environment={**environment, "SEGSTREAM_SLOT": slot, "SEGSTREAM_METRICS_PORT": "0"},
            )
            for process, slot in [*names, ("trainer", "trainer")]
        ]
        try:
            for server in servers:
                server.spawn()
            yield Processes(servers, tell)
        finally:
            family.stop()
            os.close(lock)


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give a child process these servers and this namespace."""
    kafka = {
        "SEGSTREAM_KAFKA_" + name.upper().replace(".", "_"): str(value)
        for name, value in settings.kafka.items()
    }
    return {
        **kafka,
        "SEGSTREAM_REDIS_URL": settings.redis.url,
        "SEGSTREAM_NAMESPACE": settings.namespace,
        "SEGSTREAM_CLOCK_IDLE": settings.clock.idle,
        "SEGSTREAM_PARTITIONS": str(settings.topics.partitions),
    }
