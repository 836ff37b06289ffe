"""Bad input against good, in one run: what a record costs that ends in the dead letters.

    python -m benchmarks bad [--servers]

The calls of `traffic`, spoiled in one way each, next to calls as they are; and strays: calls on a
partition that is not their customer's. In memory it is the core alone; with `--servers` one
segmenter between real Kafka and Valkey, transactions included. CPU time is the figure.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from statistics import median
from typing import NamedTuple

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.servers import Tell, stage
from benchmarks.settled import sample
from benchmarks.stages import Bench, frozen
from benchmarks.traffic import FLAT, PARTITIONS, live, people
from consumers.settings import load
from segstream.core.event import Records

Spoil = Callable[[bytes, Random], bytes]
BATCH = 5_000
OUTCOMES = ("valid", "duplicates", "late", "forwarded", "dead_letters", "control")


class Case(NamedTuple):
    """A kind of input. `bad`: the share of it that ends in the dead letters."""

    name: str
    spoil: Spoil
    bad: float = 1.0
    strays: bool = False

    def values(self, good: Sequence[bytes]) -> list[bytes]:
        rng = Random(self.name)
        return [self.spoil(value, rng) for value in good]


class Found(NamedTuple):
    """What was measured of a case; µs of CPU per record."""

    case: Case
    size: float
    microseconds: list[float]


def _with(**changes: object) -> Spoil:
    """Fields changed; a value of ... takes them away."""

    def spoil(value: bytes, _: Random) -> bytes:
        call = {n: v for n, v in {**json.loads(value), **changes}.items() if v is not ...}
        return json.dumps(call, separators=(",", ":")).encode()

    return spoil


def _some(value: bytes, rng: Random) -> bytes:
    """One in a hundred, in any way."""
    return value if rng.random() > 0.01 else rng.choice(BAD).spoil(value, rng)


ORDER = {"event": "Order Completed", "properties": {"total": "12.50", "currency": "GBP"}}
BAD = [
    Case("no JSON", lambda value, _: value[:-2]),
    Case("no text", lambda value, rng: rng.randbytes(len(value))),
    Case("empty", lambda _, __: b""),
    Case("no customer", _with(userId=...)),
    Case("wrong type", _with(type="purchase")),
    Case("wrong id", _with(userId=17)),
    Case("wrong time", _with(timestamp="yesterday")),
    Case("wrong value", _with(**ORDER)),
    Case("10 kB of garbage", lambda _, rng: rng.randbytes(10_000)),
    Case("10 kB nested deep", lambda v, _: b'{"a":%s%s,%s' % (b"[" * 5_000, b"]" * 5_000, v[1:])),
]
CASES = [
    Case("good", lambda value, _: value, 0.0),
    *BAD,
    Case("1 % of it bad", _some, 0.01),
    Case("strays", lambda value, _: value, 0.0, strays=True),
    Case("good, of 10 kB", lambda value, _: b'{"a":"%s",%s' % (b"x" * 10_000, value[1:]), 0.0),
]


def in_memory(customers: int, events: int, repeats: int) -> list[Found]:
    """The core alone: decode, gather, step."""
    bench = Bench(load({}), FLAT, customers, events)
    good = bench.records
    elsewhere = live(people(customers, FLAT), events * PARTITIONS, first=0).on(1)
    strays = [value for _, _, value in elsewhere.records()]
    found = []
    for case in CASES:
        values = case.values(strays if case.strays else [v or b"" for v in good.values])
        found.append((Found(case, _mean(values), []), values))
    frozen()
    for _ in range(repeats):  # round and round: a noisy neighbour disturbs all alike
        for one, values in found:
            part = good.part(0, len(values))
            size = len(part)
            bench.records = Records(
                part.offsets, part.appended, values[:size], part.headers, part.keys
            )
            timed = bench.run(BATCH)
            _check(one.case, size, timed.outputs["dead_letters"], timed.outputs["events"])
            one.microseconds.append(sum(timed.seconds.values()) / size * 1e6)
    return [one for one, _ in found]


def on_servers(customers: int, events: int, repeats: int, tell: Tell) -> list[Found]:
    """One segmenter process, catching up; CPU of the whole process."""
    found = [Found(case, 0.0, []) for case in CASES]
    with (
        tempfile.TemporaryDirectory(prefix="segstream-bench-") as directory,
        stage(load({}), Path(directory), tell) as on,
    ):
        on.settle(sample(FLAT), customers)
        on.start()
        before = on.counted()
        for number in range(repeats):
            for i, (case, _, microseconds) in enumerate(found):
                tell(f"run {number + 1} of {repeats}: {case.name}")
                places, keys, good = zip(*on.coming(events).records(), strict=True)
                values = case.values(good)
                sent_to = [(place + case.strays) % PARTITIONS for place in places]
                on.prepare(zip(sent_to, keys, values, strict=True))
                began = on.cpu()
                on.release()
                expected = sum(before.get(name, 0) for name in OUTCOMES)
                now = on.wait(expected + events * (1 + case.strays), OUTCOMES)
                microseconds.append((on.cpu() - began) / events * 1e6)
                rise = [now[n] - before.get(n, 0) for n in ("dead_letters", "forwarded")]
                _check(case, events, *rise)
                found[i] = Found(case, _mean(values), microseconds)
                before = now
    return found


def _check(case: Case, records: int, letters: int, forwarded: int) -> None:
    """Whether what was measured is what was meant."""
    expected = records * case.bad
    if abs(letters - expected) > expected / 2 or (forwarded > records / 2) != case.strays:
        raise RuntimeError(f"{case.name}: {letters} dead letters, {forwarded} forwarded")


def _mean(values: Sequence[bytes]) -> float:
    return sum(map(len, values)) / len(values)


def show(console: Console, title: str, found: Sequence[Found]) -> None:
    """A table with the rate of each case against that of good input of its size."""
    table = Table(title=title, box=SIMPLE_HEAD)
    table.add_column("input")
    for column in ("bytes", "µs of CPU each", "rate against good", "against good of 10 kB"):
        table.add_column(column, justify="right")
    each = {one.case.name: median(one.microseconds) for one in found}
    for one in found:
        mine = each[one.case.name]
        large = f"{each['good, of 10 kB'] / mine:.0%}" if one.size > 5_000 else ""
        rate = f"{each['good'] / mine:.0%}"
        table.add_row(one.case.name, f"{one.size:,.0f}", f"{mine:.2f}", rate, large)
    console.print(table)
