"""Everything bad through a running segmenter, good events between: nothing is lost, nothing stops.

The corpus of tests/bad_input.py as producers send it, records of 10 MiB and more among it. The
oracle reads the log as Kafka has it and says what must have come out; the segmenter lives on and
its memory stays bounded.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer

from segstream.core.hash import partitions_of
from segstream.shell.local import Servers
from tests import bad_input
from tests.bad_input import CONFIG, CONFIG_TEXT, ORDER, Sent
from tests.integration.deployment import Deployment, deployment, wait
from tests.integration.verdict import FORWARDED, Came, Verdict

GOOD = 100  # every so many records a good one
MOST_MIB = 700
"""Memory that records of 10 MiB may take for a while, above what usual ones take.

Kafka's client holds up to 64 MiB that wait and a fetch under way, the batch is as large again,
and small objects take 24 times the room of their JSON.
"""


@pytest.fixture
def at(servers: Servers, unique: Callable[[str], str], tmp_path: Path) -> Iterator[Deployment]:
    with deployment(servers, tmp_path, unique("bad"), CONFIG_TEXT) as made:
        made.create()
        yield made


def good(number: int) -> Sent:
    name = f"good-{number}"
    return Sent("good", bad_input.text({**ORDER, "userId": name}), (), name.encode())


def send(at: Deployment, records: Sequence[Sent]) -> dict[int, list[Came]]:
    """To the key's partition, without a key to any; by partition what claims to be forwarded."""
    forged: dict[int, list[Came]] = defaultdict(list)
    failed: list[KafkaError] = []
    producer = Producer(
        {
            **at.kafka,
            "compression.type": "lz4",
            "linger.ms": 20,
            "message.max.bytes": 32 << 20,
            "on_delivery": lambda error, _: failed.append(error) if error else None,
        }
    )
    topic: Any = at.topic("customer-events")
    for number, one in enumerate(records):
        home = int(partitions_of([one.key or b"%d" % number], len(at.partitions), "murmur2")[0])
        headers: Any = list(one.headers) or None
        producer.produce(topic, one.value, one.key, home, headers=headers)
        producer.poll(0)
        if [name for name, _ in one.headers[-2:]] == FORWARDED:
            forged[home].append((one.key, one.value, tuple(one.headers)))
    assert producer.flush(60) == 0
    assert failed == []
    return forged


def resident(pid: int, what: str = "VmRSS") -> int:
    """Memory in MiB, now or (VmHWM) at its highest."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) >> 10


def test_everything_bad_goes_through_and_good_events_between_are_counted(at: Deployment) -> None:
    segmenter = at.start("segmenter", "one")
    at.works("one")
    pid = segmenter.pid
    assert pid is not None
    corpus = bad_input.everything()
    mixed = [
        one for i, bad in enumerate(corpus) for one in ([bad, good(i)] if i % GOOD == 0 else [bad])
    ]
    forged = send(at, mixed)
    wait(at.caught_up, "the corpus is computed", 60)
    usual = resident(pid, "VmHWM")
    large = [one for i, bad in enumerate(bad_input.large()) for one in (bad, good(-1 - i))]
    send(at, large)
    wait(at.caught_up, "large records are computed", 60)
    send(at, [good(0)])
    wait(at.caught_up, "it goes on", 20)
    assert segmenter.pid == pid, "it has died meanwhile"
    peak = resident(pid, "VmHWM")
    print(f"memory: {usual} MiB, at most {peak} MiB with large records")
    assert at.stop("one")[0] == 0

    verdict = Verdict(at, CONFIG, forged)
    assert verdict.differences() == []
    total: Counter[str] = Counter()
    for p in at.partitions:
        total.update(at.checkpoint(p).counts)
    outcomes = ("valid", "duplicates", "late", "forwarded", "dead_letters", "control")
    ends = sum(len(verdict.log[p]) for p in at.partitions)
    assert sum(total[name] for name in outcomes) == ends
    assert ends == len(mixed) + len(large) + 1 + total["forwarded"]
    known = {name for expected in verdict.expected for name in expected.states}
    assert {
        json.loads(one.value or b"")["userId"] for one in mixed + large if one.what == "good"
    } <= known
    if Path("/proc").exists():
        assert peak - usual < MOST_MIB
