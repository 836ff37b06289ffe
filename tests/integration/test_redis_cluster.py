"""The store on a real cluster: slots that move, nodes that die, and who is let in.

Every method goes to the one node that holds the partition, or raises: nothing is written twice,
in halves, or where it does not belong.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis, RedisCluster, WatchError

from consumers import settings
from segstream.core.batch import Checkpoint, Position
from segstream.core.restore import Renewed
from segstream.core.step import Outcome
from segstream.ports import Announced, Refused, Unavailable, Write
from segstream.shell import access
from segstream.shell.local.plan import HOST
from segstream.shell.redis import Keys, RedisStore
from segstream.shell.redis_client import Client, ask, connect, values
from segstream.shell.restore import replace
from segstream.shell.view import Lookup, totals
from tests.integration.certificates import Certificates
from tests.integration.deployment import wait
from tests.integration.secured import terminator
from tests.redis_cluster import Cluster, redis_cluster
from tests.servers import needs_local

PARTITIONS = 12
CUSTOMERS = [f"c-{number}" for number in range(20)]


@pytest.fixture
def client(cluster: Cluster) -> Iterator[Client]:
    made = connect(cluster.url)
    yield made
    made.close()


@pytest.fixture
def store(client: Client, cluster: Cluster, unique: Callable[[str], str]) -> RedisStore:
    """Empty: the slot of a partition is the same in every namespace."""
    cluster.flush()
    return RedisStore(client, unique("cluster"))


def outcome(offset: int, text: bytes, **more: Any) -> Outcome:
    """Writes all CUSTOMERS."""
    writes = dict.fromkeys(CUSTOMERS, text)
    empty = Outcome(Checkpoint(offset, 0, "layout"), writes, [], [], [], [], {})
    return empty._replace(**more)


def filled(store: RedisStore, partition: int) -> Outcome:
    first = outcome(1, b"first", indexed=[(7, name) for name in CUSTOMERS])
    assert store.write([Write(partition, None, first)])
    return first


def slot_of(cluster: Cluster, store: RedisStore, partition: int) -> int:
    return cluster.slot(store.keys.meta(partition))


def another(node: int) -> int:
    """A primary that is not this one."""
    return (node + 1) % 3


def unavailable(call: Callable[[], Any]) -> str:
    with pytest.raises(Unavailable) as caught:
        call()
    return str(caught.value)


def again(call: Callable[[], Any]) -> Any:
    """As a worker does: after Unavailable it asks once more, later."""

    def done() -> Any:
        try:
            return [call()]
        except Unavailable:
            return []

    return wait(done, "it is available again")[0]


# -- whole ----------------------------------------------------------------------------


def test_each_partition_is_where_its_slot_is(cluster: Cluster, store: RedisStore) -> None:
    store.check()
    used = set()
    for partition in range(PARTITIONS):
        filled(store, partition)
        holder = cluster.owner(slot_of(cluster, store, partition))
        used.add(holder)
        keys = cluster.clients[holder].keys(store.keys.all(partition))
        assert len(keys) == len(CUSTOMERS) + 2
        there, found = store.load({partition: [*CUSTOMERS, "nobody"]})[partition]
        assert there is not None
        assert there.offset == 1
        assert found == [b"first"] * len(CUSTOMERS) + [None]
        assert sorted(store.due(partition, [6, 7, 8])[1]) == sorted(CUSTOMERS)
        assert not store.write([Write(partition, Position(5, 0), outcome(9, b"wrong"))])
    assert used == {0, 1, 2}, "the test was to use all nodes"


def test_readers_find_everybody(store: RedisStore, client: Client, cluster: Cluster) -> None:
    namespace = store.keys.layout.removesuffix(":layout")
    store.announce(Announced(PARTITIONS, "murmur2", "layout", "an id"))
    for partition in (0, 3, 11):
        filled(store, partition)
    assert sorted(totals(client, namespace, PARTITIONS).checkpoints) == [0, 3, 11]
    plain = RedisCluster.from_url(cluster.url.replace("+cluster", "").partition(",")[0])
    assert Lookup(plain, namespace)("c-unknown") is None  # one GET, wherever it is


def test_a_partition_is_replaced_and_no_other(store: RedisStore, client: Client) -> None:
    """As an approximate new start does it."""
    for partition in (0, 1):
        filled(store, partition)
    new = Renewed(Checkpoint(9, 0, "layout"), {"c-1": b"anew"}, {7: ["c-1"]})
    replace(client, store.keys, 0, new)
    assert store.load({0: CUSTOMERS[:3]})[0] == (new.checkpoint, [None, b"anew", None])
    assert store.due(0, [7]) == (new.checkpoint, ["c-1"])
    assert store.load({1: CUSTOMERS})[1][1] == [b"first"] * len(CUSTOMERS)


# -- slots move -----------------------------------------------------------------------


def test_a_slot_has_moved(cluster: Cluster, store: RedisStore) -> None:
    """Whoever asks is told once, and goes to the right node from then on."""
    filled(store, 1)
    slot = slot_of(cluster, store, 1)
    to = another(cluster.owner(slot))
    cluster.begin_move(slot, to)
    assert cluster.move_keys(slot, to) == len(CUSTOMERS) + 2
    cluster.end_move(slot, to)
    second = outcome(2, b"second")
    write = Write(1, Position(1, 0), second)
    assert "Redis moves slots" in unavailable(lambda: store.write([write]))
    assert store.checkpoint(1) == outcome(1, b"").checkpoint
    assert store.write([write])
    assert store.load({1: CUSTOMERS})[1] == (second.checkpoint, [b"second"] * len(CUSTOMERS))
    assert len(cluster.clients[to].keys(store.keys.all(1))) == len(CUSTOMERS) + 2


def test_a_slot_is_half_way(cluster: Cluster, store: RedisStore) -> None:
    """Key by key: the partition waits, whichever keys are on which side, and is whole after it."""
    filled(store, 2)
    slot = slot_of(cluster, store, 2)
    source = cluster.owner(slot)
    to = another(source)
    more = outcome(2, b"second", indexed=[(9, "newcomer")], writes={"newcomer": b"second"})
    cluster.begin_move(slot, to)
    moved, refused = 0, 0
    while True:
        assert source == cluster.owner(slot)
        for call in (
            lambda: store.load({2: [*CUSTOMERS, "nobody"]})[2],
            lambda: store.due(2, [7, 8]),
            lambda: store.write([Write(2, Position(1, 0), more)]),
        ):
            unavailable(call)
            refused += 1
        if not (now := cluster.move_keys(slot, to, 5)):
            break
        moved += now
    assert moved == len(CUSTOMERS) + 2
    cluster.end_move(slot, to)
    unavailable(lambda: store.load({2: CUSTOMERS})[2])  # MOVED
    assert store.load({2: ["newcomer", *CUSTOMERS]})[2] == (
        outcome(1, b"").checkpoint, [None, *[b"first"] * len(CUSTOMERS)],
    )  # fmt: skip
    assert store.write([Write(2, Position(1, 0), more)])
    assert sorted(store.due(2, [7, 9])[1]) == sorted([*CUSTOMERS, "newcomer"])
    assert refused > 9


@pytest.mark.parametrize("keys", [0, 5, 1_000], ids=["none", "some", "all"])
def test_a_slot_moves_between_the_look_and_the_write(
    cluster: Cluster, store: RedisStore, client: Client, keys: int
) -> None:
    """What `write` does, with a move in the middle of it: nothing of it happens."""
    filled(store, 4)
    slot, meta = slot_of(cluster, store, 4), store.keys.meta(4)
    to = another(cluster.owner(slot))

    def write(redis: Redis) -> bool:
        pipe: Any
        with redis.pipeline(transaction=True) as pipe:
            pipe.watch(meta)
            assert pipe.get(meta)
            cluster.begin_move(slot, to)
            cluster.move_keys(slot, to, keys)
            if keys > len(CUSTOMERS):
                cluster.end_move(slot, to)
            pipe.multi()
            pipe.mset({meta: b"wrong", store.keys.customer(4, "newcomer"): b"wrong"})
            try:
                pipe.execute()
            except WatchError:
                return False
        return True

    with suppress(Unavailable):
        assert not ask(client, meta, write), "done, although the slot was moving"
    if keys <= len(CUSTOMERS):
        cluster.move_keys(slot, to)
        cluster.end_move(slot, to)
    wait(lambda: cluster.owner(slot, seen_by=to) == to, "the slot is there")
    assert again(lambda: store.checkpoint(4)).offset == 1
    assert store.load({4: ["newcomer", *CUSTOMERS]})[4] == (
        outcome(1, b"").checkpoint, [None, *[b"first"] * len(CUSTOMERS)],
    )  # fmt: skip


def test_a_slot_moves_at_once(cluster: Cluster, store: RedisStore) -> None:
    """As Valkey 9 does it: writes go on until the slot is over there."""
    filled(store, 5)
    slot = slot_of(cluster, store, 5)
    source = cluster.owner(slot)
    to, stands, told = another(source), 1, 0
    cluster.clients[source].execute_command(
        "CLUSTER MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", cluster.id(to)
    )
    for _ in range(2_000):
        try:
            assert store.write([Write(5, Position(stands, 0), outcome(stands + 1, b"%d" % stands))])
            stands += 1
        except Unavailable:
            told += 1
        if told and stands > 5:
            break
    assert cluster.owner(slot, seen_by=to) == to
    assert 1 <= told < 20
    assert store.load({5: CUSTOMERS[:1]})[5] == (
        outcome(stands, b"").checkpoint, [b"%d" % (stands - 1)],
    )  # fmt: skip


# -- nodes die ------------------------------------------------------------------------


def partition_on(cluster: Cluster, store: RedisStore, node: int) -> int:
    """One whose slot is on a node, with States; not one of the partitions of other tests."""
    found = next(p for p in range(20, 99) if cluster.owner(slot_of(cluster, store, p)) == node)
    filled(store, found)
    return found


def test_a_primary_dies_and_comes_back(cluster: Cluster, store: RedisStore) -> None:
    """It has no replica: only its partitions wait. It need not be the layout's node either."""
    store.announce(Announced(PARTITIONS, "murmur2", "layout", "an id"))
    home = cluster.owner(cluster.slot(store.keys.layout))
    dying = next(node for node in (2, 1) if node != home)
    mine = partition_on(cluster, store, dying)
    for client in cluster.clients:
        client.config_set("cluster-require-full-coverage", "no")
    cluster.kill(dying)
    unavailable(lambda: store.write([Write(mine, Position(1, 0), outcome(2, b"second"))]))
    other = partition_on(cluster, store, home)  # goes on, and so does the check
    store.check()
    assert store.write([Write(other, Position(1, 0), outcome(2, b"second"))])
    cluster.start(dying)
    cluster.serves()
    assert again(lambda: store.write([Write(mine, Position(1, 0), outcome(2, b"second"))]))
    assert store.load({mine: CUSTOMERS[:1]})[mine][1] == [b"second"]


def test_a_replica_takes_over(cluster: Cluster, store: RedisStore) -> None:
    mine = partition_on(cluster, store, 0)
    slot = slot_of(cluster, store, mine)
    assert cluster.clients[0].wait(1, 5_000) == 1  # the replica has it all
    cluster.kill(0)
    second = outcome(2, b"second")
    assert again(lambda: store.write([Write(mine, Position(1, 0), second)]))
    assert cluster.owner(slot, seen_by=3) == 3
    cluster.start(0)
    cluster.serves()
    wait(lambda: cluster.clients[0].info("replication")["role"] == "slave", "it follows")
    assert store.load({mine: CUSTOMERS})[mine] == (second.checkpoint, [b"second"] * len(CUSTOMERS))


# -- who is let in, and where ---------------------------------------------------------


@pytest.mark.parametrize("node", [1, 2, 3])
def test_any_primary_that_evicts_is_refused(cluster: Cluster, store: RedisStore, node: int) -> None:
    if cluster.clients[node].info("replication")["role"] != "master":
        pytest.skip("a replica: alone, this test meets no failover")
    store.check()
    cluster.clients[node].config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(Refused, match="maxmemory-policy allkeys-lru"):
            store.check()
    finally:
        cluster.clients[node].config_set("maxmemory-policy", "noeviction")


def test_a_cluster_asked_as_one_server(cluster: Cluster, unique: Callable[[str], str]) -> None:
    keys = Keys(unique("plain"))
    far = next(p for p in range(99) if cluster.owner(cluster.slot(keys.meta(p))) != 1)
    with connect(f"redis://{HOST}:{cluster.ports[1]}/0") as client:
        for call in (
            lambda: RedisStore(client, keys.layout.removesuffix(":layout")).checkpoint(far),
            lambda: values(client, [keys.meta(far)]),
        ):
            with pytest.raises(Refused, match=r"Redis is a cluster.*redis\+cluster://"):
                call()


def test_any_node_that_is_named_leads_to_all(cluster: Cluster) -> None:
    dead = f"{HOST}:1"
    unavailable(lambda: connect(f"redis+cluster://{dead}"))
    with connect(f"redis+cluster://{dead},{HOST}:{cluster.ports[2]}/0") as client:
        found: Any = client
        assert len(found.get_primaries()) == 3
    for place in ("a:b", f"{dead},a:b"):
        with pytest.raises(Refused, match=r"names a node that is no address: .*'b'"):
            connect(f"redis+cluster://{place}")
    with pytest.raises(Refused, match="only database 0, not 3"):
        connect(f"redis+cluster://{HOST}:{cluster.ports[2]}/3")


def test_tls_a_user_and_no_more_rights_than_are_printed(tmp_path: Path) -> None:
    """One node with all slots, behind TLS, as it announces itself; the package's has none."""
    needs_local()
    certificates = Certificates(tmp_path)
    with redis_cluster(tmp_path / "cluster", 1, 0) as cluster:
        (node,) = cluster.clients
        with terminator(cluster.ports[0], certificates.server) as front:
            node.config_set("cluster-announce-ip", HOST)
            node.config_set("cluster-announce-port", front)
            node.execute_command(*access.redis_rule("segmenter", "seg", "shop", cluster=True))
            node.execute_command("ACL", "SETUSER", "seg", ">a:secret@")
            node.execute_command("ACL", "SETUSER", "default", "off")
            variables = {
                "SEGSTREAM_REDIS_URL": f"rediss+cluster://seg@{HOST}:{front}/0",
                "SEGSTREAM_REDIS_PASSWORD": "a:secret@",
                "SEGSTREAM_REDIS_CA": str(certificates.ca),
            }
            with connect(settings.load(variables).redis.url) as client:
                store = RedisStore(client, "shop")
                store.check()
                store.announce(Announced(4, "murmur2", "layout", "topic"))
                filled(store, 3)
                assert store.load({3: CUSTOMERS[:1]})[3][1] == [b"first"]
                with pytest.raises(Refused, match=r"does not allow it: .*segstream rights"):
                    RedisStore(client, "elsewhere").checkpoint(0)
            wrong = {**variables, "SEGSTREAM_REDIS_PASSWORD": "guessed"}
            with pytest.raises(Refused, match="does not let this process in"):
                connect(settings.load(wrong).redis.url)
            stranger = {**variables, "SEGSTREAM_REDIS_CA": str(certificates.stranger)}
            with pytest.raises(Refused, match="cannot be trusted"):
                connect(settings.load(stranger).redis.url)
