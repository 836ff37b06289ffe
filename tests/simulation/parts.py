"""Parts of a simulated world: in memory, and with something happening between any two steps."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from segstream.core.batch import Checkpoint
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.record import ModelRecord
from segstream.ports import Fetched, NotCommitted, Published, Unavailable, Write
from segstream.testing.log import MemoryLog, Transaction
from segstream.testing.memory import MemoryModels, MemorySink, MemorySource, MemoryStore
from segstream.testing.trainer import MemoryPress
from tests.simulation.faults import PORTS, Crash, Violation

if TYPE_CHECKING:
    from tests.simulation.world import Actor, World


class Watched:
    """A port of one actor: before and after each call anything may happen."""

    def __init__(self, world: "World", actor: "Actor", name: str, port: object) -> None:
        for call, failure in PORTS[name].items():
            setattr(self, call, self._watched(world, actor, f"{name}.{call}", port, failure))

    @staticmethod
    def _watched(
        world: "World", actor: "Actor", name: str, port: object, failure: type[Exception] | None
    ) -> Callable[..., Any]:
        method = getattr(port, name.partition(".")[2])
        # What a failed poll has taken in would be lost on no real consumer.
        after = None if name.endswith(".poll") else failure

        def call(*arguments: Any) -> Any:
            world.point(actor, name, failure)
            try:
                result = method(*arguments)
            except (NotCommitted, Unavailable) as error:
                world.note(f"{actor.name} {name} {error!r}")
                raise
            world.note(f"{actor.name} {name} {shown(result)}")
            world.point(actor, f"{name} done", after)
            return result

        return call


class WatchedStore(Watched):
    """Several partitions are written at once, or one after the other and anything in between."""

    def __init__(self, world: "World", actor: "Actor", name: str, port: object) -> None:
        super().__init__(world, actor, name, port)
        self._rng = world.rng
        self._at_once: Any = self.__dict__.pop("write")

    def write(self, writes: Sequence[Write]) -> set[int]:
        parts = [writes] if self._rng.random() < 0.5 else [[one] for one in writes]
        return set().union(*map(self._at_once, parts))


def shown(result: object) -> str:
    """A result as it enters the trace."""
    if isinstance(result, Fetched):
        offsets = {p: list(r.offsets) for p, r in result.records.items()}
        moved = sorted(result.assigned), sorted(result.revoked)
        return f"{offsets} {sorted(result.at_end)} {moved} {result.metadata is None}"
    if isinstance(result, Mapping) and not all(isinstance(v, tuple) for v in result.values()):
        return str(sorted(result))  # versions, which have no short name
    return repr(result)


class Log(MemoryLog):
    """Knows which positions W had, and passes samples on to the trainers."""

    def __init__(self, world: "World", layout: str) -> None:
        super().__init__(world.setting.partitions, layout, world.clock)
        self.world = world

    def ended(self, transaction: Transaction) -> None:
        if transaction.committed:
            for partition, published in transaction.offsets.items():
                self.check_advance(partition, published)
        super().ended(transaction)
        self.world.note(f"{transaction.slot} committed: {transaction.committed}")

    def check_advance(self, partition: int, published: Published) -> None:
        new, old = published.position, self.published[partition].position
        if new <= old:
            raise Violation(f"W of {partition} goes from {old} to {new}")

    def produce(self, transaction: Transaction, output: Output) -> None:
        super().produce(transaction, output)
        if output.topic == "samples":
            samples = self.world.topics.samples
            transaction.effects.append(lambda: samples.append((output.key, output.value)))


class Source(MemorySource):
    """Polls bring more or less."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.log)
        self.world = world

    def poll(self, limit: int, timeout: float) -> Fetched:
        return super().poll(min(limit, self.world.rng.choice([1, 2, 5, 100])), timeout)


class Copy(NamedTuple):
    """What the store held of a partition."""

    partition: int
    meta: Checkpoint
    states: dict[str, bytes]
    minutes: dict[int, set[str]]


class Store(MemoryStore):
    """Remembers what it held after each write, and can go back there."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self.world = world
        self.copies: list[Copy] = []

    def due(self, partition: int, minutes: list[int]) -> tuple[Checkpoint | None, list[str]]:
        meta, customers = super().due(partition, minutes)
        customers.sort()  # a set's order is another one in each process
        self.world.rng.shuffle(customers)
        return meta, customers

    def written(self, write: Write) -> bool:
        partition, *_ = write
        written = super().written(write)
        if written:
            minutes = {m: set(names) for m, names in self.minutes.get(partition, {}).items()}
            states = dict(self.states.get(partition, {}))
            self.copies.append(Copy(partition, self.meta[partition], states, minutes))
        return written

    def of_one_offset(self) -> list[Copy]:
        """Copies at the offset at which the store stands now."""
        now = {partition: meta.offset for partition, meta in self.meta.items()}
        return [copy for copy in self.copies if now.get(copy.partition) == copy.meta.offset]

    def restore(self, draw: int, copies: Sequence[Copy]) -> None:
        """A partition is again as it was after some write: a backup, or a lost replica."""
        if copies:
            partition, meta, states, minutes = copies[draw % len(copies)]
            self.meta[partition], self.states[partition] = meta, dict(states)
            self.minutes[partition] = {m: set(names) for m, names in minutes.items()}

    def wipe(self, partition: int) -> None:
        for held in (self.meta, self.states, self.minutes):
            held.pop(partition, None)


@lru_cache(256)
def compiled(record: str) -> Model:
    return Model(ModelRecord.model_validate_json(record))


class Models(MemoryModels):
    """Compiles each version once for all worlds."""

    def refresh(self) -> None:
        for version in sorted(self.records.keys() - self._models.keys()):
            self._models[version] = compiled(self.records[version].model_dump_json(by_alias=True))


def end(world: "World", actor: "Actor", transaction: Transaction, name: str) -> bool:
    """Commit, or what the plan has instead. Whether the slot may be recovered at once."""
    kind = world.point(actor, name)
    match kind:
        case "aborted":
            world.log.end(transaction, committed=False)
        case "committed unknown":
            world.log.commit(transaction)
        case "late" | "late crash":
            world.landing.append((world.turns + 1 + world.steps % 12, transaction))
        case _:
            world.log.commit(transaction)
            return True
    if kind == "late crash":
        raise Crash
    if kind == "late":
        return False
    raise NotCommitted(kind)


class Sink(MemorySink):
    """Everything may happen between the steps of a transaction too."""

    def __init__(self, world: "World", actor: "Actor") -> None:
        self.world, self.actor = world, actor
        self._out_of_reach = False
        super().__init__(world.log, actor.name)

    def produce(self, transaction: Transaction, outputs: list[Output]) -> None:
        self.world.point(self.actor, "sink.produce", NotCommitted)
        super().produce(transaction, outputs)

    def carry(
        self, transaction: Transaction, positions: Mapping[int, Published], metadata: object
    ) -> None:
        self.world.point(self.actor, "sink.carry", NotCommitted)
        super().carry(transaction, positions, metadata)

    def commit(self, transaction: Transaction) -> None:
        if not end(self.world, self.actor, transaction, "sink.commit"):
            self._out_of_reach = True
            raise NotCommitted("no answer")

    def recover(self) -> None:
        if self._out_of_reach:
            self._out_of_reach = False
            raise Unavailable("transactions cannot start")
        super().recover()


class Press(MemoryPress):
    """Likewise."""

    def __init__(self, world: "World", actor: "Actor") -> None:
        self.world, self.actor = world, actor
        self._out_of_reach = False
        super().__init__(world.topics, actor.name)

    def carry(self, transaction: Transaction, record: ModelRecord, fence: object) -> None:
        self.world.point(self.actor, "press.carry", NotCommitted)
        super().carry(transaction, record, fence)

    def commit(self, transaction: Transaction) -> None:
        if not end(self.world, self.actor, transaction, "press.commit"):
            self._out_of_reach = True
            raise NotCommitted("no answer")

    def recover(self) -> None:
        if self._out_of_reach:
            self._out_of_reach = False
            raise Unavailable("transactions cannot start")
        super().recover()
