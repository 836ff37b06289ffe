"""The commands of docker-compose.yml run as written, on this host, against real servers.

Only what a container network decides is put differently: addresses, and the metrics port.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import ConnectionError as NotThere
from redis import Redis

from segstream.shell.local import Servers
from segstream.shell.local.servers import _valkey

HOME = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((HOME / "docker-compose.yml").read_text())["services"]


def variables(service: str, servers: Servers, namespace: str, port: int) -> dict[str, str]:
    """The environment of a service, with the addresses of this host."""
    here = {
        "SEGSTREAM_KAFKA_BOOTSTRAP_SERVERS": servers.bootstrap_servers,
        "SEGSTREAM_REDIS_URL": servers.redis_url,
        "SEGSTREAM_METRICS_ADDRESS": "127.0.0.1",
        "SEGSTREAM_METRICS_PORT": str(port),
    }
    written = COMPOSE[service]["environment"]
    assert here.keys() <= written.keys()
    return {**os.environ, **written, **here, "SEGSTREAM_NAMESPACE": namespace}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def answers(port: int, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as page:
                return b"segstream_" in page.read()
        except OSError:
            time.sleep(0.05)
    return False


def test_topics_then_segmenter_then_trainer(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """In the order of `depends_on`; the processes answer the health check and stop on SIGTERM."""
    namespace, port = unique("compose"), free_port()
    config = tmp_path / "segstream.toml"
    config.write_text(f'[topics]\nprefix = "{namespace}."\n')
    for service in ("topics", "segmenter", "trainer"):
        environment = variables(service, servers, namespace, port)
        environment["SEGSTREAM_CONFIG"] = str(config)
        command = [sys.executable, "-m", "consumers", *COMPOSE[service]["command"]]
        process = subprocess.Popen(command, env=environment, cwd=HOME)
        try:
            if service == "topics":
                assert process.wait(60) == 0
                continue
            assert answers(port, process), f"{service} does not serve its metrics"
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_redis_starts_with_its_arguments(tmp_path: Path) -> None:
    """Valkey stands in for the image's server; the arguments are those of the file."""
    program, *arguments = COMPOSE["redis"]["command"]
    assert program == "redis-server"
    port = free_port()
    with subprocess.Popen([_valkey(), *arguments, "--port", str(port)], cwd=tmp_path) as server:
        try:
            client = Redis("127.0.0.1", port)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                try:
                    assert client.info("memory")["maxmemory_policy"] == "noeviction"
                    assert client.info("persistence")["aof_enabled"] == 1
                    return
                except NotThere:
                    time.sleep(0.05)
            pytest.fail("it does not answer")
        finally:
            server.terminate()
