"""Losses on real servers: what heals by itself, what is refused, and what `restore` can do.

One deployment, the losses one after the other; each begins where the one before has ended. After
each, more customers come, and all is held against the log, as far as that goes.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, NamedTuple, cast

import pytest
from confluent_kafka import TopicPartition
from rich.console import Console

from consumers.audit import Audit, Wanted
from segstream.core.step import Function
from segstream.shell.local import Servers
from segstream.shell.reading import Reading
from tests.comparison import as_kept, differences, state_of
from tests.faults.scene import Scene, scene, unlike_once
from tests.faults.traffic import CONFIG, traffic
from tests.integration.deployment import Deployment, code_of, log_of, wait
from tests.integration.verdict import judge, parsed, record_of

SEED = 31
BEATS = 50
MORE = 6
P = 1
"""The partition whose log is cut."""
DECISION = {"segment", "sequence", "since", "stamp", "pending", "pending_since"}


class Copy(NamedTuple):
    """All keys of the namespace, as Redis dumps them."""

    keys: dict[bytes, bytes]

    @staticmethod
    def of(at: Deployment) -> "Copy":
        keys = list(at.redis.scan_iter(f"{at.settings.namespace}:*"))
        return Copy({key: cast(bytes, at.redis.dump(key)) for key in keys})

    def restore(self, at: Deployment) -> None:
        wipe(at)
        for key, value in self.keys.items():
            at.redis.restore(key, 0, value)


def wipe(at: Deployment) -> None:
    if keys := list(at.redis.scan_iter(f"{at.settings.namespace}:*")):
        at.redis.delete(*keys)


class Played(NamedTuple):
    """The scene, and Redis as it was half way."""

    scene: Scene
    half: Copy


@pytest.fixture(scope="module")
def played(
    servers: Servers, unique: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Played]:
    """Customers and versions of the model; the segmenter has ended in order."""
    beats = traffic(SEED, 4, strays=False)
    with scene(servers, tmp_path_factory.mktemp("restore"), unique("restore"), beats) as made:
        at = made.at
        at.start("trainer", "trainer")
        at.start("segmenter", "one")
        at.works("one")
        beat(made, BEATS)
        wait(lambda: all(at.checkpoint(p).model for p in at.partitions), "a model", 60)
        at.stop("trainer")
        beat(made, BEATS)
        at.stop("one")
        half = Copy.of(at)
        work(made)
        yield Played(made, half)


def beat(made: Scene, number: int) -> None:
    for _ in range(number):
        made.stream.beat()
    assert made.stream._producer.flush(30) == 0
    wait(made.at.caught_up, "N at the ends of the log", 60)


def work(made: Scene) -> None:
    """A segmenter catches up, goes on with more that comes, and ends in order."""
    made.at.start("segmenter", "one")
    wait(made.at.caught_up, "it has caught up", 60)
    beat(made, MORE)
    assert made.at.stop("one")[0] == 0, log_of(made.at.running["one"])
    assert unlike_once(made.at) == []


def audit(at: Deployment) -> dict[str, Any]:
    run = Audit(at.settings, Wanted(100_000, (), (), SEED, plain=True))
    run.run(Console(quiet=True))
    return {**run.figures(), "code": run.code}


def verdicts(at: Deployment, code: int) -> list[str]:
    done = at.command("restore", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return [p["verdict"] for p in json.loads(done.stdout)["partitions"]]


def refusal(at: Deployment) -> str:
    server = at.start("segmenter", "one")
    wait(lambda: server.pid is None, "it ends", 40)
    assert code_of(server) == 1
    return " ".join(log_of(server).split())


def test_all_is_well(played: Played) -> None:
    assert verdicts(played.scene.at, 0) == ["goes on"] * 4
    done = played.scene.at.command("restore", "--approximate", "--yes")
    assert done.returncode == 0
    assert "no partition needs that" in done.stderr


@pytest.mark.parametrize("copy", ["wiped", "older"])
def test_a_lost_redis_heals_by_itself(played: Played, copy: str) -> None:
    """States byte-equal, not a change more or less."""
    at = played.scene.at
    before, stood = Copy.of(at), [at.checkpoint(p) for p in at.partitions]
    said = [at.end(name, p) for name in ("segment-changes", "customer-segments")
            for p in at.partitions]  # fmt: skip
    if copy == "wiped":
        wipe(at)
    else:
        played.half.restore(at)
    assert verdicts(at, 0) == ["catches up"] * 4
    assert audit(at)["code"] == 0
    at.start("segmenter", "one")
    wait(at.caught_up, "it has caught up", 60)
    assert at.stop("one")[0] == 0
    after = Copy.of(at)
    states = [key for key in before.keys if b":c:" in key]
    assert len(states) > 50
    assert stood == [at.checkpoint(p) for p in at.partitions]
    assert {k: after.keys.get(k) for k in states} == {k: before.keys[k] for k in states}
    assert after.keys.keys() == before.keys.keys()
    assert said == [at.end(name, p) for name in ("segment-changes", "customer-segments")
                    for p in at.partitions]  # fmt: skip
    work(played.scene)
    assert audit(at)["code"] == 0


def test_a_lost_group_is_refused_until_w_is_set(played: Played) -> None:
    at = played.scene.at
    stood = [at.published(p) for p in at.partitions]
    group = at.settings.group("segmenter")
    at._admin.delete_consumer_groups([group])[group].result(10)
    assert "has no published position" in refusal(at)
    assert verdicts(at, 1) == ["W is lost"] * 4
    done = at.command("restore", "--published")
    assert done.returncode == 2
    assert "nobody can be asked" in done.stderr
    assert verdicts(at, 1) == ["W is lost"] * 4
    done = at.command("restore", "--published", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "beyond N" not in done.stderr
    assert [at.published(p) for p in at.partitions] == stood
    work(played.scene)
    assert audit(at)["code"] == 0


def test_what_would_be_said_twice_is_named(played: Played) -> None:
    """W is lost, and Redis is older than what was published: N is no measure then."""
    at = played.scene.at
    stood, redis = [at.published(p) for p in at.partitions], Copy.of(at)
    group = at.settings.group("segmenter")
    at._admin.delete_consumer_groups([group])[group].result(10)
    played.half.restore(at)
    done = at.command("restore", "--published", typed="n\n")
    assert done.returncode == 2
    run = at.command("restore", "--published", "--yes", "--partition", "0")
    assert "changes are published beyond N" in run.stderr
    redis.restore(at)
    at._admin.delete_consumer_groups([group])[group].result(10)
    assert at.command("restore", "--published", "--yes").returncode == 0
    assert [at.published(p) for p in at.partitions] == stood


def test_a_log_that_is_too_short_is_refused(played: Played) -> None:
    """Redis is older than the log; a newer copy heals it."""
    at, now = played.scene.at, Copy.of(played.scene.at)
    start = (at.checkpoint(P).offset + offset_of(at, played.half)) // 2
    place = TopicPartition(at.topic("customer-events"), P, start)
    at._admin.delete_records([place])[place].result(10)
    played.half.restore(at)
    assert "`segstream restore` shows what can be done" in refusal(at)
    assert verdicts(at, 1) == ["catches up" if p != P else "log too short" for p in at.partitions]
    shown = at.command("restore").stdout
    assert f"partition {P} needs a backup with N at offset {start:,} or later" in shown
    now.restore(at)
    assert verdicts(at, 0) == ["goes on"] * 4
    work(played.scene)
    assert audit(at)["code"] == 3


def offset_of(at: Deployment, copy: Copy) -> int:
    """N of the partition in a copy."""
    now = Copy.of(at)
    copy.restore(at)
    try:
        return at.checkpoint(P).offset
    finally:
        now.restore(at)


def test_an_approximate_new_start(played: Played) -> None:
    """Windows as the rest of the log says, segments as published; readers see an unbroken chain."""
    at = played.scene.at
    published = at.published(P)
    members = {m.key().decode(): parsed(m) for m in at.read("customer-segments", P)}
    wipe(at)
    server = at.start("segmenter", "one")
    wait(lambda: server.pid is None, "it refuses", 40)
    done = at.command("restore", "--approximate", "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every customer stays in its published segment" in done.stderr
    assert at.published(P) == published == at.checkpoint(P).position
    stands_as_published(at, {c: m for c, m in members.items() if m})
    windows_are_those_of_the_rest_of_the_log(at)
    assert audit(at)["code"] == 3
    assert "had an approximate new start" in at.command("audit").stdout
    customer = next(c for c in sorted(members) if at.redis.exists(at.keys.customer(P, c)))
    assert "approximate: what came before offset" in at.command("inspect", customer).stdout
    ends = [at.end("segment-changes", p) for p in at.partitions]
    work(played.scene)
    assert at.end("segment-changes", P) > ends[P], "nothing was said since"
    figures = audit(at)
    assert (figures["code"], figures["problems"]) == (3, 0)


def stands_as_published(at: Deployment, members: dict[str, Any]) -> None:
    """Each member, and nobody else, has a State in a segment, and is among those of its minute."""
    function = Function(at.settings.definition)
    states = {
        key.decode().removeprefix(at.keys.customer(P, "")): cast(bytes, at.redis.get(key))
        for key in at.redis.scan_iter(at.keys.customer(P, "*"))
    }
    found = {}
    for name, blob in states.items():
        state: Any = function.layout.unpack([blob], [""])[0]
        if state["segment"]:
            found[name] = (int(state["segment"]), int(state["sequence"]), int(state["stamp"]))
    assert found == {n: (m["segment"], m["sequence"], m["model"]) for n, m in members.items()}
    there = at.checkpoint(P)
    assert there.customers == sum(there.born) == len(states)
    assert sum(there.segments.values()) == len(members)
    index = [m.decode() for k in at.redis.scan_iter(at.keys.minute(P, "*"))
             for m in cast(set[bytes], at.redis.smembers(k))]  # fmt: skip
    assert sorted(index) == sorted(states)


def windows_are_those_of_the_rest_of_the_log(at: Deployment) -> None:
    """As the oracle says of it; decisions aside."""
    function = Function(at.settings.definition)
    versions = {m["model"]: m for m in map(parsed, at.read("segment-models", 0))}
    with closing(Reading(at.settings.kafka, at.topic("customer-events"), P)) as reading:
        log = [record_of(message) for message in reading.to_end()]
    config = tomllib.loads(CONFIG)
    expected = judge(config, versions, function.features_id, len(at.partitions), (P, log))
    assert len(expected.states) > 5
    for name, state in expected.states.items():
        blob = cast(bytes, at.redis.get(at.keys.customer(P, name)))
        there, wanted = state_of(function, name, blob), as_kept(function, state)
        for field in DECISION & there.keys():
            del there[field], wanted[field]
        assert differences(there, wanted) == [], name
