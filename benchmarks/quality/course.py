"""A stream that is to be measured, and what its nights have given."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.quality.compare import Floats, Ints, Truth
from segstream.core.config import Definition
from segstream.core.table import Numbered
from segstream.learn import Training


@dataclass(frozen=True)
class DataSet:
    """A stream, how it is read, and what is known of its customers. `labels`: of the truth."""

    name: str
    about: str
    definition: Definition
    training: Training
    calls: Callable[[], Iterable[Numbered]]
    truth: Truth | None = None
    labels: tuple[str, ...] = ()
    drifts: tuple[int, int] | None = None
    """ms: from when on there is a new persona, and until when it may be seen; none drifts before"""


@dataclass
class Course:
    """What the nights have given so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    where: dict[str, int] = field(default_factory=dict)
    labels: list[tuple[Ints, Ints, Ints, Ints]] = field(default_factory=list)

    def since(self, at: int) -> "Course":
        """The nights from an instant on; all if there are none."""
        late = [i for i, row in enumerate(self.rows) if row["at"] >= at] or range(len(self.rows))
        return Course([self.rows[i] for i in late], self.where, [self.labels[i] for i in late])

    def places(self, customers: list[str]) -> Ints:
        return np.array([self.where.setdefault(c, len(self.where)) for c in customers], np.int64)

    def by_day(self, column: int, none: int) -> Ints:
        """Column 1: emitted, 2: nearest, 3: personas; int64[days, customers]."""
        table = np.full((len(self.labels), len(self.where)), none, np.int64)
        for day, found in enumerate(self.labels):
            table[day, found[0]] = found[column]
        return table

    def column(self, name: str) -> Floats:
        found = [row[name] for row in self.rows if row.get(name) is not None]
        return np.array(found, np.float64)
