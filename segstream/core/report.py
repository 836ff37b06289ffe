"""What a batch has to say, in log order: changes, memberships, samples, markers, dead letters."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from msgspec import Raw

from segstream.core import forward, output
from segstream.core.batch import Batch, Ints, Position, Span, minutes_of
from segstream.core.event import Reject
from segstream.core.expression import MINUTE, Floats
from segstream.core.feature import Vectors
from segstream.core.forward import Stray
from segstream.core.hash import Partitioner, customer_hash, level_of
from segstream.core.model import Model
from segstream.core.output import (
    Change,
    Distance,
    EventRef,
    Header,
    Membership,
    Order,
    Output,
    Topic,
    encode,
    ms_text,
)
from segstream.core.row import SpanRows
from segstream.core.segment import Moves

DAY_MINUTES = 1_440


class Partition(NamedTuple):
    """Which partition of which topic is computed."""

    number: int
    partitions: int
    partitioner: Partitioner
    topic: str


class Evaluated(NamedTuple):
    """The rows of a span under their Model: raw vectors, coordinates, distances; [rows, …]."""

    model: Model
    found: SpanRows
    raw: Vectors
    space: Vectors
    distances: Floats


class Report:
    """Collects the outputs of one batch."""

    def __init__(
        self,
        partition: Partition,
        batch: Batch,
        models: Mapping[int, Model],
        customers: Sequence[str],
    ) -> None:
        self.partition, self.batch = partition, batch
        self.models, self.customers = models, customers
        self._source = output.source_header(partition.topic)
        self._outputs: list[Output] = []

    def outputs(self) -> list[Output]:
        """All of it, in the order of the log."""
        return sorted(self._outputs, key=attrgetter("order"))

    def changes(self, evaluated: Evaluated, moves: Moves) -> None:
        """A change and the membership after it, for each move."""
        if not moves.row:
            return
        model, found, row = evaluated.model, evaluated.found, np.array(moves.row)
        left = [model.index.get(segment, -1) for segment in moves.left]
        entered = [model.index[segment] for segment in moves.entered]
        reasons = output.reasons(model, evaluated.raw[row], evaluated.space[row], left, entered)
        refs = {s: self._segment(model, s) for s in {*moves.left, *moves.entered}}
        customers = [self.customers[c] for c in found.code[found.rows.group[row]].tolist()]
        times, version = output.ms_texts(found.rows.at[row]), repeat(model.version)
        changes = map(
            Change,
            customers,
            moves.sequence,
            [refs[segment] for segment in moves.left],
            [refs[segment] for segment in moves.entered],
            moves.cause,
            moves.rule,
            times,
            self._events(found.rows.event[row]),
            version,
            _distances(evaluated.distances[row], left, entered),
            reasons,
        )
        names = [model.names[segment] for segment in moves.entered]
        memberships = map(
            Membership, customers, moves.entered, names, times, times, version, moves.sequence
        )
        columns = (found.record[row], found.minute[row], found.rows.at[row])
        record, minute, at = (column.tolist() for column in columns)
        self._say_changes(record, minute, at, list(changes), map(encode, memberships))

    def _events(self, rows: Ints) -> list[EventRef | None]:
        """What is said of the events of some rows; of a tick, nothing."""
        messages, names = self.batch.decoded.events.messages, self.batch.decoded.events.names
        return [
            None if event < 0 else EventRef(messages[event].decode(), names[event])
            for event in rows.tolist()
        ]

    def forgotten(
        self, model: Model, customer: str, tick: tuple[int, int], segment: int, sequence: int
    ) -> None:
        """A customer left for good at a tick (record, minute): a change to null, and a null."""
        at, left, version = tick[1] * MINUTE, self._segment(model, segment), model.version
        what = (None, "forgotten", None, ms_text(at), None, version, None, None)
        change = Change(customer, sequence, left, *what)
        self._say_changes([tick[0]], [tick[1]], [at], [change], [None])

    def unsampled(self, customer: str, tick: tuple[int, int], level: int) -> None:
        """A panel customer was forgotten: a null sample."""
        hash64 = customer_hash(customer)
        if level_of(hash64) >= level:
            order = (tick[0], 0, tick[1], 0, customer.encode())
            self._say("samples", order, b"%016x" % hash64, None)

    def samples(
        self, found: SpanRows, rows: Ints, hashes: Sequence[int], vectors: Vectors, name: str
    ) -> None:
        """Raw vectors of panel customers at their ticks. `hashes`, `vectors`: of each of `rows`."""
        code = found.code[found.rows.group[rows]]
        columns = (code, found.panel[rows], found.minute[rows], found.record[rows])
        for vector, hash64, (code_, level, minute, record) in zip(
            output.numbers(vectors).tolist(),
            hashes,
            zip(*(c.tolist() for c in columns), strict=True),
            strict=True,
        ):
            customer = self.customers[code_]
            value = output.sample(self.partition.number, level, minute, name, vector)
            order = (record, 0, minute, 0, customer.encode())
            self._say("samples", order, b"%016x" % hash64, value)

    def day_markers(self, span: Span) -> None:
        """This partition's clock has passed these midnights."""
        first, last = minutes_of(span)
        for minute in range(-(-first // DAY_MINUTES) * DAY_MINUTES, last + 1, DAY_MINUTES):
            record = int(np.searchsorted(self.batch.clock, minute * MINUTE, "left"))
            value = output.day_marker(self.partition.number, self.partition.partitions, minute)
            order = (record, 0, minute, 1, b"")
            self._say("samples", order, b"day-%d" % self.partition.number, value)

    def dead_letters(self, rejects: Sequence[Reject]) -> None:
        """Records that are no valid events on their partition: as they came, with the reason."""
        records = self.batch.records
        topic = output.error("topic", self.partition.topic)
        partition = output.error("partition", str(self.partition.number))
        reasons = {text: output.error("reason", text) for text in {r.reason for r in rejects}}
        appended = {records.appended[r.record] for r in rejects}
        at = {ms: output.error("at", ms_text(ms)) for ms in appended}
        for record, reason, message, size in rejects:
            errors = [
                reasons[reason],
                output.error("message", message),
                topic,
                partition,
                output.error("offset", str(records.offsets[record])),
                at[records.appended[record]],
            ]
            key, value, headers = output.dead_letter(
                key=records.keys[record],
                value=records.values[record],
                headers=records.headers[record],
                errors=errors,
                size=size,
            )
            self._say("dead_letters", (record, 1, -1, 0, b""), key, value, headers)

    def forwarded(self, stray: Stray) -> None:
        """A call goes on to its own partition."""
        record, records = stray.record, self.batch.records
        headers = forward.headers_of(records.headers[record], ms_text(records.appended[record]))
        order: Order = (record, 1, -1, 0, b"")
        key, value = records.keys[record], records.values[record]
        self._say("events", order, key, value, headers, stray.partition)

    def _say_changes(
        self,
        record: list[int],
        minute: list[int],
        at: list[int],
        changes: list[Change],
        memberships: Iterable[bytes | None],
    ) -> None:
        """At rows (record, minute, T): the changes, and what is now so."""
        keys = [change.customer.encode() for change in changes]
        orders: list[Order] = [
            (r, int(m < 0), m, 0, k) for r, m, k in zip(record, minute, keys, strict=True)
        ]
        positions = list(map(self._position, orders, at))
        headers = [
            output.change_headers(self._ce_id(order, change.customer), self._source, key, change.at)
            for order, change, key in zip(orders, changes, keys, strict=True)
        ]
        number, values = self.partition.number, map(encode, changes)
        self._outputs += [
            Output("changes", number, *columns)
            for columns in zip(keys, values, headers, positions, orders, strict=True)
        ]
        self._outputs += [
            Output("memberships", number, key, value, [], position, order)
            for key, value, position, order in zip(
                keys, memberships, positions, orders, strict=True
            )
        ]

    def _ce_id(self, order: Order, customer: str) -> bytes:
        """Of a change: which it is among all of the topic."""
        record, is_event, minute, *_ = order
        ce_id = b"%d-%d" % (self.partition.number, self.batch.records.offsets[record])
        return ce_id if is_event else ce_id + b"-%d-%016x" % (minute, customer_hash(customer))

    def _say(
        self,
        topic: Topic,
        order: Order,
        key: bytes | None,
        value: bytes | None,
        headers: list[Header] | None = None,
        partition: int | None = None,
    ) -> None:
        record, is_event, minute = order[:3]
        position = self._position(
            order, int(self.batch.clock[record]) if is_event else minute * MINUTE
        )
        target = self.partition.number if partition is None else partition
        self._outputs.append(Output(topic, target, key, value, headers or [], position, order))

    def _position(self, order: Order, at: int) -> Position:
        """Up to where the log is computed with a row, at which the clock stands at T."""
        record, is_event = order[:2]
        if is_event:
            return Position(self.batch.records.offsets[record] + 1, at)
        return Position(self.batch.before(record), at)

    def _segment(self, model: Model, segment: int) -> Raw | None:
        """Id and name; a retired segment's name is that of the newest older version with it."""
        if segment == 0:
            return None
        if segment not in model.names:
            versions = (v for v in sorted(self.models, reverse=True) if v < model.version)
            model = next(m for m in map(self.models.__getitem__, versions) if segment in m.names)
        return output.segment_ref(segment, model.names[segment])


def _distances(distances: Floats, left: list[int], entered: list[int]) -> list[Distance]:
    """To the centres left and entered, of each row; left −1: none."""
    every = np.arange(len(distances))
    to = output.rounded(distances[every, entered])
    before = output.rounded(distances[every, left])  # whatever stands there for -1
    return [
        Distance(None if old < 0 else there, here)
        for old, there, here in zip(left, before.tolist(), to.tolist(), strict=True)
    ]
