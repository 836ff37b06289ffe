"""Worlds in which one guard of the delivery protocol is missing, and mishaps that claims refuse."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import count
from typing import Any
from unittest.mock import patch

import msgspec

from segstream.claim import Ground
from segstream.core.batch import Checkpoint, Position
from segstream.core.hash import Partitioner, message_hashes
from segstream.ports import Announced, Fetched, Loaded, NotCommitted, Ports, Published, Write
from segstream.testing.log import Transaction
from segstream.worker import Computed, Worker
from tests.simulation.faults import Plan
from tests.simulation.parts import Log, Sink, Source, Store
from tests.simulation.traffic import setting
from tests.simulation.world import TOPIC, Actor, World

# --- the group and transactions ---------------------------------------------------------------


class Unfenced(World):
    def make_log(self, layout: str) -> Log:
        class Open(Log):
            def carry(
                self, transaction: Transaction, positions: Mapping[int, Published], metadata: object
            ) -> None:
                super().carry(transaction, positions, None)

        return Open(self, layout)


class LateMembership(World):
    def make_sink(self, actor: Actor) -> Sink:
        class Asking(Sink):
            def carry(
                self, transaction: Transaction, positions: Mapping[int, Published], metadata: object
            ) -> None:
                now = self.log.membership(actor.member) or metadata
                super().carry(transaction, positions, now)

        return Asking(self, actor)


class PlainCommit(World):
    class worker(Worker):  # noqa: N801 (stands for the attribute)
        def follow(self, metadata: object | None) -> None:
            """As `consumer.commit` does: whoever is a member now may set any offset."""
            if metadata is not None:
                self.source.commit(  # type: ignore[attr-defined]
                    {
                        number: self._beyond(number, own.checkpoint.position)
                        for number, own in self.owned.items()
                        if own.ready
                    }
                )
            self._lazy_at, self._lazy_records = self.clock.monotonic(), 0

    def make_worker(self, actor: Actor) -> Worker:
        made = super().make_worker(actor)

        def commit(positions: Mapping[int, Published]) -> None:
            self.point(actor, "source.commit")
            if self.log.membership(actor.member):
                for partition, published in positions.items():
                    old = self.log.published[partition].position
                    if published.position < old:
                        self.log.check_advance(partition, published)
                self.log.published.update(positions)

        made.source.commit = commit  # type: ignore[attr-defined]
        return made


class UnstableRead(World):
    def make_source(self) -> Source:
        class Hasty(Source):
            def committed(self, partition: int) -> Published | None:
                return self.log.published.get(partition)

        return Hasty(self)


class RememberedW(World):
    def make_source(self) -> Source:
        class Remembering(Source):
            def committed(self, partition: int) -> Published | None:
                known: dict[int, Published | None] = self.__dict__.setdefault("known", {})
                if partition not in known:
                    known[partition] = super().committed(partition)
                return known[partition]

        return Remembering(self)


class AssumedFailed(World):
    def make_sink(self, actor: Actor) -> Sink:
        class Insisting(Sink):
            def publish(self, outputs: Any, positions: Any, metadata: object) -> None:
                try:
                    super().publish(outputs, positions, metadata)
                except NotCommitted:
                    super().publish(outputs, positions, metadata)

        return Insisting(self, actor)


class AssumedDone(World):
    def make_sink(self, actor: Actor) -> Sink:
        class Trusting(Sink):
            def publish(self, outputs: Any, positions: Any, metadata: object) -> None:
                with suppress(NotCommitted):
                    super().publish(outputs, positions, metadata)

        return Trusting(self, actor)


class KeepsRevoked(World):
    class worker(Worker):  # noqa: N801
        def _take(self, fetched: Fetched) -> None:
            kept = fetched.revoked - fetched.assigned
            super()._take(fetched._replace(revoked=fetched.revoked - kept))


# --- positions ----------------------------------------------------------------------------------


class NoSwap(World):
    def make_store(self) -> Store:
        class Willing(Store):
            def written(self, write: Write) -> bool:
                there = self.meta.get(write.partition)
                now = None if there is None else there.position
                return super().written(write._replace(base=now))

        return Willing(self)


class Believing:
    """A store that says what its worker believes anyway."""

    def __init__(self, worker: Worker, store: Any, *, offset: bool) -> None:
        self._worker, self._store, self._offset = worker, store, offset
        for name in ("check", "announced", "announce", "checkpoint", "write"):
            setattr(self, name, getattr(store, name))

    def _believed(self, partition: int, there: Checkpoint | None) -> Checkpoint | None:
        own = self._worker.owned[partition].checkpoint
        if there is None or (self._offset and there.offset != own.offset):
            return there
        return msgspec.structs.replace(there, offset=own.offset, clock=own.clock)

    def due(self, partition: int, minutes: list[int]) -> Any:
        there, customers = self._store.due(partition, minutes)
        return self._believed(partition, there), customers

    def load(self, wanted: Mapping[int, list[str]]) -> dict[int, Loaded]:
        found = self._store.load(wanted).items()
        return {p: (self._believed(p, there), blobs) for p, (there, blobs) in found}


class UncheckedLoad(World):
    class worker(Worker):  # noqa: N801
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.store = Believing(self, self.store, offset=False)  # type: ignore[assignment]


class NoClockInStore(World):
    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.limits = replace(self.limits, ticks=2)  # many positions within a record

    class worker(Worker):  # noqa: N801
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.store = Believing(self, self.store, offset=True)  # type: ignore[assignment]

    def make_store(self) -> Store:
        class Coarse(Store):
            def written(self, write: Write) -> bool:
                there, base = self.meta.get(write.partition), write.base
                if there is not None and base is not None and there.offset == base.offset:
                    write = write._replace(base=there.position)
                return super().written(write)

        return Coarse(self)


class NoClockInW(World):
    def make_source(self) -> Source:
        class Coarse(Source):
            def committed(self, partition: int) -> Published | None:
                found = super().committed(partition)
                return found and found._replace(position=Position(found.position.offset, 0))

        return Coarse(self)

    def make_log(self, layout: str) -> Log:
        return Careless(self, layout)


class Careless(Log):
    def check_advance(self, partition: int, published: Published) -> None:
        """Whatever W becomes."""


class PublishesAll(World):
    def make_source(self) -> Source:
        class Forgetful(Source):
            def committed(self, partition: int) -> Published | None:
                found = super().committed(partition)
                return found and found._replace(position=Position(found.origin, 0))

        return Forgetful(self)

    def make_log(self, layout: str) -> Log:
        return Careless(self, layout)


class WAlways(World):
    class worker(Worker):  # noqa: N801
        def _publish(self, batches: list[Computed], metadata: object) -> None:
            outputs = [output for c in batches for output in self._unpublished(c)]
            if outputs:
                positions = {
                    c.partition: self._beyond(c.partition, c.outcome.checkpoint.position)
                    for c in batches
                }
                self.sink.publish(outputs, positions, metadata)
                for partition, published in positions.items():
                    self.owned[partition].published = published


class BackToW(World):
    def make_worker(self, actor: Actor) -> Worker:
        made, store = super().make_worker(actor), self.store

        class Distrusting(Ground):
            def claim(self, partition: int) -> tuple[Checkpoint, Published]:
                checkpoint, published = super().claim(partition)
                offset, clock = published.position
                if checkpoint.position > published.position:
                    checkpoint = msgspec.structs.replace(checkpoint, offset=offset, clock=clock)
                    store.meta[partition] = checkpoint
                return checkpoint, published

        made.ground.__class__ = Distrusting
        return made


# --- what claims refuse -------------------------------------------------------------------------


class Truncated(World):
    """The log is cut to where everything stands, then the store is emptied."""

    def halfway(self) -> None:
        for partition, meta in self.store.meta.items():
            published = self.log.published[partition].position.offset
            self.log.starts[partition] = min(meta.offset, published)
        for partition in range(self.setting.partitions):
            self.store.wipe(partition)
        self.store.copies.clear()
        self.rebalance()


class NoStartCheck(Truncated):
    def make_source(self) -> Source:
        class Earliest(Source):
            def bounds(self, partition: int) -> tuple[int, int]:
                return 0, self.log.ends[partition]

            def start(self, partition: int, offset: int) -> None:
                super().start(partition, max(offset, self.log.starts[partition]))

        return Earliest(self)


class Cut(World):
    """The last records are gone: an election of a broker that did not have them."""

    def halfway(self) -> None:
        for partition, records in enumerate(self.log.records):
            lost = [records.pop() for _ in range(min(4, len(records)))]
            if lost:
                self.log.ends[partition] = lost[-1].offset
        self.rebalance()


class NoEndCheck(Cut):
    def make_source(self) -> Source:
        class Hopeful(Source):
            def bounds(self, partition: int) -> tuple[int, int]:
                return 0, 10**9

        return Hopeful(self)

    def make_log(self, layout: str) -> Log:
        return Careless(self, layout)


class GroupDeleted(World):
    def halfway(self) -> None:
        self.log.published.clear()
        self.rebalance()


class WCreated(GroupDeleted):
    def make_source(self) -> Source:
        class Creating(Source):
            def committed(self, partition: int) -> Published | None:
                start = Published(Position(0, 0), self.world.layout, 0)
                return self.log.published.setdefault(partition, start)

        return Creating(self)


class OtherLayout(World):
    """Worker 1 has another configuration, as in a deployment that is half done."""

    def other(self) -> tuple[Any, Partitioner]:
        return setting(self.plan.seed % 3 + 5).function, self.setting.partitioner

    def put_together(self, actor: Actor, parts: Ports) -> Worker:
        if actor.name != "worker-1":
            return super().put_together(actor, parts)
        function, partitioner = self.other()
        partitions = self.setting.partitions
        return self.worker(function, parts, TOPIC, partitions, partitioner, self.limits)


class NoLayoutCheck(OtherLayout):
    class worker(Worker):  # noqa: N801
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.ground.__class__ = Lenient


class Lenient(Ground):
    def _require_layout(self, partition: int, where: str, layout: str) -> None:
        """Any."""


class OtherPartitioner(NoLayoutCheck):
    def other(self) -> tuple[Any, Partitioner]:
        here = self.setting.partitioner
        return self.setting.function, "crc32" if here == "murmur2" else "murmur2"


class NoHopLimit(OtherPartitioner):
    def run(self) -> World:
        with patch("segstream.core.forward.MOST_HOPS", 10**9):
            return super().run()


class Recreated(World):
    """Another topic of the same name, with as many records, and W set up anew."""

    def halfway(self) -> None:
        self.log.topic_id = "another"
        for partition, records in enumerate(self.log.records):
            former = records[::-1]
            records.clear()
            self.log.ends[partition] = 0
            for record in former:
                self.log.append(partition, record.value, headers=record.headers, key=record.key)
            self.log.ends[partition] += len(former)  # markers
            self.log.published[partition] = Published(Position(0, 0), self.layout, 0)
        self.rebalance()


class NoTopicCheck(Recreated):
    def make_store(self) -> Store:
        class Forgetful(Store):
            def announced(self) -> Announced | None:
                return None

        return Forgetful(self)


class Evicting(World):
    """The store is short of memory, and drops somebody."""

    def make_store(self) -> Store:
        made = Store(self)
        made.policy = "allkeys-lru"
        return made

    def halfway(self) -> None:
        for states in self.store.states.values():
            for customer in sorted(states)[:2]:
                del states[customer]


class NoPolicyCheck(Evicting):
    def make_store(self) -> Store:
        made = super().make_store()
        made.check = lambda: None  # type: ignore[method-assign]
        return made


# --- what the function itself does ---------------------------------------------------------------


class NoRing(World):
    def run(self) -> World:
        numbers = count()
        with patch(
            "segstream.core.step.message_hashes",
            lambda messages: message_hashes([b"%b %d" % (m, next(numbers)) for m in messages]),
        ):
            return super().run()
