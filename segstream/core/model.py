"""An immutable version of the model: Vectors → distances to segments. Scoring never calls River."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from segstream.core import compiled
from segstream.core.expression import Floats
from segstream.core.feature import Features, Vectors
from segstream.core.record import ModelFeature, ModelRecord

Longs = npt.NDArray[np.int64]


class Space:
    """Where customers are compared: how raw values become coordinates. Compiled from features."""

    def __init__(self, features: Sequence[ModelFeature]) -> None:
        self._fill = np.array([f.fill for f in features])
        self._low, self._high = np.array([f.clip for f in features]).T
        self._logs = [j for j, f in enumerate(features) if f.transform == "log1p"]
        self._mean = np.array([f.mean for f in features])
        self._scale = np.array([f.scale for f in features])
        self._weight = np.array([f.weight for f in features])

    def coordinates(self, raw: Vectors) -> Vectors:
        """Raw values [n, d] in model space [n, d]: fill, transform, clip, standardise, weight.

        float64 throughout, then rounded to float32, so that a last bit that differs between
        processors does not decide.
        """
        x = np.where(np.isnan(raw), self._fill, raw.astype(np.float64))
        if self._logs:
            x[:, self._logs] = np.log1p(np.maximum(x[:, self._logs], 0.0))
        x = np.minimum(np.maximum(x, self._low), self._high)
        x -= self._mean
        x /= self._scale
        x *= self._weight
        space: Vectors = x.astype(np.float32)
        return space


class Model:
    """A ModelRecord, compiled for scoring. Segments are in ascending order of id."""

    def __init__(self, record: ModelRecord) -> None:
        self.record = record
        self.version = record.model
        self.features = Features(feature.expression for feature in record.features)
        self._space = Space(record.features)
        segments = sorted(record.segments, key=lambda s: s.segment)
        self.ids: Longs = np.array([s.segment for s in segments], np.int64)
        self.names = {s.segment: s.name for s in segments}
        self.centres = np.array([s.centre for s in segments], np.float64)
        self.index = {segment: i for i, segment in enumerate(self.ids.tolist())}

    def coordinates(self, raw: Vectors) -> Vectors:
        """See `Space.coordinates`."""
        return self._space.coordinates(raw)

    def distances(self, space: Vectors) -> Floats:
        """Euclidean distances float64 [n, segments], summed in feature order.

        A loop over feature columns: the bits of a matrix product would depend on the number
        of rows.
        """
        if compiled.functions is not None:
            found = np.empty((len(space), len(self.centres)))
            compiled.functions.distances(space, self.centres, found)
            return found
        total = np.zeros((len(space), len(self.centres)))
        for j in range(space.shape[1]):
            difference = space[:, j, None].astype(np.float64) - self.centres[None, :, j]
            total += difference * difference
        return np.sqrt(total)

    def nearest(self, distances: Floats) -> Longs:
        """Index of the nearest segment per row, int64 [n]; ties: the lowest id."""
        return np.asarray(distances.argmin(axis=1), np.int64)
