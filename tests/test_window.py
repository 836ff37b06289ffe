"""Rolling windows in a State: rings of panes against all events, and hysteresis by its table."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segstream.core.check import define
from segstream.core.config import Hysteresis
from segstream.core.event import Reader, Records
from segstream.core.expression import Window
from segstream.core.field import Fields
from segstream.core.hash import customer_hash
from segstream.core.model import Model
from segstream.core.record import ModelRecord
from segstream.core.segment import decide
from segstream.core.state import Layout
from segstream.core.window import Rows, Windows
from tests.test_oracle import model

HOUR, DAY = 3_600_000, 86_400_000
PANES = 5
CONFIG: dict[str, Any] = {
    "pane": {"length": "1h"},
    "measures": {
        "orders": {"kind": "count", "events": ["Order"]},
        "spend": {"kind": "sum", "events": ["Order"], "field": "properties.total", "decimals": 0},
    },
    "features": {"f": {"expression": "orders[5h] + orders[2h] + spend[5h] + spend[1h]"}},
}
FIELDS = Fields(define(CONFIG))
LAYOUT = Layout(define(CONFIG))
WINDOWS = Windows(LAYOUT, FIELDS)
ORDER = FIELDS.kinds["track", "Order"]
COUNT, SUM = 65_535, 4_294_967_295


def rows(pane: int, events: list[tuple[int, int, float]]) -> Rows:
    """Rows at the end of a pane: (customer, panes back, total) in log order; a tick: -1 back."""
    order = sorted(range(len(events)), key=lambda i: events[i][0])  # stable
    customer = np.array([events[i][0] for i in order], np.int64)
    first = np.flatnonzero(np.diff(customer, prepend=-1))
    sizes = np.diff(first, append=len(order))
    back = np.array([events[i][1] for i in order], np.int64)
    is_event = back >= 0
    values = np.array([[events[i][2]] for i in order])
    return Rows(
        group=np.repeat(np.arange(len(first)), sizes),
        first=first,
        last=first + sizes - 1,
        at=np.full(len(order), (pane + 1) * HOUR - 1),
        event=np.where(is_event, np.array(order, np.int64), -1),
        time=np.where(is_event, (pane - back) * HOUR, -1),
        kind=np.where(is_event, ORDER, -1),
        values=np.where(is_event[:, None], values, np.nan),
        pane=pane,
    )


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2 * PANES),  # panes passed
        st.lists(
            st.tuples(
                st.integers(0, 2),
                st.integers(-1, PANES - 1),
                st.sampled_from([0.0, 1.0, 7.0, 1e9, 1e9, 4e8]),
            ),
            min_size=1,
            max_size=8,
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(STEPS, st.integers(480_000, 480_010))
def test_rings_hold_what_all_events_say(steps: Any, pane: int) -> None:
    """Any number of panes passed, late events, ticks, full panes: each row's windows are right."""
    names = ["a", "b", "c"]
    kept = LAYOUT.unpack([None] * 3, names)
    counts: list[Counter[int]] = [Counter() for _ in names]
    sums: list[Counter[int]] = [Counter() for _ in names]
    for passed, events in steps:
        pane += passed
        found = rows(pane, events)
        codes = sorted({customer for customer, _, _ in events})
        states = kept[codes]
        WINDOWS.rotate(states, pane)
        terms, cut = WINDOWS.advance(states, found)
        wanted: dict[tuple[str, int], list[float]] = {
            (name, w): [] for name, w in (("orders", 5), ("orders", 2), ("spend", 5), ("spend", 1))
        }
        too_much = 0
        for c, back, total in sorted(events, key=lambda e: e[0]):
            if back >= 0:
                counts[c][pane - back] += 1
                full = sums[c][pane - back] + int(total)
                too_much += full > SUM
                sums[c][pane - back] = min(full, SUM)
            for (name, width), column in wanted.items():
                ring = (counts if name == "orders" else sums)[c]
                column.append(sum(ring[p] for p in range(pane - width + 1, pane + 1)))
        for (name, width), column in wanted.items():
            assert terms[Window(name, width * HOUR)].tolist() == column
        assert cut == too_much
        kept[codes] = states


def test_a_full_count_is_cut() -> None:
    states = LAYOUT.unpack([None], ["a"])
    WINDOWS.rotate(states, 100)
    states["counts"][0, 0, 100 % PANES] = COUNT - 1
    terms, cut = WINDOWS.advance(states, rows(100, [(0, 0, 0.0)] * 3))
    assert terms[Window("orders", 5 * HOUR)].tolist() == [COUNT - 1 + 1, COUNT, COUNT]
    assert cut == 2
    assert states["counts"][0, 0].max() == COUNT


def test_a_state_of_another_layout_is_refused() -> None:
    blob = LAYOUT.pack(LAYOUT.unpack([None], ["a"]))[0]
    assert LAYOUT.pack(LAYOUT.unpack([blob], ["a"])) == [blob]
    assert int(LAYOUT.unpack([blob], ["a"])["hash"][0]) == customer_hash("a")
    for wrong in (blob[:-1], blob + b"\0", b"", bytes([blob[0] ^ 1]) + blob[1:]):
        with pytest.raises(ValueError, match="not written under this configuration"):
            LAYOUT.unpack([wrong], ["a"])


# --- hysteresis -----------------------------------------------------------------------------

#: Segments 1 and 2 (and 3, far away); a customer of segment 1 since hour 0.
RULES = Hysteresis(clear=0.7, held=0.9, hold="2h")
NEAR = {
    "here": (1.0, 2.0, 9.0),
    "clear": (1.0, 0.7, 9.0),
    "held": (1.0, 0.9, 9.0),
    "close": (1.0, 0.91, 9.0),
    "third": (1.0, 9.0, 0.9),
    "tie": (1.0, 1.0, 9.0),
}


@pytest.mark.parametrize(
    ("seen", "moved"),
    [
        ([(0, "here")], None),
        ([(0, "tie")], None),  # the lowest id is nearest
        ([(0, "clear")], (0, 2, "clear")),  # at the very bound
        ([(0, "close"), (9, "close")], None),  # nearer, but never by enough
        ([(0, "held")], None),
        ([(0, "held"), (1, "held")], None),
        ([(0, "held"), (2, "held")], (1, 2, "held")),  # for exactly as long as `hold`
        ([(0, "held"), (1, "here"), (2, "held")], None),  # it came home in between
        ([(0, "held"), (1, "close"), (2, "held")], None),
        ([(0, "held"), (1, "third"), (2, "held"), (3, "held")], None),  # another one each time
        ([(0, "held"), (1, "third"), (3, "third")], (2, 3, "held")),
        ([(0, "held"), (1, "clear")], (1, 2, "clear")),
    ],
)
def test_hysteresis(seen: list[tuple[int, str]], moved: tuple[int, int, str] | None) -> None:
    """Rows (hour, distances) of one customer → the row that moves, where to, and by which rule."""
    found = Model(ModelRecord.model_validate(_record()))
    states = LAYOUT.unpack([None], ["a"])
    for name, value in (("segment", 1), ("stamp", 1), ("sequence", 1)):
        states[name] = value
    line = rows(100, [(0, -1, 0.0)] * len(seen))._replace(
        at=np.array([100 * HOUR + hour * HOUR for hour, _ in seen])
    )
    distances = np.array([NEAR[name] for _, name in seen])
    moves, _ = decide(states, line, found, distances, RULES, lambda *_: 2)
    told = list(zip(moves.row, moves.entered, moves.rule, strict=True))
    assert told == ([moved] if moved else [])
    assert int(states["segment"][0]) == (moved[1] if moved else 1)
    assert int(states["sequence"][0]) == (2 if moved else 1)


@pytest.mark.parametrize(
    ("first", "hours", "entered"),
    [
        (None, [0], (0, 1)),  # at once
        ("2h", [0, 1], None),
        ("2h", [0, 1, 2], (2, 3)),  # the one that is nearest by then
        ("2h", [0, 5], (1, 2)),
    ],
)
def test_newcomers(first: str | None, hours: list[int], entered: tuple[int, int] | None) -> None:
    """Rows (hour) of a customer without a segment → the row that enters one, and which."""
    found = Model(ModelRecord.model_validate(_record()))
    states = LAYOUT.unpack([None], ["a"])
    line = rows(100, [(0, -1, 0.0)] * len(hours))._replace(
        at=np.array([100 * HOUR + hour * HOUR for hour in hours])
    )
    distances = np.array([(1.0, 2.0, 9.0), (2.0, 1.0, 9.0), (9.0, 2.0, 1.0)][: len(hours)])
    moves, changed = decide(states, line, found, distances, Hysteresis(first=first), lambda *_: 2)
    told = list(zip(moves.row, moves.entered, strict=True))
    assert told == ([entered] if entered else [])
    how = zip(moves.cause, moves.rule, moves.left, moves.sequence, strict=True)
    assert all(one == ("first", None, 0, 1) for one in how)
    assert changed.tolist() == [True]
    assert bool(states["pending"][0]) == (entered is None)


def _record() -> dict[str, Any]:
    """Three segments; the rest of a record does not matter here."""
    record = model(1, {1: [0.0], 2: [1.0], 3: [2.0]}, {"orders": "orders[5h]"})
    entry = {"named_by": "profile", "size": 1, "share": 0.5, "profile": {}, "rules": None}
    segments = [{**s, **entry, "fidelity": None, "fate": None} for s in record["segments"]]
    at = "2026-03-01T00:00:00.000Z"
    return {
        **record,
        "segments": segments,
        "parent": None,
        "kind": "centres",
        "at": at,
        "features_id": "list",
        "panel": {"customers": 1, "level": 0, "at": at},
        "quality": {},
    }


def test_reading_is_what_the_rows_of_this_page_stand_for() -> None:
    """The rows above are those that records lead to: kind and value of an order."""
    value = b'{"type":"track","event":"Order","userId":"a","properties":{"total":7}}'
    decoded = Reader(FIELDS).decode(Records([0], [0], [value], [None], [None]), 0, 1, "murmur2")
    assert decoded.events.kind.tolist() == [ORDER]
    assert decoded.events.values.tolist() == [[7.0]]
