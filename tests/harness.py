"""Drives the core over the records of one partition without a worker."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from segstream.core.batch import Checkpoint
from segstream.core.check import define
from segstream.core.event import Records
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.record import ModelRecord
from segstream.core.step import Function, Partition
from segstream.ports import Write
from segstream.testing.memory import MemoryStore
from tests.oracle import Record

PRESETS = Path(__file__).parents[1] / "segstream" / "presets"
RETAIL = tomllib.loads((PRESETS / "retail.toml").read_text())


class Replay:
    """The core over the records of one partition."""

    def __init__(
        self,
        function: Function,
        models: Mapping[int, Model],
        partition: Partition,
        start: Checkpoint,
    ) -> None:
        self.function, self.models, self.partition = function, dict(models), partition
        self.store = MemoryStore()
        self.checkpoint = start
        self.batches = 0
        self.outputs: list[Output] = []

    def batch(self, records: Records, ticks: int = 50_000) -> int:
        """Compute and store one batch; how many whole records it took."""
        function, base = self.function, self.checkpoint
        decoded = function.decode(records, self.partition)
        batch = function.gather(records, decoded, base, self.models, ticks)
        _, due = self.store.due(0, function.due_minutes(batch))
        customers = function.touched(batch, base, due)
        there, blobs = self.store.load({0: customers})[0]
        outcome = function.step(batch, base, self.partition, self.models, (customers, blobs))
        assert self.store.write([Write(0, None if there is None else there.position, outcome)])
        # The worker looks among them for the first beyond W.
        positions = [base.position, *(output.position for output in outcome.outputs)]
        assert positions == sorted(positions)
        self.checkpoint = outcome.checkpoint
        self.outputs += outcome.outputs
        self.batches += 1
        return batch.size

    def states(self) -> dict[str, bytes]:
        return self.store.states.get(0, {})


class Run(Replay):
    """A replay of records of a stream, cut into batches as asked."""

    def __init__(
        self,
        config: Mapping[str, Any],
        models: Mapping[int, Mapping[str, Any]],
        partition: Partition,
    ) -> None:
        known = {v: Model(ModelRecord.model_validate(m)) for v, m in models.items()}
        start = Checkpoint(0, 0, "layout")
        super().__init__(Function(define(dict(config))), known, partition, start)

    def feed(
        self,
        records: Sequence[Record],
        cut: Callable[[], int] = lambda: 5_000,
        ticks: Callable[[], int] = lambda: 50_000,
    ) -> "Run":
        at = 0
        while at < len(records):
            part = records[at : at + cut()]
            at += self.batch(columns(part), ticks())
        return self


def columns(records: Sequence[Record]) -> Records:
    """Records of a stream as the core takes them."""
    return Records(
        [record.offset for record in records],
        [record.append_time for record in records],
        [record.value for record in records],
        [None if record.headers is None else list(record.headers) for record in records],
        [record.key for record in records],
    )
