"""Computes a partition again from Kafka; nothing is written or published."""

from collections.abc import Callable, Iterator
from itertools import islice

from segstream.core.batch import Position
from segstream.core.event import Records
from segstream.core.output import Output
from segstream.core.recompute import Recomputation, Unreachable, placed
from segstream.ports import Models
from segstream.shell.kafka import records_of
from segstream.shell.reading import Reading

RECORDS = 5_000

Progress = Callable[[int], None]
"""Takes the offset up to which the log is computed."""


class Recomputer:
    """Feeds a Recomputation with the log, from where that begins."""

    def __init__(
        self, again: Recomputation, log: Reading, models: Models, progress: Progress
    ) -> None:
        self.again = again
        self._log, self._models, self._progress = log, models, progress

    def to(self, target: Position) -> Iterator[Output]:
        """Compute exactly up to there; Unreachable if the log does not lead there."""
        yield from self.before(target.offset)
        while self.again.checkpoint.position < target:
            # The target lies within the ticks of the next record, which is not taken itself.
            ahead = self._log.peek(self._log.bounds()[1])
            if ahead is None:
                break
            yield from self._step(records_of([ahead]), target)[1]
        if self.again.checkpoint.position != target:
            there = placed(self.again.checkpoint.position)
            raise Unreachable(f"the log leads to {there}, not to {placed(target)}")

    def before(self, offset: int) -> Iterator[Output]:
        """Compute all records before an offset."""
        messages, target = self._log.to(offset), Position(offset, 0)
        while chunk := list(islice(messages, RECORDS)):
            records = records_of(chunk)
            while len(records):
                taken, outputs = self._step(records, target)
                yield from outputs
                records = records.part(taken)
            self._progress(chunk[-1].offset() + 1)

    def _step(self, records: Records, target: Position) -> tuple[int, list[Output]]:
        decoded, versions = self.again.decode(records)
        if not versions <= self._models.at_hand().keys():
            self._models.find(versions)
        return self.again.step(records, decoded, self._models.at_hand(), target)
