"""Figures from arrays. Nothing here knows where labels come from.

Labels and personas by day are int64[days, customers]; a label of 0 and a persona of −1 mean that
there is none (not a customer yet or any more, no model yet, not known).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.quality.play import Move
from segstream.core.calendar import DAY

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
#: customer → (since in ms, label), in order of time
Truth = Mapping[str, Sequence[tuple[int, int]]]

MONTH = 30.4375
FLAP_DAYS = 30
SEEN_DAYS = 100
UNSEEN = SEEN_DAYS + 1
#: days after which a persona's behaviour fills the longest usual window
SETTLED_DAYS = 90


def inertia(z: npt.NDArray[np.floating], labels: Ints) -> float:
    """Sum of squared distances to the mean of those with the same label. z: [n, d]."""
    x = z.astype(np.float64)
    _, group = np.unique(labels, return_inverse=True)
    counts = np.bincount(group)
    total = float((x * x).sum())
    for j in range(x.shape[1]):
        sums = np.bincount(group, x[:, j])
        total -= float((sums * sums / counts).sum())
    return total


def adjusted_rand(a: Ints, b: Ints) -> float:
    """ARI as Hubert and Arabie define it; 1 if both are one and the same partition."""
    table = np.unique(np.stack([a, b]), axis=1, return_counts=True)[1]
    sides = [np.unique(side, return_counts=True)[1] for side in (a, b)]
    both, of_a, of_b = (float((n * (n - 1) // 2).sum()) for n in (table, *sides))
    pairs = len(a) * (len(a) - 1) / 2
    expected = of_a * of_b / pairs if pairs else 0.0
    most = (of_a + of_b) / 2
    return 1.0 if most == expected else (both - expected) / (most - expected)


def flaps(moves: Iterable[Move], days: int = FLAP_DAYS) -> int:
    """How often a customer comes back to the segment it left, by the next move within `days`."""
    last: dict[str, Move] = {}
    found = 0
    for move in moves:
        before = last.get(move.customer)
        if before is not None and before.left == move.entered and before.entered and before.left:
            found += move.at - before.at <= days * DAY
        last[move.customer] = move
    return found


def truth_at(truth: Truth, customers: Sequence[str], at: int) -> Ints:
    """Each customer's label at an instant; −1 = not known."""
    labels = np.full(len(customers), -1, np.int64)
    for i, customer in enumerate(customers):
        for since, label in truth.get(customer, ()):
            if since > at:
                break
            labels[i] = label
    return labels


# --- switches of a persona ------------------------------------------------------------------


class Switch(NamedTuple):
    """A customer's persona became another one on a day (its index)."""

    day: int
    customer: int
    old: int
    new: int


class Detection(NamedTuple):
    """How known switches show in the labels: int64[switches], in their order.

    `days` until it was seen; UNSEEN = not within SEEN_DAYS; 0 = the customer was in a segment
    typical of the new persona before, so that nothing could show; −1 = no labels, or not enough.
    """

    days: Ints

    @property
    def counted(self) -> Bools:
        """Those that could be seen."""
        return self.days > 0

    @property
    def share(self) -> float | None:
        """Of those that could be seen, how many were."""
        return _share((self.days[self.counted] < UNSEEN).tolist())


def switches(personas: Ints) -> list[Switch]:
    """All changes from one known persona to another."""
    before, after = personas[:-1], personas[1:]
    day, who = np.nonzero((before != after) & (before >= 0) & (after >= 0))
    return [
        Switch(d + 1, c, int(personas[d, c]), int(personas[d + 1, c]))
        for d, c in zip(day.tolist(), who.tolist(), strict=True)
    ]


def settled(personas: Ints, days: int = SETTLED_DAYS) -> Bools:
    """Where a customer has had its persona for at least `days`."""
    same = np.zeros(personas.shape, np.int64)
    for day in range(1, len(personas)):
        same[day] = np.where(personas[day] == personas[day - 1], same[day - 1] + 1, 0)
    return (same >= days) & (personas >= 0)


def typical(labels: Ints, personas: Ints) -> dict[int, dict[int, float]]:
    """persona → segment → the share of its days that settled customers spend there."""
    chosen = settled(personas) & (labels > 0)
    counts: dict[int, dict[int, int]] = defaultdict(dict)
    pairs, number = np.unique(
        np.stack([personas[chosen], labels[chosen]]), axis=1, return_counts=True
    )
    for (persona, segment), n in zip(pairs.T.tolist(), number.tolist(), strict=True):
        counts[persona][segment] = n
    return {p: {s: n / sum(of.values()) for s, n in of.items()} for p, of in counts.items()}


def detect(
    labels: Ints,
    found: Sequence[Switch],
    shares: Mapping[int, Mapping[int, float]],
    *,
    shift: int = 0,
) -> Detection:
    """A switch is seen when the customer is in a segment more typical of the new persona.

    More typical: settled customers of the new persona spend a larger share of their days in it
    than those of the old one. (A persona may share its segments with others, so "the segment whose
    majority it is" need not exist.) `shift`: pretend that each switch was so many days later; a
    negative one shows what chance alone does.
    """
    days = np.full(len(found), -1, np.int64)
    for i, (day, customer, old, new) in enumerate(found):
        start = day + shift
        if start < 0 or start + SEEN_DAYS >= len(labels) or not labels[start, customer]:
            continue
        course = labels[start : start + UNSEEN, customer].tolist()
        of_old, of_new = shares.get(old, {}), shares.get(new, {})
        hits = (d for d, s in enumerate(course) if s and of_new.get(s, 0) > of_old.get(s, 0))
        days[i] = next(hits, UNSEEN)
    return Detection(days)


def delay(filtered: Detection, plain: Detection) -> float | None:
    """How much later the median switch is seen, of those that both could see; UNSEEN counts."""
    both = filtered.counted & plain.counted
    if not both.any():
        return None
    return float(np.median(filtered.days[both]) - np.median(plain.days[both]))


# --- names ----------------------------------------------------------------------------------


def renamed(names: Sequence[Mapping[int, str]]) -> tuple[int, int]:
    """(names that changed, names that could have) from each version to the next one."""
    changed = possible = 0
    for before, after in pairwise(names):
        both = before.keys() & after.keys()
        possible += len(both)
        changed += sum(before[s] != after[s] for s in both)
    return changed, possible


def unique_share(names: Sequence[Mapping[int, str]]) -> float | None:
    """Share of names that no other segment of the same version has."""
    return _share(
        [list(of.values()).count(name) == 1 for of in names for name in of.values()],
    )


def _share(found: Sequence[bool]) -> float | None:
    return sum(found) / len(found) if found else None
