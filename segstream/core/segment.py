"""Hysteresis: which rows move their customer to another segment, and why.

Where nothing is compiled (`c/segment.c`): almost all customers are calm, every row's nearest
segment is their own and nothing is pending. They are recognised by arrays; Python walks the rows
of the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import astuple

from segstream.core import compiled
from segstream.core.batch import Ints
from segstream.core.config import Hysteresis
from segstream.core.expression import Floats
from segstream.core.model import Longs, Model
from segstream.core.state import States
from segstream.core.window import Bools, Rows

CAUSES = ("first", "behaviour", "time", "model")
RULES = (None, "clear", "held", "retired")


class Moves(NamedTuple):
    """Rows at which a customer's segment changed, as columns. Segment 0 is none."""

    row: list[int]
    left: list[int]
    entered: list[int]
    cause: list[str]
    rule: list[str | None]
    sequence: list[int]


class Decision(msgspec.Struct, gc=False):
    """The part of a State that decides, of one customer, while its rows are walked."""

    segment: int
    since: int
    stamp: int
    sequence: int
    pending: int
    pending_since: int


_FIELDS = Decision.__struct_fields__


def decide(
    states: States,
    rows: Rows,
    model: Model,
    distances: Floats,
    hysteresis: Hysteresis,
    nearest_under: Callable[[int, int], int],
) -> tuple[Moves, Bools]:
    """Evaluate all rows; changes the decision fields of `states` (one per group) in place.

    `distances` float64 [rows, segments]; `nearest_under(version, row)` is the segment nearest to
    a row's vector under an older version. Returns the moves, in the order of the rows, and which
    groups have changed.
    """
    walk = _Walk(model, hysteresis, nearest_under, distances)
    return walk.compiled(states, rows) if compiled.functions else walk.in_python(states, rows)


def _moves(rows: list[tuple[int, int, int, str, str | None, int]]) -> Moves:
    return Moves(*map(list, zip(*rows, strict=True))) if rows else Moves([], [], [], [], [], [])


class _Walk:
    """The rows of a span under the rules: compiled, or one after the other."""

    def __init__(
        self,
        model: Model,
        hysteresis: Hysteresis,
        nearest_under: Callable[[int, int], int],
        distances: Floats,
    ) -> None:
        self.model, self.hysteresis = model, hysteresis
        # texts of the settings: not to be read again for every row
        self.hold_ms, self.first_ms = hysteresis.hold_ms, hysteresis.first_ms
        self.nearest_under, self.distances = nearest_under, distances
        self.moves: list[tuple[int, int, int, str, str | None, int]] = []  # see Moves

    def compiled(self, states: States, rows: Rows) -> tuple[Moves, Bools]:
        """All rows, by `c/segment.c`."""
        functions: Any = compiled.functions
        fields = (states[field] for field in _FIELDS)
        h = self.hysteresis
        rules = (self.model.version, h.clear, h.held, self.hold_ms, self.first_ms)
        where = (rows.first, rows.at, rows.event, self.distances, self.model.ids)
        changed, moves = np.empty(len(states), bool), np.empty((len(rows.at), 6), np.int64)
        number = functions.decide(*fields, rules, self.nearest_under, *where, changed, moves)
        row, left, entered, cause, rule, sequence = moves[:number].T.tolist()
        causes, texts = [CAUSES[c] for c in cause], [RULES[r] for r in rule]
        return Moves(row, left, entered, causes, texts, sequence), changed

    def in_python(self, states: States, rows: Rows) -> tuple[Moves, Bools]:
        """All rows: by arrays those of who is calm, one by one those of the others."""
        nearest = self.model.nearest(self.distances)
        own = _positions(states["segment"], self.model)
        at_home = nearest == own[rows.group]
        calm = (
            np.logical_and.reduceat(at_home, rows.first) & (states["pending"] == 0)
            if len(rows.first)
            else np.zeros(0, bool)
        )
        changed = calm & (states["stamp"] != self.model.version)
        states["stamp"][changed] = self.model.version
        restless = np.flatnonzero(~calm)
        if not len(restless):
            return _moves([]), changed
        columns = (states[field][restless].tolist() for field in _FIELDS)
        decisions = [Decision(*values) for values in zip(*columns, strict=True)]
        touched = self.walk(decisions, restless, rows, nearest)
        groups = restless[touched]
        kept = [astuple(d) for d, t in zip(decisions, touched.tolist(), strict=True) if t]
        if kept:
            for field, values in zip(_FIELDS, zip(*kept, strict=True), strict=True):
                states[field][groups] = values
        changed[groups] = True
        return _moves(self.moves), changed

    def walk(self, decisions: list[Decision], groups: Ints, rows: Rows, nearest: Longs) -> Bools:
        """Apply the rows of some groups to their decisions; which of these have changed."""
        touched = np.zeros(len(groups), bool)
        which = np.full(len(rows.first), -1)
        which[groups] = np.arange(len(groups))
        which = which[rows.group]
        these = np.flatnonzero(which >= 0)
        place = (these, rows.at[these], rows.event[these] >= 0)
        places = zip(*(column.tolist() for column in place), strict=True)
        entered = self.model.ids[nearest[these]].tolist()
        for i, where, nearest_id in zip(which[these].tolist(), places, entered, strict=True):
            touched[i] |= self.evaluate(decisions[i], where, nearest_id)
        return touched

    def evaluate(self, d: Decision, place: tuple[int, int, bool], entered: int) -> bool:
        """Apply one row to a decision; whether anything changed.

        `place`: row, T in ms, whether it is an event. `entered`: the nearest segment's id.
        """
        if d.segment == entered:
            return self._stay(d)
        if d.segment == 0:
            return self._enter(d, place, entered)
        row, at, is_event = place
        cause = "behaviour" if is_event else "time"
        own = self.model.index.get(d.segment)
        if own is None:
            return self._move(d, place, entered, cause, "retired")
        there = float(self.distances[row, self.model.index[entered]])
        here = float(self.distances[row, own])
        if there <= self.hysteresis.clear * here:
            return self._move(d, place, entered, cause, "clear")
        if there > self.hysteresis.held * here:
            return self._forget_pending(d)
        if d.pending != entered:
            d.pending, d.pending_since = entered, at
            return True
        if at - d.pending_since >= self.hold_ms:
            return self._move(d, place, entered, cause, "held")
        return False

    def _enter(self, d: Decision, place: tuple[int, int, bool], entered: int) -> bool:
        """A newcomer's first deeds say little: who fills a basket has not ordered *yet*."""
        if self.first_ms:
            at = place[1]
            if d.pending == 0:
                d.pending, d.pending_since = entered, at
                return True
            if at - d.pending_since < self.first_ms:
                return False
        return self._move(d, place, entered, "first", None)

    def _stay(self, d: Decision) -> bool:
        stale = d.stamp != self.model.version
        d.stamp = self.model.version
        return self._forget_pending(d) or stale

    @staticmethod
    def _forget_pending(d: Decision) -> bool:
        had = d.pending != 0
        d.pending = d.pending_since = 0
        return had

    def _move(
        self,
        d: Decision,
        place: tuple[int, int, bool],
        entered: int,
        cause: str,
        rule: str | None,
    ) -> bool:
        row, at, _ = place
        # Would the version that last agreed with the current segment still agree? Then it was
        # not the customer who moved.
        version_changed = d.segment and d.stamp != self.model.version
        if version_changed and self.nearest_under(d.stamp, row) == d.segment:
            cause = "model"
        d.sequence += 1
        self.moves.append((row, d.segment, entered, cause, rule, d.sequence))
        d.segment, d.since, d.stamp = entered, at, self.model.version
        self._forget_pending(d)
        return True


def _positions(segments: Ints, model: Model) -> Ints:
    """Position of each segment id in the Model, −1 where it has none."""
    wanted = segments.astype(np.int64)
    position = np.minimum(np.searchsorted(model.ids, wanted), len(model.ids) - 1)
    return np.where(model.ids[position] == wanted, position, -1)
