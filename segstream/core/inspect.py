"""One customer's State, read back: windows, vector, segment, and how far the next one is."""

from typing import Any, NamedTuple

import numpy as np

from segstream.core.expression import Floats, Is, Recency, Term, Value, Window
from segstream.core.hash import level_of
from segstream.core.model import Model
from segstream.core.output import number
from segstream.core.step import Function
from segstream.core.window import Rows

_DAY = 86_400_000


class Portrait(NamedTuple):
    """What is known of a customer at an instant (ms). Segment 0 is none."""

    at: int
    last: int
    segment: int
    since: int
    pending: int
    pending_since: int
    sequence: int
    stamp: int
    level: int
    minute: int  # of the tick period
    accepted: int
    terms: dict[str, float | None]
    vector: dict[str, float | None]
    distances: dict[int, float]


def portrait(
    function: Function, customer: str, blob: bytes, at: int, model: Model | None
) -> Portrait:
    """Evaluate a State at an instant, as a tick would."""
    layout, windows = function.layout, function.windows
    states = layout.unpack([blob], [customer])
    state: Any = states[0]
    windows.rotate(states, at // layout.pane_ms)
    terms, _ = windows.advance(states, _tick(at, layout.pane_ms, len(function.fields)))
    raw = function.features.vectorize(terms, 1)
    names = function.definition.columns()
    distances: dict[int, float] = {}
    if model is not None:
        own = model.features.vectorize(terms, 1)
        found = model.distances(model.coordinates(own))[0].tolist()
        distances = dict(zip(model.ids.tolist(), found, strict=True))
    hash64 = int(state["hash"])
    return Portrait(
        at=at,
        last=int(state["last"]),
        segment=int(state["segment"]),
        since=int(state["since"]),
        pending=int(state["pending"]),
        pending_since=int(state["pending_since"]),
        sequence=int(state["sequence"]),
        stamp=int(state["stamp"]),
        level=level_of(hash64),
        minute=hash64 % function.definition.tick.minutes,
        accepted=int(state["accepted"]),
        terms={term_text(term): _plain(values) for term, values in sorted_terms(terms)},
        vector={name: number(value) for name, value in zip(names, raw[0].tolist(), strict=True)},
        distances=distances,
    )


def _tick(at: int, pane_ms: int, fields: int) -> Rows:
    one, none = np.zeros(1, np.int64), np.full(1, -1)
    values: Floats = np.full((1, fields), np.nan)
    return Rows(one, one, one, np.array([at]), none, none, none, values, at // pane_ms)


def sorted_terms(terms: dict[Term, Floats]) -> list[tuple[Term, Floats]]:
    """Terms in the order of their text."""
    return sorted(terms.items(), key=lambda item: term_text(item[0]))


def term_text(term: Term) -> str:
    """A term as it is written in an expression."""
    match term:
        case Window(measure, length):
            days, rest = divmod(length, _DAY)
            return f"{measure}[{days}d]" if not rest else f"{measure}[{length // 60_000}m]"
        case Recency(measure):
            return f"recency({measure})"
        case Is(trait, value):
            return f"is_({trait}, {value!r})"
        case Value(name):
            return name


def _plain(values: Floats) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])
