"""What a directory's servers keep from one start to the next: their identity, and their ports."""

from __future__ import annotations

import json
import random
import secrets
import socket
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

from segstream.shell.local.jars import LocalUnavailable

HOST = "127.0.0.1"
# Below the range that systems hand out for outgoing connections: a client that keeps asking for
# a killed server could otherwise be given that server's own port, and keep it from coming back.
PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Plan:
    """As kept in `servers.json`."""

    cluster_id: str
    kafka: list[list[int]]  # per node: the clients' port, the controllers' port
    redis: int

    def ports(self) -> list[int]:
        return [self.redis, *chain(*self.kafka)]


def plan(directory: Path, nodes: int, new_ports: bool) -> Plan:
    """The directory's own plan: with its old ports if they are still free and wanted."""
    path = directory / "servers.json"
    cluster_id = urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    if path.exists():
        old = Plan(**json.loads(path.read_text()))
        if len(old.kafka) != nodes:
            raise LocalUnavailable(
                f"{directory} holds the data of {len(old.kafka)} Kafka node(s), not {nodes}. "
                "Ask for as many, or choose another directory."
            )
        if not new_ports and all(map(_free, old.ports())):
            return old
        cluster_id = old.cluster_id
    ports = filter(_free, random.sample(PORTS, len(PORTS)))
    new = Plan(cluster_id, [[next(ports), next(ports)] for _ in range(nodes)], next(ports))
    part = path.with_suffix(".part")
    part.write_text(json.dumps(asdict(new)))
    part.replace(path)
    return new


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
