"""Three Kafka nodes and a cluster of Valkey: nothing lost, nothing twice, whatever moves or dies.

The oracle says what States, Checkpoints and records must be, byte by byte: they are the same as on
one server, because it knows of none.
"""

import itertools
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    ResourceType,
)
from redis import RedisError
from redis.exceptions import RedisClusterException

from segstream.core.hash import partitions_of
from segstream.core.slots import equal_ranges, slot_of
from segstream.ports import Refused
from segstream.shell.kafka import KafkaSource
from segstream.shell.local import Servers, local_servers
from segstream.shell.redis_client import connect
from tests.faults.scene import Scene, scene
from tests.faults.traffic import CONFIG
from tests.integration.deployment import deployment, log_of, wait
from tests.redis_cluster import Cluster
from tests.servers import needs_local

SEED = 6
PARTITIONS = 7
"""Their slots are on all three primaries."""
BEATS = 10


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Three Kafka nodes, and a Valkey that is no cluster."""
    needs_local()
    with local_servers(tmp_path_factory.mktemp("kafka"), kafka_nodes=3) as running:
        yield running
        for node in range(3):
            running.kill_kafka(node)  # nobody needs them to end in order


@pytest.fixture
def play(
    servers: Servers, cluster: Cluster, unique: Callable[[str], str], tmp_path: Path
) -> Iterator[Scene]:
    """Two segmenters and a trainer under load, with States everywhere."""
    print(f"seed {SEED}")
    more = {
        "SEGSTREAM_REDIS_URL": cluster.url,
        "SEGSTREAM_REPLICATION": "3",
        "SEGSTREAM_PARTITIONS": str(PARTITIONS),
    }
    with scene(servers, tmp_path, unique("cluster"), SEED, 6, CONFIG, **more) as made:
        for slot in ("one", "two"):
            made.crew.start("segmenter", slot)
        made.crew.start("trainer", "trainer")
        made.at.works("one", "two")
        made.stream.start()
        wait(lambda: made.at.end("segment-models") > 0, "a first version")
        yield made


def goes_on(play: Scene) -> None:
    """All that is in the log by now is computed, while more comes."""
    at = play.at
    ends = {p: at.end("customer-events", p) for p in at.partitions}

    def computed() -> bool:
        try:
            return all(at.checkpoint(p).offset >= ends[p] for p in ends)
        except (RedisError, RedisClusterException):  # who has died, others have not heard of yet
            return False

    wait(computed, "all is computed", 40)
    sent = play.stream.sent
    wait(lambda: play.stream.sent > sent + 10 * BEATS, "more is sent")


def test_slots_move_and_primaries_die_under_load(play: Scene, cluster: Cluster) -> None:
    at = play.at
    slots = {p: cluster.slot(at.keys.meta(p)) for p in at.partitions}
    holders = {p: cluster.owner(slot) for p, slot in slots.items()}
    assert set(holders.values()) == {0, 1, 2}, "the test was to use all nodes"
    goes_on(play)

    by_key = next(p for p in holders if holders[p] == 1)  # as redis-cli does it
    cluster.begin_move(slots[by_key], 2)
    sent = play.stream.sent
    assert cluster.move_keys(slots[by_key], 2, 3) == 3  # half-way, while records come
    wait(lambda: play.stream.sent > sent + 20, "records are sent")
    cluster.move_keys(slots[by_key], 2)
    cluster.end_move(slots[by_key], 2)
    goes_on(play)

    at_once = next(p for p in holders if holders[p] == 2)  # as Valkey 9 does it
    cluster.clients[2].execute_command(
        "CLUSTER MIGRATESLOTS", "SLOTSRANGE", *2 * [slots[at_once]], "NODE", cluster.id(1)
    )
    wait(lambda: cluster.owner(slots[at_once], seen_by=1) == 1, "the slot is there")
    goes_on(play)

    cluster.kill(0)  # its replica takes over, perhaps without the last writes
    wait(lambda: cluster.owner(slots[0], seen_by=3) != 0, "the replica takes over")
    goes_on(play)
    cluster.start(0)
    cluster.serves()
    cluster.kill(1)  # it has no replica, and comes back without the last second
    wait(lambda: said(play, "The cluster is down"), "the whole cluster is down")
    cluster.start(1)
    cluster.serves()
    goes_on(play)

    assert play.finish() == []
    for words in (("audit", "--customers", "20"), ("restore",), ("segments",)):
        done = at.command(*words)
        assert done.returncode == 0, done.stdout + done.stderr
    assert said(play, "is claimed again: Redis moves slots") >= 2
    assert said(play, "is claimed again") >= 4


def said(play: Scene, words: str) -> int:
    """How often the segmenters' logs have it; their lines are folded."""
    logs = " ".join(log_of(server) for server in play.at.running.values())
    return " ".join(logs.split()).count(words)


def test_a_seek_is_not_undone_by_an_answer_that_comes_late(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Nothing is skipped when a partition's leader is silent between assignment and claim."""
    with deployment(servers, tmp_path, unique("late"), SEGSTREAM_REPLICATION="3") as at:
        at.create()
        topic, group = at.topic("customer-events"), at.settings.group("segmenter")
        asked = at._admin.describe_consumer_groups([group])[group]
        coordinator = asked.result(10).coordinator.id
        places = at._admin.list_topics(topic, 10).topics[topic].partitions.values()
        here = next(p for p in places if p.leader != coordinator)
        values = [b"%d" % number * 600_000 for number in range(6)]  # more than one fetch brings
        for value in values:
            at.send(here.id, value)
        source = KafkaSource(at.kafka, topic, group)
        pid = servers.kafka[here.leader].pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            wait(lambda: here.id in source.poll(10, 0.05).assigned, "it is assigned")
            time.sleep(1)  # whatever the client wants to know, it has asked by now
            source.start(here.id, 0)
        finally:
            os.kill(pid, signal.SIGCONT)
        read: list[bytes | None] = []
        until = time.monotonic() + 3  # the client would look again half a second later
        while time.monotonic() < until or len(read) < len(values):
            assert time.monotonic() < until + 10, f"only {len(read)} were read"
            records = source.poll(10, 0.05).records.get(here.id)
            read += records.values if records else []
        assert read == values
        source.close()


def test_one_server_asked_as_a_cluster(servers: Servers) -> None:
    with pytest.raises(Refused, match=r"Redis is one server.*redis://"):
        connect(servers.redis_url.replace("redis://", "redis+cluster://"))


def test_the_partitions_that_are_proposed(
    servers: Servers, cluster: Cluster, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """As `segstream size` says for few customers: 64, in three copies, on all three shards."""
    more = {"SEGSTREAM_REDIS_URL": cluster.url, "SEGSTREAM_REPLICATION": "3"}
    with deployment(servers, tmp_path, unique("sized"), **more) as at:
        asked = at.command("size", "--customers", "1e5", "--events-per-second", "100", "--json")
        lines = {(x["part"], x["name"]): x["value"] for x in json.loads(asked.stdout)["lines"]}
        proposed = int(lines["partitions", "number"])
        assert proposed == 64
    more["SEGSTREAM_PARTITIONS"] = str(proposed)
    with deployment(servers, tmp_path, unique("sized"), **more) as at:
        at.create()
        topics = at._admin.list_topics(timeout=10).topics
        mine = [t for name, t in topics.items() if name.startswith(at.settings.topics.prefix)]
        copies = [len(p.replicas) for topic in mine for p in topic.partitions.values()]
        assert copies == [3] * len(copies)
        assert len(copies) * 3 == lines["partitions", "replicas"]
        events = ConfigResource(ResourceType.TOPIC, at.topic("customer-events"))
        (found,) = at._admin.describe_configs([events]).values()
        assert found.result(10)["min.insync.replicas"].value == "2"  # of the cluster
        at.start("segmenter", "one")
        for number, (low, high) in enumerate(equal_ranges(3)):
            here = [p for p in at.partitions if low <= slot_of(p) <= high]
            assert here, f"shard {number} has no partition"
        for p in at.partitions:
            at.send(p, call(p, proposed), None)
        wait(at.caught_up, "all partitions are computed", 60)
        kept = [at.checkpoint(p) for p in at.partitions]
        assert [checkpoint.customers for checkpoint in kept] == [1] * proposed
        assert at.stop("one")[0] == 0


def call(partition: int, partitions: int) -> bytes:
    """Of a customer that belongs there."""
    ids = (f"customer-{number}" for number in itertools.count())
    home = next(i for i in ids if home_of(i, partitions) == partition)
    return json.dumps({"type": "track", "event": "Product Viewed", "userId": home}).encode()


def home_of(customer: str, partitions: int) -> int:
    return int(partitions_of([customer.encode()], partitions, "murmur2")[0])
