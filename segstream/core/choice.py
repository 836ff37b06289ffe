"""How many segments: the simplified silhouette of weighted k-means over micro-clusters.

1. About MICRO micro-clusters stand for the panel, so that trying all k costs little.
2. The score of each k is smoothed over versions (EWMA, weight SMOOTHING): week by week the best k
   changes all the time, and every change costs people the segments they know.
3. Another k wins if its smoothed score is better by MARGIN and its smallest segment holds SMALLEST
   of the panel; at most CHANGES times a year.

Bounds are needed: left alone, the silhouette of real customers says "two: active and lapsed".
"""

from typing import NamedTuple

import numpy as np

from segstream.core import kmeans
from segstream.core.calendar import DAY, instant_ms
from segstream.core.feature import Vectors
from segstream.core.output import ms_text
from segstream.core.record import Choice

MICRO = 100
MICRO_ROUNDS = 10
TRIES = 10
SMOOTHING = 0.25
MARGIN = 0.03
SMALLEST = 0.02
CHANGES = 4
YEAR = 365 * DAY


class Score(NamedTuple):
    """Of a k: simplified silhouette, and the share of the panel in the smallest segment."""

    silhouette: float
    smallest: float


def choose(
    z: Vectors, bounds: tuple[int, int], before: Choice | None, at: int, rng: np.random.Generator
) -> Choice:
    """The number of segments from now on. z: panel in model space; `before`: of the parent."""
    return decide(scores(z, bounds, rng), before, at)


def scores(z: Vectors, bounds: tuple[int, int], rng: np.random.Generator) -> dict[int, Score]:
    """Score of every k within bounds for which there are enough different customers."""
    micro = kmeans.lloyd(z, kmeans.seeds(z, MICRO, rng), rounds=MICRO_ROUNDS)
    counts = np.bincount(micro.labels, minlength=len(micro.centres))
    points, weights = micro.centres[counts > 0], counts[counts > 0].astype(np.float64)
    found = {}
    for k in range(bounds[0], bounds[1] + 1):
        best = kmeans.best_of(points, k, TRIES, rng, weights)
        shares = np.bincount(best.labels, weights, len(best.centres)) / weights.sum()
        width = kmeans.silhouette(points, best.centres, weights)
        if len(best.centres) == k and width is not None:
            found[k] = Score(width, float(shares.min()))
    return found


def decide(now: dict[int, Score], before: Choice | None, at: int) -> Choice:
    """Smooth today's scores with the parent's, and change k if it is worth it. `at`: ms.

    Without any score k stays; without a parent it is then 1.
    """
    old = {} if before is None else dict(before.scores)
    smooth = {
        k: round((1 - SMOOTHING) * old.get(k, s.silhouette) + SMOOTHING * s.silhouette, 6)
        for k, s in now.items()
    }
    changes = [] if before is None else [c for c in before.changes if at - instant_ms(c) < YEAR]
    large = [k for k in smooth if now[k].smallest >= SMALLEST] or sorted(smooth)[:1]
    best = max(large, key=lambda k: (smooth[k], -k), default=None)
    if before is None:
        return Choice(k=best or 1, scores=list(smooth.items()), changes=[])
    k = before.k
    if best is not None and best != k and len(changes) < CHANGES and _better(smooth, best, k):
        k, changes = best, [*changes, ms_text(at)]
    return Choice(k=k, scores=list(smooth.items()), changes=changes)


def _better(smooth: dict[int, float], best: int, k: int) -> bool:
    """A k without a score, outside the bounds or of too few customers, loses to any other."""
    return k not in smooth or smooth[best] - smooth[k] > MARGIN * abs(smooth[k])
