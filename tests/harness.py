"""Drives the core over a stream without a worker, and puts its results beside the oracle's."""

import json
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from segstream.core.batch import Checkpoint, Position
from segstream.core.config import define
from segstream.core.event import Records
from segstream.core.expression import Recency, Value
from segstream.core.inspect import portrait
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.record import ModelRecord
from segstream.core.step import Function, Partition
from segstream.testing.memory import MemoryStore
from tests.oracle import Oracle
from tests.oracle import Output as Expected

__all__ = ["Position", "Recency", "Run", "Value", "portrait"]

RETAIL = tomllib.loads(Path("segstream/presets/retail.toml").read_text())
Row = tuple[int, int, Any, bytes | None]


class Run:
    """The core over the records of one partition, cut into batches as asked."""

    def __init__(
        self,
        config: Mapping[str, Any],
        models: Mapping[int, Mapping[str, Any]],
        partition: Partition,
    ) -> None:
        self.function = Function(define(dict(config)))
        self.models = {v: Model(ModelRecord.model_validate(m)) for v, m in models.items()}
        self.partition = partition
        self.store = MemoryStore()
        self.checkpoint = Checkpoint(0, 0, "layout")
        self.outputs: list[Output] = []

    def feed(
        self,
        rows: list[Row],
        cut: Callable[[], int] = lambda: 5_000,
        ticks: Callable[[], int] = lambda: 50_000,
    ) -> "Run":
        at = 0
        while at < len(rows):
            part = rows[at : at + cut()]
            at += self.batch(columns(part), ticks())
        return self

    def batch(self, records: Records, ticks: int = 50_000) -> int:
        """Compute and store one batch; how many whole records it took."""
        function, base = self.function, self.checkpoint
        decoded = function.decode(records, self.partition)
        batch = function.gather(records, decoded, base, self.models, ticks)
        _, due = self.store.due(0, function.due_minutes(batch))
        customers = function.touched(batch, base, due)
        there, blobs = self.store.load(0, customers)
        outcome = function.step(batch, base, self.partition, self.models, (customers, blobs))
        assert self.store.write(0, None if there is None else there.position, outcome)
        self.checkpoint = outcome.checkpoint
        self.outputs += outcome.outputs
        return batch.size

    def states(self) -> dict[str, bytes]:
        return self.store.states.get(0, {})


def columns(rows: Iterable[Row]) -> Records:
    rows = list(rows)
    return Records(
        [r[0] for r in rows],
        [r[1] for r in rows],
        [r[3] for r in rows],
        [r[2] for r in rows],
        [None] * len(rows),
    )


def said(output: Output) -> dict[str, Any]:
    """An output of the core in the oracle's form."""
    headers = dict(output.headers)
    ce_id = headers.get("ce_id") if output.topic == "changes" else None
    reason = headers.get("segstream.errors.reason")
    value = output.value
    parsed = None if value is None or output.topic == "dead_letters" else json.loads(value)
    key = None if output.key is None else output.key.decode()
    return {
        "topic": output.topic,
        "key": None if output.topic == "dead_letters" else key,
        "value": parsed,
        "position": tuple(output.position),
        "ce_id": None if ce_id is None else ce_id.decode(),
        "reason": None if reason is None else reason.decode(),
    }


def expected(output: Expected) -> dict[str, Any]:
    key = output.key.decode() if isinstance(output.key, bytes) else output.key
    letter = output.topic == "dead_letters"
    return {
        "topic": output.topic,
        "key": None if letter else key,
        "value": None if letter else output.value,
        "position": tuple(output.position),
        "ce_id": output.ce_id,
        "reason": output.reason,
    }


ROUNDED = {"share", "distance", "from", "to"}


def differences(left: Any, right: Any, path: str = "") -> list[str]:
    """Where two JSON values differ: distances and shares by more than 1e-5, all else at all."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = left.keys() | right.keys()
        return [
            d
            for key in sorted(keys)
            for d in differences(left.get(key, "-"), right.get(key, "-"), f"{path}.{key}")
        ]
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        pairs = enumerate(zip(left, right, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{path}[{i}]")]
    is_rounded = path.rpartition(".")[2] in ROUNDED
    if is_rounded and isinstance(left, int | float) and isinstance(right, int | float):
        return [] if abs(left - right) <= 1e-5 else [f"{path}: {left} ≠ {right}"]
    return [] if left == right else [f"{path}: {left!r} ≠ {right!r}"]


def oracle_of(stream: Any, function: Function) -> Oracle:
    oracle = Oracle(
        stream.config,
        partition=stream.partition,
        partitions=stream.partitions,
        partitioner=stream.partitioner,
        models=stream.models,
        features_id=function.features_id,
    )
    for record in stream.records:
        oracle.feed(*record)
    return oracle


def state_of(function: Function, customer: str, blob: bytes) -> dict[str, Any]:
    """A State's bytes in the oracle's form, as far as the layout keeps it."""
    layout = function.layout
    (state,) = layout.unpack([blob], [customer])
    pane, accepted = int(state["pane"]), int(state["accepted"])
    panes: dict[str, dict[int, int]] = {}
    for block, names in (("counts", layout.counts), ("sums", layout.sums), ("bits", layout.bits)):
        for i, name in enumerate(names):
            ring = state[block][i].tolist()
            held = {pane - (pane - s) % layout.panes: v for s, v in enumerate(ring) if v}
            panes[name] = held
    return {
        "hash": int(state["hash"]),
        "last": int(state["last"]),
        "segment": int(state["segment"]) or None,
        "pending": int(state["pending"]) or None,
        "pending_since": int(state["pending_since"]) if state["pending"] else None,
        "stamp": int(state["stamp"]) or None,
        "sequence": int(state["sequence"]),
        "since": int(state["since"]) if state["segment"] else None,
        "ids": [int(state["ids"][i % 16]) for i in range(max(0, accepted - 16), accepted)],
        "panes": panes,
        "values": {
            name: (float(state["lasts"][i]), int(state["lasts_at"][i]))
            if state["lasts_at"][i] >= 0
            else None
            for i, name in enumerate(layout.lasts)
        },
        "recency": {
            name: int(state["seen"][i]) if state["seen"][i] >= 0 else None
            for i, name in enumerate(layout.recencies)
        },
    }
