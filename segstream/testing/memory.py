"""The segmenter's surroundings in memory: a member of the group, a store, a sink and a clock.

They behave as the real ones do where the worker can tell the difference: `tests/contract` holds
both against the same tests. Public, so that users can test their own configuration without servers.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from segstream.core.batch import Checkpoint
from segstream.core.event import Records
from segstream.core.model import Model
from segstream.core.output import Output, ms_text
from segstream.core.record import ModelRecord
from segstream.core.step import Outcome
from segstream.ports import (
    Announced,
    Fetched,
    Loaded,
    NotCommitted,
    Published,
    Refused,
    Write,
)
from segstream.testing.log import LogRecord, MemoryLog, Transaction


class MemorySource:
    """A member of the group, once `MemoryLog.assign` has named it."""

    def __init__(self, log: MemoryLog) -> None:
        self.log = log
        self._next: dict[int, int] = {}  # partition → offset, of those that are started
        self._mine: frozenset[int] = frozenset()
        self._moved: frozenset[int] | None = None  # a rebalance that no poll has told of
        self._polls = 0

    def moved(self, partitions: frozenset[int]) -> None:
        """Of a rebalance a member hears in its next poll."""
        self._moved = partitions

    def poll(self, limit: int, timeout: float) -> Fetched:  # noqa: ARG002 (nothing to wait for)
        assigned = revoked = frozenset[int]()
        if self._moved is not None:
            assigned, revoked = self._moved, self._mine
            self._mine, self._moved = self._moved, None
            self._next.clear()
        found: dict[int, Records] = {}
        at_end, strayed = set(), set()
        self._polls += 1
        for partition in self._in_turn():
            offset = self._next[partition]
            low, high = self.bounds(partition)
            if not low <= offset <= high:
                strayed.add(partition)
                continue
            new, self._next[partition], ended = self.log.read(partition, offset, limit)
            limit -= len(new)
            if new:
                found[partition] = columns(new)
            elif ended:
                at_end.add(partition)
        metadata = self.log.membership(self)
        return Fetched(found, frozenset(at_end), assigned, revoked, metadata, frozenset(strayed))

    def _in_turn(self) -> list[int]:
        """No partition comes first every time: together they bring `limit` records."""
        started = sorted(self._next)
        first = self._polls % max(1, len(started))
        return started[first:] + started[:first]

    def committed(self, partition: int) -> Published | None:
        return self.log.stable(partition)

    def topic_id(self) -> str:
        return self.log.topic_id

    def partitions(self) -> int:
        return len(self.log.records)

    def bounds(self, partition: int) -> tuple[int, int]:
        return self.log.starts[partition], self.log.ends[partition]

    def log_end(self, partition: int) -> int:
        return self.log.ends[partition]

    def start(self, partition: int, offset: int) -> None:
        self._next[partition] = offset

    def pause(self, partition: int) -> None:
        self._next.pop(partition, None)


def columns(records: Sequence[LogRecord]) -> Records:
    """Records of a log as the core takes them."""
    return Records(
        [r.offset for r in records],
        [r.appended for r in records],
        [r.value for r in records],
        [r.headers for r in records],
        [r.key for r in records],
    )


@dataclass
class MemoryStore:
    """States, minute index and Checkpoints per partition. `policy` as Redis calls it."""

    meta: dict[int, Checkpoint] = field(default_factory=dict)
    states: dict[int, dict[str, bytes]] = field(default_factory=dict)
    minutes: dict[int, dict[int, set[str]]] = field(default_factory=dict)
    layout: Announced | None = None
    policy: str = "noeviction"

    def check(self) -> None:
        if self.policy != "noeviction":
            raise Refused(f"Redis has maxmemory-policy {self.policy}: it would drop States")

    def announced(self) -> Announced | None:
        return self.layout

    def announce(self, announced: Announced) -> None:
        self.layout = announced

    def checkpoint(self, partition: int) -> Checkpoint | None:
        return self.meta.get(partition)

    def due(self, partition: int, minutes: list[int]) -> tuple[Checkpoint | None, list[str]]:
        index = self.minutes.get(partition, {})
        customers = [c for minute in minutes for c in index.get(minute, ())]
        return self.meta.get(partition), customers

    def load(self, wanted: Mapping[int, list[str]]) -> dict[int, Loaded]:
        return {p: self._load(p, customers) for p, customers in wanted.items()}

    def _load(self, partition: int, customers: list[str]) -> Loaded:
        states = self.states.get(partition, {})
        return self.meta.get(partition), [states.get(c) for c in customers]

    def write(self, writes: Sequence[Write]) -> set[int]:
        return {write.partition for write in writes if self.written(write)}

    def written(self, write: Write) -> bool:
        """Whether this one is there now."""
        partition, base, outcome = write
        there = self.meta.get(partition)
        if there is not None and there.position == outcome.checkpoint.position:
            return True
        if (None if there is None else there.position) != base:
            return False
        self.meta[partition] = outcome.checkpoint
        states = self.states.setdefault(partition, {})
        states.update(outcome.writes)
        index = self.minutes.setdefault(partition, {})
        for customer in outcome.deletes:
            states.pop(customer, None)
        for minute, customer in outcome.unindexed:
            index.get(minute, set()).discard(customer)
        for minute, customer in outcome.indexed:
            index.setdefault(minute, set()).add(customer)
        return True


class MemorySink:
    """Publishes into the log's topics, under a slot that nobody else should use."""

    def __init__(self, log: MemoryLog, slot: str = "0") -> None:
        self.log, self.slot = log, slot
        self.recover()

    def publish(
        self, outputs: list[Output], positions: Mapping[int, Published], metadata: object
    ) -> None:
        transaction = self.begin()
        try:
            self.produce(transaction, outputs)
            self.carry(transaction, positions, metadata)
            self.commit(transaction)
        except NotCommitted:
            self.recover()
            raise

    def begin(self) -> Transaction:
        return self.log.begin(self.slot)

    def produce(self, transaction: Transaction, outputs: list[Output]) -> None:
        for output in outputs:
            self.log.produce(transaction, output)

    def carry(
        self, transaction: Transaction, positions: Mapping[int, Published], metadata: object
    ) -> None:
        self.log.carry(transaction, positions, metadata)

    def commit(self, transaction: Transaction) -> None:
        self.log.commit(transaction)

    def recover(self) -> None:
        """End what this slot has left open."""
        self.log.recover(self.slot)

    def append_clock(self, partition: int, time: int) -> None:
        self.log.append_control(partition, "segstream.clock", f'{{"time":"{ms_text(time)}"}}')


class MemoryModels:
    """Versions, as of the last refresh. `records` may grow meanwhile."""

    def __init__(self, records: Mapping[int, ModelRecord]) -> None:
        self.records = records
        self._models: dict[int, Model] = {}

    def at_hand(self) -> Mapping[int, Model]:
        return self._models

    def refresh(self) -> None:
        new = self.records.keys() - self._models.keys()
        self._models |= {version: Model(self.records[version]) for version in sorted(new)}

    def find(self, _versions: Collection[int]) -> None:
        self.refresh()


@dataclass
class ManualClock:
    """Stands still until it is set."""

    now: int = 0

    def wall(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1000

    def cpu(self) -> float:
        return 0.0


class Silent:
    """An observer that takes no note."""

    def turned(self, *, member: bool) -> None: ...
    def ready(self, partitions: Iterable[int]) -> None: ...
    def share(self, partition: int, share: float) -> None: ...
    def halted(self, partition: int, share: float) -> None: ...
    def stage(self, name: str, seconds: float) -> None: ...
    def batch(self, partition: int, size: int, outcome: Outcome, before: Checkpoint) -> None: ...
    def published(self, partition: int, ages: list[int]) -> None: ...
    def stands(self, partition: int, lag: int, delay: int) -> None: ...
    def reclaimed(self, partition: int, why: str) -> None: ...
    def owned(self, partitions: Iterable[int]) -> None: ...
