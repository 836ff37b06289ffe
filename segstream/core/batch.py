"""Records → a batch: how far the clock goes, which minutes tick, and where the batch ends.

Nothing here looks at a State, so it can be done before the States are read.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from segstream.core.call import ClockControl, ModelControl
from segstream.core.config import Definition
from segstream.core.event import Decoded, Records, Reject
from segstream.core.expression import MINUTE
from segstream.core.forward import Stray

Ints = npt.NDArray[np.int64]

CAUSES = ("first", "behaviour", "time", "model", "forgotten")
OUTCOMES = (
    "valid",
    "duplicates",
    "late",
    "forwarded",
    "dead_letters",
    "control",
    "skewed",
    "saturated",
)


class Position(NamedTuple):
    """Up to where a partition is computed; compared in this order."""

    offset: int  # of the next record
    clock: int  # ms


class Checkpoint(msgspec.Struct, frozen=True):
    """What Redis `meta` holds of a partition, written together with its States.

    `born[level]` counts customers with a State by panel level; `level` is the partition's own.
    `segments` counts customers by segment id (as text, for JSON). `rebuilt_from`: offset from which
    an approximate new start has counted; None: everything follows from the whole log.
    """

    offset: int
    clock: int
    layout: str
    model: int = 0
    level: int = 0
    born: tuple[int, ...] = (0,) * 65
    customers: int = 0
    counts: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    changes: dict[str, int] = msgspec.field(default_factory=lambda: dict.fromkeys(CAUSES, 0))
    segments: dict[str, int] = {}
    rebuilt_from: int | None = None

    @property
    def position(self) -> Position:
        return Position(self.offset, self.clock)


class Span(NamedTuple):
    """A stretch of a batch with one pane and one active Model.

    Events of the records start ≤ r < stop; ticks of the minutes m with low ≤ m·60000 < high.
    """

    start: int
    stop: int
    low: int
    high: int
    pane: int
    model: int


class Batch(NamedTuple):
    """What is computed at once: `size` whole records, and perhaps a part of the next one's ticks.

    `clock` int64 [size or size + 1]: T after each record, and that of the part.
    `times` int64 [events]: the events' times, clamped to the append times.
    `start`: offset of the first record.
    """

    records: Records
    decoded: Decoded
    size: int
    clock: Ints
    times: Ints
    start: int
    spans: list[Span]
    rejects: list[Reject]
    strays: list[Stray]
    skewed: int
    end: Position

    def before(self, record: int) -> int:
        """The offset to go on from, before a record."""
        return self.records.offsets[record - 1] + 1 if record else self.start


def gather(
    records: Records,
    decoded: Decoded,
    checkpoint: Checkpoint,
    definition: Definition,
    digests: Mapping[int, str],
    max_ticks: int = 50_000,
) -> Batch:
    """Cut a batch from decoded records, so that it has about `max_ticks` ticks at most.

    `digests` are those of the Models at hand, by version.
    """
    period = definition.tick.minutes
    clock, times = _clocks(records, decoded, checkpoint.clock)
    previous = np.append(checkpoint.clock, clock)
    # Jump: a record that is more than a period ahead starts walking one period before its time.
    low = np.maximum(previous[:-1], clock - period * MINUTE)
    minutes = np.cumsum(clock // MINUTE - low // MINUTE)
    customers = checkpoint.customers + len(decoded.events.customers)
    allowed = max(1, max_ticks * period // max(customers, 1))
    size = int(np.searchsorted(minutes, allowed, "right"))
    clock_end = clock[:size]
    if size < len(records) and (left := allowed - (int(minutes[size - 1]) if size else 0)) > 0:
        part = (int(low[size]) // MINUTE + left) * MINUTE
        clock_end = np.append(clock_end, part)
    activations, unknown = _activations(decoded, checkpoint.model, digests, size)
    spans = _spans(clock_end, previous, low, size, checkpoint, activations, definition)
    events = int(np.searchsorted(decoded.events.record, size))
    offset = records.offsets[size - 1] + 1 if size else checkpoint.offset
    return Batch(
        records,
        decoded,
        size,
        clock_end,
        times,
        checkpoint.offset,
        spans,
        sorted([r for r in decoded.rejects if r.record < size] + unknown),
        [s for s in decoded.strays if s.record < size],
        int((decoded.events.time[:events] > times[:events]).sum()),
        Position(offset, int(clock_end[-1]) if len(clock_end) else checkpoint.clock),
    )


def due_minutes(batch: Batch, definition: Definition) -> list[int]:
    """Minutes of the tick period that the batch's ticks fall on, sorted."""
    period = definition.tick.minutes
    due: set[int] = set()
    for span in batch.spans:
        first, last = minutes_of(span)
        due.update(m % period for m in range(first, min(last, first + period - 1) + 1))
    return sorted(due)


def minutes_of(span: Span) -> tuple[int, int]:
    """First and last minute of a span's ticks; first > last: none."""
    return -(-span.low // MINUTE), (span.high - 1) // MINUTE


def _clocks(records: Records, decoded: Decoded, start: int) -> tuple[Ints, Ints]:
    """T after each record, and the events' clamped times."""
    appended = np.array(records.appended, np.int64)
    times = np.minimum(decoded.events.time, appended[decoded.events.record])
    moved = np.full(len(records), start, np.int64)
    moved[decoded.events.record] = times
    for record, control in decoded.controls:
        if isinstance(control, ClockControl):
            moved[record] = min(control.time, int(appended[record]))
    return np.maximum.accumulate(np.maximum(moved, start)), times


def _activations(
    decoded: Decoded, active: int, digests: Mapping[int, str], size: int
) -> tuple[dict[int, int], list[Reject]]:
    """Which records switch to which version, and the control records that name none at hand."""
    switches: dict[int, int] = {}
    unknown = []
    for record, control in decoded.controls:
        if record >= size or not isinstance(control, ModelControl):
            continue
        if digests.get(control.version) != control.digest:
            # Whether another version has the number is not said: a replay might know it by then.
            text = (
                f"model version {control.version} with digest {control.digest}: there is none, "
                "or it needs what this configuration does not measure"
            )
            unknown.append(Reject(record, "model", text))
        elif control.version > active:
            active = switches[record] = control.version
    return switches, unknown


def _spans(
    clock: Ints,
    previous: Ints,
    low: Ints,
    size: int,
    checkpoint: Checkpoint,
    activations: Mapping[int, int],
    definition: Definition,
) -> list[Span]:
    """Cut where the clock enters a pane, jumps, or a Model becomes active."""
    length = definition.pane.ms
    if not len(clock):
        return []
    previous, low = previous[: len(clock)], low[: len(clock)]
    breaks = (clock // length != previous // length) | (low > previous)
    breaks[list(activations)] = True
    spans: list[Span] = []
    start, model, at = 0, checkpoint.model, checkpoint.clock + 1
    pane = checkpoint.clock // length
    for r in np.flatnonzero(breaks).tolist():
        spans.append(Span(start, r, at, int(previous[r]) + 1, pane, model))
        start, model = r, activations.get(r, model)
        at = int(low[r]) + 1
        pane = int(clock[r]) // length
        for passed in range(at // length, pane):
            spans.append(Span(r, r, at, (passed + 1) * length, passed, model))
            at = (passed + 1) * length
    spans.append(Span(start, size, at, int(clock[-1]) + 1, pane, model))
    return [s for s in spans if s.start < s.stop or s.low < s.high]
