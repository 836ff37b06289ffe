"""The trainer's surroundings in memory: topics, a group, and faults to order.

They behave as Kafka does where the trainer can tell the difference: one owner at a time, a former
owner is refused, a transaction is atomic, and its outcome may be unknown.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from segstream.core.record import Drift, ModelActivated, ModelRecord, Rename
from segstream.ports import NotCommitted, Unavailable
from segstream.ports.trainer import Observer, Polled
from segstream.study import Start
from segstream.testing.log import MemoryLog, Transaction, Transactions
from segstream.testing.memory import ManualClock
from segstream.trainer import Ports

Fault = Literal["refused", "lost", "committed", "announce"]


class MemoryTopics:
    """What is in Kafka: samples, versions, announcements, the group's offset and its owner.

    `faults`: the next publications fail: "refused" (aborted), "lost" and "committed" (the outcome
    is unknown to the trainer), "announce" (published, but not announced). With a `log`, versions
    are announced there too.
    """

    def __init__(self, log: MemoryLog | None = None) -> None:
        self.log = log
        self.transactions = Transactions(ManualClock()) if log is None else log
        self.samples: list[tuple[bytes | None, bytes | None]] = []
        self.versions: dict[int, ModelRecord] = {}
        self.renames: dict[int, Rename] = {}
        self.announced: list[int] = []
        self.committed = 0
        self.faults: list[Fault] = []
        self.pending: Transaction | None = None  # carries an offset of the group
        self._owner: MemorySamples | None = None
        self.generation = 0

    def assign(self, owner: "MemorySamples | None") -> None:
        """Give the partition to a member of the group, or take it from everybody."""
        self.generation += 1
        self._owner = owner
        if owner is not None:
            owner.restart()

    def owned_by(self, samples: "MemorySamples") -> bool:
        return self._owner is samples

    def settle(self) -> None:
        """Unavailable while a transaction is open that carries an offset of the group."""
        self.transactions.expire()
        if self.pending is not None and self.pending.committed is None:
            raise Unavailable("a transaction of another trainer is pending")

    def add(self, record: ModelRecord, before: int) -> None:
        """A version is committed."""
        if record.model in self.versions:
            raise AssertionError(f"version {record.model} was published twice")
        self.versions[record.model] = record
        self.committed = before

    def rename(self, rename: Rename) -> None:
        """A person wants a segment to be called so; the newest comes last, as in a topic."""
        self.renames.pop(rename.segment, None)
        self.renames[rename.segment] = rename

    def fault(self, *kinds: Fault) -> Fault | None:
        """The fault that is due now, if it is one of these."""
        return self.faults.pop(0) if self.faults and self.faults[0] in kinds else None


class Fence(NamedTuple):
    generation: int
    before: int


class MemorySamples:
    """Samples for one trainer; `limit` records per poll."""

    def __init__(self, topics: MemoryTopics, limit: int = 1_000) -> None:
        self.topics, self.limit = topics, limit
        self._claim, self._next = 0, 0

    def poll(self, timeout: float) -> Polled:  # noqa: ARG002 (nothing to wait for)
        if not self.topics.owned_by(self):
            return Polled(None, [], None)
        before = self._next
        records = self.topics.samples[before : before + self.limit]
        self._next += len(records)
        return Polled(self._claim, records, Fence(self.topics.generation, before))

    def settle(self) -> None:
        self.topics.settle()

    def restart(self) -> None:
        self._claim += 1
        self._next = 0

    def handled(self) -> None:
        self.topics.committed = self._next


class MemoryVersions:
    """Versions as of the last refresh."""

    def __init__(self, topics: MemoryTopics) -> None:
        self._topics = topics
        self._records: dict[int, ModelRecord] = {}

    def refresh(self) -> None:
        self._topics.settle()
        self._records = dict(self._topics.versions)

    def records(self) -> Mapping[int, ModelRecord]:
        return self._records

    def renames(self) -> Mapping[int, Rename]:
        return dict(self._topics.renames)


class MemoryPress:
    """Takes versions, and can fail in every way that Kafka does."""

    def __init__(self, topics: MemoryTopics, slot: str = "trainer") -> None:
        self._topics, self.slot = topics, slot

    def publish(self, record: ModelRecord, fence: object) -> None:
        transaction = self._topics.transactions.begin(self.slot)
        try:
            self.carry(transaction, record, fence)
            self.commit(transaction)
        except NotCommitted:
            self.recover()
            raise

    def carry(self, transaction: Transaction, record: ModelRecord, fence: object) -> None:
        """The version and the offset, if the fence still holds."""
        if not isinstance(fence, Fence) or fence.generation != self._topics.generation:
            raise NotCommitted("another trainer owns the partition")
        self._topics.pending = transaction
        transaction.effects.append(lambda: self._topics.add(record, fence.before))

    def commit(self, transaction: Transaction) -> None:
        fault = self._topics.fault("refused", "lost", "committed")
        if fault not in (None, "committed"):
            raise NotCommitted(fault)
        self._topics.transactions.commit(transaction)
        if fault is not None:
            raise NotCommitted(fault)

    def recover(self) -> None:
        """End what this slot has left open."""
        self._topics.transactions.recover(self.slot)

    def announce(self, record: ModelRecord) -> None:
        if self._topics.fault("announce"):
            raise Unavailable("announce")
        self._topics.announced.append(record.model)
        if (log := self._topics.log) is not None:
            body = ModelActivated(version=record.model, digest=record.digest).model_dump_json()
            for partition in range(len(log.records)):
                log.append_control(partition, "segstream.model", body)


class Notes:
    """An Observer that remembers."""

    def __init__(self) -> None:
        self.skips: list[str] = []
        self.days: list[int] = []
        self.versions: list[int] = []
        self.claims: list[int | None] = []
        self.forgotten: list[str] = []

    def turned(self, *, owner: bool) -> None: ...

    def claimed(self, newest: ModelRecord | None) -> None:
        self.claims.append(None if newest is None else newest.model)

    def forgot(self, why: str) -> None:
        self.forgotten.append(why)

    def skipped(self, reason: str) -> None:
        self.skips.append(reason)

    def learned(self, day: int, samples: int, panel: int) -> None:  # noqa: ARG002
        self.days.append(day)

    def watched(self, day: int, drift: Drift) -> None: ...

    def published(self, record: ModelRecord, fit_seconds: float) -> None:  # noqa: ARG002
        self.versions.append(record.model)


def memory_ports(
    topics: MemoryTopics,
    start: Start,
    observer: Observer | None = None,
    limit: int = 1_000,
    slot: str = "trainer",
) -> tuple[Ports, MemorySamples]:
    """Ports of one trainer, and its membership for `MemoryTopics.assign`."""
    samples = MemorySamples(topics, limit)
    press = MemoryPress(topics, slot)
    ports = Ports(samples, MemoryVersions(topics), press, start, observer or Notes())
    return ports, samples
