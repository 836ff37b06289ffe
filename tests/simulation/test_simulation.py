"""Whatever dies, freezes, lies or comes back: states, changes and versions are those of the log.

`SIMULATION_SCHEDULES` says how many schedules (default 200, in CI 2,000). A failure names its
seeds: `python -m tests.simulation --seed N` shows one of them, shortened.
"""

import multiprocessing
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor

import pytest

from segstream.testing.memory import columns
from tests.comparison import problems
from tests.oracle import Oracle
from tests.simulation.faults import ANYWHERE, COMMIT, Plan
from tests.simulation.guards import GUARDS
from tests.simulation.schedule import CHUNK, Found, outcome, run, shrunk
from tests.simulation.verdict import replays
from tests.simulation.world import World

COUNT = int(os.environ.get("SIMULATION_SCHEDULES") or (2_000 if os.environ.get("CI") else 200))
CHUNKS = [range(at, min(at + CHUNK, COUNT)) for at in range(0, COUNT, CHUNK)]
PROCESSES = 2


@pytest.fixture(scope="module")
def chunks() -> Iterator[list[Future[Found]]]:
    """All schedules under way, on a few processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        yield [pool.submit(run, seeds) for seeds in CHUNKS]
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("chunk", range(len(CHUNKS)), ids=lambda i: f"{CHUNKS[i].start}…")
def test_no_schedule_violates_anything(chunk: int, chunks: list[Future[Found]]) -> None:
    wrong = chunks[chunk].result().wrong
    told = "\n".join(f"seed {seed}: {'; '.join(texts)}" for seed, texts in wrong.items())
    assert not wrong, f"\n{told}\nagain: python -m tests.simulation --seed {min(wrong)}"


def test_every_fault_was_injected(chunks: list[Future[Found]]) -> None:
    total = sum((chunk.result().injected for chunk in chunks), Counter[str]())
    assert {*ANYWHERE, *COMMIT, "fails"} <= total.keys(), total


def test_a_store_that_goes_back_within_a_record_just_before_it_is_read() -> None:
    """Rare in the other schedules: the offset is the same, only the clock tells."""
    plans = [Plan.of(s, ("store.load",), ("rollback within a record",)) for s in range(100)]
    found = {plan.seed: outcome(plan) for plan in plans}
    assert {seed: wrong for seed, (_, wrong) in found.items() if wrong} == {}
    assert sum(bool(world.injected) for world, _ in found.values()) > 50


@pytest.mark.parametrize("seed", [3, 8])
def test_another_process_has_the_same_trace(seed: int) -> None:
    world, _ = outcome(Plan.of(seed))
    there = subprocess.run(
        [sys.executable, "-m", "tests.simulation", "--seed", str(seed)],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"trace {world.trace:08x}: no violation" in there.stdout


@pytest.mark.parametrize("seed", [*range(5), 8, 18])
def test_the_logs_replay_is_what_the_oracle_says(seed: int) -> None:
    """The expectation of all other schedules, against the brute-force second implementation."""
    world, wrong = outcome(Plan.of(seed))
    assert not wrong
    models = {v: r.model_dump(by_alias=True) for v, r in world.topics.versions.items()}
    for p, replay in enumerate(replays(world)):
        oracle = Oracle(
            world.setting.config,
            partition=p,
            partitions=world.setting.partitions,
            partitioner=world.setting.partitioner,
            models=models,
            features_id=replay.function.features_id,
        )
        for row in zip(*columns(world.log.committed(p)), strict=True):
            offset, appended, value, headers, key = row
            oracle.feed(offset, appended, headers, value, key)
        assert problems(replay, oracle) == [], f"seed {seed}, partition {p}"


def test_there_is_something_to_get_wrong() -> None:
    """Schedules lead to every kind of output, forwarded calls and versions among them."""
    worlds = [outcome(Plan.of(seed))[0] for seed in range(12)]
    topics = {output.topic for world in worlds for output in world.log.outputs}
    assert topics == {"changes", "memberships", "samples", "dead_letters", "events"}
    causes = Counter[str]()
    for world in worlds:
        for meta in world.store.meta.values():
            causes.update(meta.changes)
    assert all(causes.values()), causes
    assert any(world.plan.trained and world.topics.versions for world in worlds)


def test_a_failure_is_shortened() -> None:
    """Two or three faults are left of the many that a plan has, and few records."""
    guard = next(guard for guard in GUARDS if guard.name == "position checked in the write")

    def fails(plan: Plan) -> bool:
        return bool(outcome(plan, guard.world)[1])

    plan = next(plan for plan in map(guard.plan, range(500)) if fails(plan))
    short = shrunk(plan, fails)
    assert fails(short)
    assert len(short.faults) <= 3 < len(plan.faults)
    assert len(World(short).coming) < len(World(plan).coming)
