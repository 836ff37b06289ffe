"""`segstream audit` on real servers: clean while workers go on, and each planted damage named.

The damages come after all work is done, one at a time; each is taken back.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import msgspec
import pytest
from confluent_kafka import Producer, TopicPartition
from rich.console import Console

from consumers.audit import Audit, Wanted
from segstream.core.hash import customer_hash
from segstream.shell.local import Servers
from tests.faults.scene import Scene, scene
from tests.faults.traffic import traffic
from tests.integration.deployment import Deployment, wait

SEED = 20
BEATS = 60
P = 2
"""The partition that is damaged."""


@pytest.fixture(scope="module")
def busy(
    servers: Servers, unique: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Customers, several versions of the model, and work that goes on."""
    beats = traffic(SEED, 4, strays=False)
    with scene(servers, tmp_path_factory.mktemp("audit"), unique("audit"), beats) as made:
        made.crew.start("segmenter", "one")
        made.crew.start("trainer", "trainer")
        made.at.works("one")
        for _ in range(BEATS):
            made.stream.beat()
        wait(lambda: all(made.at.checkpoint(p).model for p in made.at.partitions), "a model", 60)
        made.stream.start()
        yield made


@pytest.fixture(scope="module")
def at(busy: Scene) -> Deployment:
    """The same when all is done, and nobody works any more."""
    busy.settle()
    assert busy.crew.stop() == []
    changes = sum(busy.at.end("segment-changes", p) for p in busy.at.partitions)
    assert changes > 100, "too little has happened"
    return busy.at


def audit(at: Deployment, *partitions: int, named: tuple[str, ...] = ()) -> dict[str, Any]:
    """Figures of an audit of everybody, customers in plain text."""
    run = Audit(at.settings, Wanted(100_000, named, partitions, SEED, plain=True))
    run.run(Console(quiet=True))
    return {**run.figures(), "code": run.code}


def found(at: Deployment, partition: int = P) -> list[tuple[str, str | None, str]]:
    """What an audit says about the damaged partition."""
    figures = audit(at, partition)
    assert figures["code"] == (1 if figures["problems"] else 0)
    return [(f["about"], f["customer"], f["text"]) for f in figures["partitions"][0]["found"]]


# -- while workers go on ---------------------------------------------------------------


def test_a_healthy_deployment_is_clean_while_it_works(busy: Scene) -> None:
    at, before = busy.at, [busy.at.checkpoint(p).offset for p in busy.at.partitions]
    for _ in range(3):
        figures = audit(at)
        assert figures["code"] == 0, figures
        assert figures["complete"]
    assert all(p["customers"] and p["changes"] for p in figures["partitions"]), figures
    after = [busy.at.checkpoint(p).offset for p in busy.at.partitions]
    assert after > before, "nobody worked meanwhile"


def test_the_command_says_so(busy: Scene) -> None:
    """Also to programs; customers are hashes unless they are to be plain."""
    done = busy.at.command("audit", "--json", "--seed", "5", "--customers", "10")
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout)
    assert (figures["seed"], figures["problems"], figures["complete"]) == (5, 0, True)
    assert 0 < sum(p["customers"] for p in figures["partitions"]) < 40
    done = busy.at.command("audit", "--partition", "9")
    assert done.returncode == 2
    assert "there are 0 to 3" in done.stderr


# -- damages in Redis ------------------------------------------------------------------


@contextmanager
def other(at: Deployment, key: str, value: bytes | None) -> Iterator[None]:
    """A key with another value for a while; None: without it."""
    before = cast(bytes, at.redis.get(key))
    assert before != value
    try:
        at.redis.delete(key) if value is None else at.redis.set(key, value)
        yield
    finally:
        at.redis.set(key, before)


def someone(at: Deployment, partition: int = P) -> str:
    """A customer with a State, in a segment."""
    start = at.keys.customer(partition, "")
    latest: dict[str, Any] = {
        m.key().decode(): m.value() for m in at.read("customer-segments", partition)
    }
    return next(c for c in sorted(latest) if latest[c] and at.redis.exists(start + c))


def test_a_flipped_bit_of_a_state_is_named(at: Deployment) -> None:
    customer = someone(at)
    key = at.keys.customer(P, customer)
    blob = bytearray(cast(bytes, at.redis.get(key)))
    blob[16] ^= 1  # of the time of the last event
    with other(at, key, bytes(blob)):
        ((about, whom, text),) = found(at)
        assert (about, whom) == ("state", customer)
        assert text.startswith("last is ")
        done = at.command("audit", "--partition", str(P))
        assert done.returncode == 1
        assert f"state of customer {customer_hash(customer):016x}: last is" in done.stdout
        assert customer not in done.stdout.split()
    assert found(at) == []


def test_a_lost_state_is_named(at: Deployment) -> None:
    customer = someone(at)
    with other(at, at.keys.customer(P, customer), None):
        assert found(at) == [("state", customer, "has no State")]
        figures = audit(at, named=(customer,))
        assert [p["partition"] for p in figures["partitions"]] == [P]
        assert (figures["problems"], figures["partitions"][0]["customers"]) == (1, 1)


def test_a_customer_missing_from_its_minute_is_named(at: Deployment) -> None:
    customer = someone(at)
    minute = customer_hash(customer) % at.settings.definition.tick.minutes
    assert at.redis.srem(at.keys.minute(P, minute), customer) == 1
    try:
        ((about, whom, text),) = found(at)
        assert (about, whom) == ("index", customer)
        assert "is not among the customers of its minute" in text
    finally:
        at.redis.sadd(at.keys.minute(P, minute), customer)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"customers": 1_000}, "customers is 1000"),
        ({"clock": +1}, "not to offset"),
        ({"offset": -1}, ""),
        ({"offset": +1_000_000}, "N is at offset"),
    ],
    ids=["a count", "the clock", "the offset", "beyond the log"],
)
def test_a_changed_checkpoint_is_named(at: Deployment, change: dict[str, int], says: str) -> None:
    there = at.checkpoint(P)
    values = {name: value + getattr(there, name) * (name != "customers")
              for name, value in change.items()}  # fmt: skip
    moved = msgspec.structs.replace(there, **values)
    with other(at, at.keys.meta(P), msgspec.json.encode(moved)):
        problems = found(at)
        assert any(a == "checkpoint" and says in text for a, _, text in problems), problems


def test_an_older_redis_is_no_damage(at: Deployment) -> None:
    """It is made good by itself; the topics are held against the log up to W all the same."""
    keys = [at.keys.meta(P), *(k.decode() for k in at.redis.scan_iter(at.keys.customer(P, "*")))]
    minutes = [k.decode() for k in at.redis.scan_iter(at.keys.minute(P, "*"))]
    dumped = {key: cast(bytes, at.redis.dump(key)) for key in keys + minutes}
    try:
        at.redis.delete(*dumped)
        figures = audit(at, P)
        assert figures["code"] == 0, figures
        (report,) = figures["partitions"]
        assert report["position"] == {"offset": 0, "clock": 0}
        assert report["records"] > 100
        assert report["changes"] == len(at.read("segment-changes", P))
    finally:
        for key, value in dumped.items():
            at.redis.restore(key, 0, value, replace=True)
    assert found(at) == []


# -- damages in topics -----------------------------------------------------------------


@contextmanager
def rewritten(at: Deployment, name: str, change: Callable[[list[Any]], list[Any]]) -> Iterator[Any]:
    """The topic anew for a while, with other records on the damaged partition."""
    before = {p: at.read(name, p) for p in at.partitions}
    records = {p: [(m.key(), m.value(), m.headers()) for m in before[p]] for p in before}
    try:
        refill(at, name, {**records, P: change(records[P])})
        yield records[P]
    finally:
        refill(at, name, records)


def refill(at: Deployment, name: str, records: dict[int, list[Any]]) -> None:
    topic = at.topic(name)
    at._admin.delete_topics([topic])[topic].result(30)
    wait(lambda: topic not in at._admin.list_topics(timeout=10).topics, f"{topic} is gone")
    at.create()
    producer = Producer({**at.kafka, "log_level": 0})
    for partition, rows in records.items():
        for key, value, headers in rows:
            producer.produce(topic, value, key, partition, headers=headers)
    assert producer.flush(30) == 0


def altered(row: Any, old: bytes, new: bytes) -> Any:
    key, value, headers = row
    assert old in value
    return key, value.replace(old, new, 1), headers


def test_a_lost_change_is_named(at: Deployment) -> None:
    with rewritten(at, "segment-changes", lambda rows: rows[:4] + rows[5:]) as rows:
        key, _, headers = rows[4]
        ((about, whom, text),) = found(at)
        assert (about, whom) == ("change", key.decode())
        assert text == f"change {dict(headers)['ce_id'].decode()} is missing"


def test_another_value_of_a_change_is_named(at: Deployment) -> None:
    def change(rows: list[Any]) -> list[Any]:
        return [*rows[:4], altered(rows[4], b'"model":', b'"model":9'), *rows[5:]]

    with rewritten(at, "segment-changes", change):
        ((about, _, text),) = found(at)
        assert about == "change"
        assert "model is 9" in text


def test_a_change_that_is_there_twice_is_named(at: Deployment) -> None:
    with rewritten(at, "segment-changes", lambda rows: [*rows, rows[4]]):
        ((about, _, text),) = found(at)
        assert about == "change"
        assert "there a second time" in text


def test_a_wrong_membership_is_named(at: Deployment) -> None:
    customer = someone(at)
    (*_, last) = [m for m in at.read("customer-segments", P) if m.key() == customer.encode()]
    producer, topic = Producer({**at.kafka, "log_level": 0}), at.topic("customer-segments")

    def say(value: bytes | None) -> None:
        producer.produce(topic, value, customer.encode(), P)
        assert producer.flush(10) == 0

    say(last.value().replace(b'"segment":', b'"segment":7'))
    ((about, whom, text),) = found(at)
    assert (about, whom) == ("membership", customer)
    assert text.startswith("segment is 7")
    say(None)
    assert found(at) == [("membership", customer, "has no membership")]
    say(last.value())
    assert found(at) == []


# -- a log that does not reach back ----------------------------------------------------


def test_without_the_beginning_of_the_log_the_partition_is_held_against_itself(
    at: Deployment,
) -> None:
    """The last test: what is deleted does not come back."""
    place = TopicPartition(at.topic("customer-events"), P, 50)
    at._admin.delete_records([place])[place].result(10)
    done = at.command("audit")
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"partition {P} could not be computed again" in done.stdout
    assert "its log begins at offset 50, its States at 0" in done.stdout
    assert "nothing wrong was found" in done.stdout
    customer = someone(at)
    key = at.keys.customer(P, customer)
    blob = bytearray(cast(bytes, at.redis.get(key)))
    blob[40] ^= 2  # of the segment
    with other(at, key, bytes(blob)):
        ((about, whom, text),) = found(at)
        assert (about, whom) == ("state", customer)
        assert "its last change says segment" in text
    with rewritten(at, "segment-changes", lambda rows: [*rows, rows[4]]):
        assert [about for about, _, _ in found(at)] == ["change"]
    assert audit(at, P)["code"] == 3
