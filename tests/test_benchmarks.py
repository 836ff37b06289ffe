"""The benchmarks' own arithmetic: percentiles, matching, settled customers, targets, the page."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import check, performance
from benchmarks.latency import matched, percentile
from benchmarks.machine import aside, cores
from benchmarks.memory import grown
from benchmarks.settled import Settled, compute, records, sample
from benchmarks.stages import PARTS, Bench
from benchmarks.targets import TARGETS, Target, missed
from benchmarks.traffic import FLAT, PARTITIONS, START_MS, live
from consumers.settings import load
from segstream.core.hash import customer_hash, level_of
from segstream.core.model import Model
from segstream.core.row import People
from segstream.core.step import Function, Partition
from segstream.ports import Write
from segstream.testing.memory import MemoryStore

DOCS = Path(__file__).parents[1] / "docs"
FIXTURE = Path(__file__).parent / "data" / "performance.json"
SIZE = 300


class TestPercentile:
    @given(st.lists(st.integers(0, 50), min_size=1, max_size=300), st.integers(1, 99))
    def test_is_the_least_value_that_covers_the_share(self, values: list[int], part: int) -> None:
        ordered = sorted(map(float, values))
        found = percentile(ordered, part / 100)
        if len(ordered) * (100 - part) < 100:
            assert found is None
            return
        covering = [v for v in ordered if 100 * sum(w <= v for w in ordered) >= part * len(ordered)]
        assert found == covering[0]

    def test_of_too_few_there_is_none(self) -> None:
        assert percentile([], 0.5) is None
        assert percentile([1.0] * 999, 0.999) is None
        assert percentile([*[1.0] * 999, 2.0], 0.999) == 1.0


@pytest.mark.skipif(cores() is None, reason="one core, or none that can be chosen")
@pytest.mark.parametrize("number", [1, 2])
def test_segmenters_and_servers_never_share_a_core(number: int) -> None:
    """Also those that are started while the rest stands aside, as all of a stage are."""
    before = cores(number)
    with aside():
        seats, others = cores(number) or (set(), set())
        assert (seats, others) == before
        assert os.sched_getaffinity(0).isdisjoint(seats) or number > 1
        assert seats.isdisjoint(others)
        assert others
    assert cores(number) == before


def test_a_change_is_matched_to_the_event_that_it_names() -> None:
    due = {7: 10.0, 8: 10.5, 9: 11.0}
    arrived: list[tuple[float, dict[str, str] | None]] = [
        (11.25, {"id": "msg-000000000009", "name": "Product Added"}),
        (10.75, {"id": "msg-000000000008", "name": "Product Added"}),
        (10.25, {"id": "msg-000000000007", "name": "Product Added"}),  # of the warm-up
        (11.0, {"id": "msg-000000000006", "name": "Product Added"}),  # of an earlier part
        (11.0, None),  # no event has led to it
    ]
    assert matched(arrived, due, 10.5) == ([250.0, 250.0], 2)


def test_growth_counts_from_a_fifth_of_the_time_on() -> None:
    readings = [{"seconds": s, "segmenter": float(mb)} for s, mb in ((10, 50), (20, 90), (100, 97))]
    assert grown(readings) == {"segmenter": 7.0}


class TestSettled:
    def test_copies_are_customers_of_their_own(self) -> None:
        """Their names, minutes and levels are their own; the rest is that of their rank."""
        settings, made = load({}), sample(FLAT, SIZE, 6)
        settled = Settled.of(made, 4 * SIZE, PARTITIONS)
        layout = Function(settings.definition).layout
        seen = 0
        for partition in range(PARTITIONS):
            outcomes = list(settled.outcomes(settings, partition, 5))
            checkpoint = outcomes[-1].checkpoint
            assert checkpoint.position == (5, START_MS)
            writes = {c: blob for outcome in outcomes for c, blob in outcome.writes.items()}
            customers = list(writes)
            states = layout.unpack(list(writes.values()), customers)
            assert states["hash"].tolist() == [customer_hash(c) for c in customers]
            ranks = np.flatnonzero(settled.who.partition == partition)
            assert (states["counts"] == made.states["counts"][ranks // 4]).all()
            capacity = settings.definition.panel.size // PARTITIONS
            people = People([], states[:0], np.zeros(0, bool), [0] * 65, 0, capacity)
            for customer in customers:
                people.birth(level_of(customer_hash(customer)))
            assert checkpoint.born == tuple(people.born)
            assert checkpoint.level == people.level
            assert sum(checkpoint.segments.values()) == checkpoint.customers == len(customers)
            indexed = [pair for outcome in outcomes for pair in outcome.indexed]
            assert indexed == [(customer_hash(c) % 1_440, c) for c in customers]
            seen += len(customers)
        assert seen == 4 * SIZE

    def test_most_of_what_comes_changes_nothing(self) -> None:
        """Nobody enters, nothing is late or known already; some customers move on."""
        settings, made = load({}), sample(FLAT, SIZE)
        settled = Settled.of(made, 4 * SIZE, 1)
        function, where = Function(settings.definition), Partition(0, 1, "murmur2", "events")
        one = settings.model_copy(
            update={"topics": settings.topics.model_copy(update={"partitions": 1})}
        )
        store, there = MemoryStore(), None
        for outcome in settled.outcomes(one, 0, 0):
            assert store.write([Write(0, there, outcome)])
            there = outcome.checkpoint.position
        coming = live(settled.who, 3_000, first=made.sent, start=START_MS).records()
        models = {made.record.model: Model(made.record)}
        compute(function, where, models, store, records([value for _, _, value in coming], 0))
        after = store.meta[0]
        assert after.counts["valid"] == 3_000
        assert not any(after.changes[c] for c in ("first", "time", "model", "forgotten"))
        assert 0.005 < after.changes["behaviour"] / 3_000 < 0.03
        assert after.customers == 4 * SIZE


def test_every_part_of_a_step_is_timed() -> None:
    bench = Bench(load({}), FLAT, 4 * SIZE, 400, sample(FLAT, SIZE, 6))
    timed = bench.run(100)
    assert timed.parts.keys() == PARTS.keys()
    assert all(seconds > 0 for seconds in timed.parts.values())
    assert timed.events == 400


class TestGuard:
    def test_a_loss_beyond_the_limit_is_told(self) -> None:
        assert check.lost({"step": 1_000}, {"step": 1_150}) == []
        (line,) = check.lost({"step": 1_000, "decode": 10}, {"step": 1_151, "decode": 3})
        assert line.startswith("step takes 1,151 instructions, 15% more")

    def test_instructions_are_those_of_the_process(self) -> None:
        log = "==12== I   refs:      1,234\n==123== \n==123== I   refs:      5,678,901\n"
        assert check.instructions(log, 123) == 5_678_901
        with pytest.raises(RuntimeError, match="has not counted process 13"):
            check.instructions(log, 13)

    def test_the_baseline_is_there(self) -> None:
        found = json.loads(check.BASELINE.read_text())
        assert found["instructions"].keys() == {"decode", "step", "tick"}


class TestPage:
    def test_it_is_that_of_the_figures(self) -> None:
        """After a change of the page: `python -m benchmarks page`."""
        found = json.loads((DOCS / "performance.json").read_text())
        expected = performance.page(performance.with_peers(found, DOCS))
        assert (DOCS / "performance.md").read_text() == expected

    def test_a_missed_target_is_bold_and_told(self) -> None:
        found = fixture()
        caught_up = found["end_to_end"][0]
        caught_up["median"]["us"] = 6.04
        assert "| ≤ 6.00 µs | **6.04 µs** |" in performance.page(found)
        assert any(line.startswith("CPU of a segmenter") for line in missed(found))
        caught_up["median"]["us"] = 5.96
        assert "| ≤ 6.00 µs | 5.96 µs |" in performance.page(found)
        assert not any(line.startswith("CPU of a segmenter") for line in missed(found))

    def test_what_was_not_measured_is_no_figure(self) -> None:
        bare = {key: fixture()[key] for key in ("command", "date", "machine", "versions")}
        text = performance.page(bare)
        assert text.count("| – |") == len(TARGETS)
        assert missed(bare) == []

    def test_peers_are_taken_from_their_file(self, tmp_path: Path) -> None:
        peer = {
            "peer": "streams", "tuned": "tuned", "traffic": "flat", "delivery": "exactly once",
            "us_cpu": 12.3, "us_cpu_of_rounds": [12.5, 12.3, 11.9], "p50_ms": 573.0, "p99_ms": None,
        }  # fmt: skip
        results = {"date": "2026-11-26T00:00:00Z", "results": [peer, {"failed": "no Java"}]}
        (tmp_path / "peers.json").write_text(json.dumps(results))
        performance.write(fixture(), tmp_path)
        line = "| streams, tuned | flat | exactly once | 12.3 | 11.9 to 12.5 | 573 | – |"
        assert line in (tmp_path / "performance.md").read_text()
        assert "peers" not in json.loads((tmp_path / "performance.json").read_text())


@pytest.mark.parametrize(
    ("value", "is_missed"), [(0.89, True), (0.9, False), (1.1, False), (1.11, True), (None, False)]
)
def test_a_target_may_have_two_bounds(value: float | None, is_missed: bool) -> None:
    target = Target("x", lambda found: found["x"], 0.9, 1.1, "%.1f")
    assert target.missed({"x": value}) == is_missed
    assert target.wanted() == "≥ 0.9, ≤ 1.1"


def fixture() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FIXTURE.read_text())
    return found
