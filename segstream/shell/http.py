"""The HTTP side of a process: /metrics for Prometheus, /health and /ready for who supervises it."""

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

JSON = "application/json"
STUCK_SECONDS = 120.0
"""The loop goes round several times a second; the longest wait in it is that for a transaction
that cannot start (30 s), after a commit and an abort without an answer (10 s each)."""


class Health(NamedTuple):
    """What a process says of itself. `alive`: its loop goes round. `ready`: it does its work."""

    alive: bool
    ready: bool
    facts: dict[str, object]


class Pulse:
    """When the loop went round last."""

    def __init__(self) -> None:
        self._last = time.monotonic()

    def beat(self) -> None:
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._last

    @property
    def alive(self) -> bool:
        return self.seconds < STUCK_SECONDS


def serve(
    port: int, address: str, registry: CollectorRegistry, health: Callable[[], Health]
) -> int:
    """Serve until the process ends; the port (0 chooses a free one)."""
    metrics = make_wsgi_app(registry)

    def application(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in ("/health", "/ready"):
            return list(metrics(environ, start))
        found = health()
        good = found.alive and (path == "/health" or found.ready)
        body = {"alive": found.alive, "ready": found.ready, **found.facts}
        start("200 OK" if good else "503 Service Unavailable", [("Content-Type", JSON)])
        return [json.dumps(body).encode() + b"\n"]

    server = make_server(address, port, application, ThreadingWSGIServer, _Quiet)
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return int(server.server_port)


class _Quiet(WSGIRequestHandler):
    """Scrapes are no news."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base's name)
        del format, args
