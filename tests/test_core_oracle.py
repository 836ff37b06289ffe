"""The core computes what docs/semantics.md says: it agrees with the oracle on generated streams.

Outputs in order, Checkpoint, every field of every State, the minute index: all are equal however
the stream is cut. `ORACLE_STREAMS` says how many streams (default 150, in CI 1,000); a failure
names the seeds, and `ORACLE_SEEDS=17,42` runs these alone.
"""

import json
import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from random import Random
from typing import NamedTuple

import pytest

from segstream.core.batch import CAUSES, OUTCOMES
from segstream.core.step import Partition
from tests.comparison import letter_headers, problems
from tests.harness import RETAIL, Run
from tests.oracle import Oracle, Record
from tests.streams import Stream, generate

COUNT = int(os.environ.get("ORACLE_STREAMS") or (1_000 if os.environ.get("CI") else 150))
SEEDS = [int(seed) for seed in os.environ.get("ORACLE_SEEDS", "").split(",") if seed]
SEEDS = SEEDS or list(range(COUNT))
CHUNK = 25
CHUNKS = [SEEDS[at : at + CHUNK] for at in range(0, len(SEEDS), CHUNK)]
PROCESSES = 2

REASONS = (
    "json", "schema", "customer", "alias", "timestamp", "value", "partition", "model", "control",
    "currency", "size",
)  # fmt: skip
RULES = ("clear", "held", "retired")
#: What must have occurred somewhere, or the streams prove less than they seem to.
WANTED = {
    *(f"outcome {outcome}" for outcome in OUTCOMES),
    *(f"cause {cause}" for cause in CAUSES),
    *(f"rule {rule}" for rule in RULES),
    *(f"dead letter {reason}" for reason in REASONS),
    *(f"forwarded, hop {hop}" for hop in (1, 2, 3)),
    "level raised",
    "forgotten and back",
    "sample",
    "sample removed",
    "day marker",
    "membership removed",
    "pending",
    "batches within a record",
}


class Seen(NamedTuple):
    """What a chunk of streams led to: differences by seed, and what occurred."""

    problems: dict[int, list[str]]
    occurred: Counter[str]


def compared(seeds: list[int]) -> Seen:
    """Core and oracle over the streams of these seeds; every third holds disputed records."""
    found = Seen({}, Counter())
    for seed in seeds:
        stream = generate(seed, disputed=seed % 3 == 2)
        try:
            run = core_of(stream, Random(seed))
            wrong = problems(run, oracle_of(stream, run))
        except Exception as error:  # noqa: BLE001 (the seed must be told, whatever it is)
            found.problems[seed] = [repr(error)]
            continue
        if wrong:
            found.problems[seed] = wrong[:10]
        found.occurred.update(occurred(run, stream))
    return found


def core_of(stream: Stream, rng: Random) -> Run:
    """The stream through the core, cut at random, mostly into a few long or many short batches."""
    where = Partition(stream.partition, stream.partitions, stream.partitioner, "customer-events")
    run = Run(stream.config, stream.models, where)
    longest = rng.choice([1, 7, 50, 5_000])
    ticks = rng.choice([[50_000], [50_000], [5, 100, 50_000], [20, 50_000], [1, 50_000]])
    return run.feed(
        stream.records,
        lambda: rng.randint(1, longest),
        lambda: rng.choice(ticks),
    )


def oracle_of(stream: Stream, run: Run) -> Oracle:
    oracle = Oracle(
        stream.config,
        partition=stream.partition,
        partitions=stream.partitions,
        partitioner=stream.partitioner,
        models=stream.models,
        features_id=run.function.features_id,
    )
    for record in stream.records:
        oracle.feed(*record)
    return oracle


def occurred(run: Run, stream: Stream) -> Iterator[str]:
    """Names of what happened in a run, as in WANTED."""
    gone = set()
    for output in run.outputs:
        if output.topic == "dead_letters":
            yield f"dead letter {letter_headers(output.headers)[1]['reason'].decode()}"
        elif output.topic == "events":
            yield f"forwarded, hop {(output.headers[-2][1] or b'').decode()}"
        elif output.topic == "samples":
            marker = (output.key or b"").startswith(b"day-")
            yield "day marker" if marker else "sample" if output.value else "sample removed"
        elif output.topic == "memberships":
            if output.value is None:
                yield "membership removed"
        else:
            change = json.loads(output.value or b"")
            yield f"cause {change['cause']}"
            yield f"rule {change['rule']}"
            if change["cause"] == "forgotten":
                gone.add(output.key)
            elif output.key in gone:
                yield "forgotten and back"
    checkpoint = run.checkpoint
    yield from (f"outcome {name}" for name, number in checkpoint.counts.items() if number)
    if checkpoint.level:
        yield "level raised"
    if run.batches > len(stream.records):
        yield "batches within a record"
    states = run.function.layout.unpack(list(run.states().values()), list(run.states()))
    if states["pending"].any():
        yield "pending"


@pytest.fixture(scope="module")
def chunks() -> Iterator[list[Future[Seen]]]:
    """All chunks under way on a few processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        yield [pool.submit(compared, seeds) for seeds in CHUNKS]
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("chunk", range(len(CHUNKS)), ids=lambda i: f"{CHUNKS[i][0]}…")
def test_core_and_oracle_agree(chunk: int, chunks: list[Future[Seen]]) -> None:
    found = chunks[chunk].result().problems
    told = "\n".join(f"seed {seed}: {'; '.join(wrong)}" for seed, wrong in found.items())
    assert not found, f"\n{told}\nagain: ORACLE_SEEDS={','.join(map(str, found))}"


@pytest.mark.skipif(len(SEEDS) < 100, reason="few streams need not hold everything")
def test_everything_occurred(chunks: list[Future[Seen]]) -> None:
    """The streams are not about nothing."""
    total = sum((chunk.result().occurred for chunk in chunks), Counter[str]())
    assert not WANTED - total.keys(), total


@pytest.mark.parametrize("number", [15, 16, 17, 40])
def test_a_burst_of_one_customer_leaves_the_ids_that_single_batches_leave(number: int) -> None:
    """The ring keeps the last 16 accepted ids, also when a batch brings more."""
    call = {"type": "track", "event": "Order Completed", "userId": "u", "properties": {"total": 1}}
    records = [
        Record(i, 1_800_000_000_000, None, json.dumps({**call, "messageId": f"m-{i}"}).encode())
        for i in range(number + 20)
    ]
    place = Partition(0, 1, "murmur2", "events")
    at_once = Run(RETAIL, {}, place).feed(records[:20]).feed(records[20:])
    singly = Run(RETAIL, {}, place).feed(records, cut=lambda: 1)
    assert at_once.states() == singly.states()
    assert at_once.checkpoint == singly.checkpoint
