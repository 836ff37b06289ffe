"""How a log is cut, by how many workers it is read and who dies meanwhile changes nothing.

The real `Worker` over the in-memory ports, on logs of four partitions: batches of 1 to 5,000
records, small tick limits, one to four workers, rebalances, crashes and refusals at every call to
the outside, workers that are paused there while others go on with their partitions, and stores
that go back to an older copy. After all of it States, Checkpoints and minute index are equal byte
for byte, and each partition's outputs are the same in the same order as those of the core alone,
given the log as it is in the end, forwarded calls included, in one go.

The last tests take away what protects against this, one thing at a time, and must see it fail.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from functools import cache
from itertools import islice
from random import Random
from typing import Any, NamedTuple

import pytest

from segstream.core.batch import Checkpoint, Position
from segstream.core.check import define
from segstream.core.event import Headers, Records
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.record import ModelRecord
from segstream.core.step import Function, Outcome, Partition
from segstream.ports import NotCommitted, Ports, Published, Unavailable
from segstream.testing.memory import (
    ManualClock,
    MemoryLog,
    MemoryModels,
    MemorySink,
    MemorySource,
    MemoryStore,
    Silent,
)
from segstream.worker import Limits, Worker
from tests.harness import Replay
from tests.streams import Stream, generate_topic

PARTITIONS = 4
TOPICS = 8
SCHEDULES = 600 if os.environ.get("CI") else 120
#: Disturbances per schedule; then it is left alone, so that it comes to an end.
TROUBLE = 25
#: In the place of a partition: calls that were forwarded.
FORWARDED = -1


class Crash(Exception):
    """The worker is no more."""


class Careless(NamedTuple):
    """Protections that are taken away."""

    store: bool = False  # the store takes any position
    published: bool = False  # W is not looked at
    fence: bool = False  # a worker that lost its partitions may publish


CAREFUL = Careless()


class Topic(NamedTuple):
    """A log of four partitions, and what is computed from it."""

    streams: list[Stream]
    function: Function
    models: list[ModelRecord]


class Result(NamedTuple):
    """All that is left after a log; `said`: per partition the outputs in order."""

    states: dict[int, dict[str, bytes]]
    checkpoints: dict[int, Checkpoint]
    minutes: set[tuple[int, int, str]]
    said: dict[int, list[tuple[Any, ...]]]
    published: dict[int, Position]


@cache
def topic(seed: int) -> Topic:
    streams = generate_topic(seed, PARTITIONS, 40)
    records = [ModelRecord.model_validate(model) for model in streams[0].models.values()]
    return Topic(streams, Function(define(streams[0].config)), records)


class Replayed(NamedTuple):
    """A log as it is in the end, and the core's outcome of it."""

    result: Result
    forwarded: list[tuple[Any, ...]]  # calls that the workers have added to the log


def replayed(topic: Topic, log: MemoryLog) -> Replayed:
    """The core alone, each partition in one go."""
    found = Replayed(Result({}, {}, set(), {p: [] for p in range(PARTITIONS)}, {}), [])
    models = {record.model: Model(record) for record in topic.models}
    for p, records in enumerate(log.records):
        place = Partition(p, PARTITIONS, topic.streams[0].partitioner, "events")
        published = log.published[p]
        start = Checkpoint(published.origin, 0, published.layout)
        run = Replay(topic.function, models, place, start)
        run.batch(
            Records(
                [r.offset for r in records],
                [r.appended for r in records],
                [r.value for r in records],
                [r.headers for r in records],
                [r.key for r in records],
            ),
            ticks=1_000_000,
        )
        found.result.states[p] = run.states()
        found.result.checkpoints[p] = run.checkpoint
        found.result.minutes.update(indexed(p, run.store.minutes.get(0, {})))
        note(found.result.said, run.outputs)
        added = records[len(topic.streams[p].records) :]
        found.forwarded.extend((p, r.key, r.value, tuple(r.headers or ())) for r in added)
    return found


def indexed(partition: int, index: Mapping[int, set[str]]) -> Iterator[tuple[int, int, str]]:
    for minute, customers in index.items():
        yield from ((partition, minute, customer) for customer in customers)


def note(said: dict[int, list[tuple[Any, ...]]], outputs: Iterable[Output]) -> None:
    """By partition in order; calls that go to another partition come last, in any order."""
    said.setdefault(FORWARDED, [])
    for o in outputs:
        if o.topic == "events":
            said[FORWARDED].append((o.partition, o.key, o.value, tuple(o.headers)))
        else:
            said[o.partition].append((o.topic, o.key, o.value, o.headers, o.position))


# --- surroundings in which things happen ----------------------------------------------------


class World:
    """A log, a store and output topics, workers on them, and what happens to these."""

    def __init__(
        self, topic: Topic, rng: Random | None = None, careless: Careless = CAREFUL
    ) -> None:
        self.topic, self.careless = topic, careless
        self.rng = rng or Random(0)
        self.trouble = TROUBLE if rng else 0
        self.limits = self._limits() if rng else Limits(idle_seconds=0)
        self.longest = self.rng.choice([1, 5, 20, 5_000]) if rng else 5_000
        ends = [stream.records[-1].append_time for stream in topic.streams]
        self.clock = ManualClock(max(ends))
        stream = topic.streams[0]
        layout = topic.function.definition.digest(PARTITIONS, stream.partitioner)
        self.log = MemoryLog(PARTITIONS, layout, self.clock)
        for number, part in enumerate(topic.streams):
            start = part.records[0].offset
            self.log.published[number] = Published(Position(start, 0), layout, start)
            for offset, appended, headers, value, key in part.records:
                kept: Headers = None if headers is None else [*headers]
                self.log.append(
                    number, value, appended=appended, headers=kept, key=key, offset=offset
                )
        self.store = Store(self)
        self.outputs: list[Any] = []
        self.workers: list[Worker] = []
        self.inside = False  # a worker is paused, and others work meanwhile

    def _limits(self) -> Limits:
        return Limits(
            records=self.rng.choice([1, 10, 5_000]),
            ticks=self.rng.choice([3, 30, 300, 50_000]),
            lazy_records=self.rng.choice([20, 100_000]),
            idle_seconds=0,
        )

    def worker(self) -> Worker:
        rng = self.rng
        source = Source(self, iter(lambda: rng.randint(1, self.longest), None))
        models = MemoryModels(self.topic.models)
        sink = Sink(self, source)
        ports = Ports(source, self.store, sink, models, self.clock, Silent())
        partitioner = self.topic.streams[0].partitioner
        function = self.topic.function
        return Worker(function, ports, "events", PARTITIONS, partitioner, self.limits)

    # -- what happens -----------------------------------------------------------------

    def disturb(self, failure: type[Exception] | None) -> None:
        """Called by the ports around each effect: sometimes something happens right here."""
        if self.inside or self.trouble <= 0 or self.rng.random() > 0.1:
            return
        self.trouble -= 1
        match self.rng.choice(["crash", "fail", "pause", "pause", "restore"]):
            case "crash":
                raise Crash
            case "fail" if failure is not None:
                raise failure("so the test wants it")
            case "pause":
                self.others_work()
            case "restore" if not self.careless.store:
                self.store.restore(self.rng)

    def others_work(self) -> None:
        """The worker that called is paused, loses its partitions, and others go on with them."""
        self.inside = True
        others = [self.worker() for _ in range(self.rng.randint(1, 2))]
        self.rebalance(others)
        for _ in range(self.rng.randint(1, 6)):
            self.rng.choice(others).turn()
        self.workers += others
        self.rebalance()
        self.inside = False

    def rebalance(self, workers: list[Worker] | None = None) -> None:
        members = [w.source for w in workers or self.workers]
        self.rng.shuffle(members)
        self.log.assign(m for m in members if isinstance(m, MemorySource))

    def between_turns(self) -> None:
        if self.trouble <= 0 or self.rng.random() > 0.1:
            return
        self.trouble -= 1
        match self.rng.choice(["crash", "join", "leave", "rebalance"]):
            case "crash":
                self.workers[self.rng.randrange(len(self.workers))] = self.worker()
            case "join" if len(self.workers) < 4:
                self.workers.append(self.worker())
            case "leave" if len(self.workers) > 1:
                self.rebalance(self.workers[:-1])  # it may hear of it only in its last poll
                with suppress(Crash):
                    self.workers.pop().run(lambda: True)
        self.rebalance()

    # -- the whole --------------------------------------------------------------------

    def run(self) -> Result:
        """Until every partition is computed to its end."""
        self.workers = [self.worker() for _ in range(self.rng.choice([1, 1, 2, 4]))]
        self.rebalance()
        for turn in range(20_000):
            self.between_turns()
            if turn % 300 == 299:
                # A store that goes back is noticed at the partition's next record. At the end of
                # the log none comes (in production the clock's does), so the partition moves.
                self.rebalance()
            number = self.rng.randrange(len(self.workers))
            worker = self.workers[number]
            self.clock.now += self.rng.choice([0, 200, 3_000])
            try:
                worker.turn()
            except Crash:
                self.workers[self.workers.index(worker)] = self.worker()
                self.rebalance()
            if self._done():
                return self._result()
        raise AssertionError("the workers do not come to an end")

    def _done(self) -> bool:
        ends = {p: log[-1].offset + 1 for p, log in enumerate(self.log.records)}
        return ends == {p: meta.offset for p, meta in self.store.meta.items()}

    def _result(self) -> Result:
        self.trouble = 0
        self.workers = [self.worker()]
        self.rebalance()
        for _ in range(3):
            self.workers[0].turn()
        self.workers[0].run(lambda: True)
        said: dict[int, list[tuple[Any, ...]]] = {p: [] for p in range(PARTITIONS)}
        note(said, self.outputs)
        return Result(
            self.store.states,
            self.store.meta,
            {i for p, index in self.store.minutes.items() for i in indexed(p, index)},
            said,
            {p: published.position for p, published in self.log.published.items()},
        )


class Source(MemorySource):
    def __init__(self, world: World, cuts: Iterator[int]) -> None:
        super().__init__(world.log, cuts)
        self.world = world

    def committed(self, partition: int) -> Published | None:
        self.world.disturb(Unavailable)
        published = super().committed(partition)
        if self.world.careless.published and published is not None:
            return published._replace(position=Position(published.origin, 0))
        return published


class Store(MemoryStore):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.copies: list[tuple[Any, ...]] = []

    def checkpoint(self, partition: int) -> Checkpoint | None:
        self.world.disturb(Unavailable)
        return super().checkpoint(partition)

    def due(self, partition: int, minutes: list[int]) -> tuple[Checkpoint | None, list[str]]:
        self.world.disturb(Unavailable)
        meta, customers = super().due(partition, minutes)
        return meta, self.world.rng.sample(customers, len(customers))  # in no order

    def load(
        self, partition: int, customers: list[str]
    ) -> tuple[Checkpoint | None, list[bytes | None]]:
        self.world.disturb(Unavailable)
        return super().load(partition, customers)

    def write(self, partition: int, base: Position | None, outcome: Outcome) -> bool:
        self.world.disturb(Unavailable)
        if self.world.careless.store:
            there = self.meta.get(partition)
            base = None if there is None else there.position
            states = self.states.setdefault(partition, {})
            outcome = outcome._replace(deletes=[c for c in outcome.deletes if c in states])
        if self.world.rng.random() < 0.05:
            self.copies.append((partition, *self._copied(partition)))
        written = super().write(partition, base, outcome)
        self.world.disturb(Unavailable)
        return written

    def _copied(self, partition: int) -> tuple[Any, ...]:
        held: list[dict[int, Any]] = [self.meta, self.states, self.minutes]
        return tuple(deepcopy(found.get(partition)) for found in held)

    def restore(self, rng: Random) -> None:
        """One partition is again as it was some writes ago: a backup, or a lost replica."""
        if not self.copies:
            return
        partition, *copies = rng.choice(self.copies)
        held: list[dict[int, Any]] = [self.meta, self.states, self.minutes]
        for there, copy in zip(held, copies, strict=True):
            there.pop(partition, None)
            if copy is not None:
                there[partition] = deepcopy(copy)


class Sink(MemorySink):
    def __init__(self, world: World, source: MemorySource) -> None:
        super().__init__(world.log, source)
        self.world, self.outputs = world, world.outputs

    def publish(self, outputs: Any, positions: Any, metadata: object) -> None:
        careless = self.world.careless
        self.world.disturb(NotCommitted)
        if careless.published or careless.fence:
            metadata = self.log.generation
            behind = {p: w._replace(position=Position(0, 0)) for p, w in positions.items()}
            self.log.published.update(behind)
            super().publish(outputs, positions, metadata)
        else:
            super().publish(outputs, positions, metadata)
        self.world.disturb(NotCommitted)  # committed, and nobody was told


# --- tests ----------------------------------------------------------------------------------


def violations(found: Result, replay: Replayed) -> list[str]:
    """What is not as it is after the replay, in a few words each."""
    wrong = []
    wanted = replay.result
    forwarded = Counter(wanted.said[FORWARDED])
    for name, calls in (("outputs", found.said[FORWARDED]), ("log", replay.forwarded)):
        if Counter(calls) != forwarded:
            wrong.append(f"{len(calls)} forwarded calls in the {name} ≠ {forwarded.total()}")
    for p in range(PARTITIONS):
        if found.states.get(p) != wanted.states.get(p):
            wrong.append(f"States of partition {p}")
        if found.checkpoints.get(p) != wanted.checkpoints.get(p):
            wrong.append(f"Checkpoint of {p}: {found.checkpoints[p]} ≠ {wanted.checkpoints[p]}")
        if found.said[p] != wanted.said[p]:
            wrong.append(f"{len(found.said[p])} outputs of {p} ≠ {len(wanted.said[p])}, or order")
        if found.published[p] != found.checkpoints[p].position:
            wrong.append(f"W of {p}: {found.published[p]} is not N")
    if found.minutes != wanted.minutes:
        wrong.append(f"minute index: {sorted(found.minutes ^ wanted.minutes)[:5]}")
    return wrong


def lived_through(seed: int, careless: Careless = CAREFUL) -> list[str]:
    """What a schedule leads to that reading in one go does not."""
    world = World(topic(seed % TOPICS), Random(seed), careless)
    return violations(world.run(), replayed(world.topic, world.log))


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_nothing_that_happens_to_workers_changes_anything(seed: int) -> None:
    assert lived_through(seed) == []


def test_there_is_something_to_get_wrong() -> None:
    """The logs lead to outputs of every topic, on every partition."""
    worlds = [World(topic(seed)) for seed in range(TOPICS)]
    found = [replayed(world.topic, world.log).result.said for world in worlds]
    kinds = {
        (p, name) for said in found for p, outputs in said.items() for name, *_ in outputs if p >= 0
    }
    topics = ("changes", "memberships", "samples", "dead_letters")
    assert kinds == {(p, name) for p in range(PARTITIONS) for name in topics}
    assert any(said[FORWARDED] for said in found)


@pytest.mark.parametrize(
    "careless", [Careless(store=True), Careless(published=True), Careless(fence=True)]
)
def test_without_a_protection_it_is_seen(careless: Careless) -> None:
    """The position check of the store, W, the fence: without any one of them, things go wrong."""

    def goes_wrong(seed: int) -> bool:
        try:
            return bool(lived_through(seed, careless))
        except Exception:  # noqa: BLE001 (to fall over the damage is to see it)
            return True

    seen = (seed for seed in range(60) if goes_wrong(seed))
    assert len(list(islice(seen, 3))) == 3
