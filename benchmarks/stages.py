"""The pure core in memory, stage by stage: µs of CPU per event. No servers, a minute.

    python -m benchmarks stages [--profile]

Each of four partitions alone, every customer known and settled before anything is measured: of hot
traffic the partition of the most active customer is another one than the rest. `load` and `write`
are those of memory and are not shown. Of 10⁷ customers, only those that come are made up.
"""

import cProfile
import gc
import io
import pstats
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, NamedTuple, TypeVar

import numpy as np

from benchmarks.settled import Sample, Settled, records, sample
from benchmarks.traffic import PARTITIONS, START_MS, TRAFFICS, live, visitors
from consumers.settings import Settings, load
from segstream.core import step
from segstream.core.batch import Checkpoint
from segstream.core.event import Records
from segstream.core.feature import Features
from segstream.core.model import Model
from segstream.core.report import Report
from segstream.core.step import Function, Partition
from segstream.core.window import Windows
from segstream.ports import Write
from segstream.testing.memory import MemoryStore

T = TypeVar("T")
STAGES = ("decode", "gather", "step")
PARTS: dict[str, tuple[tuple[Any, str], ...]] = {
    "advance": ((Windows, "rotate"), (Windows, "advance")),
    "vectorize": ((Features, "vectorize"),),
    "assign": ((Model, "coordinates"), (Model, "distances")),
    "compare": ((step, "decide"),),
    "say": ((Report, "change"), (Report, "changes"), (Report, "samples"), (Report, "outputs")),
}
"""Of `step`: what is timed when it is called (of each, what there is)."""
WHERE = Partition(0, PARTITIONS, "murmur2", "customer-events")
EVERYWHERE = [WHERE._replace(number=number) for number in range(PARTITIONS)]
SIZES = (500, 2_000, 5_000)
CUSTOMERS = (100_000, 1_000_000, 10_000_000)


class Timed(NamedTuple):
    """What one pass over the events took. `seconds` by stage, and by part; `outputs` by topic."""

    seconds: dict[str, float]
    parts: dict[str, float]
    events: int
    touched: int
    outputs: Counter[str]


class Bench:
    """One kind of traffic on a partition: the function, settled customers, events to come.

    `events`: of them, at most; the partition has as many on average.
    """

    def __init__(
        self,
        settings: Settings,
        zipf: float,
        customers: int,
        events: int,
        of: Sample | None = None,
        where: Partition = WHERE,
    ) -> None:
        self.where = where
        made = of or sample(zipf)
        self.function = Function(settings.definition)
        self.models = {made.record.model: Model(made.record)}
        ranks = visitors(customers, zipf, events * PARTITIONS)
        only, customer = np.unique(ranks, return_inverse=True)
        settled = Settled.of(made, customers, PARTITIONS, only)
        self.store = MemoryStore()
        there = None
        for outcome in settled.outcomes(settings, where.number, 0):
            self.store.write([Write(where.number, there, outcome)])
            there = outcome.checkpoint.position
        coming = live(
            settled.who, len(ranks), first=made.sent, start=START_MS, customer=customer
        ).on(where.number)
        self.records = records([value for _, _, value in coming.records()][:events], 0)

    def run(self, size: int, profile: cProfile.Profile | None = None) -> Timed:
        """Compute the events in batches of `size`, from the settled customers on."""
        n = self.where.number
        store = MemoryStore(
            dict(self.store.meta),
            {n: dict(self.store.states[n])},
            {n: {m: set(c) for m, c in self.store.minutes[n].items()}},
        )
        with timed_parts() as parts:
            timed = self._run(self.records, size, store, profile)
        return timed._replace(parts=dict(parts))

    def _run(
        self, held: Records, size: int, store: MemoryStore, profile: cProfile.Profile | None
    ) -> Timed:
        f, where, seconds = self.function, self.where, dict.fromkeys(STAGES, 0.0)
        n = where.number

        def timed(stage: str, call: Callable[[], T]) -> T:
            if profile is not None:
                profile.enable()
            began = time.thread_time()
            result = call()
            seconds[stage] += time.thread_time() - began
            if profile is not None:
                profile.disable()
            return result

        base: Checkpoint = store.meta[n]
        events, touched = len(held), 0
        outputs: Counter[str] = Counter()
        while len(held):
            part = held.part(0, size)
            decoded = timed("decode", lambda: f.decode(part, where))  # noqa: B023
            batch = timed("gather", lambda: f.gather(part, decoded, base, self.models))  # noqa: B023
            customers = f.touched(batch, base, store.due(n, f.due_minutes(batch))[1])
            # As a client has them: read just now, and not from anywhere in a store of gigabytes.
            blobs = [b and bytes(bytearray(b)) for b in store.load({n: customers})[n][1]]
            states = (customers, blobs)
            outcome = timed("step", lambda: f.step(batch, base, where, self.models, states))  # noqa: B023
            if not store.write([Write(n, base.position, outcome)]):
                raise AssertionError("the store stands elsewhere")
            base, held = outcome.checkpoint, held.part(batch.size)
            touched += len(customers)
            outputs.update(output.topic for output in outcome.outputs)
        return Timed(seconds, {}, events, touched, outputs)


@contextmanager
def timed_parts() -> Iterator[defaultdict[str, float]]:
    """CPU seconds of this thread in each of PARTS, while it lasts."""
    spent: defaultdict[str, float] = defaultdict(float)

    def wrapped(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any) -> Any:
            began = time.thread_time()
            try:
                return call(*args)
            finally:
                spent[part] += time.thread_time() - began

        return timing

    kept = []
    for part, places in PARTS.items():
        there = [(owner, name) for owner, name in places if hasattr(owner, name)]
        if not there:
            raise AssertionError(f"nothing of `{part}` is there any more: mend PARTS")
        for owner, name in there:
            kept.append((owner, name, getattr(owner, name)))
            setattr(owner, name, wrapped(part, kept[-1][2]))
    try:
        yield spent
    finally:
        for owner, name, call in kept:
            setattr(owner, name, call)


def run(
    tell: Callable[[str], None],
    *,
    customers: Sequence[int] = CUSTOMERS,
    events: int = 25_000,
    repeats: int = 5,
    of: int | None = None,
) -> list[dict[str, Any]]:
    """A row per kind of traffic, number of customers, and size of a batch."""
    settings = load({})
    rows = []
    for name, zipf in TRAFFICS:
        tell(f"stages: {name} traffic, {', '.join(f'{c:,}' for c in customers)} customers")
        made = sample(zipf, of) if of else sample(zipf)
        benches = {
            number: [Bench(settings, zipf, number, events, made, where) for where in EVERYWHERE]
            for number in customers
        }
        cases = [(number, size) for number in customers for size in SIZES]
        cases = [(n, s) for n, s in cases if s == SIZES[-1] or n == customers[0]]
        frozen()
        found = defaultdict(list)
        for _ in range(repeats):  # round and round: a noisy neighbour disturbs all alike
            for number, size in cases:
                found[number, size].append(together([b.run(size) for b in benches[number]]))
        rows += [
            {"traffic": name, "zipf": zipf, "customers": number, "batch": size, **_figures(runs)}
            for (number, size), runs in found.items()
        ]
    return rows


def together(runs: Sequence[Timed]) -> Timed:
    """All that several took."""
    return Timed(
        {stage: sum(run.seconds[stage] for run in runs) for stage in STAGES},
        {part: sum(run.parts.get(part, 0.0) for run in runs) for part in PARTS},
        sum(run.events for run in runs),
        sum(run.touched for run in runs),
        sum((run.outputs for run in runs), Counter()),
    )


def frozen() -> None:
    """Collect garbage as the segmenter does."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _figures(runs: Sequence[Timed]) -> dict[str, Any]:
    """µs per event, median of the runs."""
    events = runs[0].events

    def each(seconds: Sequence[float]) -> float:
        return round(median(seconds) / events * 1e6, 3)

    return {
        "us": each([sum(r.seconds.values()) for r in runs]),
        **{f"us_{s}": each([r.seconds[s] for r in runs]) for s in STAGES},
        **{f"us_step_{p}": each([r.parts[p] for r in runs]) for p in PARTS},
        "us_step_rest": each([r.seconds["step"] - sum(r.parts.values()) for r in runs]),
        "customers_per_event": round(runs[0].touched / events, 3),
        "changes_per_1000": round(runs[0].outputs["changes"] / events * 1000, 2),
    }


def profiled(zipf: float, customers: int, events: int, lines: int = 30) -> str:
    """Where a step's time goes, by own time (profiled: slower)."""
    profile = cProfile.Profile()
    bench = Bench(load({}), zipf, customers, events)
    bench.run(SIZES[-1], profile)
    text = io.StringIO()
    stats = pstats.Stats(profile, stream=text)
    stats.strip_dirs().sort_stats("tottime").print_stats(lines)
    return text.getvalue()
