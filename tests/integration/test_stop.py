"""SIGTERM, wherever it comes: the process ends in order, or within its grace."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from segstream.core.hash import partitions_of
from segstream.core.output import ms_text
from segstream.shell.local import Server, Servers
from tests.faults.proxy import Proxy
from tests.integration.deployment import Deployment, code_of, deployment, log_of, wait

START = 1_583_020_800_000
DAY = 86_400_000
PEOPLE = 600
DAYS = 1_000
Names = Callable[[str], str]


@pytest.fixture
def at(servers: Servers, unique: Names, tmp_path: Path) -> Iterator[Deployment]:
    """Topics, and nobody at work; a grace that is long against what is tested, but for itself."""
    with deployment(servers, tmp_path, unique("stop"), SEGSTREAM_GRACE="5s") as made:
        made.create()
        yield made


def view(customer: str, at: int) -> bytes:
    call = {"type": "track", "event": "Product Viewed", "userId": customer}
    return json.dumps({**call, "timestamp": ms_text(at)}).encode()


def long_past(at: Deployment) -> None:
    """Everybody comes once; then the clocks go on for months: a tick a day for each of them."""
    names = [f"customer-{i}" for i in range(PEOPLE)]
    homes = partitions_of([n.encode() for n in names], len(at.partitions), "murmur2").tolist()
    topic = at.topic("customer-events")
    for name, home in zip(names, homes, strict=True):
        at._producer.produce(topic, view(name, START), None, home)
    one = dict(zip(homes, names, strict=True))
    for day in range(1, DAYS):
        for home, name in one.items():
            at._producer.produce(topic, view(name, START + day * DAY), None, home)
    assert at._producer.flush(30) == 0


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def redis_through_proxy(at: Deployment) -> Iterator[tuple[Proxy, str]]:
    """The proxy, and the address of Redis behind it."""
    port = int(at.settings.redis.url.rpartition(":")[2].partition("/")[0])
    with Proxy(port) as proxy:
        yield proxy, f"redis://127.0.0.1:{proxy.port}/0"


def ended(server: Server, seconds: float = 20) -> int:
    wait(lambda: server.pid is None, "it ends", seconds)
    assert "Traceback" not in log_of(server), log_of(server)
    return code_of(server)


def in_time(server: Server) -> None:
    """It ended in order; or at once after its grace, and says so."""
    code, said = ended(server), " ".join(log_of(server).split())
    assert code == 0 or (code == 1 and "a server has not answered within 5 s" in said), said


def test_in_the_middle_of_a_long_catch_up(at: Deployment) -> None:
    """With many ticks left: the batch is finished, W is at N, and the next one goes on."""
    long_past(at)
    with redis_through_proxy(at) as (proxy, url):
        proxy.delay = 0.1  # else it might be done before it is asked to stop
        at.start("segmenter", "one", SEGSTREAM_REDIS_URL=url)
        wait(lambda: max(at.checkpoint(p).clock for p in at.partitions) > START + DAY, "started")
        code, _ = at.stop("one")
    assert code == 0, log_of(at.running["one"])
    assert not at.caught_up(), "it was not in the middle"
    assert at.members() == {}
    stands = [at.checkpoint(p) for p in at.partitions]
    assert [at.published(p) for p in at.partitions if stands[p].offset] == [
        there.position for there in stands if there.offset
    ]
    at.start("segmenter", "two")
    wait(at.caught_up, "the next one goes on", 60)
    assert at.stop("two")[0] == 0


def test_while_kafka_does_not_answer(at: Deployment, servers: Servers) -> None:
    """Nothing to commit: it ends in order if it can; in any case within its grace."""
    server = at.start("segmenter", "one")
    at.works("one")
    at.send(0, view("customer-1", START))
    wait(lambda: at.checkpoint(0).offset == 1, "the record is computed")
    with frozen(servers.kafka[0]):
        server.terminate()
        in_time(server)
    at.start("segmenter", "one")
    at.send(0, view("customer-1", START + DAY))
    wait(lambda: at.checkpoint(0).offset == 2, "the next one goes on", 60)
    assert at.stop("one")[0] == 0
    assert at.published(0) == at.checkpoint(0).position


def test_a_second_signal_ends_it_at_once(at: Deployment, servers: Servers) -> None:
    """Not one that comes with the first: a terminal and a parent may both send theirs."""
    server = at.start("segmenter", "one", SEGSTREAM_GRACE="10m")
    at.works("one")
    at.send(0, view("customer-1", START))
    wait(lambda: at.checkpoint(0).offset == 1, "the record is computed")
    with frozen(servers.kafka[0]):
        server.terminate()
        server.terminate()
        time.sleep(1.5)
        assert server.pid is not None, "it could end in order: the test shows nothing"
        server.terminate()
        assert ended(server) == 128 + signal.SIGTERM
    assert "asked again, by SIGTERM. Nothing is lost" in " ".join(log_of(server).split())


def test_while_redis_does_not_answer(at: Deployment) -> None:
    """What it had published is written by the next one."""
    with redis_through_proxy(at) as (proxy, url):
        server = at.start("segmenter", "one", SEGSTREAM_REDIS_URL=url)
        at.works("one")
        at.send(0, view("customer-1", START))
        wait(lambda: at.checkpoint(0).offset == 1, "the record is computed")
        proxy.deaf = {"up"}
        at.send(0, view("customer-1", START + DAY))
        time.sleep(0.5)
        server.terminate()
        in_time(server)
    assert at.checkpoint(0).offset == 1
    at.start("segmenter", "one")
    wait(lambda: at.checkpoint(0).offset == 2, "the next one goes on", 60)
    assert at.stop("one")[0] == 0
