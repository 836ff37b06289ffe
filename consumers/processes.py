"""Local servers and all processes in one foreground: for `segstream demo` and `segstream up`."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from consumers.settings import Settings
from segstream.ports import Refused
from segstream.shell.local.children import Family, Server

Progress = Callable[[str], None]

RESTART_SECONDS = 2.0
PATIENCE = 3
"""Starts in a row that may fail before a person must look."""
LAST_LINES = 12
LEADING_ELSEWHERE = ("SEGSTREAM_KAFKA_", "SEGSTREAM_REDIS_")
"""Variables that may lead to other servers, or have them ask ours for a password."""


@dataclass
class Processes:
    """Segmenters and a trainer as child processes."""

    servers: list[Server]
    tell: Progress
    failures: dict[str, int] = field(default_factory=dict)
    looked: float = field(default_factory=time.monotonic)

    def supervise(self) -> None:
        """Start again what has ended; call it now and then. Refused if that does not help."""
        if time.monotonic() - self.looked < RESTART_SECONDS:
            return
        self.looked = time.monotonic()
        for server in self.servers:
            if server.pid is not None:
                self.failures.pop(server.name, None)
                continue
            self.failures[server.name] = self.failures.get(server.name, 0) + 1
            if self.failures[server.name] > PATIENCE:
                raise Refused(f"{server.name} ends again and again:\n{last_words(server.log)}")
            self.tell(f"{server.name} ended; starting it again")
            server.spawn()


def last_words(log: Path) -> str:
    """The last lines of a log."""
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-LAST_LINES:])


@contextmanager
def processes(
    directory: Path,
    environment: Mapping[str, str],
    segmenters: int,
    tell: Progress,
    without: tuple[str, ...] = LEADING_ELSEWHERE,
) -> Iterator[Processes]:
    """Start `segstream run` that many times, and a trainer; stop them gracefully on the way out.

    `without`: how the variables begin that they do not inherit.
    """
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
                without=without,
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
