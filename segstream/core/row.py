"""Which rows a span has: accepted events and ticks, in log order, and who is born and forgotten.

Everything is arrays over the events and customers of the batch; Python walks only the few
customers with a suspected duplicate, and births and departures.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from segstream.core import compiled
from segstream.core.batch import Batch, Ints, Span, minutes_of
from segstream.core.expression import MINUTE
from segstream.core.hash import level_of
from segstream.core.state import RING, Layout, States
from segstream.core.window import Bools, Hashes, Rows


@dataclass
class People:
    """The customers that a batch touches, and the partition's panel; changed span by span."""

    customers: list[str]
    states: States
    alive: Bools
    born: list[int]
    level: int
    capacity: int  # of the partition's panel
    dirty: Bools = field(init=False)
    above: int = field(init=False)  # customers with at least the partition's level

    def __post_init__(self) -> None:
        self.dirty = np.zeros(len(self.customers), bool)
        self.above = sum(self.born[self.level :])

    def birth(self, level: int) -> None:
        """Count a new customer; the panel's level rises where it would be too full."""
        self.born[level] += 1
        self.above += level >= self.level
        while self.above > self.capacity and self.level < 64:
            self.above -= self.born[self.level]
            self.level += 1

    def death(self, level: int) -> None:
        self.born[level] -= 1
        self.above -= level >= self.level


class Work(NamedTuple):
    """A batch and what it is computed on."""

    batch: Batch
    messages: Hashes  # uint64 [events]: hashes of the message ids
    people: People
    layout: Layout


class Ticks(NamedTuple):
    """Due ticks: whose, at which absolute minute, passed by which record."""

    code: Ints
    minute: Ints
    record: Ints


class SpanRows(NamedTuple):
    """The rows of a span and what else happens in it.

    `code` int64 [groups]: customer of each group. `record`, `minute` int64 [rows]: order of the
    rows in the log (minute −1: an event). `panel` int64 [rows]: the partition's level at a tick
    that is sampled, else −1. `forgotten`: (customer, record, minute, level then).
    """

    rows: Rows
    code: Ints
    record: Ints
    minute: Ints
    panel: Ints
    forgotten: list[tuple[int, int, int, int]]
    late: int
    duplicates: int


class Reborn(Exception):
    """A customer is forgotten and comes back within one span: the span must be cut there."""

    def __init__(self, record: int) -> None:
        self.record = record


def rows_of(span: Span, work: Work) -> SpanRows:
    """The rows of a span. Raises Reborn, before anything in `people` is changed."""
    events, late, duplicates = _accepted(span, work)
    code = work.batch.decoded.events.code[events]
    record = work.batch.decoded.events.record[events]
    newcomers, births = _newcomers(code, record, work.people)
    ticks = _ticks(span, work, newcomers, births)
    table = _table(code, record, events, ticks)
    table, panel, forgotten = _people(span, work, table, newcomers, births)
    rows, groups = _rows(table, span, work.batch)
    return SpanRows(rows, groups, table.record, table.minute, panel, forgotten, late, duplicates)


class _Table(NamedTuple):
    code: Ints
    record: Ints
    minute: Ints
    event: Ints

    def where(self, mask: Bools) -> "_Table":
        return _Table(*(column[mask] for column in self))


def _newcomers(code: Ints, record: Ints, people: People) -> tuple[Ints, Ints]:
    """Customers who come to life, and the record that each does with."""
    new = ~people.alive[code]
    if not new.any():
        return code[:0], record[:0]
    newcomers, at = np.unique(code[new], return_index=True)
    return newcomers, record[new][at]


def _table(code: Ints, record: Ints, events: Ints, ticks: Ticks) -> _Table:
    """Events and ticks, sorted by customer, then in log order."""
    minute = np.full(len(code), -1)
    if not len(ticks.code):
        order = np.argsort(code, kind="stable")
        return _Table(code[order], record[order], minute, events[order])
    code = np.concatenate([code, ticks.code])
    record = np.concatenate([record, ticks.record])
    minute = np.concatenate([minute, ticks.minute])
    events = np.concatenate([events, np.full(len(ticks.code), -1)])
    order = np.lexsort((minute, 2 * record + (minute < 0), code))
    return _Table(code[order], record[order], minute[order], events[order])


def _rows(table: _Table, span: Span, batch: Batch) -> tuple[Rows, Ints]:
    begins = np.ones(len(table.code), bool)
    np.not_equal(table.code[1:], table.code[:-1], out=begins[1:])
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(begins)) - 1
    group = np.cumsum(begins) - 1
    events, at = batch.decoded.events, batch.clock[table.record]
    is_tick = table.event < 0
    if len(events.record):
        time, kind = batch.times[table.event], events.kind[table.event]
        values = events.values[table.event]
    else:
        time = kind = table.event
        values = np.empty((len(group), events.values.shape[1]))
    if is_tick.any():
        at = np.where(is_tick, table.minute * MINUTE, at)
        time, kind = np.where(is_tick, -1, time), np.where(is_tick, -1, kind)
        values[is_tick] = np.nan
    rows = Rows(group, first, last, at, table.event, time, kind, values, span.pane)
    return rows, table.code[first]


def _accepted(span: Span, work: Work) -> tuple[Ints, int, int]:
    """Events of the span that are neither late nor duplicates, and how many are."""
    batch, messages, people, layout = work
    events = batch.decoded.events
    low, high = np.searchsorted(events.record, [span.start, span.stop]).tolist()
    all_events = np.arange(low, high)
    timely = batch.times[low:high] // layout.pane_ms > span.pane - layout.panes
    fresh = all_events[timely]
    repeated = _duplicates(events.code[fresh], messages[fresh], people)
    return fresh[~repeated], len(all_events) - len(fresh), int(repeated.sum())


def _duplicates(code: Ints, messages: Hashes, people: People) -> Bools:
    """Which events repeat one of the last 16 accepted ids of their customer."""
    repeated = np.zeros(len(code), bool)
    suspect = _suspects(people.states["ids"], code, messages)
    if suspect is None:
        return repeated
    for customer in np.unique(code[suspect]).tolist():
        mine = np.flatnonzero(code == customer)
        accepted = int(people.states["accepted"][customer])
        kept = people.states["ids"][customer].tolist()
        newest = [kept[i % RING] for i in range(max(0, accepted - RING), accepted)]
        known = deque(newest, RING)
        for row in mine.tolist():
            if (message := int(messages[row])) in known:
                repeated[row] = True
            else:
                known.append(message)
    return repeated


def _suspects(rings: Hashes, code: Ints, messages: Hashes) -> Bools | None:
    """Events with one of the latest ids of their customer, or one of the batch; None: no event."""
    if compiled.functions is not None:
        suspect = np.zeros(len(code), bool)
        return suspect if compiled.functions.suspects(rings, code, messages, suspect) else None
    suspect = (rings[code] == messages[:, None]).any(axis=1)
    # Both the customer and the id enter the key; a collision only makes a customer suspect.
    key = messages ^ (code.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    order = np.argsort(key, kind="stable")
    suspect[order[1:][key[order][1:] == key[order][:-1]]] = True
    return suspect if suspect.any() else None


def _ticks(span: Span, work: Work, newcomers: Ints, births: Ints) -> Ticks:
    """Every tick that falls into the span for those who live, or are born in it before."""
    batch, _, people, layout = work
    low, high = minutes_of(span)
    period = layout.definition.tick.minutes
    if low > high:
        nothing = np.zeros(0, np.int64)
        return Ticks(nothing, nothing, nothing)
    living = np.flatnonzero(people.alive)
    code = np.concatenate([living, newcomers])
    after = np.concatenate([np.full(len(living), low), batch.clock[births] // MINUTE + 1])
    minute = (people.states["hash"][code] % np.uint64(period)).astype(np.int64)
    minute = after + (minute - after) % period
    codes, minutes = [], []
    while len(code := code[minute <= high]):
        minute = minute[minute <= high]
        codes.append(code)
        minutes.append(minute)
        minute = minute + period
    due = np.concatenate(minutes) if minutes else np.zeros(0, np.int64)
    record = np.searchsorted(batch.clock, due * MINUTE, "left")
    return Ticks(np.concatenate(codes) if codes else due, due, record)


def _people(
    span: Span, work: Work, table: _Table, newcomers: Ints, births: Ints
) -> tuple[_Table, Ints, list[tuple[int, int, int, int]]]:
    """Births and departures in log order; which ticks count, and at which panel level.

    While there is no Model only ticks of the panel count, and the panel may shrink meanwhile.
    """
    people, is_tick = work.people, table.minute >= 0
    if not len(newcomers) and not is_tick.any():
        return table, np.full(len(is_tick), -1), []
    leaving = _leaving(table, people, work.layout)
    levels = {c: level_of(int(people.states["hash"][c])) for c in newcomers.tolist()}
    levels |= {c: level_of(int(people.states["hash"][c])) for c in leaving}
    _check_reborn(table, leaving, levels, span, work)
    moments: list[tuple[int, int, int, bytes, int]] = [
        (record, 1, 0, b"", code)
        for code, record in zip(newcomers.tolist(), births.tolist(), strict=True)
    ]
    moments += [
        (int(table.record[row]), 0, int(table.minute[row]), people.customers[c].encode(), c)
        for c, row in leaving.items()
    ]
    steps = [(-1, people.level)]  # (order key, level from then on)
    forgotten = []
    for record, is_birth, minute, _, code in sorted(moments):
        if is_birth:
            people.birth(levels[code])
            if people.level != steps[-1][1]:
                steps.append((2 * record + 1, people.level))
        elif span.model or levels[code] >= people.level:
            people.death(levels[code])
            forgotten.append((code, record, minute, people.level))
    keys = 2 * table.record + (table.minute < 0)
    at = np.searchsorted([key for key, _ in steps], keys, "right") - 1
    level = np.array([level for _, level in steps])[at]
    own = _levels(people.states["hash"][table.code]) if is_tick.any() else level
    panel = np.where(is_tick & (own >= level), level, -1)
    keep = ~is_tick | (panel >= 0) | bool(span.model)
    gone = {code for code, *_ in forgotten}
    for code in gone:
        keep[leaving[code] :] &= table.code[leaving[code] :] != code
    return table.where(keep), panel[keep], forgotten


def _leaving(table: _Table, people: People, layout: Layout) -> dict[int, int]:
    """Customers with a tick that comes two windows after their last event → its row."""
    limit = 2 * layout.panes * layout.pane_ms
    ticks = np.flatnonzero(table.minute >= 0)
    silent = table.minute[ticks] * MINUTE - people.states["last"][table.code[ticks]] >= limit
    leaving: dict[int, int] = {}
    for row in ticks[silent & people.alive[table.code[ticks]]].tolist():
        code = int(table.code[row])
        start = int(np.searchsorted(table.code, code))
        if code not in leaving and (table.event[start:row] < 0).all():
            leaving[code] = row
    return leaving


def _check_reborn(
    table: _Table, leaving: dict[int, int], levels: dict[int, int], span: Span, work: Work
) -> None:
    """Any event after the departure will do, even one that repeats an id: the ids go as well."""
    events = work.batch.decoded.events
    within = (events.record >= span.start) & (events.record < span.stop)
    records = []
    for code, row in leaving.items():
        if not span.model and levels[code] < work.people.level:
            continue
        after = within & (events.code == code) & (events.record >= table.record[row])
        records += events.record[after][:1].tolist()
    if records:
        raise Reborn(min(records))


def _levels(hashes: Hashes) -> Ints:
    """Leading zero bits of 64-bit hashes, int64 [n]."""
    left = hashes.copy()
    level = np.zeros(len(hashes), np.int64)
    for shift in (32, 16, 8, 4, 2, 1):
        small = left < (np.uint64(1) << np.uint64(64 - shift))
        level[small] += shift
        left[small] <<= np.uint64(shift)
    level[hashes == 0] = 64
    return level
