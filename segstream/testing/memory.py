"""The segmenter's surroundings in memory: a log, a store, topics and a clock.

They behave as the real ones do where the worker can tell the difference: positions are checked,
transactions are atomic, a worker that lost its partitions is refused. Public, so that users can
test their own configuration without servers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from segstream.core.batch import Checkpoint, Position
from segstream.core.event import Headers, Records
from segstream.core.model import Model
from segstream.core.output import Output, ms_text
from segstream.core.record import ModelRecord
from segstream.core.step import Outcome
from segstream.ports import Announced, Clock, Fetched, NotCommitted, Published


@dataclass
class LogRecord:
    offset: int
    appended: int
    value: bytes | None
    headers: Headers = None
    key: bytes | None = None


class MemoryLog:
    """The partitions of `customer-events`, W, and who owns what."""

    def __init__(self, partitions: int, layout: str, clock: Clock) -> None:
        self.clock = clock
        self.records: list[list[LogRecord]] = [[] for _ in range(partitions)]
        self.published = {p: Published(Position(0, 0), layout, 0) for p in range(partitions)}
        self.owners: dict[int, MemorySource] = {}
        self.generation = 0
        self.topic_id = "in-memory"

    def append(
        self,
        partition: int,
        value: bytes | None,
        *,
        headers: Headers = None,
        key: bytes | None = None,
        appended: int | None = None,
        offset: int | None = None,
    ) -> None:
        """At the end; stamped as a broker does, by its clock, which never goes back in a log."""
        log = self.records[partition]
        number, latest = (log[-1].offset + 1, log[-1].appended) if log else (0, 0)
        log.append(
            LogRecord(
                number if offset is None else offset,
                max(latest, self.clock.wall()) if appended is None else appended,
                value,
                headers,
                key,
            )
        )

    def assign(self, members: Iterable["MemorySource"]) -> None:
        """Spread the partitions over the members: a rebalance."""
        self.generation += 1
        members = list(members)
        for source in {*self.owners.values(), *members}:
            source.revoke()
        self.owners = {p: members[p % len(members)] for p in range(len(self.records))}
        for partition, source in self.owners.items():
            source.assign(partition)


class MemorySource:
    """A member of the group."""

    def __init__(self, log: MemoryLog, cuts: Iterable[int] = ()) -> None:
        self.log = log
        self.metadata = 0
        self._cuts = iter(cuts)
        self._next: dict[int, int] = {}  # partition -> offset, those that are started
        self._mine: set[int] = set()
        self._assigned: set[int] = set()
        self._revoked: set[int] = set()

    def revoke(self) -> None:
        self._revoked |= self._mine
        self._assigned -= self._mine
        self._mine.clear()
        self._next.clear()

    def assign(self, partition: int) -> None:
        self._mine.add(partition)
        self._assigned.add(partition)

    def poll(self, limit: int, timeout: float) -> Fetched:
        del timeout
        self.metadata = self.log.generation
        limit = min(limit, next(self._cuts, limit))
        found: dict[int, Records] = {}
        at_end = set()
        for partition, offset in self._next.items():
            log = self.log.records[partition]
            new = log[_index(log, offset) :][:limit]
            if new:
                found[partition] = Records(
                    [r.offset for r in new],
                    [r.appended for r in new],
                    [r.value for r in new],
                    [r.headers for r in new],
                    [r.key for r in new],
                )
                self._next[partition] = new[-1].offset + 1
            else:
                at_end.add(partition)
        assigned, self._assigned = frozenset(self._assigned), set()
        revoked, self._revoked = frozenset(self._revoked), set()
        return Fetched(found, frozenset(at_end), assigned, revoked, self.metadata)

    def committed(self, partition: int) -> Published | None:
        return self.log.published.get(partition)

    def topic_id(self) -> str:
        return self.log.topic_id

    def partitions(self) -> int:
        return len(self.log.records)

    def bounds(self, partition: int) -> tuple[int, int]:
        log = self.log.records[partition]
        return (log[0].offset if log else 0), self.log_end(partition)

    def log_end(self, partition: int) -> int:
        log = self.log.records[partition]
        return log[-1].offset + 1 if log else 0

    def start(self, partition: int, offset: int) -> None:
        self._next[partition] = offset

    def pause(self, partition: int) -> None:
        self._next.pop(partition, None)


def _index(log: list[LogRecord], offset: int) -> int:
    low, high = 0, len(log)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if log[middle].offset < offset else (low, middle)
    return low


@dataclass
class MemoryStore:
    """States, minute index and Checkpoints per partition."""

    meta: dict[int, Checkpoint] = field(default_factory=dict)
    states: dict[int, dict[str, bytes]] = field(default_factory=dict)
    minutes: dict[int, dict[int, set[str]]] = field(default_factory=dict)
    layout: Announced | None = None

    def check(self) -> None:
        """Memory never throws anything away."""

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

    def load(
        self, partition: int, customers: list[str]
    ) -> tuple[Checkpoint | None, list[bytes | None]]:
        states = self.states.get(partition, {})
        return self.meta.get(partition), [states.get(c) for c in customers]

    def write(self, partition: int, base: Position | None, outcome: Outcome) -> bool:
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
            del states[customer]
        for minute, customer in outcome.unindexed:
            index[minute].remove(customer)
        for minute, customer in outcome.indexed:
            index.setdefault(minute, set()).add(customer)
        return True


class MemorySink:
    """The output topics as one list, in the order of commits; forwarded calls go to the log."""

    def __init__(self, log: MemoryLog, source: MemorySource) -> None:
        self.log, self.source = log, source
        self.outputs: list[Output] = []

    def publish(
        self, outputs: list[Output], positions: Mapping[int, Published], metadata: object
    ) -> None:
        if metadata != self.log.generation:
            raise NotCommitted("the group has moved on")
        for partition, published in positions.items():
            if published.position <= self.log.published[partition].position:
                raise AssertionError(f"W of partition {partition} would not advance")
            self.log.published[partition] = published
        self.outputs += outputs
        for o in outputs:
            if o.topic == "events":
                self.log.append(o.partition, o.value, headers=o.headers, key=o.key)

    def append_clock(self, partition: int, time: int) -> None:
        headers: Headers = [("ce_type", b"segstream.clock")]
        value = f'{{"time":"{ms_text(time)}"}}'.encode()
        self.log.append(partition, value, headers=headers)


class MemoryModels:
    """Versions that are known; `hidden` ones appear at the next refresh."""

    def __init__(self, records: Iterable[ModelRecord] = ()) -> None:
        self.hidden = {record.model: record for record in records}
        self._models: dict[int, Model] = {}

    def at_hand(self) -> Mapping[int, Model]:
        return self._models

    def refresh(self) -> None:
        self._models |= {v: Model(r) for v, r in self.hidden.items() if v not in self._models}


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
