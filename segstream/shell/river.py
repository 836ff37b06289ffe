"""River's online K-Means, taught to learn customers instead of events.

River moves a centre towards every observation by a fixed share (`halflife`): active customers
count once per event, silent ones not at all, and centres forget. Here a customer's new vector
*replaces* the old one: the old one is removed with rate -1/n, the new one inserted with 1/n, where
n is the number of members after that change. So every customer counts once, and each centre is
exactly the mean of its members at any moment. (Error about 1e-14 for coordinates near 1. It grows
with the shrinking of a cluster, n before / n after, and is gone at the next warm start.)

What River does that matters here (river 0.21 to 0.26, cluster/k_means.py):

- `predict_one` writes: a key that a centre has not seen gets a random coordinate. Keys are the
  integers 0…d-1, and a vector of another length is refused.
- One NaN poisons a centre for good, and text raises deep inside. What is not finite is refused.
- It sums over a *set* of keys: with text keys in another order in each process (hash seed), with
  small integers in ascending order. So integer keys also keep the last bits.
- `clone()` forgets the centres, so nothing here relies on it.
"""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from river import cluster

Vector = tuple[float, ...]


class CustomerKMeans(cluster.KMeans):
    """K-Means over customers. Clusters are named by their segment ids.

    `centres`: segment → coordinates, at least one, all of one length; none has members yet.
    """

    def __init__(self, centres: Mapping[int, Sequence[float]]) -> None:
        super().__init__(n_clusters=len(centres), seed=0)
        lengths = {len(centre) for centre in centres.values()}
        if len(lengths) != 1:
            raise ValueError("centres must be given, and all be of one length")
        self.dimensions = lengths.pop()
        # ascending ids: River takes the first of equally near centres, so ties go to the lowest
        self.centers = {
            segment: defaultdict(float, enumerate(self._checked(centres[segment])))
            for segment in sorted(centres)
        }
        self.sizes = dict.fromkeys(self.centers, 0)
        self._members: dict[int, tuple[int, Vector]] = {}

    def __len__(self) -> int:
        """Number of customers known."""
        return len(self._members)

    def __contains__(self, key: int) -> bool:
        return key in self._members

    def labels(self) -> dict[int, int]:
        """Segment of each customer, as decided when it was last learned."""
        return {key: segment for key, (segment, _) in self._members.items()}

    def centre(self, segment: int) -> Vector:
        """Mean of the members; where they were last, if all have gone."""
        centre = self.centers[segment]
        return tuple(centre[j] for j in range(self.dimensions))

    def nearest(self, x: Sequence[float]) -> int:
        """River's `predict_one`, but neither writing state nor building sets: several times faster.

        The coordinates of a centre stand in the order of features, as they were put in.
        """
        centres, point = self.centers, tuple(x)
        return min(centres, key=lambda segment: math.dist(point, tuple(centres[segment].values())))

    def learn_customer(self, key: int, x: Sequence[float]) -> int:
        """The customer's vector is now `x` (finite): replaces its last one; returns its segment.

        ValueError if `x` has another length or is not finite; then nothing has changed.
        """
        vector = self._checked(x)
        self.forget_customer(key)
        return self._insert(key, vector, self.nearest(vector))

    def place_customer(self, key: int, x: Sequence[float], segment: int) -> int:
        """As learn_customer, into a segment decided elsewhere (warm start from a version)."""
        vector = self._checked(x)
        self.forget_customer(key)
        return self._insert(key, vector, segment)

    def forget_customer(self, key: int) -> bool:
        """Remove a customer's vector; False if it is not known."""
        if key not in self._members:
            return False
        segment, vector = self._members.pop(key)
        self.sizes[segment] -= 1
        if self.sizes[segment]:  # the last member leaves the centre where it was
            self._move(segment, vector, -1 / self.sizes[segment])
        return True

    def _insert(self, key: int, vector: Vector, segment: int) -> int:
        self._members[key] = (segment, vector)
        self.sizes[segment] += 1
        self._move(segment, vector, 1 / self.sizes[segment])
        return segment

    def _move(self, segment: int, vector: Vector, rate: float) -> None:
        """River's learning step, with a rate of our own."""
        centre = self.centers[segment]
        for j, value in enumerate(vector):
            centre[j] += rate * (value - centre[j])

    def _checked(self, x: Sequence[float]) -> Vector:
        vector = tuple(map(float, x))
        if len(vector) != self.dimensions or not all(map(math.isfinite, vector)):
            raise ValueError(f"not a vector of {self.dimensions} finite numbers: {vector}")
        return vector
