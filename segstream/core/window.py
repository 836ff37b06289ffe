"""Rolling windows: what the events of a span do to the customers' States.

Windows are rings of fixed UTC panes: slot = pane mod W, one ring per measure, integers only, so
that sums do not depend on their order. A ring stands at a pane P and holds the panes P−W+1 … P;
moving it on clears the slots of the panes that were passed.
"""

from datetime import date
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segstream.core import compiled
from segstream.core.batch import Ints
from segstream.core.expression import Floats, Is, Recency, Term, Value, Window
from segstream.core.field import Fields
from segstream.core.state import RING, Layout, States
from segstream.core.units import exact_units, minor_units

DAY_MS = 86_400_000
_TIME_BITS = 43  # ms until the year 2248 fit

Bools = npt.NDArray[np.bool_]
Hashes = npt.NDArray[np.uint64]


class Rows(NamedTuple):
    """Rows of one span, sorted by customer, in log order within each.

    A row is an accepted event or a tick. All arrays have one entry per row, except `first`
    and `last`: the first and last row of each group (one group per customer).
    """

    group: Ints  # group of the row
    first: Ints  # [groups]
    last: Ints  # [groups]
    at: Ints  # T, ms
    event: Ints  # position among the batch's events; -1 for ticks
    time: Ints  # the event's clamped time, ms; -1 for ticks
    kind: Ints  # as in Reader; -1 for ticks
    values: Floats  # [rows, fields]
    pane: int  # of T, the same for all rows


def accept(states: States, rows: Rows, messages: Hashes) -> Ints:
    """Note the events of the rows in the States (one per group), in place.

    `messages` uint64: the hash of each event's id. Returns how many each group has.
    """
    if compiled.functions is not None:
        total = np.empty(len(states), np.int64)
        heads = (states["ids"], states["accepted"], states["last"])
        compiled.functions.accept(*heads, rows.first, rows.event, rows.time, messages, total)
        return total
    events = np.flatnonzero(rows.event >= 0)
    group = rows.group[events]
    total = np.bincount(group, minlength=len(states))
    order = np.arange(len(events)) - (np.cumsum(total) - total)[group]
    kept = total[group] - order <= RING  # of more than a ring, only the newest
    place = (states["accepted"][group].astype(np.int64) + order) % RING
    ids = messages[rows.event[events]]
    states["ids"][group[kept], place[kept]] = ids[kept]
    states["accepted"] += total.astype(np.uint32)
    states["last"] = running_latest(rows, rows.time, states["last"])[rows.last]
    return total


class Windows:
    """How events move the windows of a Layout. Compiled from the Definition; immutable."""

    def __init__(self, layout: Layout, fields: Fields) -> None:
        self.layout, self.definition = layout, layout.definition
        self.panes, self.pane_ms = layout.panes, layout.pane_ms
        windows = [t for t in layout.terms if isinstance(t, Window)]
        self._windows = {
            name: [(t, t.length // self.pane_ms) for t in windows if t.measure == name]
            for name in {t.measure for t in windows}
        }
        self._choices = {
            name: [Is(name, value) for value in trait.values]
            for name, trait in self.definition.traits.items()
        }
        self.terms = layout.terms | {Value(name) for name in layout.lasts}
        self.terms |= {choice for choices in self._choices.values() for choice in choices}
        """All that `advance` computes."""
        self._compile_sources(fields)
        self._plans = {block: self._plan(layout.blocks[block]) for block in ("counts", "sums")}

    def _plan(self, names: list[str]) -> "_Plan":
        found = [(i, name, *w) for i, name in enumerate(names) for w in self._windows[name]]
        windows = np.array([(i, length) for i, _, _, length in found], np.int64)
        units = np.array([self._unit(name) for _, name, _, _ in found], np.float64)
        takes = np.array([self._takes[name] for name in names])
        return _Plan(takes, [term for _, _, term, _ in found], windows, units)

    def _compile_sources(self, fields: Fields) -> None:
        """Which kinds of events reach which measure, and with which field."""

        def kinds_of(name: str) -> list[int]:
            if name in self.definition.traits:
                return [fields.kinds["identify", ""]]
            measure = self.definition.measures[name]
            keys = [("track", event) for event in measure.events]
            keys += [(call, "") for call in measure.calls]
            return [fields.kinds[key] for key in keys]

        size = len(fields.kinds) + 2  # the last entry is kind -1: ticks
        names = {name for block in self.layout.blocks.values() for name in block}
        self._takes: dict[str, Bools] = {}
        for name in names:
            takes = np.zeros(size, bool)
            takes[kinds_of(name)] = True
            self._takes[name] = takes
        numbers = fields.number_of.items()
        self._field = {name: n for (section, name), n in numbers if section != "money"}
        self._money = {name: n for (section, name), n in numbers if section == "money"}
        money = self.definition.money
        tables = sorted(money.rates.items()) if money is not None else []
        self._rates = [
            ((day - date(1970, 1, 1)).days * DAY_MS, [Decimal(repr(t[c])) for c in sorted(t)])
            for day, t in tables
        ]

    def rotate(self, states: States, pane: int) -> None:
        """Move the rings on to a pane, in place; slots of the panes passed become 0."""
        behind = pane - states["pane"]
        if not behind.any():
            return
        states["pane"] = pane
        there = [name for name in ("counts", "sums", "bits") if self.layout.blocks[name]]
        if compiled.functions is not None:
            for name in there:
                compiled.functions.rotate(states[name], behind, pane)
            return
        age = (pane - np.arange(self.panes)) % self.panes
        kept = age[None, :] >= behind[:, None]
        for name in there:
            states[name] *= kept[:, None, :]

    def advance(self, states: States, rows: Rows) -> tuple[dict[Term, Floats], int]:
        """Add the events of the rows to the States (one per group, rotated), in place.

        Returns every term's value after each row, float64 [rows], NaN = missing, and how many
        values were cut off because a pane was full.
        """
        terms: dict[Term, Floats] = {}
        pane_of = rows.time // self.pane_ms
        cells = _Cells(pane_of % self.panes, rows.pane - pane_of, rows.pane % self.panes)
        cut = 0
        for block in ("counts", "sums"):
            if self.layout.blocks[block]:
                cut += self._sums(terms, block, states[block], rows, cells)
        for i, name in enumerate(self.layout.bits):
            self._distinct(terms, name, states["bits"][:, i], rows, cells)
        for i, name in enumerate(self.layout.recencies):
            seen = states["seen"][:, i]
            at = running_latest(rows, np.where(self._reaches(name, rows), rows.time, -1), seen)
            terms[Recency(name)] = np.where(at < 0, np.nan, (rows.at - at) / DAY_MS)
            seen[:] = at[rows.last]
        for i, name in enumerate(self.layout.lasts):
            self._last(terms, name, states["lasts"][:, i], states["lasts_at"][:, i], rows)
        return terms, cut

    def _latest(self, ring: Ints, length: int, pane: int) -> Ints:
        """The slots of the latest panes, [groups, length], in any order."""
        return ring if length == self.panes else ring[:, (pane - np.arange(length)) % self.panes]

    def _reaches(self, name: str, rows: Rows) -> Bools:
        return self._takes[name][rows.kind]

    def _sums(
        self, terms: dict[Term, Floats], block: str, rings: Ints, rows: Rows, cells: "_Cells"
    ) -> int:
        """Counts or sums: their windows after each row, and their rings after the last one."""
        names = self.layout.blocks[block]
        if compiled.functions is None:
            parts = enumerate(names)
            return sum(self._sum(terms, name, rings[:, i], rows, cells) for i, name in parts)
        plan = self._plans[block]
        reaches = plan.takes.take(rows.kind, axis=1)
        added = reaches.astype(np.int64)
        if block == "sums":
            for i in np.flatnonzero(reaches.any(axis=1)).tolist():
                added[i] = self._added(names[i], reaches[i], rows)
        sums = np.empty((len(plan.terms), len(rows.at)))
        where = (cells.now, rows.first, cells.slot, cells.age)
        cut: int = compiled.functions.advance(rings, *where, added, plan.windows, plan.units, sums)
        terms.update(zip(plan.terms, sums, strict=True))
        return cut

    def _unit(self, name: str) -> int:
        """How many of the ring's units are one of a count or sum."""
        measure = self.definition.measures[name]
        return 1 if measure.kind == "count" else 10**measure.decimals

    def _sum(
        self,
        terms: dict[Term, Floats],
        name: str,
        ring: Ints,
        rows: Rows,
        cells: "_Cells",
    ) -> int:
        """A count or sum: its windows after each row, and its ring after the last one."""
        unit = self._unit(name)
        before = {
            term: self._latest(ring, length, rows.pane).sum(axis=1, dtype=np.int64)[rows.group]
            for term, length in self._windows[name]
        }
        reaches = self._reaches(name, rows)
        if not reaches.any():  # few events reach few measures
            terms.update({term: total / unit for term, total in before.items()})
            return 0
        added, cut = _fitting(ring, rows, cells, self._added(name, reaches, rows))
        for term, length in self._windows[name]:
            within = added if length == self.panes else np.where(cells.age < length, added, 0)
            terms[term] = (before[term] + running_sum(rows, within)) / unit
        now = np.add.reduceat(np.where(cells.age == 0, added, 0), rows.first)
        ring[:, cells.now] += now.astype(ring.dtype)
        late = np.flatnonzero((cells.age != 0) & (added != 0))
        np.add.at(ring, (rows.group[late], cells.slot[late]), added[late].astype(ring.dtype))
        return cut

    def _added(self, name: str, reaches: Bools, rows: Rows) -> Ints:
        """What each row adds, in whole units of the ring."""
        measure = self.definition.measures[name]
        if measure.kind == "count":
            return reaches.astype(np.int64)
        values = np.where(reaches, rows.values[:, self._field[name]], np.nan)
        added = minor_units(values, measure.decimals)
        if measure.money:
            self._convert(name, values, rows, added)
        return added

    def _convert(self, name: str, values: Floats, rows: Rows, added: Ints) -> None:
        """Replace amounts in other currencies by their worth in the base one, in place."""
        currency = rows.values[:, self._money[name]]
        decimals = self.definition.measures[name].decimals
        for row in np.flatnonzero((currency > 0) & ~np.isnan(values)).tolist():
            after = [t for start, t in self._rates if start <= rows.time[row]]
            rate = (after or [self._rates[0][1]])[-1][int(currency[row]) - 1]
            added[row] = exact_units(float(values[row]), decimals, rate)

    def _distinct(
        self,
        terms: dict[Term, Floats],
        name: str,
        ring: Ints,
        rows: Rows,
        cells: "_Cells",
    ) -> None:
        """How many of the declared values occurred, one bit per value and pane."""
        position = np.where(self._reaches(name, rows), rows.values[:, self._field[name]], np.nan)
        for term, length in self._windows[name]:
            before = np.bitwise_or.reduce(self._latest(ring, length, rows.pane), axis=1)
            total = np.zeros(len(rows.at))
            for value in range(len(self.definition.measures[name].values)):
                had = (before >> np.array(value, ring.dtype)) & np.array(1, ring.dtype)
                has = (position == value) & (cells.age < length)
                total += (had[rows.group] != 0) | (running_sum(rows, has.astype(np.int64)) > 0)
            terms[term] = total
        events = np.flatnonzero(~np.isnan(position))
        bit = np.left_shift(np.array(1, ring.dtype), position[events].astype(ring.dtype))
        np.bitwise_or.at(ring, (rows.group[events], cells.slot[events]), bit)

    def _last(
        self,
        terms: dict[Term, Floats],
        name: str,
        kept: Floats,
        kept_at: Ints,
        rows: Rows,
    ) -> None:
        """The value with the greatest (time, offset); rows come in the order of offsets."""
        value = rows.values[:, self._field[name]]
        time = np.where(self._reaches(name, rows) & ~np.isnan(value), rows.time, -1)
        at = running_latest(rows, time, kept_at)
        number = np.arange(len(time))
        newest = np.maximum.accumulate(np.where((time >= 0) & (time == at), number, -1))
        here = newest >= rows.first[rows.group]
        result = np.where(here, value[newest], kept[rows.group])
        terms[Value(name)] = np.where(at < 0, np.nan, result)
        for choice in self._choices.get(name, ()):
            position = self.definition.traits[name].values.index(choice.value)
            terms[choice] = np.where(at < 0, np.nan, (result == position) * 1.0)
        kept[:], kept_at[:] = result[rows.last], at[rows.last]


class _Plan(NamedTuple):
    """The counts or the sums. `takes` bool [measures, kinds]: which events reach them. Their
    windows, by measure: `terms`; `windows` int64 [n, 2]: position of the measure, length in panes;
    `units` float64 [n]: what the sum is divided by."""

    takes: Bools
    terms: list[Term]
    windows: Ints
    units: Floats


class _Cells(NamedTuple):
    """Where the rows' events fall in the rings."""

    slot: Ints
    age: Ints  # panes between the event's pane and the row's; 0 = the current one
    now: int  # slot of the current pane


def running_sum(rows: Rows, values: Ints) -> Ints:
    """Sum of the values up to and including each row, within its group."""
    total = np.cumsum(values)
    start = total[rows.first] - values[rows.first]
    return np.asarray(total - start[rows.group])


def running_latest(rows: Rows, times: Ints, start: Ints) -> Ints:
    """Greatest of the group's start and the times up to and including each row; -1 = none."""
    # One accumulate for all groups: the group in the upper bits keeps them apart.
    base = rows.group << _TIME_BITS
    latest = np.maximum.accumulate(base + np.maximum(times, start[rows.group]) + 1)
    return np.asarray(latest - base - 1)


def _fitting(ring: Ints, rows: Rows, cells: _Cells, added: Ints) -> tuple[Ints, int]:
    """What of each added value still fits into its pane, in log order; how many were cut."""
    limit = 2 ** (8 * ring.dtype.itemsize) - 1
    there = ring[rows.group, cells.slot].astype(np.int64)
    if int(there.max(initial=0)) + int(added.sum()) <= limit:
        return added, 0
    cell = rows.group * len(ring[0]) + cells.slot
    order = np.argsort(cell, kind="stable")
    firsts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    total = np.cumsum(added[order])
    group = np.repeat(np.arange(len(firsts)), np.diff(firsts, append=len(order)))
    total -= (total[firsts] - added[order][firsts])[group]
    after = np.minimum(there[order] + total, limit)
    before = np.minimum(there[order] + total - added[order], limit)
    fitting = np.empty_like(added)
    fitting[order] = after - before
    return fitting, int((fitting != added).sum())
