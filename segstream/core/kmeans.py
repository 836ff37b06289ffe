"""Batch k-means for the few thousand vectors of the panel: k-means++ and Lloyd.

Distances are summed column by column as in scoring: no matrix product, whose last bits depend on
the kernel chosen for the size. With the same input and generator, the same bytes come out.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
ROUNDS = 100


class Partition(NamedTuple):
    """centres float64[k, d]; labels int64[n], the nearest centre; inertia, the sum of squares."""

    centres: Floats
    labels: Labels
    inertia: float


def squares(z: npt.NDArray[np.floating], centres: Floats) -> Floats:
    """Squared Euclidean distances, float64[n, k]."""
    total = np.zeros((len(z), len(centres)))
    for j in range(z.shape[1]):
        total += (z[:, j, None].astype(np.float64, copy=False) - centres[None, :, j]) ** 2
    return total


def means(
    z: npt.NDArray[np.floating], labels: Labels, k: int, weights: Floats | None = None
) -> tuple[Floats, Labels]:
    """Mean vector (float64[k, d], zero where nobody is) and number of members per label.

    `weights`: how many (> 0) stand at each vector; one each if not given.
    """
    counts = np.bincount(labels, minlength=k)
    columns = [z[:, j].astype(np.float64, copy=False) for j in range(z.shape[1])]
    if weights is None:
        sums, total = [np.bincount(labels, x, k) for x in columns], np.maximum(counts, 1)
    else:
        sums, total = [np.bincount(labels, x * weights, k) for x in columns], np.ones(k)
        alive = counts > 0
        total[alive] = np.bincount(labels, weights, k)[alive]
    return np.stack(sums, axis=1) / total[:, None], counts


def seeds(
    z: npt.NDArray[np.floating],
    k: int,
    rng: np.random.Generator,
    weights: Floats | None = None,
) -> Floats:
    """k-means++: centres float64[k', d], k' < k if there are fewer distinct vectors."""
    centres = z[[rng.integers(len(z))]].astype(np.float64)
    nearest = squares(z, centres)[:, 0]
    while len(centres) < k and nearest.max() > 0:
        reach = np.cumsum(nearest if weights is None else nearest * weights)
        chosen = int(np.searchsorted(reach, rng.random() * reach[-1], side="right"))
        # rounding may carry the draw past the end, onto a vector that is a centre already
        chosen = min(chosen, int(np.flatnonzero(nearest)[-1]))
        centre = z[[chosen]].astype(np.float64)
        centres = np.concatenate([centres, centre])
        nearest = np.minimum(nearest, squares(z, centre)[:, 0])
    return centres


def lloyd(
    z: npt.NDArray[np.floating],
    centres: Floats,
    weights: Floats | None = None,
    rounds: int = ROUNDS,
) -> Partition:
    """Iterate to a fixed point, or `rounds`. A centre that loses everybody stays where it is.

    Ties go to the lowest index.
    """
    z = np.asfortranarray(z, np.float64)  # read by columns, many times
    labels = squares(z, centres).argmin(axis=1)
    for _ in range(rounds):
        moved, counts = means(z, labels, len(centres), weights)
        centres = np.where(counts[:, None] > 0, moved, centres)
        before, labels = labels, squares(z, centres).argmin(axis=1)
        if np.array_equal(before, labels):
            break
    lost = squares(z, centres).min(axis=1)
    return Partition(centres, labels, float((lost if weights is None else lost * weights).sum()))


def best_of(
    z: npt.NDArray[np.floating],
    k: int,
    tries: int,
    rng: np.random.Generator,
    weights: Floats | None = None,
) -> Partition:
    """The best of several k-means++ starts; the first of equals."""
    starts = (seeds(z, k, rng, weights) for _ in range(tries))
    return min((lloyd(z, start, weights) for start in starts), key=lambda p: p.inertia)


def complete(z: npt.NDArray[np.floating], found: Partition, k: int) -> tuple[Partition, Labels]:
    """Drop centres without members and grow to k, each new centre at the vector served worst.

    Returns the partition and, per centre, its index in `found`, -1 for a new one. Every centre
    has members; there are fewer than k only if there are fewer distinct vectors.
    """
    origin = np.arange(len(found.centres))
    for _ in range(2 * k):  # a new centre may starve another one, so it is not always k rounds
        alive = np.bincount(found.labels, minlength=len(found.centres)) > 0
        centres, origin = found.centres[alive], origin[alive]
        distance = squares(z, centres).min(axis=1)
        grows = len(centres) < k and distance.max() > 0
        if alive.all() and not grows:
            break
        if grows:
            centres = np.concatenate([centres, z[[distance.argmax()]].astype(np.float64)])
            origin = np.append(origin, -1)
        found = lloyd(z, centres)
    return found, origin


def silhouette(
    z: npt.NDArray[np.floating], centres: Floats, weights: Floats | None = None
) -> float | None:
    """Simplified silhouette: mean of (b - a) / max(a, b), a, b the two nearest centres' distances.

    None with one centre.
    """
    if len(centres) < 2:
        return None
    near = np.sqrt(np.partition(squares(z, centres), 1, axis=1)[:, :2])
    a, b = near[:, 0], near[:, 1]
    widths = np.divide(b - a, b, out=np.zeros_like(b), where=b > 0)
    return float(np.mean(widths) if weights is None else np.average(widths, weights=weights))
