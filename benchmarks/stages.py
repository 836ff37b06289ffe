"""The pure core in memory, stage by stage: µs of CPU per event. No servers, some seconds.

    python -m benchmarks stages [--profile]

One partition of four, every customer known and settled before anything is measured. `load` and
`write` are those of memory and are not shown.
"""

import cProfile
import gc
import io
import pstats
import time
from collections import Counter
from collections.abc import Callable
from statistics import median
from typing import NamedTuple, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.model import model_of
from benchmarks.traffic import FLAT, HOT, PARTITIONS, Traffic, history, live, people
from consumers.settings import Settings, load
from segstream.core.batch import Checkpoint
from segstream.core.event import Headers, Records
from segstream.core.model import Model
from segstream.core.record import ModelActivated
from segstream.core.step import Function, Partition
from segstream.testing.memory import MemoryStore

T = TypeVar("T")
STAGES = ("decode", "gather", "step")
WHERE = Partition(0, PARTITIONS, "murmur2", "customer-events")
CONTROL: Headers = [("ce_type", b"segstream.model")]


class Timed(NamedTuple):
    """What one pass over the events took. `seconds` by stage; `outputs` by topic."""

    seconds: dict[str, float]
    events: int
    touched: int
    outputs: Counter[str]


class Bench:
    """One kind of traffic: the function, the settled customers, and the events to come."""

    def __init__(self, settings: Settings, zipf: float, customers: int, events: int) -> None:
        who = people(customers, zipf)
        past = history(who)
        record = model_of(settings, past)
        self.function = Function(settings.definition)
        self.models = {record.model: Model(record)}
        layout = settings.layout
        self.start = Checkpoint(0, 0, layout)
        self.store = MemoryStore()
        body = ModelActivated(version=record.model, digest=record.digest)
        settled = [body.model_dump_json().encode(), *_values(past.on(WHERE.number))]
        self._run(_records(settled, 0, control=1), 5_000, self.store)
        meta = self.store.meta[WHERE.number]
        coming = live(who, events * PARTITIONS, first=len(past)).on(WHERE.number)
        self.records = _records(_values(coming)[:events], meta.offset)

    def run(self, size: int, profile: cProfile.Profile | None = None) -> Timed:
        """Compute the events in batches of `size`, from the settled customers on."""
        n = WHERE.number
        store = MemoryStore(
            dict(self.store.meta),
            {n: dict(self.store.states[n])},
            {n: {m: set(c) for m, c in self.store.minutes[n].items()}},
        )
        return self._run(self.records, size, store, profile)

    def _run(
        self,
        records: Records,
        size: int,
        store: MemoryStore,
        profile: cProfile.Profile | None = None,
    ) -> Timed:
        f, n, seconds = self.function, WHERE.number, dict.fromkeys(STAGES, 0.0)

        def timed(stage: str, call: Callable[[], T]) -> T:
            if profile is not None:
                profile.enable()
            began = time.thread_time()
            result = call()
            seconds[stage] += time.thread_time() - began
            if profile is not None:
                profile.disable()
            return result

        base, held, touched = store.meta.get(n, self.start), records, 0
        outputs: Counter[str] = Counter()
        while len(held):
            part = held.part(0, size)
            decoded = timed("decode", lambda: f.decode(part, WHERE))  # noqa: B023
            batch = timed("gather", lambda: f.gather(part, decoded, base, self.models))  # noqa: B023
            minutes = f.due_minutes(batch) if base.customers else []
            customers = f.touched(batch, base, store.due(n, minutes)[1])
            states = (customers, store.load(n, customers)[1])
            outcome = timed("step", lambda: f.step(batch, base, WHERE, self.models, states))  # noqa: B023
            there = store.meta.get(n)
            if not store.write(n, None if there is None else there.position, outcome):
                raise AssertionError("the store stands elsewhere")
            base, held = outcome.checkpoint, held.part(batch.size)
            touched += len(customers)
            outputs.update(output.topic for output in outcome.outputs)
        return Timed(seconds, len(records), touched, outputs)


def _values(traffic: Traffic) -> list[bytes]:
    return [value for _, _, value in traffic.records()]


def _records(values: list[bytes], first: int, control: int = 0) -> Records:
    """Records from offset `first` on; the first `control` of them are control events."""
    size = len(values)
    headers = [CONTROL] * control + [None] * (size - control)
    keys = [None] * size
    return Records(range(first, first + size), [2**42] * size, values, headers, keys)


def run(
    console: Console,
    *,
    customers: int = 100_000,
    events: int = 25_000,
    sizes: tuple[int, ...] = (500, 2_000, 5_000),
    repeats: int = 3,
    profile: bool = False,
) -> None:
    """Print a table of both kinds of traffic; with `profile`, also where a step's time goes."""
    settings = load({})
    table = Table(
        title="Pure core, µs of CPU per event (median of runs)",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    ratios = ("step per\ncustomer", "customers\nper event", "changes\nper 1000")
    for column in ("traffic", "batch", *STAGES, "sum", *ratios):
        table.add_column(column, justify="right", no_wrap=True)
    benches = {}
    for name, zipf in (("flat", FLAT), ("hot", HOT)):
        bench = benches[name] = Bench(settings, zipf, customers, events)
        gc.freeze()  # as the segmenter does
        gc.set_threshold(100_000, 20, 20)
        for size in sizes:
            runs = [bench.run(size) for _ in range(repeats)]
            table.add_row(name, str(size), *_cells(runs))
        table.add_section()
    console.print(table)
    if profile:
        for name, bench in benches.items():
            console.print(f"[bold]{name}, batch {sizes[-1]}[/]: by own time (profiled: slower)")
            console.print(
                _profiled(bench, sizes[-1]), markup=False, highlight=False, soft_wrap=True
            )


def _cells(runs: list[Timed]) -> list[str]:
    events, touched = runs[0].events, runs[0].touched
    each = [median(r.seconds[stage] for r in runs) / events * 1e6 for stage in STAGES]
    cells = [f"{us:.2f}" for us in (*each, sum(each), each[-1] * events / touched)]
    return [*cells, f"{touched / events:.2f}", f"{runs[0].outputs['changes'] / events * 1000:.1f}"]


def _profiled(bench: Bench, size: int, lines: int = 30) -> str:
    profile = cProfile.Profile()
    bench.run(size, profile)
    text = io.StringIO()
    stats = pstats.Stats(profile, stream=text)
    stats.strip_dirs().sort_stats("tottime").print_stats(lines)
    return text.getvalue()
