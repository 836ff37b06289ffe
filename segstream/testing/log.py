"""Apache Kafka in memory, as far as a worker can tell the difference.

Records of an open transaction hold up those who read behind them, and its end takes an offset; an
offset that a transaction carries cannot be read while it is open; who is no member of the group's
present generation cannot add offsets, but a transaction that already carries them can be
committed; a transaction ends when its time is over, or when another begins in the same slot.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from segstream.core.batch import Position
from segstream.core.event import Headers
from segstream.core.output import Output
from segstream.ports import Clock, NotCommitted, Published, Unavailable

TRANSACTION_SECONDS = 10.0


class Transaction:
    """Of one slot; `committed` is None while it is open."""

    def __init__(self, slot: str, deadline: float) -> None:
        self.slot, self.deadline = slot, deadline
        self.committed: bool | None = None
        self.offsets: dict[int, Published] = {}
        self.partitions: set[int] = set()  # of the log, that it has written to
        self.effects: list[Callable[[], object]] = []  # of its commit, elsewhere


class Transactions:
    """The coordinator of all slots."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[str, Transaction] = {}

    def begin(self, slot: str) -> Transaction:
        """Another one: what the slot had left open is aborted."""
        self.recover(slot)
        transaction = Transaction(slot, self._clock.monotonic() + TRANSACTION_SECONDS)
        self._open[slot] = transaction
        return transaction

    def recover(self, slot: str) -> None:
        if (left := self._open.get(slot)) is not None:
            self.end(left, committed=False)

    def commit(self, transaction: Transaction) -> None:
        """NotCommitted if it has ended before."""
        self.require(transaction)
        self.end(transaction, committed=True)

    def end(self, transaction: Transaction, *, committed: bool) -> bool:
        """Whether it was still open."""
        if transaction.committed is not None:
            return False
        transaction.committed = committed
        del self._open[transaction.slot]
        self.ended(transaction)
        if committed:
            for effect in transaction.effects:
                effect()
        return True

    def ended(self, transaction: Transaction) -> None:
        """For those who keep what a transaction holds."""

    def require(self, transaction: Transaction) -> None:
        """NotCommitted if it is no longer open."""
        self.expire()
        if transaction.committed is not None:
            raise NotCommitted("the transaction was ended: it took too long, or its slot is taken")

    def expire(self) -> None:
        now = self._clock.monotonic()
        for transaction in [t for t in self._open.values() if t.deadline <= now]:
            self.end(transaction, committed=False)

    def open(self) -> list[Transaction]:
        self.expire()
        return list(self._open.values())


class LogRecord(NamedTuple):
    """`transaction` None: written without one."""

    offset: int
    appended: int
    value: bytes | None
    headers: Headers
    key: bytes | None
    transaction: Transaction | None


class Member(Protocol):
    """Somebody who shares the partitions with others, and sees a rebalance in the next poll."""

    def moved(self, partitions: frozenset[int]) -> None: ...


class Membership(NamedTuple):
    """Proof of having been a member at some time."""

    member: Member
    generation: int


class MemoryLog(Transactions):
    """`customer-events` with W and the group, and all that was published elsewhere."""

    def __init__(self, partitions: int, layout: str, clock: Clock) -> None:
        super().__init__(clock)
        self.clock = clock
        self.topic_id = "in-memory"
        self.records: list[list[LogRecord]] = [[] for _ in range(partitions)]
        self.starts, self.ends = [0] * partitions, [0] * partitions
        self.published = {p: Published(Position(0, 0), layout, 0) for p in range(partitions)}
        self.generation = 0
        self.owners: dict[int, Member] = {}
        self._members: list[Member] = []
        self._outputs: list[tuple[Transaction, Output]] = []

    # -- records ----------------------------------------------------------------------

    def append(
        self,
        partition: int,
        value: bytes | None,
        *,
        headers: Headers = None,
        key: bytes | None = None,
        appended: int | None = None,
        offset: int | None = None,
        transaction: Transaction | None = None,
    ) -> None:
        """At the end; stamped as a broker does, by its clock, which never goes back in a log."""
        log = self.records[partition]
        latest = log[-1].appended if log else 0
        at = max(latest, self.clock.wall()) if appended is None else appended
        number = self.ends[partition] if offset is None else offset
        log.append(LogRecord(number, at, value, headers, key, transaction))
        self.ends[partition] = number + 1

    def append_control(self, partition: int, kind: str, value: str) -> None:
        """`segstream.clock` or `segstream.model`, plain."""
        self.append(
            partition,
            value.encode(),
            headers=[
                ("ce_specversion", b"1.0"),
                ("ce_id", kind.encode()),
                ("ce_source", b"segstream"),
                ("ce_type", kind.encode()),
                ("content-type", b"application/json"),
            ],
        )

    def read(self, partition: int, offset: int, limit: int) -> tuple[list[LogRecord], int, bool]:
        """Committed records from an offset on; the offset behind them; whether none are left."""
        self.expire()
        found: list[LogRecord] = []
        log = self.records[partition]
        for record in log[_index(log, offset) :]:
            ended = record.transaction is None or record.transaction.committed
            if ended is None:  # nobody reads beyond an open transaction
                return found, record.offset, not found
            if len(found) == limit:
                return found, record.offset, False
            if ended:
                found.append(record)
        return found, self.ends[partition], not found

    def committed(self, partition: int) -> list[LogRecord]:
        """All records, as a reader sees them who waits for the end of every transaction."""
        return self.read(partition, 0, len(self.records[partition]))[0]

    @property
    def outputs(self) -> list[Output]:
        """What was published and committed, in order; of all topics and partitions."""
        self.expire()
        return [output for transaction, output in self._outputs if transaction.committed]

    # -- transactions -----------------------------------------------------------------

    def produce(self, transaction: Transaction, output: Output) -> None:
        """NotCommitted if the transaction is no longer open."""
        self.require(transaction)
        self._outputs.append((transaction, output))
        if output.topic == "events":
            value, headers, key = output.value, output.headers, output.key
            self.append(output.partition, value, headers=headers, key=key, transaction=transaction)
            transaction.partitions.add(output.partition)

    def carry(
        self, transaction: Transaction, positions: Mapping[int, Published], metadata: object
    ) -> None:
        """Add offsets; NotCommitted if `metadata` are not of the group's present generation."""
        self.require(transaction)
        if metadata is not None and not self.is_current(metadata):
            raise NotCommitted("the group has moved on")
        transaction.offsets.update(positions)

    def is_current(self, metadata: object) -> bool:
        """Whether this is a member's now. Which partitions it owns is not asked, as in Kafka."""
        return (
            isinstance(metadata, Membership)
            and metadata.generation == self.generation
            and metadata.member in self._members
        )

    def ended(self, transaction: Transaction) -> None:
        for partition in transaction.partitions:
            self.ends[partition] += 1  # the marker
        if transaction.committed:
            self.published.update(transaction.offsets)

    # -- the group --------------------------------------------------------------------

    def stable(self, partition: int) -> Published | None:
        """W; Unavailable while an open transaction carries another one."""
        if any(partition in transaction.offsets for transaction in self.open()):
            raise Unavailable(f"W of partition {partition}: a transaction is pending")
        return self.published.get(partition)

    def assign(self, members: Iterable[Member]) -> None:
        """Spread the partitions over the members: a rebalance. Others are members no more."""
        self.generation += 1
        former, self._members = self._members, list(members)
        shares: dict[Member, set[int]] = defaultdict(set)
        self.owners = {
            p: self._members[p % len(self._members)]
            for p in range(len(self.records))
            if self._members
        }
        for partition, owner in self.owners.items():
            shares[owner].add(partition)
        for member in dict.fromkeys([*former, *self._members]):
            member.moved(frozenset(shares[member]))

    def membership(self, member: Member) -> Membership | None:
        return Membership(member, self.generation) if member in self._members else None


def _index(log: list[LogRecord], offset: int) -> int:
    """Of the first record that is not before the offset."""
    low, high = 0, len(log)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if log[middle].offset < offset else (low, middle)
    return low
