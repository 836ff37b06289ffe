"""What the segments are held against: a batch every night, and River as in its first example."""

from typing import Any, NamedTuple

import numpy as np
from river import cluster
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]
from sklearn.cluster import KMeans  # type: ignore[import-untyped]

from benchmarks.quality.compare import Floats, Ints
from segstream.core import kmeans
from segstream.core.feature import Vectors
from segstream.core.model import Space
from segstream.core.record import ModelFeature
from segstream.learn import Training
from segstream.space import fit_space

TRIES = 10


class Fitted(NamedTuple):
    """A batch: its space, centres float64[k, d] and the stable id of each."""

    space: list[ModelFeature]
    centres: Floats
    ids: Ints

    def labels(self, raw: Vectors) -> Ints:
        """The id of the nearest centre of raw vectors."""
        z = Space(self.space).coordinates(raw)
        return np.asarray(self.ids[kmeans.squares(z, self.centres).argmin(axis=1)])


class NightlyBatch:
    """Scikit-learn's KMeans from scratch on all customers every night.

    Its space is the common one of all comparisons: transforms of the definition, clipped,
    standardised over today's customers. Ids go to the clusters that share most customers with
    yesterday's model, applied to *today's* vectors: the mapping that relabels least.
    """

    def __init__(self, training: Training, seed: int = 0) -> None:
        self.training, self.seed = training, seed
        self._last: Fitted | None = None

    def fit(self, raw: Vectors) -> tuple[Fitted, int]:
        """Tonight's model; how many customers it puts elsewhere than yesterday's would."""
        space = fit_space(self.training.features, raw)
        z = Space(space).coordinates(raw).astype(np.float64)
        found = KMeans(self.training.k, n_init=TRIES, random_state=self.seed).fit(z)
        centres: Floats = found.cluster_centers_
        labels = kmeans.squares(z, centres).argmin(axis=1)
        if self._last is None:
            ids = np.arange(len(centres))
            before = labels
        else:
            before = self._last.labels(raw)
            ids = matched(before, labels, len(centres))
        self._last = Fitted(space, centres, ids)
        return self._last, int((ids[labels] != before).sum())


def matched(before: Ints, after: Ints, k: int) -> Ints:
    """The old id (0…k−1) for each new cluster: as many customers as possible keep theirs."""
    shared = np.zeros((k, k), np.int64)
    np.add.at(shared, (before, after), 1)
    old, new = linear_sum_assignment(shared, maximize=True)
    ids = np.empty(k, np.int64)
    ids[new] = old
    return ids


class RiverLoop:
    """Raw features, `learn_one` after every event, default settings. A missing value is 0."""

    def __init__(self, k: int, seed: int = 0) -> None:
        self.model: Any = cluster.KMeans(n_clusters=k, halflife=0.5, seed=seed)
        self._last: Floats | None = None

    def learn(self, seen: Vectors) -> None:
        """The vectors after a day's events, in order."""
        learn, keys = self.model.learn_one, range(seen.shape[1])
        for row in np.nan_to_num(seen).tolist():
            learn(dict(zip(keys, row, strict=True)))

    def labels(self, raw: Vectors) -> tuple[Ints, int]:
        """Nearest centre of each; how many customers yesterday's centres would put elsewhere."""
        x = np.nan_to_num(raw)
        centres = self._centres(raw.shape[1])
        labels = kmeans.squares(x, centres).argmin(axis=1)
        before = labels if self._last is None else kmeans.squares(x, self._last).argmin(axis=1)
        self._last = centres
        return labels, int((labels != before).sum())

    def _centres(self, d: int) -> Floats:
        found = self.model.centers
        return np.array([[found[i][j] for j in range(d)] for i in sorted(found)], np.float64)
