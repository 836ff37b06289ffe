"""The pure function of one partition. Read this file first.

    records ─ decode ─▶ events ─ gather ─▶ batch ─ (load States) ─ step ─▶ outcome

`step` walks the batch span by span (one pane, one active Model each): rows → windows → vectors →
distances → decisions. It never looks at a clock, and how the log is cut into batches, or by how
many workers it is read, changes nothing: `docs/semantics.md` says what is computed,
`tests/oracle.py` computes it a second time.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from segstream.core.batch import Batch, Checkpoint, Span, due_minutes, gather
from segstream.core.call import ModelControl
from segstream.core.config import Definition
from segstream.core.event import Decoded, Reader, Records
from segstream.core.expression import Floats, Term
from segstream.core.feature import Features
from segstream.core.field import Fields
from segstream.core.forward import library_of
from segstream.core.hash import customer_hash, level_of, message_hashes
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.report import Evaluated, Partition, Report
from segstream.core.row import People, Reborn, SpanRows, Work, rows_of
from segstream.core.segment import decide
from segstream.core.state import Layout, States
from segstream.core.window import Bools, Windows, accept

__all__ = ["Function", "Outcome", "Partition"]


class Outcome(NamedTuple):
    """What a batch leads to: State bytes to write, and records to publish in log order."""

    checkpoint: Checkpoint
    writes: dict[str, bytes]  # State of each customer
    deletes: list[str]
    indexed: list[tuple[int, str]]  # (minute of the period, customer): born
    unindexed: list[tuple[int, str]]  # forgotten
    outputs: list[Output]
    strays: dict[tuple[str, str], int]  # forwarded calls by (producer library, partitioner hint)


class Function:
    """Everything compiled from the Definition, once per process."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.fields = Fields(definition)
        self.reader = Reader(self.fields)
        self.layout = Layout(definition)
        self.windows = Windows(self.layout, self.fields)
        columns = definition.columns().values()
        self.features = Features(column.expression for column in columns)
        self.features_id = definition.features_id()

    def decode(self, records: Records, partition: Partition) -> Decoded:
        """Records → events, controls and rejects."""
        return self.reader.decode(
            records, partition.number, partition.partitions, partition.partitioner
        )

    def gather(
        self,
        records: Records,
        decoded: Decoded,
        checkpoint: Checkpoint,
        models: Mapping[int, Model],
        max_ticks: int = 50_000,
    ) -> Batch:
        """Events → a batch; see `batch.gather`. `models` hold every version that is named."""
        named = {c.version for _, c in decoded.controls if isinstance(c, ModelControl)}
        digests = {
            version: models[version].record.digest
            for version in named & models.keys()
            if models[version].features.terms <= self.windows.terms
        }
        return gather(records, decoded, checkpoint, self.definition, digests, max_ticks)

    def due_minutes(self, batch: Batch) -> list[int]:
        """Minutes of the period whose customers the batch ticks."""
        return due_minutes(batch, self.definition)

    def touched(self, batch: Batch, checkpoint: Checkpoint, due: Sequence[str]) -> list[str]:
        """Customers whose States the batch needs: those of its events, then those due."""
        if all(span.model == 0 for span in batch.spans):  # only the panel ticks
            due = [c for c in due if level_of(customer_hash(c)) >= checkpoint.level]
        return list(dict.fromkeys([*batch.decoded.events.customers, *due]))

    def step(
        self,
        batch: Batch,
        checkpoint: Checkpoint,
        partition: Partition,
        models: Mapping[int, Model],
        states: tuple[Sequence[str], Sequence[bytes | None]],
    ) -> Outcome:
        """Compute a batch. `states`: what `touched` asked for, and the bytes of each (or None)."""
        return _Step(self, batch, checkpoint, partition, models, states).run()


class _Step:
    """One batch under way: the customers' States, and what has been said so far."""

    def __init__(
        self,
        function: Function,
        batch: Batch,
        checkpoint: Checkpoint,
        partition: Partition,
        models: Mapping[int, Model],
        states: tuple[Sequence[str], Sequence[bytes | None]],
    ) -> None:
        customers, blobs = states
        self.function, self.layout, self.windows = function, function.layout, function.windows
        self.batch, self.checkpoint = batch, checkpoint
        self.partition, self.models = partition, models
        self.single = len(batch.spans) == 1
        self.existed = np.array([blob is not None for blob in blobs], bool)
        self.people = People(
            list(customers),
            self.layout.unpack(blobs, customers),
            self.existed.copy(),
            list(checkpoint.born),
            checkpoint.level,
            max(1, function.definition.panel.size // partition.partitions),
        )
        hashes = message_hashes(batch.decoded.events.messages)
        self.work = Work(batch, hashes, self.people, self.layout)
        self.counts = dict(checkpoint.counts)
        self.changes = dict(checkpoint.changes)
        self.segments = dict(checkpoint.segments)
        self.report = Report(partition, batch, models, self.people.customers)

    def run(self) -> Outcome:
        for span in self.batch.spans:
            self.span(span)
        self.forward()
        self.dead_letters()
        return self.outcome()

    # -- one span ---------------------------------------------------------------------

    def span(self, span: Span) -> None:
        """Evaluate a stretch of the log with one pane and one active Model."""
        try:
            found = rows_of(span, self.work)
        except Reborn as cut:
            self.single = False
            clock = int(self.batch.clock[cut.record])
            self.span(span._replace(stop=cut.record, high=clock + 1))
            self.span(span._replace(start=cut.record, low=clock + 1))
            return
        if len(found.code):
            self.evaluate(span, found)
        for forgotten in found.forgotten:
            self.forget(span, *forgotten)
        self.report.day_markers(span)
        self.count("late", found.late)
        self.count("duplicates", found.duplicates)

    def evaluate(self, span: Span, found: SpanRows) -> None:
        """Rows → windows → vectors → distances → decisions; then the States as they are after."""
        rows, people = found.rows, self.people
        # A copy: ticks that decide nothing leave no trace. Where nothing follows there is none
        # anyway, for only who has changed is written.
        whole = self.single and len(found.code) == len(people.customers)
        states = people.states if whole else people.states[found.code]
        self.windows.rotate(states, span.pane)
        terms, saturated = self.windows.advance(states, rows)
        self.count("saturated", saturated)
        events = accept(states, rows, self.work.messages)
        self.count("valid", events.sum())
        changed = accepted = events > 0
        if span.model:
            changed = changed | self.decide(span, found, states, terms)
        self.samples(found, states, terms)
        if not whole:
            people.states[found.code[changed]] = states[changed]
        people.dirty[found.code[changed]] = True
        people.alive[found.code[accepted]] = True

    def decide(
        self, span: Span, found: SpanRows, states: States, terms: dict[Term, Floats]
    ) -> Bools:
        """Nearest segments and hysteresis; which groups have changed."""
        model, rows = self.models[span.model], found.rows
        raw = model.features.vectorize(terms, len(rows.at))
        space = model.coordinates(raw)
        distances = model.distances(space)

        def nearest_under(version: int, row: int) -> int:
            old = self.models[version]
            one = old.features.vectorize({t: v[row : row + 1] for t, v in terms.items()}, 1)
            return int(old.ids[old.nearest(old.distances(old.coordinates(one)))[0]])

        moves, changed = decide(
            states, rows, model, distances, self.function.definition.hysteresis, nearest_under
        )
        self.report.changes(Evaluated(model, found, raw, space, distances), moves)
        for cause, number in Counter(moves.cause).items():
            self.changes[cause] += number
        for (left, entered), number in Counter(zip(moves.left, moves.entered, strict=True)).items():
            self.move_count(left, entered, number)
        return changed

    def samples(self, found: SpanRows, states: States, terms: dict[Term, Floats]) -> None:
        """The raw vectors of panel customers at their ticks."""
        rows = np.flatnonzero(found.panel >= 0)
        if not len(rows):
            return
        some = {term: values[rows] for term, values in terms.items()}
        vectors = self.function.features.vectorize(some, len(rows))
        hashes = states["hash"][found.rows.group[rows]].tolist()
        self.report.samples(found, rows, hashes, vectors, self.function.features_id)

    def forget(self, span: Span, code: int, record: int, minute: int, level: int) -> None:
        """A customer silent for two windows leaves: null records, State deleted."""
        people = self.people
        state, customer = people.states[code], people.customers[code]
        segment, sequence = int(state["segment"]), int(state["sequence"]) + 1
        if segment:
            model = self.models[span.model]
            self.report.forgotten(model, customer, (record, minute), segment, sequence)
            self.changes["forgotten"] += 1
            self.move_count(segment, 0)
        self.report.unsampled(customer, (record, minute), level)
        people.alive[code] = people.dirty[code] = False
        self.layout.reset(people.states, np.array([code]))

    def forward(self) -> None:
        """The calls of customers of other partitions."""
        self.count("forwarded", len(self.batch.strays))
        for stray in self.batch.strays:
            self.report.forwarded(stray)

    def dead_letters(self) -> None:
        """The records that are no valid events on their partition."""
        batch = self.batch
        controls = {record for record, _ in batch.decoded.controls if record < batch.size}
        controls |= {r.record for r in batch.rejects if r.reason == "control"}
        self.count("control", len(controls))
        self.count("dead_letters", sum(r.record not in controls for r in batch.rejects))
        self.report.dead_letters(batch.rejects)

    # -- what is counted --------------------------------------------------------------

    def count(self, outcome: str, number: int) -> None:
        self.counts[outcome] += int(number)

    def move_count(self, left: int, entered: int, number: int = 1) -> None:
        for segment, more in ((left, -number), (entered, number)):
            if segment:
                self.segments[str(segment)] = self.segments.get(str(segment), 0) + more
                if not self.segments[str(segment)]:
                    del self.segments[str(segment)]

    def outcome(self) -> Outcome:
        people, period, batch = self.people, self.function.definition.tick.minutes, self.batch

        def named(mask: Bools) -> list[tuple[int, str]]:
            if not mask.any():
                return []
            codes = np.flatnonzero(mask)
            minutes = (people.states["hash"][codes] % np.uint64(period)).tolist()
            return [(m, people.customers[i]) for m, i in zip(minutes, codes.tolist(), strict=True)]

        written = np.flatnonzero(people.dirty & people.alive)
        gone = self.existed & ~people.alive
        blobs = self.layout.pack(people.states, written)
        self.count("skewed", self.batch.skewed)
        checkpoint = msgspec.structs.replace(
            self.checkpoint,
            offset=self.batch.end.offset,
            clock=self.batch.end.clock,
            model=self.batch.spans[-1].model if self.batch.spans else self.checkpoint.model,
            level=people.level,
            born=tuple(people.born),
            customers=sum(people.born),
            counts=self.counts,
            changes=self.changes,
            segments=dict(sorted(self.segments.items())),  # equal bytes, however it was cut
        )
        return Outcome(
            checkpoint,
            dict(zip(map(people.customers.__getitem__, written.tolist()), blobs, strict=True)),
            [people.customers[i] for i in np.flatnonzero(gone).tolist()],
            named(~self.existed & people.alive),
            named(gone),
            self.report.outputs(),
            Counter((library_of(batch.records.values[s.record]), s.hint) for s in batch.strays),
        )
