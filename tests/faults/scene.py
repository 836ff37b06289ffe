"""Where faults are played: processes under a supervisor, a steady stream, and the end.

The end is always the same: the stream stops, everything is caught up, all processes end by
SIGTERM, and what is in Kafka and Redis is held against the oracle.
"""

import signal
import sys
import threading
from dataclasses import dataclass, field
from typing import NamedTuple

from segstream.shell.local import Server
from tests.integration.deployment import HOME, Deployment

OURS = {0, -signal.SIGKILL}
"""How a process may end here: by SIGTERM in order, or killed by us."""
LOOK_SECONDS = 0.005


class Exit(NamedTuple):
    slot: str
    code: int
    at: float  # monotonic
    said: str  # the end of its log


@dataclass
class Crew:
    """The processes of a deployment; each that ends is started again in its slot, at once."""

    at: Deployment
    exits: list[Exit] = field(default_factory=list)
    _kept: dict[str, Server] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)

    def start(self, process: str, slot: str, module: str = "consumers", **more: str) -> None:
        """Start it and keep it running."""
        variables = {
            **self.at.environment,
            "SEGSTREAM_SLOT": slot,
            "SEGSTREAM_METRICS_PORT": "0",
            "SEGSTREAM_KAFKA_CLIENT_ID": slot,
            **more,
        }
        command = [sys.executable, "-m", module, "run", process]
        server = Server(slot, self.at.family, HOME, command, environment=variables)
        with self._lock:
            self.at.running[slot] = self._kept[slot] = server
            server.spawn()

    def again(self, slot: str) -> None:
        """Start one again that was left to lie."""
        with self._lock:
            self._kept[slot] = self.at.running[slot]
            self._kept[slot].spawn()

    def release(self, slot: str) -> Server:
        """Supervise it no longer: it may end."""
        with self._lock:
            return self._kept.pop(slot)
