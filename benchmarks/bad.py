"""Bad input against good, in one run: what a record costs that ends in the dead letters.

    python -m benchmarks bad

The traffic of `stages` with a share of its records spoiled in one way each: bytes that are no
JSON, a call without a customer, a wrong type in a field that is read, and so on. Strays are calls
on a partition that is not their customer's. `python -m benchmarks bad --servers` does the same
between real servers, transactions included.
"""

import gc
import json
from collections.abc import Callable, Sequence
from random import Random
from statistics import median
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.stages import STAGES, Bench, Timed
from benchmarks.traffic import FLAT, PARTITIONS, live, people
from consumers.settings import load
from segstream.core.event import Records

Spoil = Callable[[bytes, Random], bytes]
BATCH = 5_000


def _without(name: str) -> Spoil:
    return lambda value, _: json.dumps(
        {k: v for k, v in json.loads(value).items() if k != name}, separators=(",", ":")
    ).encode()


def _with(**changes: object) -> Spoil:
    return lambda value, _: json.dumps(
        {**json.loads(value), **changes}, separators=(",", ":")
    ).encode()


def _total(value: bytes, _: Random) -> bytes:
    call = json.loads(value)
    call |= {"event": "Order Completed"}
    call["properties"] |= {"total": "12.50"}
    return json.dumps(call, separators=(",", ":")).encode()


KINDS: dict[str, Spoil] = {
    "no JSON": lambda value, _: value[:-2],
    "no text": lambda value, rng: rng.randbytes(len(value)),
    "empty": lambda _, __: b"",
    "no customer": _without("userId"),
    "wrong type": _with(type="purchase"),
    "wrong id": _with(userId=17),
    "wrong time": _with(timestamp="yesterday"),
    "wrong value": _total,
    "10 kB garbage": lambda _, rng: rng.randbytes(10_000),
    "10 kB deep": lambda value, _: b'{"deep":%s%s,%s' % (b"[" * 5_000, b"]" * 5_000, value[1:]),
}


class Case(NamedTuple):
    """`values` take the place of the good ones. `all_bad`: not one of them is an event here."""

    name: str
    values: Sequence[bytes]
    all_bad: bool = True


def cases(good: Sequence[bytes], strays: Sequence[bytes]) -> list[Case]:
    """Good input first; everything else is held against it."""
    found = [Case("good", good, all_bad=False)]
    for name, spoil in KINDS.items():
        rng = Random(name)
        found.append(Case(name, [spoil(value, rng) for value in good]))
    rng, kinds = Random(0), list(KINDS.values())
    mixed = [value if i % 100 else rng.choice(kinds)(value, rng) for i, value in enumerate(good)]
    found.append(Case("1 % of it bad, of all kinds", mixed, all_bad=False))
    return [*found, Case("strays", strays)]


def run(console: Console, *, customers: int, events: int, repeats: int = 3) -> None:
    """Print a table: µs of CPU per record, decode and step, and the rate against good input."""
    bench = Bench(load({}), FLAT, customers, events)
    good = bench.records
    assert all(good.values)
    elsewhere = live(people(customers, FLAT), events * PARTITIONS, first=0).on(1)
    strays = [value for _, _, value in elsewhere.records()][: len(good)]
    plan = cases([value or b"" for value in good.values], strays)
    gc.freeze()  # as the segmenter does
    gc.set_threshold(100_000, 20, 20)
    runs: list[list[Timed]] = [[] for _ in plan]
    for _ in range(repeats):  # round and round: a noisy neighbour disturbs all alike
        for number, case in enumerate(plan):
            size = len(case.values)
            rest = good.part(0, size)
            bench.records = Records(
                rest.offsets, rest.appended, case.values, rest.headers, rest.keys
            )
            runs[number].append(bench.run(BATCH))
    table = Table(title="Bad input against good, pure core (median of runs)", box=SIMPLE_HEAD)
    ends = ("µs of CPU\neach", "rate against\ngood", "dead\nletters", "forwarded")
    for column in ("input", "bytes", *STAGES, *ends):
        table.add_column(column, justify="left" if column == "input" else "right", no_wrap=True)
    base = _microseconds(runs[0])
    for case, timed in zip(plan, runs, strict=True):
        letters, forwarded = (timed[0].outputs[topic] for topic in ("dead_letters", "events"))
        if case.all_bad and letters + forwarded != len(case.values):
            raise RuntimeError(
                f"{case.name}: {letters} + {forwarded} of {len(case.values)} are bad"
            )
        each, mean = _microseconds(timed), sum(map(len, case.values)) / len(case.values)
        stages = [f"{_microseconds(timed, stage):.2f}" for stage in STAGES]
        rate = f"{base / each:.0%}"
        table.add_row(
            case.name,
            f"{mean:,.0f}",
            *stages,
            f"{each:.2f}",
            rate,
            f"{letters:,}",
            f"{forwarded:,}",
        )
    console.print(table)


def _microseconds(runs: list[Timed], *stages: str) -> float:
    """CPU of one record in these stages, or in all."""
    each = [sum(run.seconds[s] for s in stages or STAGES) / run.events for run in runs]
    return median(each) * 1e6
