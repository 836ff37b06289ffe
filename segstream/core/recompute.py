"""One partition computed again from its log, in memory; nothing is written or said."""

from collections.abc import Mapping

from segstream.core.batch import Batch, Checkpoint, Position
from segstream.core.call import ModelControl
from segstream.core.event import Decoded, Records
from segstream.core.expression import MINUTE
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.step import Function, Outcome, Partition

TICKS = 50_000


class Unreachable(Exception):
    """The log does not lead to this position."""


class Recomputation:
    """Holds the States of the whole partition, and the index of their minutes."""

    def __init__(self, function: Function, where: Partition, start: Checkpoint) -> None:
        self.function, self.where, self.checkpoint = function, where, start
        self.records = 0
        self.states: dict[str, bytes] = {}
        self.minutes: dict[int, set[str]] = {}

    def decode(self, records: Records) -> tuple[Decoded, set[int]]:
        """Events and controls, and the versions that must be at hand for the next step."""
        decoded = self.function.decode(records, self.where)
        return decoded, {c.version for _, c in decoded.controls if isinstance(c, ModelControl)}

    def step(
        self, records: Records, decoded: Decoded, models: Mapping[int, Model], target: Position
    ) -> tuple[int, list[Output]]:
        """Compute a batch that ends at `target` at the latest.

        All records are before `target`, or there is only the one within whose ticks it lies.
        How many whole records were taken, and what there is to say.
        """
        if records.offsets[-1] < target.offset:
            batch = self.function.gather(records, decoded, self.checkpoint, models, TICKS)
        else:
            batch = self._part(records, decoded, models, target)
        people = self.function.touched(batch, self.checkpoint, self._due(batch))
        states = (people, [self.states.get(customer) for customer in people])
        outcome = self.function.step(batch, self.checkpoint, self.where, models, states)
        self.records += batch.size
        self._write(outcome)
        return batch.size, outcome.outputs

    def _part(
        self, records: Records, decoded: Decoded, models: Mapping[int, Model], target: Position
    ) -> Batch:
        """As many minutes of the record's ticks as lead to `target`, or fewer."""

        def cut(ticks: int) -> Batch:
            return self.function.gather(records, decoded, self.checkpoint, models, ticks)

        first = cut(0)  # one minute
        minutes = (target.clock - first.end.clock) // MINUTE + 1
        if first.size or minutes < 1:
            raise Unreachable(
                f"the log leads to {placed(self.checkpoint.position)} and then to "
                f"{placed(first.end)}, not to {placed(target)}"
            )
        customers = self.checkpoint.customers + len(decoded.events.customers)
        batch = cut(minutes * customers // self.function.definition.tick.minutes)
        return first if batch.size else batch

    def _due(self, batch: Batch) -> list[str]:
        minutes = self.function.due_minutes(batch)
        return [customer for minute in minutes for customer in self.minutes.get(minute, ())]

    def _write(self, outcome: Outcome) -> None:
        self.checkpoint = outcome.checkpoint
        self.states.update(outcome.writes)
        for customer in outcome.deletes:
            del self.states[customer]
        for minute, customer in outcome.unindexed:
            self.minutes[minute].remove(customer)
        for minute, customer in outcome.indexed:
            self.minutes.setdefault(minute, set()).add(customer)


def placed(position: Position) -> str:
    """A position in words."""
    return f"offset {position.offset}, clock {position.clock}"
