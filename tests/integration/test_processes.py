"""What the processes say to operators: dead letters, metrics, refusals, exit codes; and the clock.

One deployment with one segmenter and one trainer serves most tests; refusals have their own.
"""

import json
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)
from redis import Redis

from segstream.core.hash import partitions_of
from segstream.shell import topics
from segstream.shell.local import Server, Servers
from segstream.shell.metrics import SEGMENTER, TRAINER, Metric
from tests.integration.deployment import Deployment, code_of, deployment, log_of, wait
from tests.integration.raw import produce_with_headers

Names = Callable[[str], str]
IDLE = 1.0


@pytest.fixture(scope="module")
def at(
    servers: Servers, unique: Names, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    """A segmenter and a trainer at work."""
    home = tmp_path_factory.mktemp("processes")
    with deployment(servers, home, unique("processes"), SEGSTREAM_CLOCK_IDLE="1s") as made:
        made.create()
        made.start("segmenter", "one")
        made.start("trainer", "trainer")
        made.works("one")
        made.works("trainer", process="trainer")
        yield made


@pytest.fixture
def empty(servers: Servers, unique: Names, tmp_path: Path) -> Iterator[Deployment]:
    """Nothing runs, and nothing is created."""
    with deployment(servers, tmp_path, unique("empty")) as made:
        yield made


def home_of(customer: str) -> int:
    return int(partitions_of([customer.encode()], 4, "murmur2")[0])


# -- dead letters ----------------------------------------------------------------------


def order(**ids: str) -> bytes:
    call = {"type": "track", "event": "Order Completed", "properties": {"total": 1}, **ids}
    return json.dumps(call).encode()


@pytest.mark.parametrize(
    ("value", "reason", "message"),
    [
        (order(userId="ada"), "partition", "forwarded 3 times"),
        (b'{"type": "track"', "json", ""),
        (order(), "customer", "userId"),
    ],
)
def test_dead_letters_are_the_records_as_they_came(
    at: Deployment, value: bytes, reason: str, message: str
) -> None:
    """On the same partition, with key and headers, and what an operator needs to know added."""
    partition = (home_of("ada") + 1) % 4
    headers = [("trace", b"\x00\xff"), ("segstream.hops", b"3")]
    offset = at.send(partition, value, b"\xfekey", headers)
    letters = wait(
        lambda: [
            m
            for m in at.read("customer-events-dlq", partition)
            if ("segstream.errors.offset", b"%d" % offset) in m.headers()
        ],
        "a dead letter",
    )
    (letter,) = letters
    assert (letter.key(), letter.value()) == (b"\xfekey", value)
    assert letter.headers()[:2] == headers
    errors = {name.removeprefix("segstream.errors."): v for name, v in letter.headers()[2:]}
    assert errors.keys() == {"reason", "message", "topic", "partition", "offset", "at"}
    assert errors["reason"].decode() == reason
    assert message in errors["message"].decode()
    assert errors["topic"].decode() == at.topic("customer-events")
    assert errors["partition"] == b"%d" % partition
    assert re.fullmatch(rb"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", errors["at"])


def test_a_header_that_is_no_text_does_not_stop_the_stream(at: Deployment) -> None:
    """The client cannot give the headers of such a record; what it holds beside them is kept.

    Among many others, so that the interpreter has optimised the call that fails.
    """
    partition, topic = home_of("bob"), at.topic("customer-events")
    there = len(at.read("customer-events-dlq", partition))
    names = [*[b"plain"] * 100, b"\xff\xfe", *[b"plain"] * 100, b"\xe4"]
    records = [(order(userId="bob", messageId=f"m-{i}"), name) for i, name in enumerate(names)]
    produce_with_headers(at.kafka["bootstrap.servers"], topic, partition, records)
    last = at.send(partition, order(userId="bob"))
    wait(lambda: at.checkpoint(partition).offset > last, "the next one is computed")
    letters = at.read("customer-events-dlq", partition)[there:]
    assert [m.value() for m in letters] == [value for value, name in records if name != b"plain"]
    for letter in letters:
        errors = dict(letter.headers())
        assert len(errors) == 6
        assert errors["segstream.errors.reason"] == b"schema"
        assert b"UTF-8" in errors["segstream.errors.message"]
    events = at.command("events", "bob")
    assert (events.returncode, "201 events of bob" in events.stdout) == (0, True), events.stderr


# -- the clock of a silent partition ---------------------------------------------------


def test_the_clock_moves_where_nothing_happens(at: Deployment) -> None:
    """A partition that is at its end and silent gets the wall clock as a record of its log."""
    silent = (home_of("ada") + 2) % 4
    wall = int(time.time() * 1000)
    wait(lambda: at.checkpoint(silent).clock >= wall - 1_000, "the clock moves", 20)
    clocks = [m for m in at.read("customer-events", silent) if m.key() is None]
    headers = dict(clocks[-1].headers())
    assert headers["ce_type"] == b"segstream.clock"
    assert headers["ce_id"].startswith(b"clock-")
    assert json.loads(clocks[-1].value()).keys() == {"time"}
    before = at.checkpoint(silent)
    wait(lambda: at.checkpoint(silent).clock > before.clock, "and again", 20)
    assert at.checkpoint(silent).counts["valid"] == before.counts["valid"]


# -- metrics ---------------------------------------------------------------------------


def metrics_of(server: Server) -> str:
    """What the process serves at the port that it names in its log."""
    ports = wait(lambda: re.findall(r"metrics on port (\d+)", log_of(server)), "a port")
    with urllib.request.urlopen(f"http://127.0.0.1:{ports[-1]}/metrics", timeout=10) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize(("slot", "table"), [("one", SEGMENTER), ("trainer", TRAINER)])
def test_every_documented_metric_is_served(
    at: Deployment, slot: str, table: tuple[Metric, ...]
) -> None:
    text = metrics_of(at.running[slot])
    for metric in table:
        family = metric.name.removesuffix("_total") + "_total" * (metric.kind == "counter")
        assert f"# TYPE {family} {metric.kind}" in text
        assert f"# HELP {family} {metric.meaning}" in text


def test_the_segmenter_counts_what_it_does(at: Deployment) -> None:
    partition = home_of("ada")
    at.send(partition, order(userId="ada"))
    wait(lambda: at.checkpoint(partition).counts["valid"] > 0, "a valid event")
    text = metrics_of(at.running["one"])
    assert re.search(r'segstream_events_total\{outcome="valid"\} [1-9]', text)
    assert re.search(r"segstream_partitions_owned 4", text)
    for p in at.partitions:
        assert f'segstream_lag_records{{partition="{p}"}}' in text


# -- the end ---------------------------------------------------------------------------


@pytest.mark.parametrize(("process", "slot"), [("segmenter", "one"), ("trainer", "trainer")])
def test_sigterm_ends_a_process_at_once_and_well(at: Deployment, process: str, slot: str) -> None:
    """Exit code 0 within 5 s, and the group knows at once. Then it starts again."""
    code, seconds = at.stop(slot)
    assert code == 0, log_of(at.running[slot])
    assert seconds < 5
    assert at.members(process) == {}
    assert "Traceback" not in log_of(at.running[slot])
    at.start(process, slot)
    at.works(slot, process=process)


# -- topics ----------------------------------------------------------------------------


def test_topics_are_created_once(empty: Deployment) -> None:
    done = empty.create()
    assert len(done) == 6 + 4  # topics, positions
    assert empty.create() == []
    assert topics.check(empty.kafka, empty.plan) == []


def test_creating_again_keeps_the_positions(at: Deployment) -> None:
    """A second `topics create` beside running workers must not set W back."""
    before = [at.published(p) for p in at.partitions]
    assert at.create() == []
    assert [at.published(p) for p in at.partitions] >= before


def test_the_check_names_what_is_wrong(empty: Deployment) -> None:
    missing = topics.check(empty.kafka, empty.plan)
    assert len(missing) == 6
    assert all("run `segstream topics create`" in line for line in missing)
    empty.create()
    admin = AdminClient(empty.kafka)
    changes, models = empty.topic("segment-changes"), empty.topic("segment-models")
    admin.create_partitions([NewPartitions(changes, 7)])[changes].result(10)
    deleting = ConfigEntry("cleanup.policy", "delete", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, models, incremental_configs=[deleting])
    admin.incremental_alter_configs([resource])[resource].result(10)
    wait(lambda: len(topics.check(empty.kafka, empty.plan)) == 2, "both changes are known")
    wrong = topics.check(empty.kafka, empty.plan)
    assert any(changes in line and "7 partitions, 4 are configured" in line for line in wrong)
    assert f"{models}: cleanup.policy is delete, the contract says compact" in wrong


# -- refusals --------------------------------------------------------------------------


def refusal(at: Deployment, **more: str) -> str:
    """What a segmenter says that ends with exit code 1."""
    server = at.start("segmenter", "refused", **more)
    wait(lambda: server.pid is None, "it ends", 40)
    said = " ".join(log_of(server).split())
    assert code_of(server) == 1, said
    assert "Traceback" not in said
    return said


def test_refused_without_a_published_position(empty: Deployment) -> None:
    """A worker never chooses where to begin: it would publish everything twice."""
    empty.create()
    group = empty.settings.group("segmenter")
    admin = AdminClient(empty.kafka)
    admin.delete_consumer_groups([group])[group].result(10)
    said = refusal(empty)
    assert "has no published position" in said
    assert "Run `segstream topics create` once" in said


def test_refused_under_another_configuration(empty: Deployment, tmp_path: Path) -> None:
    empty.create()
    other = tmp_path / "other.toml"
    config = Path(empty.environment["SEGSTREAM_CONFIG"]).read_text()
    other.write_text(config + 'hysteresis.hold = "3d"\n')
    said = refusal(empty, SEGSTREAM_CONFIG=str(other))
    assert "was computed under another configuration" in said
    assert "another SEGSTREAM_NAMESPACE" in said


def test_refused_on_a_redis_that_forgets(empty: Deployment) -> None:
    """An eviction policy would drop States without a word."""
    empty.create()
    redis: Redis = empty.redis
    redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        said = refusal(empty)
    finally:
        redis.config_set("maxmemory-policy", "noeviction")
    assert "allkeys-lru" in said
    assert "Set maxmemory-policy noeviction" in said


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("retention.ms", str(13 * 86_400_000), "is kept for only 13 days"),
        ("retention.bytes", "1000000", "may be cut at any age"),
    ],
)
def test_refused_when_the_log_is_kept_for_less_than_the_oldest_backup(
    empty: Deployment, tmp_path: Path, setting: str, value: str, says: str
) -> None:
    """Only if it is declared; and what is said names both values and the way out."""
    empty.create()
    topic, admin = empty.topic("customer-events"), AdminClient(empty.kafka)
    topics.require_retention(empty.kafka, topic, 14 * 86_400_000)  # 30 days by contract
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)
    config = Path(empty.environment["SEGSTREAM_CONFIG"])
    config.write_text(config.read_text() + 'redis.oldest_backup = "14d"\n')
    said = refusal(empty)
    assert says in said
    assert f"({setting} = {value})" in said
    assert "redis.oldest_backup = 14 days" in said


def test_a_layout_in_redis_alone_is_refused_too(empty: Deployment) -> None:
    """As after `topics create` for a new configuration in an old namespace."""
    empty.create()
    checkpoint: dict[str, Any] = {"offset": 0, "clock": 0, "layout": "f" * 64}
    for p in empty.partitions:
        empty.redis.set(empty.keys.meta(p), json.dumps(checkpoint))
    assert f"layout {'f' * 12} in Redis" in refusal(empty)
