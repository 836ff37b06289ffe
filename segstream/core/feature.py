"""Terms → Vectors: raw feature values in a fixed order, float32, NaN = missing."""

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from segstream.core import expression
from segstream.core.expression import Floats, Term

Vectors = npt.NDArray[np.float32]


class Features:
    """A compiled list of feature expressions."""

    def __init__(self, expressions: Iterable[str]) -> None:
        self._nodes = [expression.parse(text) for text in expressions]
        self.terms = {term for node in self._nodes for term in expression.terms(node)}

    def vectorize(self, terms: Mapping[Term, Floats], rows: int) -> Vectors:
        """Raw values, float32 [rows, features]. What is not finite is missing."""
        vectors = np.empty((rows, len(self._nodes)), np.float32)
        with np.errstate(all="ignore"):
            for column, node in enumerate(self._nodes):
                vectors[:, column] = expression.evaluate(node, terms, rows)
        vectors[~np.isfinite(vectors)] = np.nan
        return vectors
