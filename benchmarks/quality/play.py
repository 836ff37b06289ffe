"""A stream through the real core and the real trainer, as lived, without servers.

Calls come in the order of time. When a UTC day has ended, the partition gets a clock record of that
midnight, the trainer handles the samples of the day, and a version that is due is appended as
`segstream.model` before the next day's calls. That is what `replay --as-lived` does.

Each day ends with a `Night`, taken in its last millisecond: every customer has been evaluated on
this day, no pane has begun that nobody was evaluated in, and the version of that midnight does not
count yet, so the active model is as old as it gets.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from segstream.core.batch import Checkpoint
from segstream.core.calendar import DAY, instant_ms
from segstream.core.config import Definition
from segstream.core.event import Headers, Records
from segstream.core.expression import Floats, Term
from segstream.core.feature import Vectors
from segstream.core.model import Model
from segstream.core.output import Output, ms_text
from segstream.core.record import ModelActivated, ModelRecord
from segstream.core.state import States
from segstream.core.step import Function, Partition
from segstream.core.table import Numbered
from segstream.core.window import Rows, Windows
from segstream.learn import Training
from segstream.ports import Write
from segstream.shell.river import CustomerKMeans
from segstream.testing.memory import MemoryStore
from segstream.testing.trainer import MemoryTopics, memory_ports
from segstream.trainer import Trainer

#: the log is written long after it was lived: no event time is ahead of its append time
APPENDED = 2**42
_WHERE = Partition(0, 1, "murmur2", "customer-events")
Ints = npt.NDArray[np.int64]


class Unusable(ValueError):
    """Data that cannot be measured, and why."""


class Move(NamedTuple):
    """A Change as published; segment 0 is none."""

    customer: str
    at: int
    left: int
    entered: int
    cause: str


class Night(NamedTuple):
    """All living customers at the end of a day, in the order of their ids.

    `raw` float32[n, d]: their Vectors at that instant. `emitted` int64[n]: the segment each is in,
    0 = none yet. `model`: the active version; None before the first. `seen` float32[events, d]: the
    Vector after each accepted event of the day, in log order.
    """

    at: int
    customers: list[str]
    raw: Vectors
    emitted: Ints
    model: Model | None
    seen: Vectors


@dataclass
class Play:
    """One stream under way; `moves` and `versions` grow with the nights.

    `begun`: the midnight before its first call. `window`: the longest one. Both in ms.
    """

    definition: Definition
    training: Training
    moves: list[Move] = field(default_factory=list)
    versions: dict[int, ModelRecord] = field(default_factory=dict)
    events: int = 0
    refused: int = 0
    begun: int = 0
    window: int = 0

    def nights(self, calls: Iterable[Numbered], days: int | None = None) -> Iterator[Night]:
        """Live the calls, at most `days` of them. ValueError if they are not in order of time."""
        partition = _Partition(self.definition)
        topics = MemoryTopics()
        ports, samples = memory_ports(topics, CustomerKMeans, limit=10**9)
        topics.assign(samples)
        trainer = Trainer(self.training, ports)
        for number, (midnight, values) in enumerate(_days(calls)):
            if number == days:
                return
            if number == 0:
                self.begun, self.window = midnight - DAY, partition.window
            outputs = partition.work(values, midnight - 1)
            night = partition.night(midnight - 1)
            outputs += partition.work([], midnight)
            self._note(outputs, partition.checkpoint)
            topics.samples += [(o.key, o.value) for o in outputs if o.topic == "samples"]
            yield night
            trainer.turn()
            for version in sorted(topics.versions.keys() - self.versions.keys()):
                self.versions[version] = topics.versions[version]
                partition.announce(topics.versions[version])

    def _note(self, outputs: list[Output], checkpoint: Checkpoint) -> None:
        self.events, self.refused = checkpoint.counts["valid"], checkpoint.counts["dead_letters"]
        for output in outputs:
            if output.topic == "changes" and output.value is not None:
                self.moves.append(_move(msgspec.json.decode(output.value)))


def _move(change: dict[str, Any]) -> Move:
    left, entered = (0 if ref is None else ref["segment"] for ref in (change["from"], change["to"]))
    return Move(change["customer"], instant_ms(change["at"]), left, entered, change["cause"])


def _days(calls: Iterable[Numbered]) -> Iterator[tuple[int, list[bytes]]]:
    """(the midnight that ends it, its calls), days without calls too."""
    next_day: int | None = None
    for day, found in groupby(calls, key=_day):
        if next_day is not None and day < next_day:
            raise Unusable(f"calls of {ms_text(day * DAY)[:10]} come after later ones: sort them")
        for empty in range(day if next_day is None else next_day, day):
            yield (empty + 1) * DAY, []
        next_day = day + 1
        yield next_day * DAY, [value for *_, value in found]


def _day(call: Numbered) -> int:
    if call[1] is None:
        raise Unusable(f"line {call[0]} has no time that can be read")
    return call[1] // DAY


class _Partition:
    """The core over the log of the only partition."""

    def __init__(self, definition: Definition) -> None:
        self.function = Function(definition)
        self.watch = Watch(self.function)
        self.store = MemoryStore()
        self.models: dict[int, Model] = {}
        self.checkpoint = Checkpoint(0, 0, "quality")
        self._announced: list[bytes] = []

    @property
    def window(self) -> int:
        """The longest one, ms."""
        return self.function.layout.panes * self.function.layout.pane_ms

    def announce(self, record: ModelRecord) -> None:
        """The version counts before the next day's first call."""
        self.models[record.model] = Model(record)
        body = ModelActivated(version=record.model, digest=record.digest)
        self._announced.append(body.model_dump_json().encode())

    def work(self, values: list[bytes], until: int) -> list[Output]:
        """Compute the versions announced, some calls, and the clock's way to an instant."""
        clock = f'{{"time":"{ms_text(until)}"}}'.encode()
        all_values = [*self._announced, *values, clock]
        headers: list[Headers] = [_control("model")] * len(self._announced)
        headers += [None] * len(values) + [_control("clock")]
        size, self._announced = len(all_values), []
        offsets = range(self.checkpoint.offset, self.checkpoint.offset + size)
        held = Records(offsets, [APPENDED] * size, all_values, headers, [None] * size)
        outputs: list[Output] = []
        self.watch.clear()
        while len(held):
            done, found = self._batch(held)
            held, outputs = held.part(done), outputs + found
        return outputs

    def _batch(self, records: Records) -> tuple[int, list[Output]]:
        function, base = self.function, self.checkpoint
        decoded = function.decode(records, _WHERE)
        batch = function.gather(records, decoded, base, self.models, 10**9)
        _, due = self.store.due(0, function.due_minutes(batch))
        customers = function.touched(batch, base, due)
        there, blobs = self.store.load({0: customers})[0]
        outcome = function.step(batch, base, _WHERE, self.models, (customers, blobs))
        if not self.store.write([Write(0, None if there is None else there.position, outcome)]):
            raise AssertionError("the store stands elsewhere")
        self.checkpoint = outcome.checkpoint
        return batch.size, outcome.outputs

    def night(self, at: int) -> Night:
        layout, blobs = self.function.layout, self.store.states.get(0, {})
        customers = sorted(blobs)
        states = layout.unpack([blobs[c] for c in customers], customers)
        raw = self.watch.vectors(states, at)
        emitted = states["segment"].astype(np.int64)
        model = self.models.get(self.checkpoint.model)
        return Night(at, customers, raw, emitted, model, self.watch.seen())


def _control(kind: str) -> list[tuple[str, bytes | None]]:
    return [("ce_type", f"segstream.{kind}".encode())]


class Watch(Windows):
    """The core's windows, which also keeps the Vectors after events."""

    def __init__(self, function: Function) -> None:
        super().__init__(function.layout, function.fields)
        self._features, self._fields = function.features, len(function.fields)
        self._seen: list[Vectors] = []
        function.windows = self

    def clear(self) -> None:
        self._seen = []

    def advance(self, states: States, rows: Rows) -> tuple[dict[Term, Floats], int]:
        terms, cut = super().advance(states, rows)
        mine = np.flatnonzero(rows.event >= 0)
        in_order = mine[np.argsort(rows.event[mine])]
        after = {term: values[in_order] for term, values in terms.items()}
        self._seen.append(self._features.vectorize(after, len(in_order)))
        return terms, cut

    def seen(self) -> Vectors:
        if not self._seen:
            return np.zeros((0, len(self.definition.columns())), np.float32)
        return np.concatenate(self._seen)

    def vectors(self, states: States, at: int) -> Vectors:
        """Raw values of States at an instant, float32[n, d], as a tick would see them."""
        n = len(states)
        self.rotate(states, at // self.pane_ms)
        each, none = np.arange(n), np.full(n, -1)
        values = np.full((n, self._fields), np.nan)
        rows = Rows(each, each, each, np.full(n, at), none, none, none, values, at // self.pane_ms)
        terms, _ = super().advance(states, rows)
        return self._features.vectorize(terms, n)
