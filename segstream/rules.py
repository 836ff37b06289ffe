"""One rule per segment, in a sentence that people can say.

    raw values ─▶ tree that imitates the model ─▶ leaves of a segment ─▶ boxes ─▶ sentence

The tree sees raw values in their own units; a missing one is the model's fill, as for the model
itself. It learns from 70 % of the panel; the rest measures it, and the sentence as it is said.
It is limited in leaves and not in depth, since a limited depth loses whole small segments.

From the leaves to the sentence: boxes that touch become one; bounds that keep nobody else out are
dropped; of the boxes, the few that hold most members are said; numbers are rounded as far as that
moves next to nobody.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from segstream.core import expression
from segstream.core.feature import Vectors
from segstream.core.record import ModelFeature, Rules

LEAVES = 4
"""Of the tree, per segment."""
SMALLEST = 5
"""Customers in a leaf."""
MOST = 3
"""Boxes that are said."""
GAIN = 0.1
"""Share of the members that a further box must add."""
SLACK = 0.05
"""Share of a segment by which a simpler sentence may be less exact."""
FIDELITY, RECALL = 0.90, 0.75
"""Below either a rule is only approximate."""

DAY = 86_400_000
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]


class Span(NamedTuple):
    """low <= x < high."""

    low: float = -np.inf
    high: float = np.inf

    def holds(self, x: Vectors) -> Bools:
        return (x >= self.low) & (x < self.high)


#: what must hold of some features, by their index
Box = dict[int, Span]


class Part(NamedTuple):
    """A part of the panel. values: float32[n, d], filled; missing: which were not known."""

    values: Vectors
    missing: Bools
    segments: Labels

    def of(self, rows: Bools) -> "Part":
        return Part(self.values[rows], self.missing[rows], self.segments[rows])

    def inside(self, box: Box) -> Bools:
        held = np.ones(len(self.values), bool)
        for j, span in box.items():
            held &= span.holds(self.values[:, j])
        return held


def segment_rules(
    raw: Vectors, segments: Labels, features: Sequence[ModelFeature], held_out: Bools
) -> dict[int, Rules]:
    """The rules by segment. raw: float32[n, d], NaN = missing; segments: id of each customer.

    Left out are segments to which the tree gives no leaf, or none of whose members is held out.
    """
    fills = np.array([f.fill for f in features], np.float32)
    whole = Part(np.where(np.isnan(raw), fills, raw), np.isnan(raw), segments)
    taught, held = whole.of(~held_out), whole.of(held_out)
    if not len(taught.segments) or not len(held.segments):
        return {}
    tree = _tree(taught, len(np.unique(segments)))
    imitated = tree.predict(held.values)
    recalls = {
        int(s): float((imitated[held.segments == s] == s).mean()) for s in np.unique(held.segments)
    }
    fidelity = float((imitated == held.segments).mean())
    good = fidelity >= FIDELITY and min(recalls.values()) >= RECALL
    found = {}
    for segment, leaves in sorted(_leaves(tree).items()):
        if segment in recalls:
            boxes = simplified(leaves, segment, taught)
            said = np.any([held.inside(box) for box in boxes], axis=0)
            own = held.segments == segment
            covers = float(said[own].mean())
            found[segment] = Rules(
                text=sentence(boxes, features, whole),
                fidelity=round(fidelity, 6),
                recall=round(recalls[segment], 6),
                covers=round(covers, 6),
                precision=round(float(own[said].mean()), 6) if said.any() else None,
                approximate=not good or covers < RECALL,
            )
    return found


def _tree(part: Part, segments: int) -> Any:
    # loads slowly, and only trainers need it
    from sklearn.tree import DecisionTreeClassifier  # type: ignore[import-untyped] # noqa: PLC0415

    tree = DecisionTreeClassifier(
        max_leaf_nodes=max(2, LEAVES * segments),
        min_samples_leaf=SMALLEST,
        class_weight="balanced",
        random_state=0,
    )
    return tree.fit(part.values, part.segments)


def _leaves(tree: Any) -> dict[int, list[Box]]:
    """The leaves that lead to each segment."""
    nodes = tree.tree_
    found: dict[int, list[Box]] = {}
    stack: list[tuple[int, Box]] = [(0, {})]
    while stack:
        node, box = stack.pop()
        if nodes.children_left[node] < 0:
            segment = int(tree.classes_[nodes.value[node][0].argmax()])
            found.setdefault(segment, []).append(box)
            continue
        j = int(nodes.feature[node])
        # the tree goes left at x <= threshold; no float32 lies between that and `cut`
        cut = float(np.nextafter(np.float32(nodes.threshold[node]), np.float32(np.inf)))
        if np.float32(nodes.threshold[node]) > nodes.threshold[node]:
            cut = float(np.float32(nodes.threshold[node]))
        span = box.get(j, Span())
        stack.append((int(nodes.children_right[node]), {**box, j: span._replace(low=cut)}))
        stack.append((int(nodes.children_left[node]), {**box, j: span._replace(high=cut)}))
    return found


# -- from leaves to what is said ------------------------------------------------------


def simplified(leaves: Sequence[Box], segment: int, part: Part) -> list[Box]:
    """At most MOST boxes with few bounds, the one with most members first."""
    own = part.segments == segment
    boxes = [_loosened(box, own, part) for box in _merged(list(leaves))]
    chosen: list[Box] = []
    covered = np.zeros(len(own), bool)
    while len(chosen) < MOST:
        gains = [int((part.inside(box) & own & ~covered).sum()) for box in boxes]
        best = int(np.argmax(gains))
        if chosen and gains[best] < GAIN * own.sum():
            break
        chosen.append(boxes[best])
        covered |= part.inside(boxes[best])
    slack = SLACK * float(own.sum())
    return [_rounded(box, part, slack) for box in _merged(chosen)]


def _merged(boxes: list[Box]) -> list[Box]:
    """Two boxes that differ in one feature, and touch or overlap there, are one."""
    for a in range(len(boxes)):
        for b in range(a + 1, len(boxes)):
            one = _union(boxes[a], boxes[b])
            if one is not None:
                rest = [box for i, box in enumerate(boxes) if i not in (a, b)]
                return _merged([*rest[:a], one, *rest[a:]])
    return boxes


def _union(a: Box, b: Box) -> Box | None:
    differ = [j for j in sorted(a.keys() | b.keys()) if a.get(j, Span()) != b.get(j, Span())]
    if not differ:
        return a
    (j, *more), one, other = differ, a.get(differ[0], Span()), b.get(differ[0], Span())
    if more or max(one.low, other.low) > min(one.high, other.high):
        return None
    joined = Span(min(one.low, other.low), max(one.high, other.high))
    return _with(a, j, joined)


def _with(box: Box, j: int, span: Span) -> Box:
    """The box with another span; one without bounds is left out."""
    rest = {i: s for i, s in box.items() if i != j}
    return rest if span == Span() else {**rest, j: span}


def _loosened(box: Box, own: Bools, part: Part) -> Box:
    """Without the bounds that keep hardly anybody else out."""

    def precision(box: Box) -> float:
        inside = part.inside(box)
        return float(own[inside].mean()) if inside.any() else 0.0

    least = precision(box) - SLACK
    while True:
        looser = [
            _with(box, j, span._replace(**{side: Span._field_defaults[side]}))
            for j, span in sorted(box.items())
            for side in Span._fields
            if getattr(span, side) != Span._field_defaults[side]
        ]
        best = max(looser, key=precision, default=None)
        if best is None or precision(best) < least:
            return box
        box = best


def _rounded(box: Box, part: Part, slack: float) -> Box:
    """Bounds in as few digits as possible, while each moves at most `slack` customers."""
    return {
        j: Span(*(_round(bound, part.values[:, j], slack) for bound in span))
        for j, span in sorted(box.items())
    }


def _round(bound: float, x: Vectors, slack: float) -> float:
    if np.isinf(bound):
        return bound
    below, whole = x < bound, _whole(x)
    if _only_zeros(x, bound) and not whole:
        return bound  # it is said without a number
    # between the values on both sides any number says the same; that of whole numbers is the upper
    above = float(x[~below].min()) if not below.all() else bound
    middle = above if whole or not below.any() else (float(x[below].max()) + above) / 2
    for digits in range(1, 7):
        short = float(f"{middle:.{digits - 1}e}")
        if (not whole or short == int(short)) and int(((x < short) != below).sum()) <= slack:
            return short
    return above


def _whole(x: Vectors) -> bool:
    return bool((x == np.floor(x)).all())


# -- words ----------------------------------------------------------------------------


def sentence(boxes: Sequence[Box], features: Sequence[ModelFeature], whole: Part) -> str:
    """What the boxes say, joined by "or"."""
    return ", or ".join(_box_text(box, features, whole) for box in boxes)


def _box_text(box: Box, features: Sequence[ModelFeature], whole: Part) -> str:
    inside = whole.inside(box)
    words = []
    for j, span in sorted(box.items()):
        # None of the model's inputs is missing to the tree: say where the fill lets people in.
        unknown = bool(whole.missing[inside, j].any())
        words.append(_condition(features[j], span, whole.values[:, j], unknown=unknown))
    return " and ".join(words) or "everybody"


def _condition(feature: ModelFeature, span: Span, x: Vectors, *, unknown: bool) -> str:
    node = expression.parse(feature.expression)
    name = feature.name.replace("_", " ")
    if isinstance(node, expression.Recency):
        without = f"days without {node.measure.replace('_', ' ')}"
        return f"{_amount(span, x)} {without}" + " (or never any)" * unknown
    if isinstance(node, expression.Window):
        name = f"{node.measure.replace('_', ' ')} in {_duration(node.length)}"
        if span.low <= 0 and _only_zeros(x, span.high):
            return f"no {name}" + " (or missing)" * unknown
    return f"{name} {_amount(span, x)}" + " (or missing)" * unknown


def _amount(span: Span, x: Vectors) -> str:
    low, high = span
    whole = _whole(x)
    if _only_zeros(x, high):
        return "0"
    least = "above 0" if _only_zeros(x, low) and not whole else f"at least {_number(low)}"
    if np.isinf(high):
        return least
    last = whole and high <= 20  # "at most 99" is no better than "below 100"
    if np.isinf(low):
        return f"at most {_number(high - 1)}" if last else f"below {_number(high)}"
    if last and low == high - 1:
        return f"exactly {_number(low)}"
    if last:
        return f"{_number(low)} to {_number(high - 1)}"
    return f"{least} and below {_number(high)}"


def _only_zeros(x: Vectors, bound: float) -> bool:
    """Whether some lie below the bound, and all of these are zero."""
    below = x[x < bound]
    return bool(len(below)) and not below.any()


def _number(value: float) -> str:
    if abs(value) >= 1e15 or 0 < abs(value) < 1e-6:
        return f"{value:.6g}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


def _duration(length: int) -> str:
    for unit, name in ((DAY, "day"), (DAY // 24, "hour"), (60_000, "minute"), (1_000, "second")):
        if length % unit == 0:
            return f"{length // unit} {name}{'s' * (length > unit)}"
    return f"{length} ms"
