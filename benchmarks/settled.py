"""Customers with a past: the States of any number of them, from a sample that was computed.

Events of 85 days for a million customers would take an hour to send. So a sample lives through
its past in the core; everybody else is a copy of the customer of the same relative rank, under a
name of its own. The States are written as the segmenter writes them.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec
import numpy as np

from benchmarks.model import model_of
from benchmarks.traffic import START_MS, Ints, People, history, people
from consumers.settings import Settings, load
from segstream.core.batch import Checkpoint
from segstream.core.event import Headers, Records
from segstream.core.hash import customer_hash, level_of
from segstream.core.model import Model
from segstream.core.record import ModelActivated, ModelRecord
from segstream.core.state import States
from segstream.core.step import Function, Outcome, Partition
from segstream.ports import Write
from segstream.testing.memory import MemoryStore

SAMPLE = 20_000
EACH = 32
"""Events per customer in 85 days, so that 1 to 2 % of what comes later leads to a change.

That is what shops have: 0.2 to 0.35 changes per customer and month at about 16 events.
"""
CONTROL: Headers = [("ce_type", b"segstream.model")]
_BATCH = 5_000
_CHUNK = 2_000  # a write of many takes longer than a client waits, on a crowded machine


class Sample(NamedTuple):
    """Customers by rank, the most active first, as their past has left them."""

    zipf: float
    record: ModelRecord
    states: States
    sent: int  # messages that they have seen


@cache
def sample(zipf: float, size: int = SAMPLE, each: int = EACH) -> Sample:
    """Computed by the core, on one partition, under the model that is active afterwards."""
    settings = load({})
    who = people(size, zipf, 1)
    past = history(who, each)
    record = model_of(settings, past)
    function = Function(settings.definition)
    where = Partition(0, 1, "murmur2", "customer-events")
    control = ModelActivated(version=record.model, digest=record.digest).model_dump_json()
    values = [control.encode(), *(value for _, _, value in past.records())]
    store = MemoryStore()
    compute(function, where, {record.model: Model(record)}, store, records(values, 0, control=1))
    blobs: list[bytes | None] = [store.states[0][customer] for customer in who.ids]
    return Sample(zipf, record, function.layout.unpack(blobs, who.ids), len(past))


def compute(
    function: Function,
    where: Partition,
    models: dict[int, Model],
    store: MemoryStore,
    held: Records,
) -> None:
    """Let the core take records into a store."""
    base = store.meta.get(where.number, Checkpoint(0, 0, ""))
    while len(held):
        part = held.part(0, _BATCH)
        decoded = function.decode(part, where)
        batch = function.gather(part, decoded, base, models)
        customers = function.touched(batch, base, [])
        states = (customers, store.load({where.number: customers})[where.number][1])
        outcome = function.step(batch, base, where, models, states)
        there = store.meta.get(where.number)
        position = None if there is None else there.position
        if not store.write([Write(where.number, position, outcome)]):
            raise AssertionError("the store stands elsewhere")
        base, held = outcome.checkpoint, held.part(batch.size)


def records(values: list[bytes], first: int, control: int = 0) -> Records:
    """Records from offset `first` on; the first `control` of them are control events."""
    size = len(values)
    headers = [CONTROL] * control + [None] * (size - control)
    keys = [None] * size
    return Records(range(first, first + size), [2**42] * size, values, headers, keys)


class Settled(NamedTuple):
    """Some of `number` customers, all like those of the sample."""

    sample: Sample
    number: int
    who: People
    ranks: Ints

    @classmethod
    def of(
        cls, sample: Sample, number: int, partitions: int, ranks: Ints | None = None
    ) -> "Settled":
        """All of them, or only those of some ranks (sorted)."""
        who = people(number, sample.zipf, partitions, ranks, like=len(sample.states))
        return cls(sample, number, who, np.arange(number) if ranks is None else ranks)

    def outcomes(self, settings: Settings, partition: int, offset: int) -> Iterator[Outcome]:
        """A partition's States and index, a chunk at a time; the last one stands at `offset`.

        The clock stands at START_MS, less a ms per chunk that is still to come.
        """
        function = Function(settings.definition)
        mine = np.flatnonzero(self.who.partition == partition)
        customers = [self.who.ids[i] for i in mine.tolist()]
        hashes = np.array([customer_hash(c) for c in customers], np.uint64)
        states = self.sample.states[self.ranks[mine] * len(self.sample.states) // self.number]
        states["hash"] = hashes
        minutes = (hashes % np.uint64(settings.definition.tick.minutes)).tolist()
        checkpoint = self._checkpoint(settings, states, offset)
        blobs = function.layout.pack(states)
        chunks = range(0, len(customers), _CHUNK)
        for left, at in zip(reversed(range(len(chunks))), chunks, strict=True):
            part = slice(at, at + _CHUNK)
            yield Outcome(
                msgspec.structs.replace(checkpoint, clock=START_MS - left),
                dict(zip(customers[part], blobs[part], strict=True)),
                [],
                list(zip(minutes[part], customers[part], strict=True)),
                [],
                [],
                {},
            )

    def _checkpoint(self, settings: Settings, states: States, offset: int) -> Checkpoint:
        levels = [level_of(h) for h in states["hash"].tolist()]
        born = np.bincount(levels, minlength=65)
        # The rest of the customers, if these are only some.
        others = self.number // settings.topics.partitions - len(states)
        born[0] += max(0, others) if len(self.ranks) < self.number else 0
        above = born[::-1].cumsum()[::-1]
        capacity = max(1, settings.definition.panel.size // settings.topics.partitions)
        ids, members = np.unique(states["segment"], return_counts=True)
        segments: dict[str, Any] = dict(zip(map(str, ids.tolist()), members.tolist(), strict=True))
        return Checkpoint(
            offset,
            START_MS,
            settings.layout,
            model=self.sample.record.model,
            level=int(np.flatnonzero(above <= capacity)[0]),
            born=tuple(born.tolist()),
            customers=int(born.sum()),
            segments={name: count for name, count in segments.items() if name != "0"},
        )
