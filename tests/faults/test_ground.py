"""Somebody changes the ground below a segmenter at work: it refuses, and says what to do."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions  # type: ignore[attr-defined]

from segstream.core.output import ms_text
from segstream.ports import Refused
from segstream.shell.local import Servers
from tests.faults.traffic import START
from tests.integration.deployment import Deployment, code_of, deployment, log_of, wait

RECORDS = 5


@pytest.fixture
def at(servers: Servers, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Deployment]:
    """A segmenter that has computed a little on each partition."""
    with deployment(servers, tmp_path, unique("ground")) as made:
        made.create()
        made.start("segmenter", "one")
        made.works("one")
        send(made, RECORDS)
        wait(made.caught_up, "all is computed")
        yield made


def send(at: Deployment, number: int) -> None:
    """Clock records: they belong on any partition."""
    for p in at.partitions:
        for minute in range(number):
            time = ms_text(START + 60_000 * (at.end("customer-events", p) + minute))
            body = json.dumps({"time": time}).encode()
            at.send(p, body, None, [("ce_type", b"segstream.clock")])


def refusal(at: Deployment) -> str:
    """What the segmenter says that ends with exit code 1."""
    server = at.running["one"]
    wait(lambda: server.pid is None, "it refuses", 40)
    said = " ".join(log_of(server).split())
    assert code_of(server) == 1, said
    assert "Traceback" not in said
    return said


def test_the_number_of_partitions_is_raised(at: Deployment) -> None:
    topic = at.topic("customer-events")
    at._admin.create_partitions([NewPartitions(topic, 5)])[topic].result(10)
    said = refusal(at)
    assert "has 5 partitions, 4 are configured" in said
    assert "Go back to it, or begin anew" in said


def test_the_log_is_cut_beyond_what_was_computed(at: Deployment) -> None:
    server = at.running["one"]
    assert server._process is not None
    server._process.send_signal(signal.SIGSTOP)
    send(at, RECORDS)
    end = at.end("customer-events", 0)
    place = TopicPartition(at.topic("customer-events"), 0, end)
    at._admin.delete_records([place])[place].result(10)
    server._process.send_signal(signal.SIGCONT)
    said = refusal(at)
    assert f"the log of {place.topic} begins at {end}" in said
    assert "`segstream restore`" in said


def test_the_topic_is_made_anew(at: Deployment) -> None:
    """At once, and longer than the old one. Kafka has deleted W with the topic.

    Kafka's client goes on in the new one without a word; who stands beyond its end notices.
    """
    topic = at.topic("customer-events")
    at._admin.delete_topics([topic])[topic].result(10)
    wait(lambda: topic not in at._admin.list_topics(timeout=10).topics, "it is gone")
    with suppress(Refused):  # topics are made; W only if the segmenter has ended by now
        at.create()
    send(at, 2 * RECORDS)
    assert "Redis holds States of another topic" in refusal(at)


def test_the_group_is_deleted(at: Deployment) -> None:
    """Kafka does not let anybody do that while a segmenter runs."""
    at.stop("one")
    group = at.settings.group("segmenter")
    at._admin.delete_consumer_groups([group])[group].result(10)
    at.start("segmenter", "one")
    said = refusal(at)
    assert "has no published position" in said
    assert "starting from the beginning would publish twice" in said


def test_redis_may_throw_states_away(at: Deployment) -> None:
    at.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        assert "Set maxmemory-policy noeviction" in refusal(at)
    finally:
        at.redis.config_set("maxmemory-policy", "noeviction")
