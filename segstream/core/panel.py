"""The panel: the newest raw vector of every sampled customer.

About 20,000 customers, chosen by their hash alone, so every customer counts once, however active.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from segstream.core.feature import Vectors
from segstream.core.hash import level_of


class PanelSample(NamedTuple):
    """A panel customer's raw vector (float32[d], NaN = missing) at an instant; None = removed."""

    at: int
    customer: int
    vector: Vectors | None
    level: int = 0


class Panel:
    """Vectors by customer hash; keeps only customers whose level is at least the highest seen."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self.level = 0
        self._vectors: dict[int, Vectors] = {}
        self._at: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._vectors)

    def __contains__(self, customer: int) -> bool:
        return customer in self._vectors

    def put(self, sample: PanelSample) -> bool:
        """Take a sample; False if it changes nothing (not in the panel, or older than known)."""
        if sample.vector is None:
            self._at.pop(sample.customer, None)
            return self._vectors.pop(sample.customer, None) is not None
        if level_of(sample.customer) < self.level:
            return False
        if sample.at < self._at.get(sample.customer, sample.at):
            return False
        self._vectors[sample.customer] = sample.vector
        self._at[sample.customer] = sample.at
        return True

    def raise_level(self, level: int) -> list[int]:
        """Shrink to customers of at least this level; returns those who left, in order."""
        if level <= self.level:
            return []
        self.level = level
        left = sorted(c for c in self._vectors if level_of(c) < level)
        for customer in left:
            del self._vectors[customer], self._at[customer]
        return left

    def customers(self) -> list[int]:
        """In ascending order: the only order in which the panel is ever read."""
        return sorted(self._vectors)

    def matrix(self, customers: Iterable[int] | None = None) -> Vectors:
        """Raw vectors, float32[n, d], in ascending order of customers, or in the order given."""
        chosen = self.customers() if customers is None else customers
        rows = [self._vectors[c] for c in chosen]
        return np.array(rows, np.float32).reshape(len(rows), self.dimensions)
