"""What an audit has found on one partition."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from segstream.core.audit import Problem
from segstream.core.batch import Position

KEPT = 1_000
"""Problems that are kept of a partition; all are counted."""


@dataclass
class Report:
    """`obstacle`: why the partition could not be computed again; empty if it was."""

    partition: int
    position: Position  # N, when Redis was read
    obstacle: str = ""
    records: int = 0  # computed
    customers: int = 0  # whose States and memberships were looked at
    changes: int = 0  # looked at
    number: int = 0  # of problems
    problems: list[Problem] = field(default_factory=list)

    def note(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.number += 1
            if len(self.problems) < KEPT:
                self.problems.append(problem)
