"""The segmenter's loop: the only place with an order of effects.

    poll ─▶ compute (pure) ─▶ publish what is beyond W ─▶ write to the store if it still says N

Per partition there are two positions. **N** stands in the store, beside the States that belong to
it. **W** is the group offset in Kafka, committed in the same transaction as the outputs: all up to
W is published. Publishing comes first, so N < W after a crash: the missing rows are computed again
and, not being beyond W, are not published again. N > W is normal: rows without output.
Whatever is unclear (a refused or unknown commit, a store that stands elsewhere) is answered in one
way: forget the partition, poll, claim it again. Why it holds: `docs/decisions/0002-delivery.md`.
"""

import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, TypeVar

from segstream.claim import Ground
from segstream.core.batch import Batch, Checkpoint, Position
from segstream.core.call import ModelControl
from segstream.core.event import Records
from segstream.core.hash import Partitioner
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.state import Foreign
from segstream.core.step import Function, Outcome, Partition
from segstream.ports import (
    Fetched,
    NotCommitted,
    Ports,
    Published,
    Refused,
    Unavailable,
    Write,
)

T = TypeVar("T")
SHARE_RECORDS = 1_000
TOGETHER = 1_000
"""States that are loaded, or written, in one round trip, if they are of several partitions."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Numbers that change speed, never results."""

    records: int = 20_000  # per poll: what the client holds ready
    ticks: int = 50_000  # per batch, about
    poll_seconds: float = 0.2
    lazy_seconds: float = 10.0  # W follows a quiet partition
    lazy_records: int = 100_000
    idle_seconds: float = 60.0  # clock record into a silent partition; 0 = never
    dead_share: float = 1.0  # of dead letters above which a partition is halted; 1 = never


@dataclass
class Latest:
    """The latest batches of a partition, of SHARE_RECORDS records or a little more."""

    batches: deque[tuple[int, int]] = field(default_factory=deque)  # (records, dead letters)
    records: int = 0
    letters: int = 0

    def share(self, records: int, letters: int) -> float:
        """Share of dead letters among the latest records, these included; 0 of too few."""
        self.batches.append((records, letters))
        self.records += records
        self.letters += letters
        while self.records - self.batches[0][0] >= SHARE_RECORDS:
            gone, dead = self.batches.popleft()
            self.records -= gone
            self.letters -= dead
        return self.letters / self.records if self.records >= SHARE_RECORDS else 0.0


@dataclass
class Owned:
    """A partition that this worker holds."""

    ready: bool = False
    checkpoint: Checkpoint = field(default_factory=lambda: Checkpoint(0, 0, ""))
    published: Published = field(default_factory=lambda: Published(Position(0, 0), "", 0))
    held: Records | None = None
    at_end: bool = False
    halted: bool = False  # until the process is started again
    tried: int = 0  # number of the last claim
    last_record: float = 0.0
    latest: Latest = field(default_factory=Latest)


class Gathered(NamedTuple):
    """A batch, and the customers whose States it needs."""

    partition: int
    base: Checkpoint
    batch: Batch
    models: Mapping[int, Model]
    customers: list[str]


class Computed(NamedTuple):
    partition: int
    base: Checkpoint
    there: Position | None  # what the store said; None: nothing was written yet
    outcome: Outcome
    appended: Sequence[int]  # ms, of the records
    size: int


class Worker:
    """Drives any number of partitions, one batch each per turn."""

    def __init__(
        self,
        function: Function,
        ports: Ports,
        topic: str,
        partitions: int,
        partitioner: Partitioner,
        limits: Limits = Limits(),
    ) -> None:
        self.function, self.limits = function, limits
        self.source, self.store, self.sink = ports.source, ports.store, ports.sink
        self.models, self.clock, self.observer = ports.models, ports.clock, ports.observer
        self.partitions, self.partitioner, self.topic = partitions, partitioner, topic
        layout = function.definition.digest(partitions, partitioner)
        self.ground = Ground(ports, topic, partitions, partitioner, layout)
        self.owned: dict[int, Owned] = {}
        self._lazy_at = self.clock.monotonic()
        self._lazy_records = 0
        self._claims = 0

    def run(self, stop: Callable[[], bool]) -> None:
        """Work until `stop()`; leaves W at N. Raises Refused when a person must look."""
        while not stop():
            self.turn()
        try:
            fetched = self.source.poll(0, 0.0)
            self._take(fetched)  # W of a partition that was lost just now is not ours to set
            self.follow(fetched.metadata)
        except (NotCommitted, Unavailable) as error:
            log.info("W stays behind N: %s", error)

    def turn(self) -> None:
        """Poll once, and compute, publish and write what came."""
        holding = any(p.held is not None and p.ready for p in self.owned.values())
        timeout = 0.0 if holding else self.limits.poll_seconds
        limit = 1 if holding else self.limits.records
        try:
            fetched = self.timed("poll", lambda: self.source.poll(limit, timeout))
            self.observer.turned(member=fetched.metadata is not None)
            self._take(fetched)
            if fetched.metadata is None:
                return  # no member of the group: nothing may be published, so nothing is computed
            self._claim_all()
            computed = list(self._compute_all())
            batches = [c for c in computed if not self._halts(c)]
            self._publish(batches, fetched.metadata)
            for some in grouped(batches, lambda c: len(c.outcome.writes)):
                self._write(some)
            self._keep_time()
            if self._lazy_due():
                self.follow(fetched.metadata)
                self.ground.look()  # nobody may change it below a worker that has its claims
        except (NotCommitted, Unavailable) as error:
            for partition in self.owned:
                self.reclaim(partition, str(error))

    # -- ownership --------------------------------------------------------------------

    def _take(self, fetched: Fetched) -> None:
        """Note what the poll brought; what is revoked is forgotten, computed or not."""
        now = self.clock.monotonic()
        for partition in fetched.revoked:
            self.owned.pop(partition, None)
        for partition in fetched.assigned:
            self.owned[partition] = Owned(last_record=now)
        if fetched.assigned or fetched.revoked:
            self.observer.owned(self.owned)
        for partition, records in fetched.records.items():
            own = self.owned.get(partition)
            if own is None or not own.ready:
                continue
            own.last_record, own.at_end = now, False
            own.held = records if own.held is None else joined(own.held, records)
        for partition in fetched.at_end & self.owned.keys():
            # Before the claim it is read nowhere in particular.
            self.owned[partition].at_end = self.owned[partition].ready
            self._stands(partition)
        for partition in fetched.strayed:
            self.reclaim(partition, "the log does not reach back to where it stands")

    def _claim_all(self) -> None:
        waiting = [p for p, own in self.owned.items() if not own.ready and not own.halted]
        if not waiting:
            return
        try:
            self.ground.look()
            # A partition may have to wait for the end of a dead worker's transaction. It keeps
            # the others waiting once per turn, and comes last in the next one.
            for partition in sorted(waiting, key=lambda p: self.owned[p].tried):
                own = self.owned[partition]
                self._claims += 1
                own.tried = self._claims
                own.checkpoint, own.published = self.ground.claim(partition)
                self.source.start(partition, own.checkpoint.offset)
                own.held, own.ready = None, True
        except Unavailable as error:
            log.info("partitions are not ready yet: %s", error)
        self._tell_ready()

    def reclaim(self, partition: int, why: str) -> None:
        """Forget what is known of a partition; it is claimed again after the next poll."""
        own = self.owned.get(partition)
        if own is None or not own.ready:
            return
        log.warning("partition %d is claimed again: %s", partition, why)
        self.observer.reclaimed(partition, why)
        self.source.pause(partition)
        self.owned[partition] = Owned(last_record=own.last_record)
        self._tell_ready()

    def _tell_ready(self) -> None:
        self.observer.ready(p for p, own in self.owned.items() if own.ready)

    # -- the batches of a turn --------------------------------------------------------

    def _compute_all(self) -> Iterator[Computed]:
        """What all partitions hold; without those to be reclaimed."""
        gathered = (g for p in list(self.owned) if (g := self._gather(p)) is not None)
        for some in grouped(gathered, lambda g: len(g.customers)):
            wanted = {g.partition: g.customers for g in some}
            loaded = self.timed("load", partial(self.store.load, wanted))
            for one in some:
                computed = self._compute(one, *loaded[one.partition])
                if computed is not None:
                    yield computed

    def _gather(self, partition: int) -> Gathered | None:
        """Read what a partition holds, up to whose States are needed; None: it has nothing."""
        own = self.owned[partition]
        if not own.ready or own.held is None:
            return None
        base, records = own.checkpoint, own.held
        where = self._where(partition)
        decoded = self.timed("decode", lambda: self.function.decode(records, where))
        named = [c.version for _, c in decoded.controls if isinstance(c, ModelControl)]
        if any(version not in self.models.at_hand() for version in named):
            self.models.find(named)
        models = self.models.at_hand()
        batch = self.timed(
            "gather",
            lambda: self.function.gather(records, decoded, base, models, self.limits.ticks),
        )
        minutes = self.function.due_minutes(batch) if base.customers else []
        due: list[str] = []
        if minutes:
            there, due = self.timed("load", lambda: self.store.due(partition, minutes))
            if self._elsewhere(partition, there):
                return None
        customers = self.function.touched(batch, base, due)
        return Gathered(partition, base, batch, models, customers)

    def _elsewhere(self, partition: int, there: Checkpoint | None) -> bool:
        """Whether the store stands elsewhere than this worker does; then it is reclaimed."""
        own = self.owned[partition]
        # Absent means: nothing was written yet.
        stands = Position(own.published.origin, 0) if there is None else there.position
        if stands == own.checkpoint.position:
            return False
        self.reclaim(partition, f"the store stands at {stands}")
        return True

    def _compute(
        self, gathered: Gathered, there: Checkpoint | None, blobs: list[bytes | None]
    ) -> Computed | None:
        """The batch on its States; None if the partition is to be reclaimed."""
        partition, base, batch, models, customers = gathered
        if self._elsewhere(partition, there):
            return None
        own, states = self.owned[partition], (customers, blobs)
        where = self._where(partition)
        try:
            outcome = self.timed(
                "step", lambda: self.function.step(batch, base, where, models, states)
            )
        except Foreign as error:
            raise Refused(
                f"partition {partition} cannot be computed: {error}. Find out who else writes to "
                "Redis; then restore it, or delete the partition's keys to compute them again"
            ) from error
        records, size = batch.records, batch.size
        own.held = records.part(size) if size < len(records) else None
        position = None if there is None else there.position
        return Computed(partition, base, position, outcome, records.appended, size)

    def _where(self, partition: int) -> Partition:
        return Partition(partition, self.partitions, self.partitioner, self.topic)

    def _halts(self, computed: Computed) -> bool:
        """Whether a partition has too many dead letters to go on: before it publishes them."""
        partition, own = computed.partition, self.owned[computed.partition]
        letters = sum(output.topic == "dead_letters" for output in computed.outcome.outputs)
        share = own.latest.share(computed.size, letters)
        self.observer.share(partition, share)
        if share <= self.limits.dead_share:
            return False
        log.error(
            "partition %d is halted: %.0f %% of its latest records are dead letters, more than "
            "dead_letters.halt_above. Stop the producer that sends them, or raise the setting, "
            "and start this process again",
            partition,
            100 * share,
        )
        self.source.pause(partition)
        self.owned[partition] = Owned(halted=True)
        self.observer.halted(partition, share)
        self._tell_ready()
        return True

    def _publish(self, batches: list[Computed], metadata: object) -> None:
        """Outputs beyond W and the new W, in one transaction; nothing to say, no transaction."""
        beyond = {c.partition: self._unpublished(c) for c in batches}
        outputs = list(chain.from_iterable(beyond.values()))
        if not outputs:
            return
        positions = {
            c.partition: self._beyond(c.partition, c.outcome.checkpoint.position)
            for c in batches
            if c.outcome.checkpoint.position > self.owned[c.partition].published.position
        }
        self.timed("publish", lambda: self.sink.publish(outputs, positions, metadata))
        now = self.clock.wall()
        for computed in batches:
            changes = [o.order[0] for o in beyond[computed.partition] if o.topic == "changes"]
            ages = [now - computed.appended[record] for record in changes]
            self.observer.published(computed.partition, ages)
        for partition, published in positions.items():
            self.owned[partition].published = published

    def _unpublished(self, computed: Computed) -> list[Output]:
        """What of a batch is not published yet: its outputs are in the order of the log."""
        outputs, w = computed.outcome.outputs, self.owned[computed.partition].published.position
        return outputs[bisect_right(outputs, w, key=attrgetter("position")) :]

    def _beyond(self, partition: int, position: Position) -> Published:
        return self.owned[partition].published._replace(position=position)

    def _write(self, batches: list[Computed]) -> None:
        """States and Checkpoints, where the store still says N."""
        writes = [Write(c.partition, c.there, c.outcome) for c in batches]
        written = self.timed("write", lambda: self.store.write(writes))
        for computed in batches:
            if computed.partition not in written:
                self.reclaim(computed.partition, "another position was written meanwhile")
                continue
            self.observer.batch(computed.partition, computed.size, computed.outcome, computed.base)
            self.owned[computed.partition].checkpoint = computed.outcome.checkpoint
            self._stands(computed.partition)
            self._lazy_records += computed.size

    def _stands(self, partition: int) -> None:
        own = self.owned[partition]
        if own.ready:
            # Behind the last record there may be markers of transactions, which nobody computes.
            done = own.at_end and own.held is None
            lag = 0 if done else self.source.log_end(partition) - own.checkpoint.offset
            self.observer.stands(partition, lag, self.clock.wall() - own.checkpoint.clock)

    # -- time -------------------------------------------------------------------------

    def follow(self, metadata: object | None) -> None:
        """Let W follow partitions whose records led to no output (an offset-only transaction)."""
        behind = {
            number: self._beyond(number, own.checkpoint.position)
            for number, own in self.owned.items()
            if own.ready and own.checkpoint.position > own.published.position
        }
        self._lazy_at, self._lazy_records = self.clock.monotonic(), 0
        if behind and metadata is not None:
            self.sink.publish([], behind, metadata)
            for number, published in behind.items():
                self.owned[number].published = published

    def _lazy_due(self) -> bool:
        waited = self.clock.monotonic() - self._lazy_at
        return waited >= self.limits.lazy_seconds or self._lazy_records >= self.limits.lazy_records

    def _keep_time(self) -> None:
        """Append the wall clock to partitions that are at their end and silent."""
        if not self.limits.idle_seconds:
            return
        now = self.clock.monotonic()
        for partition, own in self.owned.items():
            silent = now - own.last_record >= self.limits.idle_seconds
            if own.ready and own.at_end and own.held is None and silent:
                self.sink.append_clock(partition, self.clock.wall())
                own.last_record = now

    def timed(self, stage: str, call: Callable[[], T]) -> T:
        start = self.clock.cpu()
        result = call()
        self.observer.stage(stage, self.clock.cpu() - start)
        return result


def grouped(items: Iterable[T], states: Callable[[T], int]) -> Iterator[list[T]]:
    """Some at a time: of many small batches the round trip to the store costs most.

    A large one stays alone: it would only keep the store from all others for longer.
    """
    some: list[T] = []
    total = 0
    for item in items:
        number = states(item)
        if some and total + number > TOGETHER:
            yield some
            some, total = [], 0
        some.append(item)
        total += number
    if some:
        yield some


def joined(first: Records, second: Records) -> Records:
    """Two stretches of a partition's records as one."""
    return Records(*([*a, *b] for a, b in zip(first, second, strict=True)))  # type: ignore[arg-type]
