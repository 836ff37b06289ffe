"""A real cluster of Valkey or Redis for tests: nodes as child processes, slots that are moved."""

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from redis import Redis, RedisError

from segstream.shell.local.children import Family, Server
from segstream.shell.local.plan import HOST, PORTS, _free
from segstream.shell.local.servers import VALKEY, _valkey

SLOTS = 16_384
NODE_TIMEOUT = 1_000  # ms until a node that does not answer is held for dead


def binary() -> str:
    """From the PATH, where there is one; else from the package."""
    return shutil.which("valkey-server") or shutil.which("redis-server") or _valkey()


@dataclass
class Cluster:
    """Nodes by number: first the primaries, then one replica of each of the first `replicas`."""

    servers: list[Server]
    ports: list[int]
    clients: list[Any]  # of one node each

    @property
    def url(self) -> str:
        """With all nodes."""
        return "redis+cluster://" + ",".join(f"{HOST}:{port}" for port in self.ports)

    def id(self, node: int) -> str:
        return str(self.clients[node].execute_command("CLUSTER MYID").decode())

    def slot(self, key: str) -> int:
        """As the servers compute it."""
        return int(self.clients[0].execute_command("CLUSTER KEYSLOT", key))

    def owner(self, slot: int, seen_by: int = 0) -> int:
        """Number of the node that holds a slot."""
        for low, high, primary, *_ in self.clients[seen_by].execute_command("CLUSTER SLOTS"):
            if low <= slot <= high:
                return self.ports.index(primary[1])
        raise AssertionError(f"nobody holds slot {slot}")

    def begin_move(self, slot: int, to: int) -> None:
        """From here on the holder lacks what was not there, or is moved."""
        source = self.owner(slot)
        self.clients[to].execute_command(f"CLUSTER SETSLOT {slot} IMPORTING {self.id(source)}")
        self.clients[source].execute_command(f"CLUSTER SETSLOT {slot} MIGRATING {self.id(to)}")

    def move_keys(self, slot: int, to: int, most: int = 1 << 30) -> int:
        """Key by key, as `redis-cli --cluster reshard` does; how many."""
        source, moved = self.clients[self.owner(slot)], 0
        while moved < most and (
            keys := source.execute_command("CLUSTER GETKEYSINSLOT", slot, min(100, most - moved))
        ):
            source.execute_command("MIGRATE", HOST, self.ports[to], "", 0, 5000, "KEYS", *keys)
            moved += len(keys)
        return moved

    def end_move(self, slot: int, to: int) -> None:
        source, primaries = self.owner(slot), self.primaries()
        for node in (to, source, *(n for n in range(len(self.ports)) if n not in (to, source))):
            if node in primaries:
                self.clients[node].execute_command(f"CLUSTER SETSLOT {slot} NODE {self.id(to)}")

    def primaries(self) -> list[int]:
        """Numbers of those that are one now."""
        roles = [client.info("replication")["role"] for client in self.clients]
        return [number for number, role in enumerate(roles) if role == "master"]

    def flush(self) -> None:
        """Delete everything."""
        for node in self.primaries():
            self.clients[node].flushall()

    def kill(self, node: int) -> None:
        """SIGKILL, as by a power cut."""
        self.servers[node].kill()

    def start(self, node: int) -> None:
        """Again, at the same address."""
        self.servers[node].start()

    def serves(self, seconds: float = 30) -> None:
        """Wait until all nodes that run say that all slots are held."""
        deadline = time.monotonic() + seconds
        alive = [c for c, s in zip(self.clients, self.servers, strict=True) if s.pid is not None]
        while not all(map(_well, alive)):
            assert time.monotonic() < deadline, "the cluster does not serve"
            time.sleep(0.02)


def _well(client: Any) -> bool:
    try:
        info = client.cluster("info")
    except RedisError:
        return False
    return bool(info["cluster_state"] == "ok" and info["cluster_slots_assigned"] == str(SLOTS))


@contextmanager
def redis_cluster(
    directory: Path, primaries: int = 3, replicas: int = 0, *more: str
) -> Iterator[Cluster]:
    """Slots in equal shares, in the order of the nodes. `more`: arguments of all servers."""
    directory.mkdir(parents=True)
    lock = os.open(os.devnull, os.O_RDONLY)
    with ThreadPoolExecutor(1) as thread:
        family = Family(directory, lock, thread, print)
        try:
            yield _start(family, primaries, replicas, more)
        finally:
            family.stop()
            os.close(lock)


@contextmanager
def one_redis(directory: Path) -> Iterator[Any]:
    """A client of one server that is no cluster."""
    directory.mkdir(parents=True)
    lock = os.open(os.devnull, os.O_RDONLY)
    port = next(filter(_free, random.sample(PORTS, len(PORTS))))
    client: Any = Redis(HOST, port, socket_timeout=5)
    with ThreadPoolExecutor(1) as thread:
        family = Family(directory, lock, thread, print)
        command = [binary(), *VALKEY, "--port", str(port)]
        try:
            Server("valkey", family, directory, command, partial(_answers, client)).start()
            yield client
        finally:
            family.stop()
            os.close(lock)


def _start(family: Family, primaries: int, replicas: int, more: tuple[str, ...]) -> Cluster:
    # The bus has a port of its own: the default would lie among those of outgoing connections.
    free = filter(_free, random.sample(PORTS, len(PORTS)))
    places = [(next(free), next(free)) for _ in range(primaries + replicas)]
    ports = [port for port, _ in places]
    clients: list[Any] = [Redis(HOST, port, socket_timeout=5) for port in ports]
    servers = []
    for number, (port, bus) in enumerate(places):
        home = family.directory / f"valkey-{number}"
        home.mkdir()
        command = [
            binary(), *VALKEY, "--port", str(port), "--cluster-enabled", "yes",
            "--cluster-port", str(bus), "--cluster-node-timeout", str(NODE_TIMEOUT),
            "--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0", *more,
        ]  # fmt: skip
        answers = partial(_answers, clients[number])
        servers.append(Server(home.name, family, home, command, answers))
        servers[-1].spawn()
    for server in servers:
        server.wait_ready()
    made = Cluster(servers, ports, clients)
    edges = [round(SLOTS * n / primaries) for n in range(primaries + 1)]
    for number, (low, high) in enumerate(pairwise(edges)):
        clients[number].execute_command("CLUSTER ADDSLOTSRANGE", low, high - 1)
        clients[number].execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
    for port, bus in places[1:]:
        clients[0].execute_command("CLUSTER MEET", HOST, port, bus)
    for number in range(replicas):
        _until(partial(_replicates, made, primaries + number, number), "a replica")
    made.serves()
    return made


def _answers(client: Any, pid: int) -> bool:
    try:
        return bool(client.ping() and client.info("server")["process_id"] == pid)
    except RedisError:
        return False


def _replicates(made: Cluster, replica: int, primary: int) -> bool:
    """Whether a node follows another; it is told to as soon as it knows that one."""
    client = made.clients[replica]
    if client.info("replication")["role"] == "slave":
        return bool(client.info("replication")["master_link_status"] == "up")
    try:
        client.execute_command("CLUSTER REPLICATE", made.id(primary))
    except RedisError:  # it has not heard of it yet
        return False
    return False


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)
