"""The preset's year of real orders, as lived, through the core and the oracle. `make oracle`

Every call of `retail-year.csv.xz` goes to its customer's partition; each midnight is appended to
all four, the trainer learns the day from the samples of the core, and a version that it publishes
becomes active in every partition right then. The logs that arise go through core and oracle, and
everything is compared: each customer's features on every day, each change, every State at the end.
"""

import multiprocessing
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from consumers.settings import load
from consumers.trainer import training_of
from segstream.core.calendar import DAY
from segstream.core.hash import customer_hash, partitions_of
from segstream.core.model import Model
from segstream.core.output import ms_text
from segstream.core.step import Partition
from segstream.learn import Training
from segstream.shell.files import calls, load_mapping
from segstream.shell.river import CustomerKMeans
from segstream.testing.trainer import MemoryTopics, memory_ports
from segstream.trainer import Trainer
from tests.comparison import checkpoint_problems, output_problems, state_problems
from tests.harness import PRESETS, RETAIL, Run
from tests.oracle import Oracle, Record

PARTITIONS = 4
APPENDED = 1_795_392_000_000  # 2026-11-23T00:00:00Z: the year is replayed long after it was lived
#: Problems that are told per partition; one mistake makes thousands.
TOLD = 20


class Year(NamedTuple):
    """What was lived: per partition a log by days, and the versions in it."""

    days: list[list[list[Record]]]
    models: dict[int, dict[str, Any]]


class Seen(NamedTuple):
    """What a comparison has found, and how much there was to compare."""

    problems: list[str]
    numbers: Counter[str]


def year_training() -> Training:
    """What the trainer learns by default."""
    return training_of(load({}))


def live(training: Training, share: int = 1) -> Year:
    """Live the year with every `share`-th customer."""
    logs = [_Log(_run(p, {})) for p in range(PARTITIONS)]
    topics = MemoryTopics()
    ports, samples = memory_ports(topics, CustomerKMeans, limit=10**9)
    topics.assign(samples)
    trainer = Trainer(training, ports)
    for midnight, day in _days(share):
        for partition, value in day:
            logs[partition].append(value)
        for log in logs:
            log.control("clock", f'{{"time":"{ms_text(midnight)}"}}')
            topics.samples += log.work()
        known = set(topics.versions)
        trainer.turn()
        for version in sorted(topics.versions.keys() - known):
            record = topics.versions[version]
            for log in logs:
                log.run.models = {**log.run.models, version: Model(record)}
                log.control("model", f'{{"version":{version},"digest":"{record.digest}"}}')
        for log in logs:
            log.days.append([])
    dumped = {v: r.model_dump(mode="json") for v, r in topics.versions.items()}
    return Year([log.days for log in logs], dumped)


class _Log:
    """One partition's log, and the core that reads it."""

    def __init__(self, run: Run) -> None:
        self.run, self.days = run, [list[Record]()]
        self._waiting: list[Record] = []
        self._next = 0

    def append(self, value: bytes, headers: list[tuple[str, bytes]] | None = None) -> None:
        record = Record(self._next, APPENDED, headers, value)
        self._waiting.append(record)
        self.days[-1].append(record)
        self._next += 1

    def control(self, kind: str, data: str) -> None:
        self.append(data.encode(), [("ce_type", f"segstream.{kind}".encode())])

    def work(self) -> list[tuple[bytes | None, bytes | None]]:
        """Compute what was appended; the samples it led to."""
        self.run.outputs.clear()
        self.run.feed(self._waiting)
        self._waiting.clear()
        return [(o.key, o.value) for o in self.run.outputs if o.topic == "samples"]


def _days(share: int) -> Iterator[tuple[int, list[tuple[int, bytes]]]]:
    """(the midnight that ends it, its calls with their partitions), days without calls too."""
    file = calls(PRESETS / "retail-year.csv.xz", load_mapping(PRESETS / "retail-year.toml"))
    passed: int | None = None
    for number, found in groupby(file, key=lambda call: (call[1] or 0) // DAY):
        for empty in range(number if passed is None else passed + 1, number):
            yield (empty + 1) * DAY, []
        passed = number
        yield (
            (number + 1) * DAY,
            [
                (_partition(line, raw), value)
                for line, _, raw, value in found
                if (line if raw is None else customer_hash(raw)) % share == 0
            ],
        )


def _partition(line: int, raw: str | None) -> int:
    """As replay does: lines of nobody go round."""
    if raw is None:
        return line // PARTITIONS % PARTITIONS
    return int(partitions_of([raw.encode()], PARTITIONS, "murmur2")[0])


def _run(partition: int, models: dict[int, dict[str, Any]]) -> Run:
    where = Partition(partition, PARTITIONS, "murmur2", "customer-events")
    return Run(RETAIL, models, where)


# --- compare --------------------------------------------------------------------------------


def compared(partition: int, year: Year) -> Seen:
    """One partition's log through both, in batches cut at random."""
    run, rng = _run(partition, year.models), random.Random(partition)
    oracle = Oracle(
        RETAIL,
        partition=partition,
        partitions=PARTITIONS,
        models=year.models,
        features_id=run.function.features_id,
    )
    problems: list[str] = []
    numbers: Counter[str] = Counter()
    days = year.days[partition]
    for week in range(0, len(days), 7):
        records = [record for day in days[week : week + 7] for record in day]
        run.outputs.clear()
        oracle.outputs.clear()
        run.feed(records, lambda: rng.randint(1, 5_000), lambda: rng.choice([1_000, 50_000]))
        for record in records:
            oracle.feed(*record)
        numbers["records"] += len(records)
        numbers.update(output.topic for output in run.outputs)
        problems += output_problems(run.outputs, oracle.outputs)
        if len(problems) > TOLD:
            break
    problems += checkpoint_problems(run, oracle)
    problems += state_problems(run, oracle)
    numbers.update({f"outcome {name}": n for name, n in run.checkpoint.counts.items()})
    numbers.update({f"cause {name}": n for name, n in run.checkpoint.changes.items()})
    numbers["customers at the end"] = run.checkpoint.customers
    return Seen([f"partition {partition}: {p}" for p in problems[:TOLD]], numbers)


def compare(year: Year, processes: int = 2) -> Seen:
    """All partitions."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        parts: Sequence[Seen] = list(pool.map(compared, range(PARTITIONS), [year] * PARTITIONS))
    numbers = sum((part.numbers for part in parts), Counter[str]())
    numbers["versions"] = len(year.models)
    return Seen([problem for part in parts for problem in part.problems], numbers)


def small_training() -> Training:
    """For a part of the customers."""
    return replace(year_training(), first_customers=40, moved=0)


def main() -> int:
    began = time.monotonic()
    year = live(year_training())
    lived = time.monotonic()
    print(f"lived in {lived - began:.0f} s; {len(year.models)} versions", flush=True)
    seen = compare(year)
    print(f"compared in {time.monotonic() - lived:.0f} s")
    for name, number in sorted(seen.numbers.items()):
        print(f"{name:>24} {number:>10,}")
    print("\n".join(seen.problems) or "Core and oracle agree in everything.")
    return 1 if seen.problems else 0


if __name__ == "__main__":
    sys.exit(main())
