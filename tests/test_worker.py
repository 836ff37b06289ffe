"""What the segmenter's loop does besides its protocol: counting, telling, halting.

A partition with too many dead letters is halted, if that was asked for; the others go on.
"""

import logging
from collections.abc import Mapping, Sequence

import pytest

from segstream.core.check import define
from segstream.core.step import Function
from segstream.ports import Loaded, Ports, Write
from segstream.shell.metrics import SegmenterMetrics
from segstream.testing.log import MemoryLog
from segstream.testing.memory import (
    ManualClock,
    MemoryModels,
    MemorySink,
    MemorySource,
    MemoryStore,
)
from segstream.worker import SHARE_RECORDS, Limits, Worker, grouped
from tests.harness import RETAIL

PARTITIONS = 2
BAD = b"no JSON"
#: Neither moves anything: a repeat is counted, garbage is a dead letter.
GOOD = b'{"type":"group","userId":"%s","messageId":"m","timestamp":"2026-01-01T00:00:00Z"}'
HOME = {0: b"u-2", 1: b"u-0"}  # by murmur2 mod 2


class Scene:
    """A worker whose partitions are filled by hand."""

    def __init__(self, halt_above: float) -> None:
        function = Function(define(dict(RETAIL)))
        layout = function.definition.digest(PARTITIONS, "murmur2")
        self.function, self.clock = function, ManualClock(1_800_000_000_000)
        self.log, self.store = MemoryLog(PARTITIONS, layout, self.clock), MemoryStore()
        self.start(halt_above)

    def start(self, halt_above: float) -> None:
        """A new process; the former one is no more."""
        self.metrics = SegmenterMetrics()
        source = MemorySource(self.log)
        sink = MemorySink(self.log)
        ports = Ports(source, self.store, sink, MemoryModels({}), self.clock, self.metrics)
        limits = Limits(records=1_000, idle_seconds=0, dead_share=halt_above)
        self.worker = Worker(self.function, ports, "events", PARTITIONS, "murmur2", limits)
        self.log.assign([source])

    def turns(self, bad: int, good: int, times: int) -> None:
        """So many records per turn on partition 0; partition 1 gets good ones only."""
        for _ in range(times):
            for _ in range(bad):
                self.log.append(0, BAD)
            for _ in range(good):
                self.log.append(0, GOOD % HOME[0])
            self.log.append(1, GOOD % HOME[1])
            self.worker.turn()

    def letters(self) -> int:
        return sum(output.topic == "dead_letters" for output in self.log.outputs)

    def value(self, name: str, partition: int) -> float:
        labels = {"partition": str(partition)}
        return self.metrics.metrics.registry.get_sample_value(f"segstream_{name}", labels) or 0.0


def test_the_share_is_that_of_the_latest_records() -> None:
    scene = Scene(1.0)
    scene.turns(bad=25, good=75, times=9)
    assert scene.value("dead_letter_share", 0) == 0  # too few to say
    scene.turns(bad=25, good=75, times=2)
    assert scene.value("dead_letter_share", 0) == pytest.approx(0.25)
    scene.turns(bad=0, good=100, times=SHARE_RECORDS // 100 + 1)
    assert scene.value("dead_letter_share", 0) == 0
    assert scene.value("dead_letter_share", 1) == 0


def test_by_default_nothing_halts() -> None:
    scene = Scene(1.0)
    scene.turns(bad=100, good=0, times=30)
    assert scene.letters() == scene.store.meta[0].offset == 3_000
    assert scene.value("partition_halted", 0) == 0


def test_a_halted_partition_stands_before_what_it_did_not_publish(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(0.5)
    scene.turns(bad=40, good=60, times=15)
    assert scene.value("partition_halted", 0) == 0
    with caplog.at_level(logging.ERROR):
        scene.turns(bad=100, good=0, times=15)
    assert "partition 0 is halted: 5" in caplog.text
    assert scene.value("partition_halted", 0) == 1
    assert not scene.metrics.health().ready
    assert scene.metrics.health().facts["halted"] == [0]
    # Nothing between: what was published is what was written, and the rest is still to be done.
    there = scene.store.meta[0]
    assert there.counts["dead_letters"] == scene.letters() < 40 * 15 + 100 * 15
    assert scene.log.published[0].position == there.position
    # The other partition goes on.
    assert scene.store.meta[1].offset == len(scene.log.records[1]) == 30


def test_who_starts_again_goes_on_behind_the_last_batch() -> None:
    scene = Scene(0.5)
    scene.turns(bad=100, good=0, times=20)
    assert scene.store.meta[0].offset < 2_000
    scene.start(halt_above=1.0)
    scene.turns(bad=0, good=0, times=21)
    assert scene.store.meta[0].offset == scene.letters() == 2_000


def test_small_batches_share_a_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(1.0)
    scene.turns(bad=0, good=0, times=1)
    asked: list[list[int]] = []
    written: list[list[int]] = []
    load, write = scene.store.load, scene.store.write

    def loading(wanted: Mapping[int, list[str]]) -> dict[int, Loaded]:
        asked.append(list(wanted))
        return load(wanted)

    def writing(writes: Sequence[Write]) -> set[int]:
        written.append([w.partition for w in writes])
        return write(writes)

    monkeypatch.setattr(scene.store, "load", loading)
    monkeypatch.setattr(scene.store, "write", writing)
    scene.turns(bad=0, good=1, times=2)
    assert asked == written == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    ("sizes", "groups"),
    [
        ([], []),
        ([0, 0], [[0, 0]]),
        ([400, 600, 1], [[400, 600], [1]]),
        ([1, 5_000, 1, 1], [[1], [5_000], [1, 1]]),
    ],
)
def test_a_large_batch_stays_alone(sizes: list[int], groups: list[list[int]]) -> None:
    assert list(grouped(sizes, lambda size: size)) == groups


def test_what_the_store_refuses_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next load would notice; but until then the worker would say that it had been done."""
    scene = Scene(1.0)
    scene.turns(bad=1, good=0, times=2)
    registry = scene.metrics.metrics.registry
    assert registry.get_sample_value("segstream_batch_records_count") == 2  # one per partition
    monkeypatch.setattr(scene.store, "write", lambda _: set())
    scene.turns(bad=1, good=0, times=1)
    assert registry.get_sample_value("segstream_batch_records_count") == 2  # one per partition
    assert registry.get_sample_value("segstream_reclaims_total") == 2  # of both partitions
    assert scene.metrics.health().facts["waiting"] == [0, 1]
    monkeypatch.undo()
    scene.turns(bad=0, good=0, times=3)
    assert scene.metrics.health().ready
    assert scene.letters() == 3
