"""Hysteresis: which rows move their customer to another segment, and why.

Almost all customers are calm: every row's nearest segment is their own and nothing is pending.
They are recognised by arrays; Python walks the rows of the others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from segstream.core.batch import Ints
from segstream.core.config import Hysteresis
from segstream.core.expression import Floats
from segstream.core.model import Model
from segstream.core.window import Bools, Rows, States


class Move(NamedTuple):
    """A row at which a customer's segment changed. Segment 0 is none."""

    row: int
    group: int
    left: int
    entered: int
    cause: str
    rule: str | None
    since: int
    sequence: int


class Decision:
    """The part of a State that decides, of one customer, while its rows are walked."""

    __slots__ = ("pending", "pending_since", "segment", "sequence", "since", "stamp")

    def __init__(self, state: Any) -> None:
        for name in self.__slots__:
            setattr(self, name, int(state[name]))

    def store(self, state: Any) -> None:
        for name in self.__slots__:
            state[name] = getattr(self, name)

    segment: int
    pending: int
    pending_since: int
    stamp: int
    since: int
    sequence: int


def decide(
    states: States,
    rows: Rows,
    model: Model,
    distances: Floats,
    hysteresis: Hysteresis,
    nearest_under: Callable[[int, int], int],
) -> tuple[list[Move], Bools]:
    """Evaluate all rows; changes the decision fields of `states` (one per group) in place.

    `distances` float64 [rows, segments]; `nearest_under(version, row)` is the segment nearest to
    a row's vector under an older version. Returns the moves, in the order of the rows, and which
    groups have changed.
    """
    nearest = model.nearest(distances)
    own = _positions(states["segment"], model)
    at_home = nearest == own[rows.group]
    calm = (
        np.logical_and.reduceat(at_home, rows.first) & (states["pending"] == 0)
        if len(rows.first)
        else np.zeros(0, bool)
    )
    stale = states["stamp"] != model.version
    changed = calm & stale
    states["stamp"][changed] = model.version
    moves: list[Move] = []
    walk = _Walk(model, hysteresis, nearest_under, moves)
    for group in np.flatnonzero(~calm).tolist():
        decision = Decision(states[group])
        touched = False
        for row in range(int(rows.first[group]), int(rows.last[group]) + 1):
            at, is_event = int(rows.at[row]), rows.event[row] >= 0
            near = int(nearest[row])
            touched |= walk.evaluate(
                decision, (row, group), at, bool(is_event), distances[row], near
            )
        if touched:
            decision.store(states[group])
            changed[group] = True
    return moves, changed


class _Walk:
    """The rules, for one row at a time."""

    def __init__(
        self,
        model: Model,
        hysteresis: Hysteresis,
        nearest_under: Callable[[int, int], int],
        moves: list[Move],
    ) -> None:
        self.model, self.hysteresis = model, hysteresis
        # texts of the settings: not to be read again for every row
        self.hold_ms, self.first_ms = hysteresis.hold_ms, hysteresis.first_ms
        self.nearest_under, self.moves = nearest_under, moves

    def evaluate(
        self,
        d: Decision,
        place: tuple[int, int],
        at: int,
        is_event: bool,
        distances: Floats,
        near: int,
    ) -> bool:
        """Apply one row to a decision; whether anything changed."""
        entered = int(self.model.ids[near])
        own = self.model.index.get(d.segment)
        if d.segment and entered == d.segment:
            return self._stay(d)
        if d.segment == 0:
            return self._enter(d, place, at, entered)
        cause = "behaviour" if is_event else "time"
        if own is None:
            return self._move(d, place, at, entered, cause, "retired")
        there, here = float(distances[near]), float(distances[own])
        if there <= self.hysteresis.clear * here:
            return self._move(d, place, at, entered, cause, "clear")
        if there > self.hysteresis.held * here:
            return self._forget_pending(d)
        if d.pending != entered:
            d.pending, d.pending_since = entered, at
            return True
        if at - d.pending_since >= self.hold_ms:
            return self._move(d, place, at, entered, cause, "held")
        return False

    def _enter(self, d: Decision, place: tuple[int, int], at: int, entered: int) -> bool:
        """A newcomer's first deeds say little: who fills a basket has not ordered *yet*."""
        if self.first_ms:
            if d.pending == 0:
                d.pending, d.pending_since = entered, at
                return True
            if at - d.pending_since < self.first_ms:
                return False
        return self._move(d, place, at, entered, "first", None)

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
        place: tuple[int, int],
        at: int,
        entered: int,
        cause: str,
        rule: str | None,
    ) -> bool:
        row, group = place
        # Would the version that last agreed with the current segment still agree? Then it was
        # not the customer who moved.
        version_changed = d.segment and d.stamp != self.model.version
        if version_changed and self.nearest_under(d.stamp, row) == d.segment:
            cause = "model"
        d.sequence += 1
        self.moves.append(Move(row, group, d.segment, entered, cause, rule, d.since, d.sequence))
        d.segment, d.since, d.stamp = entered, at, self.model.version
        self._forget_pending(d)
        return True


def _positions(segments: Ints, model: Model) -> Ints:
    """Position of each segment id in the Model, −1 where it has none."""
    wanted = segments.astype(np.int64)
    position = np.minimum(np.searchsorted(model.ids, wanted), len(model.ids) - 1)
    return np.where(model.ids[position] == wanted, position, -1)
