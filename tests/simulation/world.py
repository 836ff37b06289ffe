"""Real workers and trainers on a topic, a store and groups in memory, and what happens to them."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from segstream import ports as segmenter
from segstream import trainer as training
from segstream.core.batch import Position
from segstream.core.output import ms_text
from segstream.core.record import Rename
from segstream.ports import Unavailable
from segstream.shell.river import CustomerKMeans
from segstream.testing.log import TRANSACTION_SECONDS, Transaction
from segstream.testing.memory import ManualClock, Silent
from segstream.testing.trainer import MemorySamples, MemoryTopics, MemoryVersions, Notes
from segstream.trainer import Trainer
from segstream.worker import Limits, Worker
from tests.simulation.baton import Baton, Pause
from tests.simulation.faults import EFFECTS, Crash, Plan, Violation
from tests.simulation.parts import Log, Models, Press, Sink, Source, Store, Watched, WatchedStore
from tests.simulation.traffic import START, VARIANTS, arrivals, rich_setting, setting

TOPIC = "events"
IDLE_SECONDS, LAZY_SECONDS = 60.0, 10.0
PATIENCE = 2_000
MOST_ACTORS = 4


class Clock(ManualClock):
    """`now` follows the traffic, `passed` the turns: no hour of silence per record."""

    passed = 0.0

    def monotonic(self) -> float:
        return self.passed


class Actor:
    """A process in its slot: a worker or a trainer, which may die and be started again."""

    def __init__(self, name: str, start: Callable[["Actor"], Worker | Trainer]) -> None:
        self.name, self._start = name, start
        self.member: Any = None
        self.process: Worker | Trainer | None = None
        self.pause: Pause | None = None
        self.until = 0  # turn at which it is resumed, or started again

    def start(self) -> None:
        self.process = self._start(self)

    @property
    def is_worker(self) -> bool:
        return self.name.startswith("worker")


class World:
    """One schedule. `run` it, then look at what is left; Violation if it does not come to rest.

    Subclasses take one of its guards away: see unguarded.py.
    """

    worker: type[Worker] = Worker

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.rng = rng = Random(f"world {plan.seed}")
        self.setting = (rich_setting if plan.rich else setting)(plan.seed % VARIANTS)
        self.clock = Clock(START)
        self.layout = self.setting.function.definition.digest(
            self.setting.partitions, self.setting.partitioner
        )
        self.log = self.make_log(self.layout)
        self.store = self.make_store()
        self.topics = MemoryTopics(self.log)
        if not plan.trained:
            self.topics.versions.update(self.setting.models)
        self.coming = arrivals(rng, self.setting, trained=plan.trained)[: plan.records]
        self.half, self.halved = len(self.coming) // 2, False
        self.limits = Limits(
            records=rng.choice([1, 3, 100]),
            ticks=rng.choice([2, 5, 50_000]),
            poll_seconds=0,
            lazy_seconds=LAZY_SECONDS,
            lazy_records=rng.choice([5, 100_000]),
            idle_seconds=IDLE_SECONDS,
        )
        self.actors: list[Actor] = []
        self.landing: list[tuple[int, Transaction]] = []
        self.injected: Counter[str] = Counter()
        self.turns = self.steps = self.effects = self.trace = 0
        self.quiet = False  # no more faults
        self.told: list[str] | None = None
        self.baton = Baton(self.loop)
        self._script = self._script_of_turns()

    # -- parts ------------------------------------------------------------------------

    def make_log(self, layout: str) -> Log:
        return Log(self, layout)

    def make_store(self) -> Store:
        return Store(self)

    def make_source(self) -> Source:
        return Source(self)

    def make_sink(self, actor: Actor) -> Sink:
        return Sink(self, actor)

    def make_worker(self, actor: Actor) -> Worker:
        source, sink = self.make_source(), self.make_sink(actor)
        actor.member = source
        parts = segmenter.Ports(
            self.watched(actor, "source", source),
            self.watched(actor, "store", self.store),
            self.watched(actor, "sink", sink),
            self.watched(actor, "models", Models(self.topics.versions)),
            self.clock,
            Silent(),
        )
        return self.put_together(actor, parts)

    def put_together(self, actor: Actor, parts: segmenter.Ports) -> Worker:
        where = self.setting
        return self.worker(
            where.function, parts, TOPIC, where.partitions, where.partitioner, self.limits
        )

    def make_trainer(self, actor: Actor) -> Trainer:
        samples = MemorySamples(self.topics, self.rng.choice([5, 1_000]))
        actor.member = samples
        parts = training.Ports(
            self.watched(actor, "samples", samples),
            self.watched(actor, "versions", MemoryVersions(self.topics)),
            self.watched(actor, "press", Press(self, actor)),
            CustomerKMeans,
            Notes(),
        )
        return Trainer(self.setting.training, parts, 0)

    def watched(self, actor: Actor, name: str, port: object) -> Any:
        kind = WatchedStore if name == "store" else Watched
        return kind(self, actor, name, port)

    # -- faults -----------------------------------------------------------------------

    def point(self, actor: Actor, name: str, failure: type[Exception] | None = None) -> str | None:
        """Before or after a call: what the plan has for it happens. The kind, if the caller's."""
        if self.quiet or (self.plan.at and not name.startswith(self.plan.at)):
            return None
        self.steps += 1
        fault = self.plan.steps.get((False, self.steps))
        if name.startswith(EFFECTS):
            self.effects += 1
            fault = self.plan.steps.get((True, self.effects), fault)
        kinds = self.plan.possible(name, failure) if fault is not None else []
        if fault is None or not kinds:
            return None
        kind = kinds[fault.draw % len(kinds)]
        self.injected[kind] += 1
        self.note(f"{kind} at {actor.name} {name}")
        return self.happens(actor, kind, fault.draw // len(kinds), failure)

    def happens(
        self, actor: Actor, kind: str, draw: int, failure: type[Exception] | None
    ) -> str | None:
        match kind:
            case "crash":
                raise Crash
            case "pause" | "zombie":
                self.stop(actor, 1 + draw % 25, takeover=kind == "zombie")
            case "rebalance":
                self.rebalance()
            case "rollback":
                self.store.restore(draw, self.store.copies)
            case "rollback within a record":
                self.store.restore(draw, self.store.of_one_offset())
            case "wipe":
                self.store.wipe(draw % self.setting.partitions)
            case "time":
                self.clock.passed += TRANSACTION_SECONDS + 1
            case "fails":
                assert failure is not None
                raise failure("so the plan wants it")
            case _:
                return kind
        return None

    def stop(self, actor: Actor, turns: int, *, takeover: bool) -> None:
        """Leave an actor in the middle of a call, for some turns of the others."""
        actor.pause, actor.until = Pause(), self.turns + turns
        if takeover:
            others = [a for a in self.idle() if a.is_worker]
            if not others and len(self.actors) < MOST_ACTORS:
                self.join("worker")
            self.rebalance()
        self.baton.pause(actor.pause)
        killed, actor.pause = actor.pause.killed, None
        if killed or self.baton.over:
            raise Crash

    # -- time goes on -----------------------------------------------------------------

    def loop(self) -> None:
        """Turn by turn, until it is over or somebody else has the baton."""
        while not self.baton.over:
            self.turns += 1
            if self.turns > PATIENCE:
                raise Violation("it does not come to rest")
            waiting = [a for a in self.actors if a.pause and a.until <= self.turns]
            if waiting and (pause := waiting[0].pause):
                self.note(f"{waiting[0].name} goes on")
                self.baton.resume(pause)
                return
            try:
                actor = next(self._script)
            except StopIteration:
                self.baton.end()
                return
            if actor is not None:
                self.take_turn(actor)

    def take_turn(self, actor: Actor) -> None:
        process = actor.process
        if process is None or actor.pause is not None:
            return
        leaves = not self.quiet and self.rng.random() < 0.02
        self.note(f"{'last ' * leaves}turn of {actor.name}")
        try:
            if not leaves:
                process.turn()
                return
            process.run(lambda: True)
        except Crash:
            pass
        except Unavailable:
            if not leaves:  # a loop goes on; one that leaves has nothing more to do
                raise
        actor.process, actor.until = None, self.turns + 1 + self.turns % 7

    def pass_time(self) -> None:
        """Between two turns: traffic, the clock, late commits, starts and rebalances."""
        rng = self.rng
        self.clock.passed += rng.choice([0, 0, 0.2, 1, 3])
        for due, transaction in [*self.landing]:
            if due <= self.turns:
                self.landing.remove((due, transaction))
                if self.log.end(transaction, committed=True):
                    self.note("a late commit lands")
        for actor in self.actors:
            if actor.process is None and actor.until <= self.turns:
                actor.start()
                self.rebalance()
        if rng.random() < 0.04:
            self.rebalance()

    def halfway(self) -> None:
        """Half of the traffic has come: for what happens once."""

    def arrive(self) -> None:
        if not self.halved and len(self.coming) <= self.half:
            self.halved = True
            self.halfway()
        if self.plan.trained and self.rng.random() < 0.1:
            self.rename()
        for _ in range(self.rng.choice([0, 1, 1, 3])):
            if self.coming:
                arrival = self.coming.pop(0)
                self.clock.now += arrival.gap
                self.log.append(
                    arrival.partition, arrival.value, headers=arrival.headers, key=arrival.key
                )

    def rename(self) -> None:
        """A person wants a segment to be called differently, or as its profile says again."""
        segment, name = self.rng.randint(1, 4), self.rng.choice(["Friends", "Strangers", None])
        self.note(f"segment {segment} is to be called {name}")
        self.topics.rename(Rename(segment=segment, name=name, at=ms_text(self.clock.now)))

    def idle(self) -> list[Actor]:
        """Who can take a turn."""
        return [a for a in self.actors if a.process is not None and a.pause is None]

    def join(self, kind: str) -> None:
        number = sum(a.name.startswith(kind) for a in self.actors)
        actor = Actor(
            f"{kind}-{number}", self.make_worker if kind == "worker" else self.make_trainer
        )
        self.actors.append(actor)
        actor.start()

    def rebalance(self) -> None:
        """Partitions go to workers that are not paused, the samples to one such trainer."""
        free = self.idle()
        self.rng.shuffle(free)
        self.log.assign(a.member for a in free if a.is_worker)
        trainers = [a.member for a in free if not a.is_worker]
        if self.plan.trained:
            self.topics.assign(trainers[0] if trainers else None)
        self.note(f"rebalance: {[a.name for a in free]}")

    # -- the whole --------------------------------------------------------------------

    def run(self) -> "World":
        for _ in range(self.rng.choice([1, 2, 2, 3])):
            self.join("worker")
        if self.plan.trained:
            self.join("trainer")
            self.join("trainer")
        self.rebalance()
        self.baton.run()
        return self

    def _script_of_turns(self) -> Iterator[Actor | None]:
        """Whose turn it is, if anybody's: traffic and faults, then silence until all is at rest."""
        last = max((f.step for f in self.plan.faults if not f.effect), default=0)
        while self.coming or (self.steps < last and self.turns < 80):
            self.arrive()
            yield from self._some()
        self.quiet = True
        while len(self.idle()) < len(self.actors) or self.landing:
            yield from self._some()
        self.clock.passed += TRANSACTION_SECONDS
        self.rebalance()
        yield from self._all_until(self.computed)
        # A clock record comes into each silent partition: who stands elsewhere than its store,
        # or was left without an owner, is noticed by then.
        self.clock.passed += IDLE_SECONDS
        yield from [*self.actors, *self.actors]
        yield from self._all_until(self.computed)
        self.clock.passed += LAZY_SECONDS + 1
        yield from self._all_until(self.at_rest)

    def _some(self) -> Iterator[Actor | None]:
        self.pass_time()
        free = self.idle()
        yield self.rng.choice(free) if free else None

    def _all_until(self, done: Callable[[], bool]) -> Iterator[Actor]:
        while not done():
            yield from self.actors

    def ends(self) -> dict[int, int]:
        """Behind the last record of each partition."""
        return {
            p: max((r.offset + 1 for r in self.log.committed(p)[-1:]), default=self.log.starts[p])
            for p in range(self.setting.partitions)
        }

    def computed(self) -> bool:
        there = {p: n.offset for p, n in self.store.meta.items()}
        handled = self.topics.committed == len(self.topics.samples) or not self.plan.trained
        return handled and all(there.get(p, 0) == end for p, end in self.ends().items())

    def at_rest(self) -> bool:
        """N = W = log end, everywhere."""
        positions = {p: n.position for p, n in self.store.meta.items()}
        published = {p: w.position for p, w in self.log.published.items()}
        return self.computed() and all(
            positions.get(p, Position(0, 0)) == w for p, w in published.items()
        )

    def note(self, text: str) -> None:
        """One more thing that happened; the trace of equal plans is equal."""
        self.trace = zlib.crc32(text.encode(), self.trace)
        if self.told is not None:
            self.told.append(f"{self.turns:4} {self.steps:5} {text}")
