"""Producers that choose another partition than the customer's: each call counts once all the same.

One sends with librdkafka's own partitioner, one at random, one where it likes, one as it should;
some claim that their calls were forwarded before. Meanwhile segmenters die within transactions that
forward. At the end the oracle has read the log, and every call stands at its customer once.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from segstream.core.hash import partitions_of
from segstream.shell.local import Servers
from tests.bad_input import CONFIG, CONFIG_TEXT, ORDER
from tests.faults.fuse import PLACE, Armed, arm, fired
from tests.integration.deployment import Deployment, deployment, wait
from tests.integration.test_processes import metrics_of
from tests.integration.verdict import Verdict

CUSTOMERS = [f"customer-{number}" for number in range(60)]
EACH, LAST = 400, 40
#: How a producer's calls come to a partition: settings of the client, or one for each call.
PRODUCERS: dict[str, dict[str, str]] = {
    "right": {"partitioner": "murmur2_random"},
    "crc32": {"partitioner": "consistent_random"},
    "random": {"partitioner": "random"},
    "forged": {},
}
#: Headers that only segstream should write, and how many hops are believed.
FORGED: list[tuple[bytes | None, int]] = [
    (b"0", 0), (b"1", 1), (b"2", 2), (b"3", 3), (b"4", 4), (b"999999999", 999_999_999),
    (b"1" + b"0" * 400, 0), (b"-1", 0), (b"three", 0), (b"\xff", 0), (b"", 0), (None, 0),
]  # fmt: skip
FAILPOINTS = ("forward.produced", "forward.committed")


@pytest.fixture
def at(servers: Servers, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Deployment]:
    with deployment(servers, tmp_path, unique("forwarding"), CONFIG_TEXT) as made:
        made.create()
        yield made


def order(producer: str, number: int) -> dict[str, Any]:
    customer = CUSTOMERS[number % len(CUSTOMERS)]
    library = {"name": producer}
    message = f"{producer}-{number}"
    return {**ORDER, "userId": customer, "messageId": message, "context": {"library": library}}


def send(at: Deployment, name: str, numbers: range) -> int:
    """Orders as this producer sends them; how many of them are to become dead letters."""
    letters = 0
    producer = Producer({**at.kafka, **PRODUCERS[name], "linger.ms": 5})
    for number in numbers:
        call = order(name, number)
        key, headers, place = call["userId"].encode(), [], {}
        if name == "forged":
            hops, believed = FORGED[number % len(FORGED)]
            home = int(partitions_of([key], len(at.partitions), "murmur2")[0])
            wrong = (home + 1 + number % 3) % len(at.partitions)
            headers, place = [("segstream.hops", hops)], {"partition": wrong}
            letters += believed >= 3
        topic: Any = at.topic("customer-events")
        producer.produce(topic, json.dumps(call), key, headers=headers, **place)  # type: ignore[arg-type]
    assert producer.flush(30) == 0
    return letters


def test_every_call_is_counted_once_wherever_it_was_sent(at: Deployment, tmp_path: Path) -> None:
    points = tmp_path / "points"
    points.mkdir()
    for slot in ("one", "two"):
        at.start("segmenter", slot, "tests.faults.failpoints", **{PLACE: str(points)})
    at.works("one", "two")
    letters = 0
    half = EACH // 2
    for name in PRODUCERS:
        letters += send(at, name, range(half))
    for slot, point in zip(("one", "two"), FAILPOINTS, strict=True):
        arm(points, slot, Armed(point, "kill"))
    for name in PRODUCERS:
        letters += send(at, name, range(half, EACH))
    for slot, point in zip(("one", "two"), FAILPOINTS, strict=True):
        wait(lambda slot=slot: fired(points, slot), f"{slot} dies at {point}", 60)  # type: ignore[misc]
        assert fired(points, slot) == [point]
        wait(lambda slot=slot: at.running[slot].pid is None, f"{slot} is dead")  # type: ignore[misc]
    for slot in ("three", "four"):
        at.start("segmenter", slot)
    at.works("three", "four")
    for name in ("right", "crc32"):  # for those who have not died to tell of
        send(at, name, range(EACH, EACH + LAST))
    wait(at.caught_up, "the segmenters catch up", 60)
    told = "".join(metrics_of(at.running[slot]) for slot in ("three", "four"))
    at.stop("three")
    at.stop("four")

    verdict = Verdict(at, CONFIG)
    assert verdict.differences() == []
    accepted: Counter[str] = Counter()
    for expected in verdict.expected:
        accepted.update({name: state["accepted"] for name, state in expected.states.items()})
    counts = [at.checkpoint(p).counts for p in at.partitions]
    total = Counter[str]()
    for one in counts:
        total.update(one)
    sent = len(PRODUCERS) * EACH + 2 * LAST
    assert (total["valid"], total["dead_letters"]) == (sent - letters, letters)
    assert accepted.total() == total["valid"], "each at its own customer"
    assert accepted.keys() == set(CUSTOMERS)
    assert total["forwarded"] > EACH / 2
    assert letters > 0
    assert 'segstream_forwarded_total{hint="crc32",library="crc32"}' in told
    assert 'library="right"' not in told
