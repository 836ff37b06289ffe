"""A replay into real Kafka: in order, on its partitions, resumed without doubling, as lived."""

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from redis import Redis

from segstream.core.hash import partitions_of
from segstream.shell.local import Servers
from segstream.shell.replay import Call, ReplayError, Summary, Target, replay

PARTITIONS = 3
DIGEST = "0123456789abcdef" + "f" * 48
DAY = 86_400_000
START = 1_291_161_600_000  # 2010-12-01
Names = Callable[[str], str]


@dataclass
class Record:
    partition: int
    offset: int
    key: str | None
    value: bytes
    headers: dict[str, str]

    @property
    def line(self) -> int:
        return int(self.headers.get("segstream.replay.line", 0))

    @property
    def is_clock(self) -> bool:
        return self.headers.get("ce_type") == "segstream.clock"


@pytest.fixture
def target(servers: Servers, unique: Names) -> Target:
    kafka: dict[str, str | int | float | bool] = {"bootstrap.servers": servers.bootstrap_servers}
    found = Target(
        kafka, servers.redis_url, unique("ns"), unique("customer-events"), unique("samples")
    )
    topics = [NewTopic(found.events, PARTITIONS, 1), NewTopic(found.samples, 1, 1)]
    admin = AdminClient(kafka)
    for future in admin.create_topics(topics).values():
        future.result(20)
    return found


def some_calls(count: int, per_day: int = 10**9) -> list[Call]:
    """Calls of 40 customers; every 10th is of nobody."""
    return [
        (
            line,
            START + (line - 1) // per_day * DAY + line,
            None if line % 10 == 0 else f"customer-{line % 41}",
            json.dumps({"line": line}).encode(),
        )
        for line in range(1, count + 1)
    ]


def records(target: Target) -> list[Record]:
    """All that is in the topic, partition by partition, in order."""
    consumer = Consumer({**target.kafka, "group.id": "test", "enable.auto.commit": False})
    found = []
    for p in range(PARTITIONS):
        _, high = consumer.get_watermark_offsets(TopicPartition(target.events, p), 10)
        consumer.assign([TopicPartition(target.events, p, 0)])
        position = 0
        while position < high:
            for message in consumer.consume(1000, 0.1):
                assert message.error() is None
                key, headers = message.key(), dict(message.headers() or ())
                found.append(
                    Record(
                        p,
                        message.offset() or 0,
                        key.decode() if isinstance(key, bytes) else key,
                        message.value() or b"",
                        {
                            name: value.decode() if isinstance(value, bytes) else ""
                            for name, value in headers.items()
                        },
                    )
                )
                position = found[-1].offset + 1
    consumer.close()
    return found


def stops_after(calls: int) -> tuple[Callable[[int, int | None], None], Callable[[], bool]]:
    """progress and stop of a replay that is stopped when it has read so many calls."""
    seen = [0]
    return lambda lines, _: seen.__setitem__(0, lines), lambda: seen[0] >= calls


def others_write(target: Target, count: int) -> None:
    producer = Producer(dict(target.kafka))
    for i in range(count):
        headers: Any = [("segstream.replay.file", "another"), ("segstream.replay.line", str(10**6))]
        producer.produce(target.events, b"{}", partition=i % PARTITIONS, headers=headers)
    assert producer.flush(20) == 0


def test_every_call_once_in_order_on_its_partition(target: Target) -> None:
    calls, told = some_calls(5_000), []
    summary = replay(
        calls, DIGEST, target, total=5_000, progress=lambda *told_now: told.append(told_now)
    )
    assert (summary.lines, summary.sent, summary.skipped) == (5_000, 5_000, 0)
    assert not summary.stopped
    assert told[-1] == (5_000, 5_000)
    found = records(target)
    for p in range(PARTITIONS):
        lines = [record.line for record in found if record.partition == p]
        assert lines == sorted(set(lines))
    by_line = {record.line: record for record in found}
    assert len(found) == len(by_line) == len(calls)
    for line, _, raw, value in calls:
        record = by_line[line]
        assert (record.key, record.value) == (raw, value)
        assert record.headers == {
            "segstream.replay.file": DIGEST[:16],
            "segstream.replay.line": str(line),
        }
        wanted = line if raw is None else partitions_of([raw.encode()], PARTITIONS, "murmur2")[0]
        assert record.partition == wanted % PARTITIONS


def test_the_partitioner_is_a_setting(target: Target) -> None:
    replay(some_calls(50), DIGEST, replace(target, partitioner="crc32"))
    for record in records(target):
        if record.key:
            assert record.partition == partitions_of([record.key.encode()], PARTITIONS, "crc32")[0]


@pytest.mark.parametrize("others", [0, 2_000, 30_000])
def test_a_stopped_replay_goes_on_without_doubling(target: Target, others: int) -> None:
    """30,000 records of others per 3 partitions: found in the second and third look back."""
    calls = some_calls(12_000)
    progress, stop = stops_after(5_000)
    first = replay(calls, DIGEST, target, progress=progress, stop=stop)
    assert first.stopped
    assert 5_000 <= first.sent < 12_000
    others_write(target, others)
    second = replay(calls, DIGEST, target)
    assert (second.skipped, second.sent) == (first.sent, 12_000 - first.sent)
    third = replay(calls, DIGEST, target)
    assert (third.skipped, third.sent) == (12_000, 0)
    found = [r for r in records(target) if r.headers["segstream.replay.file"] == DIGEST[:16]]
    assert sorted(record.line for record in found) == list(range(1, 12_001))
    for p in range(PARTITIONS):
        lines = [record.line for record in found if record.partition == p]
        assert lines == sorted(lines)


def test_partitions_may_stand_at_different_lines(target: Target) -> None:
    """As after a kill: what one partition lacks is sent, what another holds is not."""
    calls = some_calls(300)
    producer = Producer({**target.kafka, "enable.idempotence": True})  # keeps the order, as replay
    held = {0: 100, 1: 250}
    for line, _, raw, value in calls:
        p = line % PARTITIONS
        if raw is not None:
            p = int(partitions_of([raw.encode()], PARTITIONS, "murmur2")[0])
        if line <= held.get(p, 0):
            headers: Any = [
                ("segstream.replay.file", DIGEST[:16]),
                ("segstream.replay.line", str(line)),
            ]
            producer.produce(target.events, value, raw, p, headers=headers)
    assert producer.flush(20) == 0
    replay(calls, DIGEST, target)
    assert sorted(record.line for record in records(target)) == list(range(1, 301))


def test_an_exception_in_the_calls_leaves_a_log_that_can_be_resumed(target: Target) -> None:
    calls = some_calls(9_000)

    def interrupted() -> Iterator[Call]:
        yield from calls[:4_500]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay(interrupted(), DIGEST, target)
    assert replay(calls, DIGEST, target).skipped == 4_000  # whole batches
    assert sorted(record.line for record in records(target)) == list(range(1, 9_001))


def test_a_missing_topic_names_the_command_that_creates_it(target: Target) -> None:
    with pytest.raises(ReplayError, match="topics create"):
        replay([], DIGEST, replace(target, events="absent"))


def test_a_call_beyond_the_limit_names_its_line(target: Target) -> None:
    with pytest.raises(ReplayError, match="line 1"):
        replay([(1, None, "u", b" " * (11 << 20))], DIGEST, target)


@dataclass
class Workers:
    """Stands for segmenter and trainer: writes positions, samples and the trainer's offset."""

    target: Target
    trains: bool = True
    forwards: bool = False
    #: lag of each new position behind its record, seconds
    slow: float = 0.0
    models: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    #: (partition, offset) of clock → offsets that the log had then
    done: list[tuple[int, int]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(20)

    def _work(self) -> None:
        redis = Redis.from_url(self.target.redis_url)
        reader = Consumer({**self.target.kafka, "group.id": "workers", "enable.auto.commit": False})
        reader.assign([TopicPartition(self.target.events, p, 0) for p in range(PARTITIONS)])
        committer = Consumer({**self.target.kafka, "group.id": f"{self.target.namespace}.trainer"})
        producer = Producer({**self.target.kafka, "linger.ms": 0})
        forwarder = Producer({**self.target.kafka, "transactional.id": self.target.events})
        forwarder.init_transactions(20)
        midnights, samples = 0, 0
        while not self._stop.is_set():
            for message in reader.consume(1000, 0.002):
                p, offset = message.partition(), message.offset()
                assert p is not None
                assert offset is not None
                is_clock = ("ce_type", b"segstream.clock") in (message.headers() or [])
                if is_clock:
                    # As the segmenter: first the sample is published, then the position moves.
                    producer.produce(self.target.samples, b"{}")
                    producer.flush()
                    midnights, samples = midnights + 1, samples + 1
                    time.sleep(self.slow)
                redis.set(
                    f"{self.target.namespace}:{{{p}}}:meta", json.dumps({"offset": offset + 1})
                )
                if is_clock and self.trains and midnights % PARTITIONS == 0:
                    # As the trainer: the model's record is appended before the commit.
                    time.sleep(self.slow)
                    for q in range(PARTITIONS):
                        producer.produce(
                            self.target.events,
                            b"{}",
                            partition=q,
                            headers={"ce_type": "segstream.model"},
                        )
                    producer.flush()
                    self.models += 1
                    if self.forwards:
                        forwarder.begin_transaction()
                        for q in range(PARTITIONS):
                            forwarder.produce(self.target.events, b"{}", partition=q)
                        forwarder.commit_transaction(20)
                    committer.commit(
                        offsets=[TopicPartition(self.target.samples, 0, samples)],
                        asynchronous=False,
                    )
        reader.close()
        committer.close()


def lived(target: Target, calls: Sequence[Call], **more: Any) -> Summary:
    return replay(calls, DIGEST, target, as_lived=True, timeout=20, **more)


def test_as_lived_waits_for_the_workers_after_each_day(target: Target) -> None:
    calls = some_calls(90, per_day=30)
    with Workers(target, slow=0.02).running():
        assert lived(target, calls).sent == 90
    for p in range(PARTITIONS):
        found = [record for record in records(target) if record.partition == p]
        # A day's calls, its midnight, the model that the trainer made of it, and so on.
        kinds = [record.headers.get("ce_type", (record.line - 1) // 30) for record in found]
        assert [kind for kind, _ in itertools.groupby(kinds)] == [
            *(0, "segstream.clock", "segstream.model"),
            *(1, "segstream.clock", "segstream.model"),
            *(2, "segstream.clock", "segstream.model"),
        ]
        clock = next(record for record in found if record.is_clock)
        assert json.loads(clock.value) == {"time": "2010-12-02T00:00:00.000Z"}
        assert clock.key is None
        assert clock.headers == {
            "ce_specversion": "1.0",
            "ce_id": f"replay-{DIGEST[:16]}-2010-12-01",
            "ce_source": "/segstream/replay",
            "ce_type": "segstream.clock",
            "content-type": "application/json",
            "segstream.replay.file": DIGEST[:16],
            "segstream.replay.line": "30",
        }


def test_as_lived_plays_days_without_calls(target: Target) -> None:
    calls = [(1, START, "a", b"{}"), (2, START + 4 * DAY, "a", b"{}")]
    with Workers(target).running():
        lived(target, calls)
    clocks = [r for r in records(target) if r.is_clock and r.partition == 0]
    assert [json.loads(clock.value)["time"][:10] for clock in clocks] == [
        f"2010-12-0{day}" for day in (2, 3, 4, 5, 6)
    ]


def test_as_lived_does_not_wait_for_the_markers_of_transactions(target: Target) -> None:
    """A call that was forwarded is the last record of the log, and its marker comes behind it."""
    calls = some_calls(20, per_day=10)
    with Workers(target, forwards=True).running():
        assert lived(target, calls).sent == 20


def test_as_lived_goes_on_after_a_stop(target: Target) -> None:
    calls = some_calls(9_000, per_day=2_500)
    progress, stop = stops_after(4_000)
    with Workers(target).running():
        first = lived(target, calls, progress=progress, stop=stop)
        assert first.stopped
        second = lived(target, calls)
    assert first.sent + second.sent == 9_000
    found = records(target)
    lines = [r.line for r in found if "ce_type" not in r.headers]
    assert sorted(lines) == list(range(1, 9_001))
    for p in range(PARTITIONS):
        clocks = {r.headers["ce_id"] for r in found if r.is_clock and r.partition == p}
        assert len(clocks) == 4


def test_as_lived_says_who_is_behind(target: Target) -> None:
    calls = some_calls(10)
    with pytest.raises(ReplayError, match=r"segmenter at 0 of .*run segmenter"):
        replay(calls, DIGEST, target, as_lived=True, timeout=0.3)
    with (
        Workers(target, trains=False).running(),
        pytest.raises(ReplayError, match=r"trainer .* at 0 of \d+ samples.*run trainer"),
    ):
        replay(calls, DIGEST, target, as_lived=True, timeout=0.5)


def test_as_lived_needs_times_in_order(target: Target) -> None:
    with pytest.raises(ReplayError, match="Line 2 has no time"):
        lived(target, [(1, START, "a", b"{}"), (2, None, "a", b"{}")])
    with (
        Workers(target).running(),
        pytest.raises(ReplayError, match="Line 2 is of 2010-11-30, after lines of 2010-12-01"),
    ):
        lived(target, [(1, START, "a", b"{}"), (2, START - 1, "a", b"{}")])


def test_as_lived_can_be_stopped_while_it_waits(target: Target) -> None:
    began = time.monotonic()
    summary = lived(target, some_calls(10), stop=lambda: time.monotonic() - began > 1)
    assert summary.stopped
    assert time.monotonic() - began < 10
